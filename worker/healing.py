"""What this process was told is active, and gives back to a fleet that has lost it (R7). Pure; the agent owns it."""

from __future__ import annotations

from collections.abc import Mapping

from ..coordinator.calls import Heal, Reopen
from .slot import Slot, Told


class Healing:
    """The highest record of each model."""

    def __init__(self) -> None:
        self.told: dict[str, Told] = {}  #: also of models that are not held any more: never back
        self._healed: set[str] = set()  # models that were given back in this epoch

    def new_epoch(self) -> None:
        """Nothing was given back to it."""
        self._healed = set()

    def remember(self, slot: Slot) -> None:
        """What a slot was told."""
        if slot.told is not None:
            self.told[slot.model] = slot.told

    def healed(self, model: str) -> None:
        """Redis has it back."""
        self._healed.add(model)

    def due(self, slots: Mapping[str, Slot], *, is_open: bool, is_read: bool) -> Heal | Reopen | None:
        """Gives back what was told active: while closed (heal), or when an open fleet is behind (reopen). `is_read`: all hints are."""
        for model, told in self.told.items():
            slot = slots.get(model)
            facts = (model, *told.key, told.committed, told.heard, told.manifest or "")
            more = (told.poison, told.pin, told.poisoned, told.rollback)
            if not is_open and model not in self._healed and told.manifest is not None:
                return Heal(*facts, *more)
            if is_open and slot is not None and slot.behind and not slot.is_forgotten and is_read:
                return Reopen(*facts, *more)
        return None
