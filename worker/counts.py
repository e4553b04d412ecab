"""How often something of each kind happened, and how long it took. Pure, and bounded: names of kinds come from outside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..coordinator.metrics import Times

#: Reasons, steps, calls and hooks of one kind that are told apart; all that genlock itself uses are fewer.
MAX_KINDS = 32
#: Under this name stands what came above a limit; it cannot be a model's.
OTHERS = "(others)"


class Kinds(dict[str, int]):
    """Counts by kind. At most `MAX_KINDS` of them: what else comes is counted as `OTHERS`."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        super().__init__(dict.fromkeys(known, 0))

    def add(self, kind: str) -> None:
        kind = bounded(self, kind)
        self[kind] = self.get(kind, 0) + 1


def bounded(known: Mapping[str, Any], kind: str) -> str:
    """The kind, or `OTHERS` where `known` has too many of them."""
    return kind if kind in known or len(known) < MAX_KINDS else OTHERS


def add_time(times: dict[str, Times], kind: str, seconds: float) -> None:
    """One more time of that kind."""
    times.setdefault(bounded(times, kind), Times()).add(seconds)


def facts_of(times: Mapping[str, Times]) -> dict[str, Any]:
    """Kind → Times.facts."""
    return {kind: value.facts() for kind, value in times.items()}
