"""What stands in Redis, as people read it: whatever is in the keys, a page comes out; what cannot be read is left out."""

import json
from typing import Any

import pytest
from genlock.coordinator.records import Event, Hint, Member, Record, Said, Snapshot, as_number, as_object, read_record
from genlock.coordinator.reply import Active, Candidate
from hypothesis import given, settings
from hypothesis import strategies as st

FLEET = {b"epoch": b"9", b"open": b"1", b"lease": b"3000", b"revision": b"4", b"tasks": b'{"7":{"kind":"clear"}}'}
RECORD = {
    "rev": "4",
    "next": "3",
    "active": {"gen": "1", "version": "v1", "epoch": "9", "at": "5", "poison": "v1:"},
    "cand": {"gen": "2", "version": "v2", "request": "q", "phase": "fencing", "awaited": 1, "deadline": "77"},
    "waits": {"request": "q3"},
    "pin": {"by": "me"},
    "poison": {},
    "committed": {"1": {"version": "v1"}},
    "requests": "q q3",
}


def test_a_record_is_read_as_what_it_means() -> None:
    record = read_record(json.dumps(RECORD).encode())
    assert record is not None
    assert (record.next, record.rev, record.phase) == (3, 4, "fencing")
    assert record.active == Active(1, "v1", 9, 5, False, "v1:")
    assert record.cand == Candidate(2, "v2", "q", awaited=1, deadline=77, phase="fencing")
    assert Record(next=1).phase == "idle"


@pytest.mark.parametrize(
    "data", (b"", b"[]", b'{"rev":"1"}', b'{"next":"x"}', b'{"next":"1","active":3}', b"\xff", b"{" * 9999)
)
def test_what_is_no_record_is_left_out(data: bytes) -> None:
    assert read_record(data) is None


def test_an_empty_table_of_lua_may_come_as_a_list() -> None:
    """It does not know the difference; an empty map is an empty map."""
    record = read_record(b'{"next":"1","poison":[],"committed":[]}')
    assert record is not None and not record.poison and not record.committed


def test_a_snapshot_puts_the_hashes_together() -> None:
    """Members in the order in which they joined, 2 before 10; one that nobody knows anything of is a member all the same."""
    found = Snapshot.of(
        FLEET,
        {b"@": b"9:x", b"10": b"55", b"2": b"54", b"3": b"53"},
        {b"@": b"9:x", b"10": b"4 a b", b"2": b"1"},
        {b"@": b"9:x", b"m": json.dumps(RECORD).encode(), b"a": b'{"next":"1"}', b"broken": b"{"},
        {b"10": b'{"worker":"h:10"}', b"2": b"nonsense", b"99": b"{}"},
    )
    assert (found.epoch, found.is_open, found.lease_s, found.revision) == (9, True, 3.0, 4)
    assert found.members == (
        Member("2", 54, (), {}),
        Member("3", 53, (), {}),
        Member("10", 55, ("a", "b"), {"worker": "h:10"}),
    )
    assert list(found.models) == ["a", "m"]
    assert found.tasks == {"7": {"kind": "clear"}}


def test_what_a_worker_says_is_compared_without_reading_it() -> None:
    """A thousand workers are looked at each second, and most have said nothing new."""
    same, other = Said(b'{"worker":"h:1"}'), Said(b'{ "worker": "h:1"}')
    assert same == Said(b'{"worker":"h:1"}')
    assert same != other
    assert same == {"worker": "h:1"} == other
    assert (len(same), list(same), same["worker"], same.get("pid")) == (1, ["worker"], "h:1", None)
    assert Said(b"\xff{") == {}


def test_a_fleet_that_is_not_there_is_closed_and_empty() -> None:
    assert Snapshot.of({}, {}, {}, {}, {}) == Snapshot(0, False, 0.0, 0, (), {}, {})


hashes = st.dictionaries(st.binary(max_size=8), st.binary(max_size=40), max_size=4)
rows = hashes | st.fixed_dictionaries({}, optional={key: st.binary(max_size=20) for key in FLEET})


@settings(max_examples=100, deadline=None)
@given(st.tuples(rows, hashes, hashes, hashes, hashes))
def test_any_bytes_make_a_snapshot(five: tuple[dict[bytes, bytes], ...]) -> None:
    """A page for people is the last thing that may fail on keys that somebody spoiled."""
    found = Snapshot.of(*five)
    assert found.epoch >= 0 and len(found.members) == len(set(five[1]) - {b"@"})


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=30), hashes)
def test_any_bytes_make_an_event(entry_id: bytes, fields: dict[bytes, bytes]) -> None:
    event = Event.of(entry_id, fields)
    assert event.at >= 0 and isinstance(event.facts, dict)


def test_an_event_of_the_log() -> None:
    """The time is in its id, in ms of the server's clock; an entry that was deleted while it was read has no fields."""
    event = Event.of(b"1700000000123-4", {b"what": b"committed", b"model": b"m", b"facts": b'{"generation":"3"}'})
    assert event == ("1700000000123-4", 1700000000.123, "committed", "m", {"generation": "3"})
    assert Event.of("5-0", None) == ("5-0", 0.005, "?", "", {})  # type: ignore[arg-type]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=30) | st.text(max_size=30))
def test_any_message_is_a_hint_or_none(data: bytes | str) -> None:
    hint = Hint.of(data)
    assert hint is None or (hint.epoch >= 0 and hint.revision >= 0)


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"9 4 m", Hint(9, 4, "m")),
        ("9 4 m", Hint(9, 4, "m")),
        (b"9 4 ", Hint(9, 4, "")),
        (b"9007199254740991 1 m", Hint(2**53 - 1, 1, "m")),
        (b"x -4 m", Hint(0, 0, "m")),
        ("９ ４ m", Hint(0, 0, "m")),
        (b"99999999999999999 1 m", Hint(0, 1, "m")),
        (b"hello", None),
        (b"1 2 3 4", None),
    ],
)
def test_hints(data: bytes | str, hint: Hint | None) -> None:
    """The digits of other scripts, signs and numbers above any that is given are none."""
    assert Hint.of(data) == hint


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("7", 7),
        (b"7", 7),
        ("²", 0),
        ("9" * 5000, 0),
        ("-7", 0),
        ("7.0", 0),
        ("", 0),
        (None, 0),
        (7, 0),
        ({}, 0),
        (b"\xff", 0),
    ],
)
def test_a_number_is_that_of_a_script_or_0(value: Any, number: int) -> None:
    """`"²".isdigit()` is true, and int() raises: what somebody had written into a pin ended `genlock status`."""
    assert as_number(value) == number


@pytest.mark.parametrize("text", (None, "", "[]", "3", "{", b"\xff", "[" * 9999))
def test_what_is_no_object_is_an_empty_one(text: str | bytes | None) -> None:
    assert as_object(text) == {}
