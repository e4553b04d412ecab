"""Bytes on disk: read, hashed and copied in pieces; flushed so that a crash loses nothing; errors in words.

What the store and the identity of a fleet stand on. Reading, hashing and writing release the GIL, piece by
piece.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import cycle
from pathlib import Path
from typing import IO

from blake3 import blake3

from .errors import ArtifactMissing, ArtifactRefused, StoreFull
from .priority import low_priority

Progress = Callable[[int, int], None]  #: (bytes done, bytes in all)
Check = Callable[[IO[bytes], str], object]  #: looks at a file; its path, for what it raises

#: Bytes read, hashed and written at a time. Of 256 KiB to 8 MiB the fastest to copy (200 MB, ext4, 2 cores).
PIECE_BYTES = 2 * 2**20
#: Bytes that one call of the system reads or writes. A kernel may not be interrupted in it, however nice the thread: at 2 MiB on a virtual
#: machine that gets its memory while it uses it, 12 ms in which no request runs on that core.
CALL_BYTES = 2**18

#: Numbers of errors that say that there is no room.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_IN_THE_WAY = {errno.ELOOP, errno.ENOTDIR, errno.EEXIST}


# --- bytes --------------------------------------------------------------------------------------------------


def hash_file(source: int, size: int, progress: Progress | None = None, *, path: Path | str | None = None) -> str:
    """The BLAKE3 digest of what the descriptor `source` still has to give, about `size` bytes. `path`: see pieces_of.

    In the calling thread alone: a worker that made its loading thread nice does not want to pay for others.
    """
    hasher = blake3()
    for piece in pieces_of(source, size, progress, path=path):
        hasher.update(piece)
    return str(hasher.hexdigest())


def copy_file(
    source: int,
    target: int,
    size: int,
    progress: Progress | None = None,
    *,
    path: Path | str | None = None,
    to: Path | str | None = None,
) -> str:
    """Copy between descriptors; the BLAKE3 digest of what was copied, from the same pass. Does not flush.

    `path`, `to`: what an error of reading, or of writing, is said of; what `progress` raises is said of neither.

    One thread hashes a piece while another writes it and reads the next. Both are nice: a trainer on the machine of its workers
    must not take the processor from their requests.
    """
    hasher = blake3()
    hashed: Future[object] | None = None
    done = 0
    with ThreadPoolExecutor(max_workers=2, initializer=low_priority) as nice:

        def read(source: int, buffer: memoryview) -> memoryview:
            return nice.submit(_read, source, buffer).result()

        for piece in pieces_of(source, size, progress, read, path=path):
            written = nice.submit(_write, target, piece, done)
            if hashed:
                hashed.result()  # its buffer is the next one to be read into
            hashed = nice.submit(hasher.update, piece)
            with _explained(to):
                written.result()
            done += len(piece)
    return str(hasher.hexdigest())


def _read(source: int, buffer: memoryview) -> memoryview:
    done = 0
    while read := os.readv(source, [buffer[done : done + CALL_BYTES]]):
        done += read
    return buffer[:done]


def pieces_of(
    source: int,
    size: int,
    progress: Progress | None,
    read: Callable[[int, memoryview], memoryview] = _read,
    *,
    path: Path | str | None = None,
) -> Iterator[memoryview]:
    """The file piece by piece, in two buffers by turns: a piece is good until the next but one is asked for.

    `path`: what an error of reading is said of, as an ArtifactError; without it the error stays an OSError. What `progress` raises
    passes through.

    Read, not mapped: a trainer that truncates its file meanwhile would kill whoever reads it through a
    mapping.
    """
    buffers = cycle([memoryview(bytearray(min(size, PIECE_BYTES))) for _ in range(2)])
    done = 0
    while True:
        with _explained(path):
            piece = read(source, next(buffers))
        if not piece:
            return
        yield piece
        done += len(piece)
        if progress:
            progress(done, size)


def _write(target: int, piece: memoryview, offset: int) -> None:
    left = piece
    while left:
        left = left[os.write(target, left[:CALL_BYTES]) :]
    _start_writeback(target, offset, len(piece))


def _start_writeback(target: int, offset: int, length: int) -> None:
    """Let the disk begin now: the fsync at the end then finds little to wait for (halves the time of a copy).

    On Linux this advice starts to write the dirty pages; being dirty they also stay in the page cache, where
    workers will look for them.
    """
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # it is advice: a file system may not know it
            os.posix_fadvise(target, offset, length, os.POSIX_FADV_DONTNEED)


# --- a file that somebody else made -------------------------------------------------------------------------


def open_source(path: Path | str) -> int:
    """A descriptor of a regular file with something in it; links are followed, a FIFO does not block.

    Raises ArtifactMissing or ArtifactRefused.
    """
    if "\0" in os.fspath(path):
        raise ArtifactRefused(repr(os.fspath(path)), "no file has a NUL in its name")
    with explained(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_size:
        return descriptor
    os.close(descriptor)
    if stat.S_ISREG(found.st_mode):
        raise ArtifactRefused(str(path), "it is empty")
    kind = "a folder: name each file in it" if stat.S_ISDIR(found.st_mode) else "not a regular file"
    raise ArtifactRefused(str(path), f"it is {kind}")


def refuse_changed(path: Path | str, source: int, before: os.stat_result) -> None:
    """Raises ArtifactRefused if the file that was read to its end from `source` is not what it was
    `before`."""
    with explained(path):
        after = os.fstat(source)
        read = os.lseek(source, 0, os.SEEK_CUR)
    if (after.st_size, after.st_mtime_ns, read) != (before.st_size, before.st_mtime_ns, before.st_size):
        sizes = f"{before.st_size} bytes before, {after.st_size} after, {read} read"
        why = f"it was changed while it was read ({sizes}): publish it when it is completely written"
        raise ArtifactRefused(str(path), why)


# --- small files of our own ---------------------------------------------------------------------------------


def write_whole(
    path: Path, data: bytes, *, durable: bool, temp: Path | None = None, replace: bool = True, mode: int = 0o666
) -> None:
    """Give `path` this content, whole or not at all: at every moment it is what it was or what it shall be. Its folder has to be there.

    `durable`: flushed, with its name, when this returns; without it a crash of the machine may leave an empty file. `temp`: what is written
    before it has its name, on the same disk, gone at the end unless the process is killed (None: a new name beside it). It must belong to
    the caller alone: of two that write one, the second empties what the first then renames. `replace`: whether it takes the place of what
    is there, or leaves that. `mode`: as far as the umask lets it. Raises OSError.
    """
    temp = path.with_name(f".{uuid.uuid4().hex}") if temp is None else temp
    try:
        descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(descriptor)
        if replace:
            temp.replace(path)
        else:
            with suppress(FileExistsError):  # a rename would not fail where somebody was faster
                os.link(temp, path)
    finally:
        with suppress(OSError):
            temp.unlink()
    if durable:
        sync_folder(path.parent)


# --- folders and errors -------------------------------------------------------------------------------------


def make_folder(folder: Path) -> None:
    """Make `folder` and what is missing above it, so that a crash does not lose it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def make_private(folder: Path) -> None:
    """Make `folder` as one that others do not look into, and what is missing above it; one that is there keeps its mode.

    Where it cannot be made, whoever needs something in it says why.
    """
    with suppress(OSError):
        if not folder.is_dir():
            make_folder(folder.parent)
            folder.mkdir(mode=0o700, exist_ok=True)
            sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Flush the names in `folder`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Turns an error of the operating system into the ArtifactError about `path` that it means."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactMissing(str(path)) from error
    except OSError as error:
        if error.errno in FULL:
            raise StoreFull(str(path), str(error.strerror)) from error
        link = "a link, or something that is no folder, stands in its way"
        raise ArtifactRefused(str(path), link if error.errno in _IN_THE_WAY else str(error.strerror)) from error


def _explained(path: Path | str | None) -> AbstractContextManager[None]:
    return nullcontext() if path is None else explained(path)
