"""The models that are measured, and files of them. Their weights are random: what counts is how many there are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

#: Floats in a row of inputs; as many as a digit of 8 × 8 has pixels.
INPUTS = 64
#: Width of the hidden layers of Deep: one is 1,000 × 1,000 weights and 1,000 biases of 4 bytes, 4.004 MB.
WIDTH = 1000
LAYER_BYTES = (WIDTH * WIDTH + WIDTH) * 4


class Small(nn.Sequential):
    """Answers in some 30 µs, so that what an evaluator adds to it shows. About 11 KB."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(INPUTS, 32), nn.ReLU(), nn.Linear(32, 10))


class Deep(nn.Sequential):
    """As many hidden layers as `megabytes` hold; every request goes through all weights."""

    def __init__(self, megabytes: float) -> None:
        hidden: list[nn.Module] = []
        for _ in range(round(megabytes * 1e6 / LAYER_BYTES)):
            hidden += [nn.Linear(WIDTH, WIDTH), nn.ReLU()]
        super().__init__(nn.Linear(INPUTS, WIDTH), *hidden, nn.Linear(WIDTH, 10))


class Wide(nn.Module):
    """A table of `megabytes`, of which a request looks at one row: what a recommender is, and what nearly nothing but the table costs."""

    def __init__(self, megabytes: float) -> None:
        super().__init__()
        self.table = nn.Embedding(round(megabytes * 1e6 / (INPUTS * 4)), INPUTS)
        self.head = nn.Linear(INPUTS, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        rows = (inputs[:, 0] * 1e6).long() % self.table.num_embeddings
        out: Tensor = self.head(self.table(rows) + inputs)
        return out


def deep_20() -> Deep:
    return Deep(20)


def deep_200() -> Deep:
    return Deep(200)


def wide_1() -> Wide:
    return Wide(1)


def wide_200() -> Wide:
    return Wide(200)


def save(net: nn.Module, path: Path, *, seed: int = 0) -> Path:
    """Random but sensible weights of it as safetensors, on the disk already. Every seed is another content."""
    save_file(weights(net, seed), path)
    flush(path)
    return path


def flush(path: Path) -> None:
    """What is still to be written must not be written while something is measured."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def weights(net: nn.Module, seed: int) -> dict[str, Tensor]:
    """A state dict of finite values: those of the net, moved a little by the seed, which is faster than drawing them all again."""
    made = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in net.state_dict().items():
        state[name] = value.detach() * 0.5 + torch.rand(1, generator=made) * 1e-4
    return state


def body() -> str:
    """The JSON of a request with one row of inputs."""
    inputs: list[Any] = [[round(0.01 * n, 2) for n in range(INPUTS)]]
    return json.dumps({"inputs": inputs})
