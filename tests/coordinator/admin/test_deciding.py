"""coordinator/admin/deciding.py: what an operator changes is changed once, is seen at once, and is written down."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from genlock.coordinator.admin import deciding
from genlock.coordinator.admin.jobs import MOST_JOBS
from genlock.coordinator.fleet import Fleet

NewApp = Callable[..., Flask]
WaitFor = Callable[..., Any]
File = Callable[[str], Path]
Background = Callable[[Callable[[], Any]], "Future[Any]"]


@pytest.fixture
def no_job_left(app: Flask, wait_for: WaitFor) -> Iterator[None]:
    """What goes on behind an answer ends with the test."""
    yield
    wait_for(lambda: not app.extensions["genlock"].jobs._jobs)


def publish(asking: Any, path: Path, **more: Any) -> Any:
    key = more.pop("key", None)
    return asking.post("models/digits/publish", {"path": str(path), **more}, key=key)


# --- each verb ---------------------------------------------------------------------------------------------------------


def test_publish_and_rollback_and_what_is_read_then_shows_them(alice: Any, viewer: Any, file: File) -> None:
    """Who has published and looks must not see the generation before: the page would say that nothing has happened."""
    viewer.get("models")
    first = publish(alice, file("1"), message="run 41")
    assert (first.status_code, first.json["outcome"], first.json["generation"]) == (200, "committed", 1)
    assert viewer.get("models/digits").json["generation"] == 1
    assert alice.post("models/digits/publish", {"paths": {"a": str(file("2"))}}).json["generation"] == 2
    back = alice.post("models/digits/rollback", {"to": 1, "why": "worse"})
    assert (back.json["generation"], back.json["outcome"]) == (3, "committed")
    shown = viewer.get("models/digits").json
    assert (shown["generation"], shown["pin"]["why"]) == (3, "worse")
    assert shown["pin"]["by"] == "alice@127.0.0.1"


def test_metrics_are_published_with_a_file(alice: Any, viewer: Any, file: File) -> None:
    """A pipeline that publishes over HTTP had the loss, and no field to tell it in."""
    assert publish(alice, file("1"), metrics={"val/loss": 0.12, "epoch": 3}).json["outcome"] == "committed"
    assert viewer.get("models/digits/history").json["generations"][0]["metrics"] == {"val/loss": 0.12, "epoch": 3.0}
    for wrong in ({"": 1}, {"loss": "low"}, {f"m{n}": n for n in range(65)}):
        assert publish(alice, file("2"), metrics=wrong).status_code == 422


def test_a_canary_is_begun_promoted_and_committed(
    alice: Any, viewer: Any, fleet: Fleet, member: Any, file: File, background: Background, wait_for: WaitFor
) -> None:
    fleet.publish("digits", file("1"))
    worker = member("h:1")
    answer = background(lambda: publish(alice, file("2"), canary="5%", timeout=20))
    wait_for(lambda: worker.candidate() == 2)
    worker.ready(2)
    assert answer.result(20).json["outcome"] == "canary"
    assert viewer.get("models/digits").json["candidate"]["share"] == 0.05
    assert alice.post("models/digits/promote", {"share": "50%", "generation": 2}).json["outcome"] == "canary"
    assert viewer.get("models/digits").json["candidate"]["share"] == 0.5
    done = background(lambda: alice.post("models/digits/promote"))
    wait_for(lambda: worker.state().is_fencing)
    worker.fenced(2)
    assert done.result(20).json["outcome"] == "committed"
    assert viewer.get("models/digits").json["generation"] == 2


def test_abort_pin_and_unpin_name_the_generation(
    alice: Any, viewer: Any, fleet: Fleet, member: Any, file: File
) -> None:
    fleet.publish("digits", file("1"))
    member("h:1")
    assert publish(alice, file("2"), wait=False).json["outcome"] == "candidate"
    stopped = alice.post("models/digits/abort", {"why": "wrong file"}, key="stop")
    assert stopped.json == {"outcome": "aborted", "model": "digits", "generation": 2, "request": "stop"}
    assert viewer.get("models/digits").json["candidate"] is None
    pinned = alice.post("models/digits/pin", {"why": "demo"})
    assert (pinned.json["outcome"], pinned.json["generation"]) == ("pinned", 1)
    assert publish(alice, file("2")).json["type"] == "urn:genlock:problem:pinned"
    assert alice.post("models/digits/unpin").json["outcome"] == "unpinned"
    assert viewer.get("models/digits").json["pin"] is None


def test_clear_and_refresh_name_who_did_not_do_it(
    alice: Any, fleet: Fleet, member: Any, file: File, background: Background, wait_for: WaitFor
) -> None:
    """An operator who clears because of a bad copy has to know which worker still has it."""
    fleet.publish("digits", file("1"))
    one, two = member("h:1"), member("h:2")
    answer = background(lambda: alice.post("models/digits/refresh"))
    task = wait_for(lambda: one.task("refresh"))
    one.did(task)
    two.did(task, ok=False, why="no memory")
    failed = answer.result(20)
    assert (failed.status_code, failed.json["type"]) == (502, "urn:genlock:problem:failed-workers")
    assert failed.json["failed"] == {"h:2": "no memory"}
    answer = background(lambda: alice.post("clear", {"model": "digits", "timeout": 2}))
    task = wait_for(lambda: one.task("clear"))
    one.did(task)
    silent = answer.result(20)
    assert (silent.status_code, silent.json["type"]) == (504, "urn:genlock:problem:silent-workers")
    assert (silent.json["silent"], list(silent.json["done"])) == (["h:2"], ["h:1"])


# --- once --------------------------------------------------------------------------------------------------------------


def test_the_same_key_does_nothing_twice(alice: Any, fleet: Fleet, member: Any, file: File) -> None:
    """A client that had no answer sends it again; two generations, or an abort of the next candidate, would be worse than no answer."""
    first = publish(alice, file("1"), key="k1")
    assert publish(alice, file("1"), key="k1").json["generation"] == first.json["generation"] == 1
    member("h:1")
    publish(alice, file("2"), wait=False)
    assert alice.post("models/digits/abort", key="k2").json["generation"] == 2
    publish(alice, file("3"), wait=False)
    assert alice.post("models/digits/abort", key="k2").json["generation"] == 2
    assert fleet.model("digits").candidate is not None
    back = [alice.post("models/digits/rollback", {"to": 1, "wait": False}, key="k3").json for _ in range(2)]
    assert back[0]["generation"] == back[1]["generation"]
    pinned = [alice.post("models/digits/pin", key="k4").json for _ in range(2)]
    assert pinned[0] == pinned[1]
    cleared = [alice.post("clear", {"timeout": 0.01}, key="k5").json["silent"] for _ in range(2)]
    assert cleared == [["h:1"], ["h:1"]]
    started = [event for event in fleet.events() if event.what == "task-started"]
    assert len(started) == 1


def test_a_key_is_of_one_change(alice: Any, fleet: Fleet, file: File) -> None:
    """`pin` and `unpin` under the number of an incident: the second was told as done, and the model stayed pinned."""
    publish(alice, file("1"))
    publish(alice, file("2"))
    assert alice.post("models/digits/pin", {"why": "look"}, key="incident-7").status_code == 200
    for verb, body in (
        ("unpin", {}),
        ("abort", {}),
        ("promote", {}),
        ("rollback", {}),
        ("publish", {"path": str(file("3"))}),
    ):
        answer = alice.post(f"models/digits/{verb}", body, key="incident-7")
        assert (answer.status_code, answer.json["type"]) == (422, "urn:genlock:problem:request-reused"), answer.text
        assert (answer.json["request"], answer.json["used"]) == ("incident-7", "pin")
    assert "Use another id" in answer.json["detail"]
    assert alice.post("models/digits/unpin", key="incident-8").json["outcome"] == "unpinned"
    assert (fleet.model("digits").pin, fleet.model("digits").generation) == (None, 2)


def test_a_key_is_of_one_task(alice: Any, fleet: Fleet, file: File) -> None:
    publish(alice, file("1"))
    assert alice.post("clear", key="t").status_code == 200
    answer = alice.post("models/digits/refresh", key="t")
    assert (answer.status_code, answer.json["used"]) == (422, "clear of all models")


def test_who_does_not_wait_longer_hears_that_it_goes_on(
    alice: Any,
    fleet: Fleet,
    member: Any,
    file: File,
    wait_for: WaitFor,
    no_job_left: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model takes minutes to load; a proxy gives up after one. The same call with the same key asks for the outcome."""
    monkeypatch.setattr(deciding, "WAIT_S", 0.2)
    fleet.publish("digits", file("1"))
    worker = member("h:1")
    waiting = publish(alice, file("2"), key="long", timeout=20)
    assert waiting.status_code == 202
    assert waiting.json["outcome"] == "pending"
    assert waiting.json["request"] == waiting.headers["Idempotency-Key"] == "long"
    wait_for(lambda: publish(alice, file("2"), key="long", timeout=20).json["state"] == "preparing, 0 of 1 workers")
    other = publish(alice, file("3"), key="long", timeout=20)
    assert (other.status_code, other.json["where"]) == (422, "Idempotency-Key")
    worker.ready(2)
    wait_for(lambda: worker.state().is_fencing)
    worker.fenced(2)
    done = wait_for(lambda: (a := publish(alice, file("2"), key="long", timeout=20)).status_code == 200 and a)
    assert (done.json["generation"], done.json["outcome"]) == (2, "committed")


