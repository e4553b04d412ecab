"""Real agents and the real scripts under everything that can happen to them, and the proof that this would find a broken rule."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from explore import add, explore
from machine import Machine
from mutants import MUTANTS, put_in
from violation import Violation
from world import simulate

#: Schedules of one test; together 300.
SCHEDULES = 50
#: Seeds within which a fault that was put in has to show, besides the one that showed it last.
SEEDS = 100


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        list(pool.map(abs, range(2)))  # its threads begin here, not in a test
        yield pool


@pytest.mark.parametrize("first", range(0, 300, SCHEDULES))
def test_no_schedule_breaks_a_promise(pool: ProcessPoolExecutor, first: int) -> None:
    """A violation names its seed: `explore.py --trace SEED` shows all that happened."""
    counts: Counter[str] = Counter()
    for violation, found in pool.map(explore, [range(k, k + 5) for k in range(first, first + SCHEDULES, 5)]):
        assert not violation, violation
        add(counts, found)
    assert counts["seeds"] == SCHEDULES
    # What never happens cannot be broken: the schedules must be lively.
    assert counts["commits"] > SCHEDULES and counts["unasked"] > SCHEDULES and counts["asked"] > SCHEDULES
    assert counts["a trainer hears: rejected"] and counts["a trainer hears: superseded"] and counts["stale"]
    # A fleet that is left alone is quiet: no worker may ask in circles.
    assert counts["most calls in a lease"] < 60


def test_a_seed_does_the_same_again() -> None:
    """A failure that cannot be looked at again is worth little."""
    first: list[str] = []
    again: list[str] = []
    simulate(3, Machine(), trace=first)
    machine = Machine()
    simulate(4, machine)
    simulate(3, machine, trace=again)
    assert len(first) > 500 and first == again


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_found(name: str) -> None:
    """Each rule that is about order, broken on purpose: if the simulation does not notice, its silence says nothing of that rule."""
    mutant = MUTANTS[name]
    machine = Machine(mutant.lua)
    with put_in(mutant), pytest.raises(Violation):
        for seed in (mutant.seed, *range(SEEDS)):
            simulate(seed, machine, faults=mutant.faults)
