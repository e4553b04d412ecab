"""How bad all findings are together, and how sizes and times are said."""

import pytest
from genlock.coordinator.doctor.finding import Finding, Level, gib, span, worst_of


@pytest.mark.parametrize(
    ("levels", "worst"),
    [([], "ok"), (["ok", "ok"], "ok"), (["warning", "ok"], "warning"), (["warning", "wrong", "ok"], "wrong")],
)
def test_the_worst_counts(levels: list[Level], worst: str) -> None:
    assert worst_of([Finding("redis", "role", level, "") for level in levels]) == worst


def test_sizes_have_the_unit_of_the_settings() -> None:
    told = [gib(count) for count in (5, 2048, 1.5 * 2**30, 1100 * 2**40)]
    assert told == ["5 bytes", "2 KiB", "1.5 GiB", "1100 TiB"]


def test_times_have_two_digits() -> None:
    assert [span(s) for s in (0.00012, 0.5, 1.25)] == ["0.12 ms", "500 ms", "1.25 s"]
