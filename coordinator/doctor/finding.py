"""What the doctor says of one thing: what was found, whether that is well, and what to do. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

#: `warning`: it works, and something will cost more than it has to, or may go wrong. `wrong`: something does not work.
Level = Literal["ok", "warning", "wrong"]
LEVELS: tuple[Level, ...] = ("ok", "warning", "wrong")


class Finding(msgspec.Struct, frozen=True):
    """`subject`: redis, fleet, store, state or host; `check`: what of it; `advice`: what to do, empty where all is well."""

    subject: str
    check: str
    level: Level
    found: str
    advice: str = ""


def worst_of(findings: Iterable[Finding]) -> Level:
    """The level of all of them together."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def counted(count: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def gib(count: float) -> str:
    """Bytes, in the unit that settings use: `1.5 GiB`, `12 MiB`."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:.0f} {unit}"
    return f"{count:.0f} bytes"


def span(seconds: float) -> str:
    """A short time: `0.12 ms`, `45 ms`, `1.5 s`."""
    return (
        f"{seconds * 1000:.2g} ms"
        if seconds < 0.1
        else f"{seconds * 1000:.0f} ms"
        if seconds < 1
        else f"{seconds:.3g} s"
    )
