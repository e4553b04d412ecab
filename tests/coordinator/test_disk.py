"""coordinator/disk.py: bytes read, hashed, copied and flushed; errors in words."""

from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path

import pytest
from blake3 import blake3
from genlock.coordinator import disk
from genlock.coordinator.disk import (
    CALL_BYTES,
    PIECE_BYTES,
    copy_file,
    explained,
    hash_file,
    make_folder,
    make_private,
    open_source,
    refuse_changed,
    write_whole,
)
from genlock.coordinator.errors import ArtifactError, ArtifactMissing, ArtifactRefused, StoreFull
from genlock.coordinator.priority import NICENESS

#: Nothing, less than a piece, exactly one and two, and a last piece of one byte.
SIZES = [1, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES, 3 * PIECE_BYTES + 1]


def content(size: int) -> bytes:
    """Bytes in which no two pieces are the same."""
    return blake3(b"content").digest(length=size)


def test_a_private_folder_is_private_and_one_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    """Below an open one that somebody chose, or where none can be made, nothing changes: who needs it finds out."""
    private = tmp_path / "a" / "b"
    for mode in (0o700, 0o750):
        make_private(private)
        assert private.stat().st_mode & 0o777 == mode
        private.chmod(0o750)
    (tmp_path / "file").touch()
    make_private(tmp_path / "file" / "b")
    assert not (tmp_path / "file").is_dir()


@pytest.mark.parametrize("size", SIZES)
def test_a_copy_has_every_byte_in_its_place_and_the_digest_of_the_whole(tmp_path: Path, size: int) -> None:
    """Two buffers are used by turns: a piece that is overwritten before it was hashed or written would show here."""
    data, seen = content(size), []
    (tmp_path / "from").write_bytes(data)
    with (tmp_path / "from").open("rb") as source, (tmp_path / "to").open("wb") as target:
        found = copy_file(source.fileno(), target.fileno(), size, lambda *at: seen.append(at))
    assert found == blake3(data).hexdigest()
    assert (tmp_path / "to").read_bytes() == data
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)
    assert len(seen) == -(-size // PIECE_BYTES)


def test_a_copy_makes_way_for_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread that copies or hashes has the priority of the caller, and none of their calls holds a core for long."""
    calls: list[tuple[int, int]] = []
    write, readv = os.write, os.readv

    def note(size: int) -> None:
        calls.append((os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), size))

    monkeypatch.setattr(os, "write", lambda fd, data: (note(len(data)), write(fd, data))[1])
    monkeypatch.setattr(os, "readv", lambda fd, buffers: (note(len(buffers[0])), readv(fd, buffers))[1])
    (tmp_path / "from").write_bytes(content(PIECE_BYTES + 1))
    with (tmp_path / "from").open("rb") as source, (tmp_path / "to").open("wb") as target:
        copy_file(source.fileno(), target.fileno(), PIECE_BYTES + 1)
    monkeypatch.undo()
    assert {priority for priority, _ in calls} == {NICENESS}
    assert max(size for _, size in calls) == CALL_BYTES


def test_a_buffer_is_not_read_into_before_it_was_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """read A · hash A (slow) · read B · read A again: the digest would be that of another file."""

    class Slow:
        def __init__(self) -> None:
            self.real = blake3()

        def update(self, piece: memoryview) -> None:
            threading.Event().wait(0.02)
            self.real.update(piece)

        def hexdigest(self) -> str:
            return self.real.hexdigest()

    monkeypatch.setattr(disk, "blake3", Slow)
    data = content(3 * PIECE_BYTES + 1)
    (tmp_path / "from").write_bytes(data)
    with (tmp_path / "from").open("rb") as source, (tmp_path / "to").open("wb") as target:
        assert copy_file(source.fileno(), target.fileno(), len(data)) == blake3(data).hexdigest()


@pytest.mark.parametrize("size", SIZES)
def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(content(size))
    seen: list[tuple[int, int]] = []
    with (tmp_path / "file").open("rb") as source:
        found = hash_file(source.fileno(), size, lambda done, total: seen.append((done, total)))
    assert found == blake3(content(size)).hexdigest()
    assert seen[-1] == (size, size)


@pytest.mark.parametrize(("call", "said_of"), [("readv", "/source"), ("write", "/store")])
def test_an_error_of_a_copy_is_said_of_the_side_that_it_was_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, said_of: str
) -> None:
    """A bad sector below the trainer's file was said of the store; where nothing is named it stays what it is."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "from").write_bytes(content(1000))
    monkeypatch.setattr(os, call, refuse)
    with (tmp_path / "from").open("rb") as source, (tmp_path / "to").open("wb") as target:
        with pytest.raises(ArtifactRefused, match=f"^{said_of} is refused"):
            copy_file(source.fileno(), target.fileno(), 1000, path="/source", to="/store")
        source.seek(0)
        with pytest.raises(OSError, match="Input/output error") as caught:
            copy_file(source.fileno(), target.fileno(), 1000)
    assert not isinstance(caught.value, ArtifactError)


def test_what_is_told_of_progress_may_fail_as_it_likes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content(1000))

    def gone(*_: int) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with (tmp_path / "file").open("rb") as source, pytest.raises(BrokenPipeError):
        hash_file(source.fileno(), 1000, gone, path=tmp_path / "file")


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is nearly full, or a signal, writes less than was asked; a hole in the copy must not follow."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: max(1, len(data) // 3)]))
    (tmp_path / "from").write_bytes(content(1000))
    with (tmp_path / "from").open("rb") as source, (tmp_path / "to").open("wb") as target:
        copy_file(source.fileno(), target.fileno(), 1000)
    monkeypatch.undo()
    assert (tmp_path / "to").read_bytes() == content(1000)