def test_only_so_many_changes_are_in_work(
    app: Flask, alice: Any, fleet: Fleet, file: File, monkeypatch: pytest.MonkeyPatch, wait_for: WaitFor
) -> None:
    """Each has a thread and connections; a script in a loop must not take them all from Redis."""
    monkeypatch.setattr(deciding, "WAIT_S", 0.0)
    fleet.publish("digits", file("1"))
    jobs, ends = app.extensions["genlock"].jobs, threading.Event()
    for number in range(MOST_JOBS):
        jobs.begin(str(number), (number,), lambda _: ends.wait(20))
    answer = alice.post("models/digits/pin")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    ends.set()
    wait_for(lambda: not jobs._jobs)
    assert alice.post("models/digits/pin").status_code in (200, 202)
    wait_for(lambda: not jobs._jobs)


# --- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "path"),
        ({"path": "/a", "paths": {"a": "/a"}}, "path"),
        ({"path": "relative.bin"}, "path"),
        ({"path": "/a\0b"}, "path"),
        ({"paths": {"a": "b"}}, "paths.a"),
        ({"path": "/a", "golden": "b"}, "golden"),
        ({"path": "/a", "agreement": "most"}, "agreement"),
        ({"path": "/a", "agreement": 0}, "agreement"),
        ({"path": "/a", "canary": "none"}, "share"),
        ({"path": "/a", "policy": "errors=1%"}, "canary"),
        ({"path": "/a", "canary": "5%", "policy": "luck=1"}, "policy"),
        ({"path": "/a", "canary": "5%", "policy": {"requests": 1}}, "policy"),
        ({"path": "/a", "timeout": -1}, "body.timeout"),
        ({"paths": {"a b": "/a"}}, "body.paths"),
    ],
)
def test_terms_that_make_no_sense_are_told_where(alice: Any, body: Any, where: str) -> None:
    answer = alice.post("models/digits/publish", body)
    assert (answer.status_code, answer.json["type"]) == (422, "urn:genlock:problem:bad-input"), answer.text
    assert answer.json["where"].startswith(where)


