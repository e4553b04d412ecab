"""A FastAPI service: an endpoint on the event loop, one in a thread, and several worker processes.

    python -c 'import torch, safetensors.torch as s; s.save_file(torch.nn.Linear(4, 1).state_dict(), "score.safetensors")'
    genlock publish score score.safetensors
    uvicorn fastapi_service:app --workers 3
    curl -i localhost:8000/score -H 'content-type: application/json' -d '[0.1, 0.2, 0.3, 0.4]'

The first line stands for a training job. Every answer says which generation it came from: `X-Genlock-Generation: 1`. /livez answers as
soon as the app has started, before torch is imported; /readyz when the model is loaded.
"""

import logging
from typing import Annotated

from fastapi import FastAPI
from genlock.coordinator import Fleet
from genlock.worker import ModelCache
from genlock.worker.asgi import init_app, lifespan, use
from pydantic import Field

logging.basicConfig(level=logging.INFO)

#: What the model takes; anything else is refused with 422 before it gets there.
Features = Annotated[list[float], Field(min_length=4, max_length=4)]


def net():
    """4 features → 1 score. Here, and not above, torch is imported: in the thread that loads, after the app has begun to answer."""
    from torch import nn

    return nn.Linear(4, 1)


def loaded(model: str, done: int, models: int) -> None:
    """Says how far this worker is."""
    logging.info("%s: %d of %d", model, done, models)


cache = ModelCache(Fleet.from_env(), loaders={"score": net})
app = FastAPI(lifespan=lifespan(cache, on_progress=loaded))
init_app(app, cache)


def score_of(model, rows: list[Features]) -> list[float]:
    """The scores of some rows of features."""
    import torch

    with torch.inference_mode():
        return model(torch.tensor(rows)).flatten().tolist()


@app.post("/score")
async def score(features: Features) -> dict[str, float | str]:
    """The score of one item: so small a model answers faster than a thread would begin."""
    async with use("score") as held:
        return {"score": score_of(held.payload, [features])[0], "worker": cache.worker}


@app.post("/scores")
def scores(rows: list[Features]) -> list[float]:
    """The scores of many: FastAPI runs a plain function in a thread, and the loop goes on."""
    with use("score") as held:
        return score_of(held.payload, rows)
