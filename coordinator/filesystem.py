"""Which kind of file system holds a path, and what may be relied on there.

The kernel says it as a number (statfs(2), `f_type`; the numbers are those of linux/magic.h, or of the file system's own headers where that
has none). Two things follow from it: whether bytes may be mapped (a page of a network file that its server does not give any more kills
who reads it, or hangs him where no signal reaches), and whether inotify tells of every change (it does not of one that another host made,
nor reliably of one made below an overlay).
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

#: Bytes that hold any Linux `struct statfs` (120 on 64-bit machines); the type is its first word.
STATFS_BYTES = 256


@dataclass(frozen=True, slots=True)
class Filesystem:
    """`name`: for people ("nfs", "ext4"; "unknown (0x…)"). `is_local`: its bytes may be mapped. `tells`: inotify tells of every change."""

    name: str
    is_local: bool
    tells: bool


def _local(name: str) -> Filesystem:
    return Filesystem(name, is_local=True, tells=True)


def _layered(name: str) -> Filesystem:
    """Its bytes are on this host; a change of the layer below is told to nobody."""
    return Filesystem(name, is_local=True, tells=False)


def _remote(name: str) -> Filesystem:
    return Filesystem(name, is_local=False, tells=False)


KINDS = {
    0x0000_EF53: _local("ext4"),  # ext2 and ext3 have the same number
    0x5846_5342: _local("xfs"),
    0x9123_683E: _local("btrfs"),
    0x2FC1_2FC1: _local("zfs"),
    0x0102_1994: _local("tmpfs"),
    0x8584_58F6: _local("ramfs"),
    0xF2F5_2010: _local("f2fs"),
    0xCA45_1A4E: _local("bcachefs"),
    0x5265_4973: _local("reiserfs"),
    0x3153_464A: _local("jfs"),
    0x0000_3434: _local("nilfs2"),
    0x7371_7368: _local("squashfs"),
    0xE0F5_E1E2: _local("erofs"),
    0x0000_9660: _local("iso9660"),
    0x1501_3346: _local("udf"),
    0x0000_4D44: _local("vfat"),
    0x2011_BAB0: _local("exfat"),
    0x5346_544E: _local("ntfs"),
    0x7366_746E: _local("ntfs3"),
    0x794C_7630: _layered("overlay"),
    0x6175_6673: _layered("aufs"),
    0x0000_F15F: _layered("ecryptfs"),
    0x0000_6969: _remote("nfs"),
    0x0000_517B: _remote("smb"),
    0xFF53_4D42: _remote("cifs"),
    0xFE53_4D42: _remote("smb2"),
    0x6573_5546: _remote("fuse"),  # sshfs, gcsfuse, s3fs, virtiofs, and what else a program can stand behind
    0x0102_1997: _remote("9p"),
    0x00C3_6400: _remote("ceph"),
    0x0BD0_0BD0: _remote("lustre"),
    0x4750_4653: _remote("gpfs"),
    0x1983_0326: _remote("beegfs"),
    0x0116_1970: _remote("gfs2"),
    0x7461_636F: _remote("ocfs2"),
    0x2003_0528: _remote("orangefs"),
    0xAAD7_AAEA: _remote("panfs"),
    0x5346_414F: _remote("afs"),
    0x6B41_4653: _remote("afs"),
    0x7375_7245: _remote("coda"),
    0x786F_4256: _remote("vboxsf"),
    0xBACB_ACBC: _remote("vmhgfs"),
}


def kind_of(path: str | Path) -> Filesystem:
    """The file system of `path`, or of the nearest folder above it that there is.

    One that is not in the table, or cannot be asked for (not on Linux, no permission), is unknown: neither local nor telling.
    """
    number = _number_of(Path(path).absolute())
    if number is None:
        return _remote("unknown")
    return KINDS.get(number) or _remote(f"unknown (0x{number:x})")


def _number_of(path: Path) -> int | None:
    for place in (path, *path.parents):
        try:
            return _statfs(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return None
    return None


def _statfs(path: Path) -> int | None:
    """The number of the file system that holds `path`; raises OSError."""
    libc = _libc()
    if libc is None:
        return None
    buffer = ctypes.create_string_buffer(STATFS_BYTES)
    if libc.statfs(bytes(path), buffer):
        number = ctypes.get_errno()
        kind: type[OSError] = type(OSError(number, ""))  # the subclass that stands for it
        raise kind(number, str(path))
    return ctypes.c_ulong.from_buffer(buffer).value & 0xFFFF_FFFF


@cache
def _libc() -> Any:
    """The C library with its errno; None where its `struct statfs` is another one."""
    return ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
