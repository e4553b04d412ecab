"""What follows from the history of all requests: who saw an older answer after a newer one, how well and how fast. Pure.

Times are seconds of the clock that all processes share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Generic, Protocol, TypeVar

from .news import Published, Request

#: Seconds after a publish has returned that still count as "during a flip": the first requests touch fresh memory, the old copy is freed.
AFTERMATH_S = 0.1


class Seen(Protocol):
    """A request as whoever sent it saw it: when it started and ended (s), from which generation it was answered (0: not at all)."""

    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def generation(self) -> int: ...
    @property
    def stale(self) -> bool: ...


S = TypeVar("S", bound=Seen)


@dataclass(frozen=True)
class Violation(Generic[S]):
    """A request that started after `newer` was seen, at `seen`, and was answered from an older generation all the same."""

    request: S
    newer: int
    seen: float

    def __str__(self) -> str:
        late_ms = (self.request.start - self.seen) * 1000
        return f"a request was answered from generation {self.request.generation} {late_ms:.1f} ms after {self.newer} was seen"


def order_violations(requests: Iterable[S], published: Iterable[Published] = ()) -> list[Violation[S]]:
    """Every request without a mark that started after another request, anywhere, had ended, and was answered from an older generation.

    A publish that has returned counts like an answer from its generation that ended then: no request that starts afterwards may be
    answered from the one before. Marked answers promise no order themselves; but what they came from had been active, so others
    may not fall behind them.
    One sort and one pass: O(n log n).
    """
    answered = sorted((r for r in requests if r.generation), key=lambda r: r.start)
    seen = [(r.end, r.generation) for r in answered]
    seen += [(p.ended, p.generation) for p in published if p.outcome == "committed"]
    seen.sort()
    found, newest, at, position = [], 0, 0.0, 0
    for request in answered:
        while position < len(seen) and seen[position][0] < request.start:
            if seen[position][1] > newest:
                at, newest = seen[position]
            position += 1
        if request.generation < newest and not request.stale:
            found.append(Violation(request, newest, at))
    return found


def impostors(requests: Iterable[Request], published: Iterable[Published]) -> list[Request]:
    """Answers from a generation that was not committed, or from other bytes than were published as it."""
    versions = {p.generation: p.version for p in published if p.outcome == "committed"}
    return [r for r in requests if r.generation and versions.get(r.generation) != r.version]


@dataclass(frozen=True)
class Accuracy:
    """How well a generation did, as clients saw it."""

    answers: int = 0
    correct: int = 0

    @property
    def share(self) -> float:
        """Of correct answers; 0 without any."""
        return self.correct / self.answers if self.answers else 0.0

    def counting(self, correct: bool) -> Accuracy:
        """With one more answer."""
        return Accuracy(self.answers + 1, self.correct + correct)


def accuracy_by_generation(requests: Iterable[Request]) -> Mapping[int, Accuracy]:
    """Generation → accuracy, in the order of the generations."""
    found: dict[int, Accuracy] = {}
    for request in requests:
        if request.generation:
            found[request.generation] = found.get(request.generation, Accuracy()).counting(request.correct)
    return dict(sorted(found.items()))


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed (nearest rank); 0 without any."""
    ranked = sorted(values)
    return ranked[max(1, ceil(share * len(ranked))) - 1] if ranked else 0.0


@dataclass(frozen=True)
class Latency:
    """Seconds of half of the requests, of 99 %, and of the slowest; over how many."""

    count: int
    p50: float
    p99: float
    worst: float

    @classmethod
    def of(cls, requests: Sequence[Request]) -> Latency:
        """Of those that were answered."""
        seconds = [r.latency for r in requests if r.generation]
        return cls(len(seconds), percentile(seconds, 0.5), percentile(seconds, 0.99), max(seconds, default=0.0))


def apart(requests: Iterable[Request], published: Iterable[Published]) -> tuple[list[Request], list[Request]]:
    """The requests that overlap a publish, good or broken, from its first byte to AFTERMATH_S behind its end; and the others."""
    spans = sorted((p.began, p.ended + AFTERMATH_S) for p in published)
    during: list[Request] = []
    between: list[Request] = []
    first = 0
    for request in sorted(requests, key=lambda r: r.end - r.latency):
        due = request.end - request.latency
        while first < len(spans) and spans[first][1] < due:
            first += 1
        is_during = first < len(spans) and spans[first][0] <= request.end
        (during if is_during else between).append(request)
    return during, between
