"""worker/evaluator.py: whose fault it is when a model does not answer, and several models at one instant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from genlock.coordinator.errors import BadInput, InvalidName, NotReady
from genlock.worker.cache import ModelCache
from genlock.worker.evaluator import ModelEvaluator, answer, dtype_of
from genlock.worker.view import View
from torch import nn

Publish = Callable[..., Any]
NewCache = Callable[..., ModelCache]


def view(payload: Any) -> View:
    return View(model="m", payload=payload, generation=1, version="v")


def test_an_answer_has_no_gradients() -> None:
    found = answer(view(nn.Linear(2, 3)), torch.ones(4, 2))
    assert found.shape == (4, 3)
    assert found.is_inference()


def test_named_inputs_are_keyword_arguments() -> None:
    assert answer(view(lambda *, a, b: a - b), {"a": 5, "b": 3}) == 2


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        (torch.ones(1, 3), r"mat1 and mat2 shapes cannot be multiplied \(1x3 and 2x2\)"),
        (torch.ones(1, 2, dtype=torch.int64), "dtype"),
        ({"wrong": torch.ones(1, 2)}, "unexpected keyword argument 'wrong'"),
    ],
)
def test_inputs_that_a_model_does_not_take_are_the_callers_fault(inputs: Any, why: str) -> None:
    """With torch's own sentence: it says which shape was wanted."""
    with pytest.raises(BadInput, match=why) as caught:
        answer(view(nn.Linear(2, 2)), inputs)
    assert caught.value.where == "inputs"
    assert "\n" not in str(caught.value)
    assert len(caught.value.why) < 600


def test_no_memory_is_nobodys_fault() -> None:
    def hungry(_: Any) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    with pytest.raises(NotReady, match="can't allocate memory"):
        answer(view(hungry), torch.ones(1))


def test_a_fault_of_the_models_code_is_not_the_callers() -> None:
    def faulty(_: Any) -> None:
        raise AttributeError("no such layer")

    with pytest.raises(AttributeError):
        answer(view(faulty), torch.ones(1))
    with pytest.raises(TypeError, match="a dict, which nobody can call"):
        answer(view({"weight": 1}), torch.ones(1))


def test_the_type_of_a_model_is_that_of_its_first_floating_weight() -> None:
    half = nn.Linear(2, 2).to(torch.bfloat16)
    assert dtype_of(half) is torch.bfloat16
    assert dtype_of(half) is torch.bfloat16, "remembered"
    mixed = nn.Module()
    mixed.ids = nn.Parameter(torch.ones(1, dtype=torch.int64), requires_grad=False)
    mixed.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    assert dtype_of(mixed) is torch.float64
    assert dtype_of(nn.ReLU()) is torch.float32
    assert dtype_of(lambda x: x) is torch.float32


def test_several_models_answer_from_one_instant(publish: Publish, new_cache: NewCache) -> None:
    publish(2, "a")
    publish(3, "b")
    evaluator = ModelEvaluator(new_cache("a", "b"), ["b", "a", "b"])
    assert evaluator.models == ("b", "a")
    found = evaluator.evaluate(torch.ones(1, 2))
    assert {model: y[0].tolist() for model, y in found.items()} == {"b": [3, 3], "a": [2, 2]}
    assert {one.model: one.generation for one in found.held} == {"b": 1, "a": 1}
    publish(5, "a")
    found = evaluator.evaluate(torch.ones(1, 2))
    assert found["a"][0].tolist() == [5, 5]
    assert [one.generation for one in found.held] == [1, 2]


def test_a_model_that_refuses_the_inputs_is_named(publish: Publish, new_cache: NewCache) -> None:
    publish(2, "a")
    evaluator = ModelEvaluator(new_cache("a"), ["a"])
    with pytest.raises(BadInput, match="model 'a' does not take them"):
        evaluator.evaluate(torch.ones(1, 7))
    with pytest.raises(InvalidName):
        ModelEvaluator(new_cache("a"), ["../a"])
