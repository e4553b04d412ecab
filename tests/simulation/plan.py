"""Which schedule is run: a seed, and what is left out of what it would do. Pure.

All that happens follows from the seed by many small streams of chance, one for each action of the chaos and one for each process, so that
what is left out changes as little as can be of the rest: that is what makes a schedule shrink.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

#: All that may go wrong; each seed takes some of it, so that no fault is always hidden behind another.
FAULTS = (
    *("loss", "doubled", "late", "deaf", "cut", "pause", "death", "birth", "leave", "drop", "slow", "bad", "failed"),
    *("restart", "rewind", "failover", "flush", "spoil", "log", "down", "clock", "operator", "task", "share"),
    *("murder", "relapse", "canary"),
)
#: Every so many schedules one is of a large fleet, which has that many workers.
LARGE_EVERY, LARGE_WORKERS = 100, 200
#: Leases of chaos in a large fleet; a small one has 1.5 to 5.
LARGE_CHAOS = 1.0
#: How much more often faults may strike than usual; see Temper.force.
MOST_FORCE = 3.0


@dataclass(frozen=True)
class Plan:
    """None: as the seed chooses. `faults`: these and no others; `force`: see Temper; `skip`: actions of the chaos, by number, that do not
    happen; `workers`, `models`: at most so many; `chaos`: leases of it."""

    seed: int
    faults: frozenset[str] | None = None
    force: float | None = None
    skip: frozenset[int] = frozenset()
    workers: int | None = None
    models: int | None = None
    chaos: float | None = None

    @property
    def command(self) -> str:
        """The options with which explore.py runs it again."""
        words = [f"--trace {self.seed}"]
        if self.faults is not None:
            words.append(f"--faults {','.join(sorted(self.faults)) or 'none'}")
        if self.skip:
            words.append(f"--skip {ranges(self.skip)}")
        for name in ("force", "workers", "models", "chaos"):
            if (value := getattr(self, name)) is not None:
                words.append(f"--{name} {value:g}")
        return " ".join(words)


def ranges(numbers: Iterable[int]) -> str:
    """{1, 2, 3, 7} → "1-3,7"."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in found)


def numbers(text: str) -> frozenset[int]:
    """The other way: "1-3,7" → {1, 2, 3, 7}."""
    found: set[int] = set()
    for word in filter(None, text.split(",")):
        first, _, last = word.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)


@dataclass(frozen=True)
class Temper:
    """What kind of world a plan makes."""

    faults: frozenset[str]
    lease_s: float
    latency_s: float  #: the median of one way
    workers: int
    most_workers: int
    models: tuple[str, ...]
    stale_allowed: bool
    force: float  #: how often its faults strike, against the usual; at most MOST_FORCE
    drift: float  #: how far the rate of a clock may be from 1; 0.1 is what the margins are made for
    chaos: float  #: leases of it
    is_settled: bool  #: whether the chaos begins after the first generation is active

    @classmethod
    def of(cls, plan: Plan) -> Temper:
        rng = random.Random(plan.seed)
        share = rng.choice((0.15, 0.3, 0.6))
        faults = frozenset(fault for fault in FAULTS if rng.random() < share)
        lease_s = rng.choice((0.5, 0.5, 0.5, 1.0, 1.0, 3.0))
        temper = cls(
            faults,
            lease_s,
            lease_s * rng.choice((0.001, 0.01, 0.05)),
            rng.randint(3, 6),
            6,
            ("a", "b") if rng.random() < 0.6 else ("a",),
            rng.random() < 0.8,
            rng.choice((1.0, MOST_FORCE)) if len(faults) < 8 else 1.0,
            rng.choice((0.0, 0.1)),
            rng.choice((1.5, 3.0, 5.0)),
            rng.random() < 0.75,
        )
        if plan.seed % LARGE_EVERY == LARGE_EVERY - 1:
            large = LARGE_WORKERS
            temper = replace(temper, workers=large, most_workers=large, models=("a",), chaos=LARGE_CHAOS)
        return temper._restricted(plan)

    def _restricted(self, plan: Plan) -> Temper:
        most = self.workers if plan.workers is None else plan.workers
        return replace(
            self,
            faults=self.faults if plan.faults is None else plan.faults,
            force=self.force if plan.force is None else plan.force,
            workers=min(self.workers, most),
            most_workers=self.most_workers if plan.workers is None else most,
            models=self.models[: plan.models],
            chaos=self.chaos if plan.chaos is None else plan.chaos,
        )
