"""worker/examining.py: one thread, however much there is to examine. That the agent asks again is tested with trust."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from genlock.coordinator.reply import FAILED
from genlock.worker.examining import Examining
from genlock.worker.slot import Found

WaitFor = Callable[..., Any]


def found(model: str, gen: int) -> Found:
    return Found(model, gen, f"v{gen}", "text", 0)


class Bench:
    """A thread that examines; it waits in each examination until a test lets it go on."""

    def __init__(self) -> None:
        self.begun: list[Found] = []
        self.go_on = threading.Event()
        self.told: list[tuple[Found, str, str]] = []
        self.room = Examining(self.answer, lambda *told: self.told.append(told))

    def answer(self, one: Found) -> tuple[str, str]:
        self.begun.append(one)
        assert self.go_on.wait(20)
        return "refused" if one.gen == 1 else "", f"why of {one.gen}"


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.go_on.set()
    made.room.close(20)


def test_the_newest_of_each_model_is_examined_in_turn(bench: Bench, wait_for: WaitFor) -> None:
    """While the first one hangs, as many wait as there are models, and no thread more."""
    bench.room.examine(found("a", 1))
    wait_for(lambda: bench.begun)
    for gen in (2, 3, 4):
        bench.room.examine(found("b", gen))
        bench.room.examine(found("a", gen))
    assert [thread.name for thread in threading.enumerate()].count("genlock-examines") == 1
    assert bench.told == []
    bench.go_on.set()
    wait_for(lambda: len(bench.told) == 3)
    assert bench.told == [
        (found("a", 1), "refused", "why of 1"),
        (found("b", 4), "", "why of 4"),
        (found("a", 4), "", "why of 4"),
    ]


def test_where_no_thread_can_be_started_it_has_failed(
    bench: Bench, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's limit of threads. The next one finds a thread that can be."""

    def refuses(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuses)
        bench.room.examine(found("a", 1))
    assert bench.told == [(found("a", 1), FAILED, "can't start new thread")]
    bench.go_on.set()
    bench.room.examine(found("a", 2))
    wait_for(lambda: len(bench.told) == 2)
    assert bench.begun == [found("a", 2)]


def test_closing_waits_no_longer_than_it_may_and_begins_nothing_more(bench: Bench, wait_for: WaitFor) -> None:
    bench.room.examine(found("a", 1))
    wait_for(lambda: bench.begun)
    bench.room.examine(found("b", 1))
    bench.room.close(0.01)
    assert bench.told == []
    bench.go_on.set()
    bench.room.close(20)
    assert bench.begun == [found("a", 1)] and len(bench.told) == 1


def test_closing_one_that_never_began_is_nothing() -> None:
    Bench().room.close(20)
