"""worker/evict.py: what goes from the cache of a host."""

from pathlib import Path

from genlock.worker.evict import Kept, evicted


def kept(digest: str, size: int, used_at: float, whole: bool = True) -> Kept:
    return Kept(digest, size, used_at, Path(digest), whole)


FILES = [kept("new", 5, 30.0), kept("old", 5, 10.0), kept("held", 5, 1.0), kept("part", 1, 40.0, whole=False)]


def names(found: list[Kept] | None) -> list[str] | None:
    return None if found is None else [one.digest for one in found]


def test_nothing_goes_while_it_fits() -> None:
    assert evicted(FILES, {"held"}, over=0) == [] == evicted([], (), over=-5)


def test_parts_that_nobody_waits_for_go_first_then_the_least_recently_used() -> None:
    assert names(evicted(FILES, {"held"}, over=1)) == ["part"]
    assert names(evicted(FILES, {"held"}, over=2)) == ["part", "old"]
    assert names(evicted(FILES, {"held"}, over=7)) == ["part", "old", "new"]


def test_what_is_held_never_goes() -> None:
    assert evicted(FILES, {"held"}, over=12) is None
    assert names(evicted(FILES, (), over=12)) == ["part", "held", "old", "new"]
