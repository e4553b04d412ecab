"""coordinator/store.py: what is staged is whole, flushed, unchangeable, and found by its digest alone."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from genlock.coordinator import store as store_module
from genlock.coordinator.errors import (
    ArtifactDamaged,
    ArtifactMissing,
    ArtifactRefused,
    InvalidName,
    StoreFull,
)
from genlock.coordinator.manifest import Artifact
from genlock.coordinator.store import Store

#: Long ago and far ahead, in unix seconds.
OLD, LATER = 1_000_000.0, 4_000_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights" * 1000)
    return path


def files(store: Store) -> list[Path]:
    """Every file below the root of the store."""
    return sorted(path for path in store.root.rglob("*") if not path.is_dir())


def read(store: Store, artifact: Artifact) -> bytes:
    with os.fdopen(store.open(artifact.digest, artifact.size), "rb") as file:
        return file.read()


def spoil(path: Path, data: bytes) -> None:
    """Change an object as a broken disk would: in place, whatever its mode."""
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def as_old(path: Path) -> None:
    os.utime(path, (OLD, OLD))


# --- stage -------------------------------------------------------------------------------------------------


def test_a_staged_file_is_an_object_named_by_its_digest(store: Store, checkpoint: Path) -> None:
    seen: list[tuple[int, int]] = []
    artifact = store.stage(checkpoint, name="net", progress=lambda *at: seen.append(at))
    digest = blake3(checkpoint.read_bytes()).hexdigest()
    assert artifact == Artifact("net", 7000, digest)
    assert store.path(digest) == store.root / "objects" / digest[:2] / digest[2:]
    assert read(store, artifact) == checkpoint.read_bytes()
    assert files(store) == [store.path(digest)]
    assert seen == [(7000, 7000)]


def test_an_object_cannot_be_written_to(store: Store, checkpoint: Path) -> None:
    """Promise 6: what a manifest names never changes under a reader."""
    artifact = store.stage(checkpoint, name="net")
    assert stat.S_IMODE(store.path(artifact.digest).stat().st_mode) == 0o444
    checkpoint.write_bytes(b"the next epoch")
    assert read(store, artifact) == b"weights" * 1000


def test_a_store_makes_nothing_until_something_is_written(store: Store, checkpoint: Path) -> None:
    """A worker with a read-only mount, or a wrong path, must not leave an empty store behind."""
    assert list(store.objects()) == []
    assert store.collect((), older_than_s=0, now=LATER) == []
    assert store.set_aside("0" * 64) is None
    with pytest.raises(ArtifactMissing):
        store.open("0" * 64, 1)
    with pytest.raises(ArtifactMissing):
        store.stage(checkpoint.parent / "nothing", name="net")
    assert not store.root.exists()


def test_a_relative_root_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training script that changes its folder would have staged into another store than it opened."""
    monkeypatch.chdir(tmp_path)
    store = Store(Path("store"))
    monkeypatch.chdir("/")
    assert store.root == tmp_path / "store"


