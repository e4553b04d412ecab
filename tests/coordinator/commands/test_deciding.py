"""`genlock abort`, `pin`, `unpin`, `clear`, `refresh`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def published(genlock: Callable[..., Any], checkpoint: Callable[..., Path]) -> None:
    assert genlock("publish", "digits", checkpoint()).status == 0


def test_a_pin_refuses_proposals_until_it_is_taken_away(
    published: None, genlock: Callable[..., Any], checkpoint: Callable[..., Path]
) -> None:
    """The reason of a pin is what the next trainer reads."""
    ran = genlock("pin", "digits", "-m", "demo today")
    assert ran.status == 0 and "pinned to generation 1" in ran.out and "genlock unpin digits" in ran.out
    ran = genlock("publish", "digits", checkpoint("2"))
    assert ran.status == 3 and "demo today" in ran.err

    assert genlock("unpin", "digits").out == "digits: not pinned any more; generation 1 is active\n"
    assert genlock("publish", "digits", checkpoint("2")).status == 0


def test_pin_and_unpin_in_json(published: None, genlock: Callable[..., Any]) -> None:
    """A program has to learn which generation it has pinned."""
    assert genlock("pin", "digits", "--json").document == {"outcome": "pinned", "model": "digits", "generation": 1}
    assert genlock("unpin", "digits", "--json").document["outcome"] == "unpinned"


def test_abort_stops_the_candidate(
    published: None, genlock: Callable[..., Any], checkpoint: Callable[..., Path], member: Any
) -> None:
    """A candidate that was a mistake had to be waited for; the reason stands in the history."""
    member("h:1")
    assert genlock("publish", "digits", checkpoint("2"), "--no-wait").status == 0
    ran = genlock("abort", "digits", "-m", "a mistake")
    assert (ran.status, ran.out) == (0, "digits: generation 2 is aborted; what was active stays active\n")
    assert "a mistake" in genlock("history", "digits").out
    assert genlock("status", "digits", "--json").document["generation"] == 1


def test_without_a_candidate_there_is_nothing_to_abort(published: None, genlock: Callable[..., Any]) -> None:
    """Somebody believed for a day that they had stopped a candidate."""
    ran = genlock("abort", "digits")
    assert ran.status == 1 and "no candidate" in ran.err


@pytest.mark.parametrize("command", ["pin", "unpin", "abort", "refresh", "clear", "rollback"])
def test_a_decision_on_an_unknown_model_is_a_usage_error(genlock: Callable[..., Any], command: str) -> None:
    """A misspelt model was pinned "successfully"."""
    ran = genlock(command, "nosuch", "--json")
    assert (ran.status, ran.document["outcome"]) == (2, "unknown")


# --- tasks of all workers --------------------------------------------------------------------------------------------


def test_a_task_without_workers_is_done(published: None, genlock: Callable[..., Any]) -> None:
    """A clear of an idle fleet waited for its whole timeout."""
    assert genlock("refresh", "digits").out == "digits: no worker had to be asked\n"
    assert genlock("clear", "--json").document["outcome"] == "done"


def test_a_task_says_why(published: None, genlock: Callable[..., Any]) -> None:
    """Who cleared a fleet at night stood in the log, and not what for."""
    genlock("clear", "digits", "-m", "a bad copy")
    genlock("refresh", "digits", "--message", "and again")
    events = genlock("events", "--json").document
    assert [event["facts"]["why"] for event in events if event["what"] == "task-started"] == ["a bad copy", "and again"]


def test_a_task_that_every_worker_did(
    published: None, genlock: Callable[..., Any], member: Any, background: Any, wait_for: Any
) -> None:
    """The command comes back when the last worker has answered, not at its timeout."""
    worker = member("h:1")
    working = background(lambda: worker.did(wait_for(lambda: worker.task("clear"))))
    ran = genlock("clear", "digits", "--timeout", "30")
    working.result()
    assert (ran.status, ran.out) == (0, "digits: dropped by 1 of 1 worker\n")


@pytest.fixture
def one_of_two_fails(published: None, member: Any, background: Any, wait_for: Any) -> None:
    """A refresh that is coming is done by h:1 and failed by h:2."""
    good, poor = member("h:1"), member("h:2")

    def work() -> None:
        task = wait_for(lambda: good.task("refresh"))
        good.did(task)
        poor.did(task, ok=False, why="no memory")

    background(work)


def test_a_task_that_a_worker_failed_is_status_1_and_names_it(
    one_of_two_fails: None, genlock: Callable[..., Any]
) -> None:
    """A refresh of nine workers of ten was told as done."""
    ran = genlock("refresh", "digits")
    assert ran.status == 1 and "digits: loaded afresh by 1 of 2 workers" in ran.out
    assert "h:2     failed: no memory" in ran.out


def test_a_task_that_a_worker_failed_is_one_document(one_of_two_fails: None, genlock: Callable[..., Any]) -> None:
    """The JSON of a failed task was followed by that of an error."""
    ran = genlock("refresh", "digits", "--json")
    assert ran.status == 1
    assert ran.document["outcome"] == "failed" and ran.document["failed"] == {"h:2": "no memory"}


def test_a_worker_that_does_not_answer_is_status_4_and_named(
    published: None, genlock: Callable[..., Any], member: Any
) -> None:
    """Nobody knew which of forty workers had not dropped the model."""
    member("h:1")
    ran = genlock("clear", "--timeout", "200ms")
    assert ran.status == 4
    assert "all models: dropped by 0 of 1 worker" in ran.out and "h:1     did not answer in time" in ran.out
    assert genlock("clear", "--timeout", "200ms", "--json").document["silent"] == ["h:1"]
