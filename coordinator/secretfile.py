"""Files with secrets that the settings name: keys and tokens. A secret that others may read or change is none, and no such file is used."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_file(path: Path, *, what: str, most: int, is_secret: bool = True) -> bytes:
    """What stands in a regular file of at most `most` bytes; links are followed, a FIFO does not block. `what` it should be a file of.

    Raises OSError, or ValueError with what is wrong: not with what stands in it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > most:
            raise ValueError(f"it is no file of {what}")
        if is_secret and (why := too_open(found.st_mode)):
            raise ValueError(f"{why}; `chmod o-rwx,g-w {path}` ends that")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)  # of a folder, too, of which fdopen makes no file


def too_open(mode: int) -> str:
    """Why a file of that mode cannot have a secret in it; nothing where it can. A group may read it: so containers get theirs."""
    if mode & stat.S_IROTH:
        return "everybody on this machine may read it"
    return "others may change it" if mode & (stat.S_IWOTH | stat.S_IWGRP) else ""
