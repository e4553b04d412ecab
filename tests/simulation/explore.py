"""Simulates many seeds: `python tests/simulation/explore.py --seeds 10000 --first 0 --jobs 2`; `--trace SEED` shows one of them.

Ends with status 1 at the first violation, which names its seed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from machine import Machine
from violation import Violation
from world import simulate


def explore(seeds: range, machine: Machine | None = None) -> tuple[str, Counter[str]]:
    """The first violation, or nothing; and how often what happened."""
    machine, counts = machine or Machine(), Counter[str]()
    for seed in seeds:
        try:
            world = simulate(seed, machine)
        except Violation as violation:
            return str(violation), counts
        add(counts, world.counts)
        counts.update(seeds=1, commits=world.truth.commits, calls=machine.executed)
    return "", counts


def add(total: Counter[str], counts: Counter[str]) -> None:
    """Sums, but for what is a maximum."""
    for what, n in counts.items():
        total[what] = max(total[what], n) if what.startswith("most ") else total[what] + n


def show(seed: int) -> None:
    """Everything that happens in one seed."""
    lines: list[str] = []
    try:
        world = simulate(seed, Machine(), trace=lines)
        lines.append(str(world.temper))
    except Violation as violation:
        lines.append(str(violation))
    print("\n".join(lines))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--trace", type=int)
    chosen = parser.parse_args()
    if chosen.trace is not None:
        show(chosen.trace)
        return 0
    began, total = time.monotonic(), Counter[str]()
    chunks = [
        range(k, min(k + 25, chosen.first + chosen.seeds)) for k in range(chosen.first, chosen.first + chosen.seeds, 25)
    ]
    with ProcessPoolExecutor(chosen.jobs, mp_context=get_context("spawn")) as pool:
        for violation, counts in pool.map(explore, chunks):
            add(total, counts)
            if violation:
                print(violation)
                pool.shutdown(cancel_futures=True)
                return 1
    print(f"{chosen.seeds} seeds in {time.monotonic() - began:.1f} s: {dict(sorted(total.items()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
