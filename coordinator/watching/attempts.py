"""When a publish that failed is tried again, and whether that is news. Pure."""

from __future__ import annotations

import errno

from ..errors import (
    ArtifactRefused,
    FlipAborted,
    FlipRejected,
    FlipSuperseded,
    ManifestInvalid,
    Misuse,
    Poisoned,
    SettingsInvalid,
)

#: Seconds before the second try; each later pause is twice the one before.
FIRST_PAUSE_S = 1.0
#: Seconds between two tries at most: what an operator mends (a pin, a full disk) is noticed a minute later.
MAX_PAUSE_S = 60.0
#: The fleet, or a person, has decided against this version.
DECIDED = (FlipRejected, FlipAborted, FlipSuperseded, Poisoned)
#: What the same files would meet again.
FINAL = (*DECIDED, ArtifactRefused, ManifestInvalid, Misuse)


def is_final(error: Exception) -> bool:
    """Whether trying the same files again is of no use. It is where the system has failed, not the file: a server, a permission."""
    cause = error.__cause__
    is_systems = isinstance(cause, OSError) and cause.errno not in (
        None,
        errno.EINVAL,
    )  # EINVAL: what a torn archive says
    return isinstance(error, FINAL) and not isinstance(error, SettingsInvalid) and not is_systems


class Attempts:
    """The tries of one model, from one success to the next. Moments are in seconds of one clock that only grows."""

    def __init__(self) -> None:
        self.due = float("-inf")  #: when the next one may be
        self._pause_s = FIRST_PAUSE_S
        self._cause = ""

    def failed(self, error: Exception, now: float) -> bool:
        """The last one failed; whether that has to be said: the same cause is said once."""
        self.due = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
        cause = type(error).__name__
        is_news, self._cause = cause != self._cause, cause
        return is_news

    def ended(self) -> None:
        """The last one came to its end, whatever that was: the next one may be at once."""
        self.due, self._pause_s, self._cause = float("-inf"), FIRST_PAUSE_S, ""
