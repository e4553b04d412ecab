"""The figures of a worker as text: JSON, CSV, Prometheus. Pure: what comes in is `Stats.detail()`.

Prometheus: text format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats). What is exported stands
in FAMILIES, a row for each family of metrics; a figure without a value yet is left out.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..coordinator.errors import BadInput

#: What an HTTP answer in a format is called.
CONTENT_TYPES = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "prometheus": "text/plain; version=0.0.4; charset=utf-8",
}
PREFIX = "genlock_worker_"

Labels = tuple[tuple[str, str], ...]


class Family(NamedTuple):
    """A metric: name after the prefix, type, help, and where in the figures it stands; a `{label}` runs
    over all keys there.
    """

    name: str
    kind: str
    help: str
    where: str


FAMILIES = (
    Family("hits_total", "counter", "Uses answered from what the worker held.", "models/{model}/hits"),
    Family("misses_total", "counter", "Uses that found no loaded generation.", "models/{model}/misses"),
    Family("asks_total", "counter", "Uses that had to ask Redis.", "models/{model}/asks"),
    Family("stale_answers_total", "counter", "Answers that were marked stale.", "models/{model}/stale_answers"),
    Family("errors_total", "counter", "Uses that ended in an error.", "models/{model}/errors"),
    Family("wait_seconds", "histogram", "Time that a use waited for Redis or a load.", "models/{model}/waits"),
    Family("loads_total", "counter", "Loads by outcome.", "models/{model}/loads/{outcome}"),
    Family("reloads_total", "counter", "Loads of a generation that was held already.", "models/{model}/reloads"),
    Family("load_step_seconds", "histogram", "Time of each step of a load.", "models/{model}/load_steps/{step}"),
    Family("invalidations_total", "counter", "Invalidations by reason.", "models/{model}/invalidations/{reason}"),
    Family("drops_total", "counter", "Models dropped, by reason.", "models/{model}/drops/{reason}"),
    Family("flips_total", "counter", "Changes to another generation.", "models/{model}/flips"),
    Family(
        "flip_phase_seconds",
        "histogram",
        "Time of each phase of a flip.",
        "models/{model}/flip_phases/{phase}",
    ),
    Family(
        "rejected_candidates_total",
        "counter",
        "Candidates that the fleet rejected.",
        "models/{model}/rejected",
    ),
    Family("active_generation", "gauge", "The generation that answers come from.", "models/{model}/generation"),
    Family("active_info", "gauge", "Always 1; the label has the active version.", "models/{model}/version"),
    Family("model_bytes", "gauge", "Memory of the active generation.", "models/{model}/bytes"),
    Family("loaded_timestamp_seconds", "gauge", "Unix time of the last load.", "models/{model}/loaded_at"),
    Family("used_timestamp_seconds", "gauge", "Unix time of the last hit.", "models/{model}/used_at"),
    Family("flipped_timestamp_seconds", "gauge", "Unix time of the last flip.", "models/{model}/flipped_at"),
    Family("held_models", "gauge", "Models that the worker answers from.", "held"),
    Family("window_hit_ratio", "gauge", "Hits divided by uses in the last minute.", "window_hit_rate"),
    Family("lease_seconds", "gauge", "Time that is left of the lease.", "lease_s"),
    Family("uptime_seconds", "gauge", "Time since the cache of this process began.", "uptime_s"),
    Family("redis_calls_total", "counter", "Calls to Redis.", "process/redis_calls/{call}/{outcome}"),
    Family("redis_call_seconds", "histogram", "Time of calls to Redis.", "process/redis_times/{call}"),
    Family("heartbeats_total", "counter", "Heartbeats that were answered.", "process/heartbeats"),
    Family("evictions_total", "counter", "Times that watchers evicted this worker.", "process/evictions"),
    Family("epoch", "gauge", "Number of the epoch that was heard last.", "process/epoch"),
    Family("epochs_total", "counter", "Epochs that were seen.", "process/epochs"),
    Family("resubscriptions_total", "counter", "Replacements of the subscription.", "process/resubscriptions"),
    Family("hook_errors_total", "counter", "Callbacks that raised.", "process/hook_errors/{hook}"),
)


def render(detail: Mapping[str, Any], form: str) -> str:
    """`Stats.detail()` as text in the format "json", "csv" or "prometheus"; BadInput for another word."""
    writers = {"json": to_json, "csv": to_csv, "prometheus": to_prometheus}
    if form not in writers:
        raise BadInput("format", f"{form!r} is not one of {', '.join(writers)}")
    return writers[form](detail)


def to_json(detail: Mapping[str, Any]) -> str:
    return json.dumps(detail, indent=2, allow_nan=False) + "\n"


def to_csv(detail: Mapping[str, Any]) -> str:
    """Rows of model, metric, value. The model is empty for figures of the process; nested names are joined
    by `/`.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("model", "metric", "value"))
    writer.writerows(("", *row) for row in _rows({k: v for k, v in detail.items() if k != "models"}))
    for model, figures in detail["models"].items():
        writer.writerows((model, *row) for row in _rows(figures))
    return out.getvalue()


def _rows(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, inner in value.items():
        yield from _rows(inner, f"{name}/{key}" if name else key)


def to_prometheus(detail: Mapping[str, Any]) -> str:
    worker = (("worker", detail["worker"]),)
    lines: list[str] = []
    for family in FAMILIES:
        samples = [
            line for labels, value in _find(detail, family.where) for line in _lines(family, worker + labels, value)
        ]
        if samples:
            name = PREFIX + family.name
            lines += [f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}", *samples]
    return "\n".join(lines) + "\n"


def _find(value: Any, where: str) -> Iterator[tuple[Labels, Any]]:
    """What stands there, with the labels that were met on the way."""
    step, _, rest = where.partition("/")
    label = step[1:-1] if step.startswith("{") else None
    for key in list(value) if label else [step]:
        found = ((label, key),) if label else ()
        for labels, leaf in _find(value[key], rest) if rest else [((), value[key])]:
            yield found + labels, leaf


def _lines(family: Family, labels: Labels, value: Any) -> Iterator[str]:
    name = PREFIX + family.name
    if value is None:
        return
    if family.kind == "histogram":
        for bound, count in value["buckets"].items():
            yield _line(f"{name}_bucket", (*labels, ("le", bound)), count)
        yield _line(f"{name}_sum", labels, value["sum_s"])
        yield _line(f"{name}_count", labels, value["count"])
    elif isinstance(value, str):
        # A text cannot be a value: it becomes a label, named as where it stands.
        yield _line(name, (*labels, (family.where.rpartition("/")[2], value)), 1)
    else:
        yield _line(name, labels, value)


def _line(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels)
    return f"{name}{{{inside}}} {_number(value)}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
