"""Work that the workers of one host share: each object is verified once, and few load at the same time.

Shared by files below the state folder and by locks, which the kernel gives back when their holder dies, however it dies.

::

    STATE/verified/STORE/DIGEST   what was verified: the identity of the file, and the boot in which that was done
    STATE/slots/N                 whoever has this locked, loads
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from blake3 import blake3

from ..coordinator.errors import ArtifactDamaged, ArtifactError, ArtifactRefused
from ..coordinator.hostlock import locked
from ..coordinator.store import Store

#: Seconds after which a worker goes on without the slot or the lock (R8): its holder may be stopped, and both only save work.
MAX_WAIT_S = 60.0
#: Times that an object is read again because it changed while it was read (its mtime, by a publisher of the same content).
TRIES = 3


class Cancelled(Exception):
    """Not an error: nobody wants this load any more."""


def stop_if(cancelled: Callable[[], bool]) -> None:
    """Raises Cancelled once `cancelled()` is true."""
    if cancelled():
        raise Cancelled


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """In the block, torch operations of the calling thread use that thread alone; all other threads keep theirs.

    A load shares its cores with requests, and waits for a slow thread of its team at the end of every operation. Measured with nice
    threads on two busy cores: the sums of a model of 1 MB take 0.5 ms alone and 20 ms in a team of two, of 200 MB the same either way.
    Not torch.set_num_threads(), which also counts for every thread that uses torch for the first time later: asks OpenMP itself,
    where torch brought one with it.
    """
    import torch

    before = torch.get_num_threads()  # sets torch up for this thread; done later, it would undo what follows
    openmp = _openmp()
    if openmp:
        openmp.omp_set_num_threads(1)
    try:
        yield
    finally:
        if openmp:
            openmp.omp_set_num_threads(before)


@cache
def _openmp() -> ctypes.CDLL | None:
    """The OpenMP library that torch has loaded; there may be others in the process, which have threads of their own."""
    import torch

    found = [*(Path(torch.__file__).parent / "lib").glob("lib[gi]omp*")]
    return ctypes.CDLL(str(found[0])) if len(found) == 1 else None


class HostWork:
    """The shared work of one host and user. Nothing is held in the object: it may be made before a fork and used by threads."""

    def __init__(self, state_dir: Path, *, loads_per_host: int) -> None:
        self._verified = state_dir / "verified"
        self._slots = state_dir / "slots"
        self._count = loads_per_host

    @contextmanager
    def slot(self, cancelled: Callable[[], bool]) -> Iterator[None]:
        """Be one of at most `loads_per_host` workers of this host that load.

        Raises Cancelled while waiting. After MAX_WAIT_S the block is entered without a slot.
        """
        slots = [self._slots / str(n) for n in range(self._count)]
        with one_of(slots, cancelled):
            yield

    def verified(self, store: Store, digest: str, size: int, cancelled: Callable[[], bool]) -> None:
        """Return once the object of `digest`, `size` bytes, has been read and found whole on this host since it booted.

        Who comes first reads it; the others wait for that. What was found is kept with device, inode, size, mtime and ctime
        of the file: if any of them is different later, it is read again. Raises ArtifactDamaged (after it was set
        aside in the store), ArtifactMissing, ArtifactRefused, OSError or Cancelled.
        """
        try:
            self._verify_once(store, digest, size, cancelled)
        except ArtifactDamaged:
            with suppress(ArtifactError):  # a store that this host may only read: another one will do it
                store.set_aside(digest)
            raise

    def _verify_once(self, store: Store, digest: str, size: int, cancelled: Callable[[], bool]) -> None:
        marker = self._marker(store, digest)
        if _read(marker) == _identity(store, digest, size):
            return
        with one_of([marker], cancelled):
            for _ in range(TRIES):
                before = _identity(store, digest, size)
                if _read(marker) == before:
                    return
                store.verify(digest, size, progress=lambda _done, _size: stop_if(cancelled))
                if _identity(store, digest, size) == before:
                    marker.write_bytes(before)
                    self._forget_collected(store)
                    return
        raise ArtifactRefused(str(store.path(digest)), f"it changed {TRIES} times while it was read")

    def _marker(self, store: Store, digest: str) -> Path:
        store.path(digest)  # refuses what is no digest before it becomes a file's name
        root = os.fsencode(store.root.absolute())
        return self._verified / blake3(root).hexdigest(length=8) / digest

    def _forget_collected(self, store: Store) -> None:
        """Remove the markers of objects that are no longer in the store; one too many means only to verify once more."""
        for marker in self._marker(store, "0" * 64).parent.iterdir():
            if not store.path(marker.name).exists():
                marker.unlink(missing_ok=True)


def _identity(store: Store, digest: str, size: int) -> bytes:
    """What changes whenever the file might have changed, as one line."""
    descriptor = store.open(digest, size)
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    numbers = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return f"{_boot()} {' '.join(map(str, numbers))}\n".encode()


@cache
def _boot() -> str:
    """The boot of this machine: what the disk gives after the next one has not been read yet."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        return "-"


def _read(marker: Path) -> bytes:
    try:
        return marker.read_bytes()
    except FileNotFoundError:
        return b""


@contextmanager
def one_of(
    paths: list[Path], cancelled: Callable[[], bool], *, moving: Callable[[], object] = lambda: None
) -> Iterator[bool]:
    """Hold the lock of one of these files: True; or none after MAX_WAIT_S in which `moving` gave the same value: False."""
    paths[0].parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline, seen = time.monotonic() + MAX_WAIT_S, moving()

    def goes_on() -> bool:
        nonlocal deadline, seen
        stop_if(cancelled)
        if seen != (seen := moving()):
            deadline = time.monotonic() + MAX_WAIT_S
        return time.monotonic() < deadline

    with locked(paths, goes_on) as held:
        yield held
