"""worker/mixed.py: for how long a worker answered, marked stale, from what was not active any more."""

from __future__ import annotations

from genlock.worker.mixed import StaleSpell
from genlock.worker.view import FOREVER, NEVER, Lease, View

LEASE = Lease()


def leased(generation: int, version: str = "v") -> View:
    return View(model="m", payload=None, generation=generation, version=version, lease=LEASE)


def stale(generation: int) -> View:
    return View(model="m", payload=None, generation=generation, version="v", lease=FOREVER, stale=True)


def asks(generation: int) -> View:
    return View(model="m", payload=None, generation=generation, version="v", lease=NEVER)


def told(*shown: tuple[float, View]) -> list[float]:
    spell = StaleSpell()
    return [seconds for now, view in shown if (seconds := spell.shows(view, now)) is not None]


def test_a_flip_is_not_mixed() -> None:
    """Under a lease, then fenced, then the next one: at no moment two of them (promise 1)."""
    assert told((0, leased(1)), (5, asks(1)), (6, leased(2)), (9, asks(2)), (9.5, leased(3))) == []


def test_what_was_missed_without_redis_was_mixed_at_most_since_then() -> None:
    """Redis was gone for this worker from 3 to 13, and meanwhile the others flipped: nobody could tell it when."""
    assert told((0, leased(1)), (3, stale(1)), (13, asks(1)), (14, leased(2))) == [10]
    assert told((0, leased(1)), (3, stale(1)), (13, leased(2))) == [10]


def test_what_is_active_still_was_never_mixed() -> None:
    assert told((0, leased(1)), (3, stale(1)), (13, asks(1)), (14, leased(1)), (20, asks(1)), (21, leased(2))) == []


def test_the_same_number_with_another_content_was_mixed() -> None:
    """After lost data a number may stand for something else: identity is both."""
    assert told((3, stale(1)), (7, leased(1, "w"))) == [4]


def test_redis_that_comes_and_goes_is_one_spell() -> None:
    assert told((3, stale(1)), (5, asks(1)), (6, stale(1)), (13, leased(2)), (20, stale(2)), (21, leased(3))) == [10, 1]
