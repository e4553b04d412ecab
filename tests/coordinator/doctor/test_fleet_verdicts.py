"""Whether what stands in Redis is this store's fleet, and is well."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from genlock.coordinator.doctor.facts import IdentityFacts, RecordFacts
from genlock.coordinator.doctor.finding import Finding, worst_of
from genlock.coordinator.doctor.fleet_verdicts import judge_agreement, judge_fleet
from genlock.coordinator.records import Member, Record, Snapshot

NOW = 1_700_000_000.0
ID = "f" * 32
IDENTITY = IdentityFacts(fleet_id=ID, lease_s=3.0, had_member=True)
ACTIVE = {"gen": 4, "version": "v", "epoch": 1, "at": round((NOW - 600) * 1000)}
DIGITS = msgspec.convert({"next": 5, "active": ACTIVE}, Record)


def member(worker: str, generation: int = 4, **more: Any) -> Member:
    about = {"worker": worker, "host": "h", "started_at": NOW - 60, "generations": {"digits": generation}}
    return Member(worker.replace(":", ""), 1, ("digits",), about | more)


def snapshot(*members: Member, **more: Any) -> Snapshot:
    return replace(Snapshot(7, True, 3.0, 1, members, {"digits": DIGITS}, {}), **more)


def record(*members: Member, **more: Any) -> RecordFacts:
    return RecordFacts(fleet="prod", snapshot=snapshot(*members, **more), fleet_id=ID, schema=1, server_now=NOW)


def judged(found: RecordFacts, identity: IdentityFacts = IDENTITY) -> dict[str, Finding]:
    return {finding.check: finding for finding in judge_fleet(found, identity)}


def test_a_fleet_that_is_well() -> None:
    found = judged(record(member("h:1"), member("h:2")))
    assert worst_of(found.values()) == "ok"
    assert found["workers"].found == "2 workers on 1 host"


def test_a_fleet_that_nobody_has_made_yet_is_well() -> None:
    (found,) = judge_fleet(RecordFacts(fleet="prod"), IdentityFacts())
    assert found.level == "ok" and "knows no fleet prod yet" in found.found


def test_a_redis_that_does_not_know_the_fleet_of_the_store_is_not() -> None:
    """The URL of the test server in production: every command said that there is no model."""
    (found,) = judge_fleet(RecordFacts(fleet="prod"), IDENTITY)
    assert found.level == "warning" and "another Redis" in found.advice


def test_what_cannot_be_read_is_said() -> None:
    (found,) = judge_fleet(RecordFacts(fleet="prod", error="WRONGTYPE"), IDENTITY)
    assert (found.level, "WRONGTYPE" in found.found) == ("wrong", True)


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (IdentityFacts(fleet_id="e" * 32, lease_s=3.0), "these are two fleets"),
        (IdentityFacts(), "this store does not"),
        (IdentityFacts(error="it is garbled"), "it is garbled"),
    ],
)
def test_another_store_than_the_fleets_is_wrong(identity: IdentityFacts, words: str) -> None:
    found = judged(record(), identity)["identity"]
    assert (found.level, words in found.found) == ("wrong", True)


def test_a_lease_that_somebody_changed_by_hand_is_wrong() -> None:
    found = judged(record(lease_s=5.0))["lease"]
    assert (found.level, "5 s in Redis, 3 s in the store" in found.found) == ("wrong", True)


def test_a_newer_schema_wants_a_newer_genlock() -> None:
    assert judged(replace(record(), schema=99))["record"].level == "wrong"


def test_a_closed_epoch_says_who_opens_it() -> None:
    found = judged(record(is_open=False))["epoch"]
    assert found.level == "warning" and "by themselves" in found.advice
    assert judge_agreement(record(member("h:1", 3), is_open=False)) == []


def test_clocks_of_workers_that_are_ahead_are_named() -> None:
    """Ages on the dashboard were negative; nobody knew which of 40 hosts it was."""
    found = judged(record(member("a:1", started_at=NOW + 90), member("b:1", started_at="soon")))["clocks"]
    assert found.level == "warning" and "a:1 by 90 s" in found.found


def test_workers_that_say_nothing_are_counted() -> None:
    found = [one for one in judge_fleet(record(Member("1", 1, (), {})), IDENTITY) if one.check == "workers"]
    assert [one.level for one in found] == ["ok", "warning"]


def test_workers_that_do_not_agree_are_wrong() -> None:
    (found,) = judge_agreement(record(member("a:1", 3), member("b:1", 4)))
    assert found.level == "wrong" and "a:1: digits at 3, active is 4" in found.found
    assert [one.level for one in judge_agreement(record(member("b:1", 4)))] == ["ok"]
    assert judge_agreement(record()) == []


def test_workers_that_cannot_load_what_is_active_are_wrong() -> None:
    """The doctor found that all was well, while every request was 503."""
    error = "digits generation 4: signature: it is not signed"
    (found,) = judge_agreement(record(member("a:1", generations={}, last_error=error)))
    assert found.level == "wrong" and found.found.endswith(f"cannot load what is active: a:1: {error}")
    assert "503" in found.advice
