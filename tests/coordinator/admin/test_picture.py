"""coordinator/admin/picture.py: one picture, each part encoded once, and what has changed since another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
from genlock.coordinator.admin.picture import Picture, differences, message, picture_of
from genlock.coordinator.records import Member, Record, Snapshot
from genlock.coordinator.reply import Active, Candidate
from genlock.coordinator.status import status_of_model

ACTIVE = Active(gen=1, version="v", epoch=1)
CANDIDATE = Candidate(gen=2, version="w", request="r", awaited=1)
ABOUT = {"worker": "h:1", "host": "h", "stats": {"hits": 1}}


def member(name: str = "1", **about: Any) -> Member:
    return Member(name, 5, ("m",), {**ABOUT, **about})


def picture(
    *members: Member,
    models: Mapping[str, Record] | None = None,
    entries: Mapping[tuple[str, int], Any] | None = None,
    tasks: Mapping[str, Any] | None = None,
    as_of: float = 5.0,
    revision: int = 3,
    silent: Mapping[str, float] | None = None,
    before: Picture | None = None,
) -> Picture:
    found = {"m": Record(next=2, active=ACTIVE)} if models is None else models
    snapshot = Snapshot(7, True, 3.0, revision, members, found, tasks or {})
    statuses = [status_of_model(name, snapshot, None) for name in found]
    where = {"name": "t", "fleet_id": "f", "redis": "here", "store": "/s"}
    return picture_of(snapshot, statuses, entries or {}, **where, as_of=as_of, silent=silent, before=before)


def events(text: bytes) -> list[tuple[str, Any]]:
    """(event, data) of each message."""
    rows = [dict(line.split(": ", 1) for line in one.split("\n")) for one in text.decode().split("\n\n")[:-1]]
    return [(row["event"], json.loads(row["data"])) for row in rows]


def test_lists_are_what_encoding_them_whole_would_give() -> None:
    found = picture(member("1"), member("2"), models={"m": Record(next=2, active=ACTIVE), "n": Record(next=2)})
    whole = {"models": list(found.models.values()), "as_of": 5.0, "stale": False}
    assert json.loads(found.models_json) == msgspec.to_builtins(whole)
    whole = {"workers": list(found.workers.values()), "as_of": 5.0, "stale": False}
    assert json.loads(found.workers_json) == msgspec.to_builtins(whole)
    assert json.loads(picture(models={}).models_json)["models"] == []
    assert found.models_json is found.models_json


def test_nothing_has_changed_but_the_time() -> None:
    """A fleet at rest is looked at each second; a hundred pages must not be told so each second."""
    assert differences(picture(member()), picture(member(), as_of=9.0)) == b""


def test_only_what_has_changed_is_told() -> None:
    before = picture(member("1"), member("2"), models={"m": Record(next=2, active=ACTIVE), "n": Record(next=2)})
    after = picture(member("1", last_error="x"), member("3"), models={"n": Record(next=3), "o": Record(next=2)})
    found = dict(events(differences(before, after)))
    assert set(found) == {"models", "workers"}
    assert ([one["model"] for one in found["models"]["changed"]], found["models"]["gone"]) == (["o"], ["m"])
    assert ([one["member"] for one in found["workers"]["changed"]], found["workers"]["gone"]) == (["1", "3"], ["2"])


def test_everything_comes_first() -> None:
    """Also where there is nothing: the page has to know that it is not waiting any more."""
    found = events(picture(models={}).everything)
    assert [name for name, _ in found] == ["fleet", "models", "workers"]
    assert found[1][1] == found[2][1] == {"changed": [], "gone": []}


def test_a_candidate_is_told_worker_by_worker_as_it_goes_on() -> None:
    models = {"m": Record(next=3, active=ACTIVE, cand=CANDIDATE)}
    loading = {"m": {"generation": 2, "step": "verify", "since": 4.0}}
    before = picture(
        member("2", loading=loading),
        member("10"),
        models=models,
        entries={("m", 2): {"10": ("awaited", {}), "2": ("late", {})}},
    )
    said = {"worker": "h:7", "seconds": {"load": 1, "verify": 0.5, "odd": "x", "huge": 10**400}, "why": "w"}
    after = picture(
        member("2"), models=models, entries={("m", 2): {"2": ("ready", said), "10": ("failed", {"step": "load"})}}
    )
    (first,) = [data for event, data in events(before.everything) if event == "candidate"]
    assert [(one["member"], one["state"], one["step"]) for one in first["workers"]] == [
        ("2", "late", "verify"),
        ("10", "awaited", ""),
    ]
    (then,) = [data for event, data in events(differences(before, after)) if event == "candidate"]
    assert (then["model"], then["generation"]) == ("m", 2)
    assert then["workers"][0]["seconds"] == {"load": 1.0, "verify": 0.5}
    assert (then["workers"][0]["worker"], then["workers"][0]["why"]) == ("h:7", "w")
    assert (then["workers"][1]["step"], then["workers"][1]["worker"]) == ("load", "10")
    ended = picture(member("2"))
    assert [event for event, _ in events(differences(after, ended))] == ["fleet", "models"]


def test_one_model_has_its_workers_and_all_models_have_not() -> None:
    """A thousand workers for each of two hundred models are nobody's list."""
    models = {"m": Record(next=3, active=ACTIVE, cand=CANDIDATE)}
    found = picture(member(), models=models, entries={("m", 2): {"1": ("ready", {})}})
    one = msgspec.to_builtins(found.model("m"))
    assert [worker["worker"] for worker in one["candidate"]["workers"]] == ["h:1"]
    assert "workers" not in json.loads(found.models_json)["models"][0]["candidate"]
    assert found.model("n") is None


