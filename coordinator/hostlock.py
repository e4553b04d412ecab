"""Locks among the processes of one host: a file that one of them has locked (flock), which the kernel frees with it, however it dies.

The lock belongs to the open file, and a child that is forked meanwhile has that too: a lock that was only closed would last for as long as
the child lives. So it is unlocked first (give_back), except where the file is handed down on purpose (server.py).
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: Seconds between two looks at a lock that somebody else has: at first, because a small model is loaded in 3 ms, and at most; the pause
#: doubles from the one to the other. A look takes 10 µs, so waiting takes a four-hundredth of a core; with 20 ms at most, the last of
#: four workers had a model of 1 MB 6 ms later.
FIRST_POLL_S, MAX_POLL_S = 0.001, 0.004


def open_lock(path: Path) -> int:
    """A descriptor of the file, for this user alone; made where it is missing. A link is not followed. Raises OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def try_lock(descriptor: int) -> bool:
    """Locks an open file or folder; False where somebody has it. Raises OSError: a file system without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(descriptor: int) -> None:
    """Locks what is new and this process's own: others have it at most for a look."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def give_back(descriptor: int) -> None:
    """Unlocks and closes."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def take(paths: Iterable[Path]) -> int | None:
    """The descriptor of the first of these files that nobody has locked, locked. Raises OSError."""
    for path in paths:
        descriptor = open_lock(path)
        try:
            if try_lock(descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    return None


@contextmanager
def locked(paths: list[Path], goes_on: Callable[[], bool]) -> Iterator[bool]:
    """Have one of these files locked: True; or none, because `goes_on`, asked before each pause, would not wait for it: False.

    Raises OSError, and what `goes_on` raises.
    """
    pause = FIRST_POLL_S
    while (held := take(paths)) is None and goes_on():
        time.sleep(pause)
        pause = min(2 * pause, MAX_POLL_S)
    try:
        yield held is not None
    finally:
        if held is not None:
            give_back(held)


def is_locked(path: Path) -> bool:
    """Whether a live process has it locked; a file that is not there, nobody has. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor)
    finally:
        give_back(descriptor)
