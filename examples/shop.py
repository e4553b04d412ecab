"""A Flask service that answers from two models at one instant of the fleet: an encoder and the ranker that was trained with it.

    python -c 'import torch, safetensors.torch as s; s.save_file(torch.nn.Linear(4, 8).state_dict(), "encoder.safetensors")'
    python -c 'import torch, safetensors.torch as s; s.save_file(torch.nn.Linear(8, 3).state_dict(), "ranker.safetensors")'
    genlock publish encoder encoder.safetensors
    genlock publish ranker ranker.safetensors
    gunicorn -c python:genlock.worker.hooks shop:app
    curl -i localhost:8000/rank -H 'content-type: application/json' -d '[0.1, 0.2, 0.3, 0.4]'

The first two lines stand for a training job. Every answer says which generations it came from: `X-Genlock-Generation: encoder=4, ranker=9`.
"""

import torch
from flask import Flask, request
from genlock.coordinator import Fleet
from genlock.worker import ModelCache
from genlock.worker.blueprint import init_app, use_many


class Encoder(torch.nn.Linear):
    """4 features → 8 numbers."""

    def __init__(self) -> None:
        super().__init__(4, 8)


class Ranker(torch.nn.Linear):
    """8 numbers → 3 scores."""

    def __init__(self) -> None:
        super().__init__(8, 3)


app = Flask(__name__)
init_app(app, ModelCache(Fleet.from_env(), loaders={"encoder": Encoder, "ranker": Ranker}))


@app.post("/rank")
def rank() -> dict[str, list[float]]:
    """The scores of one item."""
    features = torch.tensor(request.get_json(), dtype=torch.float32)
    with use_many("encoder", "ranker") as (encoder, ranker), torch.inference_mode():
        return {"scores": ranker.payload(encoder.payload(features)).tolist()}
