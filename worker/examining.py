"""The thread that finds out whether anybody vouches for a manifest; where every manifest is looked at (trust.py), and only there.

To look is to read the state folder, and no load that takes long may keep that waiting: what is examined may be loaded already, and be the
way back. While the state folder hangs, one examination keeps those of other models waiting: they would hang as well, because all of them
read the same folder. Threads do not gather meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..coordinator.reply import FAILED
from .slot import Found


class Examining:
    """Begins with the first manifest. The runtime's thread asks; each answer is told once."""

    def __init__(self, answer: Callable[[Found], tuple[str, str]], told: Callable[[Found, str, str], None]) -> None:
        """`answer`: what is said of a manifest, and why, as Trust.answer. `told`: is called with both, on this thread, or by `examine`
        where it cannot be started."""
        self._answer, self._told = answer, told
        # All below: under the lock of the condition. The newest of each model, the one that was asked for first at the beginning.
        self._waiting: dict[str, Found] = {}
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread: threading.Thread | None = None  # only the runtime's thread writes it

    def examine(self, found: Found) -> None:
        """Soon. What was asked of the model before and has not begun is not wanted any more, and is not answered."""
        try:
            self._start()
        except RuntimeError as error:  # the limit of threads of a host or a container: it is asked for again
            self._told(found, FAILED, str(error))
            return
        with self._changed:
            self._waiting[found.model] = found
            self._changed.notify()

    def close(self, timeout_s: float) -> None:
        """Ends after what is being examined, or goes on alone (it is a daemon) when that takes longer."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="genlock-examines", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while (found := self._next()) is not None:
            self._told(found, *self._answer(found))

    def _next(self) -> Found | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            return None if self._is_closing else self._waiting.pop(next(iter(self._waiting)))
