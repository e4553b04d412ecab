"""Hugging Face's callback, with a Trainer played by hand; the real one is in tests/flow/test_training.py."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from genlock.coordinator import Fleet
from genlock.coordinator.hooks import PublishTrainerCallback
from torch import nn


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its class of callbacks, without the library, which takes seconds to be imported."""
    module = ModuleType("transformers")
    module.TrainerCallback = type("TrainerCallback", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", module)


def test_metrics_are_those_of_the_step_that_is_saved(fleet: Fleet) -> None:
    """An evaluation of an earlier step says nothing about these weights: without one of its own the save is not published."""
    callback = PublishTrainerCallback("digits", fleet, monitor="eval_loss")
    net = nn.Linear(2, 2)
    log = [{"loss": 3.0, "step": 5, "epoch": 0.5}, {"eval_loss": 1.0, "step": 10, "epoch": 1.0}]
    for step, epoch in ((10, 1.0), (15, 1.5)):
        callback.on_save(None, SimpleNamespace(log_history=log, global_step=step, epoch=epoch), None, model=net)
    callback.on_train_end(None, None, None)
    publishing = callback.publishing
    assert (publishing.published, publishing.skipped, publishing.failed) == (1, 1, 0)
    (found,) = fleet.history("digits")
    assert found.message == "epoch 1, step 10, eval_loss 1"
    assert found.metrics == {"eval_loss": 1.0, "epoch": 1.0, "step": 10.0}
