"""The end of the demo: what was promised, and what was measured. Pure: made of the board; as sentences for people, as JSON for machines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...coordinator.commands.words import counted, size, took
from .board import Board
from .history import (
    Accuracy,
    Latency,
    Violation,
    accuracy_by_generation,
    apart,
    impostors,
    order_violations,
    percentile,
)
from .news import Published, Request


@dataclass(frozen=True)
class Memory:
    """Bytes of all workers together (PSS): when they were ready, and at the end."""

    first: int = 0
    last: int = 0


@dataclass(frozen=True)
class Promise:
    """A promise in few words, and what was measured of it. `broken`: what speaks against it, as sentences."""

    name: str
    measured: str
    broken: tuple[str, ...] = ()


class Report:
    """All figures of one run, each computed once. Times are seconds."""

    def __init__(self, board: Board, memory: Memory) -> None:
        self.plan, self.memory = board.plan, memory
        self.requests: Sequence[Request] = board.requests
        self.published: Sequence[Published] = board.published
        start = float("inf") if board.start is None else board.start
        #: Requests and publishes of the time that was planned: before it, connections are opened and workers warm up.
        self._timed = [r for r in self.requests if r.start >= start]
        self._tried = [p for p in self.published if p.began >= start]

    # --- figures -------------------------------------------------------------------------------------------------------

    @cached_property
    def errors(self) -> list[Request]:
        """Requests without an answer."""
        return [r for r in self.requests if r.error]

    @cached_property
    def stale(self) -> list[Request]:
        """Answers that were marked."""
        return [r for r in self.requests if r.stale]

    @cached_property
    def violations(self) -> list[Violation[Request]]:
        """Over the whole history; see order_violations."""
        return order_violations(self.requests, self.published)

    @cached_property
    def impostors(self) -> list[Request]:
        """Answers from what was never committed."""
        return impostors(self.requests, self.published)

    @cached_property
    def accuracies(self) -> dict[int, Accuracy]:
        """By generation."""
        return dict(accuracy_by_generation(self.requests))

    @cached_property
    def committed(self) -> list[Published]:
        """Publishes that became a generation, in order."""
        return [p for p in self.published if p.outcome == "committed"]

    @cached_property
    def kept_out(self) -> list[Published]:
        """Publishes that became none."""
        return [p for p in self.published if p.outcome != "committed"]

    @cached_property
    def flips(self) -> list[Published]:
        """Generations that workers changed to: all but the first, which nobody held a model before."""
        return [p for p in self.committed if p.workers]

    @cached_property
    def latencies(self) -> tuple[Latency, Latency]:
        """During publishes, and between them."""
        during, between = apart(self._timed, self._tried)
        return Latency.of(during), Latency.of(between)

    @property
    def p99_ratio(self) -> float | None:
        """p99 during publishes over p99 between them; None without answers on both sides."""
        during, between = self.latencies
        return during.p99 / between.p99 if during.count and between.p99 else None

    # --- promises ------------------------------------------------------------------------------------------------------

    @cached_property
    def promises(self) -> tuple[Promise, ...]:
        """In the order in which they are shown."""
        return self._order(), self._together(), self._no_failure(), self._all_or_nothing()

    @property
    def broken(self) -> list[str]:
        """What speaks against the promises, as sentences."""
        return [sentence for promise in self.promises for sentence in promise.broken]

    @property
    def ok(self) -> bool:
        """Whether every promise was kept."""
        return not self.broken

    def _order(self) -> Promise:
        answers = len(self.requests) - len(self.errors)
        measured = (
            f"{answers:,} answers, put into order: {len(self.violations):,} from an older generation than"
            f" one that was seen before the request started; {len(self.stale):,} marked stale"
        )
        broken = [
            *_against(self.violations, "answers from an older generation after a newer one was seen"),
            *_against(self.stale, "answers marked stale while Redis was there"),
        ]
        if not answers:
            broken.append("there was no answer to judge by")
        return Promise("Nobody sees an older answer after a newer one", measured, tuple(broken))

    def _together(self) -> Promise:
        good = [p for p in self.published if not p.broken]
        wanted, workers = self.plan.epochs + 1, counted(self.plan.workers, "worker")
        measured = f"{sum(p.as_promised for p in good)} of {wanted} checkpoints became the fleet's generation"
        if self.flips:
            total = percentile([p.seconds.get("total", 0.0) for p in self.flips], 0.5)
            measured += f"; {workers} changed to one together in {_ms(total)} from file to last worker (median)"
        broken = [f"{p.what} was {p.outcome} by {p.worker} ({p.step}): {p.why}" for p in good if not p.as_promised]
        if len(good) != wanted:
            broken.append(f"{len(good)} of {wanted} checkpoints were published")
        broken += [
            f"generation {p.generation} had {p.workers} of {workers} change to it"
            for p in self.flips
            if p.workers != self.plan.workers
        ]
        return Promise("All workers change together", measured, tuple(broken))

    def _no_failure(self) -> Promise:
        during, between = self.latencies
        ratio = "" if self.p99_ratio is None else f" ({self.p99_ratio:.2f} ×)"
        measured = (
            f"{len(self.errors):,} of {len(self.requests):,}; p99 {_ms(during.p99)} while a publish goes on,"
            f" {_ms(between.p99)} between{ratio}; p50 {_ms(during.p50)} and {_ms(between.p50)}"
        )
        return Promise("No request fails", measured, tuple(_against([r.error for r in self.errors], "requests failed")))

    def _all_or_nothing(self) -> Promise:
        tried = [p for p in self.published if p.broken]
        measured = (
            f"{sum(p.as_promised for p in tried)} of {counted(len(tried), 'broken checkpoint')} kept out;"
            f" {len(self.impostors):,} answers from anything but what was committed"
        )
        broken = [
            f"a broken checkpoint ({p.what}) became generation {p.generation}" for p in tried if not p.as_promised
        ]
        if not tried:
            broken.append("no broken checkpoint was tried")
        broken += _against(self.impostors, "answers from what was never committed")
        return Promise("A broken checkpoint changes nothing", measured, tuple(broken))

    @property
    def memory_sentence(self) -> str:
        """How much memory the workers have, for people."""
        return (
            f"{size(self.memory.last)} in all workers at the end (PSS), {size(self.memory.first)} when they were ready"
        )

    # --- JSON ----------------------------------------------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """One object; seconds, bytes and shares as numbers, counts as whole ones."""
        during, between = self.latencies
        return {
            "ok": self.ok,
            "broken": self.broken,
            "requests": len(self.requests),
            "errors": len(self.errors),
            "stale": len(self.stale),
            "order_violations": len(self.violations),
            "impostors": len(self.impostors),
            "generations": len(self.committed),
            "rejected": len(self.kept_out),
            "p99_ratio": None if self.p99_ratio is None else round(self.p99_ratio, 3),
            "latency": {"during_flips": _latency(during), "between_flips": _latency(between)},
            "answers": {str(number): _accuracy(found) for number, found in self.accuracies.items()},
            "flips": [_flip(p) for p in self.flips],
            "rejections": [
                {name: getattr(p, name) for name in ("what", "outcome", "worker", "step", "why")} for p in self.kept_out
            ],
            "memory": {"pss_bytes": self.memory.last, "pss_bytes_first": self.memory.first},
            "seconds": self.plan.seconds,
            "workers": self.plan.workers,
            "clients": self.plan.clients,
        }


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else took(seconds)


def _against(found: Sequence[object], what: str) -> Iterable[str]:
    """One sentence with the number of cases and the first of them; none where there is none."""
    return [f"{len(found):,} {what}; the first: {found[0]}"] if found else []


def _accuracy(found: Accuracy) -> dict[str, float]:
    return {"answers": found.answers, "correct": found.correct, "accuracy": round(found.share, 4)}


def _flip(published: Published) -> dict[str, Any]:
    seconds = {phase: round(value, 6) for phase, value in published.seconds.items()}
    return {
        "generation": published.generation,
        "version": published.version,
        "what": published.what,
        "workers": published.workers,
        "seconds": seconds,
    }


def _latency(found: Latency) -> dict[str, float]:
    rounded = {f"{name}_s": round(getattr(found, name), 6) for name in ("p50", "p99", "worst")}
    return {"requests": found.count, **rounded}