def test_what_is_in_work_makes_it_busy() -> None:
    """Then it is looked at more often: what workers say of a candidate comes without a hint."""
    assert not picture(member()).is_busy
    assert picture(models={"m": Record(next=3, active=ACTIVE, cand=CANDIDATE)}).is_busy
    assert picture(tasks={"1": {"kind": "clear"}}).is_busy
    assert not picture(tasks={"1": {"kind": "clear", "ended": "5"}, "2": "nonsense"}).is_busy


def test_an_old_picture_says_so_and_is_not_encoded_again() -> None:
    found = picture(member())
    old = found.gone_stale("no Redis answers")
    assert old.worker_parts is found.worker_parts
    assert json.loads(old.models_json)["stale"] is True
    (only,) = events(differences(found, old))
    assert (only[0], only[1]["stale"], only[1]["why"], only[1]["as_of"]) == ("fleet", True, "no Redis answers", 5.0)
    assert old.stats.stale


def test_what_is_as_it_was_is_not_made_again() -> None:
    """A thousand workers beat, and a few of them say something new."""
    before = picture(member("1"), member("2"))
    beaten = Member("1", 99, ("m",), dict(ABOUT))
    after = picture(beaten, member("2", pid=9), before=before)
    assert after.worker_parts["1"] is before.worker_parts["1"]
    assert after.workers["2"].pid == 9
    assert json.loads(after.worker_parts["2"])["pid"] == 9
    assert picture(beaten, before=before, silent={"1": 3.0}).workers["1"].silent_since == 3.0
    dropped = picture(Member("1", 5, (), dict(ABOUT)), before=before)
    assert dropped.workers["1"].models == []


def test_who_says_what_cannot_be_written_is_shown_without_it() -> None:
    """One garbled worker must not take the picture of the whole fleet away."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    found = picture(member("1", last_error=deep), member("2"))
    assert [(one["worker"], one["about"] == {}) for one in json.loads(found.workers_json)["workers"]] == [
        ("h:1", True),
        ("h:1", False),
    ]
    while deep:  # from the outside in: a chain that long cannot be freed at once
        deep = deep[0]


def test_figures_of_workers_are_added_up() -> None:
    """What one of them says that is no number counts as nothing."""
    said: list[Any] = [3, 4.5, "many", None, 10**400]
    found = picture(
        *(member(str(n), stats={"hits": hits, "loads": 2}) for n, hits in enumerate(said)), member("9", stats=[])
    ).stats
    assert (found.workers, found.totals["hits"], found.totals["loads"]) == (5, 7.5, 10)


def test_a_message_is_one_whatever_it_holds() -> None:
    """A line end in a text of somebody's would begin another event."""
    data = msgspec.json.encode({"why": "a\n\nevent: fleet\ndata: {}\r\u2028"})
    assert message("log", data, "1-0").count(b"\n") == 4
    assert replace(picture(), is_busy=True).fleet_json == picture().fleet_json
