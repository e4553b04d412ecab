"""Stands for a training job that knows nothing of genlock: it overwrites the files of one signature, in place.

python train.py MODELS_DIR RQA_SIG VALUE [NAME …]
"""

import sys
from pathlib import Path

import torch
from nets import constant


def main(models_dir: str, rqa_sig: str, value: str, *names: str) -> None:
    """Afterwards every net of the signature answers VALUE."""
    folder = Path(models_dir, rqa_sig)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or ("linear", "perceptron"):
        torch.save(constant(name, float(value)), folder / f"{name}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
