"""What one worker process has done: counters, times, hit rates. Pure: both clocks are handed in.

A *use* is one `use`, or one name of one `use_many`. It is a *hit* when it was answered from what the worker
held, whether or not the view had to ask, and a *miss* when it had to wait for a load or failed for want of
one. The hit path takes no lock and calls nothing here: requests count on the views, and `installed` tells
this room which views there are. A view that went leaves its uses behind, so the figures only grow. All else
is told by the runtime and the cache, in the past tense, off the hit path, under one small lock.

`summary()` is `ModelCache.get_stats()`; `detail()` is `get_detailed_stats()` and what `exposition` writes as
JSON, CSV or Prometheus text. Their keys are promises. Every process has its own figures; `siblings` brings
those of one host together.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..coordinator.metrics import Times
from .counts import OTHERS, Kinds, add_time, bounded, facts_of
from .hitrate import LEAST_USES, WINDOW_S, Alarm, HitRate, Window
from .mixed import StaleSpell
from .view import NEVER, Lease, View, Views

_log = logging.getLogger(__name__)

#: Names of models that are remembered, held or not: four times what a worker holds (docs/how-it-works.md: 50). Names
#: come from requests.
MAX_NAMES = 200
#: Characters that are kept of a text that says why.
MAX_WHY = 500

DropReason = Literal["lru_bytes", "lru_count", "ttl", "clear", "invalidate"]
DROP_REASONS: tuple[DropReason, ...] = ("lru_bytes", "lru_count", "ttl", "clear", "invalidate")
LoadOutcome = Literal["ok", "failed", "bad"]
LOAD_OUTCOMES: tuple[LoadOutcome, ...] = ("ok", "failed", "bad")
#: Model → active, candidate or warm → its generation, and the bytes of its payload.
Held = Mapping[str, Mapping[str, Mapping[str, int]]]


@dataclass(slots=True)
class ModelStats:
    """The figures of one model, written under the lock of Stats. Moments are unix seconds, for people."""

    retired: int = 0  #: uses of views that were replaced
    used_at: float = -math.inf  #: of those views, on the worker's clock
    misses: int = 0
    asks: int = 0
    stale_answers: int = 0  #: not counting uses of a stale view that is installed
    reloads: int = 0
    flips: int = 0
    rejected: int = 0
    errors: int = 0
    loads: Kinds = field(default_factory=lambda: Kinds(LOAD_OUTCOMES))
    invalidations: Kinds = field(default_factory=Kinds)
    drops: Kinds = field(default_factory=lambda: Kinds(DROP_REASONS))
    refused: Kinds = field(default_factory=Kinds)
    load_steps: dict[str, Times] = field(default_factory=dict)
    flip_phases: dict[str, Times] = field(default_factory=dict)
    waits: Times = field(default_factory=Times)
    mixed: Times = field(default_factory=Times)
    spell: StaleSpell = field(default_factory=StaleSpell)
    loaded_at: float | None = None
    flipped_at: float | None = None
    last_load_failure: dict[str, Any] | None = None
    last_rejection: dict[str, Any] | None = None
    last_refusal: dict[str, Any] | None = None
    last_error: dict[str, Any] | None = None

    def retire(self, view: View, *, dropped: bool) -> None:
        self.retired += view.uses
        self.stale_answers += view.uses if view.stale else 0
        self.used_at = max(self.used_at, view.used_at)
        if dropped:
            self.spell = StaleSpell()

    def shows(self, view: View, now: float) -> None:
        """A view was installed, at a moment of the worker's clock."""
        seconds = self.spell.shows(view, now)
        if seconds is not None:
            self.mixed.add(seconds)

    def facts(self, view: View | None, held: Mapping[str, Any], *, used_at: float | None) -> dict[str, Any]:
        rate = HitRate(self.retired + (view.uses if view else 0), self.misses)
        return {
            "generation": view.generation if view else None,
            "version": view.version if view else None,
            "bytes": view.bytes if view else 0,
            "stale": view.stale if view else None,
            "held": held,
            "hits": rate.hits,
            "misses": rate.misses,
            "hit_rate": rate.value,
            "asks": self.asks,
            "stale_answers": self.stale_answers + (view.uses if view and view.stale else 0),
            "mixed": self.mixed.facts(),
            "waits": self.waits.facts(),
            "loads": dict(self.loads),
            "reloads": self.reloads,
            "load_steps": facts_of(self.load_steps),
            "invalidations": dict(self.invalidations),
            "drops": dict(self.drops),
            "flips": self.flips,
            "flip_phases": facts_of(self.flip_phases),
            "rejected": self.rejected,
            "refused": dict(self.refused),
            "errors": self.errors,
            "loaded_at": self.loaded_at,
            "used_at": used_at,
            "flipped_at": self.flipped_at,
            "last_load_failure": self.last_load_failure,
            "last_rejection": self.last_rejection,
            "last_refusal": self.last_refusal,
            "last_error": self.last_error,
        }


