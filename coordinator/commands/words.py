"""How ages, sizes, durations and versions are said to people. Pure."""

from __future__ import annotations

import time
from datetime import UTC, datetime

#: Characters of a version that people are shown; 48 bits tell the versions of a model apart.
SHORT = 12
#: Seconds up to which an age is "just now": clocks of two machines differ by more than a blink.
NOW_S = 2.0

_UNITS = (("day", 86400), ("h", 3600), ("min", 60), ("s", 1))


def age(at: float | None, now: float) -> str:
    """How long ago a moment was (both in unix seconds): `3 min ago`; `-` for a moment that never was.

    Rounded down, so that nothing is said to be older than it is; another machine's future is `just now`.
    """
    if not at:
        return "-"
    passed = now - at
    if passed < NOW_S:
        return "just now"
    unit, length = next((unit, length) for unit, length in _UNITS if passed >= length)
    count = int(passed // length)
    return f"{count} {unit}{'s' if unit == 'day' and count > 1 else ''} ago"


def moment(at: float) -> str:
    """A moment in unix seconds as people of this machine read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def iso(at: float) -> str:
    """A moment in unix seconds as ISO 8601 in UTC: `2026-01-31T12:00:00.250Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def took(seconds: float) -> str:
    """A duration: `4 ms`, `1.2 s`, `2 min 5 s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def size(count: float) -> str:
    """Bytes, by thousands: `512 B`, `1.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.95:  # what would be written as 1000.0 is said in the next unit
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def short(version: str | None) -> str:
    """A version as people see it."""
    return version[:SHORT] if version else "-"


def counted(count: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
