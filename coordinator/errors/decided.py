"""The fleet, or somebody in charge of it, decided against it; or nobody knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .base import GenlockError


class NotCommitted(GenlockError):
    status = 409
    exit_status = 3
    outcome = "rejected"


def _still(model: str, pinned: int | None) -> str:
    """What else a rollback has done that did not come about: its pin is older than the decision against it."""
    return f". {model} stays pinned at generation {pinned}; `genlock unpin {model}` lets proposals in" if pinned else ""


@dataclass(eq=False)
class FlipRejected(NotCommitted):
    model: str
    generation: int
    version: str
    why: str
    step: str = ""
    worker: str = ""
    flip: Any = field(default=None, repr=False)
    had_active: bool = True
    pinned: int | None = None  #: of a rollback: the generation that the model is still pinned at

    def __str__(self) -> str:
        who = f" by {self.worker}" if self.worker else ""
        step = f" at {self.step}" if self.step else ""
        active = ". What was active stays active" if self.had_active else ""
        told = f"generation {self.generation} of model {self.model!r} was rejected{who}{step}: {self.why}{active}"
        return told + _still(self.model, self.pinned)


@dataclass(eq=False)
class FlipSuperseded(NotCommitted):
    model: str
    version: str
    by: str = ""
    flip: Any = field(default=None, repr=False)
    pinned: int | None = None

    outcome = "superseded"

    def __str__(self) -> str:
        told = f"the proposal of {self.version[:12]} for model {self.model!r} was superseded by a newer one {self.by}".rstrip()
        return told + _still(self.model, self.pinned)


@dataclass(eq=False)
class FlipAborted(NotCommitted):
    model: str
    generation: int
    why: str
    flip: Any = field(default=None, repr=False)
    pinned: int | None = None

    outcome = "aborted"

    def __str__(self) -> str:
        return f"generation {self.generation} of model {self.model!r} was aborted: {self.why}{_still(self.model, self.pinned)}"


@dataclass(eq=False)
class Pinned(NotCommitted):
    model: str
    by: str
    at: float
    why: str
    generation: int

    outcome = "pinned"

    def __str__(self) -> str:
        import time

        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.at))
        return (
            f"model {self.model!r} is pinned to generation {self.generation} since {at} by {self.by} ({self.why or 'no reason given'}):"
            f" `genlock unpin {self.model}` lets proposals in again"
        )


@dataclass(eq=False)
class Poisoned(NotCommitted):
    model: str
    version: str
    why: str
    to: int | None = None  #: the generation of a rollback, which knows no force

    outcome = "poisoned"

    def __str__(self) -> str:
        bad = f"version {self.version[:12]} of model {self.model!r} was found bad before ({self.why})"
        if self.to is None:
            return f"{bad}: it is not tried again unless with force: `genlock publish {self.model} FILE --force`"
        return f"{bad}: there is no way back to generation {self.to}; name another generation, or publish the file again with --force"


@dataclass(eq=False)
class LockHeld(NotCommitted):
    model: str
    by: str
    since: float
    waited_s: float

    status = 423
    exit_status = 4
    outcome = "locked"

    def __str__(self) -> str:
        import time

        since = time.strftime("%H:%M:%S", time.localtime(self.since))
        return (
            f"{self.by} holds the publish lock of model {self.model!r} since {since}; waited {self.waited_s:.1f} s."
            " Try again when it is done"
        )


@dataclass(eq=False)
class LockLost(NotCommitted):
    model: str
    by: str = ""

    outcome = "lock-lost"

    def __str__(self) -> str:
        now = f" ({self.by} holds it now)" if self.by else ""
        return f"the publish lock of model {self.model!r} ran out before the proposal{now}: nothing was proposed. Publish again"


@dataclass(eq=False)
class OutcomeUnknown(GenlockError):
    model: str
    request: str
    why: str
    flip: Any = field(default=None, repr=False)

    status = 504
    exit_status = 4
    outcome = "unknown"

    def __str__(self) -> str:
        return (
            f"it is not known whether model {self.model!r} was changed: {self.why}. The same call with request={self.request!r}"
            " asks for the outcome and does nothing twice"
        )
