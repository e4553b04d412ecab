"""Content-addressed artifacts: stage, adopt, open, verify, set aside, collect.

::

    ROOT/objects/ab/cdef…   one read-only file per BLAKE3 digest: its name is its content
    ROOT/temp/…             copies that are being written
    ROOT/drafts/…           private folders that a trainer writes into; adopt() moves files from there
    ROOT/damaged/…          objects whose bytes were not what their name says (R13)
    ROOT/fleets/…           see identity.py

Nothing below `objects` is ever written to (promise 6): a file is complete, flushed and read-only before a
rename gives it its name, and the folder is flushed before anyone is told. Who has opened or mapped an object
keeps it, whatever happens here. The digest alone decides which file is opened, never a path that somebody
sent.

Publish against collect, without a lock that every shared file system would have to know: who relies on an
object that is there already refreshes its mtime first. collect() takes a file away by a rename, looks at its
mtime *then*, and puts it back if that is fresh. Either the refresh came before the rename, and is seen; or it
came after, finds no file, and the content is written again.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import stat
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from .beneath import open_beneath
from .disk import (
    Check,
    Progress,
    copy_file,
    explained,
    hash_file,
    make_folder,
    open_source,
    refuse_changed,
    sync_folder,
)
from .drafts import Drafts
from .errors import ArtifactDamaged, ArtifactMissing, ArtifactRefused
from .manifest import Artifact, check_name

if TYPE_CHECKING:
    from .remote import RemoteStore
    from .settings import Settings

    #: What a fleet keeps its artifacts in.
    AnyStore: TypeAlias = "Store | RemoteStore"

_log = logging.getLogger("genlock.store")

#: Mode of an object: whoever may read the store may read it, nobody writes it.
OBJECT_MODE = 0o444

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One file of the store: digest ("": a leftover that is no object), bytes, unix seconds of last use; its path, or URL."""

    digest: str
    size: int
    mtime: float
    path: Path | str


