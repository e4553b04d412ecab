"""One job at a time, the newest of those that wait."""

import threading
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import pytest
from genlock.coordinator.hooks.courier import Courier


def test_the_newest_waits_and_replaces_an_older_one(wait_for: Callable[..., Any]) -> None:
    """A trainer saves faster than the fleet changes: it is not stalled, and the fleet gets what is newest when it is free again."""
    begun, go_on, carried, dropped = threading.Event(), threading.Event(), [], []

    def carry(job: int) -> None:
        begun.set()
        assert go_on.wait(20)
        carried.append(job)

    courier = Courier[int](carry, dropped.append)
    courier.give(1)
    assert begun.wait(20)
    courier.give(2)
    courier.give(3)
    assert dropped == [2]
    assert not courier.wait(0.01), "one is in work"
    go_on.set()
    assert courier.wait(20)
    assert carried == [1, 3]


def test_a_job_that_raises_is_not_the_last_one(caplog: pytest.LogCaptureFixture) -> None:
    """A fault nobody has thought of ended the thread: everybody waited for it, and nothing was published until training was over."""
    carried: list[int] = []

    def carry(job: int) -> None:
        if job == 1:
            raise SystemExit("from somebody else's code")
        carried.append(job)

    courier = Courier[int](carry, carried.append)
    courier.give(1)
    assert courier.wait(20)
    courier.give(2)
    assert courier.wait(20)
    assert carried == [2]
    assert "SystemExit: from somebody else's code" in caplog.text


def test_without_a_thread_the_job_stays_with_who_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container with a limit of processes: what could not be begun must not look as if it were in work."""
    carried: list[int] = []
    courier = Courier[int](carried.append, carried.append)
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", MagicMock(side_effect=RuntimeError("can't start new thread")))
        with pytest.raises(RuntimeError, match="can't start"):
            courier.give(1)
    courier.give(2)
    assert courier.wait(20)
    assert carried == [2]


def test_it_begins_again_after_it_had_nothing_to_do() -> None:
    carried: list[int] = []
    courier = Courier[int](carried.append, carried.append)
    assert courier.wait(0)
    for job in (1, 2):
        courier.give(job)
        assert courier.wait(20)
    assert carried == [1, 2]
