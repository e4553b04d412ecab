"""Loaders: from the verified files of a generation to what requests will hold.

A loader is any callable that gets a Checkpoint and returns the payload. It runs in the loader's thread, beside requests. What it raises
counts as "failed", for it may be a fault of this worker's program; BadCheckpoint says that the bytes are bad, and the fleet rejects the
version. Those of this room say that of a broken format and of other keys or shapes than the module's (R13).
"""

from __future__ import annotations

import inspect
import io
import json
import sys
import weakref
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from zipfile import ZipInfo

from ..coordinator.errors import BadCheckpoint, LoadFailed, SettingsInvalid
from .archive import FormatError, directory, kind_of, read_entry
from .checkpoint import Checkpoint, check_torch, is_of_the_machine, reason

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.overrides import TorchFunctionMode

Loader = Callable[[Checkpoint], Any]

#: What fills a weight with random numbers: of `torch.nn.init`, and methods of a tensor.
_RANDOM = {
    "uniform_",
    "normal_",
    "trunc_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "xavier_uniform_",
    "xavier_normal_",
}
#: Keys that an error about two sets of keys names; the rest is counted.
_NAMED = 4
#: Names in a program's archive (torch.export.pt2_archive.constants): compiled code, pickles of older torch, what lists the tensors.
_NATIVE = "data/aotinductor/"
_OLDER = ("data/weights/model.pt", "data/constants/model.pt")
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_PLAIN_DATA = ("weight_", "tensor_")
_SAMPLES = "data/sample_inputs/model.pt"
#: What is said of weights that came to a model without a loader: the most common mistake of a configuration.
_NO_LOADER = (
    "it holds weights and no program, and this worker has no loader for the model: configure one, such as state_dict_into(Net)"
    " or GENLOCK_MODELS=model=package.module:Net"
)


def loader_for(spec: Any) -> Loader:
    """The loader that `spec` stands for.

    A loader; an `nn.Module` subclass or a function without parameters that makes one (state_dict_into); a string `module:name` of any of
    these, imported now; None or "" (exported_program). Raises SettingsInvalid.
    """
    if spec is None or spec == "":
        return exported_program()
    if isinstance(spec, str):
        return loader_for(_named(spec))
    if not callable(spec):
        raise SettingsInvalid(
            "loader", repr(spec), "a loader is a callable, an nn.Module class or a string module:name"
        )
    # Who has an nn.Module class has imported torch.
    torch = sys.modules.get("torch")
    if (torch and isinstance(spec, type) and issubclass(spec, torch.nn.Module)) or not _takes_one(spec):
        return state_dict_into(spec)
    return spec  # type: ignore[no-any-return]


def state_dict_into(factory: Callable[[], nn.Module]) -> Loader:
    """A loader for one artifact with a state dict: `factory()` gives the module (its class, or a function), which gets the tensors.

    The module is made without filling its weights with random numbers; the mapped tensors then take the place of its own
    (`assign=True`), in eval mode and without gradients. So weights have the dtype that was *saved*: half precision in the file is half
    precision in the module. Keys and shapes must match, and floating point must stay floating point; a weight that the module ties
    to another may be missing. Raises BadCheckpoint (step "format" or "shapes"), and LoadFailed if the factory itself raises, because
    that says nothing about the file.
    """
    needs_all = False  # only the loader's thread reads and writes it; once true, it stays

    def load_state_dict(checkpoint: Checkpoint) -> nn.Module:
        nonlocal needs_all
        state = checkpoint.state_dict()
        if not needs_all:
            module, skipped = _made_without_random(factory)
            if module is not None:
                _assign(module, state, checkpoint.model)
                # What was skipped and is still alive was not replaced: it would be used with whatever the memory held.
                if not any(weight() is not None for weight in skipped):
                    return module
            needs_all = True
        module = _made(factory, checkpoint.model)
        _assign(module, state, checkpoint.model)
        return module

    return load_state_dict


def exported_program() -> Loader:
    """A loader for one artifact that `torch.export.save` wrote: the program as a callable module.

    A program is code in the sense that it may call any operator of torch; it is not Python: archives with pickled objects or
    compiled code are refused. Its weights are read into this process's memory, not mapped. Raises BadCheckpoint (step "format"), and
    LoadFailed (step "loader") for weights: they may be good, and want a loader that this worker was not given.
    """
    return _load_program


# --- state_dict_into --------------------------------------------------------------------------------------------------


