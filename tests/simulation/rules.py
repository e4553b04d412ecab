"""Each rule of the protocol, switched off in the real code, and how that is noticed: else the silence of the rest would prove nothing."""

from __future__ import annotations

import time
from typing import NamedTuple

from machine import Machine
from mutants import MUTANTS, Mutant, put_in
from observables import CHECKS
from plan import MOST_FORCE, Plan
from violation import Violation
from world import simulate

#: Schedules in which the simulation has to notice it.
MOST_SEEDS = 150
#: Leases of chaos in a schedule that is to show one broken rule.
CHAOS = 5.0


class Row(NamedTuple):
    """One rule that was switched off. `caught_by` is empty if nothing noticed; `seeds`: schedules until then, 0 for a check."""

    rule: str
    mutant: str
    switched_off: str
    how: str  #: simulation or check
    caught_by: str
    found: str
    seeds: int
    seconds: float


def every_case() -> list[str]:
    """The names for `catch`; those that take longest first."""
    return sorted(MUTANTS, key=lambda name: bool(MUTANTS[name].check))


def catch(name: str) -> Row:
    """Puts it in, and looks who notices."""
    mutant, began = MUTANTS[name], time.monotonic()
    with put_in(mutant):
        by, found, seeds = _by_check(mutant) if mutant.check else _by_simulation(mutant)
    if by and not mutant.check:
        simulate(
            plan_of(mutant, seeds - 1), Machine()
        )  # the very schedule is silent on the real code, or it proves nothing
    how = "check" if mutant.check else "simulation"
    return Row(mutant.rule, name, mutant.words, how, by, found, seeds, round(time.monotonic() - began, 2))


def _by_check(mutant: Mutant) -> tuple[str, str, int]:
    try:
        CHECKS[mutant.check](mutant.lua)
    except AssertionError as error:
        return mutant.check, str(error), 0
    return "", "", 0


def _by_simulation(mutant: Mutant) -> tuple[str, str, int]:
    machine = Machine(mutant.lua)
    for seed in range(MOST_SEEDS):
        try:
            simulate(plan_of(mutant, seed), machine)
        except Violation as violation:
            return violation.invariant, str(violation), seed + 1
    return "", "", MOST_SEEDS


def plan_of(mutant: Mutant, seed: int) -> Plan:
    """A schedule in which it shows soon."""
    if mutant.faults is None:
        return Plan(seed)
    return Plan(seed, mutant.faults, MOST_FORCE, chaos=CHAOS)
