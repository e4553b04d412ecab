"""What a payload has to prove before anyone hears "ready": its values are finite, and it reproduces the golden outputs.

Which tensors are looked at: parameters and buffers of an `nn.Module`, tensors, and these in dicts, lists and tuples. What is
inside other objects is their loader's business.
"""

from __future__ import annotations

import cmath
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

#: Nested dicts and lists that are followed; a list that contains itself ends there.
_DEPTH = 8
#: One value in so many is read to bring its page into this process: pages have 4 KiB or more, values 8 bytes or less.
_STRIDE = 512


@dataclass(frozen=True, slots=True)
class Held:
    """One tensor of a payload: its name, and whether it is a module's buffer."""

    name: str
    tensor: Tensor
    is_buffer: bool = False


def tensors_of(payload: Any, name: str = "", depth: int = 0) -> Iterator[Held]:
    """Every tensor that can be found in a payload; a module's tied weights once."""
    from torch import Tensor, nn

    prefix = f"{name}." if name else ""
    if isinstance(payload, Tensor):
        yield Held(name or "the tensor", payload)
    elif isinstance(payload, nn.Module):
        yield from (Held(prefix + key, weight) for key, weight in payload.named_parameters())
        yield from (Held(prefix + key, buffer, True) for key, buffer in payload.named_buffers())
    elif depth < _DEPTH and isinstance(payload, Mapping | list | tuple):
        items = payload.items() if isinstance(payload, Mapping) else enumerate(payload)
        for key, value in items:
            yield from tensors_of(value, f"{prefix}{key}", depth + 1)


def not_finite(held: Held) -> str | None:
    """Why the values of a floating point tensor cannot be right: NaN or Inf, and where; None if they can.

    A buffer may hold -Inf, because attention masks are made of it. Exact: a sum is finite only if every value is, in any
    order of adding; one that is not may have overflowed, and only then each value is looked at. Measured for 200 MB of
    float32 that are mapped and in the page cache: 25 ms for sums, 190 ms for isfinite of each value.
    """
    import torch

    values = held.tensor
    if values.is_meta:
        return f"{held.name!r} has no values: its loader left it on the meta device"
    if not (values.is_floating_point() or values.is_complex()) or values.numel() == 0:
        return None
    with torch.no_grad():
        if (flat := _summable(values)) is None or cmath.isfinite(flat.sum().item()):
            return None
        finite = torch.isfinite(flat)
        if held.is_buffer:
            finite |= flat == -torch.inf
        return None if finite.all() else f"{held.name!r} has {_found(flat, finite)}"


def touch(tensor: Tensor) -> None:
    """Bring the pages of a mapped tensor into this process, so that no request has to wait for them.

    For the types that not_finite() does not read through.
    """
    if not tensor.is_meta and not tensor.is_floating_point():
        with suppress(RuntimeError):  # a type that cannot be added: nobody will multiply it either
            _flat(tensor)[::_STRIDE].sum()


def answer(payload: Any, inputs: Any) -> Any:
    """The payload's outputs, without gradients: a list of inputs as positional arguments, a dict as named ones.

    Not in inference mode: a module may keep what its first call makes, and such tensors could not be changed outside that mode.
    """
    import torch

    with torch.no_grad():
        if isinstance(inputs, Mapping):
            return payload(**inputs)
        return payload(*inputs) if isinstance(inputs, list | tuple) else payload(inputs)


def difference(got: Any, want: Any, *, rtol: float, atol: float, name: str = "the output") -> str | None:
    """What differs between outputs and golden outputs; None if every |got - want| <= atol + rtol * |want|.

    Structure, shapes and dtypes must be the same; a tuple is as good as a list.
    """
    if isinstance(want, Mapping):
        if not isinstance(got, Mapping) or set(got) != set(want):
            return f"{name} has {_kind(got)}, golden: {_kind(want)}"
        pairs = [(f"{name}[{key!r}]", got[key], value) for key, value in want.items()]
    elif isinstance(want, list | tuple):
        if not isinstance(got, list | tuple) or len(got) != len(want):
            return f"{name} has {_kind(got)}, golden: {_kind(want)}"
        pairs = [(f"{name}[{n}]", *pair) for n, pair in enumerate(zip(got, want, strict=True))]
    else:
        return _tensor_difference(got, want, rtol=rtol, atol=atol, name=name)
    found = (difference(g, w, rtol=rtol, atol=atol, name=where) for where, g, w in pairs)
    return next((why for why in found if why), None)


def _tensor_difference(got: Any, want: Tensor, *, rtol: float, atol: float, name: str) -> str | None:
    import torch

    if not isinstance(got, torch.Tensor):
        return f"{name} is a {_kind(got)}, golden: {_kind(want)}"
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{name} is {_kind(got)}, golden: {_kind(want)}"
    if torch.equal(got, want) or got.numel() == 0:
        return None
    wide = torch.complex128 if want.is_complex() else torch.float64
    got, want = got.detach().cpu().to(wide), want.to(wide)
    off = (got - want).abs()
    excess = (off - (atol + rtol * want.abs())).nan_to_num(nan=torch.inf)
    if not (excess > 0).any():
        return None
    worst = int(excess.argmax())
    return (
        f"{name} differs in {int((excess > 0).sum())} of {off.numel()} values, most at {_index(worst, off.shape)}:"
        f" {got.flatten()[worst].item():.6g}, golden {want.flatten()[worst].item():.6g}"
        f" (difference {off.flatten()[worst].item():.3g}; rtol {rtol:g}, atol {atol:g})"
    )


def _summable(values: Tensor) -> Tensor | None:
    """The stored values as a flat tensor of a type that can be added; None for a type that holds no NaN and no Inf."""
    import torch

    if values.dtype is torch.float4_e2m1fn_x2:
        return None
    flat = _flat(values)
    return flat.float() if flat.dtype.itemsize == 1 else flat


def _flat(tensor: Tensor) -> Tensor:
    import torch

    if tensor.layout is torch.sparse_coo:
        tensor = tensor._values()
    elif tensor.layout is not torch.strided:
        tensor = tensor.values()
    return tensor.flatten()


def _found(flat: Tensor, finite: Tensor) -> str:
    first = int(finite.byte().argmin())
    return (
        f"{int(finite.logical_not().sum())} of {flat.numel()} values not finite, first {flat[first].item()} at {first}"
    )


def _index(position: int, shape: Any) -> list[int]:
    """Where the element at `position` of the flat tensor is. torch.unravel_index imports hundreds of modules when it is first called."""
    index = []
    for size in reversed(shape):
        position, rest = divmod(position, size)
        index.append(rest)
    return index[::-1]


def _kind(value: Any) -> str:
    import torch

    if isinstance(value, torch.Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"the keys {sorted(map(str, value))}"
    return f"{len(value)} items" if isinstance(value, list | tuple) else f"{type(value).__name__}"
