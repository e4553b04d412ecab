"""genlock.worker: what one process holds, and when it may answer from it. Imports neither torch nor Flask: integrations are imported
by name (`genlock.worker.blueprint`, `genlock.worker.hooks`, `genlock.worker.app`).
"""

from ..coordinator.errors import (
    ArtifactError,
    BadCheckpoint,
    BadInput,
    DoesNotFit,
    GenlockError,
    InvalidName,
    LoadFailed,
    NotReady,
    SettingsInvalid,
    Unavailable,
    UnknownModel,
)
from .cache import Held, ModelCache
from .checkpoint import Checkpoint
from .evaluator import ModelEvaluator, Outputs
from .hitrate import HitRate
from .loaders import Loader, exported_program, loader_for, state_dict_into
from .view import View

__all__ = [
    "ArtifactError",
    "BadCheckpoint",
    "BadInput",
    "Checkpoint",
    "DoesNotFit",
    "GenlockError",
    "Held",
    "HitRate",
    "InvalidName",
    "LoadFailed",
    "Loader",
    "ModelCache",
    "ModelEvaluator",
    "NotReady",
    "Outputs",
    "SettingsInvalid",
    "Unavailable",
    "UnknownModel",
    "View",
    "exported_program",
    "loader_for",
    "state_dict_into",
]
