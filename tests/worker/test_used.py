"""worker/used.py: what a request demands and has used, without a cache behind it."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
from genlock.coordinator.errors import HeaderInvalid, NotReady
from genlock.worker.cache import Held
from genlock.worker.trial import Counted, Group
from genlock.worker.used import Used
from genlock.worker.view import View


class Payload:
    """Of one use."""


class Fake:
    """A cache that holds a in generation 3 and b in generation 5, both in a canary, and remembers how it was asked and what it gave."""

    def __init__(self, *, at_hand: bool = True) -> None:
        self.asked: list[Any] = []
        self.at_hand = at_hand
        self.group = Group()
        self.payloads: weakref.WeakSet[Payload] = weakref.WeakSet()

    def get(self, model: str, **key: str) -> View:
        self.asked.append((model, key))
        return self.view(model)

    def use_many(self, *models: str) -> Held:
        self.asked.append(models)
        return Held(self.view(model) for model in models)

    def at_once(self, *models: str, key: str | None) -> Held | None:
        self.asked.append((*models, key))
        return Held(self.view(model) for model in models) if self.at_hand else None

    def view(self, model: str) -> View:
        view = View(model=model, payload=Payload(), generation={"a": 3, "b": 5}[model], version=f"v{model}")
        self.payloads.add(view.payload)
        return Counted(view, self.group)


def test_a_request_that_used_nothing_tells_nothing() -> None:
    used = Used("key", "99")
    used.answered(failed=True)
    assert used.told() == []


def test_all_that_was_used_is_told() -> None:
    used, cache = Used(None, None), Fake()
    used.get(cache, "a")  # type: ignore[arg-type]
    assert used.told() == [("X-Genlock-Generation", "3"), ("X-Genlock-Version", "va")]
    used.get_many(cache, "a", "b")  # type: ignore[arg-type]
    assert used.told()[0] == ("X-Genlock-Generation", "a=3, b=5")
    assert cache.asked == [("a", {}), ("a", "b")]


def test_the_key_goes_along_with_one_model() -> None:
    """Several models are of one instant, in which no canary takes part."""
    used, cache = Used("user-7", None), Fake()
    used.get(cache, "a")  # type: ignore[arg-type]
    used.at_once(cache, "a")  # type: ignore[arg-type]
    used.at_once(cache, "a", "b")  # type: ignore[arg-type]
    assert cache.asked == [("a", {"key": "user-7"}), ("a", "user-7"), ("a", "b", None)]


def test_what_would_have_to_wait_is_not_used() -> None:
    used = Used(None, None)
    assert used.at_once(Fake(at_hand=False), "a") is None  # type: ignore[arg-type]
    assert used.told() == []


@pytest.mark.parametrize(("demand", "error"), [("4", NotReady), ("a=4", NotReady), ("x", HeaderInvalid)])
@pytest.mark.parametrize("how", ["get", "get_many", "at_once"])
def test_a_demand_counts_however_a_model_is_taken(demand: str, error: type[Exception], how: str) -> None:
    """And it is no failure of the model: anybody may demand what is not there."""
    used, cache = Used(None, demand), Fake()
    with pytest.raises(error):
        getattr(used, how)(cache, "a")
    assert (sum(cache.group.slow), cache.group.errors) == (1, 0)


def test_a_request_keeps_no_payload_however_long_it_lasts() -> None:
    """A stream used a model for each of its events, and kept every generation of a day in memory: so does a task that a request has begun,
    which inherits what its request has used."""
    used, cache = Used("user-7", None), Fake()
    for _ in range(3):
        with used.get(cache, "a"):  # type: ignore[arg-type]
            pass
    used.get(cache, "b")  # type: ignore[arg-type]  # without a block it counts until the answer begins
    assert len(cache.payloads) <= 2, "of a only what has ended last"
    used.answered(failed=True)
    assert (sum(cache.group.slow), cache.group.errors) == (4, 1)
    for _ in range(3):
        used.get(cache, "a")  # type: ignore[arg-type]
        held = used.get_many(cache, "a", "b")  # type: ignore[arg-type]
    assert held[0].payload in cache.payloads
    del held
    assert not cache.payloads
    assert used.told()[0] == ("X-Genlock-Generation", "a=3, b=5")


def test_a_stale_use_is_told_though_others_of_that_generation_were_not() -> None:
    """Redis went and came back within one request."""
    used, cache = Used(None, None), Fake()
    fresh = cache.view("a")
    for view in (fresh, fresh.as_stale(), fresh):
        used._add((view,))
    assert used.told() == [("X-Genlock-Generation", "3"), ("X-Genlock-Version", "va"), ("X-Genlock-Stale", "1")]
