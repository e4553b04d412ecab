"""coordinator/problems.py: each error as RFC 9457 has it, and nothing of the inside of this process."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from genlock.coordinator import errors, problems
from genlock.coordinator.errors import (
    BadInput,
    FleetClosed,
    FlipRejected,
    GenlockError,
    NotReady,
    SettingsInvalid,
    Unauthorized,
    UnknownModel,
)
from genlock.coordinator.task import TaskResult


def body(problem: problems.Problem) -> Any:
    return json.loads(problem.encode())


def test_an_error_says_its_type_its_sentence_and_its_facts() -> None:
    error = UnknownModel("digits", ("a", "b"))
    problem = problems.of_error(error, "/evaluate/digits")
    assert problem.status == 404
    assert problem.headers == {}
    assert body(problem) == {
        "type": "urn:genlock:problem:unknown-model",
        "title": "Unknown model",
        "status": 404,
        "detail": str(error),
        "instance": "/evaluate/digits",
        "model": "digits",
        "known": ["a", "b"],
    }


@pytest.mark.parametrize(("after_s", "header"), [(1.0, "1"), (0.2, "1"), (2.5, "3")])
def test_who_may_come_again_is_told_when(after_s: float, header: str) -> None:
    """RFC 9110: whole seconds; 0 would be a busy loop."""
    problem = problems.of_error(NotReady("m", "it loads", after_s), "/")
    assert (problem.status, problem.headers) == (503, {"Retry-After": header})
    assert "retry_after_s" not in body(problem)


def test_a_challenge_comes_with_401() -> None:
    """RFC 9110 demands it."""
    assert problems.of_error(Unauthorized("no token"), "/").headers == {"WWW-Authenticate": "Bearer"}


def test_facts_of_any_type_go_into_json_and_take_no_defined_place() -> None:
    class Odd(GenlockError):
        @property
        def facts(self) -> dict[str, Any]:
            return {"type": "forged", "status": 200, "what": object, "flip": FleetClosed("f", 1.0)}

    found = body(problems.of_error(Odd("said"), "/x"))
    assert (found["type"], found["status"]) == ("urn:genlock:problem:odd", 500)
    assert found["what"] == "<class 'object'>"
    assert found["flip"] == {"fleet": "f", "waited_s": 1.0}


@pytest.mark.parametrize(
    "error", [BadInput("inputs[3]", "expected a number"), FlipRejected("m", 3, "v", "NaN"), FleetClosed("f", 1.5)]
)
def test_every_type_is_a_name_of_our_own(error: GenlockError) -> None:
    found = body(problems.of_error(error, "/"))
    assert found["type"].startswith("urn:genlock:problem:")
    assert found["status"] == error.status


def test_a_setting_that_cannot_be_used_is_not_the_clients_fault() -> None:
    """Seen: a bad GENLOCK_REDIS_URL was 400, and a retry elsewhere would have helped."""
    problem = problems.of_error(SettingsInvalid("redis_url", "nonsense", "no such scheme"), "/evaluate/m")
    assert problem.status == body(problem)["status"] == 503
    assert body(problem)["type"] == "urn:genlock:problem:settings-invalid"


def test_no_two_errors_have_one_type() -> None:
    """Clients branch on them."""
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, GenlockError)]
    kinds = {problems.kind_of(one) for one in classes}
    assert len(kinds) == len(classes) > 25
    assert {"not-ready", "bad-input", "outcome-unknown"} <= kinds


def test_errors_of_http_are_blank_and_keep_what_a_client_acts_on() -> None:
    headers = {"Allow": "POST", "Content-Type": "text/html", "Retry-After": "3"}
    problem = problems.of_http(405, "not so", "/x", headers)
    assert body(problem) == {
        "type": "about:blank",
        "title": "Method Not Allowed",
        "status": 405,
        "detail": "not so",
        "instance": "/x",
    }
    assert problem.headers == {"Allow": "POST", "Retry-After": "3"}
    assert body(problems.of_http(499, "", "/"))["title"] == "Error"


def test_a_fault_tells_the_log_everything_and_the_client_its_id(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ZeroDivisionError("password=hunter2")
    except ZeroDivisionError as error:
        with caplog.at_level(logging.ERROR):
            problem = problems.of_fault(error, "/x")
    found = body(problem)
    assert problem.status == found["status"] == 500
    assert found["id"] in caplog.text
    assert found["id"] in found["detail"]
    assert "hunter2" in caplog.text
    assert "hunter2" not in problem.encode().decode()
    assert "ZeroDivision" not in problem.encode().decode()
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    ("silent", "failed", "status", "kind", "said"),
    [
        ((), {}, None, "", ""),
        (("h:1", "h:2"), {"h:3": "no memory"}, 504, "silent-workers", "within 20 s from h:1, h:2"),
        ((), {"h:3": "no memory"}, 502, "failed-workers", "h:3 failed: no memory"),
    ],
)
def test_who_did_not_do_what_all_had_to_do_is_named(
    silent: tuple[str, ...], failed: dict[str, str], status: int | None, kind: str, said: str
) -> None:
    result = TaskResult(kind="clear", model=None, asked=3, done={}, failed=failed, silent=silent)
    problem = problems.of_task(result, "/x", waited_s=20)
    assert (problem.status if problem else None) == status
    if problem is not None:
        found = body(problem)
        assert found["type"] == f"urn:genlock:problem:{kind}"
        assert "clear of all models" in found["detail"]
        assert said in found["detail"]
        assert (found["silent"], found["failed"]) == (list(silent), failed)
