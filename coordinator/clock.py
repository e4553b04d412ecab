"""The one clock that leases and watchers are measured on, and how far it is trusted (docs/how-it-works.md, "Numbers").

`clock()` goes on while the machine sleeps where the system has such a clock, so that a lease is not longer than it looks. Each
process reads only its own: no time of one process is ever compared with a time of another, nor with Redis's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

#: Share by which the rates of two clocks may differ. Crystal oscillators differ by 1e-4; a clock that is slewed hard, by 1e-1.
DRIFT = 0.1
#: Seconds between reading the clock and acting on it that are always granted.
MARGIN_S = 0.05

#: Seconds since some fixed moment of this machine; `CLOCK_BOOTTIME` where there is one.
clock: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)


def usable_s(lease_s: float) -> float:
    """Seconds of a lease that its worker uses, from when the call was first sent (R2)."""
    return lease_s * (1 - DRIFT) - MARGIN_S


def patience_s(lease_s: float) -> float:
    """Seconds that a watcher sees the same beat, or a closed epoch, before it acts (R5, R6)."""
    return lease_s * (1 + DRIFT) + MARGIN_S
