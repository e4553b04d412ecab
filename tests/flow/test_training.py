"""Training jobs with the real libraries, on real digits, publish into a fleet that then answers with what they have learned.

Each library has a process of its own (trainings/): what it warns of, and the threads that it leaves behind, stay there.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from chaos.ports import Port
from genlock.coordinator import Fleet

JOBS = Path(__file__).parent / "trainings"
Job = subprocess.Popen[str]
#: A guess knows one digit of ten.
CHANCE = 0.1
#: Seconds that a job may take on a busy machine: the longest takes half a minute by itself.
PATIENCE_S = 280

pytestmark = pytest.mark.timeout(PATIENCE_S + 20)


@pytest.fixture
def alone(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The environment of a training job: it downloads nothing, and asks nobody."""
    models = {"GENLOCK_MODELS": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **environment, **models}


@pytest.fixture
def start(alone: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """start(job, **environment): a training job, ended with the test."""
    started: list[Job] = []

    def begin(job: str, **more: str) -> Job:
        pipe = subprocess.PIPE
        command = [sys.executable, str(JOBS / job)]
        started.append(subprocess.Popen(command, cwd=tmp_path, env=alone | more, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield begin
    for process in started:
        with process:
            process.kill()


def told(process: Job) -> Any:
    """What the job said at last."""
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err[-6000:]
    return json.loads(out.splitlines()[-1])


def counts(published: int, failed: int, skipped: int, error: str = "", workers: int = 1) -> dict[str, Any]:
    return {"published": published, "failed": failed, "skipped": skipped, "error": error, "workers": workers}


def as_one_process(found: dict[str, Any], trainer: Fleet) -> None:
    """One line in a list of callbacks. The trainer's best and last checkpoint are one save; a fleet that is gone and workers that refuse
    are counted, and training reaches its last step."""
    assert found["known"]["digits"] > 5 * CHANCE and found["known"]["async"] > 3 * CHANCE, found
    assert [one.message.partition(", val_loss")[0] for one in trainer.history("digits")] == [
        "epoch 1, step 58",
        "epoch 0, step 29",
    ]
    usual, whole = found["counts"]["usual"], found["counts"]["whole"]
    assert (usual["failed"], usual["published"] + usual["skipped"]) == (0, 5), usual
    assert whole["published"] >= 1 and whole["failed"] == 0
    after_the_fit, newest = trainer.history("async")[:2]
    assert newest.message == "epoch 0, step 30", "of the saves at 10, 20, 30, 40 and 45 every second"
    assert newest.metrics["loss"] > 0
    assert after_the_fit.message == "epoch 1, step 45"
    assert found["counts"]["gone"]["error"] == "RedisUnreachable" and not found["counts"]["gone"]["published"]
    assert found["counts"]["refused"]["error"] == "FlipRejected" and not found["counts"]["refused"]["published"]


def test_transformers(start: Callable[..., Job], trainer: Fleet, tmp_path: Path) -> None:
    """Trained in bfloat16 by autocast, and older folders deleted after each save: workers reproduce the golden outputs in float32. What an
    earlier job has published is replaced by what is better, and by nothing else."""
    found = told(start("transformers_job.py"))
    assert found["known"] > 2 * CHANCE
    *best, whole = trainer.history("digits")
    assert (whole.outcome, whole.message.partition(",")[0]) == ("committed", "epoch 1")
    assert 1 <= len(best) <= 3
    assert best[0].metrics["eval_loss"] == min(one.metrics["eval_loss"] for one in [*best, whole])
    assert found["counts"]["second"]["failed"] == 0
    assert [one.message for one in trainer.history("second")] == ["epoch 3, step 96", "epoch 1, step 32"]
    assert found["counts"]["gone"] == counts(0, 3, 0, "RedisUnreachable", workers=0)
    assert found["counts"]["refused"]["error"] == "FlipRejected" and not found["counts"]["refused"]["published"]
    assert not list((tmp_path / "store" / "drafts").iterdir())


@pytest.fixture
def ports() -> Iterator[list[str]]:
    with closing(Port()) as one, closing(Port()) as other:
        yield [str(one.number), str(other.number)]


def test_lightning_and_two_processes(
    start: Callable[..., Job], trainer: Fleet, ports: list[str], tmp_path: Path
) -> None:
    """FSDP and DDP over gloo: both processes call the same line, one publishes, and what is published is whole. Then one trains alone."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": ports[0], "SECOND_PORT": ports[1], "WORLD_SIZE": "2"}
    elastic = {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    jobs = [start("ranks_job.py", **where, **elastic, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")]
    first, second = [told(job) for job in jobs]
    nothing = counts(0, 0, 0, workers=0)
    assert second == {"fsdp": nothing, "ddp": nothing, "lit": nothing}
    assert first["fsdp"] == counts(2, 0, 1, workers=0), "the second save was no better, as the first process saw it"
    assert first["ddp"] == counts(1, 0, 0, workers=0)
    assert first["lit"]["published"] >= 1 and first["lit"]["failed"] == 0
    assert "loss" in trainer.history("lit")[0].metrics, "it is reduced over both when it is read, so both have read it"
    for model in ("fsdp", "ddp", "lit"):
        newest = trainer.history(model)[0]
        assert newest.artifacts[0].size > 64 * 32 * 4, "the whole of the first layer, not a half"
    as_one_process(first, trainer)
    assert not list((tmp_path / "store" / "drafts").iterdir())
