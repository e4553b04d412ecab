"""What may be imported from where, and what that costs in modules. Each import is tried in a new process."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import genlock.coordinator
import pytest

ROOT = Path(genlock.coordinator.__file__).parents[1]
PURE = ("manifest", "observer", "calls", "records", "clock", "flip", "wait", "status", "errors")
SURFACE = {
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
}


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a new process has loaded after `code`."""
    script = f"import sys\n{code}\nprint(*sorted({{m.partition('.')[0] for m, v in sys.modules.items() if v}}))"
    env = {
        name: value for name, value in os.environ.items() if not name.startswith("COV")
    }  # measuring loads modules, too
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd="/", env=env
    )
    assert found.returncode == 0, found.stderr
    return set(found.stdout.split())


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, as it is written there; relative ones with their dots."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert found
    return found


def test_the_surface_is_what_was_promised() -> None:
    """A name that disappears breaks other people's programs; one that appears becomes a promise: both are meant, or this fails."""
    assert set(genlock.coordinator.__all__) == SURFACE
    for name in SURFACE:
        assert getattr(genlock.coordinator, name).__name__ == name


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Flote'"):
        genlock.coordinator.Flote  # type: ignore[attr-defined]  # noqa: B018


def test_a_trainer_does_not_pay_for_what_only_workers_and_commands_need() -> None:
    """A training script should not take seconds longer to start because it publishes."""
    loaded = loaded_by("from genlock.coordinator import *")
    assert not loaded & {"torch", "flask", "typer", "rich", "numpy", "gunicorn", "fsspec"}


def test_the_front_door_opens_without_the_redis_client() -> None:
    """Importing redis takes longer than all of ours; who only imports Fleet does not wait for it."""
    assert not loaded_by("from genlock.coordinator import Fleet") & {"redis", "safetensors", "numpy"}


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_need_no_io(room: str) -> None:
    """A pure room is tested by the hundred without a server or a thread: it must not reach for one by an import."""
    blocked = "sys.modules['redis'] = sys.modules['flask'] = None"
    assert "threading" not in loaded_by(f"{blocked}\nimport genlock.coordinator.{room}")


def test_no_file_imports_a_second_copy_of_the_code() -> None:
    """`import worker` would find the folder on the path and load everything twice: two sets of classes that are never equal."""
    for path in sources("coordinator", "worker", "tests"):
        tops = {name.partition(".")[0] for name in imports_of(path)}
        assert not tops & {"worker", "coordinator"}, path


def test_the_coordinator_never_imports_the_worker() -> None:
    for path in sources("coordinator"):
        assert not [name for name in imports_of(path) if "worker" in name.split(".")], path
