"""What a loader gets: the verified files of one generation, and the tensors in them.

Tensors are mapped: they are read from the page cache, which all workers of a host share, and nothing is copied. The mapping is
private, so that a payload that writes into a weight changes its own copy and not the store; and it stays whole when the object is
collected, because the kernel keeps the file for as long as anybody has it mapped. Only files of the store may be mapped like this: one that
is truncated in place kills its readers (SIGBUS).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..coordinator.errors import BadCheckpoint
from ..coordinator.manifest import Manifest
from ..coordinator.statedict import weights_in
from ..coordinator.store import Store
from .archive import MAX_TENSORS, FormatError, check_safetensors, directory, kind_of, read_entry

if TYPE_CHECKING:
    from torch import Tensor

#: The end of the keys of what `nn.Module.get_extra_state` gives, which need not be a tensor.
EXTRA_STATE = "_extra_state"
#: Times that the bytes of a file may be seen through tensors which overlap: few models tie more than a pair of weights.
MAX_SHARING = 8
#: Texts of torch's own errors that are about this machine, not about the file. It raises RuntimeError for all of them.
_OF_THE_MACHINE = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "unable to mmap",
    "unable to open file",
    "can't start new thread",
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One generation of a model, as its loader sees it. Every file of it has been verified on this host."""

    model: str
    generation: int
    manifest: Manifest
    store: Store

    def path(self, name: str | None = None) -> Path:
        """Where the artifact `name` lies (None: the only one). Read it, map it, never write it; its name says nothing.

        Raises KeyError with the names that there are.
        """
        return self.store.path(self.manifest.artifact(name).digest)

    def state_dict(self, name: str | None = None) -> dict[str, Tensor]:
        """The tensors of a safetensors file or of a `torch.save`, by name, mapped, on the CPU, as they were saved (dtypes too).

        Weights below a key `state_dict` or `model_state_dict` are found if no tensor stands beside it. Raises BadCheckpoint (step
        "format"): anything else, code in a pickle, too many tensors (archive.py), tensors that cannot be mapped.
        """
        path = self.path(name)
        try:
            return _state_dict(path)
        except FormatError as error:
            raise BadCheckpoint(self.model, "format", str(error)) from error


def is_of_the_machine(error: BaseException) -> bool:
    """Whether an error says something about this machine now (no memory, no file, no thread), and nothing about the bytes."""
    if isinstance(error, OSError | MemoryError | ImportError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OF_THE_MACHINE)


def reason(error: Exception) -> str:
    """What was found, without the page of advice that torch adds to it, some of it bad; begins with the type of the error."""
    if unsupported := re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", str(error)):
        return f"its pickle asks for {unsupported[1]}, which is code: save the state dict only"
    return f"{type(error).__name__}: {str(error)[:300]}"


def _state_dict(path: Path) -> dict[str, Tensor]:
    read = _read_safetensors if kind_of(path) == "safetensors" else _read_torch
    try:
        found = read(path)
    except FormatError:
        raise
    except Exception as error:
        if is_of_the_machine(error):
            raise
        raise FormatError(f"it cannot be read: {reason(error)}") from error
    try:
        state = weights_in(found)
    except ValueError as error:
        raise FormatError(str(error)) from error
    for key, value in state.items():
        if why := _unfit(key, value):
            raise FormatError(f"{key!r} {why}")
    size, seen = path.stat().st_size, sum(distinct(state.values()).values())
    if seen > MAX_SHARING * size:
        raise FormatError(f"its tensors show {seen} bytes of a file of {size}: they overlap")
    return state


def distinct(values: Iterable[Any]) -> dict[int, int]:
    """Where the tensors among `values` lie → bytes; tied ones count once."""
    import torch

    found: dict[int, int] = {}
    for tensor in values:
        if isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided and not tensor.is_meta:
            where, nbytes = tensor.data_ptr(), tensor.numel() * tensor.element_size()
            found[where] = max(nbytes, found.get(where, 0))
    return found


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    check_safetensors(path)
    with safe_open(path, framework="pt", device="cpu") as file:
        names = list(file.keys())
        if len(names) > MAX_TENSORS:
            raise FormatError(f"it has {len(names)} tensors, {MAX_TENSORS} are allowed")
        return {name: file.get_tensor(name) for name in names}


def _read_torch(path: Path) -> Any:
    import torch

    with path.open("rb") as file:
        check_torch(directory(file), file)
    return torch.load(path, weights_only=True, mmap=True, map_location="cpu")


def check_torch(entries: Mapping[str, Any], file: Any) -> None:
    """Raises FormatError unless this is the archive of a `torch.save` that may be given to `torch.load`."""
    if "models/model.json" in entries:
        raise FormatError(
            "it is an exported program, not a state dict: give this model no loader, or exported_program()"
        )
    if "constants.pkl" in entries:
        raise FormatError("it is a TorchScript archive, which holds code: save the state dict")
    if "data.pkl" not in entries:
        raise FormatError("it is a zip, and not one that torch.save wrote: it has no data.pkl")
    # `weights_only` lets bytearray(N) through, which fills N bytes. The name has to stand in the pickle like this.
    if b"\nbytearray\n" in read_entry(file, entries["data.pkl"]):
        raise FormatError("its pickle makes a bytearray, which no state dict needs")


def _unfit(key: object, value: Any) -> str | None:
    """Why an entry cannot be part of a mapped state dict."""
    import torch

    if not isinstance(key, str):
        return "is a key, and not a string"
    if not isinstance(value, torch.Tensor):
        return None if key.endswith(EXTRA_STATE) else f"is a {type(value).__name__}, not a tensor"
    if type(value) not in (torch.Tensor, torch.nn.Parameter) or value.layout is not torch.strided:
        return f"is a {type(value).__name__} of layout {value.layout}, which cannot be mapped"
    if value.device.type != "cpu":
        return f"is on the device {value.device}: it has no values"
    # Else 16 bytes could stand for a trillion values, and whatever looks at them all would never end.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"has {value.numel()} values in {value.untyped_storage().nbytes()} bytes"
    return None
