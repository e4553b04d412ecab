"""coordinator/admin/streams.py: what a follower is told, and that no follower costs the others anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from genlock.coordinator.admin import streams
from genlock.coordinator.admin.reader import Change, Reader
from genlock.coordinator.admin.streams import Streams
from genlock.coordinator.fleet import Fleet

WaitFor = Callable[..., Any]
File = Callable[[str], Path]


def said(stream: Any, event: str) -> list[Any]:
    """The data of all events of a kind."""
    return [json.loads(data) for name, data, _ in stream.messages if name == event]


def test_a_follower_hears_the_log_and_goes_on_behind_its_last_entry(
    follow: Callable[..., Any], fleet: Fleet, file: File, wait_for: WaitFor
) -> None:
    """A laptop sleeps; its page connects again and tells the last entry that it has had. Nothing is missed, nothing comes twice."""
    fleet.publish("digits", file("1"))
    stream = follow()
    wait_for(lambda: "committed" in [entry["what"] for entry in said(stream, "log")])
    fleet.pin("digits")
    wait_for(lambda: said(stream, "log")[-1]["what"] == "pinned")
    last = stream.messages[-1][2]
    assert last == said(stream, "log")[-1]["id"]
    fleet.unpin("digits")
    again = follow(Last_Event_ID=last)
    wait_for(lambda: said(again, "log"))
    assert [entry["what"] for entry in said(again, "log")] == ["unpinned"]
    assert {name for name, _, _ in again.messages} == {"", "log"}
    few = follow("&limit=1")
    wait_for(lambda: len(said(few, "log")) == 1)


def test_with_state_everything_comes_first_and_then_what_changes(
    follow: Callable[..., Any], fleet: Fleet, member: Any, file: File, wait_for: WaitFor
) -> None:
    fleet.publish("digits", file("1"))
    fleet.publish("other", file("1"))
    stream = follow("&state=1&limit=0")
    wait_for(lambda: said(stream, "workers"))
    assert [model["model"] for model in said(stream, "models")[0]["changed"]] == ["digits", "other"]
    assert said(stream, "fleet")[0]["counts"]["models"] == 2
    one = member("h:1")
    wait_for(lambda: len(said(stream, "workers")) > 1)
    assert said(stream, "workers")[-1]["changed"][0]["worker"] == "h:1"
    wait_for(lambda: [model for event in said(stream, "models") for model in event["changed"] if model["holders"]])
    fleet.pin("other", why="x")
    pinned = wait_for(lambda: [event for event in said(stream, "models")[1:] if event["changed"][0]["pin"]])
    assert [(model["model"], model["pin"]["why"]) for model in pinned[0]["changed"]] == [("other", "x")]
    fleet.publish("digits", file("2"), wait=False)
    wait_for(lambda: said(stream, "candidate"))
    progress = said(stream, "candidate")[-1]
    assert (progress["model"], progress["generation"]) == ("digits", 2)
    assert [(worker["worker"], worker["state"]) for worker in progress["workers"]] == [("h:1", "awaited")]
    one.leave()
    wait_for(lambda: [one.id] in [event["gone"] for event in said(stream, "workers")])


def test_there_are_only_so_many_streams(app: Flask, follow: Callable[..., Any], viewer: Any, wait_for: WaitFor) -> None:
    """Each holds a thread; forgotten pages would leave none for who wants to roll back. A place is free again when one ends."""
    made = [follow() for _ in range(4)]
    answer = viewer.get("events?follow=1")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert viewer.get("events").status_code == 200
    assert app.extensions["genlock"].streams._open == 4
    app.extensions["genlock"].reader.end()
    wait_for(lambda: all(stream.has_ended for stream in made))
    assert app.extensions["genlock"].streams._open == 0


def test_who_is_too_far_behind_is_let_go(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that takes nothing while the fleet changes must not make the admin keep all of it."""
    reader: Reader = app.extensions["genlock"].reader
    reader.picture()
    start = reader.start(limit=0, after=None)
    with reader._changed:
        for _ in range(reader._changes.maxlen or 0):
            reader._changes.append(Change(b"", b"x"))
            reader._number += 1
    assert len(reader.changes(start.number, 0.0) or []) == reader._changes.maxlen
    with reader._changed:
        reader._changes.append(Change(b"", b"x"))
        reader._number += 1
    assert reader.changes(start.number, 0.0) is None
    assert reader.changes(reader._number, 0.0) == []


def test_a_stream_says_now_and_then_that_it_is_there(
    follow: Callable[..., Any], wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy closes what says nothing for a minute."""
    monkeypatch.setattr(streams, "KEEP_ALIVE_S", 0.0)
    stream = follow("&limit=0")
    wait_for(lambda: len([one for one in stream.messages if one[1] == "still here"]) > 1)


def test_no_stream_lasts_for_ever(
    follow: Callable[..., Any], wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose token was taken back listens no longer than that."""
    monkeypatch.setattr(streams, "LONGEST_S", 0.0)
    stream = follow()
    wait_for(lambda: stream.has_ended)


def test_a_client_that_takes_nothing_is_given_up(app: Flask) -> None:
    """Its socket gets a limit; without one its thread would wait for as long as the client's machine is there."""
    limits: list[float] = []

    class Socket:
        def settimeout(self, seconds: float) -> None:
            limits.append(seconds)

    places = Streams(app.extensions["genlock"].reader, 1)
    with app.test_request_context("/", environ_overrides={"gunicorn.socket": Socket()}):
        places.answer(streams.EventsQuery(follow=True), None).close()
    assert limits == [streams.STALLED_S]
    assert places._open == 0
