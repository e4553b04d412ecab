"""How much a worker holds: which models go when it is too much (the least recently used first), and what never fits. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..coordinator.errors import DoesNotFit


class Use(NamedTuple):
    """A held model: bytes of what is loaded of it, and when it was last used (seconds of the worker's clock)."""

    model: str
    bytes: int
    used_at: float


class Limits(NamedTuple):
    """`max_bytes`: None is no limit. `ttl_s`: an unused model is dropped after it."""

    max_bytes: int | None
    max_models: int
    ttl_s: float | None

    def room_for(self, model: str, size: int, held: Iterable[Use], *, first: bool) -> list[str]:
        """The models to be dropped before `size` bytes of `model` are loaded beside what is held.

        Raises DoesNotFit for a model that would not fit twice when it is first held, or beside its own generation before: nothing
        else that could be dropped would help.
        """
        if self.max_bytes is None:
            return []
        uses = list(held)
        own = sum(use.bytes for use in uses if use.model == model)
        needed = 2 * size if first else own + size
        if needed > self.max_bytes:
            twice = "twice, as a flip needs it," if first else f"beside the {own} bytes of its generation before,"
            raise DoesNotFit(
                model, f"{size} bytes {twice} are {needed}; {self.max_bytes} are allowed (GENLOCK_MAX_BYTES)"
            )
        return _oldest(uses, model, over=sum(use.bytes for use in uses) + size - self.max_bytes)

    def too_many(self, model: str, held: Iterable[Use]) -> list[str]:
        """The models to be dropped before one more is held."""
        uses = list(held)
        surplus = len(uses) + 1 - self.max_models
        return [use.model for use in sorted(uses, key=lambda use: use.used_at) if use.model != model][: max(0, surplus)]

    def expired(self, held: Iterable[Use], now: float) -> list[str]:
        """The models that nobody has used for the time to live."""
        if self.ttl_s is None:
            return []
        return [use.model for use in held if now - use.used_at > self.ttl_s]


def _oldest(uses: list[Use], spared: str, *, over: int) -> list[str]:
    """The least recently used models, but `spared`, until `over` bytes are dropped."""
    victims: list[str] = []
    dropped = 0
    for use in sorted(uses, key=lambda use: use.used_at):
        if dropped >= over:
            break
        if use.model != spared:
            victims.append(use.model)
            dropped += use.bytes
    return victims