def _made(factory: Callable[[], nn.Module], model: str) -> nn.Module:
    from torch import nn

    try:
        module = factory()
    except Exception as error:
        raise LoadFailed(model, "build", f"{factory!r} raises {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise LoadFailed(model, "build", f"{factory!r} gives a {type(module).__name__}, not an nn.Module")
    return module


def _made_without_random(
    factory: Callable[[], nn.Module],
) -> tuple[nn.Module | None, list[weakref.ref[Tensor]]]:
    """The module, and its weights that were left as the memory was; no module if it cannot be made like this.

    Everything else in the constructor really runs, so buffers that are computed and not saved (rotary tables) are right, which
    they would not be on the meta device. Memory that nobody writes to costs nothing: measured with 50 layers of 4 MB 8 ms, on the meta
    device 15 ms, in the ordinary way 500 ms.
    """
    skipped: list[weakref.ref[Tensor]] = []
    try:
        with _without_random(skipped):
            return _made(factory, ""), skipped
    except LoadFailed:  # say, a constructor that inverts its weights; the ordinary way will tell
        return None, skipped


def _without_random(skipped: list[weakref.ref[Tensor]]) -> TorchFunctionMode:
    """A context in which no Parameter is filled with random numbers, for the calling thread only."""
    from torch import nn
    from torch.overrides import TorchFunctionMode

    class WithoutRandom(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            target = kwargs.get("tensor", args[0] if args else None)
            if isinstance(target, nn.Parameter) and getattr(func, "__name__", "") in _RANDOM:
                skipped.append(weakref.ref(target))
                return target
            return func(*args, **kwargs)

    return WithoutRandom()


def _assign(module: nn.Module, state: dict[str, Tensor], model: str) -> None:
    module.eval().requires_grad_(False)
    wanted = module.state_dict(keep_vars=True)
    _complete_tied(wanted, state)
    for name in wanted.keys() & state.keys():
        if _is_inexact(wanted[name]) != _is_inexact(state[name]):
            why = f"{name!r} is {state[name].dtype} in the file and {wanted[name].dtype} in the module"
            raise BadCheckpoint(model, "shapes", why)
    try:
        module.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        if is_of_the_machine(error):
            raise
        raise BadCheckpoint(model, "shapes", _mismatch(wanted, state) or str(error)[:500]) from error


def _complete_tied(wanted: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """Give a name whose tensor the module shares with another name that one's tensor: safetensors keeps only one of them."""
    saved = {id(tensor): state[name] for name, tensor in wanted.items() if name in state}
    for name, tensor in wanted.items():
        if name not in state and id(tensor) in saved:
            state[name] = saved[id(tensor)]


def _is_inexact(value: Any) -> bool | None:
    import torch

    return value.is_floating_point() or value.is_complex() if isinstance(value, torch.Tensor) else None  # extra state


def _mismatch(wanted: dict[str, Tensor], state: dict[str, Tensor]) -> str:
    """What differs between the module's keys and shapes and the file's."""
    both = [name for name in wanted if name in state and hasattr(wanted[name], "shape")]
    shapes = [
        f"{name!r} has shape {tuple(state[name].shape)}, the module wants {tuple(wanted[name].shape)}"
        for name in both
        if state[name].shape != wanted[name].shape
    ]
    rows = (
        ("missing", [repr(name) for name in wanted if name not in state]),
        ("unexpected", [repr(name) for name in state if name not in wanted]),
        ("of another shape", shapes),
    )
    return "; ".join(_listed(what, names) for what, names in rows if names)


def _listed(what: str, names: list[str]) -> str:
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{what}: {', '.join(names[:_NAMED])}{rest}"


# --- exported_program -------------------------------------------------------------------------------------------------


def _load_program(checkpoint: Checkpoint) -> nn.Module:
    import torch

    path = checkpoint.path()
    try:
        if _holds_weights(path):
            raise LoadFailed(checkpoint.model, "loader", _NO_LOADER)
        _check_program(path)
        # An open file, because torch warns about a path that does not end with .pt2.
        with path.open("rb") as file:
            module = torch.export.load(file).module()
    except LoadFailed:
        raise
    except Exception as error:
        if is_of_the_machine(error):
            raise
        why = str(error) if isinstance(error, FormatError) else reason(error)
        raise BadCheckpoint(checkpoint.model, "format", f"it is no exported program that can be used: {why}") from error
    # A program has no requires_grad_() of a whole: it is what it was exported as, in eval mode too.
    for weight in module.parameters():
        weight.requires_grad_(False)
    return module


def _holds_weights(path: Path) -> bool:
    """Whether it is a safetensors file or what torch.save wrote, by its directory."""
    if kind_of(path) == "safetensors":
        return True
    with path.open("rb") as file:
        entries = directory(file)
    return "data.pkl" in entries and "constants.pkl" not in entries  # which TorchScript has beside it


def _check_program(path: Path) -> None:
    """Raises FormatError for an archive in which torch.export.load would unpickle objects (it does so without `weights_only`) or
    load compiled code."""
    with path.open("rb") as file:
        entries = directory(file)
        if [name for name in entries if name.startswith("models/")] != ["models/model.json"]:
            raise FormatError("it does not hold one model that torch.export.save wrote")
        if any(name.startswith(_NATIVE) for name in entries):
            raise FormatError("it holds compiled code of a machine")
        if any(name in entries for name in _OLDER):
            raise FormatError("it was saved by an old torch, as pickles: save it again")
        read_entry(file, entries["models/model.json"])
        for config in _CONFIGS:
            _check_config(file, entries, config)
        _check_samples(file, entries)


def _check_config(file: IO[bytes], entries: dict[str, ZipInfo], config: str) -> None:
    if config not in entries:
        raise FormatError(f"{config} is missing")
    for name, row in json.loads(read_entry(file, entries[config]))["config"].items():
        if row["use_pickle"] or not row["path_name"].startswith(_PLAIN_DATA):
            raise FormatError(f"{name!r} is a pickled object")


def _check_samples(file: IO[bytes], entries: dict[str, ZipInfo]) -> None:
    """The example inputs are a `torch.save` in the archive, which torch unpickles with code if it has some."""
    import torch

    if _SAMPLES not in entries:
        raise FormatError(f"{_SAMPLES} is missing")
    # Of any size: what is not compressed is no larger than the archive.
    samples = io.BytesIO(read_entry(file, entries[_SAMPLES], limit=sys.maxsize))
    check_torch(directory(samples), samples)
    samples.seek(0)
    torch.load(samples, weights_only=True, map_location="cpu")


# --- loader_for -------------------------------------------------------------------------------------------------------


def _named(spec: str) -> Any:
    """What `module:name` names; the name may have dots."""
    module, _, name = spec.partition(":")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever the user's module does when it is imported
        why = f"{type(error).__name__}: {error}"
        raise SettingsInvalid("loader", spec, f"{why}; write module:name, importable here") from error
    if found is None or isinstance(found, str):
        raise SettingsInvalid("loader", spec, f"it names {found!r}, not a loader")
    return found


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True
