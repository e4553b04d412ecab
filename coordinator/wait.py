"""Waiting for the fleet: what a process that waits has to send next, and what it does for the others meanwhile. Pure.

A waiting publisher is a watcher: it evicts who is silent (R5), opens a new epoch that it has watched long enough (R6) and settles a
deadline that has passed (R8). It may be the only process that is left to do so. `Watch` is that much; `Wait` adds one change, from
the first time that it is sent until it is decided.
"""

from __future__ import annotations

from .calls import Call, Evict, Open, Read, Settle
from .clock import patience_s
from .flip import CANARY, IN_WORK
from .observer import Observer
from .reply import NO_EPOCH, Answer, Epoch, Reply, State

#: Seconds between two looks at the state: hints get lost (R14), and a hundred publishers at ten reads a second are nothing to Redis.
POLL_S = 0.1
#: Leases that fencing may take before the candidate is rejected (R8; lua/_model.lua has it too).
FENCING_LEASES = 3
#: Seconds for the calls themselves, on top of what is waited for.
SLACK_S = 1.0
#: Verdicts after which the same call is sent again: the fleet is watched, or has 16 tasks.
AGAIN = frozenset({"closed", "busy"})


class Watch:
    """What anybody who waits does for the fleet. Times are seconds of its own clock."""

    def __init__(self, lease_s: float, *, watcher: str, jitter: float) -> None:
        """`watcher`: the name for the audit log; `jitter`: see Observer."""
        self.lease_s = lease_s  #: the longest that this process has heard of
        self.epoch: Epoch = NO_EPOCH  #: the one of the last reply; what `duties` names is to be sent with it
        self.is_open = False
        self._watcher, self._jitter = watcher, jitter
        self._observer = Observer(lease_s, jitter=jitter)
        self._due = False

    @property
    def watched(self) -> tuple[str, ...]:
        """Members to be named in the next read."""
        return self._observer.watched

    def heard(self, reply: Reply, now: float) -> None:
        """A reply has come."""
        self.lease_s = max(self.lease_s, reply.lease_s)
        if (
            reply.epoch_id != self.epoch
        ):  # its ids and beats begin anew: what was seen of the others' says nothing of them
            self.epoch = reply.epoch_id
            self._observer = Observer(self.lease_s, jitter=self._jitter)
        self.is_open, self._due = reply.open, reply.due
        self._observer.saw_epoch(self.epoch, reply.open, now)
        self._observer.saw(reply.watch, now)

    def lost(self) -> None:
        """No reply: the others may have had no Redis either, so their silence begins to count when it is back."""
        self._observer.saw({}, 0.0)

    def duties(self, now: float) -> list[Call]:
        """What is to be sent for the fleet now, for `epoch` and for no later one."""
        if self._observer.may_open(now):
            return [Open(self._watcher)]
        calls: list[Call] = []
        while silent := self._observer.silent(now):
            calls.append(Evict(*silent, self._watcher))
            self._observer.forget(silent[0])
        if self._due:
            self._due = False
            calls.append(Settle())
        return calls

    def pause_s(self, now: float) -> float:
        """Seconds until it is worth looking again, if no hint comes."""
        wake_at = self._observer.wake_at
        return POLL_S if wake_at is None else min(POLL_S, max(0.0, wake_at - now))


class Wait(Watch):
    """One change of a model, from the first time that it is sent until it is decided, or its time is over."""

    def __init__(
        self,
        change: Call,
        model: str,
        request: str,
        *,
        prepare_s: float,
        now: float,
        lease_s: float,
        watcher: str,
        jitter: float,
        is_patient: bool = True,
        tried_s: float | None = None,
    ) -> None:
        """`prepare_s`: longest time to get ready; `is_patient`: whether a candidate is waited for, or the answer is enough; `tried_s`:
        longest time of a canary that is waited for, too; None: with its beginning the waiting ends, people go on."""
        super().__init__(lease_s, watcher=watcher, jitter=jitter)
        self.model, self.request = model, request
        self.refusal: Reply | None = None  #: the reply that refused the change
        self.reply: Reply | None = None  #: the reply that let it in
        self.answer: Answer | None = None  #: what has become of it, as last heard
        self.state: State | None = None  #: the model's, as last read
        self.since = now  #: when what is waited for began
        self.answered_s = 0.0  #: seconds until the change was let in
        self._change, self._prepare_s, self._is_patient, self._tried_s = change, prepare_s, is_patient, tried_s
        self._named: tuple[int, str] | None = None  # generation and version that it got
        self._silence = ""  # why the last call had no reply
        self._may_be_late = False  # a call had no reply: it may have been executed, or may be later
        self._was_closed = False

    @property
    def is_decided(self) -> bool:
        if self.refusal is not None:
            return True
        if self.answer is None:
            return False
        if self.answer.state == "next" and self.state is not None and self.state.is_canary:
            return True  # it waits behind a canary, which may take as long as people like
        in_work = IN_WORK if self._tried_s is None else IN_WORK | {CANARY}
        return not (self._is_patient and self.answer.state in in_work)

    @property
    def until(self) -> float:
        """When to give up: time to prepare, then to fence, then for a watcher to notice, all counted from `since`."""
        longest_s = self._prepare_s + (self._tried_s or 0.0) + FENCING_LEASES * self.lease_s
        return self.since + longest_s + patience_s(self.lease_s) + SLACK_S

    def next_call(self) -> Call:
        """The change until it has an answer, then the state. In a fleet that lost the answer, the state until it is open and healed:
        its workers may bring the answer back."""
        if self.answer is None and (self.reply is None or self.is_open):
            return self._change
        return Read(self.model, self.request, self.watched)

    def hears(self, call: Call, reply: Reply, now: float) -> None:
        """`reply` has come to `call`."""
        self.heard(reply, now)
        self._silence = ""
        if isinstance(call, Read):
            self.state = reply.states.get(self.model)
            self._learn(reply.answer or self._healed(), now)
        elif reply.verdict == "ok":
            self.answered_s = self.answered_s or now - self.since
            self.reply = reply
            self._learn(reply.as_answer, now)
        elif reply.verdict in AGAIN:
            self._was_closed = True
        else:
            self.refusal = reply

    def loses(self, why: str) -> None:
        """`next_call` was sent and no reply has come: it may have been executed, or may be later (R10)."""
        self.lost()
        self._silence, self._may_be_late = why, True

    def _learn(self, answer: Answer | None, now: float) -> None:
        if answer and answer.generation and self._named is None:
            self.since = now  # what waited as next gets ready from now on
            self._named = (answer.generation, answer.version)
        self.answer = answer

    def _healed(self) -> Answer | None:
        """Redis lost the answer; the fleet may have brought back what it was about (R7)."""
        active = self.state and self.state.active
        if active and (active.gen, active.version) == self._named:
            return Answer(state="committed", generation=active.gen, version=active.version)
        return None

    @property
    def never_let_in(self) -> bool:
        """Whether it is certain that nothing was changed: every time that it was sent, the fleet was closed."""
        return self._was_closed and not self._may_be_late and self.reply is None

    @property
    def found(self) -> str:
        """What is known of it, for people."""
        if self._silence:
            return self._silence
        state = self.answer.state if self.answer else "not heard of"
        return f"it is still {state}, phase {self.state.phase if self.state else 'unknown'}"
