"""A trainer process, as the director sees it: it is given orders, and what becomes of them is written down, whatever becomes of it."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import psutil
from genlock.worker.demo.child import Child

from .history import Proposal
from .orders import Done, Order, Said, Staging

if TYPE_CHECKING:
    from .stand import Stand

#: Seconds that a trainer gets for one order, beyond the order's own limit.
ORDER_S = 30.0
#: Seconds between two looks whether it is still there.
LOOK_S = 0.02

_said: msgspec.json.Decoder[Said] = msgspec.json.Decoder(Said)


class Publisher:
    """Ends with its stand; begins again by itself when it has died."""

    def __init__(self, stand: Stand, name: str) -> None:
        self._stand, self.name = stand, name
        self._said: queue.Queue[Said] = queue.Queue()
        self._turn = threading.Lock()
        self._child: Child | None = None
        self._folder = stand.folder / f"trainer-{name}"
        self._folder.mkdir()

    def do(self, order: Order) -> Proposal:
        """Carries it out, and writes down what became of it; one order after the other."""
        with self._turn:
            return self._do(order)

    def _do(self, order: Order) -> Proposal:
        child = self._alive()
        began, version = time.monotonic(), ""
        child.tell(msgspec.json.encode(order) + b"\n")
        done = None
        while done is None:
            said = self._hear(child, began + order.timeout + ORDER_S)
            if isinstance(said, Staging):
                version = said.version
                self._stand.staged(order, version, began, self.name)
            else:
                done = said
        if done.outcome == "died":
            self.end()
        return self._stand.proposed(order, done, version, began, self.name)

    def _hear(self, child: Child, until: float) -> Said:
        while True:
            with suppress(queue.Empty):
                return self._said.get(timeout=LOOK_S)
            if child.has_ended and self._said.empty():
                return Done(outcome="died")
            if time.monotonic() > until:
                self.end()  # what it says later would be taken for the answer to the next order
                raise RuntimeError(f"trainer {self.name} has not answered. Its last words:\n{child.last_words}")

    def _alive(self) -> Child:
        if self._child is None or self._child.has_ended:
            self.end()
            self._said = queue.Queue()
            said = self._said
            self._child = Child(
                f"trainer {self.name}",
                [sys.executable, "-m", "chaos.trainer", str(self._folder)],
                env=self._stand.trainer_environment,
                log=self._folder / "log",
                heard=lambda line: said.put(_said.decode(line)),
            )
        return self._child

    def wake_after(self, seconds: float) -> None:
        """Waits until it has stopped, and that long; then it goes on."""
        until = time.monotonic() + ORDER_S
        while not self._has_stopped:
            if time.monotonic() > until:
                raise RuntimeError(f"trainer {self.name} has not stopped in {ORDER_S:g} s")
            time.sleep(LOOK_S)
        time.sleep(seconds)
        assert self._child is not None
        os.kill(self._child.pid, signal.SIGCONT)

    @property
    def _has_stopped(self) -> bool:
        return self._child is not None and psutil.Process(self._child.pid).status() == psutil.STATUS_STOPPED

    def end(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None
