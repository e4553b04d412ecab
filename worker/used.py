"""What one request demands, what it has used, and what its answer tells of that. Pure.

No payload is kept here: a request may last for hours (a stream, a task that it has begun and that inherits what it asked with), and would
keep every generation of that time.
"""

from __future__ import annotations

from ..coordinator.errors import GenlockError
from .cache import Held, ModelCache
from .headers import Least, of_views
from .trial import Counted
from .view import View


class Used:
    """Of one request. `key`, `demand`: its headers X-Genlock-Key and X-Genlock-Min-Generation, None where it has none."""

    __slots__ = ("_counted", "_demand", "_is_answered", "_key", "_views")

    def __init__(self, key: str | None, demand: str | None) -> None:
        self._key, self._demand = key, demand
        # What an answer tells → a view without its payload that says so: one for each generation of a model, however often it is used.
        self._views: dict[tuple[str, int, int | None, bool], View] = {}
        self._counted: list[Counted] = []  # those of a canary that have not ended
        self._is_answered = False

    def get(self, cache: ModelCache, model: str) -> View:
        """ModelCache.get with the key of this request, and told in its answer.

        Raises what that raises; NotReady too if the request demands a later generation, HeaderInvalid for a demand that makes no sense.
        """
        view = cache.get(model) if self._key is None else cache.get(model, key=self._key)
        self._add((view,))
        return view

    def get_many(self, cache: ModelCache, *models: str) -> Held:
        """ModelCache.use_many likewise."""
        held = cache.use_many(*models)
        self._add(held)
        return held

    def at_once(self, cache: ModelCache, *models: str) -> Held | None:
        """What `get` or `get_many` give, where that needs no wait; else None, and nothing is used."""
        held = cache.at_once(*models, key=self._key if len(models) == 1 else None)
        if held is not None:
            self._add(held)
        return held

    def _add(self, views: tuple[View, ...]) -> None:
        for view in views:
            told = (view.model, view.generation, view.candidate, view.stale)
            if told not in self._views:
                self._views[told] = _without_payload(view)
            if isinstance(view, Counted) and not self._is_answered:
                self._counted = [*(one for one in self._counted if not one.is_over), view]
        if self._demand is not None:
            try:
                Least.of(self._demand).check(tuple(self._views.values()))
            except GenlockError:
                self._end(failed=False)  # what a client demands is no fault of a canary
                raise

    def answered(self, *, failed: bool) -> None:
        """The answer begins, or there will be none. A use after that counts when its block ends."""
        self._is_answered = True
        self._end(failed=failed)

    def _end(self, *, failed: bool) -> None:
        for view in self._counted:
            view.ended(failed=failed)
        self._counted = []

    def told(self) -> list[tuple[str, str]]:
        """The headers of the answer."""
        return of_views(tuple(self._views.values())) if self._views else []


def _without_payload(view: View) -> View:
    return View(
        model=view.model,
        payload=None,
        generation=view.generation,
        version=view.version,
        stale=view.stale,
        candidate=view.candidate,
    )
