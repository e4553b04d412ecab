"""Which kind of file system holds a path: what may be mapped, and where the kernel tells of changes."""

import errno
import subprocess
from pathlib import Path

import pytest
from genlock.coordinator import filesystem
from genlock.coordinator.filesystem import KINDS, kind_of


def test_it_says_what_the_mounts_say(tmp_path: Path) -> None:
    """The number of the kernel, against the name that `stat` has for it."""
    told = subprocess.run(["stat", "-f", "-c", "%t", tmp_path], check=True, capture_output=True, text=True).stdout
    assert filesystem._number_of(tmp_path) == int(told, 16)


def test_what_is_not_there_yet_is_where_its_folder_is(tmp_path: Path) -> None:
    """A store that is made later must not be taken for a network's."""
    (tmp_path / "file").touch()
    assert kind_of(tmp_path / "not" / "there") == kind_of(tmp_path) == kind_of(tmp_path / "file" / "below")


@pytest.mark.parametrize(
    ("number", "name", "is_local", "tells"),
    [
        (0xEF53, "ext4", True, True),
        (0x01021994, "tmpfs", True, True),
        (0x794C7630, "overlay", True, False),  # its bytes are here, and a change below it is told to nobody
        (0x6969, "nfs", False, False),
        (0xFF534D42, "cifs", False, False),
        (0x65735546, "fuse", False, False),
        (0x9FA0, "unknown (0x9fa0)", False, False),  # /proc
    ],
)
def test_what_may_be_relied_on(
    number: int, name: str, is_local: bool, tells: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of a network file that cannot be had any more kills who mapped it; a change from another host is told to nobody."""
    monkeypatch.setattr(filesystem, "_statfs", lambda path: number)
    found = kind_of("/anywhere")
    assert (found.name, found.is_local, found.tells) == (name, is_local, tells)


def test_whoever_cannot_be_asked_is_believed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> int:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(filesystem, "_statfs", refused)
    assert (kind_of("/x").is_local, kind_of("/x").tells) == (False, False)
    monkeypatch.setattr(filesystem, "_statfs", lambda path: None)  # not on Linux
    assert kind_of("/x").name == "unknown"


def test_what_tells_is_local() -> None:
    assert all(kind.is_local for kind in KINDS.values() if kind.tells)
