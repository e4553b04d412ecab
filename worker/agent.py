"""One worker's side of the protocol: events in; calls, jobs and views out. Pure: no I/O, no thread, no clock of its own.

Theory of operation
-------------------

The agent is a state and rules that derive what is to be done from it, so that nothing is lost when a reply is: what the fleet waits
for is said again until a state shows that it was heard (R10). Its shell, the runtime, does in a loop::

    events → agent.hinted / asked / hold / drop / loaded / load_failed / …
    agent.commands()            loads to begin and to give up, questions answered, hooks to call
    agent.shown()               what views show; published before anything is sent (R1: fence first)
    agent.next_call(now)        the call that is due most, or None until agent.wake_at(now)
    registry.send(call) → agent.heard(call, reply, sent, now), or agent.unreachable(call, now)

A model is answered from memory (mode "lease") only if all of it holds: the epoch is known and open; this membership's list was
acknowledged and names the model; its state was read from the open fleet and as last applied does not show FENCING; what it shows
active is loaded. The lease itself is an object of the membership: views refer to it, and it ends with the membership (R10).

The agent has what concerns the models: slots, records that were told, loads, hints, questions, tasks. What concerns the worker as
a member of the fleet is its Membership, which it asks between the calls of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..coordinator.calls import (
    FAILED,
    REFUSED,
    Ask,
    Call,
    Epoch,
    Evict,
    Heal,
    Heartbeat,
    Hold,
    Join,
    Leave,
    ManifestOf,
    Reopen,
    Reply,
    Report,
    Say,
    Settle,
    TaskDone,
)
from ..coordinator.errors import GenlockError, NotTrusted
from ..coordinator.manifest import Manifest, decode
from .hints import Hints
from .membership import Membership
from .orders import Answered, Cancel, Clear, Command, Flipped, Load, Rejected, Resubscribe, Shown
from .questions import Questions
from .slot import Job, Key, Slot, Told
from .trial import Trial
from .verdicts import decided
from .view import Lease

#: Raises NotTrusted, or another GenlockError where that cannot be said. Arguments: model, generation, manifest, the generation that it
#: goes back to by Redis's word or 0.
Examine = Callable[[str, int, Manifest, int], None]


class Agent:
    """See the module. Times are seconds on the worker's clock."""

    def __init__(
        self,
        worker: str,
        *,
        lease_s: float,
        chance: Callable[[], float],
        stale_allowed: bool = True,
        examine: Examine | None = None,
    ) -> None:
        """`worker`: its name for people, "host:pid". `chance`: a number in [0, 1), for what must not happen everywhere at once.
        `examine`: raises NotTrusted for a manifest that nobody vouches for; None: Redis's word is enough."""
        self.worker, self._stale_allowed, self._examine = worker, stale_allowed, examine
        self.about = ""  #: JSON for people; the runtime keeps it current
        self.membership = Membership(worker, lease_s=lease_s, chance=chance)
        self.slots: dict[str, Slot] = {}
        self.told: dict[str, Told] = {}  #: also of models that are not held any more: never back (R7)
        self._hints = Hints()
        self._jobs = 0
        self._tasks: dict[str, bool | None] = {}  # task → None: in work; ok or not: to be said; (known ones stay)
        self._said: set[str] = set()
        self._healed: set[str] = set()  # models that were given back in this epoch
        self.trials: dict[str, Trial] = {}  #: canaries, and what is watched after one
        self._judged: dict[str, tuple[Trial, Call]] = {}  # model → what its policy has decided, to be said
        self._reported_at: dict[str, float] = {}
        self._last_say: tuple[Say, float] | None = None
        self._commands: list[Command] = []
        self._given: list[Command] = []  # those that were taken last, and may not have been carried out yet
        self._questions = Questions(self.slots, lambda one: self._commands.append(one), stale_allowed=stale_allowed)

    # --- what is read of the membership --------------------------------------------------------------------------

    @property
    def member(self) -> str | None:
        return self.membership.id

    @property
    def epoch(self) -> Epoch:
        return self.membership.epoch

    @property
    def lease(self) -> Lease:
        return self.membership.lease

    @property
    def lease_s(self) -> float:
        return self.membership.lease_s

    @property
    def gone(self) -> bool:
        return self.membership.gone

    @property
    def refused(self) -> str:
        return self.membership.refused

    @property
    def leaving(self) -> bool:
        return self.membership.leaving

    @property
    def left(self) -> bool:
        return self.membership.left

    # --- what the process wants ----------------------------------------------------------------------------------

    def hold(self, models: Iterable[str]) -> None:
        """These models shall be held; said to Redis before any is loaded."""
        for model in models:
            if model not in self.slots and not self.leaving:
                self.slots[model] = Slot(model, self.told.get(model), asks_all=self._examine is not None)
                self.membership.list_changed = True

    def drop(self, models: Iterable[str]) -> None:
        """These are not held any more: their views go first, the list follows (R1). What a request waits for is held, and asked, anew."""
        dropped = self.give_way(models)
        for model in dropped:
            if waiting := self._questions.of(model):
                self.hold([model])
                self._questions.again(waiting)

    def give_way(self, models: Iterable[str]) -> list[str]:
        """The same, so that others have room: who waits for one of these waits in vain. Returns those that were held."""
        held = [model for model in models if model in self.slots]
        for model in held:
            slot = self.slots.pop(model)
            self.membership.list_changed = True
            if slot.job is not None:
                self._commands.append(Cancel(slot.job))
        return held

    def leave(self) -> None:
        """The process ends: nothing is answered from memory any more, and Redis is told."""
        self.membership.leave()
        self.drop(list(self.slots))
        for token in self._questions.all:
            self._questions.refuse(token, "this worker is leaving the fleet")

    def asked(self, token: int, models: tuple[str, ...]) -> None:
        """A request may not answer from memory: what is active? Answered by a command, in the end by the request's own limit."""
        self._questions.add(token, models)
        if self.gone or self.membership.is_closed:
            self._judge_stale(token)

    def tell_people(self) -> None:
        """What people see has changed: the next heartbeat carries it."""
        self.membership.describes = True

    def given_up(self, token: int) -> None:
        """The request waits no longer."""
        self._questions.given_up(token)

    # --- loads ---------------------------------------------------------------------------------------------------

    def loaded(self, job: Job, key: Key, detail: Mapping[str, Any]) -> None:
        """A job is done: the runtime has the payload under the job's id. `detail`: facts for people, such as seconds of each step."""
        slot = self.slots.get(job.model)
        if slot is None or slot.job is None or slot.job.id != job.id:
            return
        slot.loaded(job, key, {"worker": self.worker, **detail})
        self._remember(slot)
        if job.purpose == "refresh":
            self._end_refresh(slot, ok=True)
        self._ask_again(job.model)

    def load_failed(self, job: Job, said: str, detail: Mapping[str, Any], now: float) -> None:
        """A job came to nothing. `said`: bad or failed; `detail`: step, why."""
        slot = self.slots.get(job.model)
        if slot is None or slot.job is None or slot.job.id != job.id:
            return
        slot.failed(job, said, {"worker": self.worker, **detail}, now)
        if job.purpose == "refresh":
            self._end_refresh(slot, ok=False)
        self._ask_again(job.model)

    def _ask_again(self, model: str) -> None:
        """Who waited for a load asks once more: meanwhile another generation may be active."""
        for token in self._questions.of(model):
            if self.gone:
                self._judge_stale(token)
        self._questions.again(self._questions.of(model))

    def _end_refresh(self, slot: Slot, *, ok: bool) -> None:
        for task in slot.refreshes:
            self._tasks[task] = ok
        slot.refreshes = ()

    def _plan_jobs(self, now: float) -> None:
        """Begins what is wanted most, and gives up what is not wanted any more."""
        for slot in self.slots.values():
            slot.begin_target()
            wanted = slot.wanted(now)
            if slot.job is not None and slot.job.purpose != "fallback" and (slot.job.key, slot.job.purpose) != wanted:
                self._commands.append(Cancel(slot.job))
                slot.job = None
            if slot.job is None and wanted is not None and wanted[0] in slot.manifests:
                self._begin(slot, *wanted, slot.manifests[wanted[0]])
            elif slot.job is None and self.gone and slot.shown is None and not slot.fallback_tried:
                slot.fallback_tried = True
                self._begin(slot, (0, ""), "fallback", "")

    def _begin(self, slot: Slot, key: Key, purpose: str, manifest: str) -> None:
        self._jobs += 1
        slot.job = Job(self._jobs, slot.model, key, purpose, manifest)
        self._commands.append(Load(slot.job))

    @property
    def kept(self) -> set[int]:
        """The payloads that are still needed, by the ids of their jobs; all others are to be let go. A model may be dropped
        between an answer and its delivery."""
        answers = [command for command in (*self._given, *self._commands) if isinstance(command, Answered)]
        promised = {handle for answer in answers for _, handle, _ in answer.found.values()}
        return promised | {handle for slot in self.slots.values() for handle in slot.handles.values()}

    # --- hints ---------------------------------------------------------------------------------------------------

    def hinted(self, epoch: int, revision: int, model: str, now: float) -> None:
        """A hint came: look, do not believe (R14)."""
        if epoch != self.epoch.number:
            if epoch > self.epoch.number:
                self.membership.hurry(now)  # the heartbeat's reply tells the new epoch
            return
        self._hints.came(revision, concerns_us=not model or model in self.slots)

    def subscribed(self) -> None:
        """A subscription began: hints may have been missed before it, so the state is read (R14)."""
        self._hints.subscribed()

    def _check_hints(self, now: float) -> None:
        overdue_at = self._hints.overdue_at(self.lease_s)
        if overdue_at is not None and now >= overdue_at:
            self._hints.give_up()
            self._commands.append(Resubscribe())

    # --- replies -------------------------------------------------------------------------------------------------

    def unreachable(self, call: Call, now: float) -> None:
        """A call got no answer: it may have been executed, or may be later. Until Redis is reached nobody asks."""
        self.membership.unreachable(now)
        self._plan_jobs(now)
        if isinstance(call, Ask):
            self._questions.again(call.tokens)
        for token in self._questions.all:
            self._judge_stale(token)

    def heard(self, call: Call, reply: Reply, sent: float, now: float) -> None:
        """A reply came. Replies count by epoch, then by revision (R3)."""
        if reply.verdict in ("foreign", "schema"):
            self.unreachable(call, now)
            self.membership.refuse(reply.verdict, now)
            return
        self.membership.reached()
        before, was_open = self.epoch, self.membership.is_open
        if reply.epoch < before.number:
            return
        self._commands += self.membership.meets(reply, now)
        if self.epoch != before or self.membership.is_open != was_open:
            self._questions.again(self._questions.all)  # what they were told of was another fleet, or a closed one
        if self.epoch != before:
            self._enter(reply)
            return
        self._hints.told(reply.revision, now)
        self._take_tasks(reply, call)
        self._take(call, reply, sent, now)

    def _enter(self, reply: Reply) -> None:
        """Another epoch: whatever was read before is void."""
        for slot in self.slots.values():
            slot.new_epoch()
        self._hints.new_epoch(reply.revision)
        self._tasks, self._said, self._healed = {}, set(), set()
        self.trials, self._judged = {}, {}

    def _take(self, call: Call, reply: Reply, sent: float, now: float) -> None:
        membership = self.membership
        match call:
            case Join():
                self._take_join(call, reply, sent)
            case Heartbeat() if call.member == membership.id:
                membership.take_beat(reply, sent, now)
            case Hold() if call.member == membership.id:
                self._take_hold(call, reply)
            case Ask() if call.member == membership.id:
                self._take_ask(call, reply)
            case Say() if call.member == membership.id and reply.verdict == "ok":
                self._apply(reply)
            case ManifestOf():
                self._take_manifest(call, reply, now)
            case Report() if call.member == membership.id and reply.verdict == "ok":
                self._take_report(call, reply)
            case Reopen():
                self._hints.look_again()  # it was not behind
            case Heal():
                self._healed.add(call.model)
            case Evict():
                membership.evicted(call.member)
            case Settle():
                membership.settled()
            case TaskDone():
                self._said.add(call.task)
            case Leave():
                membership.expel("")
        if reply.verdict == "unknown" and getattr(call, "member", None) == membership.id:
            self._commands += membership.expel("evicted")
        if not membership.is_listed:
            for slot in self.slots.values():
                slot.confirmed = False  # until its list is acknowledged nothing is answered from memory

    def _take_join(self, call: Join, reply: Reply, sent: float) -> None:
        joined = self.membership.take_join(call, reply, sent, holds=bool(self.slots))
        if joined is not None:
            self._said |= set(reply.tasks)  # begun before we came: nobody waits for us
            self._commands.append(joined)

    def _take_hold(self, call: Hold, reply: Reply) -> None:
        if not self.membership.take_hold(call, reply):
            return
        for model in call.models:
            if model in self.slots:
                self.slots[model].confirmed = True
        self._apply(reply, covers=call.models)

    def _take_ask(self, call: Ask, reply: Reply) -> None:
        if reply.verdict != "ok":
            self._questions.again(call.tokens)
            return
        self._apply(reply, covers=call.models)
        for token in call.tokens:
            if reply.open:
                self._questions.judge(token, reply.states)
            elif self.membership.is_open:
                self._questions.again([token])  # the reply is older than the opening
            elif token in self._questions:
                self._judge_stale(token)

    def _take_manifest(self, call: ManifestOf, reply: Reply, now: float) -> None:
        slot = self.slots.get(call.model)
        if slot is None:
            return
        back = reply.target or 0
        try:
            manifest = decode(reply.manifest or "")
            if self._examine is not None:
                self._examine(call.model, call.gen, manifest, back)
        except GenlockError as error:
            said, step = (REFUSED, "signature") if isinstance(error, NotTrusted) else (FAILED, "manifest")
            why = str(error) if reply.manifest else "Redis has none: its history may have lost it"
            slot.no_manifest(call.gen, {"worker": self.worker, "step": step, "why": why}, now, said)
            self._ask_again(call.model)
        else:
            slot.found_manifest(call.gen, manifest.version, reply.manifest or "", now, back)
        self._remember(slot)

    def _apply(self, reply: Reply, covers: tuple[str, ...] = ()) -> None:
        """The states of a reply, to the models that are held."""
        for model, state in reply.states.items():
            slot = self.slots.get(model)
            if slot is None:
                continue
            before, target = slot.shown, slot.target
            detail = slot.detail_of(target) if target else {}  # forgotten when it is not the target any more
            flipped = slot.apply(state, self.epoch.number, is_open=reply.open)
            self._remember(slot)
            if flipped and slot.told is not None:
                self._commands.append(Flipped(model, before, slot.told.key))
            if target is not None and slot.target != target and slot.told is not None and slot.told.key != target:
                self._commands.append(Rejected(model, target, detail))
        if any(state.rev == reply.revision for state in reply.states.values()):
            self._hints.read_one(reply.revision)
        if covers and set(self.slots) <= set(covers):
            self._hints.read_all(reply.revision)

    def _remember(self, slot: Slot) -> None:
        if slot.told is not None:
            self.told[slot.model] = slot.told

    # --- tasks ---------------------------------------------------------------------------------------------------

    def _take_tasks(self, reply: Reply, call: Call) -> None:
        """Fleet-wide clear and refresh, begun while this worker was a member."""
        if self.member is None or isinstance(call, Join):
            return
        for task, what in reply.tasks.items():
            if task in self._tasks or task in self._said:
                continue
            self._tasks[task] = None
            if what.kind == "clear":
                self._commands.append(Clear(what.model))
                self.drop([what.model] if what.model else list(self.slots))
                self._tasks[task] = True
            elif (slot := self.slots.get(what.model)) is not None and slot.is_free:
                slot.refreshes += (task,)
            else:
                self._tasks[task] = what.model not in self.slots
        for task in [task for task in self._tasks if task in self._said and task not in reply.tasks]:
            del self._tasks[task]

    # --- what is to be said --------------------------------------------------------------------------------------

    def next_call(self, now: float) -> Call | None:
        """The call that is due most; None until `wake_at`. Views are to be published before it is sent."""
        self._check_hints(now)
        self._plan_jobs(now)
        if not self.membership.may_call(now):
            return None
        if self.member is None or self.leaving:
            return self.membership.passage(self.about)
        return (
            self._fence(now)
            or self.membership.beat(now, self.about)
            or self._task_done()
            or self.membership.hold(self.slots)
            or self._mend()
            or self._question()
            or self._answers(now)
            or self.membership.chore(now)
            or self._report(now)
        )

    def _fence(self, now: float) -> Call | None:
        """What is asked to fence comes first: the whole fleet waits for it."""
        for slot in self.slots.values():
            if slot.state is not None and slot.state.is_fencing and (say := self._say(slot, now)):
                return say
        return None

    def _say(self, slot: Slot, now: float) -> Say | None:
        """What the slot owes; the same again only after a while, when the reply did not show it."""
        say = slot.owes(self.member) if self.member is not None else None
        if say is None or (self._last_say and say == self._last_say[0] and now < self._last_say[1] + self.lease_s / 10):
            return None
        self._last_say = (say, now)
        return say

    def _mend(self) -> Call | None:
        """Gives back what was told active: while closed (heal), or when an open fleet is behind (reopen). R7."""
        is_open = self.membership.is_open
        for model, told in self.told.items():
            slot = self.slots.get(model)
            facts = (model, *told.key, told.committed, told.heard, told.manifest or "")
            more = (told.poison, told.pin, told.poisoned, told.rollback)
            if not is_open and model not in self._healed and told.manifest is not None:
                return Heal(*facts, *more)
            if is_open and slot is not None and slot.behind and not (slot.is_forgotten or self._hints.is_behind):
                return Reopen(*facts, *more)
        return None

    def _question(self) -> Call | None:
        """One ask for all requests that wait, and for what was hinted at (the names of a block stay together)."""
        assert self.member is not None
        names = self._questions.to_ask
        if not self.slots:
            self._hints.read_all(self._hints.heard)
        if not names and not self._hints.is_behind:
            return None
        return Ask(self.member, tuple(sorted(names | set(self.slots))), self._questions.take_asked())

    def _answers(self, now: float) -> Call | None:
        assert self.member is not None
        for slot in self.slots.values():
            if say := self._say(slot, now):
                return say
            wanted = slot.wanted(now) if slot.job is None else None
            if wanted is not None and wanted[0] not in slot.manifests:
                return ManifestOf(slot.model, wanted[0][0])
        return None

    def _task_done(self) -> Call | None:
        """Before what was dropped is held again: somebody waits for it."""
        assert self.member is not None
        for task, ok in self._tasks.items():
            if ok is not None and task not in self._said:
                return TaskDone(self.member, task, ok, {"worker": self.worker})
        return None

    # --- canaries ------------------------------------------------------------------------------------------------

    def _report(self, now: float) -> Call | None:
        """What a policy has decided here; else, once in a lease, what was counted of a canary, or of what is watched after one."""
        assert self.member is not None
        for model in list(self._judged):
            trial, decision = self._judged.pop(model)
            if self.trials.get(model) is trial:  # else people, or another worker, were faster
                return decision
        for model, trial in self.trials.items():
            if model in self.slots and now >= self._reported_at.get(model, 0.0) + self.lease_s:
                self._reported_at[model] = now
                return Report(self.member, model, trial.generation, trial.step, trial.counted())
        return None

    def _take_report(self, call: Report, reply: Reply) -> None:
        """What all have counted. Whoever hears enough says what follows from the policy, all under the same request id (R10)."""
        self._apply(reply)
        slot, trial = self.slots.get(call.model), self.trials.get(call.model)
        if slot is None or slot.state is None or trial is None or reply.figures is None:
            return
        if (trial.generation, trial.step) != (call.gen, call.step):
            return
        decision = decided(slot.state, trial, reply.figures, reply.age / 1000, by=self.worker)
        if decision is not None:
            self._judged[call.model] = trial, decision

    def wake_at(self, now: float) -> float:
        """When `next_call` may have something, if no event comes before."""
        times = [t for slot in self.slots.values() if slot.job is None and (t := slot.retry_at(now)) is not None]
        if self._last_say is not None and self._last_say[1] + self.lease_s / 10 > now:
            times.append(self._last_say[1] + self.lease_s / 10)
        if (overdue_at := self._hints.overdue_at(self.lease_s)) is not None:
            times.append(overdue_at)
        return self.membership.wake_at(now, times)

    # --- views and questions -------------------------------------------------------------------------------------

    def shown(self, now: float) -> dict[str, Shown]:
        """What views show from now on, model by model."""
        found = {}
        for model, slot in self.slots.items():
            if slot.shown is not None and slot.shown in slot.handles:
                mode = self._mode(slot, now)
                plain = Shown(slot.shown, slot.handles[slot.shown], mode, self.lease if mode == "lease" else None)
                found[model] = self._tried(slot, plain)
        return found

    def _tried(self, slot: Slot, plain: Shown) -> Shown:
        """The same with the trial that is on, if one is: only what answers under a lease takes part in one."""
        trial = slot.trial(self.member, self.trials.get(slot.model)) if self.member is not None else None
        if trial is None:
            self.trials.pop(slot.model, None)
            return plain
        self.trials[slot.model] = trial
        target = None if trial.is_watch else slot.target
        if plain.lease is None or not (trial.is_watch or target in slot.handles):
            return plain
        other = (target, slot.handles[target]) if target is not None else None
        return plain._replace(trial=trial, other=other)

    def _mode(self, slot: Slot, now: float) -> str:
        membership = self.membership
        free = membership.id is not None and membership.is_open and slot.is_free
        if free and not (membership.gone and now >= membership.lease.deadline):
            return "lease"
        return "stale" if self._stale_allowed and (membership.gone or membership.is_closed) else "ask"

    def _judge_stale(self, token: int) -> None:
        why = "Redis cannot be reached" if self.gone else "the fleet is closed: Redis may have lost data"
        self._questions.judge_stale(token, why, gone=self.gone)

    def commands(self) -> list[Command]:
        """What is to be done since the last call, in this order."""
        self._given, self._commands = self._commands, []
        return self._given