def test_everything_is_flushed_before_it_is_named_and_the_name_before_it_is_told(
    store: Store, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 6. A machine that lost power after the publish must find the object whole, or not at all."""
    order: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def flushed(descriptor: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        order.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "rename", renamed)
    store.stage(checkpoint, name="net")
    assert [step for step in order if step != "folder"] == ["file", "rename"]
    assert order[-2:] == ["rename", "folder"]
    assert order.index("rename") > order.index("file")
    # Folders: the root, temp in it; objects, and ab in that; at the end the name in ab.
    assert order.count("folder") == 5


def test_a_name_is_checked_before_anything_is_read(store: Store, checkpoint: Path) -> None:
    with pytest.raises(InvalidName):
        store.stage(checkpoint, name="../net")
    with pytest.raises(InvalidName):
        store.adopt(store.draft() / "x", name="a/b")


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, os.mkfifo])
def test_what_is_no_checkpoint_is_refused_and_leaves_nothing(
    store: Store, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "given")
    with pytest.raises(ArtifactRefused):
        store.stage(tmp_path / "given", name="net")
    assert not store.root.exists()


def test_a_trainers_own_path_may_be_a_link(store: Store, checkpoint: Path) -> None:
    """`latest.pt` often is one."""
    (checkpoint.parent / "latest").symlink_to(checkpoint)
    artifact = store.stage(str(checkpoint.parent / "latest"), name="net")
    assert read(store, artifact) == checkpoint.read_bytes()
    assert not store.path(artifact.digest).is_symlink()


@pytest.mark.parametrize("change", [b"", b"other" * 1400, b"longer" * 2000])
def test_a_file_that_is_written_while_it_is_copied_is_refused(store: Store, checkpoint: Path, change: bytes) -> None:
    """A trainer that saves in place: what was copied is neither the one checkpoint nor the other."""
    as_old(checkpoint)
    with pytest.raises(ArtifactRefused, match="changed while it was read"):
        store.stage(checkpoint, name="net", progress=lambda *_: checkpoint.write_bytes(change) and None)
    assert files(store) == []


def test_the_same_content_twice_is_one_object(store: Store, checkpoint: Path) -> None:
    first = store.stage(checkpoint, name="net")
    inode = store.path(first.digest).stat().st_ino
    second = store.stage(checkpoint, name="other")
    assert (second.digest, second.size, second.name) == (first.digest, first.size, "other")
    assert store.path(first.digest).stat().st_ino == inode, "workers share the page cache of this very file"
    assert len(files(store)) == 1


def test_a_truncated_object_is_set_aside_and_written_again(store: Store, checkpoint: Path) -> None:
    """R13. A host that lost power without a flush left a short file under the right name."""
    artifact = store.stage(checkpoint, name="net")
    spoil(store.path(artifact.digest), b"weig")
    store.stage(checkpoint, name="net")
    assert read(store, artifact) == checkpoint.read_bytes()
    (aside,) = (store.root / "damaged").iterdir()
    assert aside.read_bytes() == b"weig"


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_what_stands_in_an_objects_place_is_moved_away(store: Store, checkpoint: Path, kind: str) -> None:
    artifact = store.stage(checkpoint, name="net")
    path = store.path(artifact.digest)
    path.unlink()
    if kind == "link":
        path.symlink_to(checkpoint)
    else:
        path.mkdir()
    store.stage(checkpoint, name="net")
    assert read(store, artifact) == checkpoint.read_bytes()


def test_an_object_of_another_user_is_replaced_by_our_own_copy(
    store: Store, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mtime cannot be refreshed, so collect() could take it away before the proposal."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    artifact = store.stage(checkpoint, name="net")
    as_old(store.path(artifact.digest))
    monkeypatch.setattr(os, "utime", refuse)
    store.stage(checkpoint, name="net")
    monkeypatch.undo()
    assert store.collect((), older_than_s=0, now=OLD + 1) == []
    assert read(store, artifact) == checkpoint.read_bytes()


FULL = """
import resource, sys
from pathlib import Path
from genlock.coordinator.errors import StoreFull
from genlock.coordinator.store import Store

resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
try:
    Store(Path(sys.argv[1])).stage(sys.argv[2], name="net")
except StoreFull as error:
    print(error)
"""


def test_a_full_disk_leaves_the_store_as_it_was(store: Store, checkpoint: Path) -> None:
    """The system refuses the write after 4,000 of 7,000 bytes: no half file, and what was there can be read."""
    small = checkpoint.parent / "small"
    small.write_bytes(b"small")
    before = store.stage(small, name="net")
    command = [sys.executable, "-c", FULL, store.root, checkpoint]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "cannot be written" in said
    assert "genlock gc" in said
    assert files(store) == [store.path(before.digest)]
    assert read(store, before) == b"small"


@pytest.mark.parametrize("call", ["write", "fsync", "mkdir"])
def test_no_space_at_any_step_is_said_and_cleaned_up(
    store: Store, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store.draft()
    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(StoreFull, match="No space left"):
        store.stage(checkpoint, name="net")
    monkeypatch.undo()
    assert files(store) == []
    assert read(store, store.stage(checkpoint, name="net")) == checkpoint.read_bytes()


@pytest.mark.parametrize("how", ["stage", "adopt"])
def test_what_a_callback_raises_is_not_said_of_the_store(store: Store, checkpoint: Path, how: str) -> None:
    """Its terminal was gone: the trainer heard that the store is refused, with `Broken pipe`."""
    pipe = BrokenPipeError(errno.EPIPE, "Broken pipe")

    def gone(*_: int) -> None:
        raise pipe

    path = checkpoint if how == "stage" else checkpoint.rename(store.draft() / "net")
    with pytest.raises(BrokenPipeError) as caught:
        getattr(store, how)(path, name="net", progress=gone)
    assert caught.value is pipe
    assert files(store) == ([] if how == "stage" else [path])


@pytest.mark.parametrize("how", ["stage", "adopt"])
def test_a_source_that_cannot_be_read_is_said_and_not_the_store(
    store: Store, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A bad sector below a trainer's checkpoint."""
    path = checkpoint if how == "stage" else checkpoint.rename(store.draft() / "net")

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "readv", refuse)
    with pytest.raises(ArtifactRefused, match="Input/output error") as caught:
        getattr(store, how)(path, name="net")
    assert caught.value.path == str(path)
    assert files(store) == ([] if how == "stage" else [path])


