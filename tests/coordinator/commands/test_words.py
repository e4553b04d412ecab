"""How things are said to people."""

import pytest
from genlock.coordinator.commands import words


@pytest.mark.parametrize(
    ("passed", "said"),
    [
        (-30, "just now"),
        (0.5, "just now"),
        (2, "2 s ago"),
        (59.9, "59 s ago"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (3600, "1 h ago"),
        (86400, "1 day ago"),
        (86400 * 2.9, "2 days ago"),
    ],
)
def test_an_age_is_rounded_down_and_never_in_the_future(passed: float, said: str) -> None:
    """Two machines' clocks differ: "in 30 s" or "-30 s ago" made people look for a fault that was none."""
    assert words.age(1000.0 - passed, 1000.0) == said


@pytest.mark.parametrize("at", [None, 0.0])
def test_what_never_was_has_no_age(at: float | None) -> None:
    """1 January 1970 was shown as the time of a commit that was not known."""
    assert words.age(at, 1000.0) == "-"


def test_a_moment_in_iso_is_utc_whatever_the_time_zone() -> None:
    """A program in another time zone read the local time of the publisher as UTC."""
    assert words.iso(1_700_000_000.25) == "2023-11-14T22:13:20.250Z"


def test_a_moment_for_people_has_date_and_seconds() -> None:
    """Two events of one minute could not be told apart."""
    assert len(words.moment(1_700_000_000.0)) == len("2023-11-14 22:13:20")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0034, "3 ms"), (0.9, "900 ms"), (1.26, "1.3 s"), (59, "59.0 s"), (125, "2 min 5 s")],
)
def test_a_duration_has_the_unit_that_fits(seconds: float, said: str) -> None:
    """A fence of 3 ms was shown as 0.0 s."""
    assert words.took(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (2.5e9, "2.5 GB"), (7e15, "7000.0 TB")],
)
def test_a_size_has_the_unit_that_fits(count: float, said: str) -> None:
    """999,960 bytes were shown as 1000.0 kB."""
    assert words.size(count) == said


def test_a_version_is_cut_and_a_missing_one_is_a_dash() -> None:
    """64 digits left no room for anything else."""
    assert words.short("0123456789abcdef") == "0123456789ab"
    assert words.short(None) == words.short("") == "-"


def test_one_is_singular() -> None:
    """ "1 workers" reads like a fault."""
    assert [words.counted(n, "worker") for n in (0, 1, 2)] == ["0 workers", "1 worker", "2 workers"]
