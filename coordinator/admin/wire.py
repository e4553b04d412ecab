"""What goes over the admin's HTTP: the types that requests are read into, and those that answers are written from. Pure.

The types of `status`, `flip` and `task` are answers as they are. The OpenAPI document is made from the same types (see `document`), so a
field that is not here is neither read nor described. Times are unix seconds, spans seconds, sizes bytes.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from ..canary import Policy
from ..manifest import MAX_METRICS, MetricName
from ..status import CandidateWorker, Generation, ModelStatus, WorkerStatus

#: Entries of the log that one answer has at most, and that the admin keeps at hand.
MOST_EVENTS = 1000
#: Generations that one answer has at most: those of which Redis keeps something, and the ways back.
MOST_GENERATIONS = 512

Whole = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Text = Annotated[str, msgspec.Meta(max_length=4096)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
Path = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
#: Seconds that a candidate gets to be prepared, or workers to do a task.
Timeout = Annotated[float, msgspec.Meta(gt=0, le=86400)]


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of what is read: a field that nobody knows is an error, not a typing mistake without effect."""


# --- read ------------------------------------------------------------------------------------------------------------


class EventsQuery(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`limit`: entries at most; `after`: the id of an entry, only those behind it; `follow`: go on, as server-sent events; `state`: and
    tell what changes of the fleet, its models, workers and candidates."""

    limit: Annotated[int, msgspec.Meta(ge=0, le=MOST_EVENTS)] = 100
    after: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,16}-[0-9]{1,16}$")] | None = None
    follow: bool = False
    state: bool = False


class HistoryQuery(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`limit`: generations at most, the newest ones."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_GENERATIONS)] = 50


class Publish(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`path` or `paths` (artifact → path) of files on the admin's host; `canary`: steps such as `5%` or `5%,25%`; `policy`: such as
    `errors=1%,latency=1.25`, or its parts; `agreement`: `all`, `90%` or a share; `golden`: a file of golden outputs; `metrics`: what
    training measured, for people."""

    path: Path | None = None
    paths: Annotated[dict[Name, Path], msgspec.Meta(min_length=1, max_length=64)] | None = None
    canary: Text | float | None = None
    policy: Policy | Text | None = None
    canary_timeout: Annotated[float, msgspec.Meta(gt=0, le=604800)] | None = None
    agreement: Text | float | None = None
    timeout: Timeout | None = None
    message: Text = ""
    metrics: Annotated[dict[MetricName, float], msgspec.Meta(max_length=MAX_METRICS)] = {}
    golden: Path | None = None
    now: bool = False
    force: bool = False
    wait: bool = True


class Rollback(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`to`: the committed generation to go back to, without it the newest way back; `pin`: refuse proposals afterwards."""

    to: Whole | None = None
    pin: bool = True
    timeout: Timeout | None = None
    why: Text = ""
    wait: bool = True


class Promote(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`share`: of the requests from now on (`25%`, 0.25), without it all of them: the candidate is committed; `generation`: only if that is
    the candidate."""

    share: Text | float | None = None
    generation: Whole | None = None
    why: Text = ""


class Abort(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`generation`: only if that is the candidate."""

    generation: Whole | None = None
    why: Text = ""


class Why(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`why`: for the audit log."""

    why: Text = ""


class Refresh(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`timeout`: how long workers may take; 20 s at most are waited for; `why`: for the audit log."""

    timeout: Timeout | None = None
    why: Text = ""


class Clear(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`model`: the one to drop, without it all of them; `why`: for the audit log."""

    model: Name | None = None
    timeout: Timeout | None = None
    why: Text = ""


# --- written ---------------------------------------------------------------------------------------------------------


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """`models`, `workers`, `hosts`: how many there are; `candidates`: in work; `pinned`: models; `poisoned`: versions found bad."""

    models: int
    workers: int
    hosts: int
    candidates: int
    pinned: int
    poisoned: int


class FleetNow(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet. `as_of`: when it was read, unix s of the admin's clock; `stale`: Redis does not answer since; `why`: what it says."""

    name: str
    id: str
    epoch: int
    open: bool
    lease_s: float
    revision: int
    redis: str
    store: str
    counts: Counts
    as_of: float
    stale: bool
    why: str = ""


class Models(msgspec.Struct, frozen=True, kw_only=True):
    """All models. `as_of`, `stale`: see FleetNow."""

    models: list[ModelStatus]
    as_of: float
    stale: bool


class Workers(msgspec.Struct, frozen=True, kw_only=True):
    """All live workers. `as_of`, `stale`: see FleetNow."""

    workers: list[WorkerStatus]
    as_of: float
    stale: bool


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Generations of a model, the newest first."""

    generations: list[Generation]


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the audit log; `id`: to ask for what is behind it."""

    id: str
    at: float
    what: str
    model: str
    facts: dict[str, Any]


class Events(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of the audit log, oldest first."""

    events: list[LogEntry]


class ModelsChange(msgspec.Struct, frozen=True, kw_only=True):
    """Models that are new or not as they were, and names of those that are no more: the data of the event `models`."""

    changed: list[ModelStatus]
    gone: list[str]


class WorkersChange(msgspec.Struct, frozen=True, kw_only=True):
    """Workers that are new or not as they were, and members that are no more: the data of the event `workers`."""

    changed: list[WorkerStatus]
    gone: list[str]


class CandidateProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far each worker is with a candidate: the data of the event `candidate`."""

    model: str
    generation: int
    workers: list[CandidateWorker]


#: Event of a stream → its data.
EVENTS: dict[str, type[msgspec.Struct]] = {
    "log": LogEntry,
    "fleet": FleetNow,
    "models": ModelsChange,
    "workers": WorkersChange,
    "candidate": CandidateProgress,
}


class Whoami(msgspec.Struct, frozen=True, kw_only=True):
    """Whom the token belongs to."""

    role: str
    name: str


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of all workers together, as each said them last: `totals`: sums; `workers`: how many said any."""

    workers: int
    totals: dict[str, float]
    as_of: float
    stale: bool


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's decision is done. `generation`: the one that it was about."""

    outcome: str
    model: str
    generation: int
    request: str


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """It goes on; the same request with the same Idempotency-Key asks for the outcome. `state`: staging, preparing, canary, fencing …"""

    outcome: str
    model: str | None
    request: str
    state: str


class Alive(msgspec.Struct, frozen=True, kw_only=True):
    """The process answers."""

    alive: bool


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Redis answers. `as_of`: when it last did."""

    ready: bool
    as_of: float


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error, as RFC 9457 has it; the facts of the error are further members. `id`: of an error of the admin's own, for its log."""

    # The description of the body that a problems.Problem encodes: nothing is made of this type.

    type: str
    title: str
    status: int
    detail: str
    instance: str
    id: str | msgspec.UnsetType = msgspec.UNSET
