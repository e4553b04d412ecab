"""The figures of the fleet for Prometheus: from a picture, and from what the audit log has told since this process began. Pure.

What is exported stands in METRICS. All of it has the label `fleet`; what is of a model, `model`. A figure without a value is left out.
Counts of the log begin at 0 with this process, for every model that is known: an increase by the first event can be seen.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..metrics import BUCKETS_S, Labels, Metric, Sample, Times, text_of
from ..records import as_number
from ..status import ModelStatus, WorkerStatus
from .picture import Picture
from .wire import LogEntry

#: Seconds; upper bounds of the phases of a flip: those of a worker from a millisecond on, which is what the log counts in.
FLIP_BUCKETS_S = BUCKETS_S[2:]
#: What may become of a candidate.
OUTCOMES = ("committed", "rejected", "aborted", "superseded")
#: What may happen to a fleet that somebody should hear of: docs/monitoring.md says what each is.
EVENTS = ("epoch", "evicted", "healed", "alarm")
PHASES = ("idle", "preparing", "canary", "fencing")
#: What a holder answers from: the active generation; another one, unmarked; whatever it has, marked stale; nothing yet.
STANDINGS = ("active", "other", "stale", "nothing")
#: Models of which the log may have told, and flips in work, that are remembered at most: twice what a fleet is meant for.
MAX_MODELS = 400

_TEXT = """
genlock_fleet_redis_up gauge 1 if the admin's last look at Redis had an answer, else 0.
genlock_fleet_picture_timestamp_seconds gauge Unix time of the look that these figures are from.
genlock_fleet_open gauge 1 if the fleet is open, 0 while it is closed because Redis may have lost data.
genlock_fleet_epoch gauge Number of the epoch.
genlock_fleet_lease_seconds gauge Lease of the fleet.
genlock_fleet_workers gauge Live workers.
genlock_fleet_hosts gauge Hosts with live workers.
genlock_fleet_models gauge Models that were ever published.
genlock_fleet_hit_ratio gauge Hits divided by uses of all live workers in the last minute.
genlock_fleet_redis_memory_bytes gauge Memory that the Redis server uses.
genlock_fleet_redis_max_memory_bytes gauge Most memory that it may use, where it has a limit.
genlock_fleet_events_total counter Events of the audit log since the admin began.
genlock_model_active_generation gauge The active generation.
genlock_model_committed_timestamp_seconds gauge Unix time at which it became active.
genlock_model_unproven gauge 1 while no worker has loaded the active generation, else 0.
genlock_model_phase gauge 1 for the phase that the model is in, 0 for the others.
genlock_model_candidate_generation gauge The generation that the fleet is getting ready for.
genlock_model_candidate_started_timestamp_seconds gauge Unix time at which it became the candidate.
genlock_model_candidate_deadline_timestamp_seconds gauge Unix time at which its phase has to be over.
genlock_model_candidate_workers gauge Workers by their answer to the candidate.
genlock_model_canary_share gauge Share of the requests with a key that a canary answers.
genlock_model_holders gauge Workers that hold the model.
genlock_model_workers gauge Holders by what they say that they answer from.
genlock_model_pinned gauge 1 if the model is pinned, else 0.
genlock_model_poisoned_versions gauge Versions that were found bad.
genlock_model_outcomes_total counter Candidates by what became of them, since the admin began.
genlock_model_flip_seconds histogram Phases of committed flips since the admin began, by the server's clock.
genlock_model_last_flip_seconds gauge Phases of the last flip that is in the log.
"""

METRICS = {
    name: Metric(name, kind, text) for name, kind, text in (line.split(" ", 2) for line in _TEXT.split("\n") if line)
}


class Memory(NamedTuple):
    """Of the server. `max_bytes`: 0 where it has no limit."""

    used_bytes: int
    max_bytes: int


class Heard(NamedTuple):
    """What the log has told. `outcomes`: (model, outcome) → how often; `flips`, `last`: (model, phase) → seconds."""

    events: Mapping[str, int]
    outcomes: Mapping[tuple[str, str], int]
    flips: Mapping[tuple[str, str], Times]
    last: Mapping[tuple[str, str], float]
    memory: Memory | None


class Told:
    """Hears of the audit log, entry by entry, and of the server's memory. One thread tells, any thread reads `heard`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: Counter[str] = Counter()
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._flips: dict[tuple[str, str], Times] = {}
        self._last: dict[tuple[str, str], float] = {}
        #: (model, generation) in work → phase → when, by the server's clock.
        self._begun: dict[tuple[str, int], dict[str, float]] = {}
        self._memory: Memory | None = None

    def hears(self, entries: Iterable[LogEntry], memory: Memory | None, *, is_new: bool) -> None:
        """Entries in their order, each once. `is_new`: they were written since this process began; older ones are not counted."""
        with self._lock:
            self._memory = memory
            for entry in entries:
                self._hear(entry, is_new=is_new)

    def _hear(self, entry: LogEntry, *, is_new: bool) -> None:
        if entry.what in EVENTS:
            self._events[entry.what] += is_new
        flip = (entry.model, as_number(str(entry.facts.get("generation"))))
        if entry.what in ("candidate", "fencing"):
            if len(self._begun) < MAX_MODELS:
                self._begun.setdefault(flip, {})[entry.what] = entry.at
        elif entry.what in OUTCOMES and self._is_known(entry.model):
            self._outcomes[entry.model, entry.what] += is_new
            began = self._begun.pop(flip, {})
            if entry.what == "committed":
                self._flipped(entry.model, began, entry.at, is_new=is_new)

    def _is_known(self, model: str) -> bool:
        is_full = len(self._outcomes) >= MAX_MODELS * len(OUTCOMES)
        return not is_full or any((model, outcome) in self._outcomes for outcome in OUTCOMES)

    def _flipped(self, model: str, began: Mapping[str, float], ended: float, *, is_new: bool) -> None:
        """A canary stands between preparing and fencing, so it counts as preparing here."""
        started, fencing = began.get("candidate"), began.get("fencing")
        spans = {"preparing": (started, fencing or ended), "fencing": (fencing, ended), "total": (started, ended)}
        for phase, (since, until) in spans.items():
            if since is None:
                self._last.pop((model, phase), None)
                continue
            self._last[model, phase] = seconds = max(0.0, until - since)
            if is_new:
                self._flips.setdefault((model, phase), Times(FLIP_BUCKETS_S)).add(seconds)

    def heard(self) -> Heard:
        """What was told so far."""
        with self._lock:
            flips = {key: value.copy() for key, value in self._flips.items()}
            return Heard(dict(self._events), dict(self._outcomes), flips, dict(self._last), self._memory)


