"""What happens to workers: they die, they stop for longer than their lease, and gunicorn replaces them."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress

from .fault import Fault
from .service import Service
from .stand import Stand

#: Seconds until gunicorn has as many workers as it should.
RESTART_S = 30.0
#: Leases that a stopped worker sleeps: it wakes up with a lease that has run out, and was evicted meanwhile.
SLEEP_LEASES = 2


def _some(stand: Stand, chance: random.Random) -> Service:
    """The one that is struck."""
    stand.struck = chance.choice(sorted(stand.services))
    return stand.services[stand.struck]


def _kill(stand: Stand, chance: random.Random) -> str:
    service = _some(stand, chance)
    pid = chance.choice(service.pids)
    os.kill(pid, signal.SIGKILL)
    _await_other(service, {pid})
    return f"{pid} of {service.name}"


def _kill_all_workers(stand: Stand, chance: random.Random) -> str:
    service = _some(stand, chance)
    old = set(service.pids)
    for pid in old:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _await_other(service, old)
    return f"all of {service.name}"


def _await_other(service: Service, old: set[int]) -> None:
    """Until none of the old ones is there, and as many as there should be."""

    def replaced() -> bool:
        pids = set(service.pids)
        return not pids & old and len(pids) == service.workers

    service.wait_for(replaced, RESTART_S, "its workers are replaced")


def stop_one(stand: Stand, chance: random.Random) -> str:
    service = _some(stand, chance)
    pid = chance.choice(service.pids)
    _asleep([pid], SLEEP_LEASES * stand.lease_s)
    return f"{pid} of {service.name}"


def _stop_service(stand: Stand, chance: random.Random) -> str:
    service = _some(stand, chance)
    _asleep(service.pids, SLEEP_LEASES * stand.lease_s)
    return f"all of {service.name}"


def _stop_all(stand: Stand, chance: random.Random) -> str:
    pids = [pid for service in stand.services.values() for pid in service.pids]
    _asleep(pids, SLEEP_LEASES * stand.lease_s * (0.3 + chance.random()))
    return f"all {len(pids)}"


def _asleep(pids: list[int], seconds: float) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def _host_dies(stand: Stand, chance: random.Random) -> str:
    service = _some(stand, chance)
    service.kill_all()
    service.start()
    service.wait()
    return service.name


def _term(stand: Stand, chance: random.Random) -> str:
    service = _some(stand, chance)
    service.end()
    service.start()
    service.wait()
    return service.name


def _hup(stand: Stand, chance: random.Random) -> str:
    service = _some(stand, chance)
    old = set(service.pids)
    service.signal(signal.SIGHUP)
    _await_other(service, old)
    return service.name


def more_and_fewer(stand: Stand, chance: random.Random) -> str:
    service = _some(stand, chance)
    service.workers += 1
    service.signal(signal.SIGTTIN)
    service.wait_for(lambda: len(service.pids) == service.workers, RESTART_S, "it has one worker more")
    time.sleep(chance.random())
    service.workers -= 1
    service.signal(signal.SIGTTOU)
    service.wait_for(lambda: len(service.pids) == service.workers, RESTART_S, "it has one worker fewer")
    return service.name


WORKERS = (
    Fault("worker killed", _kill, kills=True),
    Fault("all workers of a service killed", _kill_all_workers, kills=True),
    Fault("worker stopped for two leases", stop_one),
    Fault("all workers of a service stopped for two leases", _stop_service),
    Fault("every worker stopped", _stop_all),
)
#: Each takes seconds, because Python and torch start again.
GUNICORN = (
    Fault("host died: gunicorn and its workers", _host_dies, kills=True),
    Fault("gunicorn TERM, and started again", _term, kills=True),
    Fault("gunicorn HUP", _hup, kills=True),
    Fault("gunicorn TTIN, TTOU", more_and_fewer, kills=True),
)
