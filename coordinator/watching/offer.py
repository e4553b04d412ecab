"""One publish of files that somebody else has written: read and checked, compared with what is active, copied, proposed.

::

    read       each file, from its beginning to its end while it stays the same file; a container that is not whole ends it here
    compare    the version is active, or was dealt with before: there is nothing to do. What this host has never dealt with may be what a
               rollback has left: the fleet's history tells
    publish    under the publish lock, and only if the comparison still comes to the same: several hosts may have noticed. The copy has
               to have the digest that was read: each file is read twice before it is proposed
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..container import check_noticed
from ..disk import explained, hash_file, open_source
from ..errors import ArtifactRefused, NotCommitted, Pinned, RequestReused, UnknownModel
from ..fleet import Fleet
from ..manifest import Artifact, version_of
from ..staging import CHANGED
from ..status import Generation, ModelStatus
from .attempts import DECIDED
from .memory import Known, Memory, Record
from .settling import FileIdentity


class Settled(NamedTuple):
    """A file that looked settled."""

    path: Path
    identity: FileIdentity


class Offered(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of the files of a model. `outcome`: committed (see Flip); unchanged: the fleet has that content; changing, or
    missing: they were left for the next look; odd: nothing can be published as it is, `why` says why (`model` is None where no model is
    known, of a folder that is not there); or the word of the error that `why` says."""

    model: str | None
    outcome: str
    generation: int | None = None
    version: str | None = None
    why: str = ""


class ChangedMeanwhile(Exception):
    """A file is no longer the one that looked settled."""


class InWork(NotCommitted):
    """Somebody else has proposed the same content, and the fleet has not decided yet."""

    outcome = "candidate"

    def __str__(self) -> str:
        return "the fleet is getting ready for this content, which somebody else has published"


class _Nothing(Exception):
    """There is nothing to publish after all; leaves the block of a publish."""

    def __init__(self, offered: Offered) -> None:
        self.offered = offered


