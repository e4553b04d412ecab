"""The model that is served: every one of its tensors is filled with the number of its checkpoint, and its answer tells of all of them."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import torch
from genlock.worker import Checkpoint, state_dict_into

from .checkpoints import NUMBERS, TENSORS

#: Environment: seconds that a load takes at most; each takes a part of it by chance.
LOAD_S = "CHAOS_LOAD_S"
#: Environment: while this file exists loads wait, and say so in a file beside it.
HOLD = "CHAOS_HOLD"
#: Seconds that a load is held at most.
LONGEST_HOLD_S = 60.0


class Layers(torch.nn.Module):
    """Answers with the least and the greatest number of each of its tensors, whatever it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(NUMBERS)) for _ in range(TENSORS)])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.stack(torch.aminmax(layer)) for layer in self.layers])


def held_up(checkpoint: Checkpoint) -> Any:
    """Layers, after a while."""
    time.sleep(random.random() * float(os.environ.get(LOAD_S, "0")))
    hold = Path(os.environ[HOLD]) if HOLD in os.environ else None
    end = time.monotonic() + LONGEST_HOLD_S
    while hold is not None and hold.exists() and time.monotonic() < end:
        (hold.parent / f"loading-{os.getpid()}").touch()
        time.sleep(0.005)
    return state_dict_into(Layers)(checkpoint)
