"""JSON, CSV and Prometheus text. The Prometheus text is read back by a strict parser of format 0.0.4."""

from __future__ import annotations

import csv
import io
import json
import math
import re

import pytest
from genlock.coordinator.errors import BadInput
from genlock.worker.exposition import CONTENT_TYPES, FAMILIES, render, to_prometheus
from genlock.worker.stats import Stats
from genlock.worker.view import Lease, View

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\n"])*)"')
NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|Inf)|NaN")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> tuple[dict[str, str], Samples]:
    """Metric → type, and (name, labels) → value. Asserts all that the format demands, and that nothing
    stands twice.
    """
    assert text.endswith("\n")
    types: dict[str, str] = {}
    samples: Samples = {}
    described, family = "", ""
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# HELP "):
            described = line.split(" ", 3)[2]
            assert len(line.split(" ", 3)) == 4, line
        elif line.startswith("# TYPE "):
            _, _, family, kind = line.split(" ")
            assert family == described and family not in types and NAME.fullmatch(family), line
            assert kind in ("counter", "gauge", "histogram"), line
            types[family] = kind
        else:
            name, labels, value = read_sample(line)
            assert name == family or (types[family] == "histogram" and name.removeprefix(family) in PARTS), line
            assert (name, labels) not in samples, line
            samples[name, labels] = value
    return types, samples


PARTS = ("_bucket", "_sum", "_count")


def read_sample(line: str) -> tuple[str, frozenset[tuple[str, str]], float]:
    found = NAME.match(line)
    assert found, line
    rest, labels = line[found.end() :], []
    assert rest.startswith("{"), line
    rest = rest[1:]
    while not rest.startswith("}"):
        label = LABEL.match(rest)
        assert label, line
        labels.append((label[1], re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], label[2])))
        rest = rest[label.end() :].removeprefix(",")
    assert len({key for key, _ in labels}) == len(labels), line
    assert rest.startswith("} ") and NUMBER.fullmatch(rest[2:]), line
    return found[0], frozenset(labels), float(rest[2:])


@pytest.fixture
def stats() -> Stats:
    """Something of everything, at 1000 s of the worker's clock."""
    moment = [994.0]
    stats = Stats(clock=lambda: moment[0], wall=lambda: 1_700_000_000.0, worker="host:7", fleet="prod")
    before = View(model="digits", payload=None, generation=8, version="cd" * 32, stale=True)
    view = View(model="digits", payload=None, generation=9, version="ab" * 32, bytes=2048, used_at=990.0, lease=Lease())
    view.uses = 40
    stats.installed({"digits": before})
    moment[0] = 1000.0
    stats.installed({"digits": view})
    stats.held = {"digits": {"active": {"generation": 9, "bytes": 2048}, "warm": {"generation": 8, "bytes": 1024}}}
    stats.alarm(0.99, lambda rate: None, least=1)
    stats.lease = Lease()
    stats.lease.extend(1002.5)
    for model in ("digits", "old.one"):
        stats.missed(model)
        stats.asked(model)
        stats.waited(model, 0.2)
        stats.answered_stale(model)
        stats.failed(model, 'quoted "why", with a comma\nand a line')
        stats.loaded(model, steps={"verify": 0.002, "build": 0.02}, reload=True)
        stats.load_failed(model, outcome="bad", step="golden", why="NaN")
        stats.invalidated(model, "operator")
        stats.dropped(model, "ttl")
        stats.flipped(model, phases={"preparing": 0.5, "fencing": 0.005})
        stats.rejected(model, generation=8, why="NaN")
        stats.refused(model, generation=9, reason="unsigned", why="no signature")
    stats.redis_called("heartbeat", 0.0002, ok=True)
    stats.heartbeat()
    stats.evicted()
    stats.epoch_seen(3)
    stats.resubscribed()
    stats.hook_raised("on_flip")
    stats.tick()
    return stats


def sample(stats: Stats, name: str, **labels: str) -> float:
    _, samples = read(render(stats.detail(), "prometheus"))
    return samples[f"genlock_worker_{name}", frozenset({"worker": "host:7", **labels}.items())]


def test_every_family_is_exported(stats: Stats):
    """A renamed figure silently emptied its graph: each row of the table must find what it names."""
    types, _ = read(render(stats.detail(), "prometheus"))
    assert types == {f"genlock_worker_{family.name}": family.kind for family in FAMILIES}


def test_names_keep_the_conventions():
    """prometheus.io/docs/practices/naming: counters end in _total, base units, nothing else ends so."""
    for family in FAMILIES:
        assert family.name.endswith("_total") == (family.kind == "counter"), family
        assert family.kind != "histogram" or family.name.endswith("_seconds"), family
        assert not re.search(r"_(ms|s|kb|mb|percent)(_|$)", family.name), family
        assert family.help.endswith(".") and "\\" not in family.help and "\n" not in family.help, family
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_values_reach_their_metric(stats: Stats):
    assert sample(stats, "hits_total", model="digits") == 40
    assert sample(stats, "misses_total", model="old.one") == 1
    assert sample(stats, "loads_total", model="digits", outcome="bad") == 1
    assert sample(stats, "drops_total", model="digits", reason="ttl") == 1
    assert sample(stats, "drops_total", model="digits", reason="lru_bytes") == 0
    assert sample(stats, "active_generation", model="digits") == 9
    assert sample(stats, "active_info", model="digits", version="ab" * 32) == 1
    assert sample(stats, "stale", model="digits") == 0
    assert sample(stats, "model_bytes", model="digits") == 2048
    assert sample(stats, "held_generation", model="digits", state="warm") == 8
    assert sample(stats, "held_bytes", model="digits", state="active") == 2048
    assert sample(stats, "hit_ratio_threshold") == 0.99
    assert sample(stats, "hit_ratio_low") == sample(stats, "hit_ratio_alarms_total") == 1
    assert sample(stats, "mixed_seconds_sum", model="digits") == 6
    assert sample(stats, "stale_answers_total", model="digits") == 1
    assert sample(stats, "figures_timestamp_seconds") == 1_700_000_000
    assert sample(stats, "redis_up") == 1
    assert sample(stats, "info", fleet="prod") == 1
    assert sample(stats, "used_timestamp_seconds", model="digits") == 1_699_999_990
    assert sample(stats, "redis_calls_total", call="heartbeat", outcome="ok") == 1
    assert sample(stats, "lease_seconds") == 2.5
    assert sample(stats, "epoch") == 3
    assert sample(stats, "window_hit_ratio") == pytest.approx(40 / 42)


