"""worker/about.py: what a worker says of itself is what people read of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from genlock.coordinator.records import Member
from genlock.coordinator.status import WorkerStatus, status_of_worker
from genlock.worker.about import about, held_of
from genlock.worker.slot import Slot, Told
from genlock.worker.view import View


def seen(worker: str = "host:7", **changes: Any) -> WorkerStatus:
    """The worker as `genlock workers` shows it."""
    views = {
        "a": View(model="a", payload=object(), generation=4, version="v4", bytes=10),
        "b": View(model="b", payload=object(), generation=2, version="v2", bytes=20, stale=True),
    }
    facts: dict[str, Any] = {"views": views, "pid": 7, "started_at": 5.5, "last_error": "why", "stats": {"hits": 3}}
    facts["loading"] = {"a": {"generation": 5, "step": "verify", "since": 6.5}}
    text = about(worker, **facts | changes)
    return status_of_worker(Member("m1", 1, ("a", "b"), json.loads(text)))


def test_people_read_what_the_worker_says() -> None:
    """Both ends have to use the same words: a field under another name is not missed by anybody until it is needed."""
    found = seen()
    assert (found.worker, found.host, found.pid, found.started_at) == ("host:7", "host", 7, 5.5)
    assert (found.generations, found.last_error) == ({"a": 4, "b": 2}, "why")
    assert found.about["stats"] == {"hits": 3}
    assert found.about["loading"] == {"a": {"generation": 5, "step": "verify", "since": 6.5}}


def test_each_model_is_told_with_what_it_is_worth() -> None:
    """An operator who looks for the worker that answers stale, or holds too much, finds it here without asking the worker."""
    models = seen().about["models"]
    assert models["a"] == {"generation": 4, "version": "v4", "bytes": 10, "stale": False}
    assert models["b"] == {"generation": 2, "version": "v2", "bytes": 20, "stale": True}


def test_a_worker_that_holds_nothing_says_so() -> None:
    """The first one is made before anything is loaded, and goes with the join."""
    found = seen(views={}, last_error="", stats={})
    assert (found.generations, found.about["models"]) == ({}, {})


@pytest.mark.parametrize(("worker", "host"), [("named by hand", ""), ("fd00::1:7", "fd00::1"), ("host:", "host")])
def test_any_name_of_a_worker_can_be_told(worker: str, host: str) -> None:
    """The name is host:pid as a rule, and whose it is not must still heartbeat: the pid is not read back from it."""
    found = seen(worker)
    assert (found.worker, found.host, found.pid) == (worker, host, 7)


def test_what_is_loaded_is_told_by_what_it_is_for() -> None:
    """Three generations of one model in memory: whoever looks for 40 GB wants to know which goes when."""
    slot = Slot("a", Told((4, "v4"), 1, 1))
    slot.handles = {(4, "v4"): 1, (3, "v3"): 2}
    slot.shown, slot.warm = (4, "v4"), (3, "v3")
    sizes = {1: 10, 2: 20}
    assert held_of({"a": slot, "b": Slot("b", None)}, sizes.__getitem__) == {
        "a": {"active": {"generation": 4, "bytes": 10}, "warm": {"generation": 3, "bytes": 20}},
        "b": {},
    }
