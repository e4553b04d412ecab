"""Golden inputs and outputs as one safetensors file: what every worker must reproduce before anyone flips.

Inputs and outputs are each one tensor, a list or a dict of tensors. The tensors of the file are called
``input``, ``input.0``, ``input.1`` or ``input.NAME``, and ``output…`` likewise; its metadata say which it
was: ``{"genlock": "golden 1", "input": "one" | "list" | "dict", "output": …}``.

numpy and torch are imported only when something is written or read, torch only for who has it already or asks
for it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from .disk import explained
from .errors import ArtifactRefused, BadInput

#: The name of the file when a folder is given.
FILE = "golden.safetensors"
#: What the metadata say under "genlock": the form of the file.
FORM = "golden 1"


def write_golden(folder_or_file: Path, inputs: Any, outputs: Any) -> Path:
    """Write the file (`FILE`, if a folder is given) and return its path. It is not flushed: the store does
    that.

    `inputs` and `outputs`: a tensor or array, or a list, tuple or dict of them; nested lists of Python
    numbers count as one array (float32, int64 or bool). Raises BadInput (nothing in it, another type, outputs
    that are empty or not finite), or StoreFull.
    """
    path = folder_or_file / FILE if folder_or_file.is_dir() else folder_or_file
    metadata: dict[str, str] = {"genlock": FORM}
    tensors: dict[str, Any] = {}
    for part, value in (("input", inputs), ("output", outputs)):
        metadata[part], named = flatten(part, value)
        tensors.update({name: _plain(name, tensor) for name, tensor in named.items()})
    for name, tensor in tensors.items():
        if name.partition(".")[0] == "output":
            _check_output(name, tensor)
    data = _canonical(_encode(tensors, metadata))
    with explained(path):
        path.write_bytes(data)
    return path


def read_golden(path: Path, framework: Literal["pt", "numpy"] = "pt") -> tuple[Any, Any]:
    """Inputs and outputs in the structure that write_golden was given (a tuple is a list now), as tensors or
    arrays.

    Raises ArtifactMissing, or ArtifactRefused for what write_golden has not written, or numpy has no type
    for.
    """
    with explained(path), path.open("rb"):
        pass  # safetensors has its own words for a file that is not there
    try:
        with safe_open(path, framework="pt" if framework == "pt" else "np") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError, AttributeError) as error:
        raise ArtifactRefused(str(path), f"it cannot be read as safetensors: {error}") from error
    try:
        if metadata["genlock"] != FORM:
            raise ArtifactRefused(str(path), f"its form is {metadata['genlock']!r}, this genlock reads {FORM!r}")
        return (
            unflatten("input", metadata["input"], tensors),
            unflatten("output", metadata["output"], tensors),
        )
    except KeyError as error:
        raise ArtifactRefused(str(path), f"it is no golden file: {error} is missing in it") from error


# --- names (pure) -------------------------------------------------------------------------------------------


def flatten(part: str, value: Any) -> tuple[str, dict[str, Any]]:
    """What `value` is (one, list, dict), and what is in it by the names of the file. Raises BadInput."""
    if isinstance(value, Mapping):
        if not value or not all(isinstance(name, str) for name in value):
            raise BadInput(part, "a dict needs at least one tensor, and a string as the name of each")
        return "dict", {f"{part}.{name}": item for name, item in value.items()}
    if isinstance(value, list | tuple) and any(map(_is_tensor, value)):
        return "list", {f"{part}.{index}": item for index, item in enumerate(value)}
    return "one", {part: value}


def unflatten(part: str, kind: str, tensors: Mapping[str, Any]) -> Any:
    """The inverse of flatten, from all tensors of a file. Raises KeyError with the name that is missing."""
    inside = [name for name in tensors if name.startswith(f"{part}.")]
    if kind == "dict":
        return {name.removeprefix(f"{part}."): tensors[name] for name in inside}
    if kind == "list":
        return [tensors[f"{part}.{index}"] for index in range(len(inside))]
    return tensors[part]


# --- tensors ------------------------------------------------------------------------------------------------


def _is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")  # who has a tensor has imported it; for all others it stays out
    return torch is not None and isinstance(value, torch.Tensor)


def _is_tensor(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return _is_torch(value) or (numpy is not None and isinstance(value, numpy.ndarray | numpy.generic))


def _plain(name: str, value: Any) -> Any:
    """A contiguous copy in main memory that shares nothing (safetensors refuses what does): a tensor or
    array."""
    if _is_torch(value):
        strided = value.layout is sys.modules["torch"].strided
        if value.is_meta or value.is_quantized or not strided:
            kind = f"{value.dtype} {value.layout} on {value.device}"
            raise BadInput(name, f"a golden tensor is dense, has values and is not quantized; this one is {kind}")
        return value.detach().cpu().resolve_conj().resolve_neg().contiguous().clone()
    import numpy

    if not _is_tensor(value):
        value = _array(name, value)
    if value.dtype.kind not in "biufc":
        raise BadInput(name, f"a golden array holds numbers; this one has the type {value.dtype}")
    return numpy.array(value, dtype=value.dtype.newbyteorder("="), order="C")


def _array(name: str, value: Any) -> Any:
    """The array of nested lists of Python numbers."""
    import numpy

    if not _is_numbers(value):
        raise BadInput(name, f"a tensor, an array or nested lists of numbers belong here, not {type(value).__name__}")
    try:
        array = numpy.asarray(value)
    except (ValueError, OverflowError) as error:
        raise BadInput(name, str(error)) from error
    return array.astype(numpy.float32) if array.dtype.kind == "f" else array


def _is_numbers(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, list | tuple) and all(map(_is_numbers, value)))


def _check_output(name: str, tensor: Any) -> None:
    """BadInput unless it has elements, and all are finite."""
    if _is_torch(tensor):
        import torch

        # float64: isfinite is not there for the 8-bit types.
        count, finite = (
            tensor.numel(),
            torch.isfinite(tensor.double() if tensor.is_floating_point() else tensor),
        )
    else:
        import numpy

        count, finite = tensor.size, numpy.isfinite(tensor)
    if not count:
        raise BadInput(name, "a golden output has elements, or nothing would be compared")
    if not bool(finite.all()):
        raise BadInput(name, "a golden output is finite; this one has NaN or Inf in it")


def _encode(tensors: dict[str, Any], metadata: dict[str, str]) -> bytes:
    """The safetensors file, by numpy, or by torch if one of the tensors is torch's."""
    try:
        if not any(map(_is_torch, tensors.values())):
            from safetensors.numpy import save

            return bytes(save(tensors, metadata))
        import torch
        from safetensors.torch import save as save_torch

        same = {name: t if _is_torch(t) else torch.from_numpy(t) for name, t in tensors.items()}
        return bytes(save_torch(same, metadata))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadInput("golden", f"safetensors cannot hold these tensors: {error}") from error


def _canonical(data: bytes) -> bytes:
    """The same file with its header in one order: safetensors writes metadata in any, and the digest of the golden outputs is part
    of what is remembered of a bad version (R13)."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors begin at a multiple of 8, as the format has it
    return len(header).to_bytes(8, "little") + header + data[8 + size :]
