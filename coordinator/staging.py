"""What a trainer fills, and how it gets into the store: a Draft of files, staged and checked as far as a publisher can."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .container import check_container, read_header
from .disk import Check, open_source
from .errors import ArtifactRefused
from .flip import Flip, Progress
from .manifest import Artifact, Golden, Manifest, Source, check_metrics, check_name

if TYPE_CHECKING:
    from .store import AnyStore

#: The name of the artifact of a model that is one file.
ONLY = "model"
#: The file of golden outputs in a draft; the space keeps it apart from every artifact.
GOLDEN = "golden outputs"
#: Why a copy is refused that is not what was read of the file before.
CHANGED = "it was changed after it had been read: publish it when it is completely written"

#: A file of golden outputs, or inputs and outputs (see Draft.golden).
GoldenGiven = str | Path | tuple[Any, Any]
#: Is told how far a publish is.
Tell = Callable[[Progress], None]


@dataclass(frozen=True)
class Part:
    """A file that is to be published. `is_ours`: it lies in the draft, and is moved; `digest`: the one that it has to have, if any."""

    path: Path
    is_ours: bool
    digest: str | None = None


class Draft:
    """The files of a publish, while they are being written."""

    def __init__(self, store: AnyStore, message: str = "") -> None:
        self.message = message  #: for people; may be changed in the block
        self.metrics: dict[str, float] = {}  #: what training measured, for people; may be filled in the block
        self.flip: Flip | None = None  #: set when the block has ended
        self._store = store
        self._folder: Path | None = None
        self._parts: dict[str, Part] = {}
        self._golden: Part | None = None
        self._tolerances = (1e-4, 1e-5)

    def path(self, name: str) -> Path:
        """Where the artifact `name` is to be written; on the file system of a store that is a folder, to be moved without a copy."""
        path = self._home() / check_name(name, "artifact")
        self._parts[name] = Part(path, is_ours=True)
        return path

    def copy(self, name: str, path: str | Path, *, digest: str | None = None) -> None:
        """Publishes a copy of the file at `path` as artifact `name`; with a `digest` (BLAKE3, 64 hex digits) only if it is that content."""
        self._parts[check_name(name, "artifact")] = Part(Path(path), is_ours=False, digest=digest)

    def golden(self, inputs: Any, outputs: Any, *, rtol: float = 1e-4, atol: float = 1e-5) -> None:
        """What every worker must reproduce before anyone flips; see write_golden for what `inputs` and `outputs` may be."""
        from .golden import write_golden

        self._golden = Part(write_golden(self._home() / GOLDEN, inputs, outputs), is_ours=True)
        self._tolerances = (rtol, atol)

    def copy_golden(self, path: str | Path, *, rtol: float = 1e-4, atol: float = 1e-5) -> None:
        """The same from a file that write_golden has written."""
        self._golden = Part(Path(path), is_ours=False)
        self._tolerances = (rtol, atol)

    def discard(self) -> None:
        """Removes what is left of it."""
        self._store.release()
        if self._folder is not None:
            self._store.discard(self._folder)

    def _home(self) -> Path:
        if self._folder is None:
            self._folder = self._store.draft()
        return self._folder

    def stage(self, model: str, *, author: str, progress: Tell | None) -> Manifest:
        """Everything in the store, checked as far as a publisher can; raises ArtifactError."""
        self._refuse_wrong()
        sources = {name: Source(str(part.path.absolute()), _mtime_ns(part.path)) for name, part in self._copied()}
        meter = _Meter(progress, [part.path for part in self._all()])
        artifacts = [self._put(name, part, meter, check_container) for name, part in self._parts.items()]
        golden = None
        if self._golden is not None:
            found = self._put("golden", self._golden, meter, _check_golden)
            golden = Golden(found.digest, found.size, *self._tolerances)
        return Manifest.of(
            model,
            artifacts,
            created_at=time.time(),
            sources=sources,
            golden=golden,
            author=author,
            message=self.message,
            metrics=self.metrics,
        )

    def _refuse_wrong(self) -> None:
        """What is known to be wrong before the first byte is copied: an hour later is late for a file that is not there."""
        check_metrics(self.metrics)
        for part in self._all():
            os.close(open_source(part.path))

    def _copied(self) -> list[tuple[str, Part]]:
        """A part of the draft comes from nowhere that would still be there."""
        return [(name, part) for name, part in self._parts.items() if not part.is_ours]

    def _all(self) -> list[Part]:
        return [*self._parts.values(), *([self._golden] if self._golden else [])]

    def _put(self, name: str, part: Part, meter: _Meter, check: Check) -> Artifact:
        put = self._store.adopt if part.is_ours else self._store.stage
        artifact = put(part.path, name=name, progress=meter.of(name), check=check)
        if part.digest not in (None, artifact.digest):
            raise ArtifactRefused(str(part.path), CHANGED)
        return artifact


def give_golden(draft: Draft, golden: GoldenGiven | None, rtol: float, atol: float) -> None:
    """What a caller has given as golden outputs, if anything, as those of the draft."""
    if isinstance(golden, tuple):
        draft.golden(*golden, rtol=rtol, atol=atol)
    elif golden is not None:
        draft.copy_golden(golden, rtol=rtol, atol=atol)


def _check_golden(file: IO[bytes], path: str) -> None:
    metadata = read_header(file, path).get("__metadata__")
    if not isinstance(metadata, dict) or "genlock" not in metadata:
        raise ArtifactRefused(path, "it holds no golden outputs: write it with write_golden")


def _mtime_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0  # staging finds out, and says it


class _Meter:
    """Bytes of several files as one number."""

    def __init__(self, tell: Tell | None, paths: list[Path]) -> None:
        self._tell, self._before = tell, 0
        self._total = 0
        for path in paths:
            with suppress(OSError):
                self._total += path.stat().st_size

    def of(self, name: str) -> Callable[[int, int], None] | None:
        """What the store tells of one file after the other."""
        tell = self._tell
        if tell is None:
            return None
        before = self._before

        def told(done: int, _size: int) -> None:
            self._before = before + done
            tell(Progress("staging", self._before, max(self._total, self._before), name))

        return told
