"""coordinator/metrics.py: text that Prometheus takes. prometheus_client reads it back."""

from __future__ import annotations

import math

import pytest
from genlock.coordinator.metrics import BUCKETS_S, Labels, Metric, Sample, Times, text_of
from prometheus_client.parser import text_string_to_metric_families as read

GAUGE = Metric("g", "gauge", "A gauge.")


def test_a_family_stands_once_with_all_its_samples() -> None:
    """Two workers' figures in a row had HELP twice, and Prometheus refused the whole scrape."""
    text = text_of(
        [(GAUGE, [Sample((("a", "1"),), 1), Sample((("a", "2"),), 2.5)]), (Metric("c_total", "counter", "C."), [])]
    )
    assert text == '# HELP g A gauge.\n# TYPE g gauge\ng{a="1"} 1\ng{a="2"} 2.5\n'


def test_a_histogram_is_one_family() -> None:
    labels: Labels = (("model", "m"),)
    samples = [
        Sample((*labels, ("le", "+Inf")), 2, "_bucket"),
        Sample(labels, 0.5, "_sum"),
        Sample(labels, 2, "_count"),
    ]
    (family,) = read(text_of([(Metric("h_seconds", "histogram", "H."), samples)]))
    assert (family.name, family.type) == ("h_seconds", "histogram")
    assert {sample.name for sample in family.samples} == {"h_seconds_bucket", "h_seconds_sum", "h_seconds_count"}


def test_times_are_a_cumulative_histogram() -> None:
    """`le` means at most: a time that is exactly a bound belongs into its bucket, one above all bounds
    only into +Inf.
    """
    times = Times()
    assert times.facts()["last_s"] is None
    for seconds in (0.0, 0.01, 0.010001, 500.0):
        times.add(seconds)
    facts = times.facts()
    buckets = facts["buckets"]
    assert list(buckets) == [*map(str, BUCKETS_S), "+Inf"]
    assert (buckets["0.0001"], buckets["0.01"], buckets["0.03"], buckets["120.0"], buckets["+Inf"]) == (
        1,
        2,
        3,
        3,
        4,
    )
    assert (facts["count"], facts["last_s"]) == (4, 500.0)
    assert facts["sum_s"] == pytest.approx(500.020001)


def test_times_are_the_samples_of_a_histogram() -> None:
    """As they were then: who writes them out does not see half of a later one."""
    times = Times((0.1, 1.0))
    times.add(0.5)
    then = times.copy()
    times.add(5.0)
    assert (then.facts()["count"], then.last_s, times.facts()["count"]) == (1, 0.5, 2)
    text = text_of([(Metric("h_seconds", "histogram", "H."), then.samples((("model", "m"),)))])
    assert text.splitlines()[2:] == [
        'h_seconds_bucket{model="m",le="0.1"} 0',
        'h_seconds_bucket{model="m",le="1.0"} 1',
        'h_seconds_bucket{model="m",le="+Inf"} 1',
        'h_seconds_sum{model="m"} 0.5',
        'h_seconds_count{model="m"} 1',
    ]


@pytest.mark.parametrize("nasty", ['a"b', "a\\nb", "a\nb", 'x="y"} 1', "\\", "ünï"])
def test_labels_come_back_as_they_were(nasty: str) -> None:
    """A reason with a quote in it ended the label early, and all figures were refused."""
    (family,) = read(text_of([(GAUGE, [Sample((("why", nasty), ("b", "2")), 1)])]))
    assert family.samples[0].labels == {"why": nasty, "b": "2"}


@pytest.mark.parametrize("value", [0, 3, -1.5, 1e-05, 1e300, math.inf, -math.inf, True])
def test_numbers_come_back_as_they_were(value: float) -> None:
    (family,) = read(text_of([(GAUGE, [Sample((), value)])]))
    assert family.samples[0].value == value


def test_what_is_no_number_is_nan() -> None:
    (family,) = read(text_of([(GAUGE, [Sample((), math.nan)])]))
    assert math.isnan(family.samples[0].value)
