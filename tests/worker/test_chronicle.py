"""worker/chronicle.py: what is told to people, when it has happened. That it is told at all is tested with the runtime."""

from __future__ import annotations

from typing import Any

import pytest
from genlock.coordinator.errors import DoesNotFit, RedisUnreachable, Unsigned
from genlock.worker.chronicle import Chronicle
from genlock.worker.loading import Loaded
from genlock.worker.loadthread import Done
from genlock.worker.orders import Arrived, Dropped, Expelled, Flipped, Rejected
from genlock.worker.slot import Job
from genlock.worker.stats import Stats
from genlock.worker.view import View


class Told:
    """A chronicle, and what it has told to whom."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("DEBUG", "genlock.worker")
        self._caplog = caplog
        self.stats = Stats(clock=lambda: 1.0, wall=lambda: 1.0, worker="h:1", fleet="t")
        self.news: list[Any] = []
        self.chronicle = Chronicle("t", "h:1", self.stats, self.news.append)

    def model(self, name: str = "m") -> Any:
        return self.stats.detail()["models"][name]

    def last(self) -> dict[str, Any]:
        """Fields of the last line of the log, with its level."""
        return self._caplog.records[-1].__dict__

    def faults(self) -> tuple[str, str]:
        return self.chronicle.faults.of("m"), self.chronicle.faults.last


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    return Told(caplog)


def job(purpose: str = "active") -> Job:
    return Job(1, "m", (2, "v2"), purpose, "")


def failed(purpose: str = "active") -> Done:
    return Done(job(purpose), (2, "v2"), said="bad", step="check", why="NaN")


def test_a_line_names_the_worker_the_model_and_nothing_that_is_not_known(told: Told) -> None:
    told.chronicle.expelled(Expelled("a new epoch began"))
    line = told.last()
    assert (line["event"], line["fleet"], line["worker"], line["why"]) == ("expelled", "t", "h:1", "a new epoch began")
    assert not {"model", "generation", "version"} & line.keys()
    assert told.stats.summary()["evictions"] == 0
    told.chronicle.expelled(Expelled("evicted"))
    assert told.stats.summary()["evictions"] == 1


def test_a_flip_has_the_seconds_of_its_phases(told: Told) -> None:
    told.chronicle.enters("m", 2, "preparing", 1.0)
    told.chronicle.enters("m", 2, "fencing", 3.0)
    told.chronicle.flipped(Flipped("m", (1, "v1"), (2, "v2")), 3.5, is_here=False)
    line = told.last()
    assert (line["before"], line["generation"], line["seconds"]) == (1, 2, {"preparing": 2.0, "fencing": 0.5})
    assert "not loaded yet" in line["message"]
    told.chronicle.enters("m", 3, "preparing", 5.0)
    told.chronicle.rejected(Rejected("m", (3, "v3"), {"step": "check", "why": "NaN"}))
    assert (told.last()["step"], told.model()["last_rejection"]["why"]) == ("check", "NaN")
    told.chronicle.enters("m", 3, "fencing", 9.0)
    told.chronicle.flipped(Flipped("m", None, (3, "v3")), 9.5, is_here=True)
    assert told.last()["seconds"] == {"fencing": 0.5} and "before" not in told.last()


def test_a_refusal_is_wrong_with_what_is_held_only(told: Told) -> None:
    """It comes from a thread of its own: the model may have been dropped meanwhile, and nobody would mend it any more."""
    told.chronicle.refused("m", 2, Unsigned("m", "v2"), is_held=False)
    assert (told.last()["levelname"], told.last()["reason"]) == ("ERROR", "unsigned")
    assert told.model()["refused"] == {"unsigned": 1} and told.faults() == ("", "")


def test_what_could_not_be_loaded_is_wrong_until_it_is_loaded(told: Told) -> None:
    told.chronicle.load_failed(failed(), is_held=True)
    assert told.last()["levelname"] == "WARNING" and told.faults()[0] == "m generation 2: check: NaN"
    loaded = Done(job(), (2, "v2"), Loaded(None, 7, {"read": 0.12345678}, frozenset()))
    told.chronicle.loaded(loaded)
    assert told.faults() == ("", "") and told.news == [Arrived("m", (2, "v2"), "active")]
    assert (told.last()["seconds"], told.last()["bytes"]) == ({"read": 0.123457}, 7)
    assert told.model()["loads"] == {"ok": 1, "failed": 0, "bad": 1}


def test_a_last_good_one_neither_mends_nor_is_wrong(told: Told) -> None:
    """Redis is gone: that is what is wrong. Nor is anything of what is not held any more."""
    told.chronicle.redis_gone(RedisUnreachable("there", "it is away"), is_news=True)
    away = told.chronicle.faults.last
    assert "it is away" in away and told.last()["event"] == "redis-gone"
    told.chronicle.load_failed(failed("fallback"), is_held=True)
    assert told.last()["levelname"] == "DEBUG"
    told.chronicle.load_failed(failed(), is_held=False)
    assert told.faults() == (away, away)
    told.chronicle.load_failed(failed(), is_held=True)
    told.chronicle.loaded(Done(job("fallback"), (1, "v1"), Loaded(None, 7, {}, frozenset())))
    assert told.faults()[0] == "m generation 2: check: NaN"
    told.chronicle.redis_answered()
    assert told.last()["event"] == "redis-back"
    told.chronicle.redis_gone(RedisUnreachable("there", "it is away"), is_news=False)
    assert told.last()["event"] == "redis-back", "said once"


def test_what_is_dropped_is_not_wrong_any_more(told: Told) -> None:
    view = View(model="m", payload=None, generation=2, version="v2")
    told.chronicle.load_failed(failed(), is_held=True)
    told.chronicle.dropped("m", view, "invalidate")
    assert told.faults() == ("", "")
    told.chronicle.cleared("m", view)
    told.chronicle.dropped("n", None, "ttl")
    assert told.news == [
        Dropped("m", (2, "v2"), "invalidate"),
        Dropped("m", (2, "v2"), "clear"),
        Dropped("n", None, "ttl"),
    ]
    assert (told.model()["drops"]["invalidate"], told.model()["drops"]["clear"]) == (1, 1)


def test_what_is_refused_is_said_with_its_own_words(told: Told) -> None:
    told.chronicle.refused("m", 2, Unsigned("m", "v2"), is_held=True)
    assert told.faults()[0].startswith("m generation 2: signature: ") and told.model()["refused"] == {"unsigned": 1}
    assert (told.last()["levelname"], told.last()["reason"]) == ("ERROR", "unsigned")
    told.chronicle.does_not_fit(DoesNotFit("m", "9 bytes are too many"), (2, "v2"))
    assert "9 bytes are too many" in told.faults()[0] and told.last()["generation"] == 2
    told.chronicle.not_ours("foreign", RedisUnreachable("there", "it is another's"))
    assert told.chronicle.faults.last.startswith("foreign: ") and told.last()["event"] == "refused"
