"""What happens to who publishes: trainers die at every step, race each other and an operator, and do with their files what they like."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import Any

from genlock.coordinator import Fleet, GenlockError
from genlock.coordinator.calls import keys_of

from .checkpoints import write
from .fault import Fault
from .faults_network import DARK_LEASES, drop
from .faults_workers import SLEEP_LEASES, more_and_fewer, stop_one
from .history import Proposal
from .orders import STEPS, Order
from .stand import NotStruck, Stand

#: Seconds that a candidate may take that nobody can get ready for.
SHORT_S = 1.0
#: Publishes of each side of a race.
ROUNDS = 3
#: Seconds until a load has begun.
LOAD_S = 10.0


def _dies(step: str) -> Fault:
    """The next trainer finds the lock taken, a candidate in work, or a commit that nobody has heard of."""

    def act(stand: Stand, chance: random.Random) -> str:
        trainer = stand.new_trainer(f"dies-{len(stand.proposals)}")
        with stand.nobody_publishes():
            found = stand.publish_good(trainer, die=step, timeout=20.0)
            trainer.end()
            with (
                stand.server.client() as client
            ):  # nobody has to wait here for the half minute after which it is free by itself
                client.pexpire(lock_of("m"), 1)
        if found.outcome != "died":
            raise NotStruck(f"the publish was {found.outcome}")
        return found.outcome

    return Fault(f"trainer killed {step.replace(':', ' ')}", act)


def _stops(step: str) -> Fault:
    """The trainer sleeps for longer than everybody's lease, and goes on as if nothing had been."""

    def act(stand: Stand, chance: random.Random) -> str:
        trainer = stand.new_trainer(f"stops-{len(stand.proposals)}")
        with stand.nobody_publishes():
            terms = {"stop": step, "timeout": 20.0}
            thread = threading.Thread(target=lambda: stand.publish_good(trainer, **terms), name="chaos-stopped")
            thread.start()
            trainer.wake_after(SLEEP_LEASES * stand.lease_s)
            thread.join()
        trainer.end()
        return stand.proposals[-1].outcome

    return Fault(f"trainer stopped {step.replace(':', ' ')}", act)


def lock_of(model: str) -> str:
    """The key of its publish lock."""
    return keys_of("chaos")[0].removesuffix("fleet") + f"lock:{model}"


def _race(stand: Stand, chance: random.Random) -> str:
    """Two trainers publish and an operator rolls back, all at once."""
    outcomes: list[str] = []
    trainers = [stand.new_trainer(f"race-{len(stand.proposals)}-{n}") for n in range(3)]

    def publish(number: int) -> None:
        for _ in range(ROUNDS):
            outcomes.append(stand.publish_good(trainers[number], timeout=5.0, now=number == 1).outcome)

    def roll_back() -> None:
        for _ in range(ROUNDS):
            outcomes.append(trainers[2].do(Order(timeout=5.0)).outcome)

    _together(lambda: publish(0), lambda: publish(1), roll_back)
    for trainer in trainers:
        trainer.end()
    return ", ".join(sorted(outcomes))


