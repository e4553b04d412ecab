"""A worker beside a training job, in the same process: it holds models before they are published, and answers from them."""

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from genlock.coordinator import Fleet
from genlock.worker import ModelCache

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))


@contextmanager
def serving(**loaders: Any) -> Iterator[ModelCache]:
    """A cache that holds these models, so that the fleet waits for it."""
    cache = ModelCache(Fleet.from_env(), loaders=loaders)
    cache.prewarm()
    yield cache
    cache.close()
    cache.fleet.close()


def accuracy(
    cache: ModelCache, model: str, inputs: Any, digits: torch.Tensor, scores: Any = lambda answer: answer
) -> float:
    """The share of digits that the active generation knows."""
    with cache.use(model) as held, torch.no_grad():
        return float((scores(held.payload(inputs)).argmax(1) == digits).float().mean())


def gone() -> Fleet:
    """A fleet whose Redis has gone away."""
    settings = Fleet.from_env().settings
    return Fleet(settings=settings.with_arguments(redis_url="unix:///nowhere/redis"))


def counted(publishing: Any) -> dict[str, Any]:
    error = publishing.last_error
    return {
        "published": publishing.published,
        "failed": publishing.failed,
        "skipped": publishing.skipped,
        "error": type(error).__name__ if error is not None else "",
        "workers": len(publishing.last.workers) if publishing.last else 0,
    }


def done(**found: Any) -> None:
    """The last line that the test reads."""
    print("\n" + json.dumps(found), flush=True)


def quiet(*messages: str) -> None:
    """Every warning is an error, but those of these libraries about themselves."""
    warnings.simplefilter("error")
    for message in messages:
        warnings.filterwarnings("ignore", message)
