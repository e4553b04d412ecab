"""What the tests of a whole worker share: publishing small models, and caches that end with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.flip import Flip
from genlock.worker.cache import ModelCache
from safetensors.torch import save_file
from torch import nn


def linear() -> nn.Module:
    """The loader of the tests' models: two numbers in, two out."""
    return nn.Linear(2, 2)


@pytest.fixture
def publish(fleet: Fleet, tmp_path: Path) -> Callable[..., Flip]:
    """publish(value, model="m", **keywords): a model that multiplies by `value` becomes the next generation."""

    def publish(value: float, model: str = "m", **keywords: Any) -> Flip:
        path = tmp_path / f"{model}.safetensors"
        save_file({"weight": torch.eye(2) * value, "bias": torch.zeros(2)}, path)
        return fleet.publish(model, path, **keywords)

    return publish


@pytest.fixture
def new_cache(new_fleet: Callable[..., Fleet]) -> Iterator[Callable[..., ModelCache]]:
    """new_cache(models=("m",), settings={…}, **keywords of ModelCache): a worker of the fleet, in this process."""
    made: list[ModelCache] = []

    def make(
        *models: str, settings: dict[str, Any] | None = None, fleet: Fleet | None = None, **keywords: Any
    ) -> ModelCache:
        fleet = fleet or new_fleet()
        fleet.settings = fleet.settings.with_arguments(**{"max_wait_s": 20.0} | (settings or {}))
        keywords.setdefault("loaders", dict.fromkeys(models or ("m",), linear))
        made.append(ModelCache(fleet, **keywords))
        return made[-1]

    yield make
    for cache in made:
        cache.close()
