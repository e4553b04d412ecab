"""The figures that have to stay within a limit, measured on a fleet with the usual lease of 3 s."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from .fault import Fault
from .faults_trainers import publish_held
from .stand import Measure, Plan, Stand

#: The lease that fleets have unless somebody says otherwise.
LEASE_S = 3.0
#: Seconds that the server is gone, and that throughput is measured before and after.
GONE_S, BESIDE_S = 60.0, 10.0
#: Seconds for which a candidate is prepared at most.
PREPARE_S = 30.0


def usual(stack: object, folder: Path, pause_s: float = 0.012) -> Stand:
    """Data survives a restart; two hosts, of which the second has one worker: two that die in one flip count as its victims (R13)."""
    plans = (Plan("a", 3), Plan("b", 1))
    return Stand(
        folder, plans=plans, lease_s=LEASE_S, persistence="everysec", program="redis", pause_s=pause_s, load_s=0.0
    )


def busy(stack: object, folder: Path) -> Stand:
    """The same, with clients that ask again at once."""
    return usual(stack, folder, pause_s=0.0)


# --- a worker that dies ---------------------------------------------------------------------------------------------------


def _host_dies(*, is_patient: bool) -> Fault:
    """Nobody reports it: its worker is evicted when it has been silent for a lease."""

    def act(stand: Stand, chance: random.Random) -> str:
        stand.struck = "b"
        victim = stand.services[stand.struck]
        delay_s = _delay_s(stand, victim.kill_all, wait=is_patient)
        who = "with the publisher waiting" if is_patient else "with nobody waiting"
        leases = round(delay_s / stand.lease_s, 2)
        limit = 1.2 if is_patient else 1.5
        stand.measures.append(
            Measure(what=f"commit after a host died, {who}", value=leases, limit=limit, unit="leases")
        )
        victim.start()
        victim.wait()
        return f"{delay_s:.2f} s"

    return Fault(f"host died in a flip, {'publisher waiting' if is_patient else 'nobody waiting'}", act, kills=True)


def _worker_dies(stand: Stand, chance: random.Random) -> str:
    """gunicorn's arbiter reports it; how much longer the commit takes than when nobody dies."""
    stand.struck = "a"
    victim = chance.choice(stand.services[stand.struck].pids)
    usual_s = _delay_s(stand, lambda: None, wait=True)
    delay_s = _delay_s(stand, lambda: os.kill(victim, signal.SIGKILL), wait=True)
    what, value = "delay of a commit by a worker that died under gunicorn", round(1000 * (delay_s - usual_s))
    stand.measures.append(Measure(what=what, value=value, limit=100, unit="ms"))
    return f"{1000 * delay_s:.0f} ms, {1000 * usual_s:.0f} ms without"


def _delay_s(stand: Stand, die: Callable[[], object], *, wait: bool) -> float:
    """From a death in the middle of PREPARING, when the others may go on, to the commit."""
    with publish_held(stand, timeout=PREPARE_S, wait=wait) as held:
        died = time.monotonic()
        die()
    found = held.proposal
    if found.outcome == "committed":
        return found.ended - died
    with closing(stand.new_fleet()) as fleet:
        until = time.monotonic() + PREPARE_S
        while fleet.model("m").version != found.version:
            if time.monotonic() > until:
                raise RuntimeError(f"{found} is not committed after {PREPARE_S:g} s")
            time.sleep(0.005)
    return time.monotonic() - died


# --- a server that is away ------------------------------------------------------------------------------------------------


def _restart(stand: Stand, chance: random.Random) -> None:
    answered = stand.server.restart()
    stand.over()
    stand.measures.append(stand.opened_after(answered))


def _gone(stand: Stand, chance: random.Random) -> str:
    """For a minute; who publishes and how fast answers come before and after is compared with the minute, without its first lease."""
    with stand.nobody_publishes():
        time.sleep(BESIDE_S)
        stand.server.kill()
        gone = time.monotonic()
        with stand.dark():
            time.sleep(GONE_S)
        back = time.monotonic()
        stand.server.start()
        stand.over()
        stand.await_open()
        stand.rest(time.monotonic())
        rested = time.monotonic()
        time.sleep(BESIDE_S)
    during = _rate(stand, gone + stand.lease_s, back)
    beside = (_rate(stand, gone - BESIDE_S, gone) + _rate(stand, rested, rested + BESIDE_S)) / 2
    slower = Measure(
        what="time per request with the server gone", value=round(beside / during, 3), limit=1 / 0.95, unit="×"
    )
    stand.measures.append(slower)
    return f"{during:.0f} requests/s with the server gone, {beside:.0f} before and after"


def _rate(stand: Stand, since: float, until: float) -> float:
    """Answers a second."""
    return sum(1 for answer in list(stand.answers) if answer.generation and since <= answer.end < until) / (
        until - since
    )


DEATHS = (
    _host_dies(is_patient=True),
    _host_dies(is_patient=False),
    *(Fault("worker killed in a flip", _worker_dies, kills=True),) * 3,
    Fault("server killed and restarted, lease 3 s", _restart),
)
GONE = (Fault("server gone for a minute", _gone),)
