"""What this worker holds, and what goes so that the rest fits: the limits, as the agent and people are told of them."""

from __future__ import annotations

from collections.abc import Iterable

from ..coordinator.errors import DoesNotFit
from ..coordinator.manifest import decode
from .agent import Agent
from .asking import Asking
from .chronicle import Chronicle
from .limits import Limits, Use
from .orders import Answered
from .shelf import Shelf
from .slot import Job


class Holdings:
    """Only the runtime's thread touches it. Moments are seconds on the worker's clock."""

    def __init__(self, agent: Agent, limits: Limits, shelf: Shelf, asking: Asking, chronicle: Chronicle) -> None:
        self._agent, self._limits, self._shelf = agent, limits, shelf
        self._asking, self._chronicle = asking, chronicle

    def hold(self, models: tuple[str, ...], now: float) -> None:
        """These shall be held; what was used least recently makes room for them."""
        for model in models:
            if model not in self._agent.slots:
                self._chronicle.faults.misfits.pop(model, None)
                spared = [use for use in self._uses(now) if use.model not in models]
                others = len(self._agent.slots) - len(spared)
                room = self._limits._replace(max_models=max(1, self._limits.max_models - others))
                self.drop(room.too_many(model, spared), "lru_count")
                self._agent.hold([model])

    def drop(self, models: Iterable[str], reason: str) -> None:
        """These are not held any more; those that were not are passed over. `reason`: see stats.DROP_REASONS."""
        held = [model for model in models if model in self._agent.slots]
        for model in held:
            self._chronicle.dropped(model, self._shelf.views.get(model), reason)
        (self._agent.give_way if reason.startswith("lru") else self._agent.drop)(held)

    def drop_expired(self, now: float) -> bool:
        """What was not used for as long as the limits say is not held any more; whether there was such."""
        expired = self._limits.expired(self._uses(now), now)
        self.drop(expired, "ttl")
        return bool(expired)

    def make_room(self, job: Job, now: float) -> bool:
        """Drops what a load needs the room of. False: it never fits, and has failed with the numbers."""
        if job.purpose not in ("active", "candidate"):
            return True  # a refresh lets go of as much, and a fallback is better than nothing
        uses = self._uses(now)
        first = not any(use.model == job.model and use.bytes for use in uses)
        try:
            victims = self._limits.room_for(job.model, decode(job.manifest).size, uses, first=first)
        except DoesNotFit as error:
            self._refuse(job, error, now)
            return False
        self.drop(victims, "lru_bytes")
        return True

    def _refuse(self, job: Job, error: DoesNotFit, now: float) -> None:
        self._chronicle.faults.misfits[job.model] = error
        self._agent.load_failed(job, "failed", {"step": "limits", "why": str(error)}, now)
        if job.purpose == "active":
            for token in self._asking.of(job.model):  # first: what is waited for is not dropped for long
                self._agent.given_up(token)
                self._asking.answer(Answered(token, model=job.model, why=str(error)))
            self.drop([job.model], "lru_bytes")
        self._chronicle.does_not_fit(error, job.key)

    def _uses(self, now: float) -> list[Use]:
        return self._shelf.uses(self._agent.slots, now)
