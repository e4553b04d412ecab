"""The figures of a worker as text: JSON, CSV, Prometheus. Pure: what comes in is `Stats.detail()`.

What Prometheus gets stands in FAMILIES, a row for each family of metrics; a figure without a value yet is left out. It may get the
figures of several processes at once: each sample has the label `worker`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ..coordinator.errors import BadInput
from ..coordinator.metrics import CONTENT_TYPE, Labels, Metric, Sample, text_of

#: What an HTTP answer in a format is called.
CONTENT_TYPES = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "prometheus": CONTENT_TYPE,
}
PREFIX = "genlock_worker_"


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
    Family(
        "mixed_seconds", "histogram", "Time of answers marked stale from what was not active.", "models/{model}/mixed"
    ),
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
    Family(
        "refused_manifests_total",
        "counter",
        "Manifests that nobody vouches for, by reason.",
        "models/{model}/refused/{reason}",
    ),
    Family("active_generation", "gauge", "The generation that answers come from.", "models/{model}/generation"),
    Family("active_info", "gauge", "Always 1; the label has the active version.", "models/{model}/version"),
    Family("stale", "gauge", "1 while answers are marked stale, else 0.", "models/{model}/stale"),
    Family("model_bytes", "gauge", "Memory of the active generation.", "models/{model}/bytes"),
    Family("held_generation", "gauge", "Generations that are loaded.", "models/{model}/held/{state}/generation"),
    Family("held_bytes", "gauge", "Memory of generations that are loaded.", "models/{model}/held/{state}/bytes"),
    Family("loaded_timestamp_seconds", "gauge", "Unix time of the last load.", "models/{model}/loaded_at"),
    Family("used_timestamp_seconds", "gauge", "Unix time of the last hit.", "models/{model}/used_at"),
    Family("flipped_timestamp_seconds", "gauge", "Unix time of the last flip.", "models/{model}/flipped_at"),
    Family("held_models", "gauge", "Models that the worker answers from.", "held"),
    Family("window_hit_ratio", "gauge", "Hits divided by uses in the last minute.", "window_hit_rate"),
    Family("hit_ratio_threshold", "gauge", "GENLOCK_HIT_RATE_THRESHOLD, where it is set.", "hit_rate_threshold"),
    Family("hit_ratio_low", "gauge", "1 while the hit rate is below that threshold, else 0.", "hit_rate_low"),
    Family("hit_ratio_alarms_total", "counter", "Times that the hit rate fell below it.", "hit_rate_alarms"),
    Family("lease_seconds", "gauge", "Time that is left of the lease.", "lease_s"),
    Family("info", "gauge", "Always 1; the label has the fleet.", "process/fleet"),
    Family("uptime_seconds", "gauge", "Time since the cache of this process began.", "uptime_s"),
    Family("figures_timestamp_seconds", "gauge", "Unix time of these figures.", "at"),
    Family("redis_up", "gauge", "1 if the last call to Redis had an answer, else 0.", "process/redis_up"),
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
    writers: dict[str, Callable[[Mapping[str, Any]], str]]
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


def to_prometheus(*details: Mapping[str, Any]) -> str:
    """The figures of these processes; no two may be of the same worker."""
    return text_of(
        (
            Metric(PREFIX + family.name, family.kind, family.help),
            [sample for detail in details for sample in _samples(family, detail)],
        )
        for family in FAMILIES
    )


def _samples(family: Family, detail: Mapping[str, Any]) -> Iterator[Sample]:
    worker = (("worker", detail["worker"]),)
    for labels, value in _find(detail, family.where):
        yield from _values(family, worker + labels, value)


def _find(value: Any, where: str) -> Iterator[tuple[Labels, Any]]:
    """What stands there, with the labels that were met on the way."""
    step, _, rest = where.partition("/")
    label = step[1:-1] if step.startswith("{") else None
    for key in list(value) if label else [step]:
        found = ((label, key),) if label else ()
        for labels, leaf in _find(value[key], rest) if rest else [((), value[key])]:
            yield found + labels, leaf


def _values(family: Family, labels: Labels, value: Any) -> Iterator[Sample]:
    if value is None:
        return
    if family.kind == "histogram":
        for bound, count in value["buckets"].items():
            yield Sample((*labels, ("le", bound)), count, "_bucket")
        yield Sample(labels, value["sum_s"], "_sum")
        yield Sample(labels, value["count"], "_count")
    elif isinstance(value, str):
        # A text cannot be a value: it becomes a label, named as where it stands.
        yield Sample((*labels, (family.where.rpartition("/")[2], value)), 1)
    else:
        yield Sample(labels, value)
