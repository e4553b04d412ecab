"""What a worker counts while a candidate is tried, or a generation is watched after its canary. Pure.

A `Trial` is one step of that in one membership: it counts the requests with a key of two groups, those that the active generation answered
and those that the candidate did. The agent reports it now and then, and hears the sums of all workers.

Requests count without a lock, as `View.uses` does and for the same reason: CPython changes threads at calls and at backward jumps, and
none of these lines has one between its reading and its writing.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, NamedTuple

import msgspec

from ..coordinator.canary import BUCKETS, bucket_of, place_of
from .view import View, clock

#: A score is not further from 0: squares of it are still summed by the fleet (up to 10^100, lua/report.lua).
MOST_SCORE = 1e40


class Group:
    """What one group has done; see `canary.Figures` for the units."""

    __slots__ = ("errors", "requests", "score", "scored", "seconds", "slow", "squares")

    def __init__(self) -> None:
        self.requests = self.errors = self.scored = 0
        self.seconds = self.score = self.squares = 0.0
        self.slow = [0] * BUCKETS

    def ended(self, seconds: float, *, failed: bool) -> None:
        """A request is over."""
        bucket = bucket_of(seconds)
        self.slow[bucket] += 1
        self.seconds += seconds
        if failed:
            self.errors += 1

    def scores(self, value: float) -> None:
        """The user's own judgement of an answer; what is no number is left out, or no sum would be one any more."""
        if not abs(value) <= MOST_SCORE:
            return
        self.scored += 1
        self.score += value
        self.squares += value * value

    def row(self) -> dict[str, Any]:
        """As it is reported: sums since the step began."""
        slow = {str(bucket): count for bucket, count in enumerate(self.slow) if count}
        sums = {name: getattr(self, name) for name in ("requests", "errors", "seconds", "scored", "score", "squares")}
        return sums | {"slow": slow}


class Tried(NamedTuple):
    """What is tried, as the fleet says. `key`: generation, step of its canary (0: it is active and watched), the share of the requests
    that it answers, in ten-thousandths; `policy`: as the fleet keeps it."""

    key: tuple[int, int, int]
    policy: str | None


class Trial:
    """The counts of one step in one membership: another one begins at 0, because it is another one to the fleet."""

    __slots__ = ("active", "candidate", "key", "member", "model", "policy")

    def __init__(self, model: str, what: Tried, member: str) -> None:
        self.model, self.member = model, member
        self.key, self.policy = what
        self.active, self.candidate = Group(), Group()

    @property
    def generation(self) -> int:
        return self.key[0]

    @property
    def step(self) -> int:
        return self.key[1]

    @property
    def is_watch(self) -> bool:
        return self.key[1] == 0

    def counted(self) -> str:
        """What is reported."""
        return msgspec.json.encode({"active": self.active.row(), "candidate": self.candidate.row()}).decode()


class Arms:
    """What a view has beside its payload while a trial is on: which of the two answers a key, and where that is counted."""

    __slots__ = ("other", "trial")

    def __init__(self, trial: Trial, other: View | None) -> None:
        """`other`: the candidate as a view of its own; None while the active generation is watched."""
        self.trial, self.other = trial, other

    def pick(self, view: View, key: str) -> Counted:
        """The answer to a request with this key, `view` being what answers otherwise."""
        return Counted(*self.choose(view, key))

    def choose(self, view: View, key: str) -> tuple[View, Group]:
        """The same for who has something to do before it counts: what answers, and the group that counts it."""
        trial = self.trial
        if trial.is_watch:
            return view, trial.candidate
        if self.other is not None and place_of(trial.model, trial.generation, key) < trial.key[2]:
            return self.other, trial.candidate
        return view, trial.active


class Counted(View):
    """A view of one request: it is counted when its block ends, or when `ended` is called."""

    __slots__ = ("_began", "_group", "is_over")

    def __init__(self, view: View, group: Group) -> None:
        super().__init__(
            model=view.model,
            payload=view.payload,
            generation=view.generation,
            version=view.version,
            lease=view.lease,
            stale=view.stale,
            candidate=view.candidate,
            used_at=view.used_at,
            bytes=view.bytes,
        )
        self._group, self._began, self.is_over = group, clock(), False
        group.requests += 1

    def score(self, value: float) -> None:
        """The user's own judgement of this answer, which a policy may compare: higher is better."""
        self._group.scores(float(value))

    def ended(self, *, failed: bool) -> None:
        """The request is over; only the first time counts."""
        if not self.is_over:
            self.is_over = True
            self._group.ended(max(0.0, clock() - self._began), failed=failed)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The block is over; an exception is an error of the group, but for those that only end a process or a generator."""
        self.ended(failed=kind is not None and issubclass(kind, Exception))
