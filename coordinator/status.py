"""A fleet as people read it: FleetStatus, ModelStatus, Generation, WorkerStatus. Pure: made of what stands in Redis, for JSON and tables.

Times are unix seconds of the server's clock, but `created_at`, which is the publisher's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .canary import ALL, Both, Policy, both_of, policy_of
from .errors import GenlockError
from .flip import phases_of, workers_of
from .manifest import Manifest, decode
from .records import Member, Record, Snapshot, as_number, as_object
from .reply import Candidate

#: Generations of a model that Redis keeps, beside the ways back (lua/_model.lua has it too).
KEPT_GENERATIONS = 256
#: What stands in Redis of generations: number → (manifest, outcome).
Stored = Mapping[int, tuple[bytes | None, bytes | None]]


class CandidateWorker(msgspec.Struct, frozen=True, kw_only=True):
    """How far one worker is with a candidate. `state`: awaited, late (not waited for), ready, failed, fenced; `step`: of the load that
    runs, or that failed with `why`; `seconds`: of each step that is done."""

    worker: str
    member: str
    host: str
    state: str
    step: str
    seconds: dict[str, float]
    why: str


class CandidateStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the fleet is getting ready for; the counts are of workers in that state.

    `share`: of the requests with a key that it answers now, of `steps`, None outside of a canary; `policy`: who promotes it, None: people;
    `figures`: group (active, candidate) → requests, errors, mean_s, p95_s, score since the step began. `workers`: only where they were
    asked for.
    """

    generation: int
    version: str
    by: str
    ready: int
    awaited: int
    failed: int
    fenced: int
    deadline: float
    started: float | None = None
    share: float | None = None
    steps: list[float] = []
    policy: Policy | None = None
    figures: dict[str, Any] | None = None
    workers: list[CandidateWorker] | msgspec.UnsetType = msgspec.UNSET


class WatchStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The active generation is watched by the policy of its canary, `until` then; `figures`: as those of a candidate."""

    generation: int
    until: float
    policy: Policy | None
    figures: dict[str, Any] | None


class Note(msgspec.Struct, frozen=True):
    """Who, when, why: of a pin, and of the proposal that waits."""

    by: str
    at: float | None = None
    why: str = ""
    version: str = ""


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One model. `phase`: idle, preparing, canary, fencing; `poisoned`: how many versions were found bad; `way_back`: where a rollback
    would go.
    """

    model: str
    generation: int | None
    version: str | None
    committed_at: float | None
    unproven: bool
    phase: str
    candidate: CandidateStatus | None
    waits: Note | None
    pin: Note | None
    holders: int
    poisoned: int
    message: str
    author: str
    way_back: int | None = None
    watch: WatchStatus | None = None


class FleetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet at one instant. `open`: its members may have leases; `redis`, `store`: where they are; `workers`: how many live."""

    name: str
    id: str
    epoch: int
    open: bool
    lease_s: float
    revision: int
    redis: str
    store: str
    workers: int
    models: list[ModelStatus]


class Part(msgspec.Struct, frozen=True):
    """An artifact of a generation: its name, bytes, BLAKE3 digest, and the path on the publisher's host that it was copied from."""

    name: str
    size: int
    digest: str
    source: str = ""


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """A row of a model's history. `outcome`: committed, rejected, aborted or candidate; `why`, `step`, `worker`: of a rejection;
    `rollback_of`: the generation whose content it has again; `seconds`, `workers`: see Flip; `artifacts`: the files that it is made of;
    `metrics`: what training measured; `created_at`: when its content was staged, so of a rollback long before `decided_at`."""

    generation: int
    version: str
    outcome: str
    active: bool
    created_at: float | None
    author: str
    message: str
    why: str
    step: str
    worker: str
    rollback_of: int | None
    seconds: dict[str, float]
    workers: dict[str, dict[str, Any]]
    artifacts: list[Part] = []
    metrics: dict[str, float] = {}
    decided_at: float | None = None


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A live worker, as it describes itself every tenth heartbeat; `about`: all that it says, also what has no field here;
    `silent_since`: no heartbeat has come since then, where somebody looked."""

    worker: str
    member: str
    host: str
    pid: int | None
    started_at: float | None
    models: list[str]
    generations: dict[str, int]
    last_error: Any
    about: dict[str, Any]
    silent_since: float | None = None


def read_manifest(data: bytes | None) -> Manifest | None:
    """The manifest in `data`; what makes no sense is left out, as in records."""
    try:
        return decode(data) if data else None
    except GenlockError:
        return None


def status_of_model(name: str, snapshot: Snapshot, active: Manifest | None, both: Both | None = None) -> ModelStatus:
    """One model of the snapshot; `active`: the manifest of its active generation; `both`: what is counted of a canary or a watch."""
    record = snapshot.models[name]
    at = record.active
    return ModelStatus(
        model=name,
        generation=at.gen if at else None,
        version=at.version if at else None,
        committed_at=at.at / 1000 if at else None,
        unproven=at is not None and at.unproven,
        phase=record.phase,
        candidate=_candidate(record.cand, both),
        waits=_note(record.waits),
        pin=_note(record.pin),
        holders=snapshot.holders[name],
        poisoned=len(record.poison),
        message=active.message if active else "",
        author=active.author if active else "",
        way_back=way_back_of(record),
        watch=_watch(record, both),
    )


def way_back_of(record: Record) -> int | None:
    """Where a rollback without a number goes (R11): the newest committed generation below the active one, of another version, that no
    rollback has left and that is not poisoned."""
    if record.active is None or not isinstance(record.committed, dict):
        return None
    poison = record.poison if isinstance(record.poison, dict) else {}
    ways = [
        number
        for text, row in record.committed.items()
        if (number := as_number(text)) < record.active.gen
        and row.get("version") != record.active.version
        and not row.get("left")
        and str(row.get("poison", "")) not in poison
    ]
    return max(ways, default=None)


def tried_of(record: Record) -> tuple[int, int] | None:
    """What is counted of a model now: (generation, step of its canary), step 0 of an active generation that is watched; or nothing."""
    if record.cand is not None and record.phase == "canary":
        return record.cand.gen, record.cand.step
    return (record.watch.gen, 0) if record.watch is not None else None


def _watch(record: Record, both: Both | None) -> WatchStatus | None:
    found = record.watch
    if found is None or record.active is None or found.gen != record.active.gen:
        return None
    figures = Both(active=(both_of(found.base) or Both()).active, candidate=(both or Both()).candidate).shown()
    is_counted = record.phase != "canary"  # what is counted then is the canary's
    return WatchStatus(
        generation=found.gen,
        until=found.deadline / 1000,
        policy=policy_of(found.policy),
        figures=figures if is_counted else None,
    )


def _candidate(found: Candidate | None, both: Both | None) -> CandidateStatus | None:
    if found is None:
        return None
    is_canary = found.phase == "canary"
    tried = found.canary
    return CandidateStatus(
        generation=found.gen,
        version=found.version,
        by=found.by,
        ready=found.ready,
        awaited=found.awaited,
        failed=found.failed,
        fenced=found.fenced,
        deadline=found.deadline / 1000,
        started=found.started / 1000 or None,
        share=found.share / ALL if is_canary else None,
        steps=[share / ALL for share in tried.steps] if tried else [],
        policy=policy_of(tried.policy) if tried else None,
        figures=(both or Both()).shown() if is_canary else None,
    )


def _note(found: Mapping[str, Any] | None) -> Note | None:
    if found is None:
        return None
    at = as_number(str(found.get("at", "")))
    moment = at / 1000 if at else None
    return Note(str(found.get("by", "?")), moment, str(found.get("why", "")), str(found.get("version", "")))


def history_of(record: Record, stored: Stored) -> list[Generation]:
    """The stored generations of a model, the newest first."""
    active = record.active.gen if record.active else None
    return [_generation(number, *stored[number], number == active) for number in sorted(stored, reverse=True)]


def _generation(number: int, data: bytes | None, outcome: bytes | None, is_active: bool) -> Generation:
    manifest, row = read_manifest(data), as_object(outcome)
    return Generation(
        generation=number,
        version=str(row.get("version") or (manifest.version if manifest else "")),
        outcome=str(row.get("outcome", "?")),
        active=is_active,
        created_at=manifest.created_at if manifest else None,
        author=str(row.get("by") or (manifest.author if manifest else "")),
        message=manifest.message if manifest else "",
        why=str(row.get("why", "")),
        step=str(row.get("step", "")),
        worker=str(row.get("worker", "")),
        rollback_of=as_number(str(row.get("rollback", ""))) or None,
        seconds=phases_of(row),
        workers=workers_of(row),
        artifacts=_parts(manifest) if manifest else [],
        metrics=manifest.metrics if manifest else {},
        decided_at=as_number(str(row.get("ended", ""))) / 1000 or None,
    )


def _parts(manifest: Manifest) -> list[Part]:
    sources = {name: source.path for name, source in manifest.sources.items()}
    return [Part(one.name, one.size, one.digest, sources.get(one.name, "")) for one in manifest.artifacts]


def candidate_workers(
    model: str, generation: int, said: Mapping[str, tuple[str, Mapping[str, Any]]], members: Mapping[str, Member]
) -> list[CandidateWorker]:
    """The workers that get ready for a candidate, in the order in which they joined; `said`: member → (state, what it said)."""
    return [
        _candidate_worker(members.get(member) or Member(member, 0, (), {}), model, generation, *said[member])
        for member in sorted(said, key=as_number)
    ]


def _candidate_worker(
    member: Member, model: str, generation: int, state: str, detail: Mapping[str, Any]
) -> CandidateWorker:
    seconds = detail.get("seconds")
    known = seconds.items() if isinstance(seconds, dict) else ()
    return CandidateWorker(
        worker=str(detail.get("worker") or name_of(member)),
        member=member.id,
        host=str(member.about.get("host", "")),
        state=state,
        step=str(detail.get("step") or (_loading(member, model, generation) if state in ("awaited", "late") else "")),
        seconds={name: span for name, value in known if (span := _seconds(value)) is not None},
        why=str(detail.get("why", "")),
    )


def _loading(member: Member, model: str, generation: int) -> str:
    """The step that a worker says it is at."""
    loading = member.about.get("loading")
    found = loading.get(model) if isinstance(loading, dict) else None
    return str(found.get("step", "")) if isinstance(found, dict) and found.get("generation") == generation else ""


def status_of_worker(member: Member) -> WorkerStatus:
    """A member, and what it says of itself."""
    about = dict(member.about)
    generations = about.get("generations")
    return WorkerStatus(
        worker=name_of(member),
        member=member.id,
        host=str(about.get("host", "")),
        pid=_whole(about.get("pid")),
        started_at=_seconds(about.get("started_at")),
        models=sorted(member.holds),
        generations=_numbers(generations) if isinstance(generations, dict) else {},
        last_error=about.get("last_error"),
        about=about,
    )


def name_of(member: Member) -> str:
    """The name that people know a member by."""
    return str(member.about.get("worker") or member.id)


def _seconds(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:  # JSON has whole numbers of any length
        return None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _numbers(found: Mapping[str, Any]) -> dict[str, int]:
    return {model: number for model, number in found.items() if isinstance(number, int)}


def numbers_of(record: Record) -> list[int]:
    """Every generation of which something may be stored: what was committed, is active or in work, and the last 256."""
    last = record.next - 1
    kept = {as_number(str(number)) for number in record.committed} - {0}
    kept |= {place.gen for place in (record.active, record.cand) if place is not None}
    return sorted(kept | set(range(max(1, last - KEPT_GENERATIONS), last + 1)))
