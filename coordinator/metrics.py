"""Metrics as Prometheus reads them: families, their samples, histograms of times, the text. Pure; both parts write theirs with it.

Text format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats): a family stands once, with its HELP and TYPE above all of its
samples. A family without samples is left out.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

#: What an HTTP answer in this format is called.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Seconds; upper bounds of histograms, in steps of about three: from a call on a unix socket (0.1 ms) over a mapped load (20 ms) to the
#: longest preparing that is usual (120 s, the default of GENLOCK_PREPARE_TIMEOUT).
BUCKETS_S = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 120.0)

Labels = tuple[tuple[str, str], ...]


class Metric(NamedTuple):
    """A family: its whole name; `kind`: counter, gauge or histogram; one sentence for people."""

    name: str
    kind: str
    help: str


class Sample(NamedTuple):
    """One value of a family. `part`: what a histogram's name goes on with (_bucket, _sum, _count)."""

    labels: Labels
    value: float
    part: str = ""


class Times:
    """How often something took how long: count, sum, last and a histogram over `bounds`, which are seconds in growing order."""

    __slots__ = ("_bounds", "_counts", "last_s", "sum_s")

    def __init__(self, bounds: tuple[float, ...] = BUCKETS_S) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum_s = 0.0
        self.last_s: float | None = None

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.sum_s += seconds
        self.last_s = seconds

    def copy(self) -> Times:
        """As it is now."""
        other = Times(self._bounds)
        other._counts, other.sum_s, other.last_s = list(self._counts), self.sum_s, self.last_s
        return other

    @property
    def buckets(self) -> Mapping[str, int]:
        """Cumulative, as Prometheus has them: how many took at most so many seconds."""
        return dict(zip((*map(str, self._bounds), "+Inf"), accumulate(self._counts), strict=True))

    def facts(self) -> dict[str, Any]:
        """All of it, for JSON."""
        buckets = self.buckets
        return {"count": buckets["+Inf"], "sum_s": self.sum_s, "last_s": self.last_s, "buckets": buckets}

    def samples(self, labels: Labels) -> Iterator[Sample]:
        """Of a family that is a histogram."""
        buckets = self.buckets
        for bound, count in buckets.items():
            yield Sample((*labels, ("le", bound)), count, "_bucket")
        yield Sample(labels, self.sum_s, "_sum")
        yield Sample(labels, buckets["+Inf"], "_count")


def text_of(families: Iterable[tuple[Metric, Iterable[Sample]]]) -> str:
    """The families as text, in their order."""
    lines: list[str] = []
    for metric, samples in families:
        found = [_line(metric.name + sample.part, sample.labels, sample.value) for sample in samples]
        if found:
            lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}", *found]
    return "\n".join(lines) + "\n"


def _line(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(map(_pair, labels))
    return f"{name}{{{inside}}} {_number(value)}" if inside else f"{name} {_number(value)}"


@lru_cache(maxsize=4096)  # a scrape of 50 models has 10,000 lines, and few labels
def _pair(label: tuple[str, str]) -> str:
    key, text = label
    text = text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return f'{key}="{text}"'


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(int(value))  # a bool is 0 or 1
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
