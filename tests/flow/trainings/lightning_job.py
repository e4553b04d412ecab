"""Lightning in one process, both names of it, with saves in the same thread and in another, and with a fleet that is gone or refuses."""

import lightning
import pytorch_lightning
import torch
from genlock.coordinator.hooks import PublishCallback
from served import accuracy, counted, gone, serving
from torch.utils.data import DataLoader
from train_lightning import DigitsNet, data, main


def training(library, net):
    """A module of this library around `net`."""

    class Lit(library.LightningModule):
        def __init__(self):
            super().__init__()
            self.save_hyperparameters({"code": DigitsNet})  # a checkpoint that `weights_only` refuses to read
            self.net = net

        def training_step(self, batch):
            loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.log("loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01)

    return Lit()


def fit(folder):
    """Saves after every 10 steps, the newest one, and `last` beside it, written by another thread; and once more after the fit."""
    library, samples = pytorch_lightning, data()
    saved = library.callbacks.ModelCheckpoint(folder, every_n_train_steps=10, save_top_k=1, save_last=True)
    golden = samples.tensors[0][:4]
    callbacks = {
        "usual": PublishCallback("async", part="net", golden=golden, every=2),
        "whole": PublishCallback("whole"),
        "gone": PublishCallback("gone", gone()),
        "refused": PublishCallback("refused", part="net"),
    }
    trainer = library.Trainer(
        max_epochs=1,
        limit_train_batches=45,
        callbacks=[saved, *callbacks.values()],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[library.plugins.io.AsyncCheckpointIO()],
    )
    trainer.fit(training(library, DigitsNet()), DataLoader(samples, 32, shuffle=True))
    assert trainer.global_step == 45
    trainer.save_checkpoint(f"{folder}/final.ckpt")
    trainer.strategy.checkpoint_io.teardown()  # it is written
    for callback in callbacks.values():
        assert callback.publishing.wait()
    return {name: counted(callback.publishing) for name, callback in callbacks.items()}


def alone():
    """Accuracies and counters."""
    assert isinstance(PublishCallback("digits"), lightning.pytorch.Callback | pytorch_lightning.Callback)
    loaders = {"digits": DigitsNet, "async": DigitsNet, "refused": lambda: torch.nn.Linear(3, 3)}
    with serving(**loaders) as cache:
        pixels, digits = data().tensors
        main(2)
        found = fit("async")
        known = {model: accuracy(cache, model, pixels, digits) for model in ("digits", "async")}
    return {"counts": found, "known": known}
