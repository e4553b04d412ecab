"""One simulated fleet, driven by a seed: virtual time, what may go wrong, and whether the fleet comes out of it.

First chaos: for some leases of virtual time everything that this seed allows happens (`Temper`). Then calm: nothing goes wrong any more,
and within a bounded time every worker must show the active generation under its lease, nothing may be stuck, and a last proposal
must be decided (R8, R11). The same seed does the same again, to the last reply.
"""

from __future__ import annotations

import gc
import heapq
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from genlock.coordinator.calls import Abort, Pin, Unpin
from genlock.coordinator.scripts import Caller
from machine import FLEET, FLEET_ID, Machine
from network import Network
from shell import Shell
from trainer import Doing, Trainer
from truth import Truth
from violation import Violation

if TYPE_CHECKING:
    from truth import Key

#: All that a seed may allow; each seed takes some of it, so that no fault is always hidden behind another.
FAULTS = (
    *("loss", "doubled", "late", "deaf", "pause", "death", "birth", "leave", "drop", "slow", "bad", "failed"),
    *("restart", "rewind", "flush", "spoil", "down", "clock", "operator", "task", "share", "murder", "relapse"),
)
#: Leases of chaos; leases in which the fleet must come out of it, besides the time that candidates may take.
CHAOS, PATIENCE = 9.0, 12.0
#: The longest wait between two tries of a load (slot.RETRY_TO_S), and a load.
LOADING_S = 8.0


@dataclass(frozen=True)
class Temper:
    """What kind of world a seed makes."""

    faults: frozenset[str]
    lease_s: float
    latency_s: float  #: the median of one way
    workers: int
    models: tuple[str, ...]
    stale_allowed: bool
    force: float  #: how often its faults strike, against the usual
    drift: float  #: how far the rate of a clock may be from 1; 0.1 is what the margins are made for

    @classmethod
    def of(cls, rng: random.Random) -> Temper:
        share = rng.choice((0.15, 0.3, 0.6))
        faults = frozenset(fault for fault in FAULTS if rng.random() < share)
        lease_s = rng.choice((0.5, 0.5, 0.5, 1.0, 1.0, 3.0))
        return cls(
            faults,
            lease_s,
            lease_s * rng.choice((0.001, 0.01, 0.05)),
            rng.randint(3, 6),
            ("a", "b") if rng.random() < 0.6 else ("a",),
            rng.random() < 0.8,
            rng.choice((1.0, 3.0)) if len(faults) < 8 else 1.0,
            rng.choice((0.0, 0.1)),
        )


