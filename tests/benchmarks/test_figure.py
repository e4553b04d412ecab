"""What decides whether a figure is reached."""

import math

import pytest

from benchmarks.figure import at_least, at_most, near, quantile, shown


@pytest.mark.parametrize(
    ("share", "wanted"), [(0.0, 1.0), (0.25, 25.0), (0.5, 50.0), (0.99, 99.0), (0.991, 100.0), (1.0, 100.0)]
)
def test_a_quantile_is_a_value_that_was_measured(share: float, wanted: float) -> None:
    """An interpolated p99 lies between a good and a bad request, where no request was."""
    assert quantile([float(n) for n in range(100, 0, -1)], share) == wanted


def test_the_quantile_of_few_is_the_worst_of_them() -> None:
    """With ten requests there is no 99th of a hundred; to report the second worst would hide one."""
    assert quantile([5.0, 1.0, 3.0], 0.99) == 5.0
    assert math.isnan(quantile([], 0.5))


def test_a_median_decides_what_is_to_stay_below() -> None:
    """One measurement that somebody else's work disturbed does not make a figure missed, and most of them do."""
    assert at_most("x", [1.0, 9.0, 1.1], 1.5).ok
    missed = at_most("x", [1.6, 1.0, 1.7], 1.5, unit="ms")
    assert (missed.ok, missed.value, missed.low, missed.high, missed.reach) == (False, 1.6, 1.0, 1.7, "≤ 1.5 ms")


def test_the_lower_quartile_decides_what_is_to_stay_above() -> None:
    """Half of the pairs are good; the other half shows that it is slower."""
    assert not at_least("x", [0.9, 0.9, 1.2, 1.2], 0.95).ok
    assert at_least("x", [0.5, 0.96, 0.97, 0.98, 0.99], 0.95).ok


@pytest.mark.parametrize(
    ("steady", "then", "ok"),
    [
        ([10.0, 10.0, 10.0], [12.9, 12.9, 99.0], True),
        ([1.0, 1.0, 1.0], [5.9, 5.9, 5.9], True),
        ([100.0, 100.0], [131.0, 131.0], False),
        ([10.0, 10.0, 10.0], [16.0, 16.0, 10.0], False),
    ],
)
def test_near_is_a_ratio_or_a_few_milliseconds(steady: list[float], then: list[float], ok: bool) -> None:
    """A ratio alone says too much of fast requests, milliseconds alone of slow ones."""
    assert near("p99", steady, then, ratio=1.3, more_ms=5.0).ok is ok


def test_what_is_shown_has_nothing_to_reach() -> None:
    """A comparison never makes a run fail."""
    assert shown("x", [1e9]).ok
    assert shown("x", [1.0]).reach == ""
