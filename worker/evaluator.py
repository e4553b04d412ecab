"""Answers: the payload of a view called with inputs, without gradients; and several models of one signature at one instant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ..coordinator.errors import BadInput, NotReady
from ..coordinator.manifest import check_name
from .cache import Held, ModelCache
from .checkpoint import is_of_the_machine
from .view import View

if TYPE_CHECKING:
    from torch import dtype, nn

#: What torch and Python raise for inputs of a wrong shape, type or name. Anything else is a fault of the model's code.
_THEIRS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AssertionError, NotImplementedError)
#: Characters of a model's own sentence that are passed on.
_WHY_CHARS = 500


#: Modules whose weights were looked at, because that takes as long as a small forward pass.
_dtypes: WeakKeyDictionary[nn.Module, dtype] = WeakKeyDictionary()


def dtype_of(payload: Any) -> dtype:
    """The type of a module's first floating point parameter; float32 for what has none."""
    import torch

    if not isinstance(payload, torch.nn.Module):
        return torch.float32
    found = _dtypes.get(payload)
    if found is None:
        types = (weight.dtype for weight in payload.parameters())
        found = _dtypes[payload] = next((one for one in types if one.is_floating_point), torch.float32)
    return found


def answer(view: View, inputs: Any) -> Any:
    """What the payload says to `inputs`: one value, or a dict of keyword arguments.

    Raises BadInput with the model's own sentence if it does not take them, NotReady if this machine has no memory left for it.
    """
    import torch

    payload = view.payload
    if not callable(payload):
        raise TypeError(f"the payload of model {view.model!r} is a {type(payload).__name__}, which nobody can call")
    try:
        with torch.inference_mode():
            return payload(**inputs) if isinstance(inputs, dict) else payload(inputs)
    except _THEIRS as error:
        why = " ".join(str(error).split())[:_WHY_CHARS]
        if is_of_the_machine(error):
            raise NotReady(view.model, why) from error
        raise BadInput("inputs", f"model {view.model!r} does not take them: {why}") from error


class Outputs(dict[str, Any]):
    """Model → what it said; `held`: the views that were asked, of one instant of the fleet."""

    __slots__ = ("held",)

    def __init__(self, outputs: Mapping[str, Any], held: Held) -> None:
        super().__init__(outputs)
        self.held = held


class ModelEvaluator:
    """Several models that take the same inputs, asked as one."""

    def __init__(self, cache: ModelCache, models: Iterable[str]) -> None:
        self._cache = cache
        self.models = tuple(dict.fromkeys(check_name(model) for model in models))

    def evaluate(self, inputs: Any) -> Outputs:
        """What each model says to `inputs`, all in the generations of one instant; see answer. Raises what ModelCache.use_many does."""
        with self._cache.use_many(*self.models) as held:
            return Outputs({view.model: answer(view, inputs) for view in held}, held)
