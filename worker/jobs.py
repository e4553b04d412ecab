"""Which loads begin, and which are given up, as the slots want it. Pure; the agent owns it."""

from __future__ import annotations

from collections.abc import Iterable

from .orders import Cancel, Load
from .slot import Job, Key, Slot


class Jobs:
    """Those of one worker: at most one of each slot at a time."""

    def __init__(self) -> None:
        self._last_id = 0

    def planned(self, slots: Iterable[Slot], now: float, *, gone: bool) -> list[Load | Cancel]:
        """Begins what is wanted most, and gives up what is not wanted any more. `gone`: without Redis, the last good one is looked for."""
        orders: list[Load | Cancel] = []
        for slot in slots:
            slot.begin_target()
            wanted = slot.wanted(now)
            if slot.job is not None and slot.job.purpose != "fallback" and (slot.job.key, slot.job.purpose) != wanted:
                orders.append(Cancel(slot.job))
                slot.job = None
            if slot.job is None and wanted is not None and wanted[0] in slot.manifests:
                orders.append(self._begin(slot, *wanted, slot.manifests[wanted[0]]))
            elif slot.job is None and gone and slot.shown is None and not slot.fallback_tried:
                slot.fallback_tried = True
                orders.append(self._begin(slot, (0, ""), "fallback", ""))
        return orders

    def _begin(self, slot: Slot, key: Key, purpose: str, manifest: str) -> Load:
        self._last_id += 1
        slot.job = Job(self._last_id, slot.model, key, purpose, manifest)
        return Load(slot.job)
