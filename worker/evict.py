"""What goes from the cache of a host when it is too much: the least recently used first, never what a worker holds. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple


class Kept(NamedTuple):
    """A file of the cache: digest, bytes, unix seconds of last use; `whole`: an object, else what has come of one."""

    digest: str
    size: int
    used_at: float
    path: Path
    whole: bool


def evicted(kept: Iterable[Kept], held: Collection[str], *, over: int) -> list[Kept] | None:
    """Those that go until `over` bytes are free; parts that nobody waits for first. None: all that may go are not enough."""
    victims: list[Kept] = []
    for one in sorted(kept, key=lambda one: (one.whole, one.used_at)):
        if over <= 0:
            break
        if one.digest not in held:
            victims.append(one)
            over -= one.size
    return victims if over <= 0 else None
