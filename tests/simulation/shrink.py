"""Makes a failing schedule smaller: leaves out of it whatever it fails without, and shows what is left."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from machine import Machine
from plan import LARGE_EVERY, LARGE_WORKERS, Plan, Temper
from violation import Violation
from world import brief, simulate

#: Lines of the trace that are shown: what led to the violation.
LAST_LINES = 40


@dataclass(frozen=True)
class Shrunk:
    """`plan`: the smallest that was found; `actions`: of its chaos; `why`: what it breaks; `lines`: the end of its trace."""

    plan: Plan
    actions: int
    why: str
    lines: tuple[str, ...]
    tries: int

    @property
    def text(self) -> str:
        """For whoever has to find the cause."""
        command = f"python tests/simulation/explore.py {self.plan.command}"
        head = f"shrunk in {self.tries} tries to {self.actions} actions: {brief(self.why)}"
        return "\n".join([head, *self.lines, f"show it again: {command}"])


class Shrinker:
    """One schedule that fails, ever smaller."""

    def __init__(self, plan: Plan, machine: Machine, until: float) -> None:
        self.plan, self._machine, self._until = plan, machine, until
        self.tries = 0
        self.violation = self._fails(plan)
        if self.violation is None:
            raise ValueError(f"{plan.command} breaks nothing")

    def _fails(self, plan: Plan) -> Violation | None:
        self.tries += 1
        try:
            simulate(plan, self._machine)
        except Violation as violation:
            return violation
        return None

    def _take(self, plan: Plan) -> bool:
        """Goes on with this one, if it fails too."""
        if time.monotonic() > self._until or plan == self.plan or (violation := self._fails(plan)) is None:
            return False
        self.plan, self.violation = plan, violation
        return True

    @property
    def done(self) -> dict[int, str]:
        """What its chaos did, up to the violation: number → kind."""
        assert self.violation is not None
        return self.violation.world.chaos.done

    def _skip(self, actions: Iterable[int]) -> bool:
        return self._take(replace(self.plan, skip=self.plan.skip | set(actions)))

    def run(self) -> None:
        """Until nothing more can be left out, or the time is over."""
        self._cut_time()
        before = None
        while before != self.plan and time.monotonic() < self._until:
            before = self.plan
            for plan in self._smaller():
                self._take(plan)
            self._drop_actions()

    def _cut_time(self) -> None:
        """What would come after the violation does not matter; the calm may show it sooner."""
        assert self.violation is not None
        world = self.violation.world
        began = world.temper.chaos * (1.0 if world.is_calm else 0.0)
        chaos = began or max(0.0, (world.now - world.settled_at) / world.lease_s) + 0.01
        for share in (0.25, 0.5, 0.75, 1.0):
            if self._take(replace(self.plan, chaos=round(share * chaos, 2))):
                return

    def _smaller(self) -> Iterator[Plan]:
        """One thing less, each time."""
        faults = Temper.of(self.plan).faults
        yield replace(self.plan, faults=frozenset())
        for fault in sorted(faults):
            if self.plan.faults is None or fault in self.plan.faults:
                yield replace(self.plan, faults=Temper.of(self.plan).faults - {fault})
        yield replace(self.plan, models=1)
        large = self.plan.seed % LARGE_EVERY == LARGE_EVERY - 1
        for workers in (1, 2, 3, 4, 6, 12, 50) if large else range(1, 6):
            if workers < (self.plan.workers or LARGE_WORKERS):
                yield replace(self.plan, workers=workers)

    def _drop_actions(self) -> None:
        """Kind by kind; then halves, quarters, and so on, down to single ones. What was left out before stays out."""
        for kind in sorted(set(self.done.values())):
            self._skip(number for number, other in self.done.items() if other == kind)
        size = max(1, len(self.done) // 2)
        while size and time.monotonic() < self._until:
            first = 0
            while first < len(self.done):
                if not self._skip(list(self.done)[first : first + size]):
                    first += size
            size //= 2


def shrink(plan: Plan, *, seconds: float, machine: Machine | None = None) -> Shrunk:
    """The smallest schedule that was found in so many seconds; ValueError if the plan breaks nothing."""
    machine = machine or Machine()
    shrinker = Shrinker(plan, machine, time.monotonic() + seconds)
    shrinker.run()
    lines: list[str] = []
    try:
        simulate(shrinker.plan, machine, trace=lines)
    except Violation as violation:
        actions = len(violation.world.chaos.done)
        return Shrunk(shrinker.plan, actions, str(violation), tuple(lines[-LAST_LINES:]), shrinker.tries)
    raise AssertionError(f"{shrinker.plan.command} broke something once, and does not again")
