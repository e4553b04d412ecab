"""Three worker processes for the browser tests: `workers.py HOLD`, settings from the environment. Ends when its standard input does.

Torch is imported once, before the fork. While the file HOLD exists a load waits, so that a test can look at a candidate in work.
"""

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from genlock.worker import Checkpoint, ModelCache, state_dict_into

COUNT = 3
MODELS = ("digits", "ranker")
HOLD = Path(sys.argv[1])


class Affine(torch.nn.Module):
    """y = weight · x + bias, elementwise."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4))
        self.bias = torch.nn.Parameter(torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x + self.bias


def held_up(checkpoint: Checkpoint) -> Any:
    end = time.monotonic() + 30
    while HOLD.exists() and time.monotonic() < end:
        threading.Event().wait(0.01)
    return state_dict_into(Affine)(checkpoint)


def serve(stop: threading.Event) -> None:
    """Answers as a web server would, of each model every 20 ms; a key for each request, so that a canary has something to answer."""
    torch.set_num_threads(1)
    cache = ModelCache(loaders=dict.fromkeys(MODELS, held_up))
    cache.prewarm(MODELS)
    number = 0
    while not stop.wait(0.02):
        for model in MODELS:
            number += 1
            with cache.use(model, key=f"user {number % 400}") as held, torch.inference_mode():
                held.payload(torch.zeros(4))
    cache.close()


def main() -> None:
    reading, writing = os.pipe()
    children = []
    for _ in range(COUNT):
        child = os.fork()
        if child == 0:
            os.close(writing)
            stop = threading.Event()
            threading.Thread(target=lambda stop=stop: (os.read(reading, 1), stop.set()), daemon=True).start()
            serve(stop)
            os._exit(0)
        children.append(child)
    os.close(reading)
    sys.stdin.read()
    os.close(writing)  # the end of the pipe tells every child
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
