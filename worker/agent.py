"""One worker's side of the protocol: events in; calls, jobs and views out. Pure: no I/O, no thread, no clock of its own.

Theory of operation
-------------------

The agent is a state and rules that derive what is to be done from it, so that nothing is lost when a reply is: what the fleet waits
for is said again until a state shows that it was heard (R10). Its shell, the runtime, does in a loop::

    events → agent.hinted / asked / hold / drop / loaded / load_failed / examined / …
    agent.commands()            loads to begin and to give up, manifests to examine, questions answered, hooks to call
    agent.shown()               what views show; published before anything is sent (R1: fence first)
    agent.next_call(now)        the call that is due most, or None until agent.wake_at(now)
    registry.send(call) → agent.heard(call, reply, sent, now), or agent.unreachable(call, now)

A model is answered from memory (mode "lease") only if all of it holds: the epoch is known and open; this membership's list was
acknowledged and names the model; its state was read from the open fleet and as last applied does not show FENCING; what it shows
active is loaded. The lease itself is an object of the membership: views refer to it, and it ends with the membership (R10).

The agent has what concerns the models: slots, loads, and a room for each of hints, questions, tasks, trials and healing, which know
nothing of one another. What concerns the worker as a member of the fleet is its Membership, which it asks between the calls of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..coordinator.calls import (
    Ask,
    Call,
    Evict,
    Heal,
    Heartbeat,
    Hold,
    Join,
    Leave,
    ManifestOf,
    Reopen,
    Report,
    Say,
    Settle,
    TaskDone,
)
from ..coordinator.errors import GenlockError
from ..coordinator.manifest import decode
from ..coordinator.reply import FAILED, Epoch, Reply
from .answers import Answers
from .healing import Healing
from .hints import Hints
from .jobs import Jobs
from .membership import Membership
from .orders import Answered, Cancel, Clear, Command, Examine, Flipped, Rejected, Resubscribe, Shown
from .questions import Questions
from .slot import Found, Job, Key, Slot
from .tasks import Tasks
from .trials import Trials


class Agent:
    """See the module. Times are seconds on the worker's clock."""

    def __init__(
        self,
        worker: str,
        *,
        lease_s: float,
        chance: Callable[[], float],
        stale_allowed: bool = True,
        examines: bool = False,
    ) -> None:
        """`worker`: its name for people, "host:pid". `chance`: a number in [0, 1), for what must not happen everywhere at once.
        `examines`: whether somebody has to vouch for each manifest; else Redis's word is enough."""
        self.worker, self._stale_allowed, self._examines = worker, stale_allowed, examines
        self.about = ""  #: JSON for people; the runtime keeps it current
        self.membership = Membership(worker, lease_s=lease_s, chance=chance)
        self.slots: dict[str, Slot] = {}
        self.healing = Healing()
        self.trials = Trials(worker)
        self._hints, self._tasks, self._jobs, self._answers = Hints(), Tasks(), Jobs(), Answers()
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
    def gone(self) -> bool:
        return self.membership.gone

    # --- what the process wants ----------------------------------------------------------------------------------

    def hold(self, models: Iterable[str]) -> None:
        """These models shall be held; said to Redis before any is loaded."""
        for model in models:
            if model not in self.slots and not self.membership.leaving:
                self.slots[model] = Slot(model, self.healing.told.get(model), asks_all=self._examines)
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
        self.healing.remember(slot)
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
        self._tasks.done(slot.refreshes, ok=ok)
        slot.refreshes = ()

    def _plan(self, now: float) -> None:
        self._commands += self._jobs.planned(self.slots.values(), now, gone=self.gone)

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
        overdue_at = self._hints.overdue_at(self.membership.lease_s)
        if overdue_at is not None and now >= overdue_at:
            self._hints.give_up()
            self._commands.append(Resubscribe())

    # --- replies -------------------------------------------------------------------------------------------------

    def unreachable(self, call: Call, now: float) -> None:
        """A call got no answer: it may have been executed, or may be later. Until Redis is reached nobody asks."""
        self.membership.unreachable(now)
        self._plan(now)
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
        self._tasks.new_epoch()
        self.trials.new_epoch()
        self.healing.new_epoch()

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
                self._apply(reply)
                self.trials.heard(call, reply, self.slots.get(call.model))
            case Reopen():
                self._hints.look_again()  # it was not behind
            case Heal():
                self.healing.healed(call.model)
            case Evict():
                membership.evicted(call.member)
            case Settle():
                membership.settled()
            case TaskDone():
                self._tasks.said(call.task)
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
            self._tasks.not_ours(reply.tasks)
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
        text = reply.manifest or ""
        try:
            found = Found(call.model, call.gen, decode(text).version, text, reply.target or 0)
        except GenlockError as error:
            why = str(error) if text else "Redis has none: its history may have lost it"
            self._no_manifest(slot, call.gen, FAILED, {"step": "manifest", "why": why}, now)
            return
        if self._examines:
            slot.examining = found
            self._commands.append(Examine(found))
        else:
            self._found_manifest(slot, found, now)

    def examined(self, found: Found, said: str, why: str, now: float) -> None:
        """A manifest was looked at. `said`: empty, somebody vouches for it; refused; failed: that cannot be said here."""
        slot = self.slots.get(found.model)
        if slot is None or slot.examining != found:
            return  # meanwhile the model was dropped, or another one is wanted
        slot.examining = None
        if said:
            self._no_manifest(slot, found.gen, said, {"step": "signature", "why": why}, now)
        else:
            self._found_manifest(slot, found, now)

    def _found_manifest(self, slot: Slot, found: Found, now: float) -> None:
        slot.found_manifest(found.gen, found.version, found.manifest, now, found.rollback)
        self.healing.remember(slot)

    def _no_manifest(self, slot: Slot, gen: int, said: str, detail: Mapping[str, Any], now: float) -> None:
        slot.no_manifest(gen, {"worker": self.worker, **detail}, now, said)
        self._ask_again(slot.model)

    def _apply(self, reply: Reply, covers: tuple[str, ...] = ()) -> None:
        """The states of a reply, to the models that are held."""
        for model, state in reply.states.items():
            slot = self.slots.get(model)
            if slot is None:
                continue
            before, target = slot.shown, slot.target
            detail = slot.detail_of(target) if target else {}  # forgotten when it is not the target any more
            flipped = slot.apply(state, self.epoch.number, is_open=reply.open)
            self.healing.remember(slot)
            if flipped and slot.told is not None:
                self._commands.append(Flipped(model, before, slot.told.key))
            if target is not None and slot.target != target and slot.told is not None and slot.told.key != target:
                self._commands.append(Rejected(model, target, detail))
        if any(state.rev == reply.revision for state in reply.states.values()):
            self._hints.read_one(reply.revision)
        if covers and set(self.slots) <= set(covers):
            self._hints.read_all(reply.revision)

    # --- tasks ---------------------------------------------------------------------------------------------------

    def _take_tasks(self, reply: Reply, call: Call) -> None:
        """Fleet-wide clear and refresh, begun while this worker was a member."""
        if self.member is None or isinstance(call, Join):
            return
        for task, what in self._tasks.take(reply.tasks).items():
            if what.kind == "clear":
                self._commands.append(Clear(what.model))
                self.drop([what.model] if what.model else list(self.slots))
                self._tasks.done([task], ok=True)
            elif (slot := self.slots.get(what.model)) is not None and slot.is_free:
                slot.refreshes += (task,)
            else:
                self._tasks.done([task], ok=what.model not in self.slots)

    # --- what is to be said --------------------------------------------------------------------------------------

    def next_call(self, now: float) -> Call | None:
        """The call that is due most; None until `wake_at`. Views are to be published before it is sent."""
        self._check_hints(now)
        self._plan(now)
        if not self.membership.may_call(now):
            return None
        if self.member is None or self.membership.leaving:
            return self.membership.passage(self.about)
        is_open, is_read = self.membership.is_open, not self._hints.is_behind
        slots, lease_s = self.slots.values(), self.membership.lease_s
        return (
            self._answers.fence(slots, self.member, now, lease_s)  # first: the whole fleet waits for it
            or self.membership.beat(now, self.about)
            or self._tasks.due(self.member, self.worker)  # before what was dropped is held: somebody waits
            or self.membership.hold(self.slots)
            or self.healing.due(self.slots, is_open=is_open, is_read=is_read)
            or self._question()
            or self._answers.due(slots, self.member, now, lease_s)
            or self.membership.chore(now)
            or self.trials.due(self.member, self.slots, now, lease_s)
        )

    def _question(self) -> Call | None:
        """One ask for all requests that wait, and for what was hinted at (the names of a block stay together)."""
        assert self.member is not None
        names = self._questions.to_ask
        if not self.slots:
            self._hints.read_all(self._hints.heard)
        if not names and not self._hints.is_behind:
            return None
        return Ask(self.member, tuple(sorted(names | set(self.slots))), self._questions.take_asked())

    def wake_at(self, now: float) -> float:
        """When `next_call` may have something, if no event comes before."""
        times = [t for slot in self.slots.values() if slot.job is None and (t := slot.retry_at(now)) is not None]
        times += self._answers.wake_at(now, self.membership.lease_s)
        if (overdue_at := self._hints.overdue_at(self.membership.lease_s)) is not None:
            times.append(overdue_at)
        return self.membership.wake_at(now, times)

    # --- views and questions -------------------------------------------------------------------------------------

    def shown(self, now: float) -> dict[str, Shown]:
        """What views show from now on, model by model."""
        found, lease = {}, self.membership.lease
        for model, slot in self.slots.items():
            if slot.shown is not None and slot.shown in slot.handles:
                mode = self._mode(slot, now)
                plain = Shown(slot.shown, slot.handles[slot.shown], mode, lease if mode == "lease" else None)
                found[model] = self.trials.shown(slot, plain, self.member)
        return found

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
