"""ModelCache: the models of this process by name. What requests call; see view for why reading it needs no lock.

It needs no set-up: threads and connections begin at the first use in a process, after any fork (R12). Whoever only reads pays a
dictionary look-up, a clock and a comparison; everything else is behind `_slow`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ..coordinator.errors import NotReady
from ..coordinator.fleet import Fleet
from ..coordinator.manifest import check_name
from ..coordinator.watching import Named
from . import living
from .callbacks import Callbacks
from .exposition import render, to_prometheus
from .fresh import CLOSED, FreshLoads
from .hitrate import HitRate
from .hostcache import near
from .limits import Limits
from .loaders import Loader, loader_for
from .lookout import Lookout
from .orders import Command, Joined, News
from .runtime import Runtime, worker_name
from .siblings import Siblings
from .slowly import Slowly
from .stats import Stats
from .view import View, Views, clock

_log = logging.getLogger("genlock.worker")

#: on_progress(model, done, all): after each model that is loaded, or could not be.
OnProgress = Callable[[str, int, int], object]


class Held(tuple[View, ...]):
    """Views of one instant of the fleet, for a `with` block."""

    __slots__ = ()

    def __enter__(self) -> Held:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to give back: the references are the hold."""


class ModelCache:
    """The models that this process answers from, each in the generation that the fleet agreed on.

    `loaders`: model → what makes its payload: a callable that gets a `Checkpoint`, an `nn.Module` class, "module:name"; a
    model without one has to be a self-contained exported program. `max_bytes`, `max_models`, `ttl` (seconds): see Settings.
    `sources`: model → the file that training overwrites, or artifact → file; looked at with GENLOCK_CHECK_MTIME=true.
    """

    def __init__(
        self,
        fleet: Fleet | None = None,
        *,
        loaders: Mapping[str, Any] | None = None,
        max_bytes: int | str | None = None,
        max_models: int | None = None,
        ttl: float | None = None,
        sources: Mapping[str, str | Path | Mapping[str, str | Path]] | None = None,
    ) -> None:
        self.fleet = fleet if fleet is not None else Fleet.from_env()
        self.settings = self.fleet.settings.with_arguments(max_bytes=max_bytes, max_models=max_models, cache_ttl_s=ttl)
        self._named = Named(sources or {})
        self._specs: dict[str, Any] = {check_name(model): spec for model, spec in (loaders or {}).items()}
        self._loaders: dict[str, Loader] = {}
        self._configured = frozenset(self._specs) | {model for model, _ in self.settings.models}
        self._callbacks = Callbacks()
        self._number = Siblings.number()
        self._begin_anew()
        living.add(self)

    def _begin_anew(self) -> None:
        """As if nothing had been used yet: in a new process, views, thread and connections of the parent are not ours (R12)."""
        #: What requests read. Only the runtime's thread replaces it, as a whole.
        self._views: Views = {}
        self._lock = threading.Lock()
        self._runtime: Runtime | None = None
        self._closed = False
        self._pid = os.getpid()
        self.worker = worker_name()
        self._stats = Stats(clock=clock, wall=time.time, worker=self.worker, fleet=self.fleet.name)
        self._siblings = Siblings(self.settings.state_dir, self.fleet.name, self._stats.detail, cache=self._number)
        self._debug = self._debugging()
        self._slowly = Slowly(self.settings, self._stats, self._debug)
        self._lookout = self._new_lookout() if self.settings.check_mtime else None
        self._callbacks.begin_anew(self._stats)
        if self.settings.hit_rate_threshold is not None:
            self._stats.alarm(self.settings.hit_rate_threshold, self._callbacks.low_hit_rate)

    def _new_lookout(self) -> Lookout:
        return Lookout(self.settings, self._named)

    def _debugging(self) -> FreshLoads | None:
        if self.settings.use_cache and not self.settings.force_reload:
            return None
        return FreshLoads(
            self.settings,
            store=near(self.fleet.store, self.settings),
            loader_of=self.loader_of,
            stats=self._stats,
            notify=self._notify,
        )

    # --- what requests call --------------------------------------------------------------------------------------

    def get(self, model: str, *, key: str | None = None) -> View:
        """The view of the active generation: `payload`, `generation`, `version`, `stale`.

        Hold on to the view for as long as its payload is used. A request with a `key` (of a user, a session) takes part in a canary, where
        there is one: the same key is answered by the same generation on every worker (`candidate` says its number, where it is
        the candidate), and both groups are compared: by the time of their blocks, exceptions that leave them, and `view.score(x)`.

        Raises UnknownModel, NotReady (nothing to answer from within `max_wait_s`; nothing is published yet of a configured model),
        DoesNotFit.
        """
        try:
            view = self._views[model]
        except KeyError:
            return self._slow((model,), key)[0]
        now = clock()  # after the view: see view.py
        if now < view.lease.deadline:
            view.uses += 1
            view.used_at = now
            return view if key is None or view.arms is None else view.arms.pick(view, key)
        return self._slow((model,), key)[0]

    #: `with cache.use("m") as held:` answers from one generation for the whole block. The same function: a view is a context.
    use = get

    def use_many(self, *models: str) -> Held:
        """The views of several models at one instant of the fleet, in their order."""
        held = self.at_once(*models)
        return self._slow(models) if held is None else held

    def at_once(self, *models: str, key: str | None = None) -> Held | None:
        """What `use_many` gives where it need not wait for anything; else None. For who must not wait, as on an event loop."""
        views = self._views
        try:
            found = [views[model] for model in models]
        except KeyError:
            return None
        now = clock()  # after the views: see view.py
        for view in found:
            if now >= view.lease.deadline:
                return None
        for view in found:
            view.uses += 1
            view.used_at = now
        if key is not None:
            found = [view if view.arms is None else view.arms.pick(view, key) for view in found]
        return Held(found)

    def _slow(self, models: tuple[str, ...], key: str | None = None) -> Held:
        return Held(self._slowly.views(self._running(), models, key, configured=self._configured))

    # --- what the process calls ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins thread, connections and the loads of the configured models now; else the first use does. Waits for nothing."""
        self._running().hold(tuple(sorted(self._configured)))

    def prewarm(
        self,
        models: Iterable[str] | None = None,
        *,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
    ) -> dict[str, str]:
        """Holds the models (default: those that were configured) and waits until each is loaded, at most `timeout` seconds in all
        (default: `max_wait_s`). Returns model → why it is not loaded; an empty dictionary when all are. One model that cannot
        be loaded does not keep the others back.
        """
        names = tuple(sorted(self._configured) if models is None else dict.fromkeys(models))
        self._configured |= {check_name(model) for model in names}
        runtime = self._running()
        runtime.hold(names)
        failed: dict[str, str] = {}
        until = clock() + (self.settings.max_wait_s if timeout is None else timeout)
        for done, model in enumerate(names, 1):
            question = runtime.ask((model,), max(0.0, until - clock()))
            if question.views is None:
                overdue = runtime.error_of(model) or "it was not loaded in time"
                failed[model] = question.error.why if question.error else overdue
                _log.warning("prewarm: model %s is not loaded: %s", model, failed[model])
            if on_progress is not None:
                on_progress(model, done, len(names))
        return failed

    def is_warmed_up(self) -> bool:
        """Whether every configured model is loaded."""
        return self._configured <= set(self.views)

    def why_not_ready(self) -> dict[str, str]:
        """Configured models that cannot be answered from now → why. A last good generation is an answer where stale ones are allowed."""
        runtime = self._runtime
        if runtime is None:
            return dict.fromkeys(self._configured, "this process has not begun to load it")
        reasons = {model: runtime.why_not_ready(model) for model in sorted(self._configured)}
        return {model: why for model, why in reasons.items() if why is not None}

    def get_warmed_models(self) -> list[str]:
        """The models that are loaded."""
        return sorted(self.views)

    def invalidate(self, model: str) -> None:
        """Drops the model here; its next use loads it again."""
        self._drop((check_name(model),), "invalidate")

    def clear(self) -> None:
        """Drops all models here; their next use loads them again."""
        self._drop(tuple(self.views), "clear")

    def _drop(self, models: tuple[str, ...], reason: str) -> None:
        runtime = self._runtime
        if runtime is not None and models:
            runtime.drop(models, reason)

    def open(self) -> None:
        """Ends what `close` began: the cache is as if it had just been made. Nothing where it was not closed."""
        if self._closed:
            self._begin_anew()

    def close(self) -> None:
        """Leaves the fleet and lets go of thread, connections and models. After that every use raises NotReady, until `open`."""
        with self._lock:
            runtime, self._runtime, self._closed = self._runtime, None, True
        self._views = {}
        if self._lookout is not None and self._pid == os.getpid():
            self._lookout.close()
        if runtime is not None and self._pid == os.getpid():
            runtime.close()
        if self._debug is not None and self._pid == os.getpid():
            self._debug.close()
        self._siblings.close()
        self._callbacks.close()

    # --- what people see -----------------------------------------------------------------------------------------

    @property
    def runtime(self) -> Runtime | None:
        """The runtime of this process, if it has begun."""
        return self._runtime

    @property
    def configured(self) -> frozenset[str]:
        """The models that this process is meant to hold: loaders, GENLOCK_MODELS, prewarm."""
        return self._configured

    @property
    def views(self) -> Views:
        """What is loaded, for people: model → view. Not to be answered from."""
        return self._runtime.views if self._runtime is not None else {}

    @property
    def notice(self) -> str:
        """What is set that people should know of: for debugging, or that files are looked at; or nothing."""
        return "; ".join(part.notice for part in (self._debug, self._lookout) if part is not None)

    @property
    def sources(self) -> Mapping[str, Mapping[str, Path]]:
        """The files that training overwrites, as they were named: model → artifact → path."""
        return self._named.files

    @property
    def stats(self) -> Stats:
        """The figures of this process."""
        return self._stats

    def get_stats(self) -> dict[str, Any]:
        """The totals of this process: hits, misses, hit rate, loads, stale answers, …"""
        return self._stats.summary()

    def get_detailed_stats(self) -> dict[str, Any]:
        """The totals, and the figures of every model and of the calls to Redis."""
        return self._stats.detail()

    def metrics(self) -> str:
        """The figures of this process and of its siblings, which serve the same fleet from the same service of this host, for Prometheus.

        What other processes say is at most about a second old.
        """
        return to_prometheus(*self._siblings.details())

    def export_stats(self, target: str | Path | IO[str], format: str = "json") -> None:
        """Writes the detailed figures to a path or a text stream as json, csv or prometheus. Raises BadInput for another word."""
        text = render(self._stats.detail(), format)
        if isinstance(target, str | Path):
            Path(target).write_text(text, "utf-8")
        else:
            target.write(text)

    def on_flip(self, callback: Callable[[str, int | None, int], object]) -> Callable[..., object]:
        """Calls back (model, generation before or None, generation now) after this worker changed. Also a decorator.

        On a thread of its own: it may take its time, and what it raises is logged and counted.
        """
        return self._callbacks.add("on_flip", callback)

    def on_reject(self, callback: Callable[[str, int, str], object]) -> Callable[..., object]:
        """Calls back (model, generation, why) after a candidate that this worker got ready for was not committed."""
        return self._callbacks.add("on_reject", callback)

    def on_low_hit_rate(self, callback: Callable[[HitRate], object]) -> Callable[..., object]:
        """Calls back (rate) when the hit rate falls below GENLOCK_HIT_RATE_THRESHOLD, once until it has recovered."""
        return self._callbacks.add("on_low_hit_rate", callback)

    # --- beginning -----------------------------------------------------------------------------------------------

    def loader_of(self, model: str) -> Loader:
        """What makes the payload of a model."""
        if model not in self._loaders:
            spec = self._specs.get(model) or dict(self.settings.models).get(model) or None
            self._loaders[model] = loader_for(spec)
        return self._loaders[model]

    def _running(self) -> Runtime:
        runtime = self._runtime
        if runtime is not None:
            return runtime
        with self._lock:
            if self._closed:
                raise NotReady("*", CLOSED)
            if self._runtime is None:
                self._runtime = self._begin()
            return self._runtime

    def _begin(self) -> Runtime:
        runtime = Runtime(
            self.fleet,
            loader_of=self.loader_of,
            stats=self._stats,
            limits=Limits(self.settings.max_bytes, self.settings.max_models, self.settings.cache_ttl_s),
            publish=self._install,
            notify=self._notify,
            worker=self.worker,
            configured=self._configured,
        )
        if self._debug is not None:
            _log.warning("%s: for debugging only", self._debug.notice)
        runtime.start()
        self._siblings.start()
        if self._lookout is not None:
            self._lookout.start()
        living.leaves_at_exit()
        return runtime

    def _install(self, views: Views) -> None:
        if not self._closed and self._debug is None:
            self._views = views

    def _notify(self, command: Command | News) -> None:
        if isinstance(command, Joined):
            living.joined(self, command.member, command.epoch)
        self._callbacks.notify(command)
