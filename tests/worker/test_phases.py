"""worker/phases.py: the seconds of a flip are those of that flip."""

from __future__ import annotations

import pytest
from genlock.worker.phases import Phases


@pytest.fixture
def phases() -> Phases:
    return Phases()


def test_each_phase_lasts_until_the_next(phases: Phases) -> None:
    phases.begins("m", 2, "preparing", 10.0)
    phases.begins("m", 2, "fencing", 14.0)
    assert phases.flipped("m", 2, 15.0) == {"preparing": 4.0, "fencing": 1.0}


def test_what_is_said_again_began_the_first_time(phases: Phases) -> None:
    """R10: "fenced" is sent again until its reply has come, and a failed load is tried again."""
    for at in (10.0, 11.0):
        phases.begins("m", 2, "preparing", at)
    for at in (14.0, 14.5):
        phases.begins("m", 2, "fencing", at)
    assert phases.flipped("m", 2, 15.0) == {"preparing": 4.0, "fencing": 1.0}


def test_a_cold_load_and_a_warm_rollback_have_fewer(phases: Phases) -> None:
    assert phases.flipped("m", 1, 5.0) == {}
    phases.begins("m", 2, "preparing", 6.0)
    assert phases.flipped("m", 2, 7.0) == {}, "committed without us: we were late"
    phases.begins("m", 3, "fencing", 14.0)
    assert phases.flipped("m", 3, 15.0) == {"fencing": 1.0}


def test_what_came_to_nothing_does_not_count_for_the_next(phases: Phases) -> None:
    phases.begins("m", 2, "preparing", 1.0)
    phases.forget("m", 2)
    phases.forget("m", 2)
    phases.begins("m", 3, "preparing", 10.0)
    phases.begins("n", 3, "preparing", 11.0)
    phases.begins("m", 3, "fencing", 12.0)
    assert phases.flipped("m", 3, 13.0) == {"preparing": 2.0, "fencing": 1.0}
    assert phases.flipped("m", 3, 14.0) == {}
    phases.begins("n", 3, "fencing", 14.0)
    assert phases.flipped("n", 3, 15.0) == {"preparing": 3.0, "fencing": 1.0}
