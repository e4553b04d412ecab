"""The weights of a module as one safetensors file: gathered where they are sharded, tied ones once, read back where they were saved.

torch is imported by who has a module; nothing here is called before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from ..container import ZIP
from ..errors import BadInput
from ..statedict import weights_in

if TYPE_CHECKING:
    from torch import Tensor, nn


def is_module(value: object) -> TypeGuard[nn.Module]:
    """Whether it is an nn.Module; who has one has imported torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def is_sharded(module: nn.Module) -> bool:
    """Whether each process has only a part of it: FSDP of either kind, or tensors spread over a mesh."""
    wrapped = any(type(inner).__name__ == "FullyShardedDataParallel" for inner in module.modules())
    return wrapped or any(hasattr(parameter, "full_tensor") for parameter in module.parameters())


def unwrapped(module: nn.Module) -> nn.Module:
    """The user's own module, without what DDP, DataParallel and torch.compile put around it."""
    from torch import nn

    while True:
        if isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
            module = module.module
        elif is_module(inner := getattr(module, "_orig_mod", None)):
            module = inner
        else:
            return module


def state_of(module: nn.Module) -> dict[str, Any]:
    """Its state dict. Sharded, every process has to call this, and only the first gets the whole, on the CPU; the others nothing."""
    if not is_sharded(module):
        return unwrapped(module).state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def rank() -> int:
    """This process's number among those that train together; 0 where it is alone."""
    distributed = _distributed()
    return distributed.get_rank() if distributed else 0


def agreed(value: bool) -> bool:
    """What the first process says; all of them have to call this."""
    distributed = _distributed()
    if not distributed:
        return value
    told = [value]
    distributed.broadcast_object_list(told, src=0)
    return told[0]


def _distributed() -> Any:
    distributed = sys.modules.get("torch.distributed")
    return distributed if distributed and distributed.is_available() and distributed.is_initialized() else None


def write_weights(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a state dict as safetensors, each tensor in its own dtype; of tied weights the first name stays, as safetensors has it.

    Raises BadInput for what is no tensor, or only a part of one.
    """
    from safetensors.torch import save_file

    save_file(_distinct(state), path)


def _distinct(state: Mapping[str, Any]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    same: set[tuple[Any, ...]] = set()
    storages: set[int] = set()
    for name, value in state.items():
        tensor = _plain(name, value)
        where = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and where in same:
            continue
        same.add(where)
        storage = tensor.untyped_storage().data_ptr()
        # safetensors refuses tensors that share memory without being the same one
        found[name] = (tensor.clone() if storage in storages else tensor).contiguous().cpu()
        storages.add(storage)
    if not found:
        raise BadInput("weights", "the state dict is empty: there is nothing to publish")
    return found


def _plain(name: str, value: Any) -> Tensor:
    import torch

    if hasattr(value, "full_tensor") or hasattr(value, "local_shards"):
        why = "it is only this process's part of it. Save the full state dict (FSDPStrategy(state_dict_type='full')), or give the module"
        raise BadInput(name, why)
    if not isinstance(value, torch.Tensor):
        raise BadInput(
            name, f"it is a {type(value).__name__}, not a tensor: save the weights yourself, and give the file"
        )
    return value.detach()


def read_weights(paths: Iterable[Path]) -> dict[str, Any]:
    """The tensors of files that this process's training has saved (safetensors, torch.save), on the CPU, as one state dict.

    Raises BadInput for a file in which a worker would find no weights.
    """
    state: dict[str, Any] = {}
    for path in paths:
        state |= _read(path)
    return state


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        is_zip = file.read(len(ZIP)) == ZIP
    if not is_zip:
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    found = torch.load(path, map_location="cpu", weights_only=True)
    try:
        return weights_in(found)
    except ValueError as error:
        raise BadInput(str(path), str(error)) from error
