"""Whether somebody has a file open for writing, as far as that can be known: asked only about files that look settled.

The kernel knows it exactly for the files of this host: it gives a read lease (fcntl(2), F_SETLEASE) on a file only while nobody has it
open for writing, through a shared mapping or from another container included. Who owns the file may ask. The lease is given back at
once; a writer that comes just then waits for that moment, in which this process does nothing else, however many threads it has. Where
leases cannot be had, the descriptors of those processes that this user may look into are read, as many as there are. Of a writer on
another host nothing can be known.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import operator
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

#: The bits of the access mode in the flags of an open file (fcntl.h), and their value for reading only.
_ACCESS, _READING = 3, os.O_RDONLY


def is_open_for_writing(path: Path, *, is_local: bool, processes: Path = Path("/proc")) -> bool | None:
    """Whether a process has the file open for writing; None: nobody is known to, and not all can be asked. `is_local`: it lies on a file
    system of this host (where a server keeps it, a lease says something else)."""
    found = _by_lease(path) if is_local else None
    if found is None and any(
        _flags_of(descriptor) & _ACCESS != _READING for descriptor in _descriptors(path, processes)
    ):
        return True
    return found


def _by_lease(path: Path) -> bool | None:
    if sys.platform != "linux":
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None  # whoever reads it will hear why
    try:
        # A writer that opens it in this moment makes the kernel send a signal, SIGIO if nothing is said: that one would end the process.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        why = _lease(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    if why:
        return True if why == errno.EAGAIN else None  # EACCES: not our file; EINVAL: this file system has none
    return False


def _lease(descriptor: int) -> int:
    """Takes the lease and gives it back; 0, or the error of taking it.

    No thread of this process runs in between: fcntl.fcntl lets the GIL go after the first call, and in a busy worker a writer would wait
    for as long as this thread waits to get it back. The calls are made without letting it go, and one after the other from C (`map`),
    where the interpreter does not look whether another thread wants it.
    """
    take, give_back = (partial(_fcntl(), descriptor, fcntl.F_SETLEASE, how) for how in (fcntl.F_RDLCK, fcntl.F_UNLCK))
    calls: list[Callable[[], int]] = [take, ctypes.get_errno, give_back]
    taken, why, _ = list(map(operator.call, calls))
    return why if taken else 0


@cache
def _fcntl() -> Any:
    """fcntl(2), called with the GIL held. None of the calls made by it waits for anything."""
    return ctypes.PyDLL(None, use_errno=True).fcntl


def _descriptors(path: Path, processes: Path) -> Iterator[Path]:
    """/proc/PID/fd/N of every process that has the file open, as far as this user may look."""
    wanted = os.path.realpath(path)
    with suppress(OSError):  # there is no /proc
        for process in processes.iterdir():
            if process.name.isdigit():
                yield from _descriptors_of(process, wanted)


def _descriptors_of(process: Path, wanted: str) -> Iterator[Path]:
    with suppress(OSError):  # another user's, or just gone
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):
                if (
                    str(descriptor.readlink()) == wanted
                ):  # not followed: what it leads to may be on a server that is gone
                    yield descriptor


def _flags_of(descriptor: Path) -> int:
    try:
        rows = (descriptor.parent.parent / "fdinfo" / descriptor.name).read_text().splitlines()
    except OSError:  # closed meanwhile
        return _READING
    return next((int(row.split()[1], 8) for row in rows if row.startswith("flags:")), _READING)
