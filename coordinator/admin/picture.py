"""The fleet at one moment as the admin shows it, each part encoded once, and what has changed since another picture. Pure.

Many look at the same picture: a request takes its bytes, a stream the difference to the picture before, which is made once for all streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import msgspec

from ..records import Member, Snapshot
from ..status import ModelStatus, WorkerStatus, candidate_workers, status_of_worker
from .wire import CandidateProgress, Counts, FleetNow, Stats

#: Member → (state, what it said), of each (model, generation of its candidate).
Entries = Mapping[tuple[str, int], Mapping[str, tuple[str, Mapping[str, Any]]]]
Parts = Mapping[str, bytes]


@dataclass(frozen=True)
class Picture:
    """What is known of the fleet. `models` by name, `members` and `workers` by member, `candidates` by model, each of them as JSON in its
    parts; `is_busy`: something is in work.
    """

    fleet: FleetNow
    models: Mapping[str, ModelStatus]
    members: Mapping[str, Member]
    workers: Mapping[str, WorkerStatus]
    candidates: Mapping[str, CandidateProgress]
    is_busy: bool
    model_parts: Parts
    worker_parts: Parts
    candidate_parts: Parts

    @cached_property
    def fleet_json(self) -> bytes:
        """wire.FleetNow."""
        return msgspec.json.encode(self.fleet)

    @cached_property
    def models_json(self) -> bytes:
        """wire.Models."""
        return self._listed(b"models", self.model_parts)

    @cached_property
    def workers_json(self) -> bytes:
        """wire.Workers."""
        return self._listed(b"workers", self.worker_parts)

    @cached_property
    def everything(self) -> bytes:
        """All of it, for a stream that begins."""
        return message("fleet", self.fleet_json) + b"".join(_differences(None, self))

    def _listed(self, name: bytes, parts: Parts) -> bytes:
        rest = msgspec.json.encode({"as_of": self.fleet.as_of, "stale": self.fleet.stale})
        return b'{"%b":[%b],%b' % (name, b",".join(parts.values()), rest[1:])

    def model(self, name: str) -> ModelStatus | None:
        """One model, with how far each worker is with its candidate."""
        found, progress = self.models.get(name), self.candidates.get(name)
        if found is None or found.candidate is None or progress is None:
            return found
        return msgspec.structs.replace(
            found, candidate=msgspec.structs.replace(found.candidate, workers=progress.workers)
        )

    @cached_property
    def stats(self) -> Stats:
        """What the workers said of themselves, added up; shares and times cannot be added, and are left out."""
        said = [stats for worker in self.workers.values() if isinstance(stats := worker.about.get("stats"), dict)]
        totals = {name: float(sum(_numbers(stats.get(name) for stats in said))) for name in ADDED}
        return Stats(workers=len(said), totals=totals, as_of=self.fleet.as_of, stale=self.fleet.stale)

    def gone_stale(self, why: str) -> Picture:
        """The same, of a fleet whose Redis does not answer any more."""
        return replace(self, fleet=msgspec.structs.replace(self.fleet, stale=True, why=why), is_busy=False)


#: Figures of a worker (worker/stats.py) that mean something when they are added up.
ADDED = (
    "bytes",
    "held",
    "hits",
    "misses",
    "asks",
    "stale_answers",
    "errors",
    "loads",
    "flips",
    "rejected",
)


def _numbers(values: Iterable[Any]) -> Iterator[float]:
    for value in values:
        if isinstance(value, int | float) and abs(value) < 2**63:
            yield value


def picture_of(
    snapshot: Snapshot,
    models: Iterable[ModelStatus],
    entries: Entries,
    *,
    name: str,
    fleet_id: str,
    redis: str,
    store: str,
    as_of: float,
    silent: Mapping[str, float] | None = None,
    before: Picture | None = None,
) -> Picture:
    """The picture of a snapshot. `models`: of it; `redis`, `store`: where they are; `as_of`: unix s, when it was read; `silent`: member →
    since when; `before`: the last one, of which is taken what is as it was."""
    found = {model.model: model for model in models}
    members = {member.id: member for member in snapshot.members}
    workers, worker_parts = _workers(members, silent or {}, before)
    fleet = FleetNow(
        name=name,
        id=fleet_id,
        epoch=snapshot.epoch,
        open=snapshot.is_open,
        lease_s=snapshot.lease_s,
        revision=snapshot.revision,
        redis=redis,
        store=store,
        counts=_counts(found, workers),
        as_of=as_of,
        stale=False,
    )
    candidates = dict(_progress(found, entries, members))
    has_tasks = any(not task.get("ended") for task in snapshot.tasks.values() if isinstance(task, dict))
    return Picture(
        fleet,
        found,
        members,
        workers,
        candidates,
        is_busy=bool(candidates) or has_tasks,
        model_parts={name: msgspec.json.encode(model) for name, model in found.items()},
        worker_parts=worker_parts,
        candidate_parts={name: msgspec.json.encode(progress) for name, progress in candidates.items()},
    )


def _workers(
    members: Mapping[str, Member], silent: Mapping[str, float], before: Picture | None
) -> tuple[dict[str, WorkerStatus], dict[str, bytes]]:
    """The workers, and each as JSON. A beat alone changes nothing that is shown."""
    workers, parts = {}, {}
    for name, member in members.items():
        known, since = before.members.get(name) if before else None, silent.get(name)
        worker = before.workers[name] if before and known else None
        if (
            worker
            and known
            and before
            and (known.holds, known.about, worker.silent_since) == (member.holds, member.about, since)
        ):
            workers[name], parts[name] = worker, before.worker_parts[name]
        else:
            workers[name] = msgspec.structs.replace(status_of_worker(member), silent_since=since)
            parts[name] = _encoded(workers[name])
    return workers, parts


def _encoded(worker: WorkerStatus) -> bytes:
    """As JSON; of one who says what cannot be written, because it is nested too deep, without what it says."""
    try:
        return msgspec.json.encode(worker)
    except RecursionError:
        return msgspec.json.encode(msgspec.structs.replace(worker, last_error=None, about={}))


def _counts(models: Mapping[str, ModelStatus], workers: Mapping[str, WorkerStatus]) -> Counts:
    return Counts(
        models=len(models),
        workers=len(workers),
        hosts=len({worker.host for worker in workers.values()}),
        candidates=sum(model.candidate is not None for model in models.values()),
        pinned=sum(model.pin is not None for model in models.values()),
        poisoned=sum(model.poisoned for model in models.values()),
    )


def _progress(
    models: Mapping[str, ModelStatus], entries: Entries, members: Mapping[str, Member]
) -> Iterator[tuple[str, CandidateProgress]]:
    for name, model in models.items():
        if model.candidate is not None:
            generation = model.candidate.generation
            workers = candidate_workers(name, generation, entries.get((name, generation), {}), members)
            yield name, CandidateProgress(model=name, generation=generation, workers=workers)


# --- for streams -----------------------------------------------------------------------------------------------------


def message(event: str, data: bytes, entry_id: str | None = None) -> bytes:
    """One server-sent event; `data`: JSON, which has no line end in it."""
    head = f"event: {event}\n" if entry_id is None else f"event: {event}\nid: {entry_id}\n"
    return head.encode() + b"data: " + data + b"\n\n"


def differences(before: Picture, after: Picture) -> bytes:
    """The events that tell a stream what has changed; nothing where nothing has but the time."""
    still = msgspec.structs.replace(before.fleet, as_of=after.fleet.as_of)
    head = b"" if still == after.fleet else message("fleet", after.fleet_json)
    return head + b"".join(_differences(before, after))


def _differences(before: Picture | None, after: Picture) -> Iterator[bytes]:
    """models, workers, candidate; without a picture before, whatever there is."""
    for kind, name in (("models", "model_parts"), ("workers", "worker_parts")):
        new, old = getattr(after, name), getattr(before, name) if before else {}
        changed = [data for key, data in new.items() if old.get(key) != data]
        gone = [key for key in old if key not in new]
        if changed or gone or before is None:
            lost = msgspec.json.encode(gone)
            yield message(kind, b'{"changed":[%b],"gone":%b}' % (b",".join(changed), lost))
    old = before.candidate_parts if before else {}
    for key, data in after.candidate_parts.items():
        if old.get(key) != data:
            yield message("candidate", data)
