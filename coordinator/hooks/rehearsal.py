"""What a worker will compute: the outputs of exactly the weights that were saved, on the CPU, beside training and without a trace in it.

The module that is being trained is not touched: its mode, its buffers and its gradients stay, and so does the state of the random numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from .weights import is_sharded, unwrapped

if TYPE_CHECKING:
    from torch import nn

#: What helps where a module cannot be copied.
_ADVICE = "give factory=, a function that makes the module as your workers do"


def rehearsed(module: nn.Module, state: Mapping[str, Any], inputs: Any) -> tuple[Any, Any]:
    """Inputs on the CPU, and what a copy of `module` with the weights of `state` answers to them in eval mode, in the dtypes of `state`.

    A list or tuple of inputs are positional arguments, a dict named ones, as in a worker. Raises BadInput if there can be no such copy.
    """
    import torch

    inputs = _on_cpu(inputs)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.autocast("cpu", enabled=False):
        net = _copy(module, state).eval()
        if "_original_forward" in net.__dict__:  # accelerate's, around it: autocast, which no worker does
            net.__dict__.pop("forward", None)
        if isinstance(inputs, Mapping):
            return inputs, net(**inputs)
        return inputs, net(*inputs) if isinstance(inputs, list | tuple) else net(inputs)


def _on_cpu(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()  # training may use its own again before this is written
    if isinstance(value, Mapping):
        return {name: _on_cpu(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_on_cpu(item) for item in value]
    return value


def _copy(module: nn.Module, state: Mapping[str, Any]) -> nn.Module:
    """A copy in which every weight is that of `state`. What is tied stays tied, and may stand in `state` under one of its names."""
    module = unwrapped(module)
    if is_sharded(module):
        raise BadInput("golden", f"each process has only a part of the module: {_ADVICE}")
    known = module.state_dict()
    if unknown := sorted(state.keys() - known.keys()):
        raise BadInput(
            "golden", f"the module has no {unknown[0]!r} ({len(unknown)} such weights in the save): {_ADVICE}"
        )
    memo = _parameters(module, state) | _buffers(module, state, known)
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:  # a tensor with a history, a lock, an open file: whatever the user keeps in it
        raise BadInput("golden", f"the module cannot be copied ({error}): {_ADVICE}") from error


def _parameters(module: nn.Module, state: Mapping[str, Any]) -> dict[int, Any]:
    """What deepcopy takes for each parameter, by its id: nothing is copied on the device that trains."""
    from torch import nn

    memo: dict[int, Any] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if name in state:
            memo[id(parameter)] = nn.Parameter(state[name].detach().cpu(), requires_grad=False)
    for name, parameter in module.named_parameters():
        if id(parameter) not in memo:
            raise BadInput("golden", f"the save has no {name!r}, which the module has: {_ADVICE}")
    return memo


def _buffers(module: nn.Module, state: Mapping[str, Any], known: Mapping[str, Any]) -> dict[int, Any]:
    """The same for buffers; those that are not saved are as they are now. A forward pass may write into them, so all are copies."""
    memo: dict[int, Any] = {}
    for name, buffer in module.named_buffers(remove_duplicate=False):
        if name in known and name not in state:
            continue  # tied: it stands there under another name, or is missing, which is seen below
        memo[id(buffer)] = state.get(name, buffer).detach().cpu().clone()
    for name, buffer in module.named_buffers():
        if id(buffer) not in memo:
            raise BadInput("golden", f"the save has no {name!r}, which the module has: {_ADVICE}")
    return memo
