"""Publish against collect, where no rename can decide between them: in an object store.

::

    claims/UUID   one publisher: the objects that it relies on, and for how many seconds it has
    marks/UUID    one collector: it is about to take objects away

Each writes its own file first and reads those of the others then, so of two that meet at least one sees the other::

    publisher                                   collector
    writes its claim on D                       writes its mark
    reads the marks                             reads the claims
    sees none: D may be relied on               sees D claimed: D stays
    sees one: waits until that mark is gone,    sees no claim: takes D away, while its mark stands
      looks for D then, and writes it if need be
      (a later mark's collector sees the claim)

A claim counts until CLAIM_S after it was said last, on the clock of the store: its publisher may be dead. It is said again for as long as
its publish is in work, and left to its time afterwards: a collector may have asked what is needed before the proposal, and look at the
claims after it. A mark counts for MARK_S, on the clock of the store or of whoever sees it: its collector stops long before that and makes
another one. The store has to show what was written to all who read later, as S3, Google Cloud Storage and Azure do.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import msgspec

from .clock import clock
from .errors import ArtifactMissing, ArtifactRefused, StoreUnreachable
from .remotefiles import RemoteFile

#: Seconds that a claim counts: longer than any publish takes from its last file to its proposal; said again until then.
CLAIM_S = 3600.0
#: Seconds after which a claim is said again by who still reads or uploads.
RENEW_S = CLAIM_S / 4
#: Seconds that a mark counts for who sees it, and that its collector takes things away under it. Between them lie the longest call (a
#: minute for a service that answers slowly) and what clocks differ.
MARK_S, TAKING_S = 120.0, 30.0
#: Seconds between two looks at a mark. Most collectors are done within one.
LOOK_S = 0.5


class Files(Protocol):
    """What is needed of the store: see RemoteFiles."""

    def read(self, key: str) -> bytes: ...
    def list(self, prefix: str) -> list[RemoteFile]: ...
    def look(self, key: str) -> RemoteFile | None: ...
    def write(self, key: str, data: bytes) -> None: ...
    def remove(self, key: str) -> None: ...


class _Claim(msgspec.Struct):
    """Digest → seconds since it was claimed, at the moment of writing."""

    digests: dict[str, float]


class Claims:
    """The claims of one publisher, which has one publish in work at a time."""

    def __init__(self, files: Files, *, wait: Callable[[float], object], now: Callable[[], float] = clock) -> None:
        self._files, self._wait, self._now = files, wait, now
        self._key = f"claims/{uuid.uuid4().hex}"
        self._in_work: set[str] = set()  # digests of the publish that has not ended
        self._since: dict[str, float] = {}  # digest → when it was claimed last, on our clock
        self._written_at = 0.0
        self._over: set[str] = set()  # marks that we have seen for as long as they count

    def take(self, digest: str) -> None:
        """From here on what is found of `digest`, or written, stays until CLAIM_S after release(). Waits for who may be taking it away just
        now."""
        self._in_work.add(digest)
        self._write()
        self._await(self._standing())

    def renew(self) -> None:
        """Says again what the publish in work relies on, if that is due; a store that does not answer is asked again soon."""
        late_s = self._now() - self._written_at
        if self._in_work and late_s >= RENEW_S:
            try:
                self._write()
            except StoreUnreachable:
                if late_s >= CLAIM_S / 2:
                    raise

    def release(self) -> None:
        """The publish has ended: what it relied on is not said again."""
        self._in_work.clear()

    def _write(self) -> None:
        now = self._now()
        counting = {digest: at for digest, at in self._since.items() if now - at < CLAIM_S}
        self._since = counting | dict.fromkeys(self._in_work, now)
        ages = {digest: now - at for digest, at in self._since.items()}
        self._files.write(self._key, msgspec.json.encode(_Claim(ages)))
        self._written_at = now

    def _standing(self) -> set[str]:
        """The marks that count. A collector that was killed leaves one for as long as nobody collects."""
        marks = [file for file in self._files.list("marks") if file.key not in self._over]
        written = self._files.look(self._key) if marks else None  # just now, on the clock of the store
        now = written.mtime if written else 0.0
        return {file.key for file in marks if now - file.mtime <= MARK_S}

    def _await(self, marks: set[str]) -> None:
        """Until these are gone, or count no more. Marks made later know of the claim."""
        end = self._now() + MARK_S
        while marks and self._now() < end:
            self._wait(LOOK_S)
            marks &= {file.key for file in self._files.list("marks")}
        self._over |= marks


class Turn(NamedTuple):
    """A collector may take away what is not `claimed` until `until` (its own clock); `now`: unix seconds of the store's clock."""

    now: float
    claimed: frozenset[str]
    until: float


@contextmanager
def marked(files: Files, *, now: Callable[[], float] = clock) -> Iterator[Turn]:
    """A collector's turn, under a mark of its own."""
    key, until = f"marks/{uuid.uuid4().hex}", now() + TAKING_S
    files.write(key, b"{}")
    try:
        found = files.look(key)
        store_now = found.mtime if found else 0.0  # a store that tells no times: nothing in it is ever old
        yield Turn(store_now, claimed(files, store_now), until)
    finally:
        files.remove(key)


def claimed(files: Files, now: float) -> frozenset[str]:
    """Every object that a publisher relies on; `now`: unix seconds of the store's clock. Raises ArtifactRefused for what it cannot read."""
    return frozenset(
        digest
        for file in files.list("claims")
        if now - file.mtime < CLAIM_S  # every trainer leaves one, and each costs a call to be read
        for digest, since in _claim_in(files, file.key).items()
        if now - file.mtime + since < CLAIM_S
    )


def _claim_in(files: Files, key: str) -> dict[str, float]:
    try:
        return msgspec.json.decode(files.read(key), type=_Claim).digests
    except ArtifactMissing:  # it was outdated, and another collector has removed it
        return {}
    except msgspec.DecodeError as error:
        raise ArtifactRefused(
            key, f"what a publisher claims cannot be read, so nothing is taken away ({error})"
        ) from error


def outdated(files: Files, now: float) -> list[RemoteFile]:
    """The files of claims and marks that count for nobody any more."""
    rows = [(file, CLAIM_S) for file in files.list("claims")] + [(file, MARK_S) for file in files.list("marks")]
    return [file for file, counts_s in rows if now - file.mtime > counts_s]