class Store:
    """The artifacts below one folder that all hosts of a fleet share. Makes nothing until it has to write."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()
        self._objects, self._temp = self.root / "objects", self.root / "temp"
        self._drafts, self._damaged = Drafts(self.root / "drafts"), self.root / "damaged"

    # --- writing ---

    def stage(
        self, path: Path | str, *, name: str, progress: Progress | None = None, check: Check | None = None
    ) -> Artifact:
        """Copy the file at `path` into the store; when this returns, it is flushed and has its final name.

        It may be a link to a regular file. `check`: looks at the copy before that has its name, and raises what it finds. Raises
        InvalidName, ArtifactMissing, ArtifactRefused (empty, not a regular file, changed while it was copied) or StoreFull; the store is
        then as it was before.
        """
        check_name(name, "artifact")
        source = open_source(path)
        try:
            before = os.fstat(source)
            with self._temp_file() as (temp, target):
                digest = copy_file(source, target, before.st_size, progress, path=path, to=self.root)
                refuse_changed(path, source, before)
                with explained(self.root):
                    _look(temp, check, path)
                    if not self._refreshed(digest, before.st_size):
                        self._publish(temp, target, digest)
        finally:
            os.close(source)
        return Artifact(name, before.st_size, digest)

    def adopt(self, path: Path, *, name: str, progress: Progress | None = None, check: Check | None = None) -> Artifact:
        """Move a file that lies in a draft into the store, without a copy. Errors are those of stage().

        A link, or a file with a second name elsewhere, could be changed through that later: such a file is
        copied.
        """
        check_name(name, "artifact")
        path = self._drafts.inside(path)
        source = open_source(path)
        try:
            before = os.fstat(source)
            if path.is_symlink() or before.st_nlink > 1:
                return self.stage(path, name=name, progress=progress, check=check)
            digest = hash_file(source, before.st_size, progress, path=path)
            refuse_changed(path, source, before)
            with explained(self.root):
                _look(path, check, path)
                if self._refreshed(digest, before.st_size):
                    path.unlink()
                else:
                    os.utime(source)  # a draft may be older than what collect() spares
                    self._publish(path, source, digest)
        finally:
            os.close(source)
        return Artifact(name, before.st_size, digest)

    def draft(self) -> Path:
        """A new private folder on the file system of the store, for adopt()."""
        return self._drafts.new()

    def discard(self, folder: Path) -> None:
        """Remove a draft with all that is in it; one that is gone already is no error."""
        self._drafts.discard(folder)

    def release(self) -> None:
        """The publish that staged has ended: here nothing has to be done then."""

    @contextmanager
    def _temp_file(self) -> Iterator[tuple[Path, int]]:
        """A new file and its descriptor; removed at the end if it still has that name."""
        temp = self._temp / uuid.uuid4().hex
        with explained(self.root):
            make_folder(self._temp)
            descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            yield temp, descriptor
        finally:
            with explained(self.root):
                os.close(descriptor)
                temp.unlink(missing_ok=True)

    def _publish(self, file: Path, descriptor: int, digest: str) -> None:
        """Flush `file` and give it its final name."""
        os.fchmod(descriptor, OBJECT_MODE)
        os.fsync(descriptor)
        final = self.path(digest)
        make_folder(final.parent)
        file.rename(final)
        sync_folder(final.parent)

    def _refreshed(self, digest: str, size: int) -> bool:
        """Whether the object is there, of that size, and safe from collect(); a damaged one is set aside."""
        final = self.path(digest)
        try:
            os.utime(final, follow_symlinks=False)
            found = os.lstat(final)
        except OSError:  # not there; or another user's, whose mtime we may not set: our own copy replaces it
            return False
        if stat.S_ISREG(found.st_mode) and found.st_size == size:
            sync_folder(final.parent)  # whoever renamed it may have died before this
            return True
        self._move_aside(digest, found)
        return False

    # --- reading ---

    def path(self, digest: str) -> Path:
        """Where the object of that digest lies, or would; ArtifactRefused for anything but 64 hex digits."""
        check_digest(digest)
        return self._objects / digest[:2] / digest[2:]

    def open(self, digest: str, size: int) -> int:
        """A descriptor of the object, for reading; no link below the root is followed. The caller closes it.

        Raises ArtifactMissing, ArtifactDamaged (not `size` bytes), ArtifactRefused (a link, a folder, no
        permission).
        """
        path = self.path(digest)
        descriptor = self._open_beneath(path)
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_size == size:
            return descriptor
        os.close(descriptor)
        if stat.S_ISREG(found.st_mode):
            raise ArtifactDamaged(str(path), f"{size} bytes", f"{found.st_size} bytes")
        raise ArtifactRefused(str(path), "it is not a regular file")

    def read_at(self, digest: str, size: int, offset: int, length: int) -> bytes:
        """`length` bytes of the object from `offset` on, less at its end; read, not mapped. Raises as open() does."""
        descriptor = self.open(digest, size)
        try:
            with explained(self.path(digest)):
                return os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)

    def verify(self, digest: str, size: int, *, progress: Progress | None = None) -> None:
        """Read the object again and compare; ArtifactDamaged with both digests, or what open() raises."""
        path, descriptor = self.path(digest), self.open(digest, size)
        try:
            found = hash_file(descriptor, size, progress, path=path)
        except ArtifactRefused as error:  # a bad sector
            raise ArtifactDamaged(str(path), digest, error.why) from error
        finally:
            os.close(descriptor)
        if found != digest:
            raise ArtifactDamaged(str(path), digest, found)

    def set_aside(self, digest: str) -> Path | None:
        """Move a damaged object away, so that the next stage() writes it again; returns where it is now.

        None if there is none (a link or a folder is none), or if it is whole: several workers find the same damage, and the slowest of
        them must not take away what has been written again meanwhile.
        """
        judged = _lstat(self.path(digest))
        if judged is None:
            return None
        try:
            self.verify(digest, judged.st_size)
        except ArtifactDamaged:
            return self._move_aside(digest, judged)
        except (ArtifactMissing, ArtifactRefused):
            pass
        return None

    def objects(self) -> Iterator[StoredObject]:
        """Every object, by digest. What is put in or taken away meanwhile may be seen or not."""
        for folder in _entries(self._objects):
            for path in _entries(folder):
                digest = folder.name + path.name
                if _DIGEST.match(digest) and (found := _lstat(path)) and stat.S_ISREG(found.st_mode):
                    yield StoredObject(digest, found.st_size, found.st_mtime, path)

    def fleets(self) -> list[str]:
        """The names of the fleets that keep their artifacts here."""
        return sorted(path.name.removesuffix(".json") for path in (self.root / "fleets").glob("*.json"))

    def close(self) -> None:
        """A folder holds no connection."""

    def _open_beneath(self, path: Path) -> int:
        """Open `path`, refusing a link at every step below the root (the root itself may be one)."""
        with explained(path):
            return open_beneath(self.root, path.relative_to(self.root))

    # --- taking away ---

    def collect(
        self, keep: Collection[str], *, older_than_s: float, now: float, dry_run: bool = False
    ) -> list[StoredObject]:
        """Remove what was last used before `now - older_than_s`: objects not in `keep`, and leftovers.

        Leftovers are temporary files, drafts and damaged objects. `now` is in unix seconds; `older_than_s`
        has to be longer than any publish takes from its stage() to its proposal. Safe while others publish
        (see the top of this file). What this user may not remove stays, and the log says how much that is;
        what stays for another reason is raised, as ArtifactRefused. Returns what was removed; with `dry_run`
        what would be, as far as that is known before it is tried.
        """
        oldest, removed, refused = now - older_than_s, list[StoredObject](), 0
        old = [found for found in self.objects() if found.digest not in keep and found.mtime < oldest]
        for found in [*old, *(left for left in self._leftovers() if left.mtime < oldest)]:
            try:
                with explained(found.path):
                    if dry_run or (self._take(found, oldest) if found.digest else _remove(Path(found.path))):
                        removed.append(found)
            except ArtifactRefused as error:
                if not isinstance(error.__cause__, PermissionError):
                    raise
                refused += 1
        if refused:
            _log.warning("this user may not remove %d of the files and folders below %s: they stay", refused, self.root)
        return removed

    def _leftovers(self) -> Iterator[StoredObject]:
        for folder in (self._temp, self._damaged, self._drafts.folder):
            try:
                yield from map(_leftover, _entries(folder))
            except ArtifactRefused as error:
                _log.warning("its leftovers stay: %s", error)

    def _take(self, found: StoredObject, oldest: float) -> bool:
        """Remove the object unless it has been refreshed."""
        path, taken = self.path(found.digest), self._temp / uuid.uuid4().hex
        make_folder(self._temp)
        with suppress(FileNotFoundError):  # another collect() was faster
            _refuse_stuck(path, self._temp)
            path.rename(taken)
            if os.lstat(taken).st_mtime < oldest:
                taken.unlink()
                return True
            taken.rename(path)
        return False

    def _move_aside(self, digest: str, judged: os.stat_result) -> Path | None:
        """Move the object away if it is still the file that was judged."""
        found = _lstat(self.path(digest))
        if found is None or (found.st_dev, found.st_ino) != (judged.st_dev, judged.st_ino):
            return None
        with explained(self._damaged):
            make_folder(self._damaged)
            aside = self._damaged / f"{digest}.{uuid.uuid4().hex}"
            self.path(digest).rename(aside)
            os.utime(aside, follow_symlinks=False)  # kept for a look until collect() finds it old
        return aside


def open_store(settings: Settings) -> AnyStore:
    """The store of these settings: a folder, or what stands below a URL. Nothing is opened or made yet."""
    place = settings.store_place
    if isinstance(place, Path):
        return Store(place)
    from .remote import RemoteStore

    return RemoteStore(place, settings.state_dir)


def check_digest(digest: str) -> None:
    """Raises ArtifactRefused for anything but 64 hex digits."""
    if not isinstance(digest, str) or not _DIGEST.match(digest):
        raise ArtifactRefused(repr(digest), "a digest has 64 hexadecimal digits")


def _look(path: Path, check: Check | None, source: Path | str) -> None:
    if check is not None:
        with path.open("rb") as file:
            check(file, str(source))


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing if there is none. A link is no folder of ours. Raises ArtifactRefused: it may not be read."""
    with explained(folder), suppress(FileNotFoundError, NotADirectoryError):
        return [] if folder.is_symlink() else sorted(folder.iterdir())
    return []


