"""What a folder is on, and what works in it."""

import errno
import os
from pathlib import Path

import pytest
from genlock.coordinator.doctor.folder import SYNCS, filesystem_of, look_at

MOUNTS = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:30 / /mnt rw - tmpfs tmpfs rw
41 40 0:31 /export /mnt/models rw,relatime shared:2 master:3 - nfs4 server:/export rw
42 40 0:32 / /mnt/with\040space rw - xfs /dev/sdb1 rw
43 40 0:33 / /mnt/models-old rw - ext3 /dev/sdc1 rw
garbled
"""


@pytest.mark.parametrize(
    ("folder", "found"),
    [
        ("/srv", ("ext4", "/")),
        ("/mnt", ("tmpfs", "/mnt")),
        ("/mnt/models/prod", ("nfs4", "/mnt/models")),
        ("/mnt/with space/x", ("xfs", "/mnt/with space")),
        ("/mnt/models-2", ("tmpfs", "/mnt")),
    ],
)
def test_the_file_system_is_that_of_the_longest_mount_point(
    folder: str, found: tuple[str, str], tmp_path: Path
) -> None:
    """A store below a mount point was told to be on the root's disk; names that only begin alike are not below each other."""
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS)
    assert filesystem_of(Path(folder), table) == found


def test_a_system_that_does_not_say_is_none(tmp_path: Path) -> None:
    assert filesystem_of(tmp_path, tmp_path / "none") == ("", "")


def test_a_good_folder_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "temp").mkdir()
    found = look_at(tmp_path)
    assert found.exists and found.failed == {} and len(found.sync_s) == SYNCS
    assert 0 < found.free_bytes <= found.total_bytes and found.owner == os.getuid()
    assert [path.name for path in tmp_path.rglob("*")] == ["temp"]


def test_a_folder_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    found = look_at(tmp_path / "a" / "store")
    assert (found.exists, found.error) == (False, "")
    assert list(tmp_path.iterdir()) == []


def test_what_stands_in_its_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert look_at(tmp_path / "file").error == "it is not a folder"
    assert "Not a directory" in look_at(tmp_path / "file" / "store").error


@pytest.mark.parametrize("step", ["link", "fsync"])
def test_a_file_system_without_something_is_found_out(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object store under a FUSE driver: publishing failed with `Operation not permitted`, and nothing said what it was about."""

    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, step, refused)
    found = look_at(tmp_path)
    assert list(found.failed) == (["hard link"] if step == "link" else ["write"])
    assert list(tmp_path.iterdir()) == []


def test_a_mode_that_does_not_stay_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    assert list(look_at(tmp_path).failed) == ["read-only mode"]