def test_a_file_that_is_not_there_is_told(alice: Any, tmp_path: Path) -> None:
    answer = publish(alice, tmp_path / "nope.bin")
    assert (answer.status_code, answer.json["type"]) == (422, "urn:genlock:problem:artifact-missing")


def test_files_come_from_the_folders_that_are_allowed(new_app: NewApp, asking: Any, tmp_path: Path, file: File) -> None:
    """An operator's token must not read the host's other files into the store: not by a link, not by `..`."""
    allowed = tmp_path / "models"
    allowed.mkdir()
    (allowed / "good.bin").write_text("checkpoint")
    (allowed / "link.bin").symlink_to(file("secret"))
    alice = asking(new_app(admin_sources=(allowed,)), "may-do-all")
    assert publish(alice, allowed / "good.bin").status_code == 200
    for path in (file("secret"), allowed / "link.bin", allowed / ".." / file("secret").name, Path("/etc/hostname")):
        answer = publish(alice, path)
        assert (answer.status_code, answer.json["type"]) == (403, "urn:genlock:problem:not-allowed")
        assert "GENLOCK_ADMIN_SOURCES" in answer.json["detail"]
    assert publish(alice, allowed / "good.bin", golden=str(file("secret"))).status_code == 403


def test_decisions_about_nothing_are_told(alice: Any, fleet: Fleet, file: File) -> None:
    assert alice.post("models/nope/pin").status_code == 404
    fleet.publish("digits", file("1"))
    for verb in ("abort", "promote", "rollback"):
        answer = alice.post(f"models/digits/{verb}")
        assert (answer.status_code, answer.json["type"]) == (404, "urn:genlock:problem:no-generation"), verb


# --- written down ------------------------------------------------------------------------------------------------------


def test_who_did_what_stands_in_both_logs(
    alice: Any, fleet: Fleet, file: File, caplog: pytest.LogCaptureFixture
) -> None:
    """The fleet's log is for all to see; the admin's has the address and the role, and what was refused."""
    with caplog.at_level(logging.INFO, "genlock.admin"):
        publish(alice, file("1"))
        publish(alice, file("2"), message="better")
        alice.post("models/digits/rollback", {"why": "it is not"}, key="back")
        alice.post("models/digits/promote", {"why": "never mind"})
        alice.post("clear", {"why": "bad copies"}, key="all")
        alice.post("models/digits/refresh", {"why": "and again"})
    entries: list[Any] = [record for record in caplog.records if record.name == "genlock.admin"]
    facts = [(one.event, one.model, one.from_generation, one.generation, one.outcome, one.why) for one in entries]
    assert facts == [
        ("publish", "digits", None, 1, "committed", ""),
        ("publish", "digits", 1, 2, "committed", "better"),
        ("rollback", "digits", 2, 3, "committed", "it is not"),
        ("promote", "digits", 3, None, "unknown", "never mind"),
        ("clear", None, None, None, "done", "bad copies"),
        ("refresh", "digits", 3, None, "done", "and again"),
    ]
    assert {(one.by, one.role, one.address) for one in entries} == {("alice@127.0.0.1", "operator", "127.0.0.1")}
    assert (entries[2].request, entries[3].levelname) == ("back", "WARNING")
    assert "rollback of digits by alice@127.0.0.1" in entries[2].getMessage()
    assert "generation 2 -> 3, why: it is not" in entries[2].getMessage()
    told = {event.what: event.facts.get("by") for event in fleet.events()}
    assert told["committed"] == told["task-started"] == "alice@127.0.0.1"
    whys = [event.facts["why"] for event in fleet.events() if event.what == "task-started"]
    assert whys == ["bad copies", "and again"]