class World:
    """See the module."""

    def __init__(
        self, seed: int, machine: Machine, *, faults: frozenset[str] | None = None, trace: list[str] | None = None
    ) -> None:
        """`faults`: those of this world, whatever its seed would choose."""
        self.seed, self.machine, self._trace = seed, machine, trace
        self.rng = random.Random(seed)
        self.temper = Temper.of(self.rng)
        if faults is not None:
            self.temper = replace(self.temper, faults=faults, force=3.0)
        self.lease_s = self.temper.lease_s
        self.max_wait_s = 4 * self.lease_s
        self.now = 0.0
        self.is_calm = self.is_at_rest = False
        self.counts: Counter[str] = Counter()
        machine.begin(seed)
        self._clock_skew_s = 0.0
        self.truth = Truth(machine)
        self.network = Network(self)
        self.shells: list[Shell] = []
        self.trainers: list[Trainer] = []
        self.last_good: dict[str, Key] = {}
        self._contents = 0
        self._commits_seen = 0
        self._bad: dict[tuple[str, str], bool] = {}  # (version, worker or "") → it is bad (there)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0

    def say(self, line: Callable[[], str]) -> None:
        """For whoever looks at one seed."""
        if self._trace is not None:
            self._trace.append(f"{self.now:9.4f} {line()}")

    def count(self, what: str) -> None:
        self.counts[what] += 1

    # --- time ------------------------------------------------------------------------------------------------------------

    def at(self, delay_s: float, action: Callable[[], None]) -> None:
        """Does it that many seconds later."""
        self._serial += 1
        heapq.heappush(self._events, (self.now + delay_s, self._serial, action))

    def _step(self) -> None:
        at, _, action = heapq.heappop(self._events)
        self.now = max(self.now, at)
        self.machine.now_s = 1.7e9 + self.now + self._clock_skew_s
        action()

    def run(self) -> None:
        """Chaos, then calm; raises Violation."""
        for _ in range(self.temper.workers):
            self._born()
        self._chaos()
        while self.now < CHAOS * self.lease_s:
            self._step()
        self._calm_down()
        self._come_to_rest()
        self.is_at_rest = True
        for model in self.temper.models:
            self._publish_last(model)
        self._come_to_rest()

    # --- chance ----------------------------------------------------------------------------------------------------------

    def happens(self, fault: str) -> bool:
        """Whether this kind of fault strikes now."""
        chances = {"loss": 0.05, "doubled": 0.08, "late": 0.5}
        return not self.is_calm and fault in self.temper.faults and self.rng.random() < chances[fault]

    def latency(self) -> float:
        """Seconds of one way."""
        if self.is_calm:
            return 0.002 * self.lease_s
        if "slow" in self.temper.faults and self.rng.random() < 0.04:
            return self.long_latency()
        return self.temper.latency_s * self.rng.expovariate(1.0)

    def long_latency(self) -> float:
        """From no time to a few leases, every order of magnitude as likely as the next."""
        return self.lease_s * math.exp(self.rng.uniform(math.log(0.002), math.log(4)))

    def hiccup(self) -> float:
        """Seconds between two steps of one process."""
        return 0.0 if self.rng.random() < 0.6 else self.latency()

    def load_time(self) -> float:
        scale = 0.02 if self.is_calm else self.rng.choice((0.01, 0.1, 0.5))
        return self.lease_s * scale * self.rng.expovariate(1.0)

    def a_rate(self) -> float:
        return self.rng.choice((1 - self.temper.drift, 1.0, 1 + self.temper.drift))

    # --- what processes need -----------------------------------------------------------------------------------------------

    def caller(self, process: Shell | Trainer) -> Caller:
        return Caller(FLEET, FLEET_ID, round(self.lease_s * 1000), False)

    def executed(self) -> None:
        """A script was run: its hints go out, and what everybody shows must still be true."""
        hints, self.machine.hints = self.machine.hints, []
        for _, text in hints:
            epoch, revision, model = text.split(" ")
            for shell in self.shells:
                if shell.subscribed_to == self.machine.run_id and not shell.is_deaf and not self.happens("loss"):
                    self.at(self.latency(), lambda s=shell, e=epoch, r=revision, m=model: s.hint(int(e), int(r), m))
        for shell in self.shells:
            self.truth.check(shell)
        if self.truth.commits > self._commits_seen:
            self._commits_seen = self.truth.commits
            chance = 0.15 * self.temper.force
            if "relapse" in self.temper.faults and not self.is_calm and self.rng.random() < chance:
                self.at(self.latency(), self._relapse)

    def judge_load(self, shell: Shell, model: str, key: Key) -> str:
        """What a load comes to: nothing, `bad` or `failed`."""
        if self.is_bad(key[1], shell.name):
            return "bad"
        fails = not self.is_calm and "failed" in self.temper.faults and self.rng.random() < 0.15
        return "failed" if fails else ""

    def is_bad(self, version: str, worker: str) -> bool:
        if "bad" not in self.temper.faults:
            return False
        for where, chance in (("", 0.15), (worker, 0.05)):
            if (version, where) not in self._bad:
                self._bad[version, where] = not self.is_calm and self.rng.random() < chance
        return self._bad[version, ""] or self._bad[version, worker]

    def keep_last_good(self, shell: Shell) -> None:
        for model, shown in shell.views.items():
            if shown.mode == "lease":
                self.last_good[model] = shown.key

    # --- chaos -------------------------------------------------------------------------------------------------------------

    def _born(self) -> Shell:
        shell = Shell(self, f"w{len(self.shells) + 1}", rate=self.a_rate(), stale_allowed=self.temper.stale_allowed)
        self.shells.append(shell)
        models = self.temper.models if self.rng.random() < 0.8 else self.temper.models[:1]
        shell.post(lambda: shell.agent.hold(models))
        return shell

    def _chaos(self) -> None:
        if self.is_calm:
            return
        self.at(self.lease_s * 0.06 * self.rng.expovariate(1.0), self._chaos)
        usual: list[tuple[Callable[[], None], float]] = [(self._request, 10), (self._publish, 1.2)]
        unusual = {
            "pause": (self._pause, 1.0),
            "death": (self._death, 0.15),
            "birth": (self._birth, 0.4),
            "leave": (self._leave, 0.2),
            "drop": (self._drop, 0.8),
            "deaf": (self._deafen, 0.3),
            "restart": (lambda: self._restart(losing=False), 0.15),
            "rewind": (lambda: self._restart(losing=True), 0.15),
            "flush": (self._flush, 0.06),
            "spoil": (self._spoil, 0.1),
            "down": (self._down, 0.15),
            "clock": (self._set_clock, 0.2),
            "operator": (self._operate, 0.7),
            "task": (self._task, 0.3),
            "murder": (self._murder, 0.2),
        }
        force = self.temper.force
        found = [(do, weight * force) for fault, (do, weight) in unusual.items() if fault in self.temper.faults]
        self.rng.choices([do for do, _ in usual + found], [weight for _, weight in usual + found])[0]()

    def _alive(self) -> list[Shell]:
        return [shell for shell in self.shells if shell.is_alive]

    def _some(self) -> Shell | None:
        alive = self._alive()
        return self.rng.choice(alive) if alive else None

    def _a_model(self) -> str:
        return self.rng.choice(self.temper.models)

    def _request(self) -> None:
        shell = self._some()
        if shell is not None:
            models = self.temper.models if self.rng.random() < 0.3 else (self._a_model(),)
            shell.deliver(lambda: shell.request(models))

    def _a_content(self) -> int:
        """Mostly a new one; sometimes the bytes of an earlier one."""
        if self._contents and self.rng.random() < 0.25:
            return self.rng.randint(max(1, self._contents - 3), self._contents)
        self._contents += 1
        return self._contents

    def _a_trainer(self, model: str) -> Trainer:
        trainer = Trainer(self, f"t{len(self.trainers) + 1}", model)
        self.trainers.append(trainer)
        return trainer

    def _prepare_s(self) -> float:
        return self.lease_s * self.rng.choice((1.0, 3.0, 8.0))

    def _agreement(self) -> float:
        return self.rng.choice((0.4, 0.7, 1.0)) if "share" in self.temper.faults else 1.0

    def _publish(self) -> None:
        if sum(not trainer.is_done for trainer in self.trainers) >= 4:
            return
        terms = {"agreement": self._agreement(), "prepare_s": self._prepare_s()}
        now, force, content = self.rng.random() < 0.15, self.rng.random() < 0.15, self._a_content()
        self._a_trainer(self._a_model()).start(lambda t: t.publish(content, now=now, force=force, **terms))

    def _operate(self) -> None:
        trainer = self._a_trainer(self._a_model())
        roll = self.rng.random()
        terms = {"agreement": self._agreement(), "prepare_s": self._prepare_s()}
        if roll < 0.4:
            trainer.start(lambda t: t.rollback(pin=self.rng.random() < 0.5, **terms))
        else:
            kind = self.rng.choice((Abort, Pin, Unpin, Unpin))
            trainer.start(lambda t: t.decide(kind))

    def _task(self) -> None:
        kind, seconds = self.rng.choice(("clear", "refresh")), self.lease_s * self.rng.choice((0.5, 3))
        trainer = self._a_trainer(self.rng.choice((*self.temper.models, "")) if kind == "clear" else self._a_model())
        trainer.start(lambda t: t.task(kind, seconds=seconds))

    def _murder(self) -> None:
        working = [trainer for trainer in self.trainers if not trainer.is_done]
        if working:
            self.rng.choice(working).die()

    def _pause(self) -> None:
        shell = self._some()
        if shell is not None and not shell.is_paused:
            self.say(lambda: f"{shell.name} is paused")
            shell.pause(self.long_latency())

    def _death(self) -> None:
        shell = self._some()
        if shell is not None:
            self.say(lambda: f"{shell.name} dies")
            shell.die()

    def _birth(self) -> None:
        if len(self._alive()) < 6:
            self._born()

    def _leave(self) -> None:
        shell = self._some()
        if shell is not None:
            shell.deliver(lambda: shell.post(shell.agent.leave))

    def _drop(self) -> None:
        shell, model = self._some(), self._a_model()
        if shell is not None:
            shell.deliver(lambda: shell.post(lambda: shell.agent.drop([model])))

    def _deafen(self) -> None:
        shell = self._some()
        if shell is not None:
            shell.is_deaf = True

    def _restart(self, *, losing: bool) -> None:
        self.say(lambda: f"the server restarts{', losing what was written last' if losing else ''}")
        self.machine.restart(losing=losing)
        if losing:
            self.truth.lost()
        for shell in self.shells:
            if shell.subscribed_to is not None and not shell.is_deaf:
                shell.later(self.latency(), shell.resubscribe)

    def _relapse(self) -> None:
        """The server forgets what was committed just now; of the workers that have heard of it, most or all are not there to tell."""
        self._restart(losing=True)
        share, pause_s = self.rng.choice((0.7, 1.0)), self.lease_s * self.rng.choice((0.5, 2.0, 4.0))
        for shell in self._alive():
            knows = any(self.truth.active.get(model) == key for model, key in shell.told.items())
            if knows and self.rng.random() < share:
                self.say(lambda s=shell: f"{s.name} is paused")
                shell.pause(pause_s * self.rng.uniform(0.5, 1.5))

    def _flush(self) -> None:
        self.say(lambda: "the server is flushed")
        self.machine.flush()
        self.truth.lost()

    def _spoil(self) -> None:
        name = self.machine.spoil()
        self.say(lambda: f"the key {name} is spoiled")
        self.truth.lost()

    def _down(self) -> None:
        if self.machine.is_up:
            self.machine.is_up = False
            self.at(self.long_latency(), self._up)

    def _up(self) -> None:
        self.machine.is_up = True

    def _set_clock(self) -> None:
        self._clock_skew_s += self.rng.choice((-3600.0, -1.0, 1.0, 3600.0))

    # --- calm --------------------------------------------------------------------------------------------------------------

    def _calm_down(self) -> None:
        self.say(lambda: "calm")
        self.is_calm = True
        self.machine.is_up = True
        for shell in self._alive():
            shell.wake()
        if not self._alive():
            self._born()
        self._ask_on()

    def _ask_on(self) -> None:
        self._request()
        self.at(self.lease_s / 10, self._ask_on)

    def _come_to_rest(self) -> None:
        """Until nothing is missing any more; candidates, one behind the other, may take all their time."""
        began, calls = self.now, {shell.name: shell.calls for shell in self.shells}
        until = began + (PATIENCE + 2 * (8 + 3)) * self.lease_s + 2 * LOADING_S
        while missing := self._missing():
            if self.now > until:
                raise Violation(f"after {until - began:g} s of calm: {missing}")
            look_at = self.now + self.lease_s / 20
            while self.now < look_at:
                self._step()
        for shell in self._alive():
            rate = (shell.calls - calls.get(shell.name, 0)) * self.lease_s / max(self.now - began, self.lease_s)
            self.counts["most calls in a lease"] = max(self.counts["most calls in a lease"], math.ceil(rate))
        self.counts["most leases to come to rest"] = max(
            self.counts["most leases to come to rest"], math.ceil((self.now - began) / self.lease_s)
        )

    def _missing(self) -> str:
        """What keeps the fleet from being as it should; nothing, in the end."""
        look = self.truth.look
        if not (look.valid and look.open):
            return f"the fleet is {'closed' if look.valid else 'damaged'}"
        if waiting := [trainer.name for trainer in self.trainers if not trainer.is_done]:
            return f"{waiting} wait"
        for model, record in look.models.items():
            if record.get("cand") or record.get("waits"):
                return f"{model} is still {record.get('cand')}, next {record.get('waits')}"
        for shell in self._alive():
            if why := self._missing_at(shell):
                return f"{shell.name} {why}"
        return ""

    def _missing_at(self, shell: Shell) -> str:
        if shell.is_paused or (shell.agent.leaving and not shell.agent.left):
            return "is busy"
        for model in shell.agent.slots:
            key, shown = self.truth.active.get(model), shell.views.get(model)
            if not self.can_show(shell, model):
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

        def doing(trainer: Trainer) -> Doing:
            request = trainer.request
            yield from trainer.decide(Unpin)
            for attempt in range(3):
                trainer.request = f"{request}-{attempt}"
                yield from trainer.publish(content, agreement=1.0, prepare_s=8 * self.lease_s)
                if trainer.outcome == "committed":
                    return
            raise Violation(f"the last proposal for {model} was {trainer.outcome}")

        self._contents += 1
        content = self._contents
        self._a_trainer(model).start(doing)


def simulate(
    seed: int, machine: Machine, *, faults: frozenset[str] | None = None, trace: list[str] | None = None
) -> World:
    """Runs one seed to its end; raises Violation with the seed in it."""
    world = World(seed, machine, faults=faults, trace=trace)
    gc.disable()  # what it looks through lives as long as the world, which is not long
    try:
        world.run()
    except Violation as violation:
        raise Violation(f"seed {seed}, at {world.now:.4f} s: {violation}") from violation
    finally:
        gc.enable()
    return world