# --- drafts --------------------------------------------------------------------------------------------------


def test_a_file_of_a_draft_is_moved_and_not_copied(store: Store) -> None:
    """safetensors writes with mode 0600 and does not flush: both are made good."""
    file = store.draft() / "model.safetensors"
    file.write_bytes(b"weights")
    file.chmod(0o600)
    as_old(file)
    inode = file.stat().st_ino
    artifact = store.adopt(file, name="net")
    found = store.path(artifact.digest).stat()
    assert (found.st_ino, stat.S_IMODE(found.st_mode)) == (inode, 0o444)
    assert not file.exists()
    assert read(store, artifact) == b"weights"
    assert store.collect((), older_than_s=0, now=OLD + 1) == [], "its mtime was still that of the draft"


def test_a_draft_is_private_and_can_be_discarded(store: Store) -> None:
    folder = store.draft()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder != store.draft()
    (folder / "half").write_bytes(b"wei")
    (folder / "more").mkdir()
    store.discard(folder)
    store.discard(folder)
    assert not folder.exists()


def test_only_a_draft_is_discarded(store: Store, tmp_path: Path) -> None:
    """`drafts/..` is the whole store, and has the folder of drafts as its parent by name."""
    draft = store.draft()
    (draft.parent / "link").symlink_to(tmp_path)
    for folder in (tmp_path, store.root, draft.parent, draft.parent / "..", draft / "below", draft.parent / "link"):
        with pytest.raises(ArtifactRefused, match="not a draft"):
            store.discard(folder)
    assert draft.exists()


def test_a_draft_of_content_that_is_there_already_is_one_object(store: Store, checkpoint: Path) -> None:
    first = store.stage(checkpoint, name="net")
    inode = store.path(first.digest).stat().st_ino
    file = store.draft() / "again"
    file.write_bytes(checkpoint.read_bytes())
    assert store.adopt(file, name="net") == first
    assert not file.exists()
    assert store.path(first.digest).stat().st_ino == inode


def test_only_what_lies_in_a_draft_is_adopted(store: Store, checkpoint: Path) -> None:
    """A move would take the file from whoever owns it."""
    draft = store.draft()
    for path in (checkpoint, draft / ".." / ".." / checkpoint.name, store.root / "other" / "x"):
        with pytest.raises(ArtifactRefused, match="draft"):
            store.adopt(path, name="net")
    with pytest.raises(ArtifactMissing):
        store.adopt(draft / "nothing", name="net")
    with pytest.raises(ArtifactRefused, match="folder"):
        store.adopt(draft, name="net")
    assert checkpoint.exists()


