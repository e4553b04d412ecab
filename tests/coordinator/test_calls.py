"""What is said to Redis and what comes back: nothing in a reply is believed because it came from there."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from genlock.coordinator import calls, clock, observer, records
from genlock.coordinator.calls import (
    Abort,
    Ask,
    Attach,
    Call,
    Evict,
    Heal,
    Heartbeat,
    Hold,
    Join,
    Leave,
    Lock,
    ManifestOf,
    Open,
    Pin,
    Promote,
    Propose,
    Read,
    Reopen,
    Report,
    Rollback,
    Say,
    Settle,
    StartTask,
    TaskDone,
    Unpin,
    hint_of,
    keys_of,
)
from genlock.coordinator.reply import (
    NO_EPOCH,
    Active,
    Answer,
    Candidate,
    Epoch,
    Reply,
    ReplyInvalid,
    State,
    Task,
    decode,
)
from hypothesis import given, settings
from hypothesis import strategies as st

WHOLE = {
    "verdict": "ok",
    "epoch": "9007199254740991",
    "nonce": "n",
    "open": 1,
    "lease": "3000",
    "revision": "7",
    "due": 0,
    "states": {
        "digits": {
            "rev": "7",
            "phase": "fencing",
            "active": {"gen": "1", "version": "v1", "epoch": "5", "at": "6", "unproven": 1, "poison": "v1:"},
            "cand": {"gen": "2", "version": "v2", "request": "q", "phase": "fencing", "awaited": 3, "rollback": "1"},
            "mine": "ready",
        }
    },
    "tasks": {"7": {"kind": "clear", "model": ""}},
    "watch": {"1": "17"},
    "task": "7",
    "found": "2",
}

#: A call and what stands in ARGV from 9 on, in the order of its script's header.
SAID: list[tuple[Call, list[Any]]] = [
    (Attach(), []),
    (Join("{}", serial=3), ["{}"]),
    (Heartbeat("1", 2, ("3", "4"), "{}"), ["1", "2", "3 4", "{}"]),
    (Read("m", "q", ("3",)), ["m", "q", "3"]),
    (Ask("1", ("a", "b"), tokens=(5,)), ["1", "a", "b"]),
    (Hold("1", 2, ("a", "b")), ["1", "2", "a", "b"]),
    (ManifestOf("m", 7), ["m", "7"]),
    (Leave("1"), ["1", "0"]),
    (Leave("1", died=True), ["1", "1"]),
    (Evict("1", "9", "w"), ["1", "9", "w"]),
    (Open("w"), ["w"]),
    (Heal("m", 7, "v", 5, 6, "{}", "v:"), ["m", "7", "v", "5", "6", "{}", "v:", "", "", "0"]),
    (
        Reopen("m", 7, "v", 5, 6, "{}", "v:", {"by": "me"}, {"v:": {}}, rollback=3),
        ["m", "7", "v", "5", "6", "{}", "v:", '{"by": "me"}', '{"v:": {}}', "3"],
    ),
    (Lock("m", "take", "t", "{}", 5000), ["take", "t", "{}", "5000"]),
    (
        Propose("m", "q", "t", "v", "v:", b"{}", 0.9, 5000, "me", force=True),
        ["m", "q", "t", "v", "v:", b"{}", "0.9", "5000", "me", "0", "1", ""],
    ),
    (
        Propose("m", "q", "t", "v", "v:", b"{}", 1.0, 5000, "me", now=True, canary='{"steps":[500]}'),
        ["m", "q", "t", "v", "v:", b"{}", "1.0", "5000", "me", "1", "0", '{"steps":[500]}'],
    ),
    (Say("1", "m", 7, "ready", {"worker": "w"}), ["1", "m", "7", "ready", '{"worker": "w"}']),
    (Report("1", "m", 7, 2, "{}"), ["1", "m", "7", "2", "{}"]),
    (Settle(), []),
    (Promote("m", "q", 6, "me", "why", 7, 2500), ["m", "q", "6", "me", "why", "0", "7", "2500", "0"]),
    (Promote("m", "q", 6, "me", gen=7, asked=7), ["m", "q", "6", "me", "", "7", "7", "0", "0"]),
    (Abort("m", "q", 7, "me", "why"), ["m", "q", "7", "me", "why", "0"]),
    (Abort("m", "q", 7, "me", "why", asked=7), ["m", "q", "7", "me", "why", "7"]),
    (Pin("m", "q", 7, "me"), ["m", "q", "7", "me", "", "0"]),
    (Unpin("m", "q", 7, "me"), ["m", "q", "7", "me", "", "0"]),
    (
        Rollback("m", "q", 7, "me", manifest=b"{}"),
        ["m", "q", "7", "me", "", "0", "0", "1", "1.0", "120000", "0", b"{}"],
    ),
    (
        Rollback("m", "q", 7, "me", to=3, pin=False, agreement=1 / 3, prepare_ms=9, asked=2),
        ["m", "q", "7", "me", "", "2", "3", "0", "0.3333333333333333", "9", "0", b""],
    ),
    (StartTask("q", "clear", "m", 9, "me"), ["start", "q", "clear", "m", "9", "me", ""]),
    (StartTask("q", "refresh", "m", 9, "me", "why"), ["start", "q", "refresh", "m", "9", "me", "why"]),
    (TaskDone("1", "7", False, {"why": "x"}), ["answer", "1", "7", "failed", '{"why": "x"}']),
]


@pytest.mark.parametrize(("call", "arguments"), SAID, ids=[type(call).__name__ for call, _ in SAID])
def test_the_arguments_of_each_call(call: Call, arguments: list[Any]) -> None:
    """Their order is the contract with the script; a number goes as whole digits, a share with all of its own."""
    assert call.arguments() == arguments
    assert call == type(call)(**vars(call)) and hash(call) == hash(type(call)(**vars(call)))


def test_a_reply_is_read_as_what_it_means() -> None:
    """Numbers come as text, because Lua would round them; flags as 0 and 1."""
    reply = decode(json.dumps(WHOLE).encode())
    assert reply.epoch_id == Epoch(2**53 - 1, "n") and reply.open and not reply.due and reply.lease_s == 3.0
    state = reply.states["digits"]
    assert state.is_fencing and state.mine == "ready"
    assert state.active == Active(1, "v1", 5, 6, True, "v1:")
    assert state.cand == Candidate(2, "v2", "q", phase="fencing", awaited=3, rollback="1")
    assert reply.tasks == {"7": Task("clear")} and reply.watch == {"1": "17"}
    assert not State(1, "preparing").is_fencing


def test_what_a_reply_does_not_say_is_empty() -> None:
    """Another verdict fills other fields; who reads one that was not filled reads nothing, not what another reply said."""
    reply = decode(b'{"verdict":"unknown"}')
    assert reply == Reply("unknown") and reply.epoch_id == NO_EPOCH
    assert (reply.states, reply.watch, reply.answer, reply.open) == ({}, {}, None, False)


def test_the_reply_to_a_change_is_an_answer() -> None:
    """The same value that a later question by its request id gets."""
    facts = {
        "verdict": "ok",
        "state": "rejected",
        "generation": "3",
        "version": "v",
        "why": "w",
        "step": "s",
        "worker": "h:1",
        "target": "2",
    }
    reply = decode(json.dumps(facts | {"answer": facts}).encode())
    assert reply.as_answer == reply.answer == Answer("ok", "rejected", 3, "v", "w", "s", "h:1", 2)


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": 1},
        {"verdict": None},
        {"epoch": -1},
        {"epoch": "9007199254740993"},
        {"epoch": "1.5"},
        {"epoch": "nan"},
        {"open": "perhaps"},
        {"revision": "0x10"},
        {"states": []},
        {"states": {"digits": {"phase": "idle"}}},
        {"states": {"digits": {"rev": "1", "phase": "idle", "active": {"gen": "1"}}}},
        {"states": {"digits": {"rev": "1", "phase": "idle", "active": {"gen": "-1", "version": "v", "epoch": "1"}}}},
        {"watch": {"1": 5}},
        {"tasks": {"1": {}}},
        {"answer": "ok"},
        {"manifest": {}},
        {"figures": 5},
        {"figures": {"active": {"requests": "many"}}},
        {"figures": {"candidate": {"slow": [1]}}},
        {"age": "-1"},
        {
            "states": {
                "digits": {
                    "rev": "1",
                    "phase": "canary",
                    "cand": {"gen": "2", "version": "v", "request": "q", "share": -1},
                }
            }
        },
        {"states": {"digits": {"rev": "1", "phase": "idle", "watch": {"gen": "2"}}}},
    ],
    ids=str,
)
def test_what_is_not_a_reply_is_refused(change: dict[str, Any]) -> None:
    """Another program's keys, a proxy's error page, a number out of range: refused here, or it would be acted upon."""
    with pytest.raises(ReplyInvalid):
        decode(json.dumps(WHOLE | change).encode())


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_are_a_reply_or_refused(data: bytes) -> None:
    assert_decodes_or_refuses(data)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(WHOLE)), anything), st.sampled_from(sorted(WHOLE)), anything)
def test_any_json_is_a_reply_or_refused(replaced: dict[str, Any], inside: str, value: Any) -> None:
    """Also a good reply with one part of it replaced, at either depth."""
    assert_decodes_or_refuses(json.dumps(WHOLE | replaced).encode())
    assert_decodes_or_refuses(json.dumps(WHOLE | {inside: {"digits": value}}).encode())


@pytest.mark.parametrize("data", (None, 1, "text", [b"ok"]))
def test_what_is_no_bulk_of_bytes_is_no_reply(data: Any) -> None:
    """A server that is none of ours answers with what it likes: a TypeError would have ended whoever asked."""
    with pytest.raises(ReplyInvalid):
        decode(data)


def test_bytes_that_are_no_text_do_not_hide_a_reply() -> None:
    """One garbled manifest made its reply unreadable, which counted as "Redis is gone" for every model of that worker."""
    assert decode(b'{"verdict":"ok","manifest":"\xff{}","epoch":7}') == Reply("ok", epoch=7, manifest="\ufffd{}")


def test_a_reply_nested_without_end_is_refused() -> None:
    assert_decodes_or_refuses(b'{"verdict":"ok","pin":' + b'{"a":' * 100_000)


def assert_decodes_or_refuses(data: bytes) -> None:
    try:
        reply = decode(data)
    except ReplyInvalid:
        return
    assert isinstance(reply, Reply) and 0 <= reply.epoch <= 2**53


def test_the_keys_of_one_fleet_share_a_slot() -> None:
    """All that a script touches is declared, and on a cluster in one place: what stands between braces decides."""
    keys = keys_of("prod", Propose("m", "q", "t", "v", "v:", b"", 1.0, 1, "me"))
    assert keys == [
        "genlock:{prod}:fleet",
        "genlock:{prod}:members",
        "genlock:{prod}:holds",
        "genlock:{prod}:models",
        "genlock:{prod}:waiting",
        "genlock:{prod}:generations",
        "genlock:{prod}:log",
        "genlock:{prod}:workers",
        "genlock:{prod}:lock:m",
    ]
    assert keys_of("prod", Lock("m", "take", "t", "", 1)) == keys
    assert keys_of("prod") == keys_of("prod", Read("m")) == keys[:8]
    assert hint_of("prod") == "genlock:{prod}:hint"


@pytest.mark.parametrize("room", (calls, records, observer, clock), ids=lambda room: room.__name__.rpartition(".")[2])
def test_pure_rooms_import_nothing_that_acts(room: Any) -> None:
    """No driver, no thread, no file: what they decide can be tried by values alone. Only the clock's own room reads a clock."""
    tree = ast.parse(Path(room.__file__).read_text("utf-8"))
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    acting = {"redis", "threading", "socket", "os", "pathlib", "subprocess", "registry", "server", "store"}
    assert not found & acting
    assert ("time" in found) == (room is clock)
