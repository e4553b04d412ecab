"""What became active here and is not on the disk yet: it has to be there before a process of this host starts anew (trust.py).

It is written at once, by the loading thread. Where that fails (another process that is stopped has the lock, the disk is full) it is tried
again, with a growing pause: each try may wait for seconds, in which nothing is loaded.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ..coordinator.clock import clock
from ..coordinator.errors import GenlockError
from ..coordinator.serials import Claim

_log = logging.getLogger("genlock.worker")

#: Seconds before it is tried again: doubled each time, from the first to the second. A try waits for the lock for at most 10 s (MAX_WAIT_S
#: of the coordinator's serials.py), so that loads have most of the time.
RETRY_FROM_S, RETRY_TO_S = 1.0, 60.0


class Unwritten:
    """Of all models of a worker; at most two claims of each. The runtime's thread adds and asks, the loading one writes."""

    def __init__(self, write: Callable[[str, Claim], None]) -> None:
        """`write`: puts on the disk that a claim of a model became active; it may raise anything."""
        self._write = write
        self._lock = threading.Lock()
        self._claims: dict[str, tuple[Claim, ...]] = {}  # under the lock; the model that is tried first at the end
        # Seconds on the worker's clock, infinite: nothing failed, or it is being tried. The loading thread writes both when it has failed.
        self._again_at, self._pause_s = float("inf"), 0.0

    def __bool__(self) -> bool:
        return bool(self._claims)

    def add(self, model: str, claim: Claim) -> None:
        """It is to be written, after what is not written of that model yet: the one with the highest serial, from which the newest may
        have gone back. What was between them counts for nothing once both are written."""
        with self._lock:
            before = self._claims.pop(model, ())
            highest = max((*before, claim), key=lambda one: one.serial)
            self._claims[model] = (claim,) if highest is claim else (highest, claim)

    def take_due(self, now: float) -> bool:
        """Whether something failed and is to be tried again; who hears so does it, and it is not due again until that has failed."""
        if not self._claims or now < self._again_at:
            return False
        self._again_at = float("inf")
        return True

    def write(self) -> None:
        """Writes all, what was added last first. After a failure the others wait for the next try: most likely they would fail as well,
        each after seconds."""
        while (found := self._next()) is not None:
            model, claims = found
            try:
                for claim in claims:
                    self._write(model, claim)
            except Exception as error:
                self._failed(model, error)
                return
            with self._lock:
                if self._claims.get(model) is claims:  # else more became active meanwhile
                    del self._claims[model]
        self._again_at, self._pause_s = float("inf"), 0.0

    def _next(self) -> tuple[str, tuple[Claim, ...]] | None:
        with self._lock:
            return next(reversed(self._claims.items()), None)

    def _failed(self, model: str, error: Exception) -> None:
        with self._lock:  # the others first: what is wrong may be its own file
            self._claims = {model: self._claims[model]} | self._claims
        self._pause_s = min(RETRY_TO_S, 2 * self._pause_s or RETRY_FROM_S)
        self._again_at = clock() + self._pause_s
        line = "model %s: what became active is not written down (%s); trying again in %g s"
        _log.warning(line, model, error, self._pause_s, exc_info=not isinstance(error, GenlockError))
