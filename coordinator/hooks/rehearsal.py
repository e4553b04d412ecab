"""What a worker will compute: the outputs of exactly the weights that were saved, on the CPU, beside training and without a trace in it.

The module that is being trained is not touched: its mode, its buffers and its gradients stay, its forward hooks hear of nothing, and the
random numbers of torch, numpy and Python go on as if none had been drawn.
"""

from __future__ import annotations

import copy
import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from .weights import is_module, is_sharded, unwrapped

if TYPE_CHECKING:
    from torch import nn

#: What helps where a module cannot be copied.
_ADVICE = "give factory=, a function that makes the module as your workers do"


def rehearsed(source: nn.Module | Callable[[], nn.Module], state: Mapping[str, Any], inputs: Any) -> tuple[Any, Any]:
    """Inputs on the CPU, and what a module with the weights of `state` answers to them in eval mode, in the dtypes of `state`.

    `source`: the module in training, of which a copy is made, without its forward hooks; or a function that makes one, which keeps them.
    `inputs`: one tensor, a list or tuple (positional), a dict (named), or a function that gives these. Raises BadInput if there can be no
    such module.
    """
    import torch

    with undisturbed(), torch.no_grad(), torch.autocast("cpu", enabled=False):
        inputs = _on_cpu(inputs() if callable(inputs) else inputs)
        net = _copy(source, state, _silent(source)) if is_module(source) else _copy(_made(source), state, {})
        net.eval()
        if "_original_forward" in net.__dict__:  # accelerate's, around it: autocast, which no worker does
            net.__dict__.pop("forward", None)
        if isinstance(inputs, Mapping):
            return inputs, net(**inputs)
        return inputs, net(*inputs) if isinstance(inputs, list | tuple) else net(inputs)


@contextmanager
def undisturbed() -> Iterator[None]:
    """The numbers that are drawn inside are drawn again outside: by torch on the CPU, by Python, and by numpy where that is loaded."""
    import torch

    python, numpy = random.getstate(), sys.modules.get("numpy")
    legacy = numpy.random.get_state() if numpy is not None else None
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            if numpy is not None:
                numpy.random.set_state(legacy)


def _made(factory: Any) -> nn.Module:
    net = factory() if callable(factory) else factory
    if not is_module(net):
        raise BadInput("golden", "nothing computes the outputs: say after_save(…, module=net), or give factory=")
    return net


def _silent(module: nn.Module) -> dict[int, Any]:
    """What deepcopy takes for the forward hooks, by their id: none. They watch training (a profiler, a logger), and workers have none."""
    parts = unwrapped(module).modules()
    return {id(hooks): OrderedDict() for part in parts for hooks in (part._forward_hooks, part._forward_pre_hooks)}


def _on_cpu(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()  # training may use its own again before this is written
    if isinstance(value, Mapping):
        return {name: _on_cpu(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_on_cpu(item) for item in value]
    return value


def _copy(module: nn.Module, state: Mapping[str, Any], memo: dict[int, Any]) -> nn.Module:
    """A copy in which every weight is that of `state`. What is tied stays tied, and may stand in `state` under one of its names.

    `memo`: what else the copy has another of, as deepcopy takes it.
    """
    module = unwrapped(module)
    if is_sharded(module):
        raise BadInput("golden", f"each process has only a part of the module: {_ADVICE}")
    known = module.state_dict()
    if unknown := sorted(state.keys() - known.keys()):
        raise BadInput(
            "golden", f"the module has no {unknown[0]!r} ({len(unknown)} such weights in the save): {_ADVICE}"
        )
    memo = memo | _parameters(module, state) | _buffers(module, state, known)
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