Found = dict[str, list[tuple[Labels, float]]]


def figures(picture: Picture, heard: Heard) -> str:
    """The text of `/metrics`."""
    fleet = (("fleet", picture.fleet.name),)
    rows = {**_of_fleet(picture, heard), **_of_models(picture), **_of_log(picture, heard)}
    samples = {name: [Sample(fleet + labels, value) for labels, value in found] for name, found in rows.items()}
    samples["genlock_model_flip_seconds"] = [
        sample
        for (model, phase), found in sorted(heard.flips.items())
        for sample in found.samples((*fleet, ("model", model), ("phase", phase)))
    ]
    return text_of((metric, samples.get(name, ())) for name, metric in METRICS.items())


def _of_fleet(picture: Picture, heard: Heard) -> Found:
    fleet, counts, memory = picture.fleet, picture.fleet.counts, heard.memory
    found: dict[str, float | None] = {
        "redis_up": not fleet.stale,
        "picture_timestamp_seconds": fleet.as_of,
        "open": fleet.open,
        "epoch": fleet.epoch,
        "lease_seconds": fleet.lease_s,
        "workers": counts.workers,
        "hosts": counts.hosts,
        "models": counts.models,
        "hit_ratio": hit_ratio(picture.workers.values()),
        "redis_memory_bytes": memory.used_bytes if memory else None,
        "redis_max_memory_bytes": (memory.max_bytes or None) if memory else None,
    }
    rows: Found = {f"genlock_fleet_{name}": [((), value)] for name, value in found.items() if value is not None}
    rows["genlock_fleet_events_total"] = [((("event", what),), heard.events.get(what, 0)) for what in EVENTS]
    return rows


