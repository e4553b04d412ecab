"""worker/counts.py: counts by kind, and histograms of times."""

from __future__ import annotations

import pytest
from genlock.worker.counts import BUCKETS_S, MAX_KINDS, OTHERS, Kinds, Times, add_time, facts_of


def test_times_are_a_cumulative_histogram() -> None:
    """`le` means at most: a time that is exactly a bound belongs into its bucket, one above all bounds
    only into +Inf.
    """
    times = Times()
    assert times.facts()["last_s"] is None
    for seconds in (0.0, 0.01, 0.010001, 500.0):
        times.add(seconds)
    facts = times.facts()
    buckets = facts["buckets"]
    assert list(buckets) == [*map(str, BUCKETS_S), "+Inf"]
    assert (buckets["0.0001"], buckets["0.01"], buckets["0.03"], buckets["120.0"], buckets["+Inf"]) == (
        1,
        2,
        3,
        3,
        4,
    )
    assert (facts["count"], facts["last_s"]) == (4, 500.0)
    assert facts["sum_s"] == pytest.approx(500.020001)


def test_kinds_are_bounded() -> None:
    """A reason with a number in it made a new time series every minute."""
    kinds = Kinds(("ok",))
    for number in range(MAX_KINDS + 9):
        kinds.add(f"job {number}")
    assert len(kinds) == MAX_KINDS + 1
    assert kinds[OTHERS] == 10
    assert kinds["ok"] == 0


def test_times_by_kind_are_bounded() -> None:
    times: dict[str, Times] = {}
    for number in range(MAX_KINDS + 9):
        add_time(times, f"step {number}", 0.1)
    facts = facts_of(times)
    assert len(facts) == MAX_KINDS + 1
    assert facts[OTHERS]["count"] == 9
