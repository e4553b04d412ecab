"""A clock on the wall that is wrong, and can be set while a program reads it."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from functools import cache
from pathlib import Path

#: Seconds that the compiler gets for one short file.
BUILD_S = 60
NS_PER_S = 1_000_000_000
_FORMAT = struct.Struct("=q")


class ClockMissing(Exception):
    """The clock cannot be set here; the text says why."""


class Clock:
    """A context manager. Programs that are started with `library` preloaded (Server: `preload`), or in `env`, see it; the
    monotonic clocks they see stay right."""

    def __init__(self, folder: Path) -> None:
        """`folder`: its own. Raises ClockMissing."""
        (folder / "offset").write_bytes(_FORMAT.pack(0))
        self.library = build(folder)
        with (folder / "offset").open("r+b") as file:
            self._offset = mmap.mmap(file.fileno(), _FORMAT.size)

    def __enter__(self) -> Clock:
        return self

    def __exit__(self, *_: object) -> None:
        """Nobody sets it any more; it stays as wrong as it is for who still reads it."""
        self._offset.close()

    @property
    def env(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library)}

    @property
    def offset_s(self) -> float:
        """How far it is ahead."""
        return float(_FORMAT.unpack(self._offset[:])[0]) / NS_PER_S

    def step(self, seconds: float) -> None:
        """Forwards, or backwards if below 0."""
        self._offset[:] = _FORMAT.pack(round((self.offset_s + seconds) * NS_PER_S))


def build(folder: Path) -> Path:
    """Compiles the library that is to be preloaded. Raises ClockMissing."""
    if why := missing():
        raise ClockMissing(why)
    library = folder / "clockshim.so"
    done = _compile(library)
    if done.returncode:
        raise ClockMissing(f"the compiler refuses clockshim.c: {done.stderr.strip()}")
    return library


@cache
def missing() -> str:
    """Why the clock cannot be set here; nothing, if it can."""
    return "" if shutil.which("cc") else "no C compiler (cc) on the PATH"


def _compile(library: Path) -> subprocess.CompletedProcess[str]:
    source = Path(__file__).with_name("clockshim.c")
    command = ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(library), str(source), "-ldl"]
    return subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S, check=False)
