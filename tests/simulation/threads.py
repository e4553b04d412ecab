"""Threads in virtual time: ordinary code that waits, sleeps and starts threads of its own runs here as it does in a process, one switch at
a time, so that the real publisher is simulated and not a copy of it.

A thread is a greenlet whose parent is the simulation. It hands over what it waits for: a call to the server, or time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import greenlet
from genlock.coordinator import link, lock, publish, task
from genlock.coordinator.calls import Call
from genlock.coordinator.manifest import Artifact, Manifest
from genlock.coordinator.reply import Epoch, Reply
from network import Connection

if TYPE_CHECKING:
    from trainer import Trainer

#: Seconds that a call of a trainer is waited for (registry.CALL_TIMEOUT_S).
TIMEOUT_S = 0.5
#: Leases until the lock of a trainer that died is free; the half minute of real ones is longer than what is simulated.
LOCK_LEASES = 2.0


class Thread(greenlet.greenlet):
    """One thread of a trainer. Nothing of it runs any more once its process is dead."""

    def __init__(self, process: Trainer, target: Callable[[], None]) -> None:
        now = greenlet.getcurrent()
        super().__init__(self._main, now.parent if isinstance(now, Thread) else now)
        self.process, self._target = process, target
        self.connection = Connection()
        self._turn = 0  # what wakes an earlier turn is too late

    def _main(self, _: object = None) -> None:
        self._target()

    def begin(self) -> None:
        self.process.world.at(0.0, partial(self._wake, self._turn, None))

    def _wake(self, turn: int, reply: Reply | None) -> None:
        if turn == self._turn and not self.process.is_dead and not self.dead:
            self._turn += 1
            self.switch(reply)

    # --- what the code in it does ------------------------------------------------------------------------------------

    def _suspend(self) -> Reply | None:
        found: Reply | None = self.parent.switch()
        return found

    def sleep(self, seconds: float) -> None:
        self._check()
        self.process.world.at(max(0.0, seconds) / self.process.rate, partial(self._wake, self._turn, None))
        self._suspend()

    def exchange(self, call: Call, epoch: Epoch) -> Reply | None:
        """The reply; None: there was none in time, and the connection is given up."""
        self._check()
        wake = partial(self._wake, self._turn)
        self.process.world.network.send(
            self.process,
            call,
            epoch,
            self.connection,
            timeout_s=TIMEOUT_S / self.process.rate,
            replied=wake,
            failed=lambda: wake(None),
            late=lambda reply: None,
        )
        reply = self._suspend()
        if reply is None:
            self.connection = Connection()
        return reply

    def _check(self) -> None:
        """A process that was killed does nothing more, not even at the end of its blocks."""
        if self.process.is_dead:
            raise greenlet.GreenletExit


def here() -> Thread:
    """The thread that runs now."""
    found = greenlet.getcurrent()
    assert isinstance(found, Thread)
    return found


class Event:
    """Of threading, as far as it is used."""

    def __init__(self) -> None:
        self._is_set = False
        self._waits: list[tuple[Thread, int]] = []

    def set(self) -> None:
        self._is_set = True
        for thread, turn in self._waits:
            thread.process.world.at(0.0, partial(thread._wake, turn, None))
        self._waits.clear()

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout_s: float) -> bool:
        thread = here()
        if not self._is_set:
            self._waits.append((thread, thread._turn))
            thread.sleep(timeout_s)
        return self._is_set


class Joinable:
    """Of threading.Thread, as far as it is used: another thread of the process that starts it."""

    def __init__(self, target: Callable[[], None], name: str, daemon: bool) -> None:
        self._done = Event()
        self._target = target
        self._thread = Thread(here().process, self._run)

    def _run(self) -> None:
        self._target()
        self._done.set()

    def start(self) -> None:
        self._thread.process.threads.append(self._thread)
        self._thread.begin()

    def join(self) -> None:
        while not self._done.wait(1.0):
            pass


class Draft:
    """Of publish, without files: `content` says which bytes they would be."""

    def __init__(self, store: object, message: str) -> None:
        self.content = 0
        self.metrics: dict[str, float] = {}
        self.flip: Any = None

    def stage(self, model: str, *, author: str, progress: object) -> Manifest:
        """Takes its time."""
        process = here().process
        here().sleep(process.world.lease_s * process.chance.random())
        return Manifest.of(model, [Artifact("model", 1, f"{self.content:064x}")], created_at=process.world.now)

    def discard(self) -> None:
        pass


@contextmanager
def in_virtual_time(lease_s: float) -> Iterator[None]:
    """The modules of a publisher see clocks, chance and threads of the simulation in this block."""

    def clock() -> float:
        return here().process.clock()

    time = SimpleNamespace(sleep=lambda seconds: here().sleep(seconds), time=clock)
    chance = SimpleNamespace(random=lambda: here().process.chance.random())
    secrets = SimpleNamespace(token_hex=lambda size: here().process.token())
    threads = SimpleNamespace(Thread=Joinable, Event=Event)
    found: list[tuple[Any, str, Any]] = [
        *((module, "clock", clock) for module in (link, lock, publish, task)),
        *((module, "time", time) for module in (link, lock)),
        *((link, "random", chance), (lock, "secrets", secrets), (lock, "threading", threads)),
        *((publish, "Draft", Draft), (publish, "Lock", partial(lock.Lock, expiry_s=LOCK_LEASES * lease_s))),
    ]
    before = [(module, name, vars(module)[name]) for module, name, _ in found]
    try:
        for module, name, value in found:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