class Offer:
    """The files of one model, to be published once."""

    def __init__(
        self,
        model: str,
        files: Mapping[str, Settled],
        *,
        fleet: Fleet,
        memory: Memory,
        note: str,
        left_s: Callable[[], float] | None = None,
    ) -> None:
        """`note`: who noticed, for the message; `left_s`: asked when a publish begins for how many seconds it may wait, and may raise
        (default: the fleet's `prepare_timeout_s`)."""
        self.model, self._files, self._fleet, self._memory, self._note = model, files, fleet, memory, note
        self._record, self._left_s = memory.read(model), left_s

    def make(self, request: str) -> Offered:
        """Publishes, unless there is nothing to do. `request`: an id; the same again after an OutcomeUnknown does nothing twice.

        Raises ChangedMeanwhile, InWork, Pinned, and what Fleet.publish raises.
        """
        try:
            version = self._version()
            offered = self._compare(version) or self._publish(version, request)
        except DECIDED:
            self._remember(self._version_known())
            raise
        self._remember(version)
        return offered

    # --- reading -----------------------------------------------------------------------------------------------------

    def _version(self) -> str:
        found = {name: self._record.digest_of(name, *file) for name, file in self._files.items()}
        is_new_here = not self._record.files
        # Of these very files; one that was written again is news.
        done = self._record.done if all(found.values()) or is_new_here else ""
        known = {
            name: Known(str(file.path), file.identity, found[name] or _read(file)) for name, file in self._files.items()
        }
        self._record = Record(known, done)
        self._memory.write(self.model, self._record)
        return self._version_known()

    def _version_known(self) -> str:
        known = self._record.files
        return version_of(Artifact(name, known[name].identity.size, known[name].digest) for name in self._files)

    def _remember(self, done: str) -> None:
        """This version was dealt with."""
        self._record = Record(self._record.files, done)
        self._memory.write(self.model, self._record)

    # --- the fleet ---------------------------------------------------------------------------------------------------

    def _compare(self, version: str) -> Offered | None:
        """What there is to say without publishing; None: it has to be published. Raises Pinned, InWork."""
        try:
            status = self._fleet.model(self.model)
        except UnknownModel:
            return None
        if status.version == version:
            return self._unchanged(status, version, "it is active")
        if version == self._record.done and status.generation is not None:
            return self._unchanged(status, version, "it was dealt with before, and has not changed since")
        if self._record.done is None and self._was_left(status, version):
            return self._unchanged(status, version, "a rollback has left it, and it was not written since")
        if status.pin is not None:
            pin = status.pin
            raise Pinned(self.model, pin.by, pin.at or 0.0, pin.why, status.generation or 0)
        tried = {status.candidate.version if status.candidate else "", status.waits.version if status.waits else ""}
        if version in tried:
            raise InWork
        return None

    def _was_left(self, status: ModelStatus, version: str) -> bool:
        """Whether these files are older than what is active, and a rollback went back to before they were."""
        newest_s = max(file.identity.mtime_ns for file in self._files.values()) / 1e9
        if status.committed_at is None or newest_s > status.committed_at:
            return False
        return is_left(self._fleet.history(self.model), version)

    def _unchanged(self, status: ModelStatus, version: str, why: str) -> Offered:
        return Offered(model=self.model, outcome="unchanged", generation=status.generation, version=version, why=why)

    def _publish(self, version: str, request: str) -> Offered:
        paths = ", ".join(str(file.path) for file in self._files.values())
        # By an earlier try: the files were written through a mapping since. What an older program proposed only its version tells.
        another = f"another content was published by request {request}"
        message, timeout = f"{self._note}: {paths}", self._left_s() if self._left_s is not None else None
        try:
            with self._fleet.publishing(self.model, message=message, timeout=timeout, request=request) as draft:
                if (found := self._compare(version)) is not None:  # another host was faster
                    raise _Nothing(found)
                for name, file in self._files.items():
                    draft.copy(name, file.path, digest=self._record.files[name].digest)
        except _Nothing as nothing:
            return nothing.offered
        except RequestReused as error:
            raise ChangedMeanwhile(f"{paths}: {another}") from error
        except ArtifactRefused as error:
            if error.why != CHANGED and all(map(_is_same, self._files.values())):
                raise
            self._memory.write(self.model, Record(done=""))  # the same identity may have another content
            raise ChangedMeanwhile(str(error)) from error
        assert draft.flip is not None
        flip = draft.flip
        if flip.version != version:
            raise ChangedMeanwhile(f"{paths}: {another}")
        return Offered(model=self.model, outcome=flip.outcome, generation=flip.generation, version=version)


def is_left(history: Iterable[Generation], version: str) -> bool:
    """Whether a rollback went to before this version was active last. `history`: the newest first."""
    committed = [row for row in history if row.outcome == "committed"]
    last = next((row.generation for row in committed if row.version == version), None)
    return last is not None and any(
        row.generation > last and row.rollback_of is not None and row.rollback_of < last for row in committed
    )


def _read(file: Settled) -> str:
    """The digest of the file, which was the same file from the first byte to the last, and is whole as far as its container tells.

    Raises ChangedMeanwhile, ArtifactMissing, ArtifactRefused.
    """
    descriptor = open_source(file.path)
    with explained(file.path), os.fdopen(descriptor, "rb") as opened:
        _check_same(file, descriptor)  # by the open file: that is when a network file system asks its server
        digest = hash_file(descriptor, file.identity.size)
        _check_same(file, descriptor)
        opened.seek(0)
        try:
            check_noticed(opened, str(file.path))
        finally:
            _check_same(file, descriptor)  # what is torn because it is written again is no verdict
    return digest


def _is_same(file: Settled) -> bool:
    try:
        return FileIdentity.of(file.path.stat()) == file.identity
    except OSError:
        return False


def _check_same(file: Settled, descriptor: int) -> None:
    if FileIdentity.of(os.fstat(descriptor)) != file.identity:
        raise ChangedMeanwhile(f"{file.path} has changed")
