"""Staging (copy, digest, fsync, rename) against the least that a careful trainer does: `cp` and fsync."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from genlock.coordinator.store import Store

from .figure import Figure, at_most

#: Bytes of the file, and pairs, by turns.
SIZE, PAIRS = 200_000_000, 9


def measure(*, quick: bool) -> list[Figure]:
    """See README.md, "Staging"."""
    staged, copied = [], []
    with tempfile.TemporaryDirectory(prefix="genlock-bench-") as name:
        folder = Path(name)
        source, copy, store = folder / "model", folder / "copy", Store(folder / "store")
        with source.open("wb") as file:
            for _ in range(SIZE // 1_000_000):
                file.write(os.urandom(1_000_000))
            os.fsync(file.fileno())
        for _ in range(2 if quick else PAIRS):
            copied.append(_copy(source, copy))
            copy.unlink()
            began = time.perf_counter()
            artifact = store.stage(source, name="model")
            staged.append(time.perf_counter() - began)
            store.path(artifact.digest).unlink()
    ratios = [a / b for a, b in zip(staged, copied, strict=True)]
    note = f"{sorted(staged)[len(staged) // 2] * 1000:.0f} ms; cp {sorted(copied)[len(copied) // 2] * 1000:.0f} ms"
    return [at_most("staging 200 MB / cp --reflink=never + fsync", ratios, 1.5, note=note)]


def _copy(source: Path, target: Path) -> float:
    """Seconds of a copy that has reached the disk."""
    began = time.perf_counter()
    subprocess.run(["cp", "--reflink=never", source, target], check=True)
    descriptor = os.open(target, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return time.perf_counter() - began
