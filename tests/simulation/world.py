"""One simulated fleet, driven by a plan: virtual time, what may go wrong, and whether the fleet comes out of it.

First chaos: for some leases of virtual time everything that the plan allows happens. Then calm: nothing goes wrong any more, and within
a bounded time every worker must show the active generation under its lease, nothing may be stuck, and a last proposal must be
committed (R8, R11). The same plan does the same again, to the last reply.
"""

from __future__ import annotations

import gc
import heapq
import math
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from genlock.coordinator.scripts import Caller
from machine import FLEET, FLEET_ID, Machine
from network import Network
from plan import Plan, Temper
from shell import Shell
from storm import MOST_STEP, Storm
from threads import in_virtual_time
from trainer import Trainer
from truth import Truth
from violation import Violation

if TYPE_CHECKING:
    from truth import Key

#: Leases in which the fleet must come out of the chaos, besides the time that candidates may take: preparing, two steps of a canary and
#: fencing, two in a row.
PATIENCE, CANDIDATES = 12.0, 2 * (8 + 2 * MOST_STEP + 3)
#: The longest wait between two tries of a load (slot.RETRY_TO_S), and a load.
LOADING_S = 8.0
#: Streams of chance, by whom they are for: actions are 1, workers 2, trainers 3.
OF_COMMITS, OF_CALM = 4, 5