def _leftover(path: Path) -> StoredObject:
    """A file or folder that is no object, as old as the newest thing in it."""
    itself = _lstat(path)
    tree = os.walk(path) if itself and stat.S_ISDIR(itself.st_mode) else []
    inside = [Path(at, name) for at, folders, files in tree for name in (*folders, *files)]
    found = [one for one in (itself, *map(_lstat, inside)) if one]
    size = sum(one.st_size for one in found if stat.S_ISREG(one.st_mode))
    return StoredObject("", size, max((one.st_mtime for one in found), default=0.0), path)


def _remove(path: Path) -> bool:
    """Take a leftover away, as much of it as goes. Raises the first error for which something of it stays."""
    if path.is_dir() and not path.is_symlink():
        errors: list[BaseException] = []
        shutil.rmtree(path, onerror=lambda _call, _path, raised: errors.append(raised[1]))
        for error in errors:
            if not isinstance(error, FileNotFoundError):  # else another was faster
                raise error
    else:
        path.unlink(missing_ok=True)
    return True


def _refuse_stuck(file: Path, folder: Path) -> None:
    """Raises PermissionError where this user might move `file` into `folder` and not out of it again: an object could not be put back."""
    owner, into = os.lstat(file).st_uid, folder.stat()
    if into.st_mode & stat.S_ISVTX and os.geteuid() not in (0, owner, into.st_uid):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(file))
