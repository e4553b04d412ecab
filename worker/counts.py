"""How often something of each kind happened, and how long it took. Pure, and bounded: names of kinds come from outside."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

#: Seconds; upper bounds of all histograms, in steps of about three: from a call on a unix socket (0.1 ms)
#: over a mapped load (20 ms) to the longest preparing that is usual (120 s, the default of
#: GENLOCK_PREPARE_TIMEOUT).
BUCKETS_S = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 120.0)
_BOUNDS = (*map(str, BUCKETS_S), "+Inf")
#: Reasons, steps, calls and hooks of one kind that are told apart; all that genlock itself uses are fewer.
MAX_KINDS = 32
#: Under this name stands what came above a limit; it cannot be a model's.
OTHERS = "(others)"


class Times:
    """How often something took how long: count, sum, last and a histogram over `BUCKETS_S`."""

    __slots__ = ("_counts", "last_s", "sum_s")

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0
        self.last_s: float | None = None

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds
        self.last_s = seconds

    def facts(self) -> dict[str, Any]:
        """Buckets are cumulative, as Prometheus has them: how many took at most so many seconds."""
        totals = list(accumulate(self._counts))
        buckets = dict(zip(_BOUNDS, totals, strict=True))
        return {"count": totals[-1], "sum_s": self.sum_s, "last_s": self.last_s, "buckets": buckets}


class Kinds(dict[str, int]):
    """Counts by kind. At most `MAX_KINDS` of them: what else comes is counted as `OTHERS`."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        super().__init__(dict.fromkeys(known, 0))

    def add(self, kind: str) -> None:
        kind = bounded(self, kind)
        self[kind] = self.get(kind, 0) + 1


def bounded(known: Mapping[str, Any], kind: str) -> str:
    """The kind, or `OTHERS` where `known` has too many of them."""
    return kind if kind in known or len(known) < MAX_KINDS else OTHERS


def add_time(times: dict[str, Times], kind: str, seconds: float) -> None:
    """One more time of that kind."""
    times.setdefault(bounded(times, kind), Times()).add(seconds)


def facts_of(times: Mapping[str, Times]) -> dict[str, Any]:
    """Kind → Times.facts."""
    return {kind: value.facts() for kind, value in times.items()}
