"""What people read, from what stands in Redis: also where that is damaged, or from another genlock."""

import json
from typing import Any

from genlock.coordinator.manifest import Artifact, Manifest
from genlock.coordinator.records import Member, Record, Snapshot, read_record
from genlock.coordinator.status import (
    KEPT_GENERATIONS,
    history_of,
    numbers_of,
    read_manifest,
    status_of_model,
    status_of_worker,
)

MANIFEST = Manifest.of("m", [Artifact("a", 3, "0" * 64)], created_at=5.0, author="me", message="hello")


def record(**fields: Any) -> Record:
    found = read_record(json.dumps({"next": "9", "rev": "4"} | fields).encode())
    assert found is not None
    return found


def snapshot(of: Record, *members: Member) -> Snapshot:
    return Snapshot(7, True, 3.0, 4, members, {"m": of}, {})


def test_a_model_without_a_generation_has_nothing_to_show() -> None:
    found = status_of_model("m", snapshot(record()), None)
    assert (found.generation, found.version, found.committed_at, found.phase) == (None, None, None, "idle")
    assert (found.pin, found.waits, found.candidate, found.message) == (None, None, None, "")


def test_holders_and_poison_are_counted() -> None:
    members = (Member("1", 3, ("m", "x"), {}), Member("2", 4, ("x",), {}))
    found = status_of_model("m", snapshot(record(poison={"v:": {"why": "NaN"}}), *members), MANIFEST)
    assert (found.holders, found.poisoned, found.author, found.message) == (1, 1, "me", "hello")


def test_what_cannot_be_read_is_left_out() -> None:
    """History is for people: one unreadable row must not hide all others."""
    assert read_manifest(None) is None and read_manifest(b"{nonsense") is None
    [newer, older] = history_of(record(), {1: (MANIFEST.encode(), b"{nonsense"), 2: (None, b'{"outcome":"committed"}')})
    assert (newer.generation, newer.outcome, newer.version, newer.created_at) == (2, "committed", "", None)
    assert (older.outcome, older.version, older.author, older.created_at) == ("?", MANIFEST.version, "me", 5.0)


def test_a_worker_may_say_anything_of_itself() -> None:
    about = {"pid": "x", "started_at": "now", "generations": {"m": "two", "n": 2}, "more": 1}
    found = status_of_worker(Member("5", 3, ("n", "m"), about))
    assert (found.worker, found.pid, found.started_at, found.models) == ("5", None, None, ["m", "n"])
    assert (found.generations, found.about["more"]) == ({"n": 2}, 1)
    assert status_of_worker(Member("5", 3, (), {"generations": [1]})).generations == {}


def test_the_ways_back_are_looked_for_however_old_they_are() -> None:
    old = record(next="1000", committed={"3": {}, "x": {}}, active={"gen": "4", "version": "v", "epoch": "1"})
    numbers = numbers_of(old)
    assert numbers[:3] == [3, 4, 999 - KEPT_GENERATIONS] and numbers[-1] == 999
    assert numbers_of(record(next="1")) == []


def test_digits_that_are_none_are_left_out() -> None:
    """`"²".isdigit()`, 5,000 digits, and more than a float holds: each ended whoever looked, and with it the page of all models."""
    for digits in ("²", "9" * 5000, "9" * 400):
        of = record(pin={"by": "me", "at": digits}, committed={digits: {"version": "v"}, "3": {"version": "w"}})
        found = status_of_model("m", snapshot(of), None)
        assert found.pin is not None and found.pin.at is None
        assert numbers_of(of) == list(range(1, 9))
        row = json.dumps({"rollback": digits, "started": digits, "ended": digits}).encode()
        assert (history_of(of, {3: (None, row)})[0].rollback_of, history_of(of, {3: (None, row)})[0].seconds) == (
            None,
            {},
        )


def test_a_worker_that_began_at_no_time_that_there_is() -> None:
    assert status_of_worker(Member("1", 1, (), {"started_at": 10**400})).started_at is None