@pytest.mark.parametrize("how", ["refused", "absent"])
def test_a_system_without_the_advice_copies_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    if how == "absent":
        monkeypatch.delattr(os, "posix_fadvise")
    else:
        monkeypatch.setattr(os, "posix_fadvise", refuse)
    (tmp_path / "from").write_bytes(content(1000))
    with (tmp_path / "from").open("rb") as source, (tmp_path / "to").open("wb") as target:
        assert copy_file(source.fileno(), target.fileno(), 1000) == blake3(content(1000)).hexdigest()


def test_what_cannot_be_a_checkpoint_is_refused_with_the_reason(tmp_path: Path) -> None:
    """A FIFO that nobody writes to would have hung the trainer for ever."""
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(tmp_path / "socket"))
    reasons = {
        "empty": "empty",
        "fifo": "not a regular file",
        "folder": "a folder",
        "loop": "a link",
        "socket": "No such device",
        "empty/below": "stands in its way",
        "x" * 300: "too long",
        "a\0b": "NUL",
    }
    for name, reason in reasons.items():
        with pytest.raises(ArtifactRefused, match=reason):
            open_source(f"{tmp_path}/{name}")
    with pytest.raises(ArtifactRefused, match="not a regular file"):
        open_source("/dev/null")
    with pytest.raises(ArtifactMissing, match="there is no such file"):
        open_source(tmp_path / "nothing")


def test_a_link_to_a_regular_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"weights")
    (tmp_path / "link").symlink_to("file")
    with os.fdopen(open_source(tmp_path / "link"), "rb") as file:
        assert file.read() == b"weights"


@pytest.mark.parametrize("change", ["grown", "shrunk", "touched", "unread", None])
def test_a_file_that_changed_while_it_was_read_is_refused(tmp_path: Path, change: str | None) -> None:
    """Half of one checkpoint and half of the next have a digest like any other: nobody later could tell."""
    path = tmp_path / "file"
    path.write_bytes(b"weights")
    os.utime(path, (1, 1))
    with path.open("rb", buffering=0) as source:
        before = os.fstat(source.fileno())
        if change != "unread":
            source.read()
        if change in ("grown", "shrunk"):
            os.truncate(path, 9 if change == "grown" else 5)
        if change == "touched":
            os.utime(path, (2, 2))
        if change is None:
            refuse_changed(path, source.fileno(), before)
        else:
            with pytest.raises(ArtifactRefused, match=r"changed while it was read.*completely written"):
                refuse_changed(path, source.fileno(), before)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EFBIG, StoreFull),
        (errno.ENOENT, ArtifactMissing),
        (errno.ELOOP, ArtifactRefused),
        (errno.EACCES, ArtifactRefused),
        (errno.EIO, ArtifactRefused),
    ],
)
def test_an_error_of_the_system_becomes_what_it_means(number: int, error: type[ArtifactError]) -> None:
    with pytest.raises(error, match="/store") as caught, explained("/store"):
        raise OSError(number, os.strerror(number))
    assert isinstance(caught.value.__cause__, OSError)


def test_folders_are_made_and_each_name_is_flushed_into_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new folder that its parent does not know after a crash takes every object in it along."""
    flushed: list[Path] = []
    monkeypatch.setattr(disk, "sync_folder", flushed.append)
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert flushed == [tmp_path, tmp_path / "a"]
    make_folder(tmp_path / "a" / "b")
    assert len(flushed) == 2


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(ArtifactRefused, match="stands in its way"), explained(tmp_path):
        make_folder(tmp_path / "a" / "b")


# --- small files of our own --------------------------------------------------------------------------------------------


def test_a_file_is_flushed_before_it_has_its_name_and_its_name_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine stopped after the rename: the file was there, and empty."""
    events: list[str] = []
    flush, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("flush"), flush(descriptor))[1])
    monkeypatch.setattr(Path, "replace", lambda path, to: (events.append("rename"), replace(path, to))[1])
    for durable in (True, False):
        write_whole(tmp_path / "file", b"new", durable=durable)
    assert events == ["flush", "rename", "flush", "rename"]
    assert (tmp_path / "file").read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("call", ["fsync", "replace", "link"])
def test_a_disk_that_is_full_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Each try to write what a worker starts from left a file of its own behind, on the disk that was full."""
    (tmp_path / "file").write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path if call == "replace" else os, call, full)
        with pytest.raises(OSError, match="No space"):
            write_whole(tmp_path / "file", b"new", durable=True, replace=call != "link")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_who_comes_second_leaves_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "temp").mkdir()
    for data in (b"first", b"second"):
        write_whole(
            tmp_path / "file", data, durable=True, temp=tmp_path / "temp" / data.decode(), replace=False, mode=0o600
        )
    assert (tmp_path / "file").read_bytes() == b"first" and not list((tmp_path / "temp").iterdir())
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_a_temporary_name_of_ones_own_is_used_again_and_no_link_is_followed(tmp_path: Path) -> None:
    """A process that is killed once a second would leave a file each time."""
    temp = tmp_path / "temp"
    temp.write_bytes(b"longer than the new one, of a process that was killed")
    write_whole(tmp_path / "file", b"new", durable=False, temp=temp)
    assert (tmp_path / "file").read_bytes() == b"new" and not temp.exists()
    (tmp_path / "elsewhere").write_bytes(b"theirs")
    temp.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        write_whole(tmp_path / "file", b"newer", durable=False, temp=temp)
    assert (tmp_path / "elsewhere").read_bytes() == b"theirs"
