"""Hints: which revisions were heard of, which were read, and whether hints come at all."""

import pytest
from genlock.worker.hints import LEAST_PATIENCE_S, Hints


@pytest.fixture
def hints() -> Hints:
    """Of an epoch whose first reply said revision 5; all of it has been read."""
    found = Hints()
    found.new_epoch(5)
    found.read_all(5)
    return found


def test_a_new_epoch_has_to_be_read() -> None:
    hints = Hints()
    assert not hints.is_behind
    hints.new_epoch(1)
    assert hints.is_behind


def test_a_hint_is_only_a_hint(hints: Hints) -> None:
    """R14: it says that there is something to read; only a reply that shows all that is held ends that."""
    hints.came(6, concerns_us=True)
    assert hints.is_behind
    hints.read_all(6)
    assert not hints.is_behind


def test_a_hint_of_somebody_elses_model_needs_no_reading(hints: Hints) -> None:
    hints.came(6, concerns_us=False)
    assert not hints.is_behind


def test_a_hint_of_somebody_elses_model_after_one_that_was_missed_is_read(hints: Hints) -> None:
    """R14: the revision between may have been of a model that is held here."""
    hints.came(7, concerns_us=False)
    assert hints.is_behind


def test_the_counter_of_a_reply_is_read_up_to(hints: Hints) -> None:
    """R3: a heartbeat carries the counter; who has not read up to it reads what it holds."""
    hints.told(6, now=1.0)
    assert hints.is_behind


def test_a_reply_that_shows_the_one_next_change_is_enough(hints: Hints) -> None:
    hints.told(6, now=1.0)
    hints.read_one(6)
    assert not hints.is_behind


def test_a_reply_that_shows_a_later_change_is_not(hints: Hints) -> None:
    hints.told(7, now=1.0)
    hints.read_one(7)
    assert hints.is_behind


def test_a_subscription_begins_with_reading(hints: Hints) -> None:
    """R14: what was hinted before it was missed."""
    hints.subscribed()
    assert hints.is_behind and hints.overdue_at(3.0) is None


@pytest.mark.parametrize(("lease_s", "patience_s"), [(0.5, LEAST_PATIENCE_S), (3.0, 1.0), (30.0, 10.0)])
def test_a_hint_that_does_not_come_replaces_the_subscription(hints: Hints, lease_s: float, patience_s: float) -> None:
    """R14: a dead link is silent for ever; the counter of the replies goes on."""
    hints.told(6, now=10.0)
    hints.told(7, now=10.5)
    assert hints.overdue_at(lease_s) == 10.0 + patience_s
    hints.give_up()
    assert hints.overdue_at(lease_s) is None and hints.is_behind
    hints.told(7, now=11.0)
    assert hints.overdue_at(lease_s) is None, "one that was given up is not waited for again"


def test_a_hint_that_comes_is_not_waited_for(hints: Hints) -> None:
    hints.told(6, now=10.0)
    hints.came(6, concerns_us=True)
    assert hints.overdue_at(3.0) is None


def test_an_earlier_hint_does_not_stand_for_a_later_one(hints: Hints) -> None:
    hints.told(7, now=10.0)
    hints.came(6, concerns_us=True)
    assert hints.overdue_at(3.0) == 11.0


def test_a_hint_beyond_what_a_reply_says_was_of_another_epoch(hints: Hints) -> None:
    """Numbers begin anew; one of the epoch before must not keep a worker asking for ever."""
    hints.came(90, concerns_us=True)
    hints.read_all(6)
    assert not hints.is_behind
    hints.told(7, now=10.0)
    assert hints.overdue_at(3.0) == 11.0
