"""Simulated trainers and operators: each is a process that does one thing from its beginning to its end, with the real Fleet and all
that is below it but the connection: lock and the thread that extends it, proposal, waiting, duties, what becomes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from genlock.coordinator.calls import Call
from genlock.coordinator.canary import Canary
from genlock.coordinator.errors import (
    FleetClosed,
    FlipAborted,
    FlipRejected,
    FlipSuperseded,
    GenlockError,
    OutcomeUnknown,
    RedisUnreachable,
)
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.identity import Identity
from genlock.coordinator.link import Link
from genlock.coordinator.records import Hint
from genlock.coordinator.registry import Registry
from genlock.coordinator.reply import NO_EPOCH, Epoch, Reply
from genlock.coordinator.settings import Settings
from machine import FLEET, FLEET_ID
from threads import Thread, here
from violation import Violation

if TYPE_CHECKING:
    from world import World

#: Streams of chance that are for trainers; see world.
OF_TRAINERS = 3
#: What a trainer hears, as the log of the fleet says it.
_OUTCOMES = {FlipRejected: "rejected", FlipAborted: "aborted", FlipSuperseded: "superseded"}
#: What leaves open what has happened, if anything.
_UNKNOWN = (OutcomeUnknown, FleetClosed, RedisUnreachable)


class Line(Registry):
    """A registry whose connection is simulated."""

    def __init__(self, process: Trainer) -> None:
        self.epoch: Epoch = NO_EPOCH
        self.fleet = FLEET
        self._process = process
        self._caller = process.world.caller

    def send(self, call: Call, epoch: Epoch | None = None) -> Reply:
        reply = here().exchange(call, self.epoch if epoch is None else epoch)
        if reply is None:
            raise RedisUnreachable("simulated", "no reply")
        return reply

    def subscribe(self) -> Any:
        """Hints that come, or do not."""
        process = self._process

        def wait(seconds: float) -> Hint | None:
            is_early = process.chance.random() < 0.3
            here().sleep(seconds * process.chance.random() if is_early else seconds)
            return Hint(0, 0, process.model) if is_early else None

        return SimpleNamespace(wait=wait, close=lambda: None)

    def generations(self, model: str, numbers: list[int]) -> dict[int, Any]:
        return {}

    def snapshot(self) -> Any:
        return SimpleNamespace(models={}, members=())

    def task_answers(self, task: str) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass


class Front(Fleet):
    """A fleet without server, store and environment."""

    def __init__(self, process: Trainer) -> None:
        self.settings, self.name, self.store = Settings(), FLEET, None  # type: ignore[assignment]
        self._process = process
        endpoint: Any = SimpleNamespace(embedded=None, ensure=lambda: False, where="simulated")
        self._made_link = Link(endpoint, self.new_registry, fleet=FLEET, who=process.name)

    @property
    def identity(self) -> Identity:
        return Identity(FLEET_ID, self._process.world.lease_s, had_member=True)

    def new_registry(self, *, timeout_s: float | None = None) -> Registry:
        return Line(self._process)


class Trainer:
    """One process."""

    def __init__(self, world: World, number: int, model: str) -> None:
        self.world, self.name, self.model = world, f"t{number}", model
        self.chance = world.stream(OF_TRAINERS, number)
        self.cut = ""  #: see network.Process
        self._base = self.chance.uniform(0, 1e6)
        self.rate = world.a_rate(self.chance)
        self.request = f"{self.name}-request"
        self.is_done = self.is_dead = False
        self.outcome = ""
        self.threads: list[Thread] = []
        self.fleet = Front(self)
        self._tokens = 0
        self._losses = world.truth.losses, world.truth.blind

    def clock(self) -> float:
        return self._base + self.world.now * self.rate

    def token(self) -> str:
        """A secret that nobody else draws."""
        self._tokens += 1
        return f"{self.name}-token-{self._tokens}"

    # --- being scheduled -----------------------------------------------------------------------------------------------

    def start(self, doing: Callable[[Trainer], None]) -> Trainer:
        def run() -> None:
            doing(self)
            self.is_done = True

        self.threads.append(Thread(self, run))
        self.threads[0].begin()
        return self

    def die(self) -> None:
        """Killed: whatever its threads were doing is not ended, and not undone."""
        self.is_done = self.is_dead = True
        for thread in self.threads:
            if not thread.dead:
                thread.throw()

    # --- what they do ------------------------------------------------------------------------------------------------------

    def publish(
        self,
        content: int,
        *,
        agreement: float,
        prepare_s: float,
        now: bool = False,
        force: bool = False,
        canary: Canary | None = None,
    ) -> None:
        def publish() -> str:
            terms = {"agreement": agreement, "timeout": prepare_s, "now": now, "force": force, "request": self.request}
            if canary is not None:
                terms |= {"canary": canary.steps, "policy": canary.policy, "canary_timeout": canary.timeout_s}
            with self.fleet.publishing(self.model, author=self.name, **terms) as draft:  # type: ignore[arg-type]
                draft.content = content  # type: ignore[attr-defined]
            assert draft.flip is not None
            return draft.flip.outcome

        self._hear(publish)

    def rollback(self, *, pin: bool, agreement: float, prepare_s: float) -> None:
        self.fleet.settings = self.fleet.settings.with_arguments(agreement=agreement)
        terms: dict[str, Any] = {"timeout": prepare_s, "request": self.request}
        self._hear(lambda: self.fleet.rollback(self.model, pin=pin, **terms).outcome)

    def promote(self, share: float | None) -> None:
        """A canary to a greater share, or to all. What is followed is the candidate's own request, not that of the promotion."""
        self.request, promotion = "", self.request
        terms: dict[str, Any] = {"request": promotion, "timeout": self.world.lease_s}
        self._hear(lambda: f"promote: {self.fleet.promote(self.model, share, **terms).outcome}")

    def decide(self, kind: str) -> None:
        """abort, pin or unpin."""
        decide = getattr(self.fleet, kind)
        self._hear(lambda: f"{kind}: {'ok' if decide(self.model, request=self.request) else '?'}")

    def task(self, kind: str, *, seconds: float) -> None:
        """clear (without a model: of all) or refresh."""
        start = getattr(self.fleet, kind)
        self._hear(lambda: f"{kind}: {start(self.model or None, timeout=seconds, request=self.request).kind}")

    # --- what they hear ------------------------------------------------------------------------------------------------------

    def _hear(self, change: Callable[[], str]) -> None:
        try:
            self.outcome = change()
        except tuple(_OUTCOMES) as error:
            self.outcome = _OUTCOMES[type(error)]
        except _UNKNOWN:
            self.outcome = "unknown"
        except GenlockError as error:
            self.outcome = type(error).__name__
        self.world.count(f"a trainer hears: {self.outcome}")
        self.world.say(lambda: f"{self.name} {self.model}: {self.outcome}")
        if self.request and self.outcome in ("committed", *_OUTCOMES.values()):
            self._check(self.outcome)

    def _check(self, said: str) -> None:
        """What a trainer is told has happened, unless data was lost meanwhile, or could not be logged."""
        truth = self.world.truth
        known = truth.outcomes.get(self.request)
        if self._losses == (truth.losses, truth.blind) and (known is None or known[0] != said):
            raise Violation(f"{self.name} is told that {self.model} {self.request} was {said}, it was {known}")
