"""The checkpoints of a run: every tensor is filled with the number of its checkpoint. Without torch, so that trainers start at once."""

from __future__ import annotations

from pathlib import Path

import numpy
from blake3 import blake3
from genlock.coordinator.manifest import Artifact, Manifest
from safetensors.numpy import save_file

#: Tensors of a checkpoint, and numbers in each.
TENSORS, NUMBERS = 8, 256


def write(path: Path, content: int, *, broken: bool = False) -> Path:
    """The checkpoint `content`, a whole number below 2^24; `broken`: with one number that is none."""
    tensors = {f"layers.{n}": numpy.full(NUMBERS, content, dtype=numpy.float32) for n in range(TENSORS)}
    if broken:
        tensors["layers.3"][7] = numpy.nan
    save_file(tensors, path)
    return path


def version_of(path: Path) -> str:
    """What the fleet will call it."""
    data = path.read_bytes()
    return Manifest.of("m", [Artifact("model", len(data), blake3(data).hexdigest())], created_at=0.0).version


def golden_of(content: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Inputs, and what the model says to them: the least and the greatest number of each tensor."""
    return numpy.zeros(1, dtype=numpy.float32), numpy.full(2 * TENSORS, content, dtype=numpy.float32)
