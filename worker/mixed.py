"""How long a worker's answers, marked stale, came from another generation than the active one, as far as it can know. Pure.

While Redis is gone nobody can tell a worker that another generation became active, so nothing is known of the moment in which it
did. What is measured is a bound from above: the whole time for which a view was marked stale that then turned out to be of another
content than what is active. What turns out to be active still was never mixed.
"""

from __future__ import annotations

from .slot import Key
from .view import NEVER, View


class StaleSpell:
    """The views of one model, one after the other. Moments are seconds on the worker's clock."""

    __slots__ = ("_began", "_ended", "_key")

    def __init__(self) -> None:
        self._key: Key | None = (
            None  # the content that was marked; None: nothing was, since it was last known what is active
        )
        self._began = 0.0
        self._ended: float | None = None

    def shows(self, view: View, now: float) -> float | None:
        """From now on the model is answered by `view`. The seconds that were mixed, when this is what tells it."""
        if view.stale:
            if self._key is None:
                self._key, self._began = (view.generation, view.version), now
            self._ended = None
            return None
        if self._key is None:
            return None
        if self._ended is None:
            self._ended = now
        if view.lease is NEVER:  # it must ask: what is active is not known yet
            return None
        key, self._key = self._key, None
        return self._ended - self._began if key != (view.generation, view.version) else None
