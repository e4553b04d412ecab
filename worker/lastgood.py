"""The last good generation of each model, on this host's own disk: what a worker starts from when Redis is gone (promise 5).

Written when a generation was shown under a lease, read only to answer `stale`: never a word in what is active (R7).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from ..coordinator.disk import write_whole
from ..coordinator.errors import GenlockError
from ..coordinator.manifest import Manifest, check_name, decode


class _Note(msgspec.Struct):
    generation: int
    manifest: str


class LastGood:
    """Notes under STATE_DIR/last_good/FLEET/MODEL.json, shared by the workers of one host and user."""

    def __init__(self, state_dir: Path, fleet: str) -> None:
        self._folder = state_dir / "last_good" / check_name(fleet, "fleet")

    def write(self, model: str, generation: int, manifest: str) -> None:
        """Remembers a generation. Raises OSError; the file is whole or the one before."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        data = msgspec.json.encode(_Note(generation, manifest))
        write_whole(self._folder / f"{check_name(model)}.json", data, durable=True, mode=0o600)

    def read(self, model: str) -> tuple[int, Manifest] | None:
        """(generation, manifest), or None where there is none that can be read."""
        try:
            note = msgspec.json.decode((self._folder / f"{check_name(model)}.json").read_bytes(), type=_Note)
            manifest = decode(note.manifest)
        except (OSError, GenlockError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return (note.generation, manifest) if manifest.model == model else None