@pytest.mark.parametrize("how", ["symlink_to", "hardlink_to"])
def test_a_file_with_another_name_elsewhere_is_copied(store: Store, checkpoint: Path, how: str) -> None:
    """Promise 6: moved, it could be changed through its other name."""
    file = store.draft() / "net"
    getattr(file, how)(checkpoint)
    artifact = store.adopt(file, name="net")
    checkpoint.write_bytes(b"changed")
    assert read(store, artifact) == b"weights" * 1000


def test_a_draft_that_is_still_being_written_is_refused(store: Store) -> None:
    file = store.draft() / "net"
    file.write_bytes(b"weights")
    with pytest.raises(ArtifactRefused, match="changed while"):
        store.adopt(file, name="net", progress=lambda *_: file.write_bytes(b"more weights") and None)
    assert list(store.objects()) == []


# --- reading ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "digest", ["", "0" * 63, "0" * 65, "A" * 64, "../" * 21 + "x", "0" * 64 + "\n", "/etc/passwd", None, b"0" * 64]
)
def test_only_a_digest_decides_which_file_is_opened(store: Store, digest: str) -> None:
    """Promise 7: a path from Redis is nobody's to choose."""
    for use in (store.path, store.set_aside, lambda d: store.open(d, 1), lambda d: store.verify(d, 1)):
        with pytest.raises(ArtifactRefused, match="64 hex"):
            use(digest)


@pytest.mark.parametrize("step", ["object", "folder", "objects"])
def test_no_link_is_followed_below_the_root(store: Store, checkpoint: Path, tmp_path: Path, step: str) -> None:
    """Promise 7: a link out of the store would let whoever made it choose what is loaded."""
    artifact = store.stage(checkpoint, name="net")
    path = store.path(artifact.digest)
    moved = {"object": path, "folder": path.parent, "objects": path.parent.parent}[step]
    moved.rename(tmp_path / "outside")
    moved.symlink_to(tmp_path / "outside")
    with pytest.raises(ArtifactRefused, match="a link"):
        store.open(artifact.digest, artifact.size)
    with pytest.raises(ArtifactRefused, match="a link"):
        store.verify(artifact.digest, artifact.size)
    assert list(store.objects()) == []
    assert store.collect((), older_than_s=0, now=LATER) == []


def test_the_root_itself_may_be_a_link(store: Store, checkpoint: Path, tmp_path: Path) -> None:
    artifact = store.stage(checkpoint, name="net")
    (tmp_path / "models").symlink_to(store.root)
    assert read(Store(tmp_path / "models"), artifact) == checkpoint.read_bytes()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_regular_file_is_not_opened(store: Store, make: Callable[[Path], None]) -> None:
    """A FIFO in an object's place would hang every worker that opens it."""
    path = store.path("ab" + "0" * 62)
    path.parent.mkdir(parents=True)
    make(path)
    with pytest.raises(ArtifactRefused, match="not a regular file"):
        store.open("ab" + "0" * 62, 1)
    assert store.set_aside("ab" + "0" * 62) is None
    assert list(store.objects()) == []


def test_a_missing_and_a_short_object_have_errors_of_their_own(store: Store, checkpoint: Path) -> None:
    artifact = store.stage(checkpoint, name="net")
    with pytest.raises(ArtifactMissing):
        store.open("0" * 64, 1)
    with pytest.raises(ArtifactDamaged, match="expected 7001 bytes, found 7000 bytes"):
        store.open(artifact.digest, 7001)


