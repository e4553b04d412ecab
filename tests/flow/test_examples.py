"""The programs of examples/ do what they say."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from genlock.coordinator import Fleet
from genlock.worker.demo.history import order_violations
from safetensors.torch import save_file

from .conftest import Answer, Service

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


class Scores(Service):
    """examples/fastapi_service.py under uvicorn, as its first lines say."""

    @property
    def command(self) -> list[str]:
        return ["uvicorn", "--port", str(self.port), "--workers", str(self.workers)]

    def evaluate(self, model: str = "score") -> Answer:
        start = time.monotonic()
        status, headers, found = self.ask("/score", [0.0] * 4)
        end = time.monotonic()
        if status != 200:
            return Answer(start, end, status, 0, False, 0.0, "", str(found))
        generation, stale = int(headers["x-genlock-generation"]), headers.get("x-genlock-stale") == "1"
        return Answer(start, end, status, generation, stale, found["score"], found["worker"])


def test_uvicorn_workers_change_together(
    trainer: Fleet,
    serve: Callable[..., Any],
    ask_all_the_while: Callable[..., Any],
    tmp_path: Path,
    wait_for: Callable[..., Any],
) -> None:
    """Three processes that uvicorn has spawned, which nobody reports when they die and which share nothing. While requests run two
    generations are published: once `publish` has returned nobody answers from the one before, nobody saw an error, or an older answer
    after a newer one. A clear that one of them is asked for reaches all three. Told to end, they leave the fleet."""

    def publish(value: float) -> int:
        state = {"weight": torch.zeros(1, 4), "bias": torch.full((1,), value)}
        save_file(state, tmp_path / "score.safetensors")
        return trainer.publish("score", tmp_path / "score.safetensors").generation

    publish(1.0)
    service = serve(3, app="fastapi_service:app", path=EXAMPLES, model="score", kind=Scores, GENLOCK_MODELS="")
    clients = ask_all_the_while(service)
    assert {a.value for a in service.each_worker()} == {1.0}
    wait_for(lambda: clients.answers)
    for value in (2.0, 3.0):
        generation = publish(value)
        assert {(a.generation, a.value) for a in service.each_worker()} == {(generation, value)}
        wait_for(lambda generation=generation: clients.answers[-1].generation == generation)
    clients.stop()
    assert (clients.errors, [a for a in clients.answers if a.status != 200 or a.stale]) == ([], [])
    assert order_violations(clients.answers) == []
    assert {a.generation for a in clients.answers} == {1, 2, 3}

    status, _, cleared = service.ask("/cache/clear", {})
    assert (status, len(cleared["done"]), cleared["silent"]) == (200, 3, [])
    assert service.ask("/scores", [[0.0] * 4] * 2)[2] == [3.0, 3.0], "the next request loads again"
    assert {(a.generation, a.value) for a in service.each_worker()} == {(3, 3.0)}
    service.stop()
    assert trainer.workers() == [], service.log
