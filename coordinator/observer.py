"""Who has shown the same beat for a whole lease, and how long an epoch has been watched (R5, R6).

Pure: told what a reply said and when, on the watcher's own clock. A waiting publisher has one, and every worker.
"""

from __future__ import annotations

from collections.abc import Mapping

from .clock import patience_s


class Observer:
    """What one process has seen of others. Times are seconds of its own clock."""

    def __init__(self, lease_s: float, *, jitter: float) -> None:
        """`jitter`, 0 to 1: this watcher's share of a tenth of a lease by which it opens later than another might (R6)."""
        self.lease_s = lease_s
        self._jitter = jitter
        self._since: dict[str, tuple[str, float]] = {}  # member → its beat, and since when it is the same
        self._epoch: tuple[int, str] | None = None
        self._closed: tuple[tuple[int, str], float] | None = None  # the epoch heard closed, and since when

    @property
    def watched(self) -> tuple[str, ...]:
        """The members that are being watched, to be named in the next call."""
        return tuple(self._since)

    def saw(self, beats: Mapping[str, str], now: float) -> None:
        """A reply named these members as waited for; who is not named any more is not watched any more."""
        self._since = {
            member: known if (known := self._since.get(member)) is not None and known[0] == beat else (beat, now)
            for member, beat in beats.items()
        }

    def silent(self, now: float) -> tuple[str, str] | None:
        """A member to be evicted, with the beat that it has shown for a whole lease."""
        for member, (beat, since) in self._since.items():
            if now >= since + patience_s(self.lease_s):
                return member, beat
        return None

    def forget(self, member: str) -> None:
        """It was evicted, or has another beat."""
        self._since.pop(member, None)

    def saw_epoch(self, epoch: tuple[int, str], is_open: bool, now: float) -> None:
        """A reply was of this epoch. In another one ids and beats begin anew: who was watched is forgotten; a closed one begins to
        be watched.
        """
        if epoch != self._epoch:
            self._epoch, self._since = epoch, {}
        if is_open:
            self._closed = None
        elif self._closed is None or self._closed[0] != epoch:
            self._closed = (epoch, now)

    def may_open(self, now: float) -> bool:
        """Whether the closed epoch has been watched long enough."""
        return self.opens_at is not None and now >= self.opens_at

    @property
    def opens_at(self) -> float | None:
        """When that will be; None: no closed epoch is watched."""
        if self._closed is None:
            return None
        return self._closed[1] + patience_s(self.lease_s) + self._jitter * self.lease_s / 10

    @property
    def wake_at(self) -> float | None:
        """The next moment at which there may be something to do."""
        times = [since + patience_s(self.lease_s) for _, since in self._since.values()]
        if self.opens_at is not None:
            times.append(self.opens_at)
        return min(times, default=None)
