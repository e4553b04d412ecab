"""PublishCallback: the one line for Lightning.

A Lightning checkpoint is written by the strategy, whoever asks for it (ModelCheckpoint of either kind, Trainer.save_checkpoint). The hooks
for callbacks come too early: `on_save_checkpoint` before anything is written, `on_validation_end` and the like before ModelCheckpoint's,
which Lightning puts last. So the strategy's `save_checkpoint` is watched: when it has returned, the file is written and closed, or with
AsyncCheckpointIO is in its thread's queue; then the method that really writes is watched, too.

What is published is the state dict of that checkpoint, without optimizer, loops and hyperparameters: smaller, and without code in a pickle.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ..fleet import Fleet
from .adopted import Adopted
from .publishing import Publishing

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger("genlock.hooks")

#: Weights of a checkpoint, the name of its file, and what is done when that is written.
Saved = Callable[[Mapping[str, Any], str, "Future[None]"], None]


class PublishCallback(Adopted):
    """`Trainer(callbacks=[PublishCallback("digits", monitor="val_loss")])` publishes the weights of the checkpoints that are saved.

    `part`: the name of the submodule that is served, such as "net" or "model.encoder" (default: the whole LightningModule); `options`:
    those of Publishing. Several saves of one step are one; metrics that were logged for the weights of an earlier step do not count.
    What is saved when the fit has ended, by Trainer.save_checkpoint, is published too.
    """

    homes = ("lightning.pytorch.callbacks", "pytorch_lightning.callbacks")
    parent = "Callback"

    def __init__(self, model: str, fleet: Fleet | None = None, *, part: str = "", **options: Any) -> None:
        super().__init__()
        self.publishing = Publishing(model, fleet, **options)  #: counters, `last` and `last_error`
        self._part = part
        self._step: int | None = None  # of the last save
        self._has_saved = False  # in this fit
        self._logged = StepLog()
        self._leave: Callable[[], None] | None = None  # ends the watching

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Begins to watch; that ends with what the trainer does next, since saves come also after the fit."""
        self._end()
        if stage == "fit":
            self._step, self._has_saved, self._logged = None, False, StepLog()
            self._leave = watch(trainer.strategy, partial(self._saved, trainer, pl_module))

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """AttributeError now, not at the first save, if there is no such part."""
        pl_module.get_submodule(self._part)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """What was logged so far belongs to the step before."""
        self._metrics_of(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """What was logged so far belongs to this step, and not to a later one at which a checkpoint may be saved."""
        self._metrics_of(trainer)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Everything is written: waits for what is being published."""
        if trainer.is_global_zero and not self._has_saved:
            _log.warning(
                "model %r: this fit has saved no checkpoint, so nothing of it is published until trainer.save_checkpoint() is called",
                self.publishing.model,
            )
        self.publishing.wait()

    def _end(self) -> None:
        if self._leave is not None:
            self._leave()
            self._leave = None

    def _saved(self, trainer: Any, module: Any, weights: Mapping[str, Any], name: str, written: Future[None]) -> None:
        metrics = self._metrics_of(trainer)
        if not trainer.is_global_zero or name.startswith(".") or trainer.global_step == self._step:
            return  # a tuner's hidden file; save_last beside the best one
        self._has_saved = True
        if self.publishing.monitor is None or self.publishing.monitor in metrics:
            self._step = trainer.global_step  # else a validation may follow, and a save that can be judged
        self.publishing.after_save(
            _weights_of(weights, self._part),
            metrics,
            module=module.get_submodule(self._part),
            epoch=trainer.current_epoch,
            step=trainer.global_step,
            written=written,
        )

    def _metrics_of(self, trainer: Any) -> dict[str, Any]:
        """Those of this step. To be called in every process: reading them is where Lightning reduces what is logged with sync_dist."""
        return self._logged.at(trainer.global_step, trainer.callback_metrics)


class StepLog:
    """Which metrics belong to a step. Lightning keeps the newest value under each name, whatever step that is of; a value that is logged
    again has a memory of its own, also where it is the same number. At the end of the fit all are moved to the CPU, which is no logging.
    """

    def __init__(self) -> None:
        # the step, and the value, which keeps its memory from being given to another one
        self._seen: dict[str, tuple[int, Tensor]] = {}

    def at(self, step: int, metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of `metrics` that were not there at an earlier step. To be asked also when something may have been logged."""
        for name, value in metrics.items():
            _, known = self._seen.get(name, (step, None))
            if known is None or (known.device == value.device and known.data_ptr() != value.data_ptr()):
                self._seen[name] = (step, value)
        return {name: value for name, value in metrics.items() if self._seen[name][0] == step}


def _weights_of(weights: Mapping[str, Any], part: str) -> dict[str, Any]:
    prefix = f"{part}." if part else ""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def watch(strategy: Any, saved: Saved) -> Callable[[], None]:
    """`saved` hears of each checkpoint that the strategy saves; what is returned ends that."""
    owner = getattr(strategy.__dict__.get("save_checkpoint"), "__self__", None)
    found = owner if isinstance(owner, SaveWatch) else SaveWatch(strategy)
    found.listeners.append(saved)
    return partial(found.leave, saved)


class SaveWatch:
    """Stands in front of a strategy's `save_checkpoint`, once for all who listen; the last who leaves takes it away."""

    def __init__(self, strategy: Any) -> None:
        self.listeners: list[Saved] = []
        self._strategy, self._save = strategy, strategy.save_checkpoint
        self._queued: deque[Future[None]] = deque()  # training's thread appends, the writer's thread takes
        strategy.save_checkpoint = self._saves
        self._writer = _behind_a_thread(strategy.checkpoint_io)
        if self._writer is not None:
            self._write = self._writer.save_checkpoint
            self._writer.save_checkpoint = self._writes

    def leave(self, listener: Saved) -> None:
        self.listeners.remove(listener)
        if self.listeners:
            return
        for owner, ours in ((self._strategy, self._saves), (self._writer, self._writes)):
            if owner is not None and owner.__dict__.get("save_checkpoint") == ours:
                del owner.save_checkpoint  # else another one stands in front of this, which then only passes on

    def _saves(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """In training's thread of every process."""
        weights = checkpoint.get("state_dict", {})  # a strategy may take it out
        written: Future[None] = Future()
        is_queued = self._writer is not None and self._strategy.is_global_zero
        if is_queued:
            self._queued.append(written)
        self._save(checkpoint, filepath, storage_options=storage_options)
        if not is_queued:
            written.set_result(None)
        for listener in self.listeners:
            listener(weights, PurePath(filepath).name, written)

    def _writes(self, *args: Any, **kwargs: Any) -> None:
        """In the thread that writes, one after the other."""
        written = self._queued.popleft()
        try:
            self._write(*args, **kwargs)
        except BaseException as error:
            written.set_exception(error)
            raise
        written.set_result(None)


def _behind_a_thread(checkpoint_io: Any) -> Any:
    """What really writes for an AsyncCheckpointIO; None where save_checkpoint returns when the file is written."""
    is_async = False
    while (inner := getattr(checkpoint_io, "checkpoint_io", None)) is not None:
        is_async = is_async or any(kind.__name__ == "AsyncCheckpointIO" for kind in type(checkpoint_io).__mro__)
        checkpoint_io = inner
    return checkpoint_io if is_async else None
