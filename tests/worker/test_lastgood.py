"""worker/lastgood.py: what a worker starts from without Redis is whole, or not there."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from genlock.coordinator.errors import InvalidName
from genlock.coordinator.manifest import Artifact, Manifest
from genlock.worker.lastgood import LastGood


def manifest(model: str = "m", size: int = 1) -> Manifest:
    return Manifest.of(model, [Artifact("model", size, f"{size:064x}")], created_at=1.0)


@pytest.fixture
def notes(tmp_path: Path) -> LastGood:
    return LastGood(tmp_path, "prod")


def test_what_was_written_is_read(notes: LastGood) -> None:
    assert notes.read("m") is None
    for generation in (3, 4):
        notes.write("m", generation, manifest(size=generation).encode().decode())
        assert notes.read("m") == (generation, manifest(size=generation))


def test_fleets_and_models_have_their_own(notes: LastGood, tmp_path: Path) -> None:
    notes.write("m", 3, manifest().encode().decode())
    assert LastGood(tmp_path, "test").read("m") is None
    assert notes.read("other") is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"generation": "x", "manifest": ""}', b'{"generation": 1, "manifest": "{}"}', b"\xff\xfe"],
)
def test_a_damaged_note_is_none(notes: LastGood, tmp_path: Path, content: bytes) -> None:
    """A disk that failed must not keep a worker from starting."""
    notes.write("m", 3, manifest().encode().decode())
    (tmp_path / "last_good" / "prod" / "m.json").write_bytes(content)
    assert notes.read("m") is None


def test_a_note_of_another_model_is_none(notes: LastGood) -> None:
    """A file that somebody copied: its artifacts are another model's."""
    notes.write("m", 3, manifest("other").encode().decode())
    assert notes.read("m") is None


def test_a_name_cannot_leave_the_folder(notes: LastGood, tmp_path: Path) -> None:
    with pytest.raises(InvalidName):
        notes.write("../m", 3, manifest().encode().decode())
    with pytest.raises(InvalidName):
        LastGood(tmp_path, "..")
    assert notes.read("../../etc/passwd") is None
    assert not list((tmp_path / "last_good" / "prod").iterdir()), "nothing half-written stays"


def test_a_full_disk_leaves_the_note_before(notes: LastGood, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes.write("m", 3, manifest().encode().decode())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        notes.write("m", 4, manifest(size=4).encode().decode())
    assert notes.read("m") == (3, manifest())
    assert [path.name for path in (tmp_path / "last_good" / "prod").iterdir()] == ["m.json"]


def test_workers_of_one_host_write_at_the_same_time(notes: LastGood) -> None:
    """All of them flip at once, and write the same file: it is whole at every moment."""
    notes.write("m", 1, manifest(size=1).encode().decode())

    def write() -> None:
        for generation in range(1, 20):
            notes.write("m", generation, manifest(size=generation).encode().decode())

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found = notes.read("m")
        assert found is not None
        assert found[1] == manifest(size=found[0])
    for thread in threads:
        thread.join()


def test_a_note_nested_without_end_is_none(notes: LastGood, tmp_path: Path) -> None:
    """A worker that starts without Redis must not fail for what stands on its own disk."""
    notes.write("m", 3, manifest().encode().decode())
    (tmp_path / "last_good" / "prod" / "m.json").write_bytes(b'{"x":' + b"[" * 100_000)
    assert notes.read("m") is None
