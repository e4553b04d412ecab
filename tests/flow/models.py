"""The models that the flow tests serve: small, and some of them slow on purpose."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import torch
from genlock.worker import Checkpoint, state_dict_into


class Affine(torch.nn.Module):
    """y = weight · x + bias, elementwise: an answer tells which checkpoint computed it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4))
        self.bias = torch.nn.Parameter(torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x + self.bias


def held_up(checkpoint: Checkpoint) -> Any:
    """Affine; while the file named by FLOW_HOLD exists the load waits, so that a test can act during PREPARING."""
    hold = Path(os.environ["FLOW_HOLD"])
    end = time.monotonic() + 60
    while hold.exists() and time.monotonic() < end:
        (hold.parent / f"loading-{os.getpid()}").touch()
        threading.Event().wait(0.01)
    return state_dict_into(Affine)(checkpoint)


class Breakable(Affine):
    """Affine with a fault in its code that shows for some inputs, as soon as the file beside FLOW_HOLD names its checkpoint."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        broken = Path(os.environ["FLOW_HOLD"]).with_name("broken")
        if broken.exists() and x[0, 0] > 0 and float(self.bias[0]) == float(broken.read_text()):
            raise ArithmeticError("a fault that only traffic finds")
        return super().forward(x)


breakable = state_dict_into(Breakable)
