"""What a request reads: View, Lease, and the one map of views of a worker. Pure.

Theory of operation
-------------------

A worker answers from memory as long as a lease lets it. The runtime's thread keeps one map, model → View, and
changes it in one way only: it builds another map and assigns it, one reference, which no reader can see half
of. A request does::

    view = views[model]             # 1  the map, and what it says of this model
    now = clock()                   # 2  only then the time
    now < view.lease.deadline       # 3  one comparison: answer, or go the slow way

*The order is the promise.* A commit needs "fenced" from every holder, and a worker says so after its map has
no view of that model with a running lease (R1). A worker that says nothing is evicted, but later than its
lease has run out by its own clock (R2, R5). So whoever learns in 3 that the lease still ran at 2 knows that
it ran at 1, which was earlier, and that at 1 nothing newer had been committed. That holds for all models of
the map at once: 1 is the one instant of the fleet from which `use_many` answers. With the time read first,
nothing would be known of the moment in which the map was read. What is committed between 1 and the answer
does no harm, because the request began before::

    request                             runtime                          fleet
    view = views[model]   7
                                        fences: the view must ask
                                        sends "fenced"
                                                                         commits 8
    now < view.lease.deadline
    answers from 7: allowed, it began before the commit of 8;
    a request that begins now finds the view that must ask, or 8

*A view names its lease, not a deadline.* The deadline moves three times in a lease, the views stay. The Lease
belongs to the membership under which the view was installed. Eviction, leave and a new epoch `end` it, and at
once every view that refers to it must ask, for ever: the next membership has its own Lease and gives no right
to older views. A fence takes one model: its view is replaced by `must_ask()`, and when the fence is lifted by
one that was built then. This is why nobody but the runtime's thread writes a map or a lease (R3).

*Nothing is locked.* References, floats and ints are read and written whole. Requests write `uses` and
`used_at`: CPython changes threads at calls and backward jumps, and `view.uses += 1` has neither, so no count
is lost. On an interpreter without that lock a lost count makes a figure slightly low, and nothing else. A
request that was overtaken between 1 and 3 counts on a view that was replaced, and may not appear in the
figures either.

A request that holds a View keeps the payload alive by that reference; the generation before goes when the
last one lets go.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

# The clock of leases is the clock of watchers (R5): there is one definition of it.
from ..coordinator.clock import clock

if TYPE_CHECKING:
    from .trial import Arms

__all__ = ["FOREVER", "NEVER", "Lease", "View", "Views", "clock"]

#: A deadline that no clock has reached yet is later than this.
_PAST = float("-inf")


class Lease:
    """A member's right to answer from memory without asking. One object per membership; only the runtime's
    thread writes it.
    """

    __slots__ = ("deadline", "ended")

    #: Seconds on the worker's clock: sent + lease × (1 − drift) − margin (R2). Requests read it.
    deadline: float
    #: The membership is over; nothing makes this lease run again.
    ended: bool

    def __init__(self) -> None:
        self.deadline = _PAST
        self.ended = False

    def extend(self, deadline: float) -> None:
        """Run until `deadline`, if that is later. A reply that came late never shortens; after `end` it
        does nothing.
        """
        if deadline > self.deadline and not self.ended:
            self.deadline = deadline

    def end(self) -> None:
        """Run out now, and for ever."""
        self.ended = True
        self.deadline = _PAST

    def __repr__(self) -> str:
        return f"Lease(deadline={self.deadline}{', ended' if self.ended else ''})"


#: The lease that never runs, of views that must ask.
NEVER = Lease()
NEVER.end()
#: The lease of views that are marked `stale`: they promise nothing, so nothing runs out.
FOREVER = Lease()
FOREVER.extend(float("inf"))


class View:
    """One generation of one model, as a request sees it. Never changed after it was installed, but for
    `uses` and `used_at`.
    """

    __slots__ = (
        "arms",
        "bytes",
        "candidate",
        "generation",
        "lease",
        "model",
        "payload",
        "stale",
        "used_at",
        "uses",
        "version",
    )

    model: str
    #: What the loader returned.
    payload: Any
    #: (generation, version) is the identity of what is active.
    generation: int
    version: str
    lease: Lease
    #: The answer cannot promise that nothing newer is active.
    stale: bool
    #: When a canary answers: the candidate's generation, whose `payload` and `version` these are;
    #: `generation` is the active one.
    candidate: int | None
    #: A canary is on, or this generation is watched after one: what answers a request with a key, and counts it. See trial.
    arms: Arms | None
    #: How often requests answered from this object, and when last (seconds on the worker's clock, -inf:
    #: never). Requests write both.
    uses: int
    used_at: float
    #: Memory of the payload, as the loader counted it.
    bytes: int

    def __init__(
        self,
        *,
        model: str,
        payload: Any,
        generation: int,
        version: str,
        lease: Lease = NEVER,
        stale: bool = False,
        candidate: int | None = None,
        uses: int = 0,
        used_at: float = _PAST,
        bytes: int = 0,
        arms: Arms | None = None,
    ) -> None:
        self.arms = arms
        self.model = model
        self.payload = payload
        self.generation = generation
        self.version = version
        self.lease = lease
        self.stale = stale
        self.candidate = candidate
        self.uses = uses
        self.used_at = used_at
        self.bytes = bytes

    def must_ask(self) -> View:
        """A copy that gives no right to answer from memory: for a fence."""
        return self._copy(NEVER, stale=self.stale)

    def under(self, lease: Lease) -> View:
        """A copy that answers as long as `lease` runs."""
        return self._copy(lease, stale=self.stale)

    def as_stale(self) -> View:
        """A copy whose answers are marked `stale`: it cannot be promised that nothing newer is active."""
        return self._copy(self.lease, stale=True)

    def _copy(self, lease: Lease, *, stale: bool) -> View:
        """Uses begin at 0 again, or they would be counted twice; the last use stays what it was, for the
        LRU order.
        """
        return View(
            model=self.model,
            payload=self.payload,
            generation=self.generation,
            version=self.version,
            lease=lease,
            stale=stale,
            candidate=self.candidate,
            used_at=self.used_at,
            bytes=self.bytes,
        )

    def score(self, value: float) -> None:
        """The user's own judgement of this answer, higher is better: it counts while a canary compares two generations."""

    def ended(self, *, failed: bool) -> None:
        """The request is over: it counts likewise."""

    def __enter__(self) -> View:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to give back: the reference is the hold."""

    def __repr__(self) -> str:
        marks = "".join((", stale" if self.stale else "", f", candidate={self.candidate}" if self.candidate else ""))
        return f"View({self.model!r}, generation={self.generation}, version={self.version[:12]!r}{marks})"


#: What a worker answers from, replaced as a whole: a plain dict that nobody changes (a MappingProxyType would
#: be slower to read).
Views = Mapping[str, View]
