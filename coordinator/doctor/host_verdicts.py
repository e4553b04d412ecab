"""Whether folders and host are fit for a worker or a trainer, in words. Pure."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from statistics import median

from .facts import FolderFacts, HostFacts
from .finding import Finding, Level, gib, span
from .key_verdicts import judge_keys

#: The least torch: older ones execute code that a checkpoint brings along in spite of `weights_only=True`.
LEAST_TORCH = (2, 10)
#: The least Python (pyproject.toml).
LEAST_PYTHON = (3, 11)
#: Descriptors that a worker should be able to open: connections of requests, two to Redis, a file for each artifact that it maps.
LEAST_FILES = 1024
#: Seconds of a flush from which on a publish is noticeably slow: it needs some six of them.
SLOW_SYNC_S = 0.25

#: Bytes that are nothing, where it is not known how large models are.
LEAST_FREE = 10 * 2**20

_NETWORK = "a network file system"
#: Of one that workers do not map either (coordinator/filesystem.py), and of which nothing more is known here.
_FOREIGN = (
    "a network file system, or one that is not known here",
    "when another host sees a new file is its own affair",
)
#: Type of a file system → what it is, and what follows from it. Their own manuals, and mount(8), say so.
FILESYSTEMS = {
    "nfs": (
        _NETWORK,
        "a name that one host has written may be seen by another some seconds later (actimeo); workers look again until it is there",
    ),
    "cifs": (_NETWORK, "hard links and modes depend on the server"),
    "smb3": (_NETWORK, "hard links and modes depend on the server"),
    "ceph": (_NETWORK, "all hosts see the same at once"),
    "lustre": (_NETWORK, "all hosts see the same at once"),
    "gpfs": (_NETWORK, "all hosts see the same at once"),
    "9p": ("a folder of the host of this virtual machine", "what a flush means depends on how it is shared"),
    "virtiofs": ("a folder of the host of this virtual machine", "what a flush means depends on how it is shared"),
    "fuse.sshfs": (_NETWORK, "it has no hard links by default, and flushes mean little"),
    "fuse.glusterfs": (_NETWORK, "its hosts see each other's files after a moment"),
    "tmpfs": ("memory", "all of it is gone when this machine restarts, and no other host sees it"),
    "ramfs": ("memory", "all of it is gone when this machine restarts, and no other host sees it"),
    "overlay": (
        "a layer of a container",
        "it goes with the container, and no other host or container sees it: mount a volume there",
    ),
}
#: Those that keep objects of a network store as files: no hard links, no flush that means anything, renames that copy.
OBJECT_STORES = (
    "fuse.s3fs",
    "fuse.gcsfuse",
    "fuse.rclone",
    "fuse.goofys",
    "fuse.mount-s3",
    "fuse.blobfuse2",
    "fuse.geesefs",
)


def judge_store(folder: FolderFacts, host: HostFacts, largest: tuple[str, int] | None) -> list[Finding]:
    """The folder of the artifacts, which all hosts share."""
    if (early := _there("store", folder)) is not None:
        return [early]
    return [
        _access("store", folder, host),
        _filesystem("store", folder),
        _mapped(folder),
        _room("store", folder, largest),
        *_trial("store", folder),
    ]


def judge_state(folder: FolderFacts, host: HostFacts) -> list[Finding]:
    """The folder that this host and user keep for themselves."""
    if (early := _there("state", folder)) is not None:
        return [early]
    found = [_access("state", folder, host), *_trial("state", folder)]
    kind = _nature(folder)
    if kind is not None and (kind[0] == _NETWORK or not folder.is_local):
        advice = "Set GENLOCK_STATE_DIR to a folder on a disk of this host: locks and the embedded server belong there"
        found.append(
            Finding("state", "filesystem", "warning", f"{folder.path} is on {kind[0]} ({folder.filesystem})", advice)
        )
    return found


def _there(subject: str, folder: FolderFacts) -> Finding | None:
    variable = "GENLOCK_STORE" if subject == "store" else "GENLOCK_STATE_DIR"
    if folder.error:
        return Finding(
            subject, "folder", "wrong", f"{folder.path}: {folder.error}", f"Choose another {variable}, or mend that one"
        )
    if not folder.exists:
        return Finding(subject, "folder", "ok", f"{folder.path} does not exist yet: it is made when it is first needed")
    return None


def _access(subject: str, folder: FolderFacts, host: HostFacts) -> Finding:
    mode = stat.filemode(stat.S_IFDIR | folder.mode)
    found = f"{folder.path} ({mode}, owner {folder.owner})"
    if folder.mode & stat.S_IWOTH and not folder.mode & stat.S_ISVTX:
        advice = f"chmod o-w {folder.path}: whoever can write there can take every model away"
        return Finding(subject, "folder", "warning", f"{found}: everybody on this host may write to it", advice)
    if why := folder.failed.get("write"):
        # A host with workers alone may have it read-only on purpose.
        level: Level = "warning" if why == os.strerror(errno.EROFS) else "wrong"
        return Finding(
            subject, "folder", level, f"{found}: this user cannot write to it: {why}", _to_write(why, host.user)
        )
    return Finding(subject, "folder", "ok", found)


def _to_write(why: str, user: int) -> str:
    """What to do where nothing can be written."""
    if why in (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT)):
        return "Free space: `genlock gc` removes what no generation needs any more; or enlarge it"
    if why == os.strerror(errno.EROFS):
        return "Mount it for writing where models are published; workers only read their models"
    return (
        f"Let uid {user} write there (owner, group or mode), or choose another folder; workers only read their models"
    )


def _kind(folder: FolderFacts) -> str:
    return "nfs" if folder.filesystem == "nfs4" else folder.filesystem


def _nature(folder: FolderFacts) -> tuple[str, str] | None:
    """What its file system is, and what follows from it; None: one of this host, of which there is nothing to say."""
    return FILESYSTEMS.get(_kind(folder)) or (None if folder.is_local else _FOREIGN)


def _filesystem(subject: str, folder: FolderFacts) -> Finding:
    where = f"{folder.filesystem}, mounted at {folder.mounted_at}"
    if not folder.filesystem:
        return Finding(subject, "filesystem", "ok", "its file system is not known here")
    if folder.filesystem in OBJECT_STORES:
        found = f"it is an object store that looks like a folder ({where}): it has no hard links, and a rename may be seen half-done"
        return Finding(
            subject,
            "filesystem",
            "wrong",
            found,
            "Set GENLOCK_STORE to the URL of the object store itself, such as s3://bucket/prefix; or use a file system",
        )
    if (nature := _nature(folder)) is not None:
        what, follows = nature
        level: Level = "ok" if what in (_NETWORK, _FOREIGN[0]) else "warning"
        advice = (
            ""
            if level == "ok"
            else "Set GENLOCK_STORE to a disk, or to a folder that all hosts share, before it matters"
        )
        return Finding(subject, "filesystem", level, f"it is {what} ({where}): {follows}", advice)
    found = f"it is a file system of this host ({where}): with workers on other hosts, all of them have to share it"
    return Finding(subject, "filesystem", "ok", found)


def _mapped(folder: FolderFacts) -> Finding:
    """From where workers of this host map what they serve."""
    if folder.is_local:
        return Finding("store", "workers", "ok", "workers of this host map its files where they are")
    found = "workers of this host do not map its files: each is fetched once into their cache on this host (GENLOCK_HOST_CACHE)"
    return Finding("store", "workers", "ok", found)


def _room(subject: str, folder: FolderFacts, largest: tuple[str, int] | None) -> Finding:
    """Whether the largest model could be published again; where there is none, whether there is anything."""
    found = f"{gib(folder.free_bytes)} of {gib(folder.total_bytes)} are free"
    advice = "Free space: `genlock gc` removes what no generation needs any more"
    if folder.free_files == 0:
        return Finding(subject, "space", "wrong", f"{found}, but no file more can be made (inodes)", advice)
    if largest is None:
        is_full = folder.free_bytes < LEAST_FREE
        return Finding(subject, "space", "wrong" if is_full else "ok", found, advice if is_full else "")
    model, size = largest
    found += f"; the largest active model, {model}, has {gib(size)}"
    if folder.free_bytes < size:
        return Finding(subject, "space", "wrong", f"{found}: it could not be published again", advice)
    if folder.free_bytes < 2 * size:
        return Finding(subject, "space", "warning", found, advice)
    return Finding(subject, "space", "ok", found)


def _trial(subject: str, folder: FolderFacts) -> Iterator[Finding]:
    """What was tried in it, but for writing at all."""
    failed = {step: why for step, why in folder.failed.items() if step != "write"}
    if failed:
        found = "; ".join(f"a {step} does not work: {why}" for step, why in failed.items())
        yield Finding(
            subject,
            "files",
            "wrong",
            found,
            "Use a file system that has it: publishing and the identity of a fleet stand on it",
        )
    if not folder.sync_s:
        return
    typical = median(folder.sync_s)
    found = (
        f"4 KiB are on the disk within {span(typical)} (longest of {len(folder.sync_s)}: {span(max(folder.sync_s))})"
    )
    if typical >= SLOW_SYNC_S:
        yield Finding(
            subject,
            "flush",
            "warning",
            found,
            "A publish needs some six flushes: use a faster disk if it takes too long",
        )
    else:
        yield Finding(subject, "flush", "ok", found)


def judge_host(host: HostFacts) -> list[Finding]:
    """This machine and the environment of this process."""
    return [_python(host), _torch(host), _files(host), _tokens(host), judge_keys(host.keys)]


def _python(host: HostFacts) -> Finding:
    version = ".".join(map(str, host.python))
    if host.python[:2] < LEAST_PYTHON:
        return Finding("host", "python", "wrong", f"Python {version}", "Use Python 3.11 or newer")
    return Finding("host", "python", "ok", f"Python {version}")


def _torch(host: HostFacts) -> Finding:
    if host.torch is None:
        return Finding("host", "torch", "ok", "torch is not installed: only workers need it")
    numbers = tuple(int(part) for part in re.findall(r"[0-9]+", host.torch)[:2])
    if numbers < LEAST_TORCH:
        found = f"torch {host.torch}: a checkpoint can execute code in a worker, although only weights are read"
        return Finding(
            "host",
            "torch",
            "wrong",
            found,
            "Upgrade: pip install 'torch>=2.10'; and publish safetensors, which hold no code",
        )
    return Finding(
        "host", "torch", "ok", f"torch {host.torch} reads checkpoints without executing what they bring along"
    )


def _files(host: HostFacts) -> Finding:
    if host.open_files is None:
        return Finding("host", "open files", "ok", "a process may open files without end")
    found = f"a process may open {host.open_files} files and connections"
    if host.open_files < LEAST_FILES:
        return Finding(
            "host", "open files", "warning", found, f"ulimit -n {LEAST_FILES} or more; for a service, LimitNOFILE"
        )
    return Finding("host", "open files", "ok", found)


def _tokens(host: HostFacts) -> Finding:
    if host.tokens_error:
        return Finding("host", "tokens", "wrong", host.tokens_error, "Mend the file, or unset the setting")
    if not host.roles:
        found = "no admin tokens are set here (GENLOCK_ADMIN_TOKENS): what changes the fleet over HTTP is taken from this host alone"
        return Finding("host", "tokens", "ok", found)
    return Finding("host", "tokens", "ok", f"admin tokens are set here, of the roles {', '.join(host.roles)}")
