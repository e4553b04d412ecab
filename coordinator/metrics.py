"""Metrics as Prometheus reads them: families, their samples, the text. Pure; both parts write theirs with it.

Text format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats): a family stands once, with its HELP and TYPE above all of its
samples. A family without samples is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

#: What an HTTP answer in this format is called.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

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
