"""Whether what stands in Redis of a fleet is as it should be, and is the fleet of this store. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ..agreement import agreement_of
from ..calls import SCHEMA
from ..records import Member, Snapshot
from ..status import FleetStatus, name_of, status_of_model, status_of_worker
from .facts import IdentityFacts, RecordFacts
from .finding import Finding, Level, counted
from .server_verdicts import CLOCKS_S

SUBJECT = "fleet"
#: Members that a sentence names.
NAMED = 3
#: State of a fleet that is not as it should be → what to do about it.
_ADVICE = {
    "disagree": "`genlock workers` has the last error of each; docs/operating.md says what to do for each kind",
    "cannot": "Their requests get 503. Mend what the error says, or publish again; what was not found bad is tried again by itself",
}


def judge_fleet(record: RecordFacts, identity: IdentityFacts) -> list[Finding]:
    """All findings about the fleet's record."""
    if record.error:
        advice = "See the permissions above; if a key has a wrong type, something else writes genlock's keys"
        return [
            _finding(
                "record", "wrong", f"what stands there of fleet {record.fleet} cannot be read: {record.error}", advice
            )
        ]
    if record.snapshot is None:
        return [_nothing(record, identity)]
    snapshot = record.snapshot
    return [
        _schema(record),
        _same(record, identity),
        _lease(snapshot, identity),
        _epoch(snapshot),
        *_members(snapshot),
        *_clocks(snapshot, record.server_now),
    ]


def _finding(check: str, level: Level, found: str, advice: str = "") -> Finding:
    return Finding(SUBJECT, check, level, found, advice)


def _nothing(record: RecordFacts, identity: IdentityFacts) -> Finding:
    if not identity.had_member:
        return _finding(
            "record", "ok", f"this Redis knows no fleet {record.fleet} yet: the first publish or worker makes it"
        )
    found = f"this Redis knows no fleet {record.fleet}, and its store says that it has had workers"
    advice = "If it has lost it, running workers bring it back by themselves; if it is another Redis than theirs, set GENLOCK_REDIS_URL"
    return _finding("record", "warning", found, advice)


def _schema(record: RecordFacts) -> Finding:
    if record.schema > SCHEMA:
        found = f"fleet {record.fleet} has schema {record.schema}, this genlock knows up to {SCHEMA}"
        return _finding("record", "wrong", found, "Upgrade genlock here")
    return _finding("record", "ok", f"Redis knows fleet {record.fleet}, in a form that this genlock reads")


def _same(record: RecordFacts, identity: IdentityFacts) -> Finding:
    if identity.error:
        return _finding("identity", "wrong", identity.error)
    if identity.fleet_id == record.fleet_id:
        return _finding("identity", "ok", "Redis and the store have the same fleet of that name")
    advice = (
        "Set GENLOCK_STORE to the folder that this fleet's workers and trainers use, or give one of the fleets another name"
        " or another Redis"
    )
    if not identity.fleet_id:
        return _finding("identity", "wrong", f"Redis knows fleet {record.fleet}, this store does not", advice)
    found = f"fleet {record.fleet} has the id {record.fleet_id} in Redis, {identity.fleet_id} in the store: these are two fleets"
    return _finding("identity", "wrong", found, advice)


def _lease(snapshot: Snapshot, identity: IdentityFacts) -> Finding:
    if identity.lease_s is not None and identity.lease_s != snapshot.lease_s:
        found = f"the lease is {snapshot.lease_s:g} s in Redis, {identity.lease_s:g} s in the store"
        return _finding(
            "lease", "wrong", found, "Nobody may change it by hand: restore the store's fleets folder from a backup"
        )
    return _finding("lease", "ok", f"a lease lasts {snapshot.lease_s:g} s, in Redis and in the store")


def _epoch(snapshot: Snapshot) -> Finding:
    if snapshot.is_open:
        return _finding("epoch", "ok", f"it is open (epoch {snapshot.epoch})")
    found = f"it is closed (epoch {snapshot.epoch}): Redis lost data or was restarted, and is watched for a lease before it is trusted"
    advice = (
        "Wait for a lease or two: workers and publishers open it by themselves; answers are marked stale meanwhile."
        " If it stays closed, nobody runs who could watch it: a publish, or `genlock clear`, does"
    )
    return _finding("epoch", "warning", found, advice)


def _members(snapshot: Snapshot) -> Iterator[Finding]:
    members = snapshot.members
    hosts = len({member.about.get("host") for member in members})
    if not members:
        yield _finding("workers", "ok", "no worker is a member now")
        return
    yield _finding("workers", "ok", f"{counted(len(members), 'worker')} on {counted(hosts, 'host')}")
    if silent := [member.id for member in members if not member.about]:
        found = f"{counted(len(silent), 'worker')} said nothing of themselves yet, so it is not known what they show"
        yield _finding("workers", "warning", found, "Look again in some seconds")


def judge_agreement(record: RecordFacts) -> list[Finding]:
    """Whether the workers answer from what is active."""
    snapshot = record.snapshot
    if snapshot is None or not snapshot.members or not snapshot.is_open:
        return []
    agreement = agreement_of(
        status_of(record.fleet, snapshot), [status_of_worker(one) for one in snapshot.members], now=record.server_now
    )
    advice = _ADVICE.get(agreement.state)
    if advice is None:
        return [_finding("agreement", "ok", agreement.sentence)]
    return [_finding("agreement", "wrong", agreement.sentence, advice)]


def status_of(name: str, snapshot: Snapshot) -> FleetStatus:
    """As much of a FleetStatus as agreement is judged by."""
    models = [status_of_model(model, snapshot, None) for model, record in snapshot.models.items() if record.next > 1]
    return FleetStatus(
        name=name,
        id="",
        epoch=snapshot.epoch,
        open=snapshot.is_open,
        lease_s=snapshot.lease_s,
        revision=snapshot.revision,
        redis="",
        store="",
        workers=len(snapshot.members),
        models=models,
    )


def _clocks(snapshot: Snapshot, server_now: float) -> Iterator[Finding]:
    """A worker that has started in the future: its host's clock is ahead."""
    ahead = [(member, by) for member in snapshot.members if (by := _started(member) - server_now) > CLOCKS_S]
    if ahead:
        told = ", ".join(f"{name_of(member)} by {by:.0f} s" for member, by in ahead[:NAMED])
        more = f" and {len(ahead) - NAMED} more" if len(ahead) > NAMED else ""
        found = f"the clocks of some workers' hosts are ahead of the server's: {told}{more}; only ages that people see hang on it"
        yield _finding("clocks", "warning", found, "Let all hosts follow a time server")


def _started(member: Member) -> float:
    at = member.about.get("started_at")
    return float(at) if isinstance(at, int | float) and 0 <= at < 2**53 else 0.0
