"""What comes from Redis into a process: replies of scripts, what stands in hashes and streams as people read it, hints."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import redis
from genlock.coordinator.calls import hint_of
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.flip import phases_of, refusal_of, workers_of
from genlock.coordinator.records import Event, Hint, Member, Snapshot, as_number, as_object, read_record
from genlock.coordinator.reply import Epoch, Reply, ReplyInvalid, decode
from genlock.coordinator.status import history_of, name_of, numbers_of, status_of_model, status_of_worker
from genlock.worker.listener import Listener
from hypothesis import example, given, settings
from hypothesis import strategies as st

fuzz = settings.get_profile("fuzz")

TEXTS = st.sampled_from(
    ["", "0", "1", "²", "9" * 20, "9" * 5000, "-1", "nan", "1e999", "0x10", "\0", "\ud800", "m", "ok"]
) | st.text(max_size=8)
SCALARS = (
    st.none() | st.booleans() | st.sampled_from([0, 1, -1, 2**53 + 1, 2**64, 10**400, 1e308]) | st.floats() | TEXTS
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8
)


def to_json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def like(document: Any) -> st.SearchStrategy[Any]:
    """Documents of this form, in each of which some values are others and some are missing."""
    if isinstance(document, dict):
        here = st.fixed_dictionaries({}, optional={name: like(value) for name, value in document.items()})
    elif isinstance(document, list):
        here = st.lists(like(document[0]), max_size=3)
    else:
        here = st.just(document)
    return st.integers(0, 9).flatmap(lambda n: JSON if n == 0 else here)


# --- replies -----------------------------------------------------------------------------------------------------------

ACTIVE = {"gen": "3", "version": "v", "epoch": "7", "at": "5", "unproven": 1, "poison": "v:"}
CAND = {
    "gen": "4",
    "version": "w",
    "request": "q",
    "by": "me",
    "started": "1",
    "deadline": "2",
    "awaited": 1,
    "phase": "fencing",
    "rollback": "3",
}
STATE = {
    "rev": "5",
    "phase": "fencing",
    "active": ACTIVE,
    "cand": CAND,
    "mine": "ready",
    "pin": {"by": "me"},
    "poison": {"v:": {"why": "NaN"}},
}
ANSWER = {
    "verdict": "ok",
    "state": "committed",
    "generation": "3",
    "version": "v",
    "why": "",
    "step": "",
    "worker": "",
    "target": "1",
}
REPLY = {
    **ANSWER, "epoch": "7", "nonce": "n", "open": 1, "lease": "3000", "revision": "5", "id": "1", "beat": "9", "states": {"m": STATE},
    "due": 0,
    "watch": {"1": "9"}, "tasks": {"3": {"kind": "clear", "model": "m"}}, "answer": ANSWER, "manifest": "{}", "holder": "{}", "found": "3",
    "pin": {"by": "me", "at": "1", "gen": "3", "why": "so"}, "task": "3", "awaited": 2,
}  # fmt: skip


def check_reply(data: Any) -> None:
    """A reply whose every part can be worked with, or ReplyInvalid."""
    try:
        reply = decode(data)
    except ReplyInvalid:
        return
    assert isinstance(reply, Reply) and isinstance(reply.epoch_id, Epoch) and reply.lease_s >= 0
    assert all(0 <= number <= 2**53 for number in (reply.epoch, reply.lease, reply.revision, reply.generation or 0))
    assert reply.as_answer.verdict == reply.verdict
    for verdict in ("lock", "poisoned", "conflict", "nowhere", "unknown-model", "busy", "pinned", reply.verdict):
        changed = msgspec.structs.replace(reply, verdict=verdict)
        assert str(refusal_of(changed, "m", version="v", seen=3, to=2))


@fuzz
@given(st.binary(max_size=300))
@example(b"[" * 100_000)
@example(b'{"verdict":"ok","pin":' + b'{"a":' * 100_000)
def test_any_bytes_are_a_reply_or_none(data: bytes) -> None:
    check_reply(data)


@fuzz
@given(like(REPLY))
def test_a_reply_with_other_values_is_one_or_none(document: Any) -> None:
    check_reply(to_json(document))


@pytest.mark.parametrize("data", (None, 1, "text", [b"ok"], True, 1.5))
def test_a_reply_of_another_type_is_none(data: Any) -> None:
    """A server that is none of ours answers with what it likes."""
    with pytest.raises(ReplyInvalid):
        decode(data)


# --- what stands in the hashes -------------------------------------------------------------------------------------------

RECORD = {
    "next": "5", "rev": "4", "active": ACTIVE, "cand": CAND, "waits": {"request": "q", "version": "x", "by": "me", "at": "7"},
    "requests": "q",
    "pin": {"by": "me", "at": "7", "why": "so"}, "poison": {"v:": {"why": "NaN"}},
    "committed": {"1": {"version": "v"}, "3": {"version": "w"}},
}  # fmt: skip
OUTCOME = {
    "outcome": "committed", "version": "v", "by": "me", "rollback": "2", "started": "1000", "fencing": "2000", "ended": "3000", "why": "",
    "step": "", "worker": "h:1", "workers": {"1": {"worker": "h:1", "state": "fenced", "seconds": 1}},
}  # fmt: skip
ABOUT = {
    "worker": "h:1",
    "host": "h",
    "pid": 7,
    "started_at": 1.5,
    "generations": {"m": 3},
    "last_error": None,
    "stats": {"a": 1},
}


def values(document: Any) -> st.SearchStrategy[bytes]:
    return like(document).map(to_json) | st.binary(max_size=40)


def hashes(names: list[bytes], value: st.SearchStrategy[bytes]) -> st.SearchStrategy[dict[bytes, bytes]]:
    return st.dictionaries(st.sampled_from(names) | st.binary(max_size=5), value, max_size=3)


IDS = hashes([b"@", b"1"], st.binary(max_size=20) | st.sampled_from([b"1", b"1 m other", b"7:n"]))
PLAIN = st.sampled_from([b"1", b"0", b"7:n", "²".encode(), b"9" * 5000, b"1 m other", b"x m", b""]) | st.binary(
    max_size=20
)
ROWS = st.dictionaries(
    st.sampled_from([b"epoch", b"open", b"lease", b"revision", b"tasks"]), PLAIN | values({"1": {"kind": "clear"}})
)


@fuzz
@given(st.tuples(ROWS, IDS, IDS, hashes([b"@", b"m"], values(RECORD)), hashes([b"1"], values(ABOUT))))
def test_a_fleet_is_shown_whatever_stands_there(found: tuple[dict[bytes, bytes], ...]) -> None:
    """What cannot be read is left out; what is shown can be written as JSON for the admin page."""
    snapshot = Snapshot.of(*found)
    models = [status_of_model(name, snapshot, None) for name in snapshot.models]
    workers = [status_of_worker(member) for member in snapshot.members]
    assert all(isinstance(name_of(member), str) for member in snapshot.members)
    assert msgspec.json.encode([snapshot.tasks, models, workers])


@fuzz
@given(like(ABOUT))
@example(ABOUT | {"started_at": 10**400, "pid": 10**400})
@example(ABOUT | {"started_at": float("inf")})
def test_a_worker_may_say_of_itself_what_it_likes(about: Any) -> None:
    found = status_of_worker(Member("1", 1, ("m",), as_object(to_json(about))))
    assert msgspec.json.encode(found)


@fuzz
@given(values(RECORD), values(OUTCOME), st.binary(max_size=40))
def test_a_history_is_shown_whatever_stands_there(record: bytes, outcome: bytes, manifest: bytes) -> None:
    found = read_record(record)
    row = as_object(outcome)
    assert all(seconds is not None for seconds in phases_of(row).values()) and isinstance(workers_of(row), dict)
    if found is not None:
        numbers = numbers_of(found)
        assert all(number >= 1 for number in numbers) and len(numbers) <= 600
        rows = history_of(found, dict.fromkeys(numbers[:3], (manifest, outcome)))
        assert msgspec.json.encode(rows)


@fuzz
@given(
    st.binary(max_size=30) | st.text(max_size=20),
    st.dictionaries(st.sampled_from([b"what", b"model", b"facts"]), values({"a": 1})),
)
def test_an_entry_of_the_log_is_shown_whatever_it_is(entry_id: bytes | str, row: dict[bytes, bytes]) -> None:
    event = Event.of(entry_id, row)
    assert event.at >= 0 and msgspec.json.encode(event)


@fuzz
@given(JSON | st.binary(max_size=30))
def test_a_number_is_one_or_0(value: Any) -> None:
    assert 0 <= as_number(value) < 10**16


# --- hints ---------------------------------------------------------------------------------------------------------------


@fuzz
@given(st.binary(max_size=40) | st.tuples(PLAIN, PLAIN, PLAIN).map(b" ".join))
def test_any_message_is_a_hint_or_none(data: bytes) -> None:
    found = Hint.of(data)
    assert found is None or (found.epoch >= 0 and found.revision >= 0)


@settings(fuzz, max_examples=fuzz.max_examples // 30)
@given(messages=st.lists(st.binary(max_size=60) | st.tuples(PLAIN, PLAIN, PLAIN).map(b" ".join), max_size=30))
def test_no_message_ends_the_listener(redis_url: str, new_fleet: Callable[..., Fleet], messages: list[bytes]) -> None:
    """Anybody may publish on the channel; a worker whose listener ended would flip seconds late for the rest of its life."""
    fleet = new_fleet()
    began, ended = threading.Event(), threading.Event()

    def hinted(hint: Hint) -> None:
        if hint == Hint(7, 7, "last"):
            ended.set()

    listener = Listener(fleet.new_registry, subscribed=began.set, hinted=hinted)
    listener.start()
    try:
        assert began.wait(20)
        with redis.Redis.from_url(redis_url) as client:
            for message in messages:
                client.publish(hint_of("t"), message)
            client.publish(hint_of("t"), b"7 7 last")
        assert ended.wait(20)
    finally:
        listener.close(5)
        fleet.close()
