"""worker/wire.py: JSON to tensors and back, and where it is wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy
import pytest
import torch
from genlock.coordinator.errors import BadInput
from genlock.worker.wire import Evaluation, plain, read_body, read_inputs, write


def read(body: Any, usual: torch.dtype = torch.float32) -> Any:
    return read_inputs(read_body(body if isinstance(body, bytes) else json.dumps(body).encode()), usual)


# --- inputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "shape"),
    [
        (3, ()),
        ([1, 2.5], (2,)),
        ([[1, 2], [3, 4], [5, 6]], (3, 2)),
        ([[[[0.5]]]], (1, 1, 1, 1)),
        ([], (0,)),
        ([[], []], (2, 0)),
    ],
)
def test_nested_lists_become_a_tensor(inputs: Any, shape: tuple[int, ...]) -> None:
    found = read({"inputs": inputs})
    assert found.dtype is torch.float32
    assert found.shape == shape
    assert found.tolist() == inputs


def test_names_become_keyword_arguments() -> None:
    found = read({"inputs": {"x": [1, 2], "mask": [[1]]}})
    assert found.keys() == {"x", "mask"}
    assert found["mask"].shape == (1, 1)
    assert read({"inputs": {}}) == {}


@pytest.mark.parametrize("usual", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
def test_numbers_take_the_type_of_the_model(usual: torch.dtype) -> None:
    """Pixels are whole numbers, and the net wants floats: the digits of the JSON say nothing about the type."""
    assert read({"inputs": [16, 0, 1.5]}, usual).dtype is usual
    assert read({"inputs": [16, 0, 1.5]}, usual).tolist() == [16, 0, 1.5]


def test_a_body_may_name_the_type() -> None:
    assert read({"inputs": [1, 2], "dtype": "int64"}).dtype is torch.int64
    assert read({"inputs": [True, False], "dtype": "bool"}).tolist() == [True, False]
    found = read({"inputs": {"ids": [7], "x": [1]}, "dtype": {"ids": "int64"}}, torch.float16)
    assert (found["ids"].dtype, found["x"].dtype) == (torch.int64, torch.float16)
    found = read({"inputs": {"a": [7], "b": [1]}, "dtype": "uint8"})
    assert (found["a"].dtype, found["b"].dtype) == (torch.uint8, torch.uint8)


@pytest.mark.parametrize(
    ("body", "where", "why"),
    [
        ({"inputs": [[1, 2], [3, "x"]]}, "inputs[1][1]", "expected a number, got a string"),
        ({"inputs": [[1, 2], 3]}, "inputs[1]", "expected a list, got a whole number"),
        ({"inputs": [1, [2]]}, "inputs[1]", "expected a number, got a list"),
        ({"inputs": [[1, None]]}, "inputs[0][1]", "expected a number, got null"),
        ({"inputs": [True]}, "inputs[0]", "expected a number, got true or false"),
        ({"inputs": "12"}, "inputs", "expected a number, got a string"),
        ({"inputs": {"x": [1, {}]}}, "inputs.x[1]", "expected a number, got an object"),
        ({"inputs": [[1, 2], [3]]}, "inputs[1]", "has 1 values, the first list of its depth has 2"),
        ({"inputs": [[[1], [2]], [[1], [2, 3]]]}, "inputs[1][1]", "has 2 values"),
        ({"inputs": [[], [1]]}, "inputs[1]", "has 1 values, the first list of its depth has 0"),
        ({"inputs": [1.5], "dtype": "int64"}, "inputs[0]", "expected a whole number"),
        ({"inputs": [1e39]}, "inputs", "a number is too large for float32"),
        ({"inputs": [2**63], "dtype": "int64"}, "inputs", "a number is too large for int64"),
        ({"inputs": [300], "dtype": "uint8"}, "inputs", "a number is too large for uint8"),
        (b'{"inputs": [1e999]}', "inputs[0]", "number out of range"),
        ({"inputs": [1], "dtype": "complex64"}, "dtype", "'complex64' is not one of float16,"),
        ({"inputs": [1], "dtype": {"x": "int64"}}, "dtype", "the inputs have no names"),
        ({"inputs": {"x": [1]}, "dtype": {"y": "int64"}}, "dtype.y", "there is no input of that name"),
        ({"inputs": [1], "dtype": 3}, "dtype", "got a whole number"),
        ({}, "body", "missing required field `inputs`"),
        ({"inputs": [1], "input": [2]}, "body", "unknown field `input`"),
        ([1], "body", "expected an object, got a list"),
        ({"inputs": json.loads("[" * 17 + "]" * 17)}, "inputs", "17 dimensions, 16 are allowed"),
    ],
)
def test_what_is_no_input_is_refused_with_where(body: Any, where: str, why: str) -> None:
    with pytest.raises(BadInput) as caught:
        read(body)
    assert caught.value.where == where
    assert why in caught.value.why


@pytest.mark.parametrize(
    "data", [b"", b"{", b"x", b'{"inputs": [1, NaN]}', b'{"inputs": [1,]}', b'{"inputs": [1}', b"\xff"]
)
def test_what_is_no_json_is_another_error(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError) as caught:
        read(data)
    assert not isinstance(caught.value, msgspec.ValidationError)


def test_json_nested_without_end_is_refused() -> None:
    with pytest.raises((RecursionError, BadInput, msgspec.DecodeError)):
        read(b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")


# --- outputs ---------------------------------------------------------------------------------------------------------


@dataclass
class Named:
    logits: Any
    loss: None = None


def written(outputs: Any) -> Any:
    return json.loads(write(Evaluation("m", outputs, 3, "v", "h:1", True)))["outputs"]


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        (torch.tensor([[1.5, 2.0]]), [[1.5, 2.0]]),
        (torch.tensor([1.5], dtype=torch.bfloat16), [1.5]),
        (torch.tensor([True]), [True]),
        (torch.nn.Parameter(torch.ones(1)), [1.0]),
        (numpy.array([[1, 2]]), [[1, 2]]),
        (numpy.float64(1.5), 1.5),
        ((torch.ones(1), [torch.zeros(1)]), [[1.0], [[0.0]]]),
        ({"a": torch.ones(1), 3: "text"}, {"a": [1.0], "3": "text"}),
        (Named(torch.ones(2)), {"logits": [1.0, 1.0], "loss": None}),
        (None, None),
    ],
)
def test_what_a_model_says_becomes_lists(outputs: Any, found: Any) -> None:
    assert written(outputs) == found


def test_what_is_not_finite_becomes_null() -> None:
    """JSON has no NaN; one bad row must not cost a batch its answer, nor pass for a number."""
    assert written(torch.tensor([1.0, float("nan"), float("inf"), -float("inf")])) == [1.0, None, None, None]


@pytest.mark.parametrize("outputs", [object(), Named, b"bytes", {"a": object()}, torch.tensor([1j])])
def test_what_has_no_form_in_json_is_a_fault_of_the_model(outputs: Any) -> None:
    with pytest.raises(TypeError):
        write(Evaluation("m", outputs, 3, "v", "h:1", False))


def test_plain_values_stay() -> None:
    assert plain({"a": [1, 2.5, True, None, "x"]}) == {"a": [1, 2.5, True, None, "x"]}


def test_the_answer_says_where_it_comes_from() -> None:
    found = json.loads(write(Evaluation("m", 1, 3, "v", "h:1", True)))
    assert found == {"model": "m", "outputs": 1, "generation": 3, "version": "v", "worker": "h:1", "stale": True}


def test_a_body_of_very_many_names_is_refused() -> None:
    """10 MB with 700,000 names took 17 s of a worker, one tensor after the other; the same bytes as one tensor take less than a second."""
    body = read_body(b'{"inputs":{' + b",".join(b'"%d":[1]' % n for n in range(1001)) + b"}}")
    with pytest.raises(BadInput, match="1001 names, 1000 are allowed"):
        read_inputs(body, torch.float32)
