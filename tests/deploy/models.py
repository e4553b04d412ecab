"""What the evaluators of the tests serve."""

from __future__ import annotations

import torch

#: A weight with which a model cannot be used, though nothing is wrong with its file.
BROKEN = 13.0


class Times(torch.nn.Module):
    """y = factor · x; an answer tells which checkpoint computed it."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.factor.item() == BROKEN:
            raise ArithmeticError("this checkpoint does not work")
        return self.factor * x
