"""The user's callbacks: on_flip, on_reject, on_low_hit_rate. On a thread of their own, begun with the first event that has one:
what they raise is logged and counted, what they wait for keeps nobody waiting.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from .hitrate import HitRate
from .orders import Command, Flipped, News, Rejected
from .stats import Stats

_log = logging.getLogger("genlock.worker")

#: Events that may wait; more are dropped, and said in the log: a callback hangs.
MAX_WAITING = 1000
#: Seconds that closing waits for callbacks that are still running.
CLOSE_S = 1.0


class Callbacks:
    """What was registered, and the thread that calls it."""

    def __init__(self) -> None:
        self._registered: dict[str, list[Callable[..., object]]] = {
            "on_flip": [],
            "on_reject": [],
            "on_low_hit_rate": [],
        }

    def begin_anew(self, stats: Stats) -> None:
        """In a new process: the thread is not ours; what was registered stays."""
        self._stats = stats
        self._queue: queue.Queue[tuple[str, tuple[Any, ...]] | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None

    def add(self, hook: str, callback: Callable[..., object]) -> Callable[..., object]:
        """Registers a callback; returns it, so that this can be a decorator."""
        self._registered[hook].append(callback)
        return callback

    def notify(self, command: Command | News) -> None:
        """Passes on what the user may want to hear of."""
        if isinstance(command, Flipped):
            self._happened("on_flip", command.model, command.before[0] if command.before else None, command.after[0])
        elif isinstance(command, Rejected):
            why = str(command.detail.get("why", "the fleet did not commit it"))
            self._happened("on_reject", command.model, command.key[0], why)

    def low_hit_rate(self, rate: HitRate) -> None:
        """The alarm of the hit rate."""
        facts = {"event": "low-hit-rate", "worker": self._stats.worker, "rate": rate.value, "uses": rate.uses}
        _log.warning("hit rate %.3f is below its threshold, over %d uses", rate.value or 0.0, rate.uses, extra=facts)
        self._happened("on_low_hit_rate", rate)

    def _happened(self, hook: str, *facts: Any) -> None:
        if not self._registered[hook]:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="genlock-callbacks", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait((hook, facts))
        except queue.Full:
            _log.error("a callback hangs: %s%r is not passed on", hook, facts)

    def _run(self) -> None:
        while (event := self._queue.get()) is not None:
            hook, facts = event
            for callback in list(self._registered[hook]):
                try:
                    callback(*facts)
                except Exception:
                    _log.exception("the callback %s raised", hook)
                    self._stats.hook_raised(hook)

    def close(self) -> None:
        """Ends the thread after what waits was called, or leaves it alone when that takes long."""
        if self._thread is not None and self._thread is not threading.current_thread():
            try:
                self._queue.put_nowait(None)
            except queue.Full:
                return
            self._thread.join(CLOSE_S)
            self._thread = None
