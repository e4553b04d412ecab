"""What one request demands, which views it has used, and what its answer tells of them. Pure."""

from __future__ import annotations

from ..coordinator.errors import GenlockError
from .cache import Held, ModelCache
from .headers import Least, of_views
from .view import View


class Used:
    """Of one request. `key`, `demand`: its headers X-Genlock-Key and X-Genlock-Min-Generation, None where it has none."""

    __slots__ = ("_demand", "_key", "_views")

    def __init__(self, key: str | None, demand: str | None) -> None:
        self._key, self._demand = key, demand
        self._views: list[View] = []

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
        self._views.extend(views)
        if self._demand is not None:
            try:
                Least.of(self._demand).check(self._views)
            except GenlockError:
                self.ended(failed=False)  # what a client demands is no fault of a canary
                raise

    def ended(self, *, failed: bool) -> None:
        """The request is over, or its answer begins."""
        for view in self._views:
            view.ended(failed=failed)

    def told(self) -> list[tuple[str, str]]:
        """The headers of the answer."""
        return of_views(self._views) if self._views else []
