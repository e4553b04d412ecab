"""How a fleet bore what was done to it: how long nobody was answered, how long until all was well, how much was stale. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec
from genlock.worker.demo.history import percentile

from .history import Answer, History, Injection, Violation, is_of_the_service, violations


class Borne(msgspec.Struct, kw_only=True):
    """All injections of one kind, and the answers that clients got from each one's beginning until the next.

    `longest_silence_s`: in which no request of any client was answered; `longest_to_converge_s`: from the end of a fault to the end of
    the last answer that was marked stale or did not come; `most_stale`: answers after one injection; `lost`: connections that broke
    with their process; `refused`: what genlock itself did not answer. `violations` by the number of the promise. `kills`, `forgets`: see
    history.Injection.
    """

    kind: str
    kills: bool = False
    forgets: bool = False
    injections: int = 0
    checked: int = 0
    stale: int = 0
    most_stale: int = 0
    lost: int = 0
    refused: int = 0
    longest_silence_s: float = 0.0
    longest_to_converge_s: float = 0.0
    violations: dict[int, int] = {}

    def add(self, injection: Injection, answers: Sequence[Answer], found: Sequence[Violation]) -> None:
        """One more injection, what was answered from its beginning to the beginning of the next, and what was broken then."""
        stale = sum(answer.stale for answer in answers)
        self.injections += 1
        self.checked += len(answers)
        self.stale += stale
        self.most_stale = max(self.most_stale, stale)
        self.refused += sum(1 for answer in answers if answer.error and is_of_the_service(answer))
        self.lost += sum(1 for answer in answers if answer.error and not is_of_the_service(answer))
        self.longest_silence_s = max(self.longest_silence_s, silence_s(answers, since=injection.began))
        self.longest_to_converge_s = max(self.longest_to_converge_s, to_converge_s(injection, answers))
        for violation in found:
            self.violations[violation.promise] = self.violations.get(violation.promise, 0) + 1


def silence_s(answers: Iterable[Answer], *, since: float) -> float:
    """The longest time between two answers, whoever asked, or from `since` to the first."""
    ends = [since, *sorted(answer.end for answer in answers if answer.generation and answer.end > since)]
    return max((later - earlier for earlier, later in pairwise(ends)), default=0.0)


def to_converge_s(injection: Injection, answers: Iterable[Answer]) -> float:
    """From the end of a fault until the last answer that was not as it should be."""
    last = max((answer.end for answer in answers if answer.stale or answer.error), default=0.0)
    return max(0.0, last - injection.ended)


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A run in numbers."""

    seconds: float
    lease_s: float
    checked: int
    answered: int
    stale: int
    lost: int
    refused: int
    workers: int
    generations: int
    proposals: dict[str, int]
    injections: int
    p50_ms: float
    p99_ms: float
    kinds: list[Borne]
    violations: list[str]


def summary_of(history: History) -> Summary:
    """Checks the history, and counts."""
    answers = sorted(history.answers, key=lambda answer: answer.start)
    found = violations(history)
    latencies = [answer.end - answer.start for answer in answers if answer.generation]
    outcomes: dict[str, int] = {}
    for proposal in history.proposals:
        outcomes[proposal.outcome] = outcomes.get(proposal.outcome, 0) + 1
    return Summary(
        seconds=round(answers[-1].end - answers[0].start, 1) if answers else 0.0,
        lease_s=history.lease_s,
        checked=len(answers),
        answered=len(latencies),
        stale=sum(answer.stale for answer in answers),
        lost=sum(1 for answer in answers if answer.error and not is_of_the_service(answer)),
        refused=sum(1 for answer in answers if answer.error and is_of_the_service(answer)),
        workers=len({answer.worker for answer in answers if answer.worker}),
        generations=len({answer.generation for answer in answers if answer.generation}),
        proposals=outcomes,
        injections=sum(injection.counts for injection in history.injections),
        p50_ms=round(percentile(latencies, 0.5) * 1000, 2),
        p99_ms=round(percentile(latencies, 0.99) * 1000, 2),
        kinds=_kinds(history.injections, answers, found),
        violations=[f"promise {v.promise}, at {v.at:.3f} s: {v.what}" for v in found],
    )


def _kinds(injections: Iterable[Injection], answers: list[Answer], found: list[Violation]) -> list[Borne]:
    """The injections by their kind; the answers are in the order of their start, the violations of their time."""
    kinds: dict[str, Borne] = {}
    order = sorted(injections, key=lambda injection: injection.began)
    for injection, following in zip(order, [*order[1:], None], strict=True):
        end = following.began if following else float("inf")
        if not injection.counts:
            continue
        # A request that was under way when a fault struck is judged with that one.
        part = answers[_first(answers, injection.began - LOOK_BACK_S) : _first(answers, end)]
        part = [answer for answer in part if injection.began <= answer.end < end]
        broken = found[bisect_left(found, injection.began, key=_at) : bisect_left(found, end, key=_at)]
        new = Borne(kind=injection.kind, kills=injection.kills, forgets=injection.forgets)
        borne = kinds.setdefault(injection.kind, new)
        borne.add(injection, part, broken)
    return sorted(kinds.values(), key=lambda borne: borne.kind)


#: Seconds that a request may last (clients.PATIENCE_S).
LOOK_BACK_S = 30.0


def _first(answers: Sequence[Answer], moment: float) -> int:
    return bisect_left(answers, moment, key=lambda answer: answer.start)


def _at(violation: Violation) -> float:
    return violation.at
