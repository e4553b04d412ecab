"""Which saves are published, and what is told about them: every N-th, or those in which a metric improves. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import BadInput
from ..manifest import MAX_METRICS

#: Characters of a metric's name, and of a message (manifest.py: MetricName, Text).
MAX_NAME, MAX_MESSAGE = 128, 4096


@dataclass(frozen=True, kw_only=True)
class Save:
    """What training tells about one save, in finite numbers. `logged`: names that were logged, whatever stood there; `metrics`: those of
    them that are numbers, and epoch and step."""

    epoch: float | None = None
    step: float | None = None
    logged: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, logged: Mapping[str, Any] | None, *, epoch: Any = None, step: Any = None, first: str | None = None
    ) -> Save:
        """`logged`: name → number, or a tensor with one; `first`: the metric that has a place even if there are too many.

        `epoch` and `step` may be tensors or text, too; what is no number is left out. Raises BadInput where `logged` is no mapping.
        """
        if logged is not None and not isinstance(logged, Mapping):
            raise BadInput("metrics", f"a dict of numbers by name belongs here, not {type(logged).__name__}")
        given = {str(name): value for name, value in (logged or {}).items()}
        where = {"epoch": _finite(epoch), "step": _finite(step)}
        ordered = {name: given.get(name) for name in ([first] if first else [])} | where | given
        numbers = ((name, _number(value)) for name, value in ordered.items() if 1 <= len(name) <= MAX_NAME)
        found = [(name, number) for name, number in numbers if number is not None]
        return cls(**where, logged=tuple(given), metrics=dict(found[:MAX_METRICS]))

    def message(self, text: str, monitor: str | None) -> str:
        """For people: "run 41: epoch 3, step 120, val_loss 0.1234"."""
        where = (("epoch", self.epoch), ("step", self.step))
        said = [f"{name} {round(value, 2):.12g}" for name, value in where if value is not None]
        if monitor is not None and monitor in self.metrics:
            said.append(f"{monitor} {self.metrics[monitor]:.4g}")
        return ": ".join(part for part in (text, ", ".join(said)) if part)[:MAX_MESSAGE]


def _number(value: Any) -> float | None:
    """`value` as a finite number, if it is one; a tensor with one element is, text is not."""
    return None if isinstance(value, str | bytes) else _finite(value)


def _finite(value: Any) -> float | None:
    """The finite number that `value` is, or says."""
    if value is None:
        return None
    try:
        number = float(value.detach() if hasattr(value, "detach") else value)  # a loss with its history would warn
    except Exception:  # somebody else's __float__: a tensor with several elements raises RuntimeError
        return None
    return number if math.isfinite(number) else None


class Selection:
    """Of every N-th save, the first included, all; or with `monitor` those that are better than what is published or on its way there.

    A save without the metric, or with NaN in its place, is better than nothing else; one without it is none of the N. What could not be
    published does not count as something to be better than.
    """

    def __init__(self, *, every: int = 1, monitor: str | None = None, mode: str = "min") -> None:
        """Raises BadInput."""
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise BadInput("every", f"it is a number of saves, 1 or more, not {every!r}")
        if mode not in ("min", "max"):
            raise BadInput("mode", f"say 'min' or 'max', not {mode!r}")
        self.every, self.monitor, self.mode = every, monitor, mode
        self.best: float | None = None  #: of what is published
        self._saves = 0
        self._on_the_way: list[float] = []

    def takes(self, save: Save) -> bool:
        """Whether this save is to be published; `ended` has to be told what came of it."""
        if self.monitor is not None and self.monitor not in save.logged:
            return False
        self._saves += 1
        if (self._saves - 1) % self.every:
            return False
        if self.monitor is None:
            return True
        score = save.metrics.get(self.monitor)
        if score is None or not self._improves(score):
            return False
        self._on_the_way.append(score)
        return True

    @property
    def is_new(self) -> bool:
        """Whether a metric decides, and nothing is known of what is published: `learn` may tell it."""
        return self.monitor is not None and self.best is None

    def learn(self, metrics: Mapping[str, float]) -> None:
        """The metrics of what somebody else has published: an earlier run, or this one before it was resumed."""
        score = None if self.monitor is None else metrics.get(self.monitor)
        if score is not None:
            self.best = self._better([score, *self._known()])

    def holds(self, save: Save) -> bool:
        """Whether a save that was taken is still better than what is known to be published by now."""
        if self.monitor is None or self.best is None:
            return True
        score = save.metrics[self.monitor]
        return score != self.best and self._better([score, self.best]) == score

    def ended(self, save: Save, *, is_published: bool) -> None:
        """What came of a save that was taken."""
        if self.monitor is None:
            return
        score = save.metrics[self.monitor]
        self._on_the_way.remove(score)
        if is_published:
            self.best = self._better([score, *self._known()])

    def _improves(self, score: float) -> bool:
        known = [*self._known(), *self._on_the_way]
        return not known or (self._better([score, *known]) == score and score not in known)

    def _known(self) -> list[float]:
        return [] if self.best is None else [self.best]

    def _better(self, scores: Iterable[float]) -> float:
        return min(scores) if self.mode == "min" else max(scores)
