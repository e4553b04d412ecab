"""A Lightning training job that publishes the best weights so far: the line with PublishCallback is all that genlock needs.

    python train_lightning.py

A worker serves model "digits" with `ModelCache(fleet, loaders={"digits": DigitsNet})`.
"""

import sys

import lightning as L
import torch
from genlock.coordinator.hooks import PublishCallback
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


class DigitsNet(torch.nn.Sequential):
    """64 pixels → 10 scores: what workers serve. It knows nothing of Lightning."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


class LitDigits(L.LightningModule):
    """The same in training."""

    def __init__(self) -> None:
        super().__init__()
        self.net = DigitsNet()

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        pixels, digits = batch
        return torch.nn.functional.cross_entropy(self.net(pixels), digits)

    def validation_step(self, batch: list[torch.Tensor]) -> None:
        self.log("val_loss", self.training_step(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def data() -> TensorDataset:
    """1797 handwritten digits of 8 x 8 pixels, that scikit-learn carries."""
    digits = load_digits()
    return TensorDataset(torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target))


def main(epochs: int) -> None:
    """Trains, and says what became of the saves."""
    samples = data()
    publish = PublishCallback("digits", part="net", monitor="val_loss", golden=samples.tensors[0][:4])
    trainer = L.Trainer(
        max_epochs=epochs, callbacks=[publish], accelerator="cpu", logger=False, enable_progress_bar=False
    )
    trainer.fit(LitDigits(), DataLoader(samples, 64, shuffle=True), DataLoader(samples, 256))
    done = publish.publishing
    print(f"published {done.published}, failed {done.failed}, skipped {done.skipped}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
