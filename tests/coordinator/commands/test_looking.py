"""`genlock status`, `workers`, `history`, `events`."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from genlock.coordinator.commands.looking import (
    said_of_event,
    said_of_fleet,
    said_of_history,
    said_of_model,
    said_of_workers,
)
from genlock.coordinator.commands.output import Table
from genlock.coordinator.records import Event
from genlock.coordinator.status import CandidateStatus, FleetStatus, Generation, ModelStatus, Note, WorkerStatus

PROGRAM = (sys.executable, "-m", "genlock.coordinator.commands")
NOW = 1_700_000_000.0

MODEL = ModelStatus(
    model="digits",
    generation=12,
    version="0123456789abcdef",
    committed_at=NOW - 180,
    unproven=False,
    phase="idle",
    candidate=None,
    waits=None,
    pin=None,
    holders=4,
    poisoned=0,
    message="",
    author="ada@h",
)
CANDIDATE = CandidateStatus(
    generation=13, version="fedcba9876543210", by="ada@h", ready=2, awaited=1, failed=1, fenced=0, deadline=NOW + 65
)
FLEET = FleetStatus(
    name="prod",
    id="i",
    epoch=1,
    open=True,
    lease_s=3.0,
    revision=9,
    redis="unix:///s",
    store="/mnt",
    workers=1,
    models=[],
)


def changed(value: Any, **other: Any) -> Any:
    return msgspec.structs.replace(value, **other)


# --- what people are told: the fleet ---------------------------------------------------------------------------------


def test_a_fleet_is_told_in_a_line_with_where_it_lives() -> None:
    """Somebody looked at the status of another fleet than they thought, because nothing said which Redis it was."""
    head, *places = said_of_fleet(FLEET, NOW)
    assert head == "fleet prod · open · 1 worker · lease 3 s"
    assert places[:2] == ["redis  unix:///s", "store  /mnt"] and "genlock publish" in str(places[2])


def test_a_closed_fleet_says_what_it_waits_for() -> None:
    """`closed` alone was taken for a fault, where one has only to wait for a lease."""
    assert "closed (watched for one lease" in str(said_of_fleet(changed(FLEET, open=False), NOW)[0])


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, "-"),
        ({"phase": "preparing", "candidate": CANDIDATE}, "preparing 13: 2 of 4 ready, 1 failed"),
        (
            {"phase": "fencing", "candidate": changed(CANDIDATE, ready=1, awaited=0, failed=0, fenced=3)},
            "fencing 13: 3 of 4 fenced",
        ),
        ({"waits": Note("bob@h", None, "", "v")}, "next waits"),
        ({"pin": Note("bob@h", NOW - 60, "worse")}, "pinned by bob@h"),
        ({"unproven": True, "pin": Note("bob@h")}, "pinned by bob@h · unproven"),
    ],
)
def test_a_model_has_a_row_with_what_goes_on(change: dict[str, Any], state: str) -> None:
    """What keeps a model from its next generation has to be seen at a glance."""
    table = said_of_fleet(changed(FLEET, models=[changed(MODEL, **change)]), NOW)[-1]
    assert isinstance(table, Table)
    assert table.rows == [("digits", 12, "0123456789ab", "3 min ago", 4, state)]


def test_a_model_without_a_generation_has_dashes() -> None:
    """The first candidate of a model was rejected: `None` stood in every column."""
    nothing = changed(MODEL, generation=None, version=None, committed_at=None)
    table = said_of_fleet(changed(FLEET, models=[nothing]), NOW)[-1]
    assert isinstance(table, Table) and table.rows == [("digits", "-", "-", "-", 4, "-")]
    assert "active    nothing yet" in said_of_model(nothing, NOW)


def test_one_model_is_told_a_fact_a_line() -> None:
    """Who pinned a model, when and why, is what its trainer wants to know."""
    model = changed(
        MODEL,
        phase="preparing",
        candidate=CANDIDATE,
        waits=Note("bob@h", None, "", "0011223344556677"),
        pin=Note("eve@h", NOW - 60, "worse\non Mondays"),
        unproven=True,
        poisoned=1,
        message="run 41",
    )
    assert said_of_model(model, NOW) == [
        "model     digits",
        "active    generation 12 (0123456789ab), 3 min ago",
        "by        ada@h",
        "message   run 41",
        "candidate preparing 13: 2 of 4 ready, 1 failed, 1 min 5 s left · version fedcba987654 · by ada@h",
        "next      version 001122334455 by bob@h",
        "pinned    by eve@h, 1 min ago: worse on Mondays",
        "unproven  no worker has loaded it yet",
        "holders   4",
        "poisoned  1 version found bad",
    ]


def test_a_deadline_that_has_passed_is_not_negative() -> None:
    """`-1000 ms left` was shown until somebody settled."""
    late = changed(MODEL, phase="preparing", candidate=changed(CANDIDATE, deadline=NOW - 1))
    assert "its time is over" in str(said_of_model(late, NOW)[3])


# --- what people are told: workers, history, events ------------------------------------------------------------------

WORKER = WorkerStatus(
    worker="h:1",
    member="1",
    host="h",
    pid=1,
    started_at=NOW - 7200,
    models=["a", "b"],
    generations={"a": 3},
    last_error=None,
    about={},
)


def test_workers_have_a_row_each_and_errors_a_column_only_if_there_are_any() -> None:
    """An empty column took the room of the models."""
    (table,) = said_of_workers([WORKER], NOW)
    assert isinstance(table, Table) and table.rows == [("h:1", "2 h", 2, "a=3, b=?")]
    (table,) = said_of_workers([changed(WORKER, models=[], last_error="no memory")], NOW)
    assert isinstance(table, Table) and table.rows == [("h:1", "2 h", 0, "-", "no memory")]
    assert said_of_workers([], NOW) == ["no worker is a member of this fleet now"]


GENERATION = Generation(
    generation=3,
    version="0123456789abcdef",
    outcome="committed",
    active=True,
    created_at=NOW - 5,
    author="ada@h",
    message="run 41",
    why="",
    step="",
    worker="",
    rollback_of=None,
    seconds={},
    workers={},
)


@pytest.mark.parametrize(
    ("change", "outcome", "about"),
    [
        ({}, "active", "run 41"),
        ({"active": False}, "committed", "run 41"),
        ({"rollback_of": 1, "message": ""}, "active", "rollback to 1"),
        ({"metrics": {"val_loss": 0.25, "acc": 0.9}}, "active", "run 41 · val_loss=0.25 acc=0.9"),
        (
            {"active": False, "outcome": "rejected", "why": "NaN in x", "step": "check", "worker": "h:1"},
            "rejected",
            "check: NaN in x · h:1 · run 41",
        ),
    ],
)
def test_a_generation_has_a_row_with_what_there_is_to_say(change: dict[str, Any], outcome: str, about: str) -> None:
    """The history told that a generation was rejected, and not why."""
    (table,) = said_of_history([changed(GENERATION, **change)], NOW)
    assert isinstance(table, Table)
    assert table.rows == [(3, "0123456789ab", outcome, "5 s ago", "ada@h", about)]


def test_a_history_of_which_nothing_is_kept() -> None:
    """A table without rows looked like a fault of the terminal."""
    assert said_of_history([], NOW) == ["nothing is kept of its generations"]


def test_an_event_is_one_line_with_what_people_look_for_first() -> None:
    """The reason of a rejection stood behind the request id, outside of the terminal; and one with a line end looked like two events."""
    facts = {
        "request": "q" * 32,
        "by": "ada@h",
        "version": "0123456789abcdef",
        "why": "two\nlines",
        "generation": 3,
        "unproven": None,
        "extra": [1],
    }
    line = said_of_event(Event("1-0", NOW, "rejected", "digits", facts))
    assert line[21:] == r'rejected   digits generation=3 version=0123456789ab why="two\nlines" by=ada@h extra=[1]'
    assert "\n" not in line
    assert said_of_event(Event("1-0", NOW, "open", "", {}))[21:] == "open       -"


def test_who_has_joined_is_told_by_name_alone() -> None:
    """The line of a worker that joined was three lines of JSON."""
    facts = {"member": "7", "about": {"worker": "h:1", "pid": 1, "generations": {}}}
    assert said_of_event(Event("1-0", NOW, "joined", "", facts))[21:] == "joined     - worker=h:1 member=7"


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def published(genlock: Callable[..., Any], checkpoint: Callable[..., Path]) -> None:
    assert genlock("publish", "digits", checkpoint(), "-m", "run 41").status == 0


def test_status_tells_the_fleet_and_its_models(published: None, genlock: Callable[..., Any]) -> None:
    """The whole command, for people and for programs."""
    ran = genlock("status")
    assert (ran.status, ran.err) == (0, "")
    assert "fleet t · open · 0 workers" in ran.out and "MODEL" in ran.out and "unproven" in ran.out
    document = genlock("status", "--json").document
    assert (document["name"], document["models"][0]["model"]) == ("t", "digits")


def test_status_opens_no_new_epoch(published: None, genlock: Callable[..., Any]) -> None:
    """Looking at a fleet began a new epoch: everybody was stale for a lease because somebody was curious."""
    before = genlock("status", "--json").document
    after = genlock("status", "--json").document
    assert after["open"] and after["epoch"] == before["epoch"]


def test_status_of_one_model(published: None, genlock: Callable[..., Any]) -> None:
    """The whole command, for people and for programs."""
    assert "message   run 41" in genlock("status", "digits").out
    assert genlock("status", "digits", "--json").document["generation"] == 1


def test_an_unknown_model_is_told_with_those_that_are_known(published: None, genlock: Callable[..., Any]) -> None:
    """A misspelt model looked like one without generations."""
    ran = genlock("status", "digit")
    assert ran.status == 2 and "known: digits" in ran.err
    assert genlock("history", "digit", "--json").document["known"] == ["digits"]


def test_history_is_a_list_with_the_promised_fields(published: None, genlock: Callable[..., Any]) -> None:
    """Other programs are written against these names, and against ISO 8601 with its offset."""
    (row,) = genlock("history", "digits", "--json").document
    assert (row["generation"], row["outcome"], row["message"]) == (1, "committed", "run 41")
    assert len(row["version"]) == 64 and "@" in row["author"]
    assert datetime.fromisoformat(row["created_at"]).utcoffset() is not None
    assert "active" in genlock("history", "digits").out


def test_workers_tells_who_lives(published: None, genlock: Callable[..., Any], member: Any) -> None:
    """What a worker says of itself has to come through whole in the JSON."""
    member("h:1")
    assert "digits=1" in genlock("workers").out
    (worker,) = genlock("workers", "--json").document
    assert (worker["worker"], worker["models"], worker["about"]["host"]) == ("h:1", ["digits"], "h")


def test_events_tell_what_has_happened(published: None, genlock: Callable[..., Any]) -> None:
    """The request id, by which a program finds its own event, is in the JSON only."""
    assert "committed  digits generation=1" in genlock("events").out
    events = genlock("events", "--json").document
    assert [event["what"] for event in events][-2:] == ["candidate", "committed"]
    assert events[-1]["facts"]["request"] and datetime.fromisoformat(events[-1]["at"])


@pytest.mark.parametrize("how", [(), ("--json",)])
def test_events_are_followed_until_ctrl_c(
    published: None, genlock: Callable[..., Any], checkpoint: Callable[..., Path], how: tuple[str, ...]
) -> None:
    """Events came in one piece when the process ended, because the pipe was buffered."""
    following = subprocess.Popen(
        [*PROGRAM, "events", "--follow", *how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert following.stdout and following.stderr
    try:
        for what in ("candidate", "committed"):
            assert _line_with(following.stdout, what, is_json=bool(how))
        assert genlock("pin", "digits", "-m", "look").status == 0
        assert "look" in _line_with(following.stdout, "pinned", is_json=bool(how))
        following.send_signal(2)
        assert following.wait(30) == 130
        assert (following.stdout.read(), following.stderr.read()) == ("", "")
    finally:
        following.kill()
        following.communicate()


def _line_with(lines: Any, what: str, *, is_json: bool) -> str:
    for line in lines:
        found = json.loads(line)["what"] if is_json else line.split()[2]
        if found == what:
            return str(line)
    raise AssertionError(f"no event {what}")
