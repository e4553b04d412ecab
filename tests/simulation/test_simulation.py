"""Real agents and the real scripts under everything that can happen to them. `make test` runs a short part of it; the long one, and every
rule switched off, is explore.py's."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest
from explore import explore, explore_all, processes, report, tell
from machine import Machine
from mutants import MUTANTS, put_in
from observables import CHECKS
from plan import FAULTS, Plan, numbers, ranges
from rules import catch, plan_of
from shrink import shrink
from violation import Violation
from world import brief, simulate

#: Schedules that are run here. The last one of a hundred is that of a large fleet.
SCHEDULES = 100
#: Rules that the simulation notices within some schedules: enough to see that it does. The others are switched off by explore.py --rules.
QUICK = ("fence after the answer", "joiner not fenced", "a lower generation")


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with processes(os.cpu_count() or 1) as pool:
        list(pool.map(abs, range(2)))  # its threads begin here, not in a test
        yield pool


def test_no_schedule_breaks_a_promise(pool: ProcessPoolExecutor) -> None:
    """A violation is printed as small as it gets, with the command that shows it again."""
    found = explore_all(pool, range(SCHEDULES))
    tell(found.violations)
    assert not found.violations
    facts, counts = report(found, 1.0), found.counts
    assert (facts["schedules"], facts["large_schedules"]) == (SCHEDULES, 1)
    # What never happens cannot be broken: the schedules must be lively.
    assert counts["commits"] > 3 * SCHEDULES and counts["unasked"] > 10 * SCHEDULES and counts["asked"] > SCHEDULES
    assert counts["tried"] and counts["a trainer hears: canary"]
    assert counts["a trainer hears: rejected"] and counts["a trainer hears: superseded"] and counts["stale"]
    done = {what.removeprefix("did ") for what in counts if what.startswith("did ")}
    assert set(FAULTS) - done <= {"slow", "share"}, (
        "a word that no part of the simulation knows is a fault that never comes"
    )
    # A fleet that is left alone is quiet: no worker may ask in circles.
    assert found.worst["worst calls of a worker in a lease of calm"] < 60


def test_a_seed_does_the_same_again() -> None:
    """A failure that cannot be looked at again is worth little."""
    first: list[str] = []
    again: list[str] = []
    simulate(3, Machine(), trace=first)
    machine = Machine()
    simulate(4, machine)
    simulate(3, machine, trace=again)
    assert len(first) > 300 and first == again


def test_what_is_left_out_changes_little_else() -> None:
    """Every action has a stream of its own: without the third one, the fourth comes when it came, and does what it did."""
    machine = Machine()
    whole = list(simulate(Plan(5, faults=frozenset()), machine).chaos.done)
    left_out = Plan(5, faults=frozenset(), skip=frozenset(whole[2:3]))
    assert list(simulate(left_out, machine).chaos.done) == [*whole[:2], *whole[3:]]


def test_a_failing_schedule_shrinks_and_fails_again() -> None:
    """A rule is broken; the seed that shows it is made smaller, and what is printed shows it by itself."""
    mutant = MUTANTS["fence after the answer"]
    with put_in(mutant):
        machine = Machine(mutant.lua)
        seed = next(seed for seed in range(20) if explore(range(seed, seed + 1), machine).violations)
        with pytest.raises(Violation) as whole:
            simulate(seed, machine)
        shrunk = shrink(Plan(seed), seconds=20.0, machine=machine)
        assert shrunk.actions < len(whole.value.world.chaos.done) or shrunk.plan.workers is not None
        assert f"--trace {seed} " in shrunk.text and brief(shrunk.why) in shrunk.text
        for _ in range(2):
            lines: list[str] = []
            with pytest.raises(Violation) as again:
                simulate(shrunk.plan, Machine(mutant.lua), trace=lines)
            assert str(again.value) == shrunk.why and tuple(lines[-len(shrunk.lines) :]) == shrunk.lines
    simulate(shrunk.plan, Machine())  # the rule is back: nothing breaks


@pytest.mark.parametrize("text", ["", "3", "1-3,7", "1-2,4-9,20"])
def test_numbers_of_actions_are_written_short(text: str) -> None:
    assert ranges(numbers(text)) == text


def test_a_plan_is_one_command() -> None:
    plan = Plan(7, frozenset({"loss", "cut"}), 3.0, frozenset({1, 2, 3, 9}), 2, 1, 1.5)
    options = "--faults cut,loss --skip 1-3,9 --force 3 --workers 2 --models 1 --chaos 1.5"
    assert plan.command == f"--trace 7 {options}"
    assert Plan(7, frozenset()).command == "--trace 7 --faults none"


@pytest.mark.parametrize("name", CHECKS)
def test_what_a_rule_promises_can_be_seen(name: str) -> None:
    """On the code as it is."""
    CHECKS[name]()


@pytest.mark.parametrize("name", [name for name, mutant in MUTANTS.items() if mutant.check])
def test_a_check_notices_that_its_rule_is_off(name: str) -> None:
    """A check that passes without its rule is none."""
    assert catch(name).caught_by == MUTANTS[name].check


def test_every_check_has_a_rule_to_notice() -> None:
    assert {mutant.check for mutant in MUTANTS.values()} - {""} == set(CHECKS)
    assert {mutant.rule for mutant in MUTANTS.values()} == {f"R{number}" for number in range(1, 17)} | {"canary"}


@pytest.mark.parametrize("name", QUICK)
def test_a_broken_rule_is_found(name: str) -> None:
    """If the simulation did not notice, its silence would say nothing of that rule."""
    mutant = MUTANTS[name]
    machine = Machine(mutant.lua)
    with put_in(mutant), pytest.raises(Violation):
        for seed in range(20):
            simulate(plan_of(mutant, seed), machine)


def test_a_text_that_no_script_holds_breaks_no_rule() -> None:
    """A mutant that changes nothing would be caught by nobody, and one that has lost its text must say so."""
    with pytest.raises(ValueError, match="no script holds 'once it was here'"):
        Machine([("once it was here", "")])
