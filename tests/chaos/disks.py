"""A disk that is full when a test wants it to be."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path

#: Seconds of one `mount`; it takes a hundredth.
COMMAND_S = 20
#: Bytes that `fill` writes at once, then fewer and fewer.
PIECE_BYTES = 2**20
_FILLER = ".filler"


class DiskMissing(Exception):
    """There can be no such disk here; the text says why."""


class SmallDisk:
    """A file system of its own in memory, mounted at `folder`. A context manager: afterwards the folder is as it was before."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder, self._size_bytes = folder, size_bytes

    def __enter__(self) -> SmallDisk:
        """Raises DiskMissing."""
        if why := missing():
            raise DiskMissing(why)
        self._mount()
        return self

    def __exit__(self, *_: object) -> None:
        self._unmount()

    def fill(self) -> None:
        """No byte is left for anybody."""
        with (self.folder / _FILLER).open("ab", buffering=0) as file:
            piece = PIECE_BYTES
            while piece:
                try:
                    piece = piece if file.write(bytes(piece)) == piece else piece // 2
                except OSError:
                    piece //= 2

    def free(self) -> None:
        """As much as before `fill`."""
        (self.folder / _FILLER).unlink(missing_ok=True)

    def _mount(self) -> None:
        _run("mount", "-t", "tmpfs", "-o", f"size={self._size_bytes}", "genlock", str(self.folder))

    def _unmount(self) -> None:
        """Also while somebody has a file open there."""
        _run("umount", "--lazy", str(self.folder))


@cache
def missing() -> str:
    """Why there can be no SmallDisk here; nothing, if there can: one is tried once."""
    with tempfile.TemporaryDirectory() as folder:
        disk = SmallDisk(Path(folder), 4096)
        try:
            disk._mount()
        except DiskMissing as error:
            return str(error)
        disk._unmount()
    return ""


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    except FileNotFoundError:
        raise DiskMissing(f"no {command[0]} on the PATH") from None
    if done.returncode:
        raise DiskMissing(f"{' '.join(command)} says: {done.stderr.strip()}")
