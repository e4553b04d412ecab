"""The net that the demo trains, and its data: 1,797 handwritten digits of 8 × 8 pixels that come with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

#: What a pixel of scikit-learn's digits counts up to.
BRIGHTEST = 16.0
#: One digit in so many is held out of the training; 359 of 1,797.
HELD_OUT = 5
#: Digits per step of the training.
BATCH = 32
#: Step size of Adam. Slow on purpose: the first epoch reaches about 57 % of the held-out digits and the twelfth 97 %, so that
#: people see the model get better.
LEARNING_RATE = 5e-4


class DigitsNet(nn.Module):
    """Two convolutions and a linear layer, 9,930 weights: (N, 8, 8) brightness from 0 to 1 → (N, 10) one score for each digit."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.Conv2d(1, 16, 3, padding=1)
        self.shapes = nn.Conv2d(16, 32, 3, padding=1)
        self.scores = nn.Linear(32 * 4 * 4, 10)

    def forward(self, digits: Tensor) -> Tensor:
        """The scores; higher is likelier."""
        seen = torch.relu(self.edges(digits.unsqueeze(1)))
        seen = torch.relu(self.shapes(seen))
        scores: Tensor = self.scores(functional.max_pool2d(seen, 2).flatten(1))
        return scores


@dataclass(frozen=True, eq=False)
class Digits:
    """Pictures of shape (N, 8, 8), brightness from 0 to 1, and what they show (N,)."""

    pictures: Tensor
    labels: Tensor

    @property
    def count(self) -> int:
        """How many."""
        return len(self.labels)


def load_digits() -> tuple[Digits, Digits]:
    """Those to train on, and those held out; always the same."""
    from sklearn import datasets

    found = datasets.load_digits()
    pictures = torch.tensor(found.images, dtype=torch.float32) / BRIGHTEST
    labels = torch.tensor(found.target)
    held_out = torch.arange(len(labels)) % HELD_OUT == HELD_OUT - 1
    return Digits(pictures[~held_out], labels[~held_out]), Digits(pictures[held_out], labels[held_out])


class Training:
    """A net while it learns."""

    def __init__(self, digits: Digits, *, seed: int = 1) -> None:
        self._random = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.net = DigitsNet()
        self.epochs = 0  #: how many are done
        self._digits = digits
        self._optimizer = torch.optim.Adam(self.net.parameters(), LEARNING_RATE)

    def epoch(self) -> float:
        """Shows the net every digit once; the mean loss."""
        self.net.train()
        order = torch.randperm(self._digits.count, generator=self._random)
        losses = [self._step(some) for some in torch.split(order, BATCH)]
        self.net.eval()
        self.epochs += 1
        return sum(losses) / len(losses)

    def _step(self, some: Tensor) -> float:
        self._optimizer.zero_grad()
        loss = functional.cross_entropy(self.net(self._digits.pictures[some]), self._digits.labels[some])
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.item()


@torch.no_grad()
def accuracy(net: nn.Module, digits: Digits) -> float:
    """Share of the digits that the net reads rightly."""
    right = net(digits.pictures).argmax(1) == digits.labels
    return float(right.float().mean())


def save(net: nn.Module, path: Path) -> None:
    """The weights as a safetensors file."""
    from safetensors.torch import save_file

    save_file(net.state_dict(), path)


def ruined(net: nn.Module) -> DigitsNet:
    """A copy of the net, every weight of which is not a number: what a training that diverges saves."""
    copy = DigitsNet()
    copy.load_state_dict({name: torch.full_like(weight, torch.nan) for name, weight in net.state_dict().items()})
    return copy


def cut_short(whole: Path, path: Path) -> None:
    """The first half of a file: what a full disk or a copy that was interrupted leaves."""
    data = whole.read_bytes()
    path.write_bytes(data[: len(data) // 2])