def test_histograms_are_whole(stats: Stats):
    """Buckets must not fall, and the one of +Inf is the count: quantiles are computed from both."""
    types, samples = read(render(stats.detail(), "prometheus"))
    counts = {
        key: value
        for key, value in samples.items()
        if key[0].endswith("_count") and key[0].removesuffix("_count") in types
    }
    assert len(counts) == 2 * 2 + 2 * 2 + 2 * 2 + 1
    for (name, labels), count in counts.items():
        base = name.removesuffix("_count")
        buckets = sorted(
            (float(dict(found)["le"]), value)
            for (other, found), value in samples.items()
            if other == f"{base}_bucket" and {pair for pair in found if pair[0] != "le"} == labels
        )
        values = [value for _, value in buckets]
        assert values == sorted(values)
        assert buckets[-1] == (math.inf, count)
        assert (samples[f"{base}_sum", labels] > 0) == (count > 0)
    assert sample(stats, "flip_phase_seconds_sum", model="digits", phase="preparing") == 0.5
    assert sample(stats, "load_step_seconds_bucket", model="digits", step="build", le="0.01") == 0
    assert sample(stats, "load_step_seconds_bucket", model="digits", step="build", le="0.03") == 1


def test_several_processes_are_one_text(stats: Stats):
    """Figures of two workers in a row had each HELP twice, and Prometheus refused the scrape; in one family each has its own label."""
    second = stats.detail() | {"worker": "host:8"}
    types, samples = read(to_prometheus(stats.detail(), second))
    assert types == {f"genlock_worker_{family.name}": family.kind for family in FAMILIES}
    hits = {labels: value for (name, labels), value in samples.items() if name == "genlock_worker_hits_total"}
    assert len(hits) == 4
    assert sum(hits.values()) == 80


def test_what_has_no_value_is_left_out():
    """A hit rate of 0 before the first use is a lie, and `None` is no number: the scrape failed as a
    whole.
    """
    empty = Stats(clock=lambda: 5.0, wall=lambda: 6.0)
    types, samples = read(render(empty.detail(), "prometheus"))
    assert "genlock_worker_window_hit_ratio" not in types
    assert "genlock_worker_hits_total" not in types
    assert "genlock_worker_epoch" not in types
    assert samples["genlock_worker_uptime_seconds", frozenset({("worker", "")})] == 0
    empty.missed("digits")
    types, _ = read(render(empty.detail(), "prometheus"))
    assert "genlock_worker_active_generation" not in types
    assert "genlock_worker_active_info" not in types


def test_labels_are_escaped():
    """A reason with a quote in it ended the label early, and Prometheus refused all figures of the worker."""
    nasty = 'C:\\temp\\new "one"\nand more, {a="b"} 1'
    stats = Stats(clock=lambda: 5.0, wall=lambda: 6.0, worker=nasty)
    stats.invalidated("digits", nasty)
    _, samples = read(render(stats.detail(), "prometheus"))
    key = frozenset({("worker", nasty), ("model", "digits"), ("reason", nasty)})
    assert samples["genlock_worker_invalidations_total", key] == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN"), (1e-05, "1e-05"), (3, "3")],
)
def test_numbers_as_prometheus_reads_them(stats: Stats, value: float, text: str):
    detail = stats.detail() | {"lease_s": value}
    assert f'genlock_worker_lease_seconds{{worker="host:7"}} {text}\n' in render(detail, "prometheus")
    read(render(detail, "prometheus"))


def test_json_is_the_detail(stats: Stats):
    assert json.loads(render(stats.detail(), "json")) == stats.detail()


def test_csv_has_a_row_for_every_figure(stats: Stats):
    text = render(stats.detail(), "csv")
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["model", "metric", "value"]
    found = {(model, metric): value for model, metric, value in rows}
    assert len(found) == len(rows)
    assert found["", "hits"] == "40"
    assert found["", "process/redis_calls/heartbeat/ok"] == "1"
    assert found["digits", "load_steps/build/sum_s"] == "0.02"
    assert found["digits", "last_error/why"] == 'quoted "why", with a comma\nand a line'
    assert found["old.one", "generation"] == ""
    assert {model for model, _ in found} == {"", "digits", "old.one"}


def test_another_format_is_refused(stats: Stats):
    with pytest.raises(BadInput, match="'xml' is not one of json, csv, prometheus"):
        render(stats.detail(), "xml")


def test_every_format_has_a_content_type(stats: Stats):
    for form in CONTENT_TYPES:
        assert render(stats.detail(), form)
