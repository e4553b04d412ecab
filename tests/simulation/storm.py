"""What happens to a simulated fleet while it is not left alone: requests, proposals, and the faults that its plan allows.

Action after action, each with a stream of chance of its own: when it comes, what it is and to whom it happens hang on the seed and on the
number of the action alone. What is not allowed, or skipped, takes its time and does nothing.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING

from genlock.coordinator.canary import LEAST_REQUESTS, Canary, Policy
from plan import MOST_FORCE
from trainer import Trainer

if TYPE_CHECKING:
    from shell import Shell
    from world import World

Chance = random.Random
#: What may happen, and how often against each other: what usually does, then faults (times MOST_FORCE, thinned to the force of the world).
USUAL = {"request": 10.0, "publish": 1.2}
UNUSUAL = {
    "pause": 1.0,
    "death": 0.15,
    "birth": 0.4,
    "leave": 0.2,
    "drop": 0.8,
    "deaf": 0.3,
    "cut": 0.4,
    "restart": 0.15,
    "rewind": 0.15,
    "failover": 0.15,
    "flush": 0.06,
    "spoil": 0.1,
    "log": 0.3,
    "down": 0.15,
    "clock": 0.2,
    "operator": 0.7,
    "task": 0.3,
    "murder": 0.2,
}
KINDS = (*USUAL, *UNUSUAL)
_BOUNDS = list(accumulate((*USUAL.values(), *(MOST_FORCE * weight for weight in UNUSUAL.values()))))
#: Leases between two actions, on average.
GAP = 0.03
#: Leases that a step of a canary may take, at most; one has two steps.
MOST_STEP = 4.0
#: Publishers at work at the same time.
MOST_TRAINERS = 4


class Storm:
    """See the module."""

    def __init__(self, world: World, skip: frozenset[int]) -> None:
        self.world, self._skip = world, skip
        self.done: dict[int, str] = {}  #: the actions that did something: number → kind
        self.trainers: list[Trainer] = []
        self._number = 0
        self._contents: list[int] = []
        self._doing: dict[str, Callable[[Chance], None]] = {kind: getattr(self, f"_{kind}") for kind in KINDS}

    def begin(self, model: str) -> None:
        """The first proposal for a model: most of what can happen needs something that is active."""
        self._number_now = -len(self.trainers) - 1
        terms, content = {"agreement": 1.0, "prepare_s": 3 * self.world.lease_s}, 1000 - self._number_now
        self._a_trainer(model).start(lambda t: t.publish(content, **terms))

    def go_on(self) -> None:
        """The next action, after a while, and so on."""
        self._number += 1
        chance = self.world.stream(1, self._number)
        gap_s = self.world.lease_s * GAP * chance.expovariate(1.0)
        number = self._number
        self.world.at(gap_s, lambda: self._act(number, chance))

    def _act(self, number: int, chance: Chance) -> None:
        if self.world.is_calm:
            return
        self.go_on()
        kind = KINDS[bisect(_BOUNDS, chance.random() * _BOUNDS[-1])]
        is_thinned = chance.random() * MOST_FORCE > self.world.temper.force
        if kind in UNUSUAL and (is_thinned or kind not in self.world.temper.faults):
            return
        if number in self._skip:
            return
        self.done[number] = kind
        self._number_now = number
        self.world.count(f"did {kind}")
        self._doing[kind](chance)

    # --- to whom -------------------------------------------------------------------------------------------------------

    def _some(self, chance: Chance) -> Shell | None:
        """Somebody; leaving out a worker changes the choice only where it was that worker."""
        draw = chance.random()
        return min(self.world.alive, key=lambda shell: hash((draw, shell.number)), default=None)

    def _a_model(self, chance: Chance) -> str:
        models = self.world.temper.models
        return models[int(chance.random() * len(models))]

    def _a_trainer(self, model: str) -> Trainer:
        trainer = Trainer(self.world, self._number_now, model)
        self.trainers.append(trainer)
        return trainer

    # --- what usually happens --------------------------------------------------------------------------------------------

    def _request(self, chance: Chance) -> None:
        shell, model, both = self._some(chance), self._a_model(chance), chance.random() < 0.3
        if shell is not None:
            models = self.world.temper.models if both else (model,)
            key = f"{chance.random()}"
            shell.deliver(lambda: shell.request(models, key))

    def _a_content(self, chance: Chance) -> int:
        """Mostly a new one; sometimes the bytes of an earlier one."""
        if chance.random() < 0.25 and self._contents:
            return chance.choice(self._contents[-4:])
        self._contents.append(self._number_now)
        return self._number_now

    def _terms(self, chance: Chance) -> dict[str, float]:
        prepare_s = self.world.lease_s * chance.choice((1.0, 3.0, 8.0))
        agreement = chance.choice((0.4, 0.7, 1.0))
        return {"agreement": agreement if "share" in self.world.temper.faults else 1.0, "prepare_s": prepare_s}

    def _publish(self, chance: Chance) -> None:
        model, content, terms = self._a_model(chance), self._a_content(chance), self._terms(chance)
        now, force = chance.random() < 0.15, chance.random() < 0.15
        canary = self._a_canary(chance)
        if sum(not trainer.is_done for trainer in self.trainers) < MOST_TRAINERS:
            self._a_trainer(model).start(lambda t: t.publish(content, now=now, force=force, canary=canary, **terms))

    def _a_canary(self, chance: Chance) -> Canary | None:
        """Every other proposal has one, where there are any; half of them are left to people, who mostly forget them."""
        if "canary" not in self.world.temper.faults or chance.random() < 0.5:
            return None
        self.world.count("did canary")
        steps, timeout_s = (
            chance.choice(((0.3,), (0.1, 0.6))),
            self.world.lease_s * chance.choice((0.5, 2.0, MOST_STEP)),
        )
        policy = Policy(errors=0.05, requests=LEAST_REQUESTS, seconds=0.0) if chance.random() < 0.5 else None
        return Canary(steps, policy, timeout_s)

    # --- what people do --------------------------------------------------------------------------------------------------

    def _operator(self, chance: Chance) -> None:
        trainer, terms = self._a_trainer(self._a_model(chance)), self._terms(chance)
        if chance.random() < 0.4:
            pin = chance.random() < 0.5
            trainer.start(lambda t: t.rollback(pin=pin, **terms))
        else:
            kind, share = chance.choice(("abort", "pin", "unpin", "unpin")), chance.choice((None, 0.8))
            if self._is_tried(trainer.model) and chance.random() < 0.7:
                trainer.start(lambda t: t.promote(share))
            else:
                trainer.start(lambda t: t.decide(kind))

    def _is_tried(self, model: str) -> bool:
        candidate = self.world.truth.look.models.get(model, {}).get("cand")
        return candidate is not None and candidate["phase"] == "canary"

    def _task(self, chance: Chance) -> None:
        kind, seconds = chance.choice(("clear", "refresh")), self.world.lease_s * chance.choice((0.5, 3))
        everything = kind == "clear" and chance.random() < 0.3
        model = "" if everything else self._a_model(chance)
        self._a_trainer(model).start(lambda t: t.task(kind, seconds=seconds))

    def _murder(self, chance: Chance) -> None:
        working = [trainer for trainer in self.trainers if not trainer.is_done]
        if working:
            chance.choice(working).die()

    # --- what happens to workers -------------------------------------------------------------------------------------------

    def _pause(self, chance: Chance) -> None:
        shell, seconds = self._some(chance), self.world.long_latency(chance)
        if shell is not None and not shell.is_paused:
            self.world.say(lambda: f"{shell.name} is paused")
            shell.pause(seconds)

    def _cut(self, chance: Chance) -> None:
        shell, way, seconds = (
            self._some(chance),
            chance.choice(("to", "from", "to from")),
            self.world.long_latency(chance),
        )
        if shell is not None and not shell.cut:
            self.world.say(lambda: f"{shell.name} is cut off ({way} the server)")
            shell.cut = way
            self.world.at(seconds, shell.mend)

    def _death(self, chance: Chance) -> None:
        shell = self._some(chance)
        if shell is not None:
            self.world.say(lambda: f"{shell.name} dies")
            shell.die()

    def _birth(self, chance: Chance) -> None:
        if len(self.world.alive) < self.world.temper.most_workers:
            self.world.born(is_whole=chance.random() < 0.8)

    def _leave(self, chance: Chance) -> None:
        shell = self._some(chance)
        if shell is not None:
            shell.deliver(lambda: shell.post(shell.agent.leave))

    def _drop(self, chance: Chance) -> None:
        shell, model = self._some(chance), self._a_model(chance)
        if shell is not None:
            shell.deliver(lambda: shell.post(lambda: shell.agent.drop([model])))

    def _deaf(self, chance: Chance) -> None:
        shell = self._some(chance)
        if shell is not None:
            self.world.say(lambda: f"the subscription of {shell.name} is dead")
            shell.is_deaf = True

    # --- what happens to the server ------------------------------------------------------------------------------------------

    def _restart(self, chance: Chance) -> None:
        self.world.restart(chance, losing=False)

    def _rewind(self, chance: Chance) -> None:
        self.world.restart(chance, losing=True)

    def _failover(self, chance: Chance) -> None:
        """A replica, which may lag, becomes the primary; the old one goes on as a replica, and some do not notice for a while."""
        machine = self.world.machine
        self.world.say(lambda: "the server is demoted")
        machine.demote()
        self.world.restart(chance, losing=chance.random() < 0.5, noticing=0.5)
        self.world.at(self.world.long_latency(chance), machine.end_ghost)

    def _flush(self, _chance: Chance) -> None:
        self.world.say(lambda: "the server is flushed")
        self.world.machine.flush()
        self.world.truth.lost()

    def _spoil(self, chance: Chance) -> None:
        name = self.world.machine.spoil(chance)
        self.world.say(lambda: f"the key {name} is spoiled")
        self.world.truth.lost()

    def _log(self, _chance: Chance) -> None:
        """The log decides nothing: with a wrong type it stops nothing (R15)."""
        self.world.say(lambda: "the log has a wrong type")
        self.world.machine.spoil_log()

    def _down(self, chance: Chance) -> None:
        machine, seconds = self.world.machine, self.world.long_latency(chance)
        if machine.is_up:
            self.world.say(lambda: "the server is down")
            machine.is_up = False
            self.world.at(seconds, self._up)

    def _up(self) -> None:
        self.world.machine.is_up = True

    def _clock(self, chance: Chance) -> None:
        self.world.clock_skew_s += chance.choice((-3600.0, -1.0, 1.0, 3600.0))
