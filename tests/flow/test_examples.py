"""The programs of examples/ do what they say."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from genlock.coordinator import Fleet
from safetensors.torch import save_file

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_training_job_publishes_every_epoch(environment: dict[str, str], trainer: Fleet) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "train.py", "2"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["epoch 1 is generation 1", "epoch 2 is generation 2"]
    newest = trainer.history("line")[0]
    assert newest.message.startswith("epoch 2, loss ")


@pytest.mark.usefixtures("redis_url")
def test_the_shop_answers_from_two_models_at_one_instant(
    environment: dict[str, str], trainer: Fleet, serve: Callable[..., Any], tmp_path: Path
) -> None:
    """A user types what the program's first lines say; the answer names the generation of both, as one dictionary (RFC 9651)."""
    typed = re.findall(r"^    ((?:python|genlock) .*)", (EXAMPLES / "shop.py").read_text(), re.M)
    assert len(typed) == 4
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for line in typed:
        subprocess.run(
            line, shell=True, check=True, cwd=tmp_path, env={**os.environ, **environment, "PATH": programs}, timeout=60
        )
    service = serve(2, app="shop:app", path=EXAMPLES, model="encoder", GENLOCK_MODELS="")
    save_file(torch.nn.Linear(8, 3).state_dict(), tmp_path / "ranker.safetensors")
    trainer.publish("ranker", tmp_path / "ranker.safetensors")
    status, headers, found = service.ask("/rank", [0.1, 0.2, 0.3, 0.4])
    assert status == 200, found
    assert len(found["scores"]) == 3
    assert headers["x-genlock-generation"] == "encoder=1, ranker=2"
    assert "x-genlock-stale" not in headers