def hit_ratio(workers: Iterable[WorkerStatus]) -> float | None:
    """Of the last minute, as each worker said it last, weighed by its uses since it began; None before the first use."""
    uses, hits = 0.0, 0.0
    for worker in workers:
        said = worker.about.get("stats")
        if not isinstance(said, dict) or (rate := _number(said.get("window_hit_rate"))) is None:
            continue
        weight = (_number(said.get("hits")) or 0.0) + (_number(said.get("misses")) or 0.0)
        uses, hits = uses + weight, hits + rate * weight
    return hits / uses if uses else None


def _number(value: Any) -> float | None:
    """What a worker says of itself could be anything."""
    return float(value) if isinstance(value, int | float) and 0 <= value < 2**63 else None


def _of_models(picture: Picture) -> Found:
    rows: Found = {}
    standing = _standing(picture)
    for name, model in picture.models.items():
        for metric, labels, value in _of_model(model, standing.get(name, Counter())):
            if value is not None:
                rows.setdefault(f"genlock_model_{metric}", []).append(((("model", name), *labels), value))
    return rows


def _of_model(model: ModelStatus, standing: Mapping[str, int]) -> Iterator[tuple[str, Labels, float | None]]:
    yield "active_generation", (), model.generation
    yield "committed_timestamp_seconds", (), model.committed_at
    yield "unproven", (), model.unproven
    for phase in PHASES:
        yield "phase", (("phase", phase),), phase == model.phase
    yield "holders", (), model.holders
    for state in STANDINGS:
        yield "workers", (("state", state),), standing.get(state, 0)
    yield "pinned", (), model.pin is not None
    yield "poisoned_versions", (), model.poisoned
    candidate = model.candidate
    if candidate is not None:
        yield "candidate_generation", (), candidate.generation
        yield "candidate_started_timestamp_seconds", (), candidate.started
        yield "candidate_deadline_timestamp_seconds", (), candidate.deadline or None
        for state in ("awaited", "ready", "failed", "fenced"):
            yield "candidate_workers", (("state", state),), getattr(candidate, state)
        yield "canary_share", (), candidate.share


def _standing(picture: Picture) -> Mapping[str, Counter[str]]:
    """Model → how many of its holders answer from what, as each said it last."""
    found: dict[str, Counter[str]] = {}
    for worker in picture.workers.values():
        said = worker.about.get("models")
        for name in worker.models:
            model = picture.models.get(name)
            if model is not None:
                about = said.get(name) if isinstance(said, dict) else None
                found.setdefault(name, Counter())[_stands(about, model.generation)] += 1
    return found


def _stands(about: Any, active: int | None) -> str:
    if not isinstance(about, dict) or about.get("generation") is None:
        return "nothing"
    if about.get("stale"):
        return "stale"
    return "active" if about["generation"] == active else "other"


def _of_log(picture: Picture, heard: Heard) -> Found:
    outcomes = {(model, outcome): 0 for model in picture.models for outcome in OUTCOMES} | dict(heard.outcomes)
    return {
        "genlock_model_outcomes_total": [
            ((("model", model), ("outcome", outcome)), count) for (model, outcome), count in sorted(outcomes.items())
        ],
        "genlock_model_last_flip_seconds": [
            ((("model", model), ("phase", phase)), seconds) for (model, phase), seconds in sorted(heard.last.items())
        ],
    }
