"""Which revisions a worker has heard of, which it has read, and whether hints come at all (R3, R14). Pure; the agent owns it."""

from __future__ import annotations

#: Seconds that a hint may be late at least; else a third of a lease (R14).
LEAST_PATIENCE_S = 1.0


class Hints:
    """Revisions of one epoch."""

    def __init__(self) -> None:
        self.heard = 0  #: the highest revision that a reply or a hint told of
        self.seen = 0  #: all that is held was read up to this one
        self.hinted = 0  #: the highest revision that a hint told of, or that one is not waited for any more
        self._missing: tuple[int, float] | None = None  # a revision without its hint, and since when

    def new_epoch(self, revision: int) -> None:
        """Revisions begin anew; nothing of this epoch has been read."""
        self.heard = self.hinted = revision
        self.seen, self._missing = 0, None

    def came(self, revision: int, *, concerns_us: bool) -> None:
        """A hint: look, do not believe."""
        self.hinted = max(self.hinted, revision)
        if self._missing and self.hinted >= self._missing[0]:
            self._missing = None
        if revision == self.seen + 1 and not concerns_us:
            self.seen = revision  # somebody else's model: nothing to read
        self.heard = max(self.heard, revision)

    def told(self, revision: int, now: float) -> None:
        """A reply carried the counter: its hint must come soon."""
        self.heard = max(self.heard, revision)
        if self.heard > self.hinted and self._missing is None:
            self._missing = (self.heard, now)

    def read_all(self, revision: int) -> None:
        """A reply showed all that is held. What a hint said beyond it was no revision of this epoch: it came before the reply."""
        self.seen = self.heard = revision
        self.hinted = min(self.hinted, revision)

    def read_one(self, revision: int) -> None:
        """A reply showed the one change behind what had been read."""
        if revision == self.seen + 1:
            self.seen = revision

    def look_again(self) -> None:
        """What was read counts for nothing: hints may have been missed, or a change is expected."""
        self.seen = -1

    def subscribed(self) -> None:
        """A subscription began: hints before it were missed, so the state is read."""
        self.look_again()
        self.hinted, self._missing = self.heard, None

    @property
    def is_behind(self) -> bool:
        """Whether there is something to read."""
        return self.heard > self.seen

    def overdue_at(self, lease_s: float) -> float | None:
        """When a hint that has not come means that the subscription is dead."""
        return self._missing[1] + max(LEAST_PATIENCE_S, lease_s / 3) if self._missing else None

    def give_up(self) -> None:
        """The subscription is being replaced: that hint is not waited for."""
        self._missing, self.hinted = None, self.heard
