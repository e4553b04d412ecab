"""worker/limits.py: which models go when it is too much, and what never fits."""

from __future__ import annotations

import pytest
from genlock.coordinator.errors import DoesNotFit
from genlock.worker.limits import Limits, Use

HELD = [Use("old", 100, 1.0), Use("new", 100, 3.0), Use("mid", 50, 2.0)]


def limits(max_bytes: int | None = None, max_models: int = 50, ttl_s: float | None = None) -> Limits:
    return Limits(max_bytes, max_models, ttl_s)


def test_without_a_limit_nothing_goes() -> None:
    assert limits().room_for("huge", 10**15, HELD, first=True) == []
    assert limits().expired(HELD, now=10**9) == []


def test_what_fits_beside_the_others_drops_nobody() -> None:
    assert limits(max_bytes=350).room_for("m", 100, HELD, first=True) == []


@pytest.mark.parametrize(
    ("max_bytes", "victims"),
    [(349, ["old"]), (250, ["old"]), (249, ["old", "mid"]), (200, ["old", "mid"]), (199, None)],
)
def test_the_least_recently_used_go_first_and_no_more_than_needed(max_bytes: int, victims: list[str] | None) -> None:
    """100 bytes beside 250: the oldest go until it fits, and a model that does not fit twice is refused with the numbers."""
    if victims is None:
        with pytest.raises(DoesNotFit, match=r"100 bytes twice, as a flip needs it, are 200; 199 are allowed"):
            limits(max_bytes=max_bytes).room_for("m", 100, HELD, first=True)
    else:
        assert limits(max_bytes=max_bytes).room_for("m", 100, HELD, first=True) == victims


def test_a_candidate_never_drops_the_generation_that_it_follows() -> None:
    """`old` is the least recently used, and the one that changes: answers come from it until the flip."""
    assert limits(max_bytes=349).room_for("old", 100, HELD, first=False) == ["mid"]
    assert limits(max_bytes=250).room_for("old", 100, HELD, first=False) == ["mid", "new"]


def test_a_candidate_that_does_not_fit_beside_its_own_generation_is_refused() -> None:
    """Dropping every other model would not help, so nobody is dropped."""
    with pytest.raises(DoesNotFit, match="beside the 100 bytes of its generation before"):
        limits(max_bytes=240).room_for("old", 141, HELD, first=False)


@pytest.mark.parametrize(
    ("max_models", "victims"), [(4, []), (3, ["old"]), (2, ["old", "mid"]), (1, ["old", "mid", "new"])]
)
def test_one_more_model_drops_those_above_the_count(max_models: int, victims: list[str]) -> None:
    assert limits(max_models=max_models).too_many("m", HELD) == victims


def test_a_model_is_not_dropped_for_itself() -> None:
    assert limits(max_models=1).too_many("old", HELD) == ["mid", "new"]


def test_what_nobody_uses_expires() -> None:
    """Exactly the time to live is not yet too long."""
    assert limits(ttl_s=2.0).expired(HELD, now=3.0) == []
    assert limits(ttl_s=2.0).expired(HELD, now=4.5) == ["old", "mid"]
