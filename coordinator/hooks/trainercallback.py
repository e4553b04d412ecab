"""PublishTrainerCallback: the one line for Hugging Face's Trainer.

When `on_save` is called, the folder checkpoint-N is complete, and the model has still the weights that are in it. These are published as
the module names them, in one file: in the folder they may be in shards, and under names that only `from_pretrained` reads.
"""

from __future__ import annotations

from typing import Any

from ..fleet import Fleet
from .adopted import Adopted
from .publishing import Publishing

#: What the message says anyway, and how names of figures end that tell of the machine, not of the model.
WHERE, SPEED = ("epoch", "step"), ("_runtime", "_per_second")


class PublishTrainerCallback(Adopted):
    """`Trainer(callbacks=[PublishTrainerCallback("digits", monitor="eval_loss")])` publishes the weights after each save.

    `options`: those of Publishing. Metrics are what was logged at the step of the save.
    """

    homes = ("transformers",)
    parent = "TrainerCallback"

    def __init__(self, model: str, fleet: Fleet | None = None, **options: Any) -> None:
        super().__init__()
        self.publishing = Publishing(model, fleet, **options)  #: counters, `last` and `last_error`

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """In every process: a sharded model is gathered."""
        logged: dict[str, Any] = {}
        for entry in state.log_history:
            if entry.get("step") == state.global_step:
                logged |= entry
        metrics = {name: value for name, value in logged.items() if name not in WHERE and not name.endswith(SPEED)}
        self.publishing.after_save(model, metrics, epoch=state.epoch, step=state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Waits for what is being published."""
        self.publishing.wait()
