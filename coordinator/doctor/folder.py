"""Looks at a folder that genlock keeps things in, and tries in it what the store does: with files of its own, which it removes."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..disk import sync_folder
from ..filesystem import kind_of
from .facts import FolderFacts

#: What one flush is tried with: a page.
PAGE = b"\0" * 4096
#: Flushes that are timed.
SYNCS = 5
#: What the kernel says of mounts (proc_pid_mountinfo(5)); there is none on macOS.
MOUNTS = Path("/proc/self/mountinfo")


def look_at(folder: Path, *, mounts: Path = MOUNTS) -> FolderFacts:
    """The folder as it is now; one that does not exist is not made."""
    try:
        found = folder.stat()
        room = os.statvfs(folder)
    except FileNotFoundError:
        return FolderFacts(path=str(folder), error=_in_the_way(folder))
    except OSError as error:
        return FolderFacts(path=str(folder), error=str(error.strerror))
    if not folder.is_dir():
        return FolderFacts(path=str(folder), error="it is not a folder")
    filesystem, mounted_at = filesystem_of(folder.resolve(), mounts)
    failed, sync_s = _tried(folder)
    return FolderFacts(
        path=str(folder),
        exists=True,
        filesystem=filesystem,
        is_local=kind_of(folder).is_local,
        mounted_at=mounted_at,
        free_bytes=room.f_bavail * room.f_frsize,
        total_bytes=room.f_blocks * room.f_frsize,
        free_files=room.f_favail if room.f_files else None,  # some file systems count no files
        mode=found.st_mode & 0o7777,
        owner=found.st_uid,
        failed=failed,
        sync_s=sync_s,
    )


def _in_the_way(folder: Path) -> str:
    """Why the folder could not be made; empty if nothing speaks against it."""
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir():
        return f"it cannot be made: {above} is not a folder"
    return "" if os.access(above, os.W_OK | os.X_OK) else f"it cannot be made: this user may not write to {above}"


def filesystem_of(folder: Path, mounts: Path = MOUNTS) -> tuple[str, str]:
    """Type and mount point of the file system that holds `folder` (resolved); two empty texts where the kernel does not say."""
    best = ("", "")
    try:
        rows = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return best
    for row in rows:
        mount, _, kind = row.partition(" - ")
        words = mount.split()
        if len(words) > 4 and kind:
            at = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), words[4])  # a space is \040 there
            if folder.is_relative_to(at) and len(at) >= len(
                best[1]
            ):  # the last one mounted there is the one that is seen
                best = (kind.split()[0], at)
    return best


# --- a trial -------------------------------------------------------------------------------------------------------


def _tried(folder: Path) -> tuple[dict[str, str], tuple[float, ...]]:
    """What did not work (step → why), and the seconds of each flush."""
    trial = folder / "temp" if (folder / "temp").is_dir() else folder
    name = f"doctor-{uuid.uuid4().hex}"
    first, second, third = (trial / f"{name}{end}" for end in ("", ".link", ".moved"))
    failed: dict[str, str] = {}
    syncs: list[float] = []
    try:
        if _step(failed, "write", lambda: _write(first, syncs)):
            _step(failed, "hard link", lambda: os.link(first, second))
            _step(failed, "rename", lambda: first.rename(third))
            _step(failed, "flush of a folder", lambda: sync_folder(trial))
            _step(failed, "read-only mode", lambda: _make_read_only(third))
    finally:
        for left in (first, second, third):
            with suppress(OSError):
                left.unlink()
    return failed, tuple(syncs)


def _step(failed: dict[str, str], what: str, action: Callable[[], object]) -> bool:
    try:
        action()
    except OSError as error:
        failed[what] = str(error.strerror or error)
        return False
    return True


def _write(path: Path, syncs: list[float]) -> None:
    with path.open("xb") as file:
        for _ in range(SYNCS):
            file.write(PAGE)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            syncs.append(time.perf_counter() - began)
    if path.stat().st_size != SYNCS * len(PAGE):
        raise OSError(0, "what was written is not there")


def _make_read_only(path: Path) -> None:
    path.chmod(0o444)
    if path.stat().st_mode & 0o777 != 0o444:
        raise OSError(0, "the mode of a file does not stay as it is set")