class World:
    """See the module."""

    def __init__(self, plan: Plan, machine: Machine, *, trace: list[str] | None = None) -> None:
        self.plan, self.machine, self._trace = plan, machine, trace
        self.temper = Temper.of(plan)
        self.lease_s = self.temper.lease_s
        self.max_wait_s = 4 * self.lease_s
        self.now = self.settled_at = 0.0
        self.is_calm = self.is_at_rest = False
        self.counts: Counter[str] = Counter()
        self.worst: dict[str, float] = {}  #: what is highest, by its name
        machine.begin(plan.seed)
        self.clock_skew_s = 0.0
        self.truth = Truth(machine)
        self.network = Network(self)
        self.shells: list[Shell] = []
        self.chaos = Storm(self, plan.skip)
        self.last_good: dict[str, Key] = {}
        self.steps = 0
        self._commits_seen = 0
        self._bad: dict[tuple[str, str], bool] = {}  # (version, worker or "") → it is bad (there)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0

    def say(self, line: Callable[[], str]) -> None:
        """For whoever looks at one seed."""
        if self._trace is not None:
            self._trace.append(f"{self.now:9.4f} {brief(line())}")

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def note_worst(self, what: str, value: float) -> None:
        self.worst[what] = max(self.worst.get(what, 0.0), value)

    # --- time ------------------------------------------------------------------------------------------------------------

    def at(self, delay_s: float, action: Callable[[], None]) -> None:
        """Does it that many seconds later."""
        self._serial += 1
        heapq.heappush(self._events, (self.now + delay_s, self._serial, action))

    def _step(self) -> None:
        at, _, action = heapq.heappop(self._events)
        if at > self.now:
            self.now = at
            self.machine.now_s = 1.7e9 + at + self.clock_skew_s
        self.steps += 1
        action()

    def _let_pass(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self._step()

    def run(self) -> None:
        """Storm, then calm; raises Violation."""
        self._begin()
        self.chaos.go_on()
        self._let_pass(self.temper.chaos * self.lease_s)
        self._calm_down()
        self._come_to_rest()
        self.is_at_rest = True
        self._publish_last(self.temper.models[self.plan.seed % len(self.temper.models)])
        self._come_to_rest()

    def _begin(self) -> None:
        """A new fleet. A settled one comes to its first generation before anything goes wrong."""
        self.is_calm = self.temper.is_settled
        self.caller = Caller(FLEET, FLEET_ID, round(self.lease_s * 1000), self.temper.is_settled)
        for _ in range(self.temper.workers):
            self.born(is_whole=True)
        for model in self.temper.models:
            self.chaos.begin(model)
        while self.temper.is_settled and self._missing():
            self._let_pass(self.lease_s / 20)
        self.is_calm, self.settled_at = False, self.now
        self.caller = replace(self.caller, virgin=False)

    # --- chance ----------------------------------------------------------------------------------------------------------

    def stream(self, whose: int, number: int) -> random.Random:
        """A stream of chance of its own; see plan."""
        return random.Random(((self.plan.seed << 8) + whose << 24) + number)

    def happens(self, fault: str, chance: random.Random) -> bool:
        """Whether this kind of fault strikes now."""
        if self.is_calm or fault not in self.temper.faults:
            return False
        if chance.random() >= _OF_MESSAGES[fault]:
            return False
        self.counts[f"did {fault}"] += 1
        return True

    def latency(self, chance: random.Random) -> float:
        """Seconds of one way."""
        if self.is_calm:
            return 0.002 * self.lease_s
        if "slow" in self.temper.faults and chance.random() < 0.04:
            return self.long_latency(chance)
        return self.temper.latency_s * chance.expovariate(1.0)

    def long_latency(self, chance: random.Random) -> float:
        """From no time to a few leases, every order of magnitude as likely as the next."""
        return self.lease_s * math.exp(chance.uniform(_SHORTEST, _LONGEST))

    def hiccup(self, chance: random.Random) -> float:
        """Seconds between two steps of one process."""
        return 0.0 if chance.random() < 0.6 else self.latency(chance)

    def load_time(self, chance: random.Random) -> float:
        scale = 0.02 if self.is_calm else chance.choice((0.01, 0.1, 0.5))
        return self.lease_s * scale * chance.expovariate(1.0)

    def a_rate(self, chance: random.Random) -> float:
        return chance.choice((1 - self.temper.drift, 1.0, 1 + self.temper.drift))

    # --- what processes need -----------------------------------------------------------------------------------------------

    @property
    def alive(self) -> list[Shell]:
        return [shell for shell in self.shells if shell.is_alive]

    def born(self, *, is_whole: bool) -> None:
        """One worker more; `is_whole`: it holds all models."""
        shell = Shell(self, len(self.shells) + 1, stale_allowed=self.temper.stale_allowed)
        self.shells.append(shell)
        models = self.temper.models if is_whole else self.temper.models[:1]
        shell.post(lambda: shell.agent.hold(models))

    def executed(self) -> None:
        """A script was run: its hints go out, and what everybody shows must still be true."""
        hints = self.machine.hints
        for _, text in hints:
            epoch, revision, model = text.split(" ")
            for shell in self.shells:
                shell.may_hear(int(epoch), int(revision), model)
        hints.clear()
        if (
            self.truth.take_change()
        ):  # else nothing that anybody shows can have become untrue: they are checked when they change
            for shell in self.shells:
                self.truth.check(shell)
        if self.truth.commits > self._commits_seen:
            self._commits_seen = self.truth.commits
            chance = self.stream(OF_COMMITS, self._commits_seen)
            strikes = chance.random() < 0.15 * self.temper.force
            if "relapse" in self.temper.faults and not self.is_calm and strikes:
                self.at(self.latency(chance), lambda: self._relapse(chance))

    def judge_load(self, shell: Shell, key: Key) -> str:
        """What a load comes to: nothing, `bad` or `failed`."""
        if self.is_bad(key[1], shell.name):
            self.count("did bad")
            return "bad"
        if self.is_calm or "failed" not in self.temper.faults or shell.chance.random() >= 0.15:
            return ""
        self.count("did failed")
        return "failed"

    def is_poor(self, version: str, *, is_active: bool) -> bool:
        """A content that loads and fails requests, at once or not before it is active: what canaries and watching are for."""
        return int(version[:4], 16) % 3 <= is_active

    def is_bad(self, version: str, worker: str) -> bool:
        if "bad" not in self.temper.faults:
            return False
        for where, chance in (("", 0.15), (worker, 0.05)):
            if (version, where) not in self._bad:
                draw = random.Random(f"{self.plan.seed} {version} {where}").random()
                self._bad[version, where] = not self.is_calm and draw < chance
        return self._bad[version, ""] or self._bad[version, worker]

    # --- what chaos does to the server -------------------------------------------------------------------------------------

    def restart(self, chance: random.Random, *, losing: bool, noticing: float = 1.0) -> None:
        """`noticing`: the share of subscriptions that end with it; the others are dead and do not know."""
        self.say(lambda: f"the server restarts{', losing what was written last' if losing else ''}")
        self.machine.restart(losing=losing)
        if losing:
            self.truth.lost()
        for shell in self.shells:
            if shell.subscribed_to is not None and not shell.is_deaf and chance.random() < noticing:
                shell.later(self.latency(chance), shell.resubscribe)

    def _relapse(self, chance: random.Random) -> None:
        """The server forgets what was committed just now; of the workers that have heard of it, most or all are not there to tell."""
        self.count("did relapse")
        self.restart(chance, losing=True)
        share, pause_s = chance.choice((0.7, 1.0)), self.lease_s * chance.choice((0.5, 2.0, 4.0))
        for shell in self.alive:
            knows = any(self.truth.active.get(model) == key for model, key in shell.told.items())
            if knows and chance.random() < share:
                self.say(lambda s=shell: f"{s.name} is paused")
                shell.pause(pause_s * chance.uniform(0.5, 1.5))

    # --- calm --------------------------------------------------------------------------------------------------------------

    def _calm_down(self) -> None:
        self.say(lambda: "calm")
        self.is_calm = True
        self.machine.is_up = True
        self.machine.end_ghost()
        for shell in self.alive:
            shell.mend()
            shell.wake()
        self._ask_on(self.stream(OF_CALM, 0))

    def _ask_on(self, chance: random.Random) -> None:
        if not self.alive:
            self.born(is_whole=True)
        shell = chance.choice(self.alive)
        models = self.temper.models if chance.random() < 0.3 else self.temper.models[:1]
        shell.deliver(lambda: shell.request(models))
        self.at(self.lease_s / 6, lambda: self._ask_on(chance))

    def _come_to_rest(self) -> None:
        """Until nothing is missing any more; candidates, one behind the other, may take all their time."""
        began, calls = self.now, {shell.name: shell.calls for shell in self.shells}
        until = began + (PATIENCE + CANDIDATES) * self.lease_s + 2 * LOADING_S
        has_converged = False
        while missing := self._missing():
            if not has_converged and not self._not_converged():
                has_converged = True
                self._note_converged(began)
            if self.now > until:
                raise Violation(f"after {until - began:g} s of calm: {missing}")
            self._let_pass(self.lease_s / 20)
        if not has_converged:
            self._note_converged(began)
        for shell in self.alive:
            rate = (shell.calls - calls.get(shell.name, 0)) * self.lease_s / max(self.now - began, self.lease_s)
            self.note_worst("worst calls of a worker in a lease of calm", rate)
        if not self.is_at_rest:
            self.note_worst("worst leases until nothing is in work", (self.now - began) / self.lease_s)

    def _note_converged(self, began: float) -> None:
        if not self.is_at_rest:
            self.note_worst("worst leases to converge", (self.now - began) / self.lease_s)

    def _missing(self) -> str:
        """What keeps the fleet from being as it should; nothing, in the end."""
        if why := self._not_converged():
            return why
        if waiting := [trainer.name for trainer in self.chaos.trainers if not trainer.is_done]:
            return f"{waiting} wait"
        for model, record in self.truth.look.models.items():
            if record.get("cand") or record.get("waits"):
                return f"{model} is still {record.get('cand')}, next {record.get('waits')}"
        return ""

    def _not_converged(self) -> str:
        look = self.truth.look
        if not (look.valid and look.open):
            return f"the fleet is {'closed' if look.valid else 'damaged'}"
        loadable = {model: key for model, key in self.truth.active.items() if self.machine.has_manifest(model, key[0])}
        for shell in self.shells:
            if shell.is_alive and (why := self._missing_at(shell, loadable)):
                return f"{shell.name} {why}"
        return ""

    def _missing_at(self, shell: Shell, loadable: dict[str, Key]) -> str:
        if shell.is_paused or (shell.agent.membership.leaving and not shell.agent.membership.left):
            return "is busy"
        for model in shell.agent.slots:
            key, shown = loadable.get(model), shell.views.get(model)
            if key is None or self.is_bad(key[1], shell.name):
                continue
            if shown is None or shown.key != key or shown.lease is None or shell.clock() >= shown.lease.deadline:
                return f"shows {shown} of {model}, active is {key}"
        return ""

    def can_show(self, shell: Shell, model: str) -> bool:
        """Whether there is something active that this worker can load."""
        key = self.truth.active.get(model)
        return key is not None and not self.is_bad(key[1], shell.name) and self.machine.has_manifest(model, key[0])

    def _publish_last(self, model: str) -> None:
        """A proposal in the calm, which must be committed: unpinned first; again, if members that had died before stopped it (R13)."""

        def doing(trainer: Trainer) -> None:
            request = trainer.request
            trainer.decide("unpin")
            for attempt in range(3):
                trainer.request = f"{request}-{attempt}"
                trainer.publish(last, agreement=1.0, prepare_s=8 * self.lease_s)
                if trainer.outcome == "committed":
                    return
            raise Violation(f"R11 the last proposal for {model} was {trainer.outcome}")

        last = 1 << 24
        trainer = Trainer(self, last, model)
        self.chaos.trainers.append(trainer)
        trainer.start(doing)


#: How often a message is struck by what can happen to it.
_OF_MESSAGES = {"loss": 0.05, "doubled": 0.08, "late": 0.5}
_SHORTEST, _LONGEST = math.log(0.002), math.log(4)


def brief(text: str) -> str:
    """Of a digest, people need the beginning."""
    return re.sub(r"([0-9a-f]{6})[0-9a-f]{58}", r"\1", text)


def simulate(plan: Plan | int, machine: Machine, *, trace: list[str] | None = None) -> World:
    """Runs one plan to its end (a number is the whole plan of that seed); raises Violation, whose `world` shows how far it came."""
    world = World(Plan(plan) if isinstance(plan, int) else plan, machine, trace=trace)
    gc.disable()  # what it looks through lives as long as the world, which is not long
    try:
        with in_virtual_time(world.lease_s):
            try:
                world.run()
            finally:
                for trainer in world.chaos.trainers:
                    trainer.die()
    except Violation as violation:
        violation.world = world
        raise
    finally:
        gc.enable()
    return world
