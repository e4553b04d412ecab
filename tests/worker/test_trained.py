"""worker/trained.py: what is in the folder of training, and what of it can be a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from genlock.coordinator.errors import BadInput
from genlock.coordinator.staging import ONLY
from genlock.worker.trained import TrainedFiles


def touch(path: Path, size: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def test_the_names_of_a_signature_are_its_files(tmp_path: Path) -> None:
    """A file that a writer has just emptied belongs to the batch all the same, or the batch would lack it while it is overwritten."""
    files = TrainedFiles(tmp_path)
    for name in ("b.pt", "a-1.pt", ".c.pt", "d.pt.tmp", "e.txt"):
        touch(tmp_path / "sig=1" / name)
    touch(tmp_path / "sig=1" / "empty.pt", 0)
    (tmp_path / "sig=1" / "folder.pt").mkdir()
    assert files.names("sig=1") == ("a-1", "b", "empty")
    assert files.names("other") == ()
    assert files.path("sig=1", "b") == tmp_path / "sig=1" / "b.pt"


def test_a_look_finds_every_signature_as_it_is_then(tmp_path: Path) -> None:
    """Signatures come and go while a worker runs: nothing is known of them beforehand."""
    files = TrainedFiles(tmp_path / "models")
    assert files.look().files == {}
    a = touch(tmp_path / "models" / "s=1" / "a.pt")
    touch(tmp_path / "models" / "t" / "b.pt", 0)
    touch(tmp_path / "models" / "stray.pt")
    found = files.look()
    assert set(found.files) == {"s-3d1--a", "t--b"}
    file = found.files["s-3d1--a"][ONLY]
    assert file.path == a
    assert file.identity is not None
    assert file.identity.inode == a.stat().st_ino
    assert found.files["t--b"][ONLY].identity is None, "empty: somebody writes it"
    assert found.folders == {tmp_path / "models", a.parent, tmp_path / "models" / "t"}
    assert found.oddities == {}


def test_what_can_be_no_model_is_said_and_keeps_nobody_back(tmp_path: Path) -> None:
    good = touch(tmp_path / "s" / "a.pt")
    long = touch(tmp_path / "s" / ("ä" * 60 + ".pt"))
    found = TrainedFiles(tmp_path).look()
    assert {file[ONLY].path for file in found.files.values()} == {good}
    assert list(found.oddities) == [str(long)]
    assert "128 are possible" in found.oddities[str(long)]


def test_each_file_is_asked_for_once_in_a_look_and_not_at_all_for_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty workers of a host list the folder once in a second, and one of them looks at the files, which may lie on a server far away:
    that was forty-two questions for each file, where one is promised."""
    asked: list[str] = []
    stat = os.stat

    def counted(path: Any, *more: Any, **keywords: Any) -> os.stat_result:
        asked.append(Path(path).name)
        return stat(path, *more, **keywords)

    touch(tmp_path / "s" / "a.pt")
    (tmp_path / "s" / "b.pt").symlink_to("a.pt")
    files = TrainedFiles(tmp_path)
    monkeypatch.setattr(os, "stat", counted)
    assert files.names("s") == ("a", "b")
    assert asked == []
    assert set(files.look().files) == {"s--a", "s--b"}
    assert asked == ["a.pt", "b.pt"]


def test_what_is_no_file_is_none(tmp_path: Path) -> None:
    """A link that leads nowhere may get its file in a moment; a pipe would keep its reader waiting."""
    (tmp_path / "s" / "folder.pt").mkdir(parents=True)
    (tmp_path / "s" / "a.pt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "s" / "b.pt")
    found = TrainedFiles(tmp_path).look()
    assert (found.files, found.oddities) == ({}, {})


def test_it_says_which_changes_concern_it(tmp_path: Path) -> None:
    files = TrainedFiles(tmp_path / "models")
    for path in (tmp_path, tmp_path / "models", tmp_path / "models/s", tmp_path / "models/s/a.pt"):
        assert files.concerns(path), path
    for path in (tmp_path / "other", tmp_path / "other/s/a.pt", tmp_path / "models/s/deep/a.pt"):
        assert not files.concerns(path), path


@pytest.mark.parametrize("rqa_sig", ["..", "", "a/../../etc", "a\0b"])
def test_no_signature_leads_out_of_the_folder(rqa_sig: str, tmp_path: Path) -> None:
    files = TrainedFiles(tmp_path / "models")
    with pytest.raises(BadInput):
        files.names(rqa_sig)
    with pytest.raises(BadInput):
        files.path(rqa_sig, "a")


def test_a_folder_that_may_not_be_read_is_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "s" / "a.pt")

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refused)
    assert TrainedFiles(tmp_path).names("s") == ()