class Stats:
    """The figures of this process. Any thread may call any method; none keeps the others waiting.

    `clock` is the worker's (seconds, `view.clock`), `wall` gives unix seconds (`time.time`) for moments that
    people read, `worker` is the name of this process in labels: the same as long as it lives, such as
    `host:pid`; `fleet`: whose worker it is. A lock does not survive a fork: a child makes a Stats of its own (R12).
    """

    def __init__(
        self, *, clock: Callable[[], float], wall: Callable[[], float], worker: str = "", fleet: str = ""
    ) -> None:
        self.worker, self.fleet = worker, fleet
        self._clock = clock
        self._wall = wall
        self._started = clock()
        #: The lease of the present membership; the runtime's thread sets it.
        self.lease: Lease = NEVER
        #: What is loaded; replaced as a whole by the runtime's thread.
        self.held: Held = {}
        self._lock = threading.Lock()
        #: All below is written under the lock. The map of views is the one that `installed` was told of last.
        self._views: Views = {}
        self._models: dict[str, ModelStats] = {}
        self._window = Window(self._started)
        self._alarms: list[Alarm] = []
        self._redis: dict[str, Kinds] = {}
        self._redis_times: dict[str, Times] = {}
        self._redis_up: bool | None = None
        self._hook_errors = Kinds()
        self._process = Counter(heartbeats=0, evictions=0, epochs=0, resubscriptions=0)
        self._rung = 0  # alarms on the hit rate
        self._epoch: int | None = None

    # --- what requests do; hits are on the views -----------------------------------------------------------

    def missed(self, model: str) -> None:
        """A use found no loaded generation: it had to wait for a load, or failed."""
        with self._lock:
            self._model(model).misses += 1

    def asked(self, model: str) -> None:
        """A use had to ask Redis whether what the worker holds is active."""
        with self._lock:
            self._model(model).asks += 1

    def waited(self, model: str, seconds: float) -> None:
        """A use waited that long for an answer of Redis or for a load, whatever came of it."""
        with self._lock:
            self._model(model).waits.add(seconds)

    def answered_stale(self, model: str) -> None:
        with self._lock:
            self._model(model).stale_answers += 1

    def failed(self, model: str, why: str) -> None:
        """A use ended in an error."""
        with self._lock:
            record = self._model(model)
            record.errors += 1
            record.last_error = self._remark(why)

    # --- what becomes of models ----------------------------------------------------------------------------

    def installed(self, views: Views) -> None:
        """The runtime has replaced the map of views. A view that went must not be installed again."""
        with self._lock:
            now, before = self._clock(), self._views
            for name, view in before.items():
                if views.get(name) is not view:
                    self._model(name).retire(view, dropped=name not in views)
            self._views = views
            for name, view in views.items():
                if before.get(name) is not view:
                    self._model(name).shows(view, now)

    def loaded(self, model: str, *, steps: Mapping[str, float], reload: bool = False) -> None:
        """A generation was loaded; seconds by step. `reload`: it was held already, and was loaded afresh."""
        with self._lock:
            record = self._model(model)
            record.loads.add("ok")
            record.reloads += reload
            record.loaded_at = self._wall()
            for step, seconds in steps.items():
                add_time(record.load_steps, step, seconds)

    def load_failed(self, model: str, *, outcome: Literal["failed", "bad"], step: str, why: str) -> None:
        """A load ended at `step`: "failed" may be tried again, "bad" is a verdict on verified bytes (R13)."""
        with self._lock:
            record = self._model(model)
            record.loads.add(outcome)
            record.last_load_failure = self._remark(why, outcome=outcome, step=step)

    def invalidated(self, model: str, reason: str) -> None:
        with self._lock:
            self._model(model).invalidations.add(reason)

    def dropped(self, model: str, reason: DropReason) -> None:
        with self._lock:
            self._model(model).drops.add(reason)

    def flipped(self, model: str, *, phases: Mapping[str, float]) -> None:
        """This worker changed to another generation; seconds by phase (preparing, fencing)."""
        with self._lock:
            record = self._model(model)
            record.flips += 1
            record.flipped_at = self._wall()
            for phase, seconds in phases.items():
                add_time(record.flip_phases, phase, seconds)

    def rejected(self, model: str, *, generation: int, why: str) -> None:
        """The fleet rejected a candidate."""
        with self._lock:
            record = self._model(model)
            record.rejected += 1
            record.last_rejection = self._remark(why, generation=generation)

    def refused(self, model: str, *, generation: int, reason: str, why: str) -> None:
        """This worker refused a manifest, because nobody whose key counts here vouches for it."""
        with self._lock:
            record = self._model(model)
            record.refused.add(reason)
            record.last_refusal = self._remark(why, generation=generation, reason=reason)

    # --- what becomes of the process -----------------------------------------------------------------------

    def redis_called(self, call: str, seconds: float, *, ok: bool) -> None:
        """One call of the registry, by the name of its script."""
        with self._lock:
            self._redis_up = ok
            call = bounded(self._redis, call)
            self._redis.setdefault(call, Kinds(("ok", "failed"))).add("ok" if ok else "failed")
            add_time(self._redis_times, call, seconds)

    def heartbeat(self) -> None:
        self._happened("heartbeats")

    def evicted(self) -> None:
        """This worker learned that it was no member any more without having left."""
        self._happened("evictions")

    def resubscribed(self) -> None:
        """The subscription to the hint was replaced (R14)."""
        self._happened("resubscriptions")

    def epoch_seen(self, number: int) -> None:
        """The fleet's epoch, as often as it is heard; counted when it is another one."""
        with self._lock:
            self._process["epochs"] += number != self._epoch
            self._epoch = number

    def hook_raised(self, hook: str) -> None:
        """A callback of the user raised; it was logged, and nothing else happened."""
        with self._lock:
            self._hook_errors.add(hook)

    def _happened(self, what: str) -> None:
        with self._lock:
            self._process[what] += 1

    # --- the hit rate --------------------------------------------------------------------------------------

    def hit_rate(self) -> HitRate:
        """Since the process began to use models."""
        with self._lock:
            return self._totals()

    def window_hit_rate(self) -> HitRate:
        """Over the last `WINDOW_S`."""
        with self._lock:
            return self._window.sample(self._clock(), self._totals())

    def alarm(self, threshold: float, callback: Callable[[HitRate], object], *, least: int = LEAST_USES) -> None:
        """Call `callback(rate)` when the rate of the window falls below `threshold` with `least` uses in it:
        once, and again only after it had recovered. It is called by the thread that calls `tick`; what it
        raises is counted as a hook's error."""
        with self._lock:
            self._alarms.append(Alarm(threshold, callback, least))

    def tick(self) -> None:
        """Takes a sample of the window and rings alarms. The runtime calls it with every heartbeat."""
        rate = self.window_hit_rate()
        with self._lock:
            ringing = [alarm for alarm in self._alarms if alarm.rings(rate)]
            self._rung += len(ringing)
        for alarm in ringing:
            try:
                alarm.callback(rate)
            except Exception:
                # The tick is the heartbeat's: an alarm that fails must not cost the lease.
                _log.exception("the callback of an alarm on the hit rate raised")
                self.hook_raised("on_low_hit_rate")

    # --- as values -----------------------------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """The totals of this process, flat and ready for JSON. Times in seconds, None: nothing to say yet."""
        with self._lock:
            return self._summary()

    def detail(self) -> dict[str, Any]:
        """The summary, and the figures of the process and of every model, ready for JSON."""
        with self._lock:
            return {
                **self._summary(),
                "process": {
                    **self._process,
                    "fleet": self.fleet,
                    "epoch": self._epoch,
                    "redis_up": self._redis_up,
                    "redis_calls": {call: dict(counts) for call, counts in self._redis.items()},
                    "redis_times": facts_of(self._redis_times),
                    "hook_errors": dict(self._hook_errors),
                },
                "models": {name: self._model_facts(name) for name in sorted({*self._models, *self._views})},
            }

    def _summary(self) -> dict[str, Any]:
        now, rate, records = self._clock(), self._totals(), tuple(self._models.values())
        return {
            "worker": self.worker,
            "at": self._wall(),
            "uptime_s": now - self._started,
            "lease_s": max(0.0, self.lease.deadline - now),
            "held": len(self._views),
            "bytes": sum(view.bytes for view in self._views.values()),
            "hits": rate.hits,
            "misses": rate.misses,
            "hit_rate": rate.value,
            "window_s": WINDOW_S,
            "window_hit_rate": self._window.sample(now, rate).value,
            "hit_rate_threshold": max((alarm.threshold for alarm in self._alarms), default=None),
            "hit_rate_low": any(not alarm.armed for alarm in self._alarms) if self._alarms else None,
            "hit_rate_alarms": self._rung,
            "asks": sum(record.asks for record in records),
            "stale_answers": sum(record.stale_answers for record in records)
            + sum(view.uses for view in self._views.values() if view.stale),
            "loads": sum(record.loads["ok"] for record in records),
            "load_failures": sum(record.loads["failed"] + record.loads["bad"] for record in records),
            "reloads": sum(record.reloads for record in records),
            "invalidations": sum(sum(record.invalidations.values()) for record in records),
            "drops": sum(sum(record.drops.values()) for record in records),
            "flips": sum(record.flips for record in records),
            "rejected": sum(record.rejected for record in records),
            "errors": sum(record.errors for record in records),
            "evictions": self._process["evictions"],
        }

    # --- with the lock held --------------------------------------------------------------------------------

    def _model(self, name: str) -> ModelStats:
        if name not in self._models and len(self._models) >= MAX_NAMES and name not in self._views:
            name = OTHERS
        return self._models.setdefault(name, ModelStats())

    def _model_facts(self, name: str) -> dict[str, Any]:
        view, record = self._views.get(name), self._models.get(name, ModelStats())
        used = max(record.used_at, view.used_at if view else -math.inf)
        unix = None if used == -math.inf else self._wall() - (self._clock() - used)
        return record.facts(view, self.held.get(name, {}), used_at=unix)

    def _totals(self) -> HitRate:
        live = sum(view.uses for view in self._views.values())
        records = self._models.values()
        return HitRate(live + sum(r.retired for r in records), sum(r.misses for r in records))

    def _remark(self, why: str, **facts: Any) -> dict[str, Any]:
        return {"at": self._wall(), **facts, "why": why[:MAX_WHY]}
