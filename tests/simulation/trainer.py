"""Simulated trainers and operators: each does one thing from its beginning to its end, as publish.py does, with the real waiter.

What is done is a generator: it yields a Call (and gets the reply, or None when there was none) or a number of seconds to wait.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from genlock.coordinator.calls import (
    NO_EPOCH,
    Abort,
    Call,
    Epoch,
    Lock,
    Pin,
    Propose,
    Read,
    Reply,
    Rollback,
    StartTask,
    State,
    Unpin,
)
from genlock.coordinator.manifest import Artifact, Manifest
from genlock.coordinator.wait import AGAIN, Wait
from network import Connection
from violation import Violation

if TYPE_CHECKING:
    from world import World

Doing = Generator[tuple[Call, Epoch] | float, Reply | None, Any]
#: Streams of chance that are for trainers; see world.
OF_TRAINERS = 3
#: Seconds that a trainer waits for a reply, and between two tries.
TIMEOUT_S, RETRY_S = 0.5, 0.1


class Trainer:
    """One process."""

    def __init__(self, world: World, number: int, model: str) -> None:
        self.world, self.name, self.model = world, f"t{number}", model
        self.chance = world.stream(OF_TRAINERS, number)
        self.cut = ""  #: see network.Process
        self._base = self.chance.uniform(0, 1e6)
        self.rate = world.a_rate(self.chance)
        self.epoch = NO_EPOCH
        self.request = f"{self.name}-request"
        self.is_done = False
        self.outcome = ""
        self._connection = Connection()
        self._losses = world.truth.losses, world.truth.blind
        self._doing: Doing | None = None

    def clock(self) -> float:
        return self._base + self.world.now * self.rate

    # --- being scheduled -----------------------------------------------------------------------------------------------

    def start(self, doing: Callable[[Trainer], Doing]) -> Trainer:
        self._doing = doing(self)
        self.world.at(0.0, lambda: self._go_on(None))
        return self

    def die(self) -> None:
        self._doing, self.is_done = None, True

    def _go_on(self, reply: Reply | None) -> None:
        if self._doing is None:
            return
        try:
            wanted = self._doing.send(reply)
        except StopIteration:
            self.is_done = True
            return
        if isinstance(wanted, float):
            self.world.at(wanted / self.rate, lambda: self._go_on(None))
        else:
            self._send(*wanted)

    def _send(self, call: Call, epoch: Epoch) -> None:
        self.world.network.send(
            self,
            call,
            epoch,
            self._connection,
            timeout_s=TIMEOUT_S / self.rate,
            replied=self._go_on,
            failed=self._lose,
            late=lambda reply: None,
        )

    def _lose(self) -> None:
        self._connection = Connection()
        self._go_on(None)

    # --- calls ---------------------------------------------------------------------------------------------------------

    def ask(self, call: Call) -> Doing:
        """As Registry.ask: adopts the fleet's epoch and sends again."""
        for _ in range(4):
            reply = yield call, self.epoch
            if reply is None or reply.verdict != "epoch":
                return reply
            self.epoch = reply.epoch_id if reply.epoch >= self.epoch.number else self.epoch
        return None

    def state(self) -> Doing:
        """The model's state, or None when it cannot be read now."""
        reply = yield from self.ask(Read(self.model))
        return reply.states.get(self.model) if reply is not None and reply.verdict == "ok" else None

    # --- a change, until it is decided -----------------------------------------------------------------------------------

    def follow(self, change: Call, *, prepare_s: float, token: str = "") -> Doing:
        wait = Wait(
            change,
            self.model,
            self.request,
            prepare_s=prepare_s,
            now=self.clock(),
            lease_s=self.world.lease_s,
            watcher=self.name,
            jitter=self.chance.random(),
        )
        locked = bool(token)
        while True:
            call = wait.next_call()
            if isinstance(call, Propose) and not locked:
                taken = yield from self.ask(self._lock("take", token))
                locked = taken is not None and taken.verdict == "ok"
            reply = yield from self.ask(call)
            if reply is None:
                wait.loses("lost")
            else:
                wait.hears(call, reply, self.clock())
                if isinstance(call, Propose) and reply.verdict not in AGAIN and locked:
                    yield from self.ask(self._lock("free", token))
                    locked = False
                for duty in wait.duties(self.clock()):
                    yield duty, wait.epoch
            if wait.is_decided:
                return self._end(wait)
            if self.clock() > wait.until:
                return self._say("unknown")
            yield float(wait.pause_s(self.clock()))

    def _end(self, wait: Wait) -> None:
        if wait.refusal is not None:
            return self._say(wait.refusal.verdict)
        assert wait.answer is not None
        self._say(wait.answer.state)
        self._check(wait.answer.state)
        return None

    def _say(self, outcome: str) -> None:
        self.outcome = outcome
        self.world.count(f"a {type(self).__name__.lower()} hears: {outcome}")
        self.world.say(lambda: f"{self.name} {self.model}: {outcome}")

    def _check(self, said: str) -> None:
        """What a trainer is told has happened, unless data was lost meanwhile, or could not be logged."""
        truth = self.world.truth
        known = truth.outcomes.get(self.request)
        if self._losses == (truth.losses, truth.blind) and (known is None or known[0] != said):
            raise Violation(f"{self.name} is told that {self.model} {self.request} was {said}, it was {known}")

    def _lock(self, action: str, token: str) -> Lock:
        return Lock(self.model, action, token, "{}", round(2000 * self.world.lease_s))

    # --- what they do ------------------------------------------------------------------------------------------------------

    def publish(
        self, content: int, *, agreement: float, prepare_s: float, now: bool = False, force: bool = False
    ) -> Doing:
        token, until = f"{self.name}-token", self.clock() + prepare_s
        while True:
            reply = yield from self.ask(self._lock("take", token))
            if reply is not None and reply.verdict == "ok":
                break
            if self.clock() > until:
                return self._say("locked out")
            yield self.world.lease_s / 2
        yield self.world.lease_s * self.chance.random()
        made = Manifest.of(self.model, [Artifact("model", 1, f"{content:064x}")], created_at=self.world.now)
        names = (self.request, token, made.version, made.poison, made.encode())
        facts = (*names, agreement, round(prepare_s * 1000), self.name)
        change = Propose(self.model, *facts, now, force)
        return (yield from self.follow(change, prepare_s=prepare_s, token=token))

    def rollback(self, *, pin: bool, agreement: float, prepare_s: float) -> Doing:
        state: State | None = yield from self.state()
        if state is None or state.active is None:
            return self._say("nothing to do")
        facts = (self.request, state.active.gen, self.name, "", 0, pin, agreement, round(prepare_s * 1000))
        return (yield from self.follow(Rollback(self.model, *facts), prepare_s=prepare_s))

    def decide(self, kind: type[Abort | Pin | Unpin]) -> Doing:
        state: State | None = yield from self.state()
        place = state and (state.cand if kind is Abort else state.active)
        if not place:
            return self._say("nothing to do")
        for _ in range(5):
            reply = yield from self.ask(kind(self.model, self.request, place.gen, self.name))
            if reply is not None and reply.verdict != "closed":
                return self._say(reply.verdict)
            yield RETRY_S
        return self._say("unknown")

    def task(self, kind: str, *, seconds: float) -> Doing:
        yield from self.ask(StartTask(self.request, kind, self.model, round(seconds * 1000), self.name))
