"""The canaries that are on in one worker: what requests with a key are counted for, and what is reported and decided of it. Pure; the
agent owns it."""

from __future__ import annotations

from collections.abc import Container

from ..coordinator.calls import Call, Report
from ..coordinator.reply import Reply
from .orders import Shown
from .slot import Slot
from .trial import Trial
from .verdicts import decided


class Trials:
    """By model: canaries, and what is watched after one."""

    def __init__(self, worker: str) -> None:
        """`worker`: its name for people, "host:pid"."""
        self._worker = worker
        self.on: dict[str, Trial] = {}  #: those that are on
        self._judged: dict[str, tuple[Trial, Call]] = {}  # what its policy has decided, to be said
        self._reported_at: dict[str, float] = {}

    def new_epoch(self) -> None:
        """What was counted is lost with the rest."""
        self.on, self._judged = {}, {}

    def shown(self, slot: Slot, plain: Shown, member: str | None) -> Shown:
        """The same with the trial that is on, if one is: only what answers under a lease takes part in one."""
        trial = slot.trial(member, self.on.get(slot.model)) if member is not None else None
        if trial is None:
            self.on.pop(slot.model, None)
            return plain
        self.on[slot.model] = trial
        target = None if trial.is_watch else slot.target
        if plain.lease is None or not (trial.is_watch or target in slot.handles):
            return plain
        other = (target, slot.handles[target]) if target is not None else None
        return plain._replace(trial=trial, other=other)

    def due(self, member: str, held: Container[str], now: float, lease_s: float) -> Call | None:
        """What a policy has decided here; else, once in a lease, what was counted of a canary, or of what is watched after one."""
        for model in list(self._judged):
            trial, decision = self._judged.pop(model)
            if self.on.get(model) is trial:  # else people, or another worker, were faster
                return decision
        for model, trial in self.on.items():
            if model in held and now >= self._reported_at.get(model, 0.0) + lease_s:
                self._reported_at[model] = now
                return Report(member, model, trial.generation, trial.step, trial.counted())
        return None

    def heard(self, call: Report, reply: Reply, slot: Slot | None) -> None:
        """What all have counted. Whoever hears enough says what follows from the policy, all under the same request id (R10)."""
        trial = self.on.get(call.model)
        if slot is None or slot.state is None or trial is None or reply.figures is None:
            return
        if (trial.generation, trial.step) != (call.gen, call.step):
            return
        decision = decided(slot.state, trial, reply.figures, reply.age / 1000, by=self._worker)
        if decision is not None:
            self._judged[call.model] = trial, decision
