"""Opening a file beneath a folder: no link is followed on the way, and nothing leads out of it.

Linux 5.6 does it in one call, openat2(2), which no rename can slip through; elsewhere every step is opened by itself, from the folder
before it. Both refuse the same.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Callable
from functools import cache
from pathlib import PurePath

#: openat2(2), under this number on every architecture but alpha (asm-generic/unistd.h).
_OPENAT2 = 437
#: linux/openat2.h: nothing above the folder, no link at any step, none of /proc's links to other places.
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08
#: The kernel has no such call or option, or a sandbox does not let it through: it is done step by step.
_NOT_HERE = frozenset({errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG, errno.EAGAIN})
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
#: NONBLOCK: what lies there may be a FIFO, which is for the caller to refuse.
_FILE = os.O_RDONLY | os.O_NONBLOCK


class _How(ctypes.Structure):
    """struct open_how."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_beneath(root: PurePath, inside: PurePath) -> int:
    """A descriptor of ROOT/INSIDE, for reading; the root itself may be a link. The caller closes it.

    Raises OSError: ELOOP or ENOTDIR where a link, or a step that is no folder, stands in the way, ELOOP where it leads out.
    """
    if inside.is_absolute() or ".." in inside.parts or not inside.parts:
        raise OSError(errno.ELOOP, "it leads out of the folder", str(inside))
    folder = os.open(root, _FOLDER)
    try:
        found = open_at_once(folder, inside)
        return open_by_steps(folder, inside) if found is None else found
    finally:
        os.close(folder)


def open_at_once(folder: int, inside: PurePath) -> int | None:
    """The same by openat2; None where there is none."""
    call = _openat2()
    if call is None:
        return None
    resolve = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS
    how = _How(_FILE | os.O_CLOEXEC, 0, resolve)
    while True:
        found = call(_OPENAT2, folder, os.fsencode(inside), ctypes.byref(how), ctypes.sizeof(how))
        if found >= 0:
            return int(found)
        error = ctypes.get_errno()
        if error in _NOT_HERE:
            return None
        if error != errno.EINTR:
            raise OSError(errno.ELOOP if error == errno.EXDEV else error, os.strerror(error), str(inside))


@cache
def _openat2() -> Callable[..., int] | None:
    if sys.platform != "linux" or platform.machine() == "alpha":
        return None
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    return call


def open_by_steps(folder: int, inside: PurePath) -> int:
    """The same, one step after the other."""
    here = os.dup(folder)
    try:
        for step in inside.parent.parts:
            below = os.open(step, _FOLDER | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        return os.open(inside.name, _FILE | os.O_NOFOLLOW, dir_fd=here)
    finally:
        os.close(here)
