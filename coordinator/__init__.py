"""genlock.coordinator: what the fleet agrees on, and how. For trainers, operators and workers; needs no torch.

A name loads the file it lives in when it is first used, so that whoever needs one room does not pay for the house.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import (
        ArtifactDamaged,
        ArtifactError,
        ArtifactMissing,
        ArtifactRefused,
        BadCheckpoint,
        BadInput,
        CommandBroken,
        Conflict,
        DoesNotFit,
        FleetClosed,
        FleetMismatch,
        FlipAborted,
        FlipRejected,
        FlipSuperseded,
        GenlockError,
        IdentityInvalid,
        InvalidName,
        LoadFailed,
        LockHeld,
        LockLost,
        ManifestInvalid,
        Misuse,
        NoGeneration,
        NotCommitted,
        NotReady,
        OutcomeUnknown,
        Pinned,
        Poisoned,
        RedisRefused,
        RedisUnreachable,
        RequestReused,
        SchemaTooNew,
        ServerRuns,
        SettingsInvalid,
        StoreFull,
        StoreUnreachable,
        StoreUnusable,
        TooLarge,
        Unavailable,
        UnknownModel,
    )
    from .fleet import Fleet
    from .flip import Flip, Progress
    from .manifest import Artifact, Golden, Manifest
    from .records import Event
    from .settings import Settings
    from .staging import Draft
    from .status import CandidateStatus, FleetStatus, Generation, ModelStatus, Note, WorkerStatus
    from .store import StoredObject
    from .task import TaskResult
    from .upkeep import Damage

__all__ = [
    "Artifact",
    "ArtifactDamaged",
    "ArtifactError",
    "ArtifactMissing",
    "ArtifactRefused",
    "BadCheckpoint",
    "BadInput",
    "CandidateStatus",
    "CommandBroken",
    "Conflict",
    "Damage",
    "DoesNotFit",
    "Draft",
    "Event",
    "Fleet",
    "FleetClosed",
    "FleetMismatch",
    "FleetStatus",
    "Flip",
    "FlipAborted",
    "FlipRejected",
    "FlipSuperseded",
    "Generation",
    "GenlockError",
    "Golden",
    "IdentityInvalid",
    "InvalidName",
    "LoadFailed",
    "LockHeld",
    "LockLost",
    "Manifest",
    "ManifestInvalid",
    "Misuse",
    "ModelStatus",
    "NoGeneration",
    "NotCommitted",
    "NotReady",
    "Note",
    "OutcomeUnknown",
    "Pinned",
    "Poisoned",
    "Progress",
    "RedisRefused",
    "RedisUnreachable",
    "RequestReused",
    "SchemaTooNew",
    "ServerRuns",
    "Settings",
    "SettingsInvalid",
    "StoreFull",
    "StoreUnreachable",
    "StoreUnusable",
    "StoredObject",
    "TaskResult",
    "TooLarge",
    "Unavailable",
    "UnknownModel",
    "WorkerStatus",
]

#: Name → the file it lives in; the errors are all in one.
_HOMES = {
    "Artifact": "manifest",
    "CandidateStatus": "status",
    "Damage": "upkeep",
    "Draft": "staging",
    "Event": "records",
    "Fleet": "fleet",
    "FleetStatus": "status",
    "Flip": "flip",
    "Generation": "status",
    "Golden": "manifest",
    "Manifest": "manifest",
    "ModelStatus": "status",
    "Note": "status",
    "Progress": "flip",
    "Settings": "settings",
    "StoredObject": "store",
    "TaskResult": "task",
    "WorkerStatus": "status",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value
