"""A figure: what was measured, several times over, and what it has to reach. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all are not above (nearest rank); NaN of nothing.

    Not interpolated: what is reported was really measured.
    """
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table.

    `value`: what counts, in `unit` ("": a ratio). `low`, `high`: the range of the single measurements. `reach`: what it is to be, in
    words; empty: only for comparison. `ok`: whether it is. `note`: the absolute numbers behind a ratio.
    """

    what: str
    value: float
    low: float
    high: float
    unit: str = ""
    reach: str = ""
    ok: bool = True
    note: str = ""


def shown(what: str, values: Sequence[float], *, unit: str = "", note: str = "") -> Figure:
    """The median, for comparison: there is nothing that it has to reach."""
    return Figure(what, median(values), min(values), max(values), unit, note=note)


def at_most(what: str, values: Sequence[float], reach: float, *, unit: str = "", note: str = "") -> Figure:
    """The median of the measurements is not above `reach`."""
    value = median(values)
    words = f"≤ {reach:g}{unit and ' ' + unit}"
    return Figure(what, value, min(values), max(values), unit, words, value <= reach, note)


def at_least(what: str, values: Sequence[float], reach: float, *, note: str = "") -> Figure:
    """The lower quartile of the measurements is not below `reach`: a good pair does not make up for a bad one."""
    value = quantile(values, 0.25)
    return Figure(what, value, min(values), max(values), "", f"≥ {reach:g}", value >= reach, note)


def near(what: str, steady_ms: Sequence[float], then_ms: Sequence[float], *, ratio: float, more_ms: float) -> Figure:
    """Pairs of times in ms: the median of `then / steady` is not above `ratio`, or of `then - steady` not above `more_ms`."""
    pairs = list(zip(steady_ms, then_ms, strict=True))
    ratios = [then / steady for steady, then in pairs]
    more = median(then - steady for steady, then in pairs)
    words = f"≤ {ratio:g} or + {more_ms:g} ms"
    note = f"{median(steady_ms):.1f} → {median(then_ms):.1f} ms (median of the differences {more:+.1f} ms)"
    value = median(ratios)
    return Figure(what, value, min(ratios), max(ratios), "", words, value <= ratio or more <= more_ms, note)
