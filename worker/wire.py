"""What travels in the body of an evaluation: JSON to tensors, what a model said to JSON.

`{"inputs": …}`: numbers in lists of equal lengths, nested as deep as the tensor has dimensions (a batch is the first of them), become the
one argument of the model; `{"inputs": {"name": …, …}}` its keyword arguments. JSON does not tell 1 from 1.0, so the type of a tensor is
not guessed from its numbers: it is that of the model's first floating point parameter (float32 where it has none), or what the body
says beside the inputs, for all (`"dtype": "int64"`) or by name (`"dtype": {"ids": "int64"}`).

A number that is not finite has no form in JSON: in outputs it becomes `null`, in inputs there is none, and one too large for its
type is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from ..coordinator.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor, dtype

#: dtypes that a body may name → what a number of theirs is in JSON.
KINDS: dict[str, type] = {
    "float16": float,
    "bfloat16": float,
    "float32": float,
    "float64": float,
    "uint8": int,
    "int32": int,
    "int64": int,
    "bool": bool,
}
#: Dimensions of a tensor; numpy has at most 32 or 64, and no model that is known more than 6.
MAX_DIMENSIONS = 16
#: Names of inputs; each becomes a tensor of its own, 10 µs, and no model that is known takes more than some tens.
MAX_NAMED = 1000
_WORDS = {
    "`array`": "a list",
    "`float`": "a number",
    "`int`": "a whole number",
    "`bool`": "true or false",
    "`object`": "an object",
    "`str`": "a string",
    "`null`": "null",
}


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request; the inputs are read when the model is known."""

    inputs: msgspec.Raw
    dtype: str | dict[str, str] | None = None


class Evaluation(msgspec.Struct, omit_defaults=True):
    """The body of an answer. `candidate`: of a canary's answer, the generation that gave it beside the active one."""

    model: str
    outputs: Any
    generation: int
    version: str
    worker: str
    stale: bool
    candidate: int | None = None


_BODY = msgspec.json.Decoder(Body)
_NAMED = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODER = msgspec.json.Encoder()


def read_body(data: bytes) -> Body:
    """The body in `data`. Raises msgspec.DecodeError (but no ValidationError) for what is no JSON, BadInput for other JSON."""
    try:
        return _BODY.decode(data)
    except msgspec.ValidationError as error:
        raise _bad(error, "") from None


def read_inputs(body: Body, usual: dtype) -> Tensor | dict[str, Tensor]:
    """The inputs as tensors, of the dtype `usual` where the body does not say. Raises BadInput with where."""
    raw = bytes(body.inputs)
    if raw[:1] != b"{":
        if isinstance(body.dtype, dict):
            raise BadInput("dtype", "the inputs have no names, so it is one name of a type")
        return _tensor(raw, "inputs", body.dtype, usual)
    named = _NAMED.decode(raw)
    if len(named) > MAX_NAMED:
        raise BadInput("inputs", f"{len(named)} names, {MAX_NAMED} are allowed")
    chosen = body.dtype if isinstance(body.dtype, dict) else dict.fromkeys(named, body.dtype)
    if unknown := [name for name in chosen if name not in named]:
        raise BadInput(f"dtype.{unknown[0]}", "there is no input of that name")
    return {name: _tensor(bytes(one), f"inputs.{name}", chosen.get(name), usual) for name, one in named.items()}


def write(evaluation: Evaluation) -> bytes:
    """The body of an answer; `outputs`: what the model said. Raises TypeError for what JSON cannot say."""
    evaluation.outputs = plain(evaluation.outputs)
    return _ENCODER.encode(evaluation)


def plain(value: Any) -> Any:
    """Tensors and arrays as nested lists, in dicts, lists, tuples and dataclasses. Raises TypeError for anything else."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [plain(one) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    raise TypeError(f"the model returned a {type(value).__name__}, which has no form in JSON")


def _tensor(raw: bytes, where: str, name: str | None, usual: dtype) -> Tensor:
    import numpy
    import torch

    if name is not None and name not in KINDS:
        raise BadInput("dtype", f"{name!r} is not one of {', '.join(KINDS)}")
    chosen = usual if name is None else getattr(torch, name)
    nested = _nested(raw, where, KINDS[name] if name else float)
    try:
        with numpy.errstate(over="raise"):
            array = numpy.array(nested, dtype=_numpy_of(chosen))
    except (FloatingPointError, OverflowError):
        raise BadInput(where, f"a number is too large for {_word(chosen)}") from None
    except ValueError:
        raise _ragged(nested, where) from None
    tensor = torch.from_numpy(array)
    return tensor if tensor.dtype is chosen else tensor.to(chosen)


def _nested(raw: bytes, where: str, kind: type) -> Any:
    """The numbers, as deep as the first of them lies."""
    depth = 0
    for byte in raw:
        if byte == ord("["):
            depth += 1
        elif byte not in b" \t\r\n":
            break
    if depth > MAX_DIMENSIONS:
        raise BadInput(where, f"{depth} dimensions, {MAX_DIMENSIONS} are allowed")
    try:
        return _decoder(depth, kind).decode(raw)
    except msgspec.ValidationError as error:
        raise _bad(error, where) from None


@cache
def _decoder(depth: int, kind: type) -> msgspec.json.Decoder[Any]:
    wanted: Any = kind
    for _ in range(depth):
        wanted = list[wanted]
    return msgspec.json.Decoder(wanted)


def _bad(error: msgspec.ValidationError, where: str) -> BadInput:
    """msgspec's sentence ("Expected `float`, got `str` - at `$[3][1]`"), in the words of the body."""
    said, _, path = str(error).partition(" - at `$")
    for theirs, ours in _WORDS.items():
        said = said.replace(theirs, ours)
    place = (where + path.removesuffix("`")).removeprefix(".")
    return BadInput(place or "body", said[:1].lower() + said[1:])


def _ragged(nested: Any, where: str) -> BadInput:
    """Where the lists stop having the lengths of the first ones."""
    lengths, first = [], nested
    while isinstance(first, list):
        lengths.append(len(first))
        first = first[0] if first else None

    def find(value: list[Any], where: str, depth: int) -> BadInput | None:
        if len(value) != lengths[depth]:
            return BadInput(where, f"has {len(value)} values, the first list of its depth has {lengths[depth]}")
        if depth + 1 == len(lengths):
            return None
        found = (find(one, f"{where}[{at}]", depth + 1) for at, one in enumerate(value))
        return next((one for one in found if one is not None), None)

    return find(nested, where, 0) or BadInput(where, "the lists do not make a tensor")


@cache
def _numpy_of(chosen: dtype) -> Any:
    import numpy
    import torch

    # Types that numpy does not have (bfloat16, float8) come from float32.
    return getattr(numpy, "bool_" if chosen is torch.bool else _word(chosen), numpy.float32)


def _word(chosen: dtype) -> str:
    return str(chosen).removeprefix("torch.")
