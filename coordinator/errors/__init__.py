"""The errors of both parts. Each says what was tried, what was found and what to do, and carries its facts.

::

    GenlockError
    ├── Misuse                 the caller has to change the call
    │   ├── InvalidName, SettingsInvalid, UnknownModel, NoGeneration, BadInput, HeaderInvalid, Unauthorized, NotAllowed,
    │       TooLarge, DoesNotFit, Conflict, RequestReused, ServerRuns, CommandBroken
    ├── Unavailable            Redis or the fleet cannot answer now
    │   ├── RedisUnreachable, RedisRefused, FleetClosed, FleetMismatch, SchemaTooNew, NotReady
    ├── NotCommitted           the fleet, or somebody in charge of it, decided against it
    │   ├── FlipRejected, FlipSuperseded, FlipAborted, Pinned, Poisoned, LockHeld, LockLost
    ├── OutcomeUnknown         it may have happened or not; ask again by the request id
    ├── NotTrusted             nobody whose key counts here vouches for a manifest
    │   ├── Unsigned, UnknownKey, WrongSignature, ForeignManifest, SerialTooLow, NotOrdered, WrongOrder
    └── ArtifactError          a file is not what it should be
        ├── ArtifactMissing, ArtifactDamaged, ArtifactRefused, BadCheckpoint, LoadFailed, ManifestInvalid,
            IdentityInvalid, StoreUnusable, StoreUnreachable, StoreFull, SerialsUnreadable

Split by who has to act. `status` is the HTTP status that an error becomes, `exit_status` the one of a command
(0 done, 1 failed, 2 usage, 3 not committed by decision, 4 timed out or unknown, 5 Redis unreachable).
"""

from __future__ import annotations

from .base import GenlockError
from .decided import (
    FlipAborted,
    FlipRejected,
    FlipSuperseded,
    LockHeld,
    LockLost,
    NotCommitted,
    OutcomeUnknown,
    Pinned,
    Poisoned,
)
from .files import (
    ArtifactDamaged,
    ArtifactError,
    ArtifactMissing,
    ArtifactRefused,
    BadCheckpoint,
    IdentityInvalid,
    LoadFailed,
    ManifestInvalid,
    SerialsUnreadable,
    StoreFull,
    StoreUnreachable,
    StoreUnusable,
)
from .misuse import (
    BadInput,
    CommandBroken,
    Conflict,
    DoesNotFit,
    HeaderInvalid,
    InvalidName,
    Misuse,
    NoGeneration,
    NotAllowed,
    RequestReused,
    ServerRuns,
    SettingsInvalid,
    TooLarge,
    Unauthorized,
    UnknownModel,
)
from .trust import (
    ForeignManifest,
    NotOrdered,
    NotTrusted,
    SerialTooLow,
    UnknownKey,
    Unsigned,
    WrongOrder,
    WrongSignature,
)
from .unavailable import FleetClosed, FleetMismatch, NotReady, RedisRefused, RedisUnreachable, SchemaTooNew, Unavailable

__all__ = [
    "ArtifactDamaged",
    "ArtifactError",
    "ArtifactMissing",
    "ArtifactRefused",
    "BadCheckpoint",
    "BadInput",
    "CommandBroken",
    "Conflict",
    "DoesNotFit",
    "FleetClosed",
    "FleetMismatch",
    "FlipAborted",
    "FlipRejected",
    "FlipSuperseded",
    "ForeignManifest",
    "GenlockError",
    "HeaderInvalid",
    "IdentityInvalid",
    "InvalidName",
    "LoadFailed",
    "LockHeld",
    "LockLost",
    "ManifestInvalid",
    "Misuse",
    "NoGeneration",
    "NotAllowed",
    "NotCommitted",
    "NotOrdered",
    "NotReady",
    "NotTrusted",
    "OutcomeUnknown",
    "Pinned",
    "Poisoned",
    "RedisRefused",
    "RedisUnreachable",
    "RequestReused",
    "SchemaTooNew",
    "SerialTooLow",
    "SerialsUnreadable",
    "ServerRuns",
    "SettingsInvalid",
    "StoreFull",
    "StoreUnreachable",
    "StoreUnusable",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "UnknownKey",
    "UnknownModel",
    "Unsigned",
    "WrongOrder",
    "WrongSignature",
]
