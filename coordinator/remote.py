"""RemoteStore: the artifacts of a fleet below the URL of an object store, with the methods that a publisher calls.

::

    URL/objects/ab/cdef…   one object per BLAKE3 digest, as in store.py; never written again, taken away only by collect()
    URL/damaged/…          objects whose bytes were not what their name says (R13)
    URL/fleets/…           see identity.py
    URL/claims/, marks/    see claims.py: publish against collect
    URL/temp/…             only where an upload cannot appear whole by itself

Nobody maps these objects: workers fetch them into a cache of their host (worker/hostcache.py). A trainer's drafts lie in the state folder
of its host; what a trainer left there that was killed goes with a later draft.
"""

from __future__ import annotations

import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from .claims import CLAIM_S, TAKING_S, Claims, marked, outdated
from .clock import clock
from .disk import Check, Progress, hash_file, open_source, pieces_of, refuse_changed
from .drafts import HostDrafts
from .errors import ArtifactDamaged, ArtifactMissing, ArtifactRefused, StoreUnreachable
from .manifest import Artifact, check_name
from .remotefiles import RemoteFile, RemoteFiles
from .store import StoredObject, check_digest

if TYPE_CHECKING:
    from .identity import Identity

_log = logging.getLogger("genlock.store")

#: Seconds between the tries to put a file there. The library has tried each call, and each part, several times before that.
PAUSES_S = (1.0, 4.0, 16.0)
#: Bytes that are read at a time where an object is only looked through.
READ_BYTES = 8 * 2**20


