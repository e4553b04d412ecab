"""What this host keeps of a store on a network, for all of its workers: fetched once, bounded in size.

::

    STATE/cache/STORE/objects/…        as in a store, but fetched: complete, read-only, verified like those of any store
    STATE/cache/STORE/temp/DIGEST      what has come so far of an object; goes on there after a broken connection, or a death
    STATE/cache/STORE/used/DIGEST      its mtime is when a worker of this host last began or ended to hold the object
    STATE/cache/STORE/locks/DIGEST     whoever has this locked, fetches; the others wait
    STATE/cache/held/PROCESS           locked by a live worker; names what it holds, or is about to: nobody takes that away
    STATE/cache/room                   locked by who makes room, or says what it holds

Workers map files, and a mapped page that does not come, because a server is gone or truncated the file, hangs or kills whoever reads it.
So bytes of a network are read by calls that can fail, into a file of this host. What several stores have here shares one bound.
"""

from __future__ import annotations

import logging
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from ..coordinator.disk import Progress, explained, make_folder
from ..coordinator.errors import ArtifactError, DoesNotFit, StoreFull, StoreUnreachable
from ..coordinator.filesystem import kind_of
from ..coordinator.hostlock import is_locked, lock
from ..coordinator.manifest import Manifest
from ..coordinator.settings import Settings
from ..coordinator.store import OBJECT_MODE, Store
from .evict import Kept, evicted
from .hostwork import one_of, stop_if
from .pieces import LOOK_S, in_order

if TYPE_CHECKING:
    from ..coordinator.store import AnyStore

_log = logging.getLogger("genlock.worker")

#: Bytes asked for at a time, and how many pieces are on their way together: a service answers each connection slowly, and several at once.
PIECE_BYTES, TOGETHER = 8 * 2**20, 4
#: Reads that nobody waits for any more and that have not come back, each with its thread, from which on no fetch is begun: those of eight
#: fetches that were cancelled while the store hung. A store that is only slow gives each of them back before that many are left.
HANGING = 32
#: Seconds between tries of a piece that did not come, from one piece to the next; then the load has failed, and is tried again as a whole
#: (slot.py), from where it has come to.
PAUSES_S = (0.1, 0.4, 1.6)
#: Share of the file system that holds the state folder which the cache may take, where no other bound is set: two generations of a model
#: that fills a tenth, with most of the disk left to everybody else.
SHARE = 0.2


def near(store: AnyStore, settings: Settings) -> Store:
    """Where workers of this host map the objects of `store`: itself, where it is a folder on a file system of this host; else a cache."""
    if isinstance(store, Store) and kind_of(store.root).is_local:
        return store
    return HostCache(store, settings.state_dir, max_bytes=settings.host_cache)


