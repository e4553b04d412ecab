"""One job at a time, beside training: while one is in work, the newest of those that come waits, and takes the place of an older one.

The thread lives while there is something to do. It is no daemon: a program that ends waits for what is in work, as it would wait for a
file that it writes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Job = TypeVar("Job")

_log = logging.getLogger("genlock.hooks")


class Courier(Generic[Job]):
    """`carry` does a job, in the thread; `drop` hears of one that a newer one has replaced. What `carry` raises
    is logged, and the next job is done."""

    def __init__(self, carry: Callable[[Job], object], drop: Callable[[Job], object]) -> None:
        self._carry, self._drop = carry, drop
        self._changed = threading.Condition()
        self._waiting: list[Job] = []  # at most one; under the condition
        self._is_busy = False  # whether the thread lives; under the condition

    def give(self, job: Job) -> None:
        """Returns at once. Raises RuntimeError where no thread can be started; the job is not kept then."""
        with self._changed:
            if not self._is_busy:
                # its first look waits for the condition
                threading.Thread(target=self._run, name="genlock-publishing", daemon=False).start()
                self._is_busy = True
            replaced, self._waiting = self._waiting, [job]
        for old in replaced:
            self._drop(old)

    def wait(self, timeout_s: float) -> bool:
        """Until nothing is left to do, at most `timeout_s` seconds; whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._is_busy, timeout_s)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._carry(job)
            except BaseException:  # a thread that ends here would leave everybody waiting for it
                _log.exception("publishing has failed in a way that nobody has thought of; the next save is published")

    def _next(self) -> Job | None:
        with self._changed:
            if self._waiting:
                return self._waiting.pop()
            self._is_busy = False
            self._changed.notify_all()
            return None
