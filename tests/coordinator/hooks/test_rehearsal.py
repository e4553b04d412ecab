"""Golden outputs come from the weights that were saved, and leave no trace in training."""

import random
import threading
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from genlock.coordinator.errors import BadInput
from genlock.coordinator.hooks.rehearsal import rehearsed
from torch import nn


class Net(nn.Module):
    """Everything that training changes by a forward pass: statistics of a batch, random numbers; and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.last = nn.Linear(4, 4)
        self.last.weight = self.first.weight
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(self.norm(self.first(x)))) * self.scale


def test_the_outputs_are_those_of_the_saved_weights() -> None:
    """Another thread trains on while a checkpoint is written: what is published has other weights than the module has by then."""
    net, inputs = Net(), torch.randn(3, 4)
    state = {name: tensor + 1 for name, tensor in net.state_dict().items()}
    worker = Net()
    worker.load_state_dict(state)
    _, outputs = rehearsed(net, state, inputs)
    assert torch.equal(outputs, worker.eval()(inputs))


def test_training_goes_on_as_if_nothing_had_been() -> None:
    """A forward pass in training's module would count a batch, use up random numbers, and leave it in the wrong mode."""
    net = Net().train()
    net.norm.eval()  # a part that is frozen on purpose
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    torch.manual_seed(3)
    rehearsed(net, net.state_dict(), torch.randn(3, 4, generator=torch.Generator().manual_seed(1)))
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    assert (net.training, net.norm.training) == (True, False)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())


def test_numbers_drawn_by_anybody_are_drawn_again_by_training() -> None:
    """Augmentation draws from Python's and numpy's numbers: with them moved on, a run with golden outputs was another run."""

    class Drawing(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * (random.random() + np.random.rand())

    def inputs() -> torch.Tensor:
        return torch.rand(1, 4) * random.random()

    def drawn() -> tuple[float, ...]:
        return random.random(), np.random.rand(), torch.rand(1).item()

    def seed() -> None:
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)

    net = Drawing()
    seed()
    expected = drawn()
    for source in (net, Drawing):
        seed()
        rehearsed(source, net.state_dict(), inputs)
        assert drawn() == expected


def test_hooks_of_training_hear_of_nothing() -> None:
    """A hook that counts batches, or hands activations to a logger, counted the golden batch; a worker's module has none of them. One that
    the user's own function puts there is there in a worker, too."""
    net, heard = Net(), []
    state = net.state_dict()
    plain = rehearsed(net, state, torch.ones(2, 4))[1]
    net.register_forward_hook(lambda *_: heard.append("whole"))
    net.first.register_forward_pre_hook(lambda module, given: (heard.append("part"), given[0] + 1)[1:])
    net.first.register_forward_hook(threading.Lock().acquire)  # belongs to something that cannot be copied
    assert torch.equal(rehearsed(net, state, torch.ones(2, 4))[1], plain)
    assert heard == []

    def made() -> nn.Module:
        module = Net()
        module.register_forward_hook(lambda module, given, answer: answer + 1)
        return module

    assert torch.equal(rehearsed(made, state, torch.ones(2, 4))[1], plain + 1)
    net.eval()
    with pytest.raises(TypeError):
        net(torch.ones(2, 4))  # training's own has its hooks still: the lock's takes no module


def test_dtypes_are_those_of_the_save() -> None:
    """Half precision in the file is half precision in a worker; and autocast, under which training runs, is not there."""
    net = nn.Linear(4, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, half = rehearsed(
            net, {name: tensor.half() for name, tensor in net.state_dict().items()}, torch.ones(1, 4).half()
        )
        _, whole = rehearsed(net, net.state_dict(), torch.ones(1, 4))
    assert (half.dtype, whole.dtype) == (torch.float16, torch.float32)


def test_a_save_may_name_a_tied_weight_once() -> None:
    net = Net()
    state = net.state_dict()
    state.pop("last.weight")
    expected = net.eval()(torch.ones(2, 4))
    assert torch.equal(rehearsed(net, state, torch.ones(2, 4))[1], expected)


def test_what_accelerate_puts_around_forward_is_left_out() -> None:
    """With `bf16=True` it replaces the method of the object: no worker has that, and would answer otherwise."""
    net = nn.Linear(4, 2)
    net._original_forward = net.forward  # type: ignore[assignment]
    net.forward = MethodType(lambda self, x: x * 0, net)  # type: ignore[method-assign]
    assert rehearsed(net, net.state_dict(), torch.ones(1, 4))[1].shape == (1, 2)


class Named(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor, *, c: float = 0.0) -> dict[str, torch.Tensor]:
        return {"sum": a + 10 * b + c}


def test_a_list_is_positional_and_a_dict_is_named() -> None:
    """As a worker does it (proof.py)."""
    one, two = torch.ones(1), torch.full((1,), 2.0)
    inputs, outputs = rehearsed(Named(), {}, (one, two))
    assert (isinstance(inputs, list), outputs["sum"].item()) == (True, 21.0)
    assert rehearsed(Named(), {}, {"b": two, "a": one, "c": 0.5})[1]["sum"].item() == 21.5


class WithLock(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)
        self.lock = threading.Lock()


class Sharded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.weight.full_tensor = lambda: None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("net", "state", "why"),
    [
        (nn.Linear(4, 4), {"weight": torch.ones(4, 4)}, "no 'bias', which the module has"),
        (nn.BatchNorm1d(4), {"weight": torch.ones(4), "bias": torch.ones(4)}, "no 'running_mean'"),
        (nn.Linear(4, 4), {"kernel": torch.ones(4, 4)}, "has no 'kernel'"),
        (WithLock(), WithLock().state_dict(), "cannot be copied"),
        (Sharded(), {"weight": torch.ones(1)}, "only a part"),
    ],
)
def test_a_module_that_cannot_stand_for_a_worker_says_what_to_do(
    net: nn.Module, state: dict[str, Any], why: str
) -> None:
    with pytest.raises(BadInput, match=f"{why}.*give factory="):
        rehearsed(net, state, torch.ones(1, 4))
