"""Who has been silent for a whole lease, and how long an epoch has been watched (R5, R6), by values and a clock that is told."""

import pytest
from genlock.coordinator.clock import patience_s
from genlock.coordinator.observer import Observer

LEASE = 3.0
PATIENCE = patience_s(LEASE)
#: A moment behind it: sums of floats are not exact.
OVER = PATIENCE + 0.001
FIVE, SIX = (5, "x"), (6, "y")


@pytest.fixture
def observer() -> Observer:
    return Observer(LEASE, jitter=0.5)


def test_r5_the_same_beat_for_a_whole_lease(observer: Observer) -> None:
    """Each reply names it with the same beat; the first time counts, not the last."""
    for now in (100.0, 101.0, 103.0):
        observer.saw({"1": "7"}, now)
        assert observer.silent(now) is None
    assert observer.silent(100 + PATIENCE - 0.001) is None
    assert observer.silent(100 + OVER) == ("1", "7")
    assert observer.watched == ("1",)


def test_r5_another_beat_begins_again(observer: Observer) -> None:
    """It was slow, not dead: it took a lease with that beat."""
    observer.saw({"1": "7"}, 100.0)
    observer.saw({"1": "8"}, 103.0)
    assert observer.silent(100 + PATIENCE) is None
    assert observer.silent(103 + OVER) == ("1", "8")


def test_r5_who_was_not_named_is_not_watched(observer: Observer) -> None:
    """It has answered; if it is waited for again later, that is another wait."""
    observer.saw({"1": "7", "2": "9"}, 100.0)
    observer.saw({"2": "9"}, 101.0)
    assert observer.watched == ("2",)
    observer.saw({"1": "7", "2": "9"}, 102.0)
    assert observer.silent(100 + OVER) == ("2", "9")
    observer.forget("2")
    assert observer.silent(101.9 + PATIENCE) is None
    assert observer.silent(102 + OVER) == ("1", "7")


def test_r5_one_at_a_time_and_forgotten_when_it_is_done(observer: Observer) -> None:
    observer.saw({"1": "7", "2": "9"}, 100.0)
    found = []
    while silent := observer.silent(110.0):
        found.append(silent)
        observer.forget(silent[0])
    assert sorted(found) == [("1", "7"), ("2", "9")]
    observer.forget("1")
    assert observer.watched == ()


def test_r6_an_epoch_is_watched_from_when_it_was_heard_closed(observer: Observer) -> None:
    """For a lease and its patience, and then this watcher's share of a tenth of a lease, so that not all open at once."""
    assert observer.opens_at is None and not observer.may_open(1e9)
    for now in (100.0, 101.0, 102.0):
        observer.saw_epoch(FIVE, False, now)
    opens_at = 100 + PATIENCE + 0.5 * LEASE / 10
    assert observer.opens_at == pytest.approx(opens_at)
    assert not observer.may_open(opens_at - 0.001)
    assert observer.may_open(opens_at + 0.001)


@pytest.mark.parametrize("jitter", (0.0, 1.0))
def test_r6_no_jitter_makes_it_too_early(jitter: float) -> None:
    observer = Observer(LEASE, jitter=jitter)
    observer.saw_epoch(FIVE, False, 100.0)
    assert observer.opens_at is not None
    assert 100 + PATIENCE <= observer.opens_at <= 100 + PATIENCE + LEASE / 10


def test_r6_another_epoch_begins_to_be_watched_anew(observer: Observer) -> None:
    """Also one of the same number with another nonce: it is another memory."""
    observer.saw_epoch(FIVE, False, 100.0)
    for epoch, now in ((SIX, 103.0), ((6, "z"), 105.0)):
        observer.saw_epoch(epoch, False, now)
        assert not observer.may_open(now + PATIENCE - 0.001)


def test_r6_who_was_watched_in_the_epoch_before_is_forgotten(observer: Observer) -> None:
    """Ids and beats begin anew, open or closed: the same numbers may be somebody else's."""
    for epoch, is_open in ((FIVE, True), (SIX, False), (FIVE, True)):
        observer.saw({"1": "7"}, 100.0)
        observer.saw_epoch(epoch, is_open, 101.0)
        assert observer.watched == () and observer.silent(200.0) is None


def test_r6_an_open_epoch_is_not_watched(observer: Observer) -> None:
    """Somebody else opened it; the members that are waited for are watched on."""
    observer.saw_epoch(FIVE, False, 100.0)
    observer.saw({"1": "7"}, 101.0)
    observer.saw_epoch(FIVE, True, 102.0)
    assert observer.opens_at is None
    assert observer.silent(101 + OVER) == ("1", "7")
    observer.saw_epoch(SIX, False, 110.0)
    assert not observer.may_open(110 + PATIENCE - 0.001)


def test_the_next_moment_to_look(observer: Observer) -> None:
    """The earliest of all; with nothing to watch there is none."""
    assert observer.wake_at is None
    observer.saw_epoch(FIVE, False, 100.0)
    assert observer.wake_at == observer.opens_at
    observer.saw({"1": "7"}, 99.0)
    assert observer.wake_at == pytest.approx(99 + PATIENCE)
    observer.saw_epoch(FIVE, True, 101.0)
    observer.saw({"1": "7", "2": "8"}, 102.0)
    assert observer.wake_at == pytest.approx(99 + PATIENCE)


def test_a_lease_that_was_learned_later_counts(observer: Observer) -> None:
    """The fleet's is longer than the one that this process was told: nobody is evicted earlier."""
    observer.saw({"1": "7"}, 100.0)
    observer.lease_s = 10.0
    assert observer.silent(100 + PATIENCE) is None
    assert observer.silent(100.001 + patience_s(10.0)) == ("1", "7")


def test_an_empty_beat_is_a_beat_like_any_other(observer: Observer) -> None:
    """Somebody has emptied the member's field: who watched it met a KeyError, and a publish ended in it."""
    observer.saw({"1": ""}, 100.0)
    observer.saw({"1": ""}, 101.0)
    assert observer.silent(100 + OVER) == ("1", "")
