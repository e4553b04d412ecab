"""What an agent wants done, as plain values: the runtime carries them out without deciding anything. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..coordinator.reply import Epoch
from .slot import Found, Job, Key
from .trial import Trial
from .view import Lease


class Shown(NamedTuple):
    """What a view shows. `mode`: lease (answer while it runs), ask, or stale (answer, marked). `trial`: a canary is on, of the candidate
    `other` (its key and handle), or what is shown is watched."""

    key: Key
    handle: int
    mode: str
    lease: Lease | None
    trial: Trial | None = None
    other: tuple[Key, int] | None = None


@dataclass(frozen=True)
class Load:
    """Begin this job."""

    job: Job


@dataclass(frozen=True)
class Cancel:
    """Give this job up."""

    job: Job


@dataclass(frozen=True)
class Examine:
    """Find out whether anybody vouches for this manifest: see `Agent.examined`."""

    found: Found


@dataclass(frozen=True)
class Answered:
    """A question has its answer: model → (key, handle, stale); or why there is none, and for which model."""

    token: int
    found: Mapping[str, tuple[Key, int, bool]] = field(default_factory=dict)
    model: str = ""
    why: str = ""
    unknown: bool = False


@dataclass(frozen=True)
class Flipped:
    """Another generation became active here."""

    model: str
    before: Key | None
    after: Key


@dataclass(frozen=True)
class Rejected:
    """A candidate that this worker got ready for is gone, and did not become active."""

    model: str
    key: Key
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class Arrived:
    """This worker has loaded a generation. `purpose`: of the job; "forced" where every use loads or checks the file."""

    model: str
    key: Key
    purpose: str


@dataclass(frozen=True)
class Dropped:
    """This worker holds a model no more. `key`: what it showed of it, if it had loaded something; `reason`: see stats.DROP_REASONS."""

    model: str
    key: Key | None
    reason: str


@dataclass(frozen=True)
class Clear:
    """A fleet-wide clear reached this worker; an empty model is all."""

    model: str


@dataclass(frozen=True)
class Resubscribe:
    """The subscription did not bring a hint in time (R14)."""


@dataclass(frozen=True)
class Joined:
    """A membership began."""

    member: str
    epoch: Epoch


@dataclass(frozen=True)
class Expelled:
    """A membership ended without our leaving: evicted, or a new epoch (`why`)."""

    why: str


#: What the runtime tells beside, of what it has done.
News = Arrived | Dropped
Command = Load | Cancel | Examine | Answered | Flipped | Rejected | Clear | Resubscribe | Joined | Expelled
