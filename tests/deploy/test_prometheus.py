"""deploy/prometheus and deploy/grafana: Prometheus' own tool takes the files, each alert fires when it should, and every metric is one
that genlock has."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from genlock.coordinator.admin.figures import METRICS
from genlock.coordinator.metrics import Metric, Sample, text_of
from genlock.worker.exposition import FAMILIES, PREFIX

from deploy.files import DEPLOY, ROOT, program

FOLDER = DEPLOY / "prometheus"
GRAFANA = DEPLOY / "grafana"
#: Name → type, of all that a worker and the admin export.
EXPORTED = {PREFIX + family.name: family.kind for family in FAMILIES}
EXPORTED |= {name: metric.kind for name, metric in METRICS.items()}


def promtool(*words: str, folder: Path = FOLDER, given: str = "") -> None:
    command = [program("promtool"), *words]
    done = subprocess.run(command, cwd=folder, input=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> list[Any]:
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    found: list[Any] = group["rules"]
    return found


def expressions(value: Any) -> Iterator[str]:
    """Every `expr` of a dashboard, with Grafana's variables as Grafana fills them in."""
    if isinstance(value, dict):
        if "expr" in value:
            yield value["expr"].replace("$__rate_interval", "1m").replace("$model", ".*")
        for inner in value.values():
            yield from expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from expressions(inner)


def dashboards() -> list[Path]:
    return sorted(GRAFANA.glob("dashboards/*.json"))


def unknown(expression: str) -> list[str]:
    """Names in an expression that nobody exports."""
    series = {name for name, kind in EXPORTED.items() if kind != "histogram"}
    series |= {
        name + part for name, kind in EXPORTED.items() if kind == "histogram" for part in ("_bucket", "_sum", "_count")
    }
    return sorted(set(re.findall(r"genlock_\w+", expression)) - series)


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "alerts.yml")


def test_each_alert_fires_when_it_should_and_not_before() -> None:
    """Of a healthy fleet nothing fires; an alert that cannot fire, or always does, wakes nobody when it counts."""
    promtool("test", "rules", "alerts_test.yml")
    tested = re.findall(r'alertname="(\w+)"', (FOLDER / "alerts_test.yml").read_text())
    assert set(tested) == {rule["alert"] for rule in rules()}


def test_prometheus_finds_nothing_wrong_with_the_metrics() -> None:
    """Its own linter: names, units, types, help."""
    metrics = [*METRICS.values(), *(Metric(PREFIX + family.name, family.kind, family.help) for family in FAMILIES)]
    text = text_of((metric, list(one_of(metric))) for metric in metrics)
    promtool("check", "metrics", given=text)


def one_of(metric: Metric) -> Iterator[Sample]:
    if metric.kind == "histogram":
        yield Sample((("le", "+Inf"),), 1, "_bucket")
        yield Sample((), 1, "_sum")
        yield Sample((), 1, "_count")
    else:
        yield Sample((), 1)


def test_alerts_are_of_metrics_that_there_are() -> None:
    assert {rule["alert"]: found for rule in rules() if (found := unknown(rule["expr"]))} == {}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_means_and_what_to_do(rule: Any) -> None:
    """Who is woken at night reads these two sentences, and then the page."""
    texts = rule["annotations"]
    assert set(texts) == {"summary", "description"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    grouped = re.match(r"(?:sum|max) by \(([^)]*)\)", rule["expr"])
    labels = set(grouped[1].split(", ")) if grouped else {"fleet", "model", "worker", "instance", "job"}
    assert set(re.findall(r"\$labels\.(\w+)", "".join(texts.values()))) <= labels, "a blank would stand there"
    page = (ROOT / "docs/monitoring.md").read_text()
    assert f"`{rule['alert']}`" in page


def test_it_scrapes_what_the_compose_file_starts() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    jobs = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    targets = {job["job_name"]: job for job in jobs}
    (workers,) = targets["genlock-worker"]["dns_sd_configs"]
    (admin,) = targets["genlock-admin"]["static_configs"]
    named = {*workers["names"], *(target.partition(":")[0] for target in admin["targets"])}
    assert named <= set(services)


# --- Grafana ---------------------------------------------------------------------------------------------------------


def test_there_is_a_dashboard() -> None:
    assert dashboards()


@pytest.mark.parametrize("path", dashboards(), ids=lambda path: path.stem)
def test_a_dashboard_asks_for_what_there_is(path: Path, tmp_path: Path) -> None:
    """Each expression parses, as Prometheus reads it, and names only what is exported: a panel of anything else stays empty for ever."""
    found = list(expressions(json.loads(path.read_text())))
    assert len(found) > 20
    assert [expression for expression in found if unknown(expression)] == []
    recorded = [{"record": f"x:{number}", "expr": expression} for number, expression in enumerate(found)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": path.stem, "rules": recorded}]}))
    promtool("check", "rules", "rules.yml", folder=tmp_path)


@pytest.mark.parametrize("path", dashboards(), ids=lambda path: path.stem)
def test_panels_do_not_lie_on_each_other(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_grafana_is_told_where_both_are() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/genlock.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
    for path in dashboards():
        used = set(re.findall(r'"type": "prometheus",\s*"uid": "([^"]*)"', path.read_text()))
        assert used == {source["uid"]}
