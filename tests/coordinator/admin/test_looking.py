"""coordinator/admin/looking.py: what is shown, and that it is what the fleet is."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
from genlock.coordinator.admin.wire import FleetNow, Models, Stats, Workers
from genlock.coordinator.fleet import Fleet

WaitFor = Callable[..., Any]
File = Callable[[str], Path]
Background = Callable[[Callable[[], Any]], "Future[Any]"]


def test_a_fleet_without_anything_is_shown(viewer: Any, fleet: Fleet) -> None:
    """The first thing that anybody sees of a new installation."""
    found = msgspec.convert(viewer.get("fleet").json, FleetNow)
    assert (found.name, found.open, found.stale, found.counts.models, found.counts.workers) == ("t", True, False, 0, 0)
    assert viewer.get("models").json["models"] == []
    assert viewer.get("workers").json["workers"] == []


def test_models_and_workers_are_what_the_command_line_shows(viewer: Any, fleet: Fleet, member: Any, file: File) -> None:
    """Two ways to look at one fleet that do not agree would be worse than one."""
    fleet.publish("digits", file("1"), message="run 41")
    fleet.publish("other", file("2"))
    member("h:1")
    member("i:2", "digits", "other")
    models = msgspec.convert(viewer.get("models").json, Models)
    assert models.models == fleet.status().models
    assert [(model.model, model.holders, model.message) for model in models.models] == [
        ("digits", 2, "run 41"),
        ("other", 1, ""),
    ]
    assert viewer.get("models/digits").json == msgspec.to_builtins(fleet.model("digits"))
    workers = msgspec.convert(viewer.get("workers").json, Workers)
    assert workers.workers == fleet.workers()
    assert viewer.get("fleet").json["counts"] == {
        "models": 2,
        "workers": 2,
        "hosts": 1,
        "candidates": 0,
        "pinned": 0,
        "poisoned": 0,
    }


def test_a_candidate_is_shown_worker_by_worker(
    viewer: Any, fleet: Fleet, member: Any, file: File, background: Background, wait_for: WaitFor
) -> None:
    """Who waits for a flip wants to know for whom."""
    one, two, three = member("h:1"), member("h:2"), member("h:3")
    flip = background(lambda: fleet.publish("digits", file("1"), agreement=0.5, timeout=20))
    wait_for(lambda: two.candidate() == 1)
    two.say(1, "ready", seconds={"verify": 0.5, "load": 1})
    three.failed(1)

    def states() -> list[str]:
        candidate = viewer.get("models/digits").json["candidate"]
        return [worker["state"] for worker in candidate["workers"]]

    wait_for(lambda: states() == ["awaited", "ready", "failed"])
    found = viewer.get("models/digits").json["candidate"]["workers"]
    assert [worker["worker"] for worker in found] == ["h:1", "h:2", "h:3"]
    assert (found[1]["seconds"], found[1]["host"], found[1]["member"]) == ({"verify": 0.5, "load": 1.0}, "h", two.id)
    assert (found[2]["step"], found[2]["why"]) == ("load", "no memory")
    assert "workers" not in viewer.get("models").json["models"][0]["candidate"]
    one.ready(1)
    wait_for(lambda: viewer.get("models/digits").json["phase"] == "fencing")
    for each in (one, two, three):
        each.fenced(1)
    assert flip.result(20).outcome == "committed"
    wait_for(lambda: viewer.get("models/digits").json["candidate"] is None)


def test_a_model_that_is_not_there_is_told_with_those_that_are(viewer: Any, fleet: Fleet, file: File) -> None:
    fleet.publish("digits", file("1"))
    for path in ("models/nope", "models/nope/history"):
        answer = viewer.get(path)
        assert (answer.status_code, answer.json["type"]) == (404, "urn:genlock:problem:unknown-model")
        assert answer.json["known"] == ["digits"]
    answer = viewer.get("models/a b")
    assert (answer.status_code, answer.json["type"]) == (400, "urn:genlock:problem:invalid-name")


def test_history_has_what_two_generations_can_be_compared_by(viewer: Any, fleet: Fleet, file: File) -> None:
    fleet.publish("digits", {"a": file("1"), "b": file("2")}, message="first")
    fleet.publish("digits", {"a": file("1"), "b": file("3")}, author="carol")
    newest, first = viewer.get("models/digits/history").json["generations"]
    assert (newest["generation"], newest["author"], newest["active"]) == (2, "carol", True)
    assert (first["message"], first["outcome"]) == ("first", "committed")
    assert first["artifacts"][0]["digest"] == newest["artifacts"][0]["digest"]
    assert first["artifacts"][1]["digest"] != newest["artifacts"][1]["digest"]
    assert newest["artifacts"][1] == {
        "name": "b",
        "size": len("checkpoint 3"),
        "digest": newest["artifacts"][1]["digest"],
        "source": str(file("3")),
    }
    assert len(viewer.get("models/digits/history?limit=1").json["generations"]) == 1


def test_events_are_the_newest_or_those_behind_one(viewer: Any, fleet: Fleet, file: File) -> None:
    fleet.publish("digits", file("1"))
    fleet.pin("digits", why="it is good")
    found = viewer.get("events").json["events"]
    assert [event["what"] for event in found][-3:] == ["candidate", "committed", "pinned"]
    assert found[-1]["facts"]["why"] == "it is good"
    assert viewer.get("events?limit=1").json["events"] == found[-1:]
    assert viewer.get("events?limit=0").json["events"] == []
    assert viewer.get(f"events?after={found[-3]['id']}").json["events"] == found[-2:]
    assert viewer.get(f"events?after={found[-3]['id']}&limit=1").json["events"] == found[-2:-1]
    assert viewer.get(f"events?after={found[-1]['id']}").json["events"] == []


def test_events_that_are_not_at_hand_any_more_are_read(viewer: Any, fleet: Fleet, file: File, monkeypatch: Any) -> None:
    """The admin keeps the newest thousand; the log has more."""
    monkeypatch.setattr("genlock.coordinator.admin.reader.MOST_EVENTS", 3)
    fleet.publish("digits", file("1"))
    before = list(fleet.events())
    for _ in range(3):
        fleet.pin("digits")
    assert len(viewer.get("events?limit=1000").json["events"]) == 3
    found = viewer.get(f"events?after={before[0].id}&limit=2").json["events"]
    assert [event["id"] for event in found] == [event.id for event in before[1:3]]


def test_figures_of_workers_are_added_up(viewer: Any, fleet: Fleet, member: Any) -> None:
    """Those of workers that say nothing yet are left out."""
    member("h:1")
    found = msgspec.convert(viewer.get("stats").json, Stats)
    assert (found.workers, found.totals["hits"], found.stale) == (0, 0, False)
