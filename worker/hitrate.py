"""How often a use was answered from memory: the rate, its sliding window, the alarm on a low one. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

#: Seconds of the sliding hit rate, and of one sample of it: a minute outlasts a flip and a restart's first
#: misses, and shows an alarm while its cause is still there; a second is the heartbeat of the usual lease.
WINDOW_S, SAMPLE_S = 60.0, 1.0
#: Uses in the window below which a hit rate says nothing: under a hundred, one miss is more than a percent.
LEAST_USES = 100


@dataclass(frozen=True, slots=True)
class HitRate:
    """Hits and misses of some time; `value` is hits ÷ uses, None without a use."""

    hits: int
    misses: int

    @property
    def uses(self) -> int:
        return self.hits + self.misses

    @property
    def value(self) -> float | None:
        return self.hits / self.uses if self.uses else None

    def since(self, before: HitRate) -> HitRate:
        return HitRate(self.hits - before.hits, self.misses - before.misses)


class Window:
    """The hit rate of the last `WINDOW_S`, from samples of the totals; samples that come late make it
    longer.
    """

    __slots__ = ("_samples",)

    def __init__(self, now: float) -> None:
        #: (when, totals); the first is the newest that is older than the window, if there is one.
        self._samples: deque[tuple[float, HitRate]] = deque([(now, HitRate(0, 0))])

    def sample(self, now: float, totals: HitRate) -> HitRate:
        """The rate of the window that ends `now`; remembers `totals` for the windows to come."""
        if now - self._samples[-1][0] >= SAMPLE_S:
            self._samples.append((now, totals))
        while len(self._samples) > 1 and self._samples[1][0] <= now - WINDOW_S:
            self._samples.popleft()
        return totals.since(self._samples[0][1])


@dataclass(slots=True)
class Alarm:
    """Calls once when the rate falls below the threshold, and again only after it had recovered."""

    threshold: float
    callback: Callable[[HitRate], object]
    least: int
    armed: bool = True

    def rings(self, rate: HitRate) -> bool:
        """Whether to call now. Too few uses decide nothing, neither a fall nor a recovery."""
        if rate.value is None or rate.uses < self.least:
            return False
        low = rate.value < self.threshold
        rings = low and self.armed
        self.armed = not low
        return rings
