"""A worker's place in the fleet: its id and lease, its beats, its list at the server, and what it may do for the others. Pure.

Theory of operation
-------------------

The membership is told what its calls came to, and says which call is due. It knows nothing of what is held but the names on the
list. The agent owns it, sends its calls between its own, and carries the facts that it gives back to the slots. It keeps:

R2   The lease runs from when its request was first sent; nothing but the reply to a join or a heartbeat lengthens it.
R5   Who is waited for is watched, and evicted with the beat that was seen for a whole lease of this worker's own clock.
R6   A new epoch voids whatever was granted; a closed one grants nothing, and is opened after it was watched.
R10  Only the reply to the last join counts, and once, and brings a Lease of its own; when the membership ends, that lease does, for
     ever. The list is one with a counter, sent until it is acknowledged; only the reply to the last one counts.
R16  Only `Join` and `Heartbeat` are beats: everything else that is asked keeps no membership alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..coordinator.calls import Call, Evict, Heartbeat, Hold, Join, Leave, Open, Settle
from ..coordinator.clock import usable_s
from ..coordinator.observer import Observer
from ..coordinator.reply import NO_EPOCH, Epoch, Reply
from .orders import Expelled, Joined
from .view import Lease

#: Every n-th heartbeat carries what people see of a worker.
DESCRIBE_EVERY = 10
#: Seconds until an unreachable Redis is tried again: doubled each time, from the first to the second, and to a sixth of a lease at most: a
#: fleet is closed for a lease from when somebody has met the server that is back.
BACKOFF_FROM_S, BACKOFF_TO_S = 0.02, 1.0


class Membership:
    """See the module. Times are seconds on the worker's clock; only the agent changes it."""

    def __init__(self, worker: str, *, lease_s: float, chance: Callable[[], float]) -> None:
        """`worker`: its name for people, "host:pid". `chance`: a number in [0, 1), for what must not happen everywhere at once."""
        self._worker, self._chance = worker, chance
        self.epoch: Epoch = NO_EPOCH
        self.is_open = False  #: as far as it was heard; once open, never closed again in this epoch
        self.id: str | None = None  #: None: no member, or not any more
        self.lease = Lease()  #: of this membership; the one before has ended
        self.lease_s = lease_s
        self.gone = False  #: a call failed, and Redis was not reached since
        self.refused = ""  #: why the fleet does not take this worker: another fleet's id, a newer schema
        self.leaving = False
        self.left = False
        self.list_changed = False  #: what is held is not what the last list says
        self.describes = False  #: the next heartbeat carries what people see
        self.retry_at = 0.0  #: nothing is sent before, because Redis was not reached
        self._backoff_s = 0.0
        self._joins = 0  # serial of the last join: only its reply counts, and once (R10)
        self._counter, self._acked = 0, 0  # of the list last made, and last acknowledged
        self._list: tuple[str, ...] = ()
        self._beat_at = 0.0
        self._beats = 0
        self._observer = Observer(lease_s, jitter=chance())
        self._is_due = False  # a deadline in the fleet's record has passed (R8)

    @property
    def is_closed(self) -> bool:
        """Redis may have lost data: nothing is granted until the epoch was watched (R6)."""
        return self.epoch != NO_EPOCH and not self.is_open

    @property
    def is_listed(self) -> bool:
        """The server has acknowledged a list of this membership, and has not lost it since."""
        return self._acked > 0

    def leave(self) -> None:
        """The process ends: the lease does at once, Redis is told after it (R1)."""
        self.leaving = True
        self.lease.end()
        if self.id is None:
            self.left = True

    # --- what calls came to --------------------------------------------------------------------------------------

    def unreachable(self, now: float) -> None:
        """No reply: Redis is tried again, ever later. The lease runs on."""
        self.gone = True
        self._backoff_s = min(BACKOFF_TO_S, self.lease_s / 6, 2 * self._backoff_s or BACKOFF_FROM_S)
        self.retry_at = now + self._backoff_s
        if self.leaving:
            self.left = True

    def refuse(self, why: str, now: float) -> None:
        """What answers is not this worker's fleet: that is looked at again, as slowly as can be."""
        self.refused, self.retry_at = why, now + BACKOFF_TO_S

    def reached(self) -> None:
        """Redis has replied."""
        self.gone, self.refused, self._backoff_s, self.retry_at = False, "", 0.0, 0.0

    def meets(self, reply: Reply, now: float) -> list[Expelled]:
        """The epoch of a reply, this one or a new one, with which whatever was granted before is void (R6)."""
        expelled: list[Expelled] = []
        if reply.epoch_id != self.epoch:
            expelled = self.expel("a new epoch began" if self.epoch != NO_EPOCH else "")
            self.epoch, self.is_open, self._is_due = reply.epoch_id, False, False
        if reply.lease:
            self.lease_s = reply.lease_s
            self._observer.lease_s = max(self._observer.lease_s, self.lease_s)  # R6: the longer of both is watched
        self.is_open = self.is_open or reply.open  # an epoch that was heard open is not heard closed again (R3)
        self._observer.saw_epoch(self.epoch, self.is_open, now)
        return expelled

    def expel(self, why: str) -> list[Expelled]:
        """The membership is over: its lease ends, for ever. `why` is empty where that is no news."""
        expelled = [Expelled(why)] if self.id is not None and why else []
        self.id, self._acked = None, 0
        self.lease.end()
        if self.leaving:
            self.left = True
        return expelled

    def take_join(self, call: Join, reply: Reply, sent: float, *, holds: bool) -> Joined | None:
        """A membership begins, with a Lease object of its own; None: that reply does not count (R10). `holds`: there is a list to send."""
        if self.id is not None or call.serial != self._joins or reply.verdict != "ok" or reply.id is None:
            return None
        self._joins += 1  # the reply counts once
        self.id = reply.id
        self.lease = Lease()
        self._extend(reply, sent)
        self._counter, self._acked, self._list, self.list_changed = 0, 0, (), holds
        self._beat_at = sent + self.lease_s / 3 * self._chance()  # a fleet that starts together does not beat together
        return Joined(reply.id, self.epoch)

    def _extend(self, reply: Reply, sent: float) -> None:
        if reply.open and self.is_open:
            self.lease.extend(sent + usable_s(self.lease_s))  # R2: from when the call was first sent

    def take_beat(self, reply: Reply, sent: float, now: float) -> None:
        """The reply to a heartbeat of this membership."""
        if reply.verdict == "list":
            self._lose_list()
        if reply.verdict != "ok":
            return
        self._beat_at = sent + self.lease_s / 3
        self._extend(reply, sent)
        self._is_due = reply.due
        self._observer.saw({m: b for m, b in reply.watch.items() if m != self.id}, now)

    def take_hold(self, call: Hold, reply: Reply) -> bool:
        """The reply to a list of this membership. Whether the list is acknowledged by it."""
        if call.counter != self._counter:
            return False  # only the reply to the last list counts (R10)
        if reply.verdict == "old":
            self._lose_list()
        if reply.verdict != "ok":
            return False
        self._acked = call.counter
        return True

    def _lose_list(self) -> None:
        """The server's list is older, or another one: ours goes again, under a new counter."""
        self._acked, self.list_changed = 0, True

    def evicted(self, member: str) -> None:
        """That member is no member any more, or has another beat."""
        self._observer.forget(member)

    def settled(self) -> None:
        """What was overdue has been decided."""
        self._is_due = False

    # --- what is due ---------------------------------------------------------------------------------------------

    def hurry(self, now: float) -> None:
        """The next heartbeat is due now."""
        self._beat_at = min(self._beat_at, now)

    def may_call(self, now: float) -> bool:
        """Whether anything may be sent."""
        return now >= self.retry_at and not self.left

    def passage(self, about: str) -> Join | Leave | None:
        """The way in and the way out, beside which nothing else is said. `about`: JSON for people."""
        if self.id is None:
            return None if self.leaving else Join(about, self._joins)
        return Leave(self.id) if self.leaving else None

    def beat(self, now: float, about: str) -> Heartbeat | None:
        """One per third of a lease. `about`: JSON for people, carried by some of them."""
        assert self.id is not None
        if now < self._beat_at:
            return None
        self._beats += 1
        described = about if self.describes or self._beats % DESCRIBE_EVERY == 0 else ""
        self.describes = False
        return Heartbeat(self.id, self._acked, self._observer.watched, described)

    def hold(self, models: Iterable[str]) -> Hold | None:
        """The whole list under a new counter when it changed; the same again until it is acknowledged (R10)."""
        assert self.id is not None
        if self.list_changed:
            self._counter += 1
            self._list, self.list_changed = tuple(sorted(models)), False
        return Hold(self.id, self._counter, self._list) if self._counter > self._acked else None

    def chore(self, now: float) -> Call | None:
        """What anybody may do for the fleet: evict the silent, open a watched epoch, settle what is overdue."""
        if self._observer.may_open(now):
            return Open(self._worker)
        if silent := self._observer.silent(now):
            return Evict(*silent, self._worker)
        return Settle() if self._is_due else None

    def wake_at(self, now: float, others: Iterable[float]) -> float:
        """When something may be due, here or at one of the `others`, if no event comes before."""
        times = [self._beat_at if self.id is not None else now, *others]
        if self._observer.wake_at is not None:
            times.append(self._observer.wake_at)
        due_at = max(min(times), self.retry_at)
        if self.gone and self.lease.deadline > now:
            return min(self.lease.deadline, due_at)  # from then on views are stale
        return due_at
