"""The errors of both parts. Each says what was tried, what was found and what to do, and carries its facts.

::

    GenlockError
    ├── Misuse                 the caller has to change the call
    │   ├── InvalidName, SettingsInvalid, UnknownModel, NoGeneration, BadInput, HeaderInvalid, Unauthorized, NotAllowed,
    │       TooLarge, DoesNotFit, Conflict, ServerRuns, CommandBroken
    ├── Unavailable            Redis or the fleet cannot answer now
    │   ├── RedisUnreachable, RedisRefused, FleetClosed, FleetMismatch, SchemaTooNew, NotReady
    ├── NotCommitted           the fleet, or somebody in charge of it, decided against it
    │   ├── FlipRejected, FlipSuperseded, FlipAborted, Pinned, Poisoned, LockHeld, LockLost
    ├── OutcomeUnknown         it may have happened or not; ask again by the request id
    └── ArtifactError          a file is not what it should be
        ├── ArtifactMissing, ArtifactDamaged, ArtifactRefused, BadCheckpoint, LoadFailed, ManifestInvalid,
            IdentityInvalid, StoreUnusable, StoreFull

Split by who has to act. `status` is the HTTP status that an error becomes, `exit_status` the one of a command
(0 done, 1 failed, 2 usage, 3 not committed by decision, 4 timed out or unknown, 5 Redis unreachable).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar


class GenlockError(Exception):
    """The base of all errors that genlock raises on purpose."""

    status: ClassVar[int] = 500
    exit_status: ClassVar[int] = 1
    #: The word for JSON and for the problem type of an HTTP answer.
    outcome: ClassVar[str] = "failed"

    @property
    def facts(self) -> dict[str, Any]:
        """The fields of the error, as they go into JSON."""
        if not hasattr(self, "__dataclass_fields__"):
            return {}
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]


# --- the caller has to change the call ------------------------------------------------------------------------


class Misuse(GenlockError):
    status = 400
    exit_status = 2
    outcome = "misuse"


@dataclass(eq=False)
class InvalidName(Misuse):
    name: str
    what: str = "model"

    def __str__(self) -> str:
        return f"{self.name!r} cannot be the name of a {self.what}: use 1 to 128 of A-Z a-z 0-9 . _ - only"


@dataclass(eq=False)
class SettingsInvalid(Misuse):
    setting: str
    value: str
    why: str

    def __str__(self) -> str:
        return f"the setting {self.setting}={self.value!r} cannot be used: {self.why}"


@dataclass(eq=False)
class UnknownModel(Misuse):
    model: str
    known: tuple[str, ...] = ()

    status = 404
    outcome = "unknown"

    def __str__(self) -> str:
        known = f" (known: {', '.join(self.known)})" if self.known else ""
        return f"the fleet has no model {self.model!r}{known}: publish one with `genlock publish {self.model} PATH`"


@dataclass(eq=False)
class NoGeneration(Misuse):
    model: str
    wanted: int | None
    why: str

    status = 404
    exit_status = 1
    outcome = "unknown"

    def __str__(self) -> str:
        if self.wanted is None:
            return f"model {self.model!r}: {self.why}"
        return f"model {self.model!r} has no generation {self.wanted}: {self.why}"


@dataclass(eq=False)
class BadInput(Misuse):
    where: str
    why: str

    status = 422
    outcome = "invalid"

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


@dataclass(eq=False)
class HeaderInvalid(Misuse):
    header: str
    value: str
    why: str

    def __str__(self) -> str:
        return f"the header {self.header}: {self.value!r} cannot be used: {self.why}"


@dataclass(eq=False)
class Unauthorized(Misuse):
    """Nobody who is known asks."""

    why: str

    status = 401

    def __str__(self) -> str:
        return f"not without a token that is known: {self.why}"


@dataclass(eq=False)
class NotAllowed(Misuse):
    """Who asks may not do this."""

    why: str

    status = 403

    def __str__(self) -> str:
        return f"not allowed: {self.why}"


@dataclass(eq=False)
class TooLarge(Misuse):
    what: str
    size: int
    limit: int

    status = 413

    def __str__(self) -> str:
        return f"{self.what} has {self.size} bytes, {self.limit} are allowed"


@dataclass(eq=False)
class DoesNotFit(Misuse):
    model: str
    why: str

    status = 507

    def __str__(self) -> str:
        return f"model {self.model!r} cannot be held by this worker: {self.why}"


@dataclass(eq=False)
class Conflict(Misuse):
    """A decision was made on a state that is no longer there (R10)."""

    model: str
    expected: str
    found: str

    status = 409
    exit_status = 1
    outcome = "conflict"

    def __str__(self) -> str:
        return (
            f"model {self.model!r} has changed meanwhile: the call expected {self.expected}, found {self.found};"
            " look at it again and decide again"
        )


@dataclass(eq=False)
class ServerRuns(Misuse):
    where: str
    pid: int | None

    status = 409
    exit_status = 1
    outcome = "conflict"

    def __str__(self) -> str:
        pid = "" if self.pid is None else f" (pid {self.pid})"
        return f"an embedded server{pid} already runs at {self.where}: end it with `genlock redis --stop` first"


@dataclass(eq=False)
class CommandBroken(Misuse):
    """A command that another distribution adds cannot be loaded."""

    command: str
    entry_point: str
    why: str

    exit_status = 1

    def __str__(self) -> str:
        return (
            f"the command {self.command!r} ({self.entry_point}) cannot be loaded: {self.why}."
            " Install what it needs, or remove the distribution that adds it"
        )


# --- Redis or the fleet cannot answer now -----------------------------------------------------------------------


class Unavailable(GenlockError):
    status = 503
    exit_status = 5
    outcome = "unavailable"


@dataclass(eq=False)
class RedisUnreachable(Unavailable):
    where: str
    why: str
    remedy: str = "Start it, or set GENLOCK_REDIS_URL to another one, or unset it to let genlock start its own"

    def __str__(self) -> str:
        return f"no Redis answers at {self.where}: {self.why.rstrip('.')}. {self.remedy}"


@dataclass(eq=False)
class RedisRefused(Unavailable):
    """The server answers, and does not do what genlock needs (READONLY, LOADING, OOM, NOPERM, an eviction policy, …)."""

    where: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"the Redis at {self.where} refuses: {self.why.rstrip('.')}. {self.remedy}"


@dataclass(eq=False)
class FleetClosed(Unavailable):
    fleet: str
    waited_s: float

    exit_status = 4
    outcome = "closed"

    def __str__(self) -> str:
        return (
            f"fleet {self.fleet!r} is closed: Redis has lost or may have lost data, and its members watch it for one lease"
            f" before they trust it again. Waited {self.waited_s:.1f} s; try again, or with a longer timeout"
        )


@dataclass(eq=False)
class FleetMismatch(Unavailable):
    fleet: str
    expected: str
    found: str

    exit_status = 1

    def __str__(self) -> str:
        return (
            f"fleet {self.fleet!r} in this Redis has the id {self.found}, the store says {self.expected}: two fleets share one"
            " name, or GENLOCK_STORE is not the folder that this fleet's workers and trainers use. Set it to that folder, or give one of"
            " the fleets another name (GENLOCK_FLEET) or its own store"
        )


@dataclass(eq=False)
class SchemaTooNew(Unavailable):
    fleet: str
    found: int
    known: int

    exit_status = 1

    def __str__(self) -> str:
        return f"fleet {self.fleet!r} has schema {self.found} in Redis, this genlock knows up to {self.known}: upgrade genlock here"


@dataclass(eq=False)
class NotReady(Unavailable):
    """A request cannot be answered from the generation that it needs."""

    model: str
    why: str
    retry_after_s: float = 1.0

    def __str__(self) -> str:
        return f"model {self.model!r} cannot answer now: {self.why}"


# --- decided against ----------------------------------------------------------------------------------------------


class NotCommitted(GenlockError):
    status = 409
    exit_status = 3
    outcome = "rejected"


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

    def __str__(self) -> str:
        who = f" by {self.worker}" if self.worker else ""
        step = f" at {self.step}" if self.step else ""
        active = ". What was active stays active" if self.had_active else ""
        return f"generation {self.generation} of model {self.model!r} was rejected{who}{step}: {self.why}{active}"


@dataclass(eq=False)
class FlipSuperseded(NotCommitted):
    model: str
    version: str
    by: str = ""
    flip: Any = field(default=None, repr=False)

    outcome = "superseded"

    def __str__(self) -> str:
        return f"the proposal of {self.version[:12]} for model {self.model!r} was superseded by a newer one {self.by}".rstrip()


@dataclass(eq=False)
class FlipAborted(NotCommitted):
    model: str
    generation: int
    why: str
    flip: Any = field(default=None, repr=False)

    outcome = "aborted"

    def __str__(self) -> str:
        return f"generation {self.generation} of model {self.model!r} was aborted: {self.why}"


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
            return f"{bad}: it is not tried again unless with force (`--force`)"
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


# --- unknown ---------------------------------------------------------------------------------------------------------


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


# --- files -------------------------------------------------------------------------------------------------------------


class ArtifactError(GenlockError):
    status = 422
    outcome = "artifact"


@dataclass(eq=False)
class ArtifactMissing(ArtifactError):
    path: str
    why: str = "there is no such file"

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


@dataclass(eq=False)
class ArtifactDamaged(ArtifactError):
    """Bytes other than the digest names. A hiccup, not a verdict on the model (R13)."""

    path: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.path} is damaged: expected {self.expected}, found {self.found}. Publish the checkpoint again to mend it"


@dataclass(eq=False)
class ArtifactRefused(ArtifactError):
    """A path that must not be used: a folder, a FIFO, an empty file, a link out of the store."""

    path: str
    why: str

    def __str__(self) -> str:
        return f"{self.path} is refused: {self.why}"


@dataclass(eq=False)
class BadCheckpoint(ArtifactError):
    """Verified bytes that are no good: said once, remembered by the whole fleet (R13)."""

    model: str
    step: str
    why: str

    def __str__(self) -> str:
        return f"the checkpoint of model {self.model!r} is bad at {self.step}: {self.why}"


@dataclass(eq=False)
class LoadFailed(ArtifactError):
    """It could not be loaded here and now; another try may work (R13)."""

    model: str
    step: str
    why: str

    status = 503

    def __str__(self) -> str:
        return f"model {self.model!r} could not be loaded at {self.step}: {self.why}"


@dataclass(eq=False)
class ManifestInvalid(ArtifactError):
    why: str

    def __str__(self) -> str:
        return f"the manifest is refused: {self.why}"


@dataclass(eq=False)
class IdentityInvalid(ArtifactError):
    """The file of a store that says which fleet it belongs to cannot be used."""

    path: str
    why: str
    remedy: str

    status = 500

    def __str__(self) -> str:
        return f"{self.path} does not say which fleet this is: {self.why}. {self.remedy}"


@dataclass(eq=False)
class StoreUnusable(ArtifactError):
    """The folder of the store cannot be made, or this user cannot look into it."""

    path: str
    why: str

    status = 500

    def __str__(self) -> str:
        return f"the store {self.path} cannot be used: {self.why}: choose another GENLOCK_STORE"


@dataclass(eq=False)
class StoreFull(ArtifactError):
    path: str
    why: str

    status = 507

    def __str__(self) -> str:
        return f"{self.path} cannot be written: {self.why}. Nothing was changed; free space (`genlock gc`) and publish again"