class HostCache(Store):
    """A store that is filled from another one. Used by one thread; nothing is opened until something is fetched."""

    def __init__(self, origin: AnyStore, state_dir: Path, *, max_bytes: int | None) -> None:
        self.all = state_dir.absolute() / "cache"
        super().__init__(self.all / blake3(os.fsencode(str(origin.root))).hexdigest(length=8))
        self.origin = origin
        self._max_bytes = max_bytes
        self._word: tuple[int, Path] | None = None  # the descriptor of our word, locked, and where it stands
        self._loading: Mapping[str, int] = {}  # digest → bytes, of what is fetched; until it is said what is held
        self._holding: frozenset[str] = frozenset()
        self._reads = set[Future[bytes]]()  # on their way, those of ended fetches too; their threads add and take away

    # --- what is fetched ---------------------------------------------------------------------------------------------

    def fetch(
        self,
        manifest: Manifest,
        cancelled: Callable[[], bool],
        told: Progress = lambda done, size: None,
    ) -> None:
        """Return when every object of the manifest lies here. This process names them until it fetches others, or says what it holds,
        which is due when a load has ended, however it did (see holds).

        Raises DoesNotFit, Cancelled, and what the store raises that they come from.
        """
        wanted = _sizes(manifest)
        missing = {digest: size for digest, size in wanted.items() if not self._has(digest, size)}
        self._claim(manifest.model, wanted, missing, cancelled)
        total, done = sum(missing.values()), 0
        try:
            for digest, size in missing.items():
                self._fetch(digest, size, cancelled, _behind(done, total, told))
                done += size
        except StoreFull as error:
            why = f"the disk of {self.all} is full ({error.why}): free space there, or set GENLOCK_HOST_CACHE to less"
            raise DoesNotFit(manifest.model, why) from error
        self._touch(wanted)

    def holds(
        self, digests: Iterable[str], cancelled: Callable[[], bool] = lambda: False, *, coming: bool = False
    ) -> None:
        """This process maps these, and nothing else of what it named before. Not during a load; raises Cancelled while waiting to say so.

        What was fetched for a load that came to nothing goes with that: two workers that go on naming a rejected candidate leave no room
        for the next one, and fetch nothing that would end that. `coming`: what was fetched last is named still, because it is tried again
        soon, and the part of it that has come would be the first to go.
        """
        gone = self._holding
        self._holding, self._loading = frozenset(digests), self._loading if coming else {}
        with self._room(cancelled):
            self._say()
        self._touch(gone - self._holding)

    def set_aside(self, digest: str) -> Path | None:
        """Drops a copy that is not what its name says. The next fetch() brings another; a damaged original is set aside in its store."""
        self.path(digest).unlink(missing_ok=True)
        with suppress(ArtifactError):  # a store that this host may only read, or that is gone
            self.origin.set_aside(digest)
        return None

    def close(self) -> None:
        """This process holds nothing any more."""
        if self._word is not None:
            descriptor, path = self._word
            self._word = None
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def _has(self, digest: str, size: int) -> bool:
        try:
            found = os.lstat(self.path(digest))
        except FileNotFoundError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == size

    def _fetch(self, digest: str, size: int, cancelled: Callable[[], bool], told: Progress) -> None:
        """One object, by one worker of this host; who waits for that goes on alone when nothing comes for long (R8)."""
        shared = self.root / "temp" / digest

        def come() -> int:
            came = _size(shared)
            told(min(came, size), size)
            return came

        with one_of([self.root / "locks" / digest], cancelled, moving=come) as locked:
            if self._has(digest, size):
                return
            part = shared if locked else shared.with_name(f"{digest}.{uuid.uuid4().hex}")
            with explained(self.all):
                make_folder(part.parent)
                self._bring(part, digest, size, cancelled, told)
                part.chmod(OBJECT_MODE)
                make_folder(self.path(digest).parent)
                part.replace(self.path(digest))

    def _bring(self, part: Path, digest: str, size: int, cancelled: Callable[[], bool], told: Progress) -> None:
        """Appends to `part` what it lacks."""
        if _size(part) > size:
            part.unlink()
        start = done = _size(part)
        told(done, size)
        if start == size:  # its worker died just before it got its name; it may be read-only already
            return
        began = time.monotonic()
        _log.info("fetching %s: %d of %d bytes from %s", digest[:12], size - start, size, self.origin.root)
        with part.open("ab") as file:
            for piece in self._pieces(digest, size, start, cancelled):
                file.write(piece)
                file.flush()  # what has come is not fetched again, however this process ends
                done += len(piece)
                told(done, size)
        seconds = time.monotonic() - began
        rate = (size - start) / max(seconds, 1e-6) / 1e6
        facts = {"event": "fetched", "digest": digest, "bytes": size - start, "seconds": round(seconds, 3)}
        _log.info("fetched %s: %d bytes in %.2f s (%.0f MB/s)", digest[:12], size - start, seconds, rate, extra=facts)

    def _pieces(self, digest: str, size: int, start: int, cancelled: Callable[[], bool]) -> Iterator[bytes]:
        """The object from `start` on, in order; several pieces are on their way at the same time."""
        if (hanging := len(self._reads)) >= HANGING:
            raise StoreUnreachable(str(self.origin.root), f"{hanging} reads of earlier fetches have not come back")
        ended = False  # nobody takes the pieces any more that are still on their way

        def piece(offset: int) -> bytes:
            return self._piece(digest, size, offset, lambda: ended or cancelled())

        try:
            offsets, waiting = range(start, size, PIECE_BYTES), partial(stop_if, cancelled)
            yield from in_order(piece, offsets, together=TOGETHER, waiting=waiting, running=self._reads)
        finally:
            ended = True

    def _piece(self, digest: str, size: int, offset: int, unwanted: Callable[[], bool]) -> bytes:
        wanted = min(PIECE_BYTES, size - offset)
        for pause_s in (*PAUSES_S, None):
            try:
                found = self.origin.read_at(digest, size, offset, wanted)
                if len(found) != wanted:
                    raise StoreUnreachable(str(self.origin.root), f"{len(found)} of {wanted} bytes came")
                return found
            except StoreUnreachable as error:
                if pause_s is None:
                    raise
                _log.info("fetching %s: %s; trying again", digest[:12], error)
                _pause(pause_s, unwanted)
        raise AssertionError

    # --- what is held, and room for it -------------------------------------------------------------------------------

    def _claim(
        self, model: str, wanted: Mapping[str, int], missing: Mapping[str, int], cancelled: Callable[[], bool]
    ) -> None:
        """Says that these are wanted, and makes room for those that are missing."""
        with self._room(cancelled):
            self._loading = wanted
            self._say()
            if not missing:
                return
            held, kept = self._held(), list(self._kept())
            # What somebody is fetching is counted in full, by the word of who wants it.
            coming = sum(
                size for digest, size in held.items() if digest not in {one.digest for one in kept if one.whole}
            )
            bounds = self._bounds(kept)
            kept = [one for one in kept if one.whole or one.digest not in held]
            victims = evicted(kept, held.keys(), over=sum(one.size for one in kept) + coming - min(bounds))
            if victims is None:
                self._loading = {}
                self._say()
                named = sum(one.size for one in kept if one.digest in held) + coming
                raise DoesNotFit(model, self._no_room(sum(missing.values()), named, *bounds))
            for victim in victims:
                _log.info("dropped from the host cache: %s, %d bytes", victim.digest[:12], victim.size)
                _drop(victim.path, victim.digest)

    def _no_room(self, needed: int, named: int, allowed: int, fits: int) -> str:
        """`named`: bytes of all that the workers of this host name, with the `needed` ones."""
        to_do = [f"set GENLOCK_HOST_CACHE to at least {named}"] if allowed < named else []
        to_do += [f"free {named - fits} bytes on its disk"] if fits < named else []
        return (
            f"{needed} bytes have to be fetched, {named - needed} are held or being fetched by the workers of this host, and"
            f" {min(allowed, fits)} are allowed in {self.all} (GENLOCK_HOST_CACHE, and what is free on its disk): {', and '.join(to_do)}"
        )

    def _bounds(self, kept: list[Kept]) -> tuple[int, int]:
        """Bytes that the cache may have: what is set, and what fits on the disk. `kept`: all that it has there."""
        room = os.statvfs(self.all)
        most = self._max_bytes or int(SHARE * room.f_blocks * room.f_frsize)
        return most, sum(one.size for one in kept) + room.f_bavail * room.f_frsize

    def _kept(self) -> Iterator[Kept]:
        """Every object and every part of one, of all stores."""
        for path in self.all.glob("*/objects/??/*"):
            used = path.parents[2] / "used" / (path.parent.name + path.name)
            with suppress(FileNotFoundError):
                yield Kept(used.name, path.stat().st_size, _mtime(used), path, whole=True)
        for path in self.all.glob("*/temp/*"):
            with suppress(FileNotFoundError):
                yield Kept(path.name.partition(".")[0], path.stat().st_size, path.stat().st_mtime, path, whole=False)

    def _held(self) -> dict[str, int]:
        """What live workers of this host name; the words of dead ones go."""
        found: dict[str, int] = {}
        for path in (self.all / "held").iterdir():
            if not is_locked(path):  # its worker is gone, however it went
                path.unlink(missing_ok=True)
                continue
            with suppress(FileNotFoundError):  # it has just ended
                words = path.read_text().split()
                found |= {digest: int(size) for digest, size in zip(words[::2], words[1::2], strict=False)}
        return found

    def _say(self) -> None:
        """Our word: what we hold and are about to. Only with the lock of the room, or another would find it empty."""
        if self._word is None:
            path = self.all / "held" / f"{os.getpid()}-{uuid.uuid4().hex}"
            make_folder(path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            # A child that is forked later shares the lock: what it names then stays for as long as that child lives.
            lock(descriptor)
            self._word = (descriptor, path)
        sizes = {digest: _size(self.path(digest)) for digest in self._holding} | dict(self._loading)
        text = "".join(f"{digest} {size}\n" for digest, size in sizes.items()).encode()
        os.ftruncate(self._word[0], 0)
        os.pwrite(self._word[0], text, 0)

    @contextmanager
    def _room(self, cancelled: Callable[[], bool]) -> Iterator[None]:
        with explained(self.all):
            self.all.mkdir(mode=0o700, parents=True, exist_ok=True)
            with one_of([self.all / "room"], cancelled):
                yield

    def _touch(self, digests: Iterable[str]) -> None:
        """These were used now."""
        with explained(self.all):
            (self.root / "used").mkdir(parents=True, exist_ok=True)
            for digest in digests:
                (self.root / "used" / digest).touch()


def _sizes(manifest: Manifest) -> dict[str, int]:
    found = {artifact.digest: artifact.size for artifact in manifest.artifacts}
    return found | ({manifest.golden.digest: manifest.golden.size} if manifest.golden else {})


def _behind(done: int, total: int, told: Progress) -> Progress:
    """Tells of one file as of a part of several."""
    return lambda came, _: told(done + came, total)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _drop(path: Path, digest: str) -> None:
    """Takes a file away, and what was remembered of it. Who has it mapped keeps it."""
    path.unlink(missing_ok=True)
    root = path.parents[2] if path.parent.parent.name == "objects" else path.parents[1]
    for folder in ("used", "locks"):
        (root / folder / digest).unlink(missing_ok=True)


def _pause(seconds: float, cancelled: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        stop_if(cancelled)
        time.sleep(min(left, LOOK_S))
