"""The slow way of a use, of what may not be answered from memory: the runtime asks Redis and loads, and the request waits; or, without
Redis, the answer is stale. Who the candidate of a canary answers, it answers this way too (see trial).
"""

from __future__ import annotations

from collections.abc import Container

from ..coordinator.errors import GenlockError, NotReady, UnknownModel
from ..coordinator.manifest import check_name
from ..coordinator.settings import Settings
from .asking import Question
from .fresh import FreshLoads
from .runtime import Runtime
from .stats import Stats
from .trial import Counted
from .view import View, clock


class Slowly:
    """Of one cache in one process. Any thread may call it; nothing is kept between two calls."""

    def __init__(self, settings: Settings, stats: Stats, debug: FreshLoads | None) -> None:
        """`debug`: what loads for every use, where that is set."""
        self._settings, self._stats, self._debug = settings, stats, debug

    def views(
        self, runtime: Runtime, models: tuple[str, ...], key: str | None, *, configured: Container[str]
    ) -> tuple[View, ...]:
        """What answers for these models, at one instant of the fleet, to a request with this key. `configured`: those that are waited for
        before they are published.

        Raises UnknownModel, NotReady, DoesNotFit; in debugging what a load raises.
        """
        for model in models:
            (self._stats.asked if model in runtime.views else self._stats.missed)(check_name(model))
        began = clock()
        views = self._stale_at_once(runtime, models)
        if views is None:
            views = self._answer_of(runtime.ask(models, self._settings.max_wait_s), runtime, configured)
            for model in models:
                self._stats.waited(model, clock() - began)
        now = clock()
        for view in views:
            self._is_used(runtime, view, now)
        return tuple(self._given(runtime, view, key) for view in views)

    def _stale_at_once(self, runtime: Runtime, models: tuple[str, ...]) -> tuple[View, ...] | None:
        """Redis is gone: nobody waits for the runtime to learn that once more."""
        if not runtime.is_gone or self._settings.on_disconnect != "stale":
            return None
        views = runtime.views
        if not all(model in views for model in models):
            return None
        return tuple(views[model].as_stale() for model in models)

    def _answer_of(self, question: Question, runtime: Runtime, configured: Container[str]) -> tuple[View, ...]:
        if question.views is not None:
            return question.views
        error: GenlockError
        if question.error is None:
            waited = f"waited {self._settings.max_wait_s:g} s (GENLOCK_MAX_WAIT) for its active generation"
            why = f"{waited}; last error: {runtime.error_of(*question.models) or runtime.failure or 'none'}"
            error = NotReady(question.models[0], why)
        elif question.error.unknown and question.error.model not in configured:
            _forget(question.error.model, runtime)
            error = UnknownModel(question.error.model)  # what else the fleet has is not known here
        else:
            model = question.error.model
            error = runtime.misfits.get(model) or NotReady(model, question.error.why)
        for model in question.models:
            self._stats.failed(model, str(error))
        raise error

    def _is_used(self, runtime: Runtime, view: View, now: float) -> None:
        """The one that is installed counts for what was used least recently."""
        view.used_at = now
        installed = runtime.views.get(view.model)
        if installed is not None:
            installed.used_at = now
        if view.stale:
            self._stats.answered_stale(view.model)

    def _given(self, runtime: Runtime, view: View, key: str | None) -> View:
        """The answer to the key, where a canary is on. It is counted when it is there: one that cannot be loaded is no fault of a group."""
        if key is None or view.arms is None:
            return self._fresh(runtime, view)
        chosen, group = view.arms.choose(view, key)
        return Counted(self._fresh(runtime, chosen), group)

    def _fresh(self, runtime: Runtime, view: View) -> View:
        return view if self._debug is None else self._debug.view(view, _manifest_of(runtime, view))


def _manifest_of(runtime: Runtime, view: View) -> str | None:
    """Of what the view answers from: the active generation, or the candidate."""
    if view.candidate is None:
        return runtime.manifest_of(view.model, view.generation)
    slot = runtime.agent.slots.get(view.model)
    return slot.manifests.get((view.candidate, view.version)) if slot is not None else None


def _forget(model: str, runtime: Runtime) -> None:
    """Any name may come with a request; only what was configured is waited for."""
    runtime.post(lambda: runtime.agent.drop([model]))
