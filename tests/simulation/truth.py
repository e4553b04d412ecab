"""What is true of a simulated fleet, and the invariants: whatever happens, none of them may ever be broken.

The truth of a model is what the open and undamaged fleet last said is active: while Redis has lost data, or is closed, it stays what it
was, because nothing can be committed. Every `check` and `observe` raises Violation:

I1  a view under a lease that runs by its worker's clock shows the truth (so two such views agree: I2)
I3  answers without a mark never go back, unless committed state was lost
I4  a commit had somebody ready, when there were holders at the proposal
I5  no worker's record goes to a lower generation, or to another content under the same number
I6  an answer without a mark was true at some time since its request began; the answers of one block at the same time
I7  a heal never puts older content over newer
I9  a canary's answers come from a candidate that all who were waited for have loaded, and that the fleet has let in to a share of the
    requests; a candidate that was to be tried so is not committed without it
I8  an open fleet never goes back, unless committed state was lost; a generation commits once; a poisoned version is not tried again
    unless somebody forces it, and never committed
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from genlock.coordinator.calls import Call, Heal, Propose, Say
from genlock.coordinator.reply import READY, Reply
from violation import Violation

if TYPE_CHECKING:
    from machine import Look, Machine
    from shell import Shell

Key = tuple[int, str]


class Truth:
    """See the module."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.active: dict[str, Key] = {}
        self.history: list[dict[str, Key]] = [{}]  # every truth that there was, the last one is now
        self.losses = 0
        self.commits = 0
        self.outcomes: dict[str, tuple[str, int]] = {}  # request → how it ended, after how many losses
        self.look: Look = machine.look()
        self._lost: set[str] = set()
        self._committed: dict[tuple[str, int], int] = {}  # (model, generation) → losses at its commit
        self._order: dict[tuple[str, Key], int] = {}  # content by the time of its commit
        self._holders: dict[tuple[str, int], int] = {}
        self._ready: set[tuple[str, int]] = set()
        self._forced: set[str] = set()
        self._poisoned: set[tuple[str, str]] = set()
        self._floor: dict[str, int] = {}  # the highest generation that was answered
        self._canaries: set[tuple[str, Key]] = set()  # what was let in to a share of the requests
        self._to_try: set[tuple[str, Key]] = set()  # what has to be, before it is committed
        self._has_changed = True
        self.blind = 0  #: how often the log could not be read
        self.requests = 0  #: answers without a mark, each judged

    # --- the fleet -------------------------------------------------------------------------------------------------

    def lost(self) -> None:
        """Something was taken from the keys."""
        self.losses += 1
        self.look = self._machine.look()
        self._lost |= {model for model, key in self.active.items() if self.look.active(model) != key}

    def observe(self, call: Call, reply: Reply) -> None:
        """A call was executed."""
        if isinstance(call, Say) and call.said == READY and reply.verdict == "ok":
            self._ready.add((call.model, call.gen))
        if isinstance(call, Propose) and call.force:
            self._forced.add(call.request)
        if not self._machine.has_changed():
            return
        before, self.look = self.look, self._machine.look()
        self._machine.has_changed()  # the look empties the log
        self._poisoned = {
            (model, poison)
            for look in (before, self.look)
            for model, record in look.models.items()
            for poison in record.get("poison") or {}
        }
        if self.look.log is None:
            self._infer(before)
        for what, model, facts in self.look.log or ():
            if what == "candidate":
                self._begin(model, facts)
            elif what == "canary":
                self._canaries.add((model, (int(facts["generation"]), facts["version"])))
            elif what == "committed":
                self._commit(model, (int(facts["generation"]), facts["version"]))
            if what in ("committed", "rejected", "aborted", "superseded") and facts.get("request"):
                self.outcomes[facts["request"]] = (what, self.losses)
        if isinstance(call, Heal):
            self._check_heal(call.model, before.active(call.model), self.look.active(call.model))
        if self.look.valid and self.look.open:
            self._become({model: key for model in self.look.models if (key := self.look.active(model))})

    def _infer(self, before: Look) -> None:
        """The log could not be written: what was committed is seen in the records, how requests ended is not."""
        self.blind += 1
        for model, record in self.look.models.items():
            if record.get("cand") and record["cand"]["had"]:
                self._holders[model, int(record["cand"]["gen"])] = record["cand"]["had"]
            if record.get("cand") and record["cand"]["phase"] == "canary":
                self._canaries.add((model, (int(record["cand"]["gen"]), record["cand"]["version"])))
            new = self.look.active(model)
            if new is not None and new != before.active(model):
                self._commit(model, new)

    def _begin(self, model: str, facts: Mapping[str, Any]) -> None:
        key = (int(facts["generation"]), facts["version"])
        self._holders[model, key[0]] = facts["holders"]
        record = self.look.models[model]
        if (
            record.get("active")
            and (record.get("cand") or {}).get("canary")
            and record["cand"]["gen"] == facts["generation"]
        ):
            self._to_try.add((model, key))
        if facts["request"] not in self._forced and (model, f"{key[1]}:") in self._poisoned:
            raise Violation(f"I8 {model} {key} is poisoned, and was tried again")

    def _commit(self, model: str, key: Key) -> None:
        self.commits += 1
        if self._committed.get((model, key[0])) == self.losses:
            raise Violation(f"I8 {model} {key} was committed twice")
        self._committed[model, key[0]] = self.losses
        self._order[model, key] = len(self._order) + 1
        if self._holders.get((model, key[0])) and (model, key[0]) not in self._ready:
            raise Violation(f"I4 {model} {key} was committed with nobody ready")
        if (model, key) in self._to_try - self._canaries:
            raise Violation(f"I9 {model} {key} was to be tried by a canary, and was committed without")
        if f"{key[1]}:" in (self.look.models[model].get("poison") or {}):
            raise Violation(f"I8 {model} {key} is poisoned, and was committed")

    def _check_heal(self, model: str, before: Key | None, after: Key | None) -> None:
        if before is None or after is None or before == after:
            return
        if before[1] == after[1] and after[0] > before[0]:
            self._order.setdefault((model, after), self._order.get((model, before), 0))
        if self._order.get((model, after), 0) < self._order.get((model, before), 0):
            raise Violation(f"I7 a heal of {model} puts {after} over {before}, which was committed later")

    def _become(self, active: dict[str, Key]) -> None:
        for model in sorted(self.active.keys() | active.keys()):
            old, new = self.active.get(model), active.get(model)
            if old is not None and new != old and (new is None or new[0] <= old[0]):
                if model not in self._lost:
                    raise Violation(f"I8 the open fleet goes from {model} {old} back to {new}")
                self._floor.pop(model, None)
            else:
                self._lost.discard(model)
        if active != self.active:
            self._has_changed = True
            self.active = active
            self.history.append(active)

    def take_change(self) -> bool:
        """Whether the truth has changed since this was asked."""
        was, self._has_changed = self._has_changed, False
        return was

    # --- workers ---------------------------------------------------------------------------------------------------

    def check(self, shell: Shell) -> None:
        """I1 and I5, now."""
        now = shell.clock()
        for model, shown in shell.views.items():
            if shown.lease is not None and now < shown.lease.deadline and shown.key != self.active.get(model):
                raise Violation(f"I1 {shell.name} answers {model} {shown.key}, active is {self.active.get(model)}")
        for model, told in shell.agent.healing.told.items():
            key, before = told.key, shell.told.get(model)
            if before is not None and key != before and key[0] <= before[0]:
                raise Violation(f"I5 {shell.name} goes from {model} {before} back to {key}")
            shell.told[model] = key

    def tried(self, name: str, model: str, key: Key) -> None:
        """I9: the answer of a canary."""
        if (model, key) not in self._canaries:
            raise Violation(f"I9 {name} answers {model} {key} as a canary, which it never was")

    def now(self) -> tuple[int, dict[str, int]]:
        """What a request that begins now is judged by."""
        return len(self.history) - 1, dict(self._floor)

    def answered(self, name: str, keys: Mapping[str, Key], then: tuple[int, dict[str, int]]) -> None:
        """I6 and I3: an answer without a mark to a request that began `then`."""
        since, floor = then
        self.requests += 1
        if not any(all(true.get(model) == key for model, key in keys.items()) for true in self.history[since:]):
            raise Violation(f"I6 {name} answers {dict(keys)}; since its request began there was {self.history[since:]}")
        for model, (gen, _) in keys.items():
            if gen < min(floor.get(model, 0), self._floor.get(model, 0)):
                raise Violation(f"I3 {name} answers {model} {gen} after {floor[model]}")
            self._floor[model] = max(gen, self._floor.get(model, 0))
