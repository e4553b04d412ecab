"""Who says that something may have changed."""

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from genlock.coordinator.filesystem import Filesystem
from genlock.coordinator.watching import notice
from genlock.coordinator.watching.notice import SAFETY_S, Notice


@pytest.fixture
def told(soon: None) -> threading.Event:
    return threading.Event()


@pytest.fixture
def following(told: threading.Event) -> Any:
    found = Notice(told.set, lambda path: path.name != "noise")
    yield found
    found.close()


def test_where_the_kernel_tells_the_clock_is_slow(
    following: Notice, told: threading.Event, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "genlock.watch")
    (tmp_path / "below").mkdir()
    assert following.follow([tmp_path, tmp_path / "below", tmp_path / "not/there"]) == SAFETY_S
    assert told.wait(10)  # it listens: what came before was told to nobody
    told.clear()
    (tmp_path / "noise").touch()
    (tmp_path / "below/m.pt").touch()
    assert told.wait(10)
    assert [record.event for record in caplog.records] == ["listening"]  # once for the folders of one file system


def test_the_folder_that_was_asked_for_is_named(
    following: Notice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the one above it, where it would appear: nobody has named that."""
    caplog.set_level(logging.INFO, "genlock.watch")
    monkeypatch.setattr(notice, "kind_of", lambda path: Filesystem(path.name, is_local=True, tells=True))
    for name in ("ext4", "xfs"):
        (tmp_path / name).mkdir()
    following.follow([tmp_path / "ext4", tmp_path / "xfs/not/there"])
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/ext4 is on ext4, where the kernel tells of changes",
        f"{tmp_path}/xfs/not/there would be on xfs, where the kernel tells of changes",
    ]


def test_a_folder_that_comes_back_is_another_one(following: Notice, told: threading.Event, tmp_path: Path) -> None:
    """The kernel listens to what was removed: nothing of the new one would ever be told."""
    folder = tmp_path / "runs"
    folder.mkdir()
    following.follow([folder])
    assert told.wait(10)
    told.clear()
    folder.rmdir()
    folder.mkdir()
    assert told.wait(10)
    told.clear()
    following.follow([folder])
    assert told.wait(10)
    told.clear()
    (folder / "m.pt").touch()
    assert told.wait(10)


def test_where_the_kernel_does_not_tell_the_clock_looks(
    following: Notice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "genlock.watch")
    monkeypatch.setattr(notice, "kind_of", lambda path: Filesystem("nfs", is_local=False, tells=False))
    assert following.follow([tmp_path]) == notice.POLL_S
    assert caplog.records[0].event == "polling"
    assert caplog.records[0].getMessage() == (
        f"{tmp_path} is on nfs, which does not tell of every change: looked at every {notice.POLL_S:g} s"
    )


def test_a_kernel_that_has_no_room_is_said_once_and_the_clock_looks(
    following: Notice, told: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """fs.inotify.max_user_watches is used up by somebody's editor."""

    def full(*folders: Path, **how: Any) -> Any:
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr("watchfiles.watch", full)
    assert following.follow([tmp_path]) == SAFETY_S
    assert told.wait(10)
    assert [following.follow([tmp_path]) for _ in range(3)] == [notice.POLL_S] * 3
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        f"the kernel cannot tell of changes (OSError: OS file watch limit reached): looked at every {notice.POLL_S:g} s"
    ]
