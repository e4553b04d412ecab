"""What this host knows of the files of a model that it has read: so that a restart does not read 100 GB again, and does not publish again
what was dealt with.

::

    STATE/watched/FLEET/MODEL.json    artifact → path, identity, digest; and their version, once it was dealt with

It saves work and decides nothing about content: a file that is not the same any more is read again, and a record that makes no sense is
none.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec

from ..disk import write_whole
from .settling import FileIdentity

#: Seconds after which nobody is writing a temporary file any more: a write takes milliseconds.
LEFT_S = 60.0


class Known(msgspec.Struct, frozen=True):
    """A file that was read: its path, its identity then, its BLAKE3 digest."""

    path: str
    identity: FileIdentity
    digest: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class Record(msgspec.Struct, frozen=True):
    """`files`: artifact → what is known of it; `done`: their version, once it was published, found active, or refused for good; empty: they
    were written again since; None: this host has dealt with none of them yet."""

    files: dict[str, Known] = {}
    done: str | None = None

    def digest_of(self, artifact: str, path: Path, identity: FileIdentity) -> str | None:
        """The digest of the file, if it is the one that was read."""
        known = self.files.get(artifact)
        same = known is not None and (known.path, known.identity) == (str(path), identity)
        return known.digest if known is not None and same else None


_DECODER = msgspec.json.Decoder(Record)


class Memory:
    """The records of one fleet on this host. Several processes may write that of one model: each is whole, the last one counts."""

    def __init__(self, state_dir: Path, fleet: str) -> None:
        self.folder = state_dir / "watched" / fleet

    def read(self, model: str) -> Record:
        """What is known of a model."""
        try:
            return _DECODER.decode(self._path(model).read_bytes())
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Record()

    def write(self, model: str, record: Record) -> None:
        """Remembers it; where nothing can be written, it will be read again after a restart."""
        with suppress(OSError, UnicodeEncodeError):  # a full disk; a path that is not UTF-8
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._remove_left()
            write_whole(self._path(model), msgspec.json.encode(record), durable=False)

    def _remove_left(self) -> None:
        """The temporary files of processes that were killed while they wrote."""
        for path in self.folder.iterdir():
            if path.name.startswith(".") and path.suffix != ".json":
                with suppress(OSError):  # renamed meanwhile; or another was faster
                    if time.time() - path.lstat().st_mtime > LEFT_S:
                        path.unlink()

    def _path(self, model: str) -> Path:
        return self.folder / f"{model}.json"