class RemoteStore:
    """The artifacts below one URL. Makes nothing until it has to write; from one thread at a time, but for reading."""

    def __init__(self, url: str, state_dir: Path, *, files: RemoteFiles | None = None) -> None:
        """`state_dir`: where drafts lie, and what this host keeps of the identity. Nothing is connected yet."""
        self.root = url.rstrip("/")
        self.state_dir = state_dir
        self.files = files or RemoteFiles(self.root)
        self._drafts = HostDrafts(state_dir / "drafts")
        self._claims = Claims(self.files, wait=time.sleep)
        #: Fleets that are known for good, by key: see identity.py. A worker goes on when the store does not answer.
        self.identities: dict[str, Identity] = {}

    def close(self) -> None:
        """Gives its connections back; the next call makes new ones."""
        self.files.close()

    # --- writing -----------------------------------------------------------------------------------------------------

    def stage(
        self, path: Path | str, *, name: str, progress: Progress | None = None, check: Check | None = None
    ) -> Artifact:
        """Upload the file at `path`, unless the store has it; when this returns, the object is whole and stays for now.

        The file is read twice: for its digest, and while it is sent, when the digest has to be the same. `progress`: hears of both, of each
        as half of the bytes. `check`: looks at it before. Raises what Store.stage() raises, StoreUnreachable and StoreUnusable.
        """
        check_name(name, "artifact")
        source = open_source(path)
        try:
            before = os.fstat(source)
            if check is not None:
                with os.fdopen(os.dup(source), "rb") as file:
                    check(file, str(path))
                os.lseek(source, 0, os.SEEK_SET)
            digest = hash_file(source, before.st_size, self._hashed(progress), path=path)
            refuse_changed(path, source, before)
            self._put(path, source, Artifact(name, before.st_size, digest), progress)
        finally:
            os.close(source)
        return Artifact(name, before.st_size, digest)

    def _hashed(self, progress: Progress | None) -> Progress:
        """What hears of the first of two passes."""

        def told(done: int, size: int) -> None:
            self._claims.renew()
            if progress:
                progress(done // 2, size)

        return told

    def adopt(self, path: Path, *, name: str, progress: Progress | None = None, check: Check | None = None) -> Artifact:
        """The same for a file that lies in a draft, which is removed then."""
        path = self._drafts.inside(path)
        artifact = self.stage(path, name=name, progress=progress, check=check)
        path.unlink()
        return artifact

    def draft(self) -> Path:
        """A new private folder of this host, for adopt()."""
        return self._drafts.new()

    def discard(self, folder: Path) -> None:
        """Remove a draft with all that is in it; one that is gone already is no error."""
        self._drafts.discard(folder)

    def release(self) -> None:
        """The publish that staged has ended, however it did: what it relied on is not claimed again."""
        self._claims.release()

    def _put(self, path: Path | str, source: int, artifact: Artifact, progress: Progress | None) -> None:
        for pause_s in (*PAUSES_S, None):
            try:
                self._claims.take(artifact.digest)
                if not self._has(artifact.digest, artifact.size):
                    self._upload(path, source, artifact, progress)
                elif progress:
                    progress(artifact.size, artifact.size)
                return
            except StoreUnreachable:
                if pause_s is None:
                    raise
                time.sleep(pause_s)

    def _upload(self, path: Path | str, source: int, artifact: Artifact, progress: Progress | None) -> None:
        """Sends the file, and looks at what has become of it.

        Its size says enough then: every part carries a sum that the service compares before it takes it, and an upload appears with all its
        parts or not at all.
        """
        digest, size, key = artifact.digest, artifact.size, _key(artifact.digest)
        os.lseek(source, 0, os.SEEK_SET)
        hasher = blake3()

        def told(done: int, size: int) -> None:
            if progress:
                progress((size + done) // 2, size)  # the second half, see stage()

        def pieces() -> Iterator[memoryview]:
            for piece in pieces_of(source, size, told, path=path):
                hasher.update(piece)
                yield piece
                self._claims.renew()
            if hasher.hexdigest() != digest:
                raise ArtifactRefused(
                    str(path), "it was changed while it was read: publish it when it is completely written"
                )

        self.files.upload(key, pieces(), beside=f"temp/{uuid.uuid4().hex}")
        found = self.files.look(key)
        if found is None or found.size != size:
            raise ArtifactDamaged(self.path(digest), f"{size} bytes", f"{found.size if found else 0} bytes")

    def _has(self, digest: str, size: int) -> bool:
        """Whether the object is there, of that size; a damaged one is set aside."""
        found = self.files.look(_key(digest))
        if found is not None and found.size != size:
            self._move_aside(digest, found)
            return False
        return found is not None

    # --- reading -----------------------------------------------------------------------------------------------------

    def path(self, digest: str) -> str:
        """The URL of the object of that digest, for people."""
        return f"{self.root}/{_key(digest)}"

    def read_at(self, digest: str, size: int, offset: int, length: int) -> bytes:
        """`length` bytes of the object from `offset` on, less at its end.

        Raises ArtifactMissing, StoreUnreachable, and ArtifactDamaged where the object goes on after `size` bytes.
        """
        end = min(offset + length, size)
        found = self.files.read(_key(digest), offset, end if end < size else size + 1)
        if len(found) > end - offset:
            raise ArtifactDamaged(self.path(digest), f"{size} bytes", "more")
        return found

    def verify(self, digest: str, size: int, *, progress: Progress | None = None) -> None:
        """Read the object again and compare; ArtifactDamaged with both digests, or what read_at() raises."""
        found = self.files.look(_key(digest))
        if found is None:
            raise ArtifactMissing(self.path(digest))
        if found.size != size:
            raise ArtifactDamaged(self.path(digest), f"{size} bytes", f"{found.size} bytes")
        hasher, done = blake3(), 0
        while done < size and (piece := self.read_at(digest, size, done, READ_BYTES)):
            hasher.update(piece)
            done += len(piece)
            if progress:
                progress(done, size)
        if hasher.hexdigest() != digest:
            raise ArtifactDamaged(self.path(digest), digest, str(hasher.hexdigest()))

    def set_aside(self, digest: str) -> str | None:
        """Move a damaged object away, so that the next stage() writes it again; where it is now. None: there is none, or it is whole."""
        judged = self.files.look(_key(digest))
        if judged is None:
            return None
        try:
            self.verify(digest, judged.size)
        except ArtifactDamaged:
            return self._move_aside(digest, judged)
        except (ArtifactMissing, ArtifactRefused):
            pass
        return None

    def _move_aside(self, digest: str, judged: RemoteFile) -> str | None:
        """Move the object away if it is still what was judged, as far as its size and time tell."""
        if self.files.look(_key(digest)) != judged:
            return None
        aside = f"damaged/{digest}.{uuid.uuid4().hex}"
        self.files.move(_key(digest), aside)
        return f"{self.root}/{aside}"

    def objects(self) -> Iterator[StoredObject]:
        """Every object, by digest. What is put in or taken away meanwhile may be seen or not."""
        for file in self.files.list("objects"):
            if digest := _digest_of(file.key):
                yield StoredObject(digest, file.size, file.mtime, f"{self.root}/{file.key}")

    def fleets(self) -> list[str]:
        """The names of the fleets that keep their artifacts here."""
        names = [file.key.removeprefix("fleets/") for file in self.files.list("fleets")]
        return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))

    # --- taking away -------------------------------------------------------------------------------------------------

    def collect(
        self,
        keep: Collection[str],
        *,
        older_than_s: float,
        now: float | None = None,
        dry_run: bool = False,
        ours: Callable[[], float] = clock,
    ) -> list[StoredObject]:
        """Remove what was last written `older_than_s` ago on the store's clock: leftovers, and objects neither in `keep` nor claimed.

        Safe while others publish (claims.py): what was claimed after `keep` had been read is still claimed when it is looked at, which
        holds for half of the time that a claim counts. Then this ends, the log says so, and the next collect() goes on. `ours`: the clock
        of this process, `now` is that of no store and does not count. Returns what was removed; with `dry_run` what would be.
        """
        end, removed = ours() + CLAIM_S / 2, list[StoredObject]()
        left = [found for found in self.objects() if found.digest not in keep]
        left += [self._leftover(file) for name in ("temp", "damaged") for file in self.files.list(name)]
        while True:
            with marked(self.files, now=ours) as turn:
                if ours() >= turn.until:
                    raise StoreUnreachable(
                        self.root, f"its claims could not be read within {TAKING_S:g} s, nothing was taken away"
                    )
                while left and ours() < min(turn.until, end):
                    found = left.pop()
                    if turn.now - found.mtime > older_than_s and found.digest not in turn.claimed:
                        if not dry_run:
                            self.files.remove(str(found.path).removeprefix(f"{self.root}/"))
                        removed.append(found)
            if not left or ours() >= end:
                break
        if left:
            why = "gc has gone on for %g minutes, which is as long as it may: it has not come to %d files, the next gc goes on"
            _log.warning(why, CLAIM_S / 120, len(left))
        if not dry_run:
            for file in outdated(self.files, turn.now):
                self.files.remove(file.key)
        return removed

    def _leftover(self, file: RemoteFile) -> StoredObject:
        return StoredObject("", file.size, file.mtime, f"{self.root}/{file.key}")


def _key(digest: str) -> str:
    check_digest(digest)
    return f"objects/{digest[:2]}/{digest[2:]}"


def _digest_of(key: str) -> str:
    """The digest of an object's key; nothing for other keys."""
    found = re.fullmatch(r"objects/([0-9a-f]{2})/([0-9a-f]{62})", key)
    return found[1] + found[2] if found else ""