def test_a_descriptor_is_not_left_behind_by_an_error(store: Store, checkpoint: Path) -> None:
    """A worker tries a damaged object again and again until the deadline."""
    artifact = store.stage(checkpoint, name="net")
    before = descriptors()
    for digest, size in ((artifact.digest, 1), ("0" * 64, 1), (artifact.digest[:2] + "0" * 62, 1)):
        with pytest.raises((ArtifactMissing, ArtifactDamaged)):
            store.open(digest, size)
    with pytest.raises(ArtifactRefused):
        store.stage(checkpoint.parent, name="net")
    assert descriptors() == before


def test_verify_finds_one_changed_bit(store: Store, checkpoint: Path) -> None:
    artifact = store.stage(checkpoint, name="net")
    seen: list[tuple[int, int]] = []
    store.verify(artifact.digest, artifact.size, progress=lambda *at: seen.append(at))
    assert seen == [(7000, 7000)]
    data = bytearray(checkpoint.read_bytes())
    data[3500] ^= 1
    spoil(store.path(artifact.digest), bytes(data))
    with pytest.raises(ArtifactDamaged) as caught:
        store.verify(artifact.digest, artifact.size)
    assert (caught.value.expected, caught.value.found) == (artifact.digest, blake3(data).hexdigest())


def test_a_bad_sector_is_damage(store: Store, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    artifact = store.stage(checkpoint, name="net")
    monkeypatch.setattr(os, "readv", refuse)
    with pytest.raises(ArtifactDamaged, match="Input/output error"):
        store.verify(artifact.digest, artifact.size)
    assert store.set_aside(artifact.digest) is not None


def test_what_a_callback_raises_is_no_damage(store: Store, checkpoint: Path) -> None:
    """The terminal of `verify` was gone: what it read just then was said to be damaged, to be moved away."""
    artifact = store.stage(checkpoint, name="net")
    pipe = BrokenPipeError(errno.EPIPE, "Broken pipe")

    def gone(*_: int) -> None:
        raise pipe

    with pytest.raises(BrokenPipeError) as caught:
        store.verify(artifact.digest, artifact.size, progress=gone)
    assert caught.value is pipe


def test_a_damaged_object_is_set_aside_and_a_whole_one_is_not(store: Store, checkpoint: Path) -> None:
    """R13, and its race: two workers find the damage, the first sets it aside, the trainer writes it again, then
    the second comes. It must not take away what is whole now."""
    artifact = store.stage(checkpoint, name="net")
    assert store.set_aside(artifact.digest) is None
    spoil(store.path(artifact.digest), b"weighty" * 1000)
    aside = store.set_aside(artifact.digest)
    assert aside is not None
    assert aside.parent == store.root / "damaged"
    assert aside.read_bytes() == b"weighty" * 1000
    assert store.set_aside(artifact.digest) is None
    store.stage(checkpoint, name="net")
    assert store.set_aside(artifact.digest) is None
    store.verify(artifact.digest, artifact.size)


@pytest.mark.parametrize("again", [True, False])
def test_what_was_written_again_while_it_was_judged_stays(
    store: Store, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """The same race, closer: the second worker has read the damaged bytes already when they are replaced."""
    artifact = store.stage(checkpoint, name="net")
    path = store.path(artifact.digest)
    spoil(path, b"weighty" * 1000)

    def read_slowly(*_: object, **__: object) -> str:
        path.rename(checkpoint.parent / "aside")
        if again:
            store.stage(checkpoint, name="net")
        return "0" * 64

    monkeypatch.setattr(store_module, "hash_file", read_slowly)
    assert store.set_aside(artifact.digest) is None
    monkeypatch.undo()
    if again:
        store.verify(artifact.digest, artifact.size)


def test_what_goes_away_while_it_is_looked_at_is_not_there(
    store: Store, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = store.stage(checkpoint, name="net")
    monkeypatch.setattr(Store, "open", lambda *_: (_ for _ in ()).throw(ArtifactMissing("gone")))
    assert store.set_aside(artifact.digest) is None


def test_objects_are_listed_by_digest(store: Store, tmp_path: Path) -> None:
    for index in range(5):
        (tmp_path / "file").write_bytes(b"%d" % index)
        store.stage(tmp_path / "file", name="net")
    (store.root / "objects" / "README").write_bytes(b"not ours")
    (store.root / "objects" / "ab").mkdir(exist_ok=True)
    (store.root / "objects" / "ab" / "not-a-digest").write_bytes(b"not ours")
    found = list(store.objects())
    assert [one.digest for one in found] == sorted(blake3(b"%d" % index).hexdigest() for index in range(5))
    assert {one.size for one in found} == {1}
    assert all(one.mtime == one.path.stat().st_mtime for one in found)


# --- collect -----------------------------------------------------------------------------------------------------


def test_collect_removes_what_is_old_and_not_kept(store: Store, tmp_path: Path) -> None:
    staged = {}
    for name in ("kept", "old", "young"):
        (tmp_path / name).write_bytes(name.encode())
        staged[name] = store.stage(tmp_path / name, name=name)
        if name != "young":
            as_old(store.path(staged[name].digest))
    (removed,) = store.collect({staged["kept"].digest}, older_than_s=60, now=OLD + 61)
    assert (removed.digest, removed.size, removed.mtime) == (staged["old"].digest, 3, OLD)
    assert {one.digest for one in store.objects()} == {staged["kept"].digest, staged["young"].digest}
    assert store.collect({staged["kept"].digest}, older_than_s=60, now=OLD + 61) == []


def test_collect_removes_old_leftovers(store: Store, checkpoint: Path) -> None:
    """Processes that were killed leave temporary files and drafts; a draft is as old as the newest thing in it."""
    artifact = store.stage(checkpoint, name="net")
    spoil(store.path(artifact.digest), b"weig")
    aside = store.set_aside(artifact.digest)
    assert aside is not None
    temp, old, used = store.root / "temp" / "half", store.draft(), store.draft()
    temp.write_bytes(b"wei")
    (old / "more").mkdir()
    (old / "more" / "half").write_bytes(b"weigh")
    (used / "half").write_bytes(b"being written")
    for path in (aside, temp, old / "more" / "half", old / "more", old, used):
        as_old(path)
    removed = store.collect((), older_than_s=60, now=OLD + 61)
    assert {(one.path, one.digest, one.size) for one in removed} == {(aside, "", 4), (temp, "", 3), (old, "", 5)}
    assert files(store) == [used / "half"]


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """What is put in here is another user's, in folders where each removes only what is his own."""
    theirs = set[Path]()

    def refused(call: Callable[..., object]) -> Callable[..., object]:
        def guarded(path: object, *more: object, **how: object) -> object:
            if isinstance(path, str | Path) and any(Path(path).name == one.name for one in theirs):
                raise PermissionError(errno.EPERM, "Operation not permitted")
            return call(path, *more, **how)

        return guarded

    for name in ("unlink", "rmdir", "rename"):
        monkeypatch.setattr(os, name, refused(getattr(os, name)))
    return theirs


def test_what_another_user_left_stays_and_is_counted(
    store: Store, checkpoint: Path, foreign: set[Path], caplog: pytest.LogCaptureFixture
) -> None:
    """A shared folder like /tmp: gc ended with a traceback at the first file of somebody else, and never came to what it might remove."""
    theirs, mine = store.draft(), store.draft()
    (theirs / "half").write_bytes(b"weigh")
    temp, other = store.root / "temp" / "a", store.root / "temp" / "b"
    temp.parent.mkdir()
    temp.touch()
    other.touch()
    lost = store.path(store.stage(checkpoint, name="net").digest)
    for path in (theirs / "half", theirs, mine, temp, other, lost):
        as_old(path)
    foreign |= {theirs, temp, lost}
    assert {one.path for one in store.collect((), older_than_s=60, now=OLD + 61)} == {mine, other}
    assert temp.exists() and theirs.exists() and lost.exists()
    assert "may not remove 3 of the files and folders" in caplog.text
    foreign.clear()
    as_old(theirs)
    assert {one.path for one in store.collect((), older_than_s=60, now=OLD + 61)} == {lost, theirs, temp}


def test_an_object_that_could_not_be_put_back_is_not_taken(
    store: Store, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """collect() moves an object away, looks, and moves it back. Out of a folder like /tmp nobody moves what is another user's."""
    path = store.path(store.stage(checkpoint, name="net").digest)
    as_old(path)
    (store.root / "temp").chmod(0o1777)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 7)
    assert store.collect((), older_than_s=60, now=OLD + 61) == [] and path.exists()
    (store.root / "temp").chmod(0o777)
    assert [one.path for one in store.collect((), older_than_s=60, now=OLD + 61)] == [path]


def test_folders_that_may_not_be_read(
    store: Store, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Leftovers of others stay; that objects cannot be seen is said, or verify would call such a store whole."""
    draft = store.draft()
    path = store.path(store.stage(checkpoint, name="net").digest)
    as_old(path)
    listed, hidden = Path.iterdir, [draft.parent]

    def refuse(self: Path) -> object:
        if self in hidden:
            raise PermissionError(errno.EACCES, "Permission denied")
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert [one.path for one in store.collect((), older_than_s=60, now=OLD + 61)] == [path]
    assert f"{draft.parent} is refused: Permission denied" in caplog.text
    hidden.append(store.root / "objects")
    with pytest.raises(ArtifactRefused, match="objects is refused: Permission denied"):
        list(store.objects())


def test_another_error_ends_a_collect_in_words(store: Store, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.path(store.stage(checkpoint, name="net").digest)
    as_old(path)

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(ArtifactRefused, match="Read-only file system"):
        store.collect((), older_than_s=60, now=OLD + 61)


@pytest.fixture
def left(store: Store) -> Path:
    """A draft that somebody left long ago."""
    draft = store.draft()
    (draft / "half").write_bytes(b"weigh")
    as_old(draft / "half")
    as_old(draft)
    return draft


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EBUSY])
def test_a_disk_that_does_not_let_a_folder_go_ends_a_collect_in_words(
    store: Store, left: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A broken disk was said to be another user's folder, and gc ended well."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        with pytest.raises(ArtifactRefused, match=f"{left} is refused: {os.strerror(number)}"):
            store.collect((), older_than_s=60, now=OLD + 61)
    as_old(left)
    assert [one.path for one in store.collect((), older_than_s=60, now=OLD + 61)] == [left]


def test_a_folder_that_gets_a_file_while_it_is_removed_stays_and_that_is_said(
    store: Store, left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = os.unlink

    def late(*arguments: Any, **more: Any) -> None:
        unlink(*arguments, **more)
        (left / "late").touch()

    monkeypatch.setattr(os, "unlink", late)
    with pytest.raises(ArtifactRefused, match="not empty"):
        store.collect((), older_than_s=60, now=OLD + 61)
    assert files(store) == [left / "late"]


def test_two_collectors_that_remove_one_folder_do_not_mind(
    store: Store, left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = os.unlink

    def other_first(*arguments: Any, **more: Any) -> None:
        unlink(*arguments, **more)
        unlink(*arguments, **more)

    monkeypatch.setattr(os, "unlink", other_first)
    assert [one.path for one in store.collect((), older_than_s=60, now=OLD + 61)] == [left]
    assert not left.exists()


def test_a_link_among_the_leftovers_is_removed_and_not_what_it_leads_to(store: Store, checkpoint: Path) -> None:
    link = store.draft().parent / "link"
    link.symlink_to(checkpoint.parent)
    os.utime(link, (OLD, OLD), follow_symlinks=False)
    as_old(checkpoint)
    as_old(checkpoint.parent)
    removed = store.collect((), older_than_s=0, now=OLD + 1)
    assert [one.path for one in removed] == [link]
    assert checkpoint.exists()


def test_an_object_that_is_published_again_while_it_is_collected_stays(
    store: Store, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """collect finds it old · stage refreshes it and relies on it · collect takes it: it has to come back."""
    artifact = store.stage(checkpoint, name="net")
    as_old(store.path(artifact.digest))
    take = Store._take

    def publish_first(self: Store, *args: object) -> bool:
        store.stage(checkpoint, name="net")
        return take(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "_take", publish_first)
    assert store.collect((), older_than_s=60, now=OLD + 61) == []
    assert read(store, artifact) == checkpoint.read_bytes()
    assert files(store) == [store.path(artifact.digest)]


def test_an_object_that_is_collected_while_it_is_published_is_written_again(
    store: Store, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """stage has its digest · collect takes the old object · stage finds none to refresh, and names its own copy."""
    artifact = store.stage(checkpoint, name="net")
    as_old(store.path(artifact.digest))
    refreshed = Store._refreshed

    def collect_first(self: Store, digest: str, size: int) -> bool:
        assert len(store.collect((), older_than_s=60, now=OLD + 61)) == 1
        return refreshed(self, digest, size)

    monkeypatch.setattr(Store, "_refreshed", collect_first)
    assert store.stage(checkpoint, name="net") == artifact
    assert read(store, artifact) == checkpoint.read_bytes()


def test_two_collectors_remove_an_object_once(store: Store, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_old(store.path(store.stage(checkpoint, name="net").digest))
    take, first = Store._take, []

    def other_first(self: Store, *args: object) -> bool:
        if not first:
            first.append(True)
            first.extend(store.collect((), older_than_s=60, now=OLD + 61))
        return take(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "_take", other_first)
    assert store.collect((), older_than_s=60, now=OLD + 61) == []
    assert len(first) == 2


# --- at the same time ----------------------------------------------------------------------------------------------


def together(*works: Callable[[], None]) -> None:
    """Run all in threads that start at once; the first error of any is raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(works))

    def run(work: Callable[[], None]) -> None:
        start.wait(10)
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def test_the_same_file_staged_by_many_at_once_is_one_object(store: Store, checkpoint: Path) -> None:
    staged: list[Artifact] = []
    together(*[lambda: staged.append(store.stage(checkpoint, name="net"))] * 8)
    assert len(staged) == 8
    assert len(set(staged)) == 1
    assert files(store) == [store.path(staged[0].digest)]
    store.verify(staged[0].digest, staged[0].size)


STAGE = """
import sys
from pathlib import Path
from genlock.coordinator.store import Store

print(Store(Path(sys.argv[1])).stage(sys.argv[2], name="net").digest)
"""


def test_processes_that_stage_at_once_agree(store: Store, checkpoint: Path) -> None:
    command = [sys.executable, "-c", STAGE, store.root, checkpoint]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    digests = {process.communicate(timeout=60)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert digests == {blake3(checkpoint.read_bytes()).hexdigest()}
    assert len(files(store)) == 1


def test_what_stage_returned_is_there_however_much_is_collected(store: Store, checkpoint: Path) -> None:
    """A collector that is too eager meets a publisher of the same content, who must never be left without it.

    The object is made old after each round, so every stage finds one that is about to go. For the moment between two
    renames of collect() it is not there; then it has to be.
    """
    artifact = store.stage(checkpoint, name="net")
    done, a_moment = threading.Event(), threading.Event()

    def whole() -> bool:
        try:
            store.verify(artifact.digest, artifact.size)
        except ArtifactMissing:
            return a_moment.wait(0.001)  # False, later
        return True

    def publish() -> None:
        try:
            for _ in range(40):
                store.stage(checkpoint, name="net")
                deadline = time.monotonic() + 20
                while not whole():
                    assert time.monotonic() < deadline, "stage() returned, and the object was collected"
                with suppress(FileNotFoundError):
                    as_old(store.path(artifact.digest))
        finally:
            done.set()

    def collect() -> None:
        while not done.is_set():
            store.collect((), older_than_s=60, now=OLD + 61)

    together(publish, collect)
