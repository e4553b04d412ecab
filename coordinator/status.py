"""A fleet as people read it: FleetStatus, ModelStatus, Generation, WorkerStatus. Pure: made of what stands in Redis, for JSON and tables.

Times are unix seconds of the server's clock, but `created_at`, which is the publisher's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .calls import Candidate
from .errors import GenlockError
from .flip import phases_of, workers_of
from .manifest import Manifest, decode
from .records import Member, Record, Snapshot, as_number, as_object

#: Generations of a model that Redis keeps, beside the ways back (lua/_model.lua has it too).
KEPT_GENERATIONS = 256
#: What stands in Redis of generations: number → (manifest, outcome).
Stored = Mapping[int, tuple[bytes | None, bytes | None]]


class CandidateStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the fleet is getting ready for; the counts are of workers in that state."""

    generation: int
    version: str
    by: str
    ready: int
    awaited: int
    failed: int
    fenced: int
    deadline: float


class Note(msgspec.Struct, frozen=True):
    """Who, when, why: of a pin, and of the proposal that waits."""

    by: str
    at: float | None = None
    why: str = ""
    version: str = ""


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One model. `phase`: idle, preparing, fencing; `poisoned`: how many versions were found bad."""

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


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """A row of a model's history. `outcome`: committed, rejected, aborted or candidate; `why`, `step`, `worker`: of a rejection;
    `rollback_of`: the generation whose content it has again; `seconds`, `workers`: see Flip."""

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


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A live worker, as it describes itself every tenth heartbeat; `about`: all that it says, also what has no field here."""

    worker: str
    member: str
    host: str
    pid: int | None
    started_at: float | None
    models: list[str]
    generations: dict[str, int]
    last_error: Any
    about: dict[str, Any]


def read_manifest(data: bytes | None) -> Manifest | None:
    """The manifest in `data`; what makes no sense is left out, as in records."""
    try:
        return decode(data) if data else None
    except GenlockError:
        return None


def status_of_model(name: str, snapshot: Snapshot, active: Manifest | None) -> ModelStatus:
    """One model of the snapshot; `active`: the manifest of its active generation."""
    record = snapshot.models[name]
    at = record.active
    return ModelStatus(
        model=name,
        generation=at.gen if at else None,
        version=at.version if at else None,
        committed_at=at.at / 1000 if at else None,
        unproven=at is not None and at.unproven,
        phase=record.phase,
        candidate=_candidate(record.cand),
        waits=_note(record.waits),
        pin=_note(record.pin),
        holders=sum(name in member.holds for member in snapshot.members),
        poisoned=len(record.poison),
        message=active.message if active else "",
        author=active.author if active else "",
    )


def _candidate(found: Candidate | None) -> CandidateStatus | None:
    if found is None:
        return None
    return CandidateStatus(
        generation=found.gen,
        version=found.version,
        by=found.by,
        ready=found.ready,
        awaited=found.awaited,
        failed=found.failed,
        fenced=found.fenced,
        deadline=found.deadline / 1000,
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
    )


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
