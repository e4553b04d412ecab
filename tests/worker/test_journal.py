"""worker/journal.py: each line of the log says which model, which generation, and why."""

from __future__ import annotations

import logging

import pytest
from genlock.coordinator.manifest import Artifact, Manifest
from genlock.worker.journal import DROPPED, Journal
from genlock.worker.orders import Arrived, Dropped, Flipped, Rejected
from genlock.worker.stats import DROP_REASONS

MODEL = "e3--cnn"


class Known:
    """What a worker knows of its generations: when each was made."""

    def __init__(self) -> None:
        self.made_at = {1: 100.0, 2: 200.0, 3: 50.0}

    def manifest_of(self, model: str, generation: int) -> str | None:
        if generation not in self.made_at:
            return None
        made = Manifest.of(model, [Artifact("model", 3, "a" * 64)], created_at=self.made_at[generation])
        return made.encode().decode()


@pytest.fixture
def known() -> Known:
    return Known()


@pytest.fixture
def journal(known: Known, caplog: pytest.LogCaptureFixture) -> Journal:
    caplog.set_level(logging.DEBUG, "genlock.worker.compat")
    return Journal(known.manifest_of)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_a_life_is_told_with_its_reasons(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody asks in the morning why a model was loaded four times at night."""
    journal.notify(Flipped(MODEL, None, (1, "a")))
    journal.notify(Arrived(MODEL, (1, "a"), "active"))
    journal.hit(MODEL, 1)
    journal.notify(Arrived(MODEL, (2, "b"), "candidate"))
    journal.notify(Flipped(MODEL, (1, "a"), (2, "b")))
    journal.notify(Flipped(MODEL, (2, "b"), (3, "a")))
    journal.notify(Arrived(MODEL, (3, "a"), "refresh"))
    journal.notify(Dropped(MODEL, (3, "a"), "ttl"))
    journal.notify(Arrived(MODEL, (3, "a"), "active"))
    journal.notify(Arrived(MODEL, (3, "a"), "forced"))
    assert lines(caplog) == [
        ("INFO", "reloaded: e3/cnn, generation 1: first use"),
        ("DEBUG", "hit: e3/cnn, generation 1"),
        ("INFO", "reloaded: e3/cnn, generation 2: file changed"),
        ("INFO", "reloaded: e3/cnn, generation 3: rolled back"),
        ("INFO", "reloaded: e3/cnn, generation 3: refreshed"),
        ("INFO", "invalidated: e3/cnn, generation 3: ttl"),
        ("INFO", "reloaded: e3/cnn, generation 3: ttl"),
        ("INFO", "reloaded: e3/cnn, generation 3: forced"),
    ]
    told = caplog.records[-3]
    assert (told.event, told.model, told.generation, told.why) == ("invalidated", MODEL, 3, "ttl")  # type: ignore[attr-defined]


def test_every_reason_of_a_drop_has_words(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    assert set(DROPPED) == set(DROP_REASONS)
    journal.notify(Dropped(MODEL, None, "clear"))
    journal.notify(Arrived(MODEL, (1, "a"), "active"))
    assert [text for _, text in lines(caplog)] == [
        "invalidated: e3/cnn, generation None: cleared",
        "reloaded: e3/cnn, generation 1: cleared",
    ]


def test_what_is_of_no_signature_is_told_by_its_name(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    journal.hit("digits", 1)
    assert lines(caplog) == [("DEBUG", "hit: digits, generation 1")]


def test_a_manifest_that_is_not_known_is_no_way_back(
    journal: Journal, known: Known, caplog: pytest.LogCaptureFixture
) -> None:
    journal.notify(Arrived(MODEL, (2, "b"), "active"))
    journal.notify(Flipped(MODEL, (2, "b"), (4, "c")))
    assert lines(caplog)[-1] == ("INFO", "reloaded: e3/cnn, generation 4: file changed")


def test_what_is_no_news_of_a_model_is_no_line(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    journal.notify(Rejected(MODEL, (2, "b"), {}))
    caplog.set_level(logging.INFO, "genlock.worker.compat")
    journal.hit(MODEL, 1)
    assert lines(caplog) == []
