"""worker/counts.py: counts and times by kind."""

from __future__ import annotations

from genlock.coordinator.metrics import Times
from genlock.worker.counts import MAX_KINDS, OTHERS, Kinds, add_time, facts_of


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
