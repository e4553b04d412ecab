"""A Hugging Face Trainer that publishes the checkpoints in which the evaluation gets better: one line, the callback.

    python train_transformers.py

A worker serves model "digits" with `ModelCache(fleet, loaders={"digits": tiny_vit})`. Nothing is downloaded.
"""

import sys
from typing import Any

import torch
from genlock.coordinator.hooks import PublishTrainerCallback
from sklearn.datasets import load_digits
from transformers import Trainer, TrainerCallback, TrainingArguments, ViTConfig, ViTForImageClassification


def tiny_vit() -> ViTForImageClassification:
    """8 x 8 pixels → 10 scores, with 16 patches."""
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=10,
    )
    return ViTForImageClassification(config)


def data() -> list[dict[str, Any]]:
    """1797 handwritten digits that scikit-learn carries."""
    digits = load_digits()
    pixels = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
    return [{"pixel_values": image, "labels": int(digit)} for image, digit in zip(pixels, digits.target, strict=True)]


def train(samples: list[dict[str, Any]], epochs: int, *callbacks: TrainerCallback, **more: Any) -> None:
    """Evaluates and saves after every epoch, and keeps one folder."""
    arguments = TrainingArguments(
        "checkpoints",
        num_train_epochs=epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=256,
        learning_rate=0.003,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        **more,
    )
    Trainer(tiny_vit(), arguments, train_dataset=samples, eval_dataset=samples[:300], callbacks=list(callbacks)).train()


def main(epochs: int) -> None:
    """Trains, and says what became of the saves."""
    samples = data()
    golden = {"pixel_values": torch.stack([sample["pixel_values"] for sample in samples[:4]])}
    publish = PublishTrainerCallback("digits", monitor="eval_loss", golden=golden)
    train(samples, epochs, publish)
    done = publish.publishing
    print(f"published {done.published}, failed {done.failed}, skipped {done.skipped}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
