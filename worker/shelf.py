"""What this worker has loaded, and the map of views that is made of it. Pure: moments are handed in.

The agent says what views show (`Agent.shown`) and which payloads are still needed (`Agent.kept`), both by the id of the job that
loaded them: the handle. What requests answer from has to show that before anything is sent (R1); so the shelf only makes the map, and
the runtime, which sends, publishes it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from .limits import Use
from .orders import Shown
from .slot import Key
from .trial import Arms
from .view import FOREVER, NEVER, View, Views

if TYPE_CHECKING:
    from .loading import Loaded


class Shelf:
    """The payloads of one worker, and the views that show them."""

    def __init__(self) -> None:
        #: What stands for every model that is shown. Replaced as a whole by `show`, never changed: any thread may read it.
        self.views: Views = {}
        self._shown: Mapping[str, Shown] = {}  # what `views` was made of
        self._loaded: dict[int, Loaded] = {}  # by handle

    def put(self, handle: int, loaded: Loaded) -> None:
        """A job is done; what it loaded stays until it is let go."""
        self._loaded[handle] = loaded

    def bytes_of(self, handle: int) -> int:
        """Memory of what a job has loaded; 0 when it was let go."""
        loaded = self._loaded.get(handle)
        return loaded.bytes if loaded else 0

    @property
    def digests(self) -> frozenset[str]:
        """The objects that these payloads may have mapped."""
        return frozenset[str]().union(*(loaded.digests for loaded in self._loaded.values()))

    def show(self, shown: Mapping[str, Shown], now: float) -> tuple[str, ...] | None:
        """Makes `views` anew if they have to show anything else; None: they show just that already.

        Returns the models that answer under a lease from another content than before: what is worth keeping for a day without Redis.
        A view stays the same object as long as it shows the same, because requests count their uses on it.
        """
        if shown == self._shown:
            return None
        views = {model: self._view(model, what, now) for model, what in shown.items()}
        changed = tuple(model for model, what in shown.items() if what.lease and self._leased(model) != what.key)
        self._shown, self.views = shown, views
        return changed

    def _view(self, model: str, what: Shown, now: float) -> View:
        before = self.views.get(model)
        if before is not None and self._shown.get(model) == what:
            return before
        loaded = self._loaded[what.handle]
        return View(
            model=model,
            payload=loaded.payload,
            generation=what.key[0],
            version=what.key[1],
            lease=what.lease or (FOREVER if what.mode == "stale" else NEVER),
            stale=what.mode == "stale",
            used_at=before.used_at if before else now,
            bytes=loaded.bytes,
            arms=Arms(what.trial, self._candidate(model, what)) if what.trial is not None else None,
        )

    def _candidate(self, model: str, what: Shown) -> View | None:
        """What answers a share of the requests, marked as the candidate beside the active generation, and under its lease."""
        if what.other is None:
            return None
        (number, version), handle = what.other
        loaded = self._loaded[handle]
        return View(
            model=model,
            payload=loaded.payload,
            generation=what.key[0],
            version=version,
            lease=what.lease or NEVER,
            candidate=number,
            bytes=loaded.bytes,
        )

    def _leased(self, model: str) -> Key | None:
        """The content that was answered from under a lease until now."""
        what = self._shown.get(model)
        return what.key if what and what.lease else None

    def answer(self, model: str, key: Key, handle: int, stale: bool) -> View:
        """A view for who had to ask: the one of the map where it shows just that, so that uses are counted on it; else one of its own."""
        view, loaded = self.views.get(model), self._loaded[handle]
        if view is None or view.payload is not loaded.payload or view.generation != key[0]:
            view = View(model=model, payload=loaded.payload, generation=key[0], version=key[1], bytes=loaded.bytes)
        return view.as_stale() if stale and not view.stale else view

    def uses(self, models: Iterable[str], now: float) -> list[Use]:
        """What each of these models takes and when it was used last; what is not shown yet takes nothing, and is not old."""
        found = []
        for model in models:
            view = self.views.get(model)
            found.append(Use(model, view.bytes if view else 0, view.used_at if view else now))
        return found

    def let_go(self, kept: Collection[int]) -> bool:
        """Forgets all payloads but these; whether there were any. Their memory is free when no request holds them any more."""
        unneeded = self._loaded.keys() - kept
        for handle in unneeded:
            del self._loaded[handle]
        return bool(unneeded)
