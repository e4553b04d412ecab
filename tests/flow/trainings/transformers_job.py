"""Hugging Face's Trainer with a real transformer: the best, every second save, a fleet that is gone, workers that refuse."""

import torch
from genlock.coordinator.hooks import PublishTrainerCallback
from served import accuracy, counted, done, gone, quiet, serving
from train_transformers import data, main, tiny_vit, train

if __name__ == "__main__":
    quiet()
    with serving(digits=tiny_vit, second=tiny_vit, refused=lambda: torch.nn.Linear(3, 3)) as cache:
        samples = data()
        pixels = torch.stack([sample["pixel_values"] for sample in samples])
        callbacks = {
            "digits": PublishTrainerCallback("digits", monitor="eval_loss", golden={"pixel_values": pixels[:4]}),
            "second": PublishTrainerCallback("second", every=2),
            "gone": PublishTrainerCallback("gone", gone()),
            "refused": PublishTrainerCallback("refused"),
        }
        main(1)  # as the example is: in float32; what comes later has to be better
        train(samples[:1024], 3, *callbacks.values(), bf16=True)
        digits = torch.tensor([sample["labels"] for sample in samples])
        known = accuracy(cache, "digits", pixels, digits, lambda answer: answer.logits)
        done(counts={name: counted(callback.publishing) for name, callback in callbacks.items()}, known=known)
