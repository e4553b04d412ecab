"""worker/holdings.py: what goes so that the rest fits. How much is too much is tested with the limits."""

from __future__ import annotations

from typing import Any

import pytest
from genlock.coordinator.manifest import Artifact, Manifest
from genlock.worker.agent import Agent
from genlock.worker.asking import Asking, Question
from genlock.worker.chronicle import Chronicle
from genlock.worker.holdings import Holdings
from genlock.worker.limits import Limits
from genlock.worker.orders import Dropped
from genlock.worker.shelf import Shelf
from genlock.worker.slot import Job
from genlock.worker.stats import Stats
from genlock.worker.view import View

NO_LIMITS = Limits(None, 100, None)


class Bench:
    """A worker that holds what a test says."""

    def __init__(self, limits: Limits) -> None:
        self.agent = Agent("h:1", lease_s=3.0, chance=lambda: 0.5)
        self.shelf, self.news = Shelf(), list[Any]()
        self.asking = Asking(self.shelf)
        stats = Stats(clock=lambda: 1.0, wall=lambda: 1.0, worker="h:1", fleet="t")
        self.chronicle = Chronicle("t", "h:1", stats, self.news.append)
        self.holdings = Holdings(self.agent, limits, self.shelf, self.asking, self.chronicle)

    def shows(self, model: str, *, used_at: float, size: int = 0) -> None:
        self.holdings.hold((model,), used_at)
        view = View(model=model, payload=None, generation=1, version="v1", used_at=used_at, bytes=size)
        self.shelf.views = {**self.shelf.views, model: view}

    def job(self, model: str, size: int, purpose: str = "active") -> Job:
        manifest = Manifest.of(model, [Artifact("model", size, "0" * 64)], created_at=1.0)
        self.holdings.hold((model,), 9.0)
        job = Job(1, model, (1, manifest.version), purpose, manifest.encode().decode())
        self.agent.slots[model].job = job
        return job

    @property
    def dropped(self) -> list[tuple[str, str]]:
        return [(news.model, news.reason) for news in self.news if isinstance(news, Dropped)]


def test_one_model_more_than_may_be_held_drops_the_one_that_was_used_least_recently() -> None:
    bench = Bench(NO_LIMITS._replace(max_models=2))
    for at, model in enumerate(("a", "b")):
        bench.shows(model, used_at=float(at))
    bench.holdings.hold(("b", "c"), 5.0)
    assert list(bench.agent.slots) == ["b", "c"] and bench.dropped == [("a", "lru_count")]
    bench.holdings.hold(("c", "d", "e"), 6.0)
    assert set(bench.agent.slots) == {"c", "d", "e"}, "one question's models are all held"


def test_what_is_not_held_cannot_be_dropped() -> None:
    bench = Bench(NO_LIMITS)
    bench.shows("a", used_at=1.0)
    bench.holdings.drop(["a", "unknown"], "invalidate")
    assert bench.dropped == [("a", "invalidate")] and bench.agent.slots == {}


def test_what_nobody_uses_is_dropped_after_its_time() -> None:
    bench = Bench(NO_LIMITS._replace(ttl_s=10.0))
    bench.shows("a", used_at=1.0)
    bench.shows("b", used_at=5.0)
    assert not bench.holdings.drop_expired(11.0)
    assert bench.holdings.drop_expired(12.0)
    assert bench.dropped == [("a", "ttl")]


def test_a_load_drops_what_it_needs_the_room_of() -> None:
    bench = Bench(NO_LIMITS._replace(max_bytes=100))
    bench.shows("a", used_at=1.0, size=40)
    bench.shows("b", used_at=2.0, size=40)
    assert bench.holdings.make_room(bench.job("c", 30), 9.0)
    assert bench.dropped == [("a", "lru_bytes")]


@pytest.mark.parametrize("purpose", ["active", "candidate"])
def test_what_never_fits_fails_with_the_numbers(purpose: str) -> None:
    """Who waits for what is active is told, and it is not held; a candidate leaves what is shown alone."""
    bench = Bench(NO_LIMITS._replace(max_bytes=100))
    job = bench.job("c", 51, purpose)
    question = Question(("c",))
    bench.asking.add(question)
    bench.agent.asked(question.token, ("c",))
    assert not bench.holdings.make_room(job, 9.0)
    is_active = purpose == "active"
    assert ("c" in bench.agent.slots, question.event.is_set()) == (not is_active, is_active)
    assert bench.dropped == ([("c", "lru_bytes")] if is_active else [])
    assert "51 bytes twice" in bench.chronicle.faults.of("c") and "c" in bench.chronicle.faults.misfits
    assert question.error is None or "51 bytes twice" in question.error.why
    bench.agent.given_up(question.token)
    bench.holdings.drop(["c"], "invalidate")
    bench.holdings.hold(("c",), 10.0)
    assert bench.chronicle.faults.misfits == {}, "the next one may fit"


def test_a_refresh_or_a_last_good_one_needs_no_room() -> None:
    bench = Bench(NO_LIMITS._replace(max_bytes=1))
    assert bench.holdings.make_room(bench.job("c", 51, "refresh"), 9.0)
    assert bench.holdings.make_room(Job(2, "c", (0, ""), "fallback", ""), 9.0)