def _together(*actions: Callable[[], None]) -> None:
    threads = [threading.Thread(target=action, name="chaos-race") for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# --- calls of operators -------------------------------------------------------------------------------------------------


def _roll_back(stand: Stand, chance: random.Random) -> None:
    with stand.nobody_publishes():
        stand.trainer.do(Order(timeout=5.0))


def _abort(stand: Stand, chance: random.Random) -> None:
    """Of a candidate that is being loaded."""
    with publish_held(stand, timeout=5.0):
        _operate(stand, lambda fleet: fleet.abort("m"))


def _settle(stand: Stand, chance: random.Random) -> None:
    """A candidate that nobody gets ready for in time."""
    with stand.nobody_publishes(), held(stand):
        stand.publish_good(timeout=SHORT_S, wait=False)
        time.sleep(SHORT_S + stand.lease_s)


@contextmanager
def held(stand: Stand) -> Iterator[None]:
    """Loads wait in this block."""
    for path in stand.hold.parent.glob("loading-*"):  # one that was written when the last block ended
        path.unlink()
    stand.hold.touch()
    try:
        yield
    finally:
        stand.hold.unlink()
        for path in stand.hold.parent.glob("loading-*"):
            path.unlink()


@contextmanager
def publish_held(stand: Stand, **terms: Any) -> Iterator[Held]:
    """In this block a good checkpoint is being loaded, and does not get ready. Afterwards its publish has ended."""
    found = Held()
    with stand.nobody_publishes():
        thread = threading.Thread(target=lambda: found.publish(stand, terms), name="chaos-publish")
        try:
            with held(stand):
                thread.start()
                found.pid = _await_load(stand)
                yield found
        finally:
            thread.join()


class Held:
    """A publish that waits: a process that loads it; and afterwards what became of it."""

    pid: int
    proposal: Proposal

    def publish(self, stand: Stand, terms: Mapping[str, Any]) -> None:
        self.proposal = stand.publish_good(**terms)


def _await_load(stand: Stand) -> int:
    until = time.monotonic() + LOAD_S
    while time.monotonic() < until:
        for path in stand.hold.parent.glob("loading-*"):
            return int(path.name.partition("-")[2])
        time.sleep(0.005)
    raise RuntimeError(f"nobody loads after {LOAD_S:g} s")


def _pin(stand: Stand, chance: random.Random) -> None:
    _operate(stand, lambda fleet: fleet.pin("m", why="chaos"))
    _operate(stand, lambda fleet: fleet.unpin("m"))


def _refresh(stand: Stand, chance: random.Random) -> None:
    _operate(stand, lambda fleet: fleet.refresh("m", timeout=5.0))


def _clear(stand: Stand, chance: random.Random) -> None:
    _operate(stand, lambda fleet: fleet.clear(timeout=5.0))


def _operate(stand: Stand, act: Callable[[Fleet], object]) -> None:
    """As an operator, on the trainers' line."""
    environment = {name: value for name, value in stand.trainer_environment.items() if name.startswith("GENLOCK_")}
    with closing(Fleet.from_env(environ=environment)) as fleet, suppress(GenlockError):
        act(fleet)


def _behind(stand: Stand, chance: random.Random) -> None:
    """One service has heard of a commit that the other has not; the server forgets it while only the other is there. Who knows better
    finds an open fleet behind it, and calls `reopen`."""
    first, second = (stand.proxies[name] for name in sorted(stand.services)[:2])
    with stand.nobody_publishes():
        first.block()
        stand.publish_good(timeout=5.0)  # rejected: two members that were waited for have died
        stand.publish_good(timeout=5.0)
        second.block()
        with stand.server.client() as client:
            client.flushall()
        first.unblock(late=False)
        stand.await_open()
        second.unblock(late=False)
        stand.over()
        time.sleep(DARK_LEASES * stand.lease_s)


# --- files --------------------------------------------------------------------------------------------------------------


def _file(what: str, do: Callable[[Stand], None]) -> Fault:
    """The trainer's own file, while workers load what it has published."""

    def act(stand: Stand, chance: random.Random) -> None:
        with publish_held(stand, timeout=10.0):
            do(stand)

    return Fault(f"file {what} during a load", act)


def _overwrite(stand: Stand) -> None:
    path = stand.folder / "trainer-t" / "model.safetensors"
    for size in range(0, 9000, 300):
        path.write_bytes(b"\0" * size)


def _replace(stand: Stand) -> None:
    path = stand.folder / "trainer-t" / "model.safetensors"
    write(path.with_name("other"), 9_999_999).replace(path)


def _delete(stand: Stand) -> None:
    (stand.folder / "trainer-t" / "model.safetensors").unlink()


def _damage_store(stand: Stand, chance: random.Random) -> str:
    """What was staged loses a bit before anybody has loaded it; who loads it sees that its digest differs (R13)."""

    def damage() -> None:
        objects = [path for path in (stand.folder / "store" / "objects").rglob("*") if path.is_file()]
        newest = max(objects, key=lambda path: path.stat().st_ctime_ns)
        newest.chmod(0o644)
        data = bytearray(newest.read_bytes())
        data[-5] ^= 1
        newest.write_bytes(data)

    with stand.nobody_publishes():
        stand.proxies["trainers"].on_call("propose", damage)
        outcome = stand.publish_good(timeout=SHORT_S).outcome
    if outcome == "committed":
        raise RuntimeError("what was damaged was committed")
    return outcome


def _worker_dies_loading(stand: Stand, chance: random.Random) -> str:
    with publish_held(stand, timeout=10.0) as found, suppress(ProcessLookupError):
        os.kill(found.pid, signal.SIGKILL)
    return str(found.pid)


TRAINERS = (
    *(_dies(step) for step in STEPS),
    *(_stops(step) for step in STEPS),
    Fault("two trainers and a rollback at once", _race),
    Fault("worker killed while it loads the candidate", _worker_dies_loading, kills=True),
    _file("overwritten in place", _overwrite),
    _file("replaced", _replace),
    _file("deleted", _delete),
    Fault("object of the store damaged before it is loaded", _damage_store),
)
OPERATORS = (
    drop("rollback", _roll_back),
    drop("abort", _abort),
    drop("settle", _settle),
    drop("pin", _pin),
    drop("unpin", _pin),
    drop("task", _refresh),
    drop("evict", stop_one),
    drop("leave", more_and_fewer, kills=True),
    drop("reopen", _behind, loses=True, forgets=True),
    Fault("fleet-wide clear", _clear),
)
