"""worker/pieces.py: several calls on their way, and what they give in order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from genlock.worker.pieces import in_order


def nothing() -> None:
    pass


def numbers(asked: list[int]) -> Callable[[int], bytes]:
    def get(offset: int) -> bytes:
        asked.append(offset)
        return b"%d" % offset

    return get


@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_each_offset_is_asked_for_once_and_given_in_order(count: int) -> None:
    asked: list[int] = []
    found = list(in_order(numbers(asked), range(count), together=3, waiting=nothing))
    assert found == [b"%d" % number for number in range(count)] and sorted(asked) == list(range(count))


def test_as_many_as_said_are_on_their_way_together() -> None:
    """One after the other, a service that takes 50 ms to answer gives 160 MB in a second at most."""
    meeting = threading.Barrier(3)

    def get(offset: int) -> bytes:
        meeting.wait(20)
        return b"x"

    assert len(list(in_order(get, range(6), together=3, waiting=nothing))) == 6


def test_what_a_call_raises_ends_it_and_the_rest_is_not_asked_for(wait_for: Callable[..., Any]) -> None:
    asked: list[int] = []

    def get(offset: int) -> bytes:
        asked.append(offset)
        raise ConnectionResetError if offset else MemoryError

    with pytest.raises(MemoryError):
        list(in_order(get, range(100), together=2, waiting=nothing))
    wait_for(lambda: not [one for one in threading.enumerate() if one.name == "genlock-fetch"])
    assert max(asked) <= 1


def test_who_is_not_wanted_any_more_leaves_a_call_that_hangs(wait_for: Callable[..., Any]) -> None:
    go_on, asked = threading.Event(), list[int]()

    def get(offset: int) -> bytes:
        asked.append(offset)
        go_on.wait(20)
        return b""

    def waiting() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(in_order(get, range(9), together=2, waiting=waiting))
    go_on.set()
    wait_for(lambda: not [one for one in threading.enumerate() if one.name == "genlock-fetch"])
    assert max(asked, default=0) <= 1, "what had not begun is not asked for"


def test_calls_that_hang_are_known_until_they_end(wait_for: Callable[..., Any]) -> None:
    """A store that hung gathered threads with every fetch that was given up, and nobody could know how many."""
    go_on, running = threading.Event(), set[Future[bytes]]()

    def get(offset: int) -> bytes:
        go_on.wait(20)
        return b""

    def waiting() -> None:
        if len(running) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(in_order(get, range(9), together=2, waiting=waiting, running=running))
    assert len(running) == 2
    go_on.set()
    wait_for(lambda: not running)
    assert len(list(in_order(get, range(9), together=2, waiting=nothing, running=running))) == 9
    assert not running, "one that has answered is not on its way, from then on"
