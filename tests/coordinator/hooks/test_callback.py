"""Lightning's callback, with a trainer and a strategy played by hand; the real ones are in tests/flow/test_training.py."""

import sys
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from genlock.coordinator import Fleet
from genlock.coordinator.hooks import PublishCallback
from genlock.coordinator.hooks.callback import StepLog, watch
from torch import nn


class Writer:
    """Writes, or does not."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if self.error:
            raise self.error


class AsyncCheckpointIO:
    """Keeps what it has to write until a test says so, as a thread would do it later."""

    def __init__(self, checkpoint_io: Writer) -> None:
        self.checkpoint_io = checkpoint_io
        self.queue: list[Any] = []

    def save_checkpoint(self, *arguments: Any, **more: Any) -> None:
        self.queue.append(lambda: self.checkpoint_io.save_checkpoint(*arguments, **more))


class Strategy:
    def __init__(self, checkpoint_io: Any, is_global_zero: bool = True) -> None:
        self.checkpoint_io, self.is_global_zero = checkpoint_io, is_global_zero

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        weights = checkpoint.pop("state_dict")  # as FSDP's does
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint({"state_dict": weights}, filepath, storage_options=storage_options)


class Heard:
    def __init__(self) -> None:
        self.saves: list[tuple[Any, str, Future[None]]] = []

    def __call__(self, weights: Any, name: str, written: "Future[None]") -> None:
        self.saves.append((weights, name, written))


def test_a_save_is_heard_of_when_it_is_written_and_by_everybody() -> None:
    strategy, one, two = Strategy(Writer()), Heard(), Heard()
    leave_one, leave_two = watch(strategy, one), watch(strategy, two)
    strategy.save_checkpoint({"state_dict": {"w": 1}}, "folder/a.ckpt")
    assert [(weights, name, written.done()) for weights, name, written in one.saves] == [({"w": 1}, "a.ckpt", True)]
    leave_one()
    strategy.save_checkpoint({"state_dict": {}}, Path("b.ckpt"))
    assert (len(one.saves), len(two.saves)) == (1, 2)
    leave_two()
    assert "save_checkpoint" not in vars(strategy), "the strategy is as it was"


def test_what_another_thread_writes_is_written_later() -> None:
    """AsyncCheckpointIO returns at once: to publish then would name a checkpoint that a full disk may still refuse."""
    writer = Writer()
    later = AsyncCheckpointIO(writer)
    strategy, heard = Strategy(later), Heard()
    leave = watch(strategy, heard)
    for name in ("a", "b"):
        strategy.save_checkpoint({"state_dict": {}}, name)
    (_, _, first), (_, _, second) = heard.saves
    assert not first.done()
    later.queue[0]()
    assert first.done() and not second.done()
    writer.error = OSError(28, "No space left on device")
    with pytest.raises(OSError):
        later.queue[1]()
    assert second.exception() is writer.error
    leave()
    assert "save_checkpoint" not in vars(writer)


def test_a_process_that_writes_nothing_waits_for_nothing() -> None:
    strategy, heard = Strategy(AsyncCheckpointIO(Writer()), is_global_zero=False), Heard()
    watch(strategy, heard)
    strategy.save_checkpoint({"state_dict": {}}, "a")
    assert heard.saves[0][2].done()


def test_a_save_that_fails_is_the_trainers_own_error() -> None:
    writer = Writer()
    writer.error = OSError(28, "No space left on device")
    strategy, heard = Strategy(writer), Heard()
    watch(strategy, heard)
    with pytest.raises(OSError):
        strategy.save_checkpoint({"state_dict": {}}, "a")
    assert heard.saves == []


def test_who_stands_in_front_stays_there() -> None:
    strategy, heard = Strategy(Writer()), Heard()
    leave = watch(strategy, heard)
    ours = strategy.save_checkpoint
    strategy.save_checkpoint = lambda *arguments: ours(*arguments)  # type: ignore[method-assign]
    theirs = strategy.save_checkpoint
    leave()
    assert strategy.save_checkpoint is theirs
    strategy.save_checkpoint({"state_dict": {}}, "a")
    assert heard.saves == []


# --- the callback ----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's class of callbacks, without Lightning, which takes seconds to be imported."""
    module = ModuleType("lightning.pytorch.callbacks")
    module.Callback = type("Callback", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightning.pytorch.callbacks", module)
    monkeypatch.delitem(sys.modules, "pytorch_lightning.callbacks", raising=False)


class Lit(nn.Module):
    """What Lightning trains: the net that is served is a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.loss = nn.Linear(4, 2), nn.Linear(2, 1)


class Trainer(SimpleNamespace):
    """As much of Lightning's as a callback sees."""

    def __init__(self, callback: Any, net: nn.Module, **facts: Any) -> None:
        usual = {
            "is_global_zero": True,
            "global_step": 10,
            "current_epoch": 1,
            "callback_metrics": {"loss": torch.tensor(0.5)},
        }
        super().__init__(strategy=Strategy(Writer()), **usual | facts)
        self._callback, self._net = callback, net

    def begin(self) -> None:
        self._callback.setup(self, self._net, "fit")
        self._callback.on_fit_start(self, self._net)

    def save(self, path: str = "a.ckpt", *, steps: int = 0) -> None:
        self.global_step += steps
        self.strategy.save_checkpoint({"state_dict": self._net.state_dict()}, path)

    def validate(self, **logged: float) -> None:
        self.callback_metrics |= {name: torch.tensor(value) for name, value in logged.items()}
        self._callback.on_validation_end(self, self._net)
        # as somebody reads them again: another tensor with the same memory
        self.callback_metrics = {name: value.detach() for name, value in self.callback_metrics.items()}

    def end(self) -> None:
        self._callback.on_fit_end(self, self._net)


def counted(callback: Any) -> tuple[int, int, int]:
    return callback.publishing.published, callback.publishing.skipped, callback.publishing.failed


def test_the_part_that_is_served_is_published_once_for_each_step(fleet: Fleet) -> None:
    """`save_last=True` writes the same weights again under another name; a tuner saves hidden files to go back to."""
    callback = PublishCallback("digits", fleet, part="net", golden=torch.ones(1, 4))
    trainer = Trainer(callback, Lit())
    trainer.begin()
    trainer.save()
    trainer.save("last.ckpt")
    trainer.save(".lr_find_1.ckpt", steps=10)
    trainer.end()
    assert counted(callback) == (1, 0, 0)
    (found,) = fleet.history("digits")
    assert (found.message, found.metrics) == ("epoch 1, step 10", {"epoch": 1.0, "step": 10.0, "loss": 0.5})
    assert callback.publishing.last.size < 200, "the two tensors of the part, and no others"


def test_only_the_first_process_and_only_fit(fleet: Fleet) -> None:
    callback = PublishCallback("digits", fleet)
    callback.setup(Trainer(callback, Lit()), Lit(), "validate")
    other = Trainer(callback, Lit(), is_global_zero=False)
    other.begin()
    other.save()
    other.end()
    assert counted(callback) == (0, 0, 0)


def test_a_part_that_is_not_there_is_heard_of_before_training_begins(fleet: Fleet) -> None:
    with pytest.raises(AttributeError, match="encoder"):
        Trainer(PublishCallback("digits", fleet, part="encoder"), Lit()).begin()


def test_metrics_are_those_of_the_weights_that_are_saved(fleet: Fleet) -> None:
    """One ModelCheckpoint saves every 10 steps, another one after the validation: the first save of a step came with the loss of the epoch
    before, and the second one, with the right loss, was taken for the same save. So epoch 1's weights were published as epoch 0's."""
    callback = PublishCallback("digits", fleet, monitor="val_loss", strict=True)
    trainer = Trainer(callback, Lit())
    trainer.begin()
    for loss in (0.9, 0.5, 0.5, 0.2):
        trainer.save("every.ckpt", steps=10)
        trainer.validate(val_loss=loss)
        trainer.save("best.ckpt")
        trainer.save("last.ckpt")
    trainer.callback_metrics = {name: value.clone() for name, value in trainer.callback_metrics.items()}
    trainer.end()
    found = [(one.metrics["step"], round(one.metrics["val_loss"], 3)) for one in reversed(fleet.history("digits"))]
    assert found == [(20, 0.9), (30, 0.5), (50, 0.2)]


def test_what_an_epoch_has_logged_is_not_of_the_next_one(fleet: Fleet) -> None:
    """`self.log("acc", on_epoch=True)` in a training step: a save in the middle of an epoch has no such number yet."""
    callback = PublishCallback("digits", fleet, strict=True)
    trainer = Trainer(callback, Lit())
    trainer.begin()
    trainer.callback_metrics["acc"] = torch.tensor(0.5)
    callback.on_train_epoch_start(trainer, Lit())
    trainer.callback_metrics["loss"] = torch.tensor(0.25)
    trainer.save(steps=10)
    (found,) = fleet.history("digits")
    assert found.metrics == {"epoch": 1.0, "step": 20.0, "loss": 0.25}


def test_numbers_that_move_to_another_device_are_not_logged_anew() -> None:
    """When a fit ends Lightning brings all of them to the CPU: a loss of step 10 must not become one of step 20 by that."""
    log, one = StepLog(), torch.tensor(0.5, device="meta")
    assert log.at(10, {"loss": one}) == {"loss": one}
    assert log.at(20, {"loss": torch.tensor(0.5)}) == {}


def test_metrics_are_read_in_every_process(fleet: Fleet) -> None:
    """To read them is a collective operation where something is logged with sync_dist: the first process alone would wait for ever."""

    class Reading(Trainer):
        reads = 0

        @property
        def callback_metrics(self) -> dict[str, Any]:
            type(self).reads += 1
            return {}

    callback = PublishCallback("digits", fleet)
    usual = {"is_global_zero": False, "global_step": 10, "current_epoch": 1}
    trainer = Reading.__new__(Reading)
    trainer.__dict__.update(usual, strategy=Strategy(Writer(), is_global_zero=False), _callback=callback, _net=Lit())
    trainer.begin()
    trainer.save()
    trainer.save("last.ckpt")
    assert Reading.reads == 2


def test_a_checkpoint_that_is_saved_after_the_fit_is_published(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """`trainer.fit(…); trainer.save_checkpoint("final.ckpt")` published nothing, without a word."""
    callback = PublishCallback("digits", fleet)
    trainer = Trainer(callback, Lit())
    trainer.begin()
    trainer.end()
    assert "saved no checkpoint" in caplog.text
    trainer.save("final.ckpt")
    trainer.save("again.ckpt")
    assert callback.publishing.wait(20)
    assert counted(callback) == (1, 0, 0)
    caplog.clear()
    trainer.begin()
    trainer.save(steps=10)
    trainer.end()
    assert "saved no checkpoint" not in caplog.text
    callback.setup(trainer, Lit(), "test")
    trainer.save(steps=10)
    assert "save_checkpoint" not in vars(trainer.strategy), (
        "the strategy is as it was when the trainer does something else"
    )
    assert counted(callback) == (2, 0, 0)


def test_a_fit_after_one_that_was_broken_off(fleet: Fleet) -> None:
    """An exception ends a fit without `on_fit_end`; the next one of the same trainer must not publish each save twice."""
    callback = PublishCallback("digits", fleet)
    trainer = Trainer(callback, Lit())
    trainer.begin()
    trainer.begin()
    trainer.save()
    trainer.end()
    assert counted(callback) == (1, 0, 0)


def test_a_strategy_whose_checkpoint_has_no_weights_of_it(fleet: Fleet) -> None:
    """DeepSpeed writes its own files: said, counted, and training goes on."""
    callback = PublishCallback("digits", fleet)
    trainer = Trainer(callback, nn.Module())
    trainer.begin()
    trainer.save()
    trainer.end()
    assert counted(callback) == (0, 0, 1)
    assert "nothing to publish" in str(callback.publishing.last_error)
