"""The training job that does not end: what it publishes, what it outlives, how it ends."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from genlock.coordinator import Fleet
from genlock.worker.demo.job import main, run, tell
from genlock.worker.demo.news import MODEL
from genlock.worker.demo.trainer import Trainer


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """The job has one thread of torch, and takes two signals."""
    before, taken = (
        torch.get_num_threads(),
        {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)},
    )
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    for number, handler in taken.items():
        signal.signal(number, handler)


def events(caplog: pytest.LogCaptureFixture, event: str) -> list[Any]:
    return [record for record in caplog.records if getattr(record, "event", "") == event]


def test_an_operator_pins_the_model_and_the_job_goes_on(
    fleet: Fleet, new_fleet: Any, background: Any, tmp_path: Path, wait_for: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Its checkpoints are refused while the model is pinned, which its log says; the next one after that is published."""
    caplog.set_level(logging.INFO, "genlock.demo")
    stop = threading.Event()
    done = background(lambda: run(Trainer(new_fleet(), tmp_path, tell), stop, 0.05))
    try:
        wait_for(lambda: events(caplog, "published"), 60, "one is published")
        fleet.pin(MODEL, why="not now")
        (first, *_) = wait_for(lambda: events(caplog, "not published"), 60, "one is refused")
        fleet.unpin(MODEL)
        before = len(events(caplog, "published"))
        wait_for(lambda: len(events(caplog, "published")) > before, 60, "one is published again")
    finally:
        stop.set()
        done.result(60)
    assert first.outcome == "pinned"
    assert events(caplog, "published")[0].generation == 1
    assert events(caplog, "trained")[0].epoch == 1
    assert (fleet.model(MODEL).message or "").startswith("epoch ")


def test_term_ends_it_in_its_pause(
    redis_url: str,
    tmp_path: Path,
    background: Any,
    wait_for: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A container is stopped: the job ends at once, and well."""
    caplog.set_level(logging.INFO, "genlock.demo")
    names = {"REDIS_URL": redis_url, "FLEET": "t", "STORE": tmp_path / "store", "STATE_DIR": tmp_path / "state"}
    for name, value in names.items():
        monkeypatch.setenv(f"GENLOCK_{name}", str(value))

    def stop_it() -> None:
        wait_for(lambda: events(caplog, "published"), 60, "the first one is published")
        os.kill(os.getpid(), signal.SIGTERM)

    stopped = background(stop_it)
    main(["--every", "10m"])
    stopped.result(10)
    assert [record.generation for record in events(caplog, "published")] == [1]
