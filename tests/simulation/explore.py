"""Simulates many schedules and says what was found.

    python tests/simulation/explore.py --seeds 2000 --jobs 2 --report build/simulation.json
    python tests/simulation/explore.py --rules --jobs 2 --report build/rules.json
    python tests/simulation/explore.py --trace SEED [--faults a,b] [--skip 3,7-20] [--workers 2] [--models 1] [--chaos 2] [--force 1]

The second switches every rule off, one after the other, and shows how that is noticed; the third shows one schedule. Ends with status 1
after a violation (shrunk, and with the command that shows it again), or when a rule that was switched off went unnoticed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from machine import Machine
from plan import LARGE_EVERY, Plan, numbers
from rules import Row, catch, every_case
from shrink import shrink
from violation import Violation
from world import simulate

#: Schedules of one task of the pool.
CHUNK = 25
#: Seconds that are spent on making a failing schedule smaller.
SHRINK_S = 60.0


@dataclass
class Found:
    """What some schedules came to. `violations`: seed → what was broken."""

    counts: Counter[str] = field(default_factory=Counter)
    worst: dict[str, float] = field(default_factory=dict)
    violations: dict[int, str] = field(default_factory=dict)

    def add(self, other: Found) -> None:
        """Both together."""
        self.counts.update(other.counts)
        self.violations |= other.violations
        for what, value in other.worst.items():
            self.worst[what] = max(value, self.worst.get(what, 0.0))


def explore(seeds: Iterable[int], machine: Machine | None = None) -> Found:
    """Every one of them to its end, or to its violation."""
    machine, found = machine or Machine(), Found()
    for seed in seeds:
        try:
            world = simulate(seed, machine)
        except Violation as violation:
            found.violations[seed] = str(violation)
            world = violation.world
        except Exception as error:  # of the real code: the seed must be named
            found.violations[seed] = f"{type(error).__name__}: {error}"
            continue
        truth = world.truth
        facts = {"commits": truth.commits, "requests checked": truth.requests, "calls": machine.executed}
        more = {"schedules": 1, "steps": world.steps, "large schedules": _is_large(seed)}
        found.add(Found(world.counts + Counter(facts) + Counter(more), world.worst))
    return found


def explore_all(pool: Executor, seeds: range) -> Found:
    """The same, in all processes of the pool; the large ones first, so that none is last."""
    large = [[seed] for seed in seeds if _is_large(seed)]
    small = [seed for seed in seeds if not _is_large(seed)]
    chunks = [small[first : first + CHUNK] for first in range(0, len(small), CHUNK)]
    found = Found()
    for one in pool.map(explore, [*large, *chunks]):
        found.add(one)
    return found


def _is_large(seed: int) -> bool:
    return seed % LARGE_EVERY == LARGE_EVERY - 1


def processes(jobs: int) -> ProcessPoolExecutor:
    """So many, each begun afresh."""
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))


def report(found: Found, seconds: float) -> dict[str, object]:
    """The figures of a run, flat."""
    counts = found.counts
    faults = {what.removeprefix("did "): n for what, n in counts.items() if what.startswith("did ")}
    faults = {kind: n for kind, n in faults.items() if kind not in ("request", "publish")}
    return {
        "schedules": counts["schedules"],
        "large_schedules": counts["large schedules"],
        "violations": len(found.violations),
        "seconds": round(seconds, 1),
        "steps": counts["steps"],
        "calls": counts["calls"],
        "commits": counts["commits"],
        "requests": counts["did request"],
        "requests_checked": counts["requests checked"],
        "answered_stale": counts["stale"],
        "faults": sum(faults.values()),
        "faults_by_kind": dict(sorted(faults.items())),
        **{what.replace(" ", "_"): round(value, 2) for what, value in sorted(found.worst.items())},
        "outcomes_of_changes": {
            what.removeprefix("a trainer hears: "): n
            for what, n in sorted(counts.items())
            if what.startswith("a trainer hears")
        },
        "violations_by_seed": {str(seed): why for seed, why in sorted(found.violations.items())},
    }


def tell(violations: dict[int, str]) -> None:
    """All of them, and the first one as small as it gets."""
    for seed, why in sorted(violations.items()):
        print(f"seed {seed}: {why}")
    if violations:
        print(shrink(Plan(min(violations)), seconds=SHRINK_S).text)


def show(plan: Plan) -> int:
    """Everything that happens in one schedule."""
    lines: list[str] = []
    try:
        world = simulate(plan, Machine(), trace=lines)
    except Violation as violation:
        print("\n".join([*lines, str(violation.world.temper), f"VIOLATION {violation}"]))
        return 1
    print("\n".join([*lines, str(world.temper)]))
    return 0


def write(path: Path | None, facts: dict[str, object]) -> None:
    """As JSON, to the file that was asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(facts, indent=1) + "\n")


def run_seeds(seeds: range, jobs: int, path: Path | None) -> int:
    """Many schedules."""
    began = time.monotonic()
    with processes(jobs) as pool:
        found = explore_all(pool, seeds)
    facts = report(found, time.monotonic() - began)
    write(path, facts)
    print(json.dumps({key: value for key, value in facts.items() if key != "violations_by_seed"}))
    tell(found.violations)
    return 1 if found.violations else 0


def run_rules(jobs: int, path: Path | None) -> int:
    """Every rule switched off once, at least."""
    began = time.monotonic()
    rows: list[Row] = []
    with processes(jobs) as pool:
        for row in pool.map(catch, every_case()):
            rows.append(row)
            print(
                f"{row.rule:4} {row.mutant:40} {row.caught_by or 'NOT CAUGHT'}; {row.seeds} seeds, {row.seconds} s",
                flush=True,
            )
    missed = [row.mutant for row in rows if not row.caught_by]
    seconds = round(time.monotonic() - began, 1)
    write(path, {"rules": [row._asdict() for row in rows], "missed": missed, "seconds": seconds})
    print(f"{len(rows) - len(missed)} of {len(rows)} caught in {seconds} s" + (f"; missed: {missed}" if missed else ""))
    return 1 if missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1000, help="how many schedules")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--report", type=Path, help="write the figures to this file, as JSON")
    parser.add_argument("--rules", action="store_true", help="switch every rule off, one after the other")
    parser.add_argument("--trace", type=int, metavar="SEED", help="show this schedule; what follows is left out of it")
    parser.add_argument("--faults", type=lambda text: frozenset(text.split(",")) - {"none"})
    parser.add_argument("--skip", type=numbers, default=frozenset())
    for name, kind in {"force": float, "workers": int, "models": int, "chaos": float}.items():
        parser.add_argument(f"--{name}", type=kind)
    chosen = parser.parse_args()
    if chosen.trace is not None:
        limits = (chosen.workers, chosen.models, chosen.chaos)
        return show(Plan(chosen.trace, chosen.faults, chosen.force, chosen.skip, *limits))
    if chosen.rules:
        return run_rules(chosen.jobs, chosen.report)
    return run_seeds(range(chosen.first, chosen.first + chosen.seeds), chosen.jobs, chosen.report)


if __name__ == "__main__":
    sys.exit(main())
