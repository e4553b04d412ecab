"""worker/__init__.py: the names that other people's programs import."""

from __future__ import annotations

import genlock.worker


def test_the_public_names_are_these() -> None:
    """A name that goes breaks somebody's server; one that comes is a promise."""
    assert set(genlock.worker.__all__) == {
        *("ModelCache", "ModelEvaluator", "Held", "HitRate", "Outputs", "View"),
        *("Checkpoint", "Loader", "exported_program", "loader_for", "state_dict_into"),
        *("ArtifactError", "BadCheckpoint", "BadInput", "DoesNotFit", "GenlockError", "InvalidName", "LoadFailed"),
        *("NotReady", "SettingsInvalid", "Unavailable", "UnknownModel"),
    }
    for name in genlock.worker.__all__:
        assert getattr(genlock.worker, name) is not None
