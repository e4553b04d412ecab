"""The training job: what it publishes, in what order, and what it tells of it."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from genlock.coordinator import Fleet
from genlock.worker import ModelCache
from genlock.worker.demo.digits import DigitsNet
from genlock.worker.demo.news import HELD_OUT_FILE, MODEL, News, Published, Publishing, Trained, Trial, encode
from genlock.worker.demo.trainer import Trainer, moments, run


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the training job has it: two threads that wait for each other on busy cores take a hundred times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of the trainer's stdin."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            pass


@pytest.fixture
def cache(new_fleet: Callable[..., Fleet]) -> Iterator[ModelCache]:
    """A real worker; it holds the model when a test has used it."""
    made = ModelCache(new_fleet(), loaders={MODEL: DigitsNet})
    yield made
    made.close()


def test_moments_are_spread_and_the_broken_ones_are_halfway() -> None:
    found = moments(Trial(100.0, 8.0, 4))
    assert found == [(101.0, False), (103.0, False), (104.0, True), (105.0, False), (107.0, False)]


def test_a_whole_run(fleet: Fleet, cache: ModelCache, tmp_path: Path, pipe: tuple[int, int]) -> None:
    """The first epoch before anybody holds the model; then an epoch, the broken ones, and another epoch, each told of."""
    told: list[News] = []
    gave_way: list[int] = []

    def tell(news: News) -> None:
        told.append(news)
        if isinstance(news, Published) and len(told) == 3:  # generation 1: now somebody holds it
            assert cache.get(MODEL).generation == 1
            os.write(pipe[1], encode(Trial(time.monotonic(), 0.6, 2)))

    run(Trainer(fleet, tmp_path, tell), pipe[0], lambda: gave_way.append(len(told)))
    assert gave_way == [3]
    assert [news.epoch for news in told if isinstance(news, Trained)] == [1, 2, 3]
    tried = [news.what for news in told if isinstance(news, Publishing)]
    assert tried == ["epoch 1", "epoch 2", "full of NaN", "truncated file", "epoch 3"]
    published = [news for news in told if isinstance(news, Published)]
    assert [(p.what, p.outcome, p.generation, p.workers) for p in published] == [
        ("epoch 1", "committed", 1, 0),
        ("epoch 2", "committed", 2, 1),
        ("full of NaN", "rejected", 3, 0),
        ("truncated file", "refused", 0, 0),
        ("epoch 3", "committed", 4, 1),
    ]
    assert all(p.as_promised and p.began < p.ended for p in published)
    assert published[1].seconds.keys() >= {"stage", "prepare", "fence", "total"}
    nan, half = published[2], published[3]
    assert (nan.worker, nan.step) == (cache.worker, "check")
    assert "not finite" in nan.why
    assert "truncated" in half.why
    assert cache.get(MODEL).generation == 4
    assert cache.get(MODEL).version == published[4].version


def test_clients_find_the_held_out_digits(fleet: Fleet, tmp_path: Path, pipe: tuple[int, int]) -> None:
    os.close(pipe[1])  # the director goes before it has said when to begin
    run(Trainer(fleet, tmp_path, lambda news: None), pipe[0], lambda: None)
    found = json.loads((tmp_path / HELD_OUT_FILE).read_bytes())
    assert len(found["pictures"]) == len(found["labels"]) == 359
    assert fleet.model(MODEL).generation == 1


def test_it_ends_when_the_director_has_gone(fleet: Fleet, tmp_path: Path, pipe: tuple[int, int]) -> None:
    """A director that was killed cannot end anybody; its pipe tells it."""
    os.write(pipe[1], encode(Trial(time.monotonic() + 3600, 3600.0, 2)))
    os.close(pipe[1])
    run(Trainer(fleet, tmp_path, lambda news: None), pipe[0], lambda: None)
    assert fleet.model(MODEL).generation == 1
