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
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..coordinator.calls import (
    NO_EPOCH,
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
    Open,
    Reopen,
    Reply,
    Say,
    Settle,
    TaskDone,
)
from ..coordinator.clock import usable_s
from ..coordinator.errors import GenlockError
from ..coordinator.manifest import decode
from ..coordinator.observer import Observer
from .hints import Hints
from .orders import Answered, Cancel, Clear, Command, Expelled, Flipped, Joined, Load, Rejected, Resubscribe, Shown
from .questions import Questions
from .slot import Job, Key, Slot, Told
from .view import Lease

#: Every n-th heartbeat carries what people see of a worker (PROTOCOL.md, key `workers`).
DESCRIBE_EVERY = 10
#: Seconds until an unreachable Redis is tried again: doubled each time, from the first to the second.
BACKOFF_FROM_S, BACKOFF_TO_S = 0.02, 1.0


class Agent:
    """See the module. Times are seconds on the worker's clock."""

    def __init__(
        self,
        worker: str,
        *,
        lease_s: float,
        chance: Callable[[], float],
        stale_allowed: bool = True,
        epoch: Epoch = NO_EPOCH,
    ) -> None:
        """`worker`: its name for people, "host:pid". `chance`: a number in [0, 1), for what must not happen everywhere at once."""
        self.worker, self._chance, self._stale_allowed = worker, chance, stale_allowed
        self.about = ""  #: JSON for people; the runtime keeps it current
        self.epoch, self.is_open = epoch, False
        self.member: str | None = None
        self.lease = Lease()
        self.lease_s = lease_s
        self.slots: dict[str, Slot] = {}
        self.told: dict[str, Told] = {}  #: also of models that are not held any more: never back (R7)
        self.gone = False  #: a call failed, and Redis was not reached since
        self.leaving = False
        self.left = False
        self._joins = 0  # serial of the last join: only its reply counts, and once (R10)
        self._counter, self._acked = 0, 0  # of the list last made, and last acknowledged
        self._list: tuple[str, ...] = ()
        self._list_changed = False
        self._beat_at = 0.0
        self._beats = 0
        self._tell_people = False
        self._retry_at, self._backoff = 0.0, 0.0
        self._hints = Hints()
        self._observer = Observer(lease_s, jitter=chance())
        self._due = False
        self._jobs = 0
        self._tasks: dict[str, bool | None] = {}  # task → None: in work; ok or not: to be said; (known ones stay)
        self._said: set[str] = set()
        self._healed: set[str] = set()  # models that were given back in this epoch
        self._last_say: tuple[Say, float] | None = None
        self.refused = ""  #: why the fleet does not take this worker: another fleet's id, a newer schema
        self._commands: list[Command] = []
        self._given: list[Command] = []  # those that were taken last, and may not have been carried out yet
        self._questions = Questions(
            self.slots, lambda answer: self._commands.append(answer), stale_allowed=stale_allowed
        )

    # --- what the process wants ----------------------------------------------------------------------------------

    def hold(self, models: Iterable[str]) -> None:
        """These models shall be held; said to Redis before any is loaded."""
        for model in models:
            if model not in self.slots and not self.leaving:
                self.slots[model] = Slot(model, self.told.get(model))
                self._list_changed = True

    def drop(self, models: Iterable[str]) -> None:
        """These are not held any more: their views go first, the list follows (R1)."""
        for model in models:
            slot = self.slots.pop(model, None)
            if slot is None:
                continue
            self._list_changed = True
            if slot.job is not None:
                self._commands.append(Cancel(slot.job))

    def leave(self) -> None:
        """The process ends: nothing is answered from memory any more, and Redis is told."""
        self.leaving = True
        self.drop(list(self.slots))
        self.lease.end()
        for token in self._questions.all:
            self._questions.refuse(token, "this worker is leaving the fleet")
        if self.member is None:
            self.left = True

    def asked(self, token: int, models: tuple[str, ...]) -> None:
        """A request may not answer from memory: what is active? Answered by a command, in the end by the request's own limit."""
        self._questions.add(token, models)
        if self.gone or self._is_closed:
            self._judge_stale(token)

    def tell_people(self) -> None:
        """What people see has changed: the next heartbeat carries it."""
        self._tell_people = True

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
                self._beat_at = min(self._beat_at, now)  # the heartbeat's reply tells the new epoch
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
        self.gone = True
        self._backoff = min(BACKOFF_TO_S, self.lease_s / 3, 2 * self._backoff or BACKOFF_FROM_S)
        self._retry_at = now + self._backoff
        if self.leaving:
            self.left = True
        self._plan_jobs(now)
        if isinstance(call, Ask):
            self._questions.again(call.tokens)
        for token in self._questions.all:
            self._judge_stale(token)

    def heard(self, call: Call, reply: Reply, sent: float, now: float) -> None:
        """A reply came. Replies count by epoch, then by revision (R3)."""
        if reply.verdict in ("foreign", "schema"):
            self.unreachable(call, now)
            self.refused, self._retry_at = reply.verdict, now + BACKOFF_TO_S
            return
        self.gone, self.refused, self._backoff, self._retry_at = False, "", 0.0, 0.0
        if reply.epoch < self.epoch.number:
            return
        if reply.lease:
            self.lease_s = reply.lease_s
            self._observer.lease_s = max(self._observer.lease_s, self.lease_s)  # R6: the longer of both is watched
        if reply.epoch_id != self.epoch:
            self._enter(reply, now)
            return
        self._opened(reply, now)
        self._hints.told(reply.revision, now)
        self._take_tasks(reply, call)
        self._take(call, reply, sent, now)

    def _enter(self, reply: Reply, now: float) -> None:
        """Another epoch: whatever was granted before is void; join anew."""
        self._expel("a new epoch began" if self.epoch != NO_EPOCH else "")
        self.epoch, self.is_open = reply.epoch_id, reply.open
        for slot in self.slots.values():
            slot.new_epoch()
        self._hints.new_epoch(reply.revision)
        self._due = False
        self._tasks, self._said, self._healed = {}, set(), set()
        self._observer.saw_epoch(self.epoch, self.is_open, now)

    def _opened(self, reply: Reply, now: float) -> None:
        self.is_open = self.is_open or reply.open  # an epoch that was heard open is not heard closed again (R3)
        self._observer.saw_epoch(self.epoch, self.is_open, now)

    def _expel(self, why: str) -> None:
        """The membership is over: its lease ends, for ever."""
        if self.member is not None and why:
            self._commands.append(Expelled(why))
        self.member = None
        self.lease.end()
        for slot in self.slots.values():
            slot.confirmed = False
        if self.leaving:
            self.left = True

    def _take(self, call: Call, reply: Reply, sent: float, now: float) -> None:
        match call:
            case Join():
                self._take_join(call, reply, sent)
            case Heartbeat() if call.member == self.member:
                self._take_beat(reply, sent, now)
            case Hold() if call.member == self.member:
                self._take_hold(call, reply)
            case Ask() if call.member == self.member:
                self._take_ask(call, reply)
            case Say() if call.member == self.member and reply.verdict == "ok":
                self._apply(reply)
            case ManifestOf():
                self._take_manifest(call, reply, now)
            case Reopen():
                self._hints.look_again()  # it was not behind
            case Heal():
                self._healed.add(call.model)
            case Evict():
                self._observer.forget(call.member)
            case Settle():
                self._due = False
            case TaskDone():
                self._said.add(call.task)
            case Leave():
                self._expel("")
        if reply.verdict == "unknown" and getattr(call, "member", None) == self.member:
            self._expel("evicted")

    def _take_join(self, call: Join, reply: Reply, sent: float) -> None:
        if self.member is not None or call.serial != self._joins or reply.verdict != "ok" or reply.id is None:
            return
        self._joins += 1  # the reply counts once
        self.member = reply.id
        self.lease = Lease()
        self._extend(reply, sent)
        self._counter, self._acked, self._list, self._list_changed = 0, 0, (), bool(self.slots)
        self._said |= set(reply.tasks)  # begun before we came: nobody waits for us
        self._beat_at = sent + self.lease_s / 3 * self._chance()  # a fleet that starts together does not beat together
        self._commands.append(Joined(reply.id, self.epoch))

    def _extend(self, reply: Reply, sent: float) -> None:
        if reply.open and self.is_open:
            self.lease.extend(sent + usable_s(self.lease_s))  # R2: from when the call was first sent

    def _take_beat(self, reply: Reply, sent: float, now: float) -> None:
        if reply.verdict == "list":
            self._hold_again()  # the server has lost our list
        if reply.verdict != "ok":
            return
        self._beat_at = sent + self.lease_s / 3
        self._extend(reply, sent)
        self._due = reply.due
        self._observer.saw({m: b for m, b in reply.watch.items() if m != self.member}, now)

    def _take_hold(self, call: Hold, reply: Reply) -> None:
        if call.counter != self._counter:
            return  # only the reply to the last list counts (R10)
        if reply.verdict == "old":
            self._hold_again()
        if reply.verdict != "ok":
            return
        self._acked = call.counter
        for model in call.models:
            if model in self.slots:
                self.slots[model].confirmed = True
        self._apply(reply, covers=call.models)

    def _hold_again(self) -> None:
        """Under a new counter; until its reply nothing that is held may be answered from memory."""
        self._acked, self._list_changed = 0, True
        for slot in self.slots.values():
            slot.confirmed = False

    def _take_ask(self, call: Ask, reply: Reply) -> None:
        if reply.verdict != "ok":
            self._questions.again(call.tokens)
            return
        self._apply(reply, covers=call.models)
        for token in call.tokens:
            if reply.open:
                self._questions.judge(token, reply.states)
            elif self.is_open:
                self._questions.again([token])  # the reply is older than the opening
            elif token in self._questions:
                self._judge_stale(token)

    def _take_manifest(self, call: ManifestOf, reply: Reply, now: float) -> None:
        slot = self.slots.get(call.model)
        if slot is None:
            return
        slot.found_manifest(call.gen, _version_in(reply.manifest), reply.manifest or "", now)
        self._remember(slot)

    def _apply(self, reply: Reply, covers: tuple[str, ...] = ()) -> None:
        """The states of a reply, to the models that are held."""
        for model, state in reply.states.items():
            slot = self.slots.get(model)
            if slot is None:
                continue
            before, target = slot.shown, slot.target
            detail = (
                slot.detail_of(target) if target is not None else {}
            )  # forgotten when it is not the target any more
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
        if now < self._retry_at or self.left:
            return None
        if self.member is None:
            return None if self.leaving else Join(self.about, self._joins)
        if self.leaving:
            return Leave(self.member)
        for choose in (self._fence, self._beat, self._list_call, self._mend, self._question, self._answers, self._rest):
            call = choose(now)
            if call is not None:
                return call
        return None

    def _fence(self, now: float) -> Call | None:
        """What is asked to fence comes first: the whole fleet waits for it."""
        assert self.member is not None
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

    def _beat(self, now: float) -> Call | None:
        assert self.member is not None
        if now < self._beat_at:
            return None
        self._beats += 1
        about = self.about if self._tell_people or self._beats % DESCRIBE_EVERY == 0 else ""
        self._tell_people = False
        return Heartbeat(self.member, self._acked, self._observer.watched, about)

    def _list_call(self, now: float) -> Call | None:
        """The whole list under a new counter when it changed; the same again until it is acknowledged (R10)."""
        assert self.member is not None
        if self._list_changed:
            self._counter += 1
            self._list, self._list_changed = tuple(sorted(self.slots)), False
        return Hold(self.member, self._counter, self._list) if self._counter > self._acked else None

    def _mend(self, now: float) -> Call | None:
        """Gives back what was told active: while closed (heal), or when an open fleet is behind (reopen). R7."""
        for model, told in self.told.items():
            slot = self.slots.get(model)
            facts = (model, *told.key, told.committed, told.heard, told.manifest or "")
            more = (told.poison, told.pin, told.poisoned)
            if not self.is_open and model not in self._healed and told.manifest is not None:
                return Heal(*facts, *more)
            if self.is_open and slot is not None and slot.behind and not (slot.is_forgotten or self._hints.is_behind):
                return Reopen(*facts, *more)
        return None

    def _question(self, now: float) -> Call | None:
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
        for task, ok in self._tasks.items():
            if ok is not None and task not in self._said:
                return TaskDone(self.member, task, ok, {"worker": self.worker})
        return None

    def _rest(self, now: float) -> Call | None:
        """What anybody may do for the fleet: evict the silent, open a watched epoch, settle what is overdue."""
        if self._observer.may_open(now):
            return Open(self.worker)
        if silent := self._observer.silent(now):
            return Evict(*silent, self.worker)
        return Settle() if self._due else None

    def wake_at(self, now: float) -> float:
        """When `next_call` may have something, if no event comes before."""
        times = [self._beat_at if self.member is not None else now]
        if self._last_say is not None and self._last_say[1] + self.lease_s / 10 > now:
            times.append(self._last_say[1] + self.lease_s / 10)
        times += [t for slot in self.slots.values() if slot.job is None and (t := slot.retry_at(now)) is not None]
        if self._observer.wake_at is not None:
            times.append(self._observer.wake_at)
        if (overdue_at := self._hints.overdue_at(self.lease_s)) is not None:
            times.append(overdue_at)
        if self.gone and self.lease.deadline > now:
            return min(self.lease.deadline, max(min(times), self._retry_at))  # from then on views are stale
        return max(min(times), self._retry_at)

    # --- views and questions -------------------------------------------------------------------------------------

    @property
    def _is_closed(self) -> bool:
        return self.epoch != NO_EPOCH and not self.is_open

    def shown(self, now: float) -> dict[str, Shown]:
        """What views show from now on, model by model."""
        found = {}
        for model, slot in self.slots.items():
            if slot.shown is not None and slot.shown in slot.handles:
                mode = self._mode(slot, now)
                found[model] = Shown(
                    slot.shown, slot.handles[slot.shown], mode, self.lease if mode == "lease" else None
                )
        return found

    def _mode(self, slot: Slot, now: float) -> str:
        free = self.member is not None and self.is_open and slot.is_free
        if free and not (self.gone and now >= self.lease.deadline):
            return "lease"
        return "stale" if self._stale_allowed and (self.gone or self._is_closed) else "ask"

    def _judge_stale(self, token: int) -> None:
        why = "Redis cannot be reached" if self.gone else "the fleet is closed: Redis may have lost data"
        self._questions.judge_stale(token, why, gone=self.gone)

    def commands(self) -> list[Command]:
        """What is to be done since the last call, in this order."""
        self._given, self._commands = self._commands, []
        return self._given


def _version_in(manifest: str | None) -> str | None:
    """The content that a manifest names; None: there is none, or it cannot be read."""
    try:
        return decode(manifest).version if manifest else None
    except GenlockError:
        return None
