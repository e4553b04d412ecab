"""worker/callbacks.py: the user's callbacks are told, in order, and can harm nobody."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from genlock.coordinator.reply import Epoch
from genlock.worker import callbacks as room
from genlock.worker.callbacks import Callbacks
from genlock.worker.hitrate import HitRate
from genlock.worker.orders import Flipped, Joined, Rejected
from genlock.worker.stats import Stats

WaitFor = Callable[..., Any]


@pytest.fixture
def stats() -> Stats:
    return Stats(clock=lambda: 0.0, wall=lambda: 0.0)


@pytest.fixture
def callbacks(stats: Stats, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callbacks]:
    """Closing them waits until all have been called."""
    monkeypatch.setattr(room, "CLOSE_S", 20.0)
    made = Callbacks()
    made.begin_anew(stats)
    yield made
    made.close()


def test_each_event_reaches_its_callbacks_in_order(callbacks: Callbacks) -> None:
    heard: list[Any] = []
    callbacks.add("on_flip", lambda *facts: heard.append(("flip", *facts)))
    callbacks.add("on_reject", lambda *facts: heard.append(("reject", *facts)))
    callbacks.add("on_low_hit_rate", lambda rate: heard.append(rate))
    callbacks.notify(Flipped("m", None, (1, "a")))
    callbacks.notify(Rejected("m", (2, "b"), {"why": "NaN"}))
    callbacks.notify(Rejected("m", (3, "c"), {}))
    callbacks.notify(Flipped("m", (1, "a"), (4, "d")))
    callbacks.notify(Joined("7", Epoch(1, "n")))
    callbacks.low_hit_rate(HitRate(1, 9))
    callbacks.close()
    assert heard == [
        ("flip", "m", None, 1),
        ("reject", "m", 2, "NaN"),
        ("reject", "m", 3, "the fleet did not commit it"),
        ("flip", "m", 1, 4),
        HitRate(1, 9),
    ]


def test_a_callback_is_returned_so_that_it_can_be_a_decorator(callbacks: Callbacks) -> None:
    def tell() -> None: ...

    assert callbacks.add("on_flip", tell) is tell


def test_without_callbacks_there_is_no_thread(callbacks: Callbacks) -> None:
    callbacks.notify(Flipped("m", None, (1, "a")))
    assert "genlock-callbacks" not in [thread.name for thread in threading.enumerate()]


def test_one_that_raises_is_logged_and_counted_and_the_next_is_called(
    callbacks: Callbacks, stats: Stats, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []

    @lambda tell: callbacks.add("on_flip", tell)
    def fails(*_: Any) -> None:
        raise ValueError("a fault of the user's")

    callbacks.add("on_flip", lambda *facts: heard.append(facts))
    callbacks.notify(Flipped("m", None, (1, "a")))
    callbacks.close()
    assert heard == [("m", None, 1)]
    assert stats.detail()["process"]["hook_errors"] == {"on_flip": 1}
    assert "a fault of the user's" in caplog.text


def test_one_that_hangs_keeps_nobody_waiting(
    callbacks: Callbacks, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, wait_for: WaitFor
) -> None:
    """The runtime's thread tells it, and has a heartbeat to send: events above the bound are said in the log."""
    monkeypatch.setattr(room, "MAX_WAITING", 2)
    monkeypatch.setattr(room, "CLOSE_S", 0.01)
    stats = Stats(clock=lambda: 0.0, wall=lambda: 0.0)
    callbacks.begin_anew(stats)
    begun, let_go = threading.Event(), threading.Event()

    def hangs(*_: Any) -> None:
        begun.set()
        let_go.wait(20)

    callbacks.add("on_flip", hangs)
    callbacks.notify(Flipped("m", None, (1, "a")))
    assert begun.wait(20)
    with caplog.at_level(logging.ERROR):
        for generation in range(2, 5):
            callbacks.notify(Flipped("m", None, (generation, "a")))
    assert "a callback hangs" in caplog.text
    callbacks.close()  # cannot even be told, and returns
    let_go.set()
    wait_for(lambda: callbacks._queue.empty())
    callbacks.close()


def test_closing_within_a_callback_does_not_wait_for_itself(callbacks: Callbacks, wait_for: WaitFor) -> None:
    """A callback that shuts the worker down."""
    closed = threading.Event()

    def close(*_: Any) -> None:
        callbacks.close()
        closed.set()

    callbacks.add("on_flip", close)
    callbacks.notify(Flipped("m", None, (1, "a")))
    assert closed.wait(20)
