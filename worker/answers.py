"""What this worker owes the fleet an answer for, slot by slot, and what it asks to be able to give one. Pure; the agent owns it.

Nothing is ticked off: what is owed follows from the state, and is said again until a state shows that it was heard (R10).
"""

from __future__ import annotations

from collections.abc import Iterable

from ..coordinator.calls import ManifestOf, Say
from .slot import Slot


class Answers:
    """Times are seconds on the worker's clock."""

    def __init__(self) -> None:
        self._last: tuple[Say, float] | None = None  # what was said last, and when

    def fence(self, slots: Iterable[Slot], member: str, now: float, lease_s: float) -> Say | None:
        """What is asked to fence: the whole fleet waits for it."""
        for slot in slots:
            if slot.state is not None and slot.state.is_fencing and (say := self._say(slot, member, now, lease_s)):
                return say
        return None

    def due(self, slots: Iterable[Slot], member: str, now: float, lease_s: float) -> Say | ManifestOf | None:
        """What is owed, or asked so that it can be loaded."""
        for slot in slots:
            if say := self._say(slot, member, now, lease_s):
                return say
            wanted = slot.wanted(now) if slot.job is None else None
            if wanted is None or wanted[0] in slot.manifests:
                continue
            if slot.examining is None or slot.examining.gen != wanted[0][0]:
                return ManifestOf(slot.model, wanted[0][0])
        return None

    def _say(self, slot: Slot, member: str, now: float, lease_s: float) -> Say | None:
        """The same again only after a while, when the reply did not show it."""
        say = slot.owes(member)
        if say is None or (self._last and say == self._last[0] and now < self._again_at(self._last[1], lease_s)):
            return None
        self._last = (say, now)
        return say

    def wake_at(self, now: float, lease_s: float) -> list[float]:
        """When, after now, the same may be said again."""
        at = self._again_at(self._last[1], lease_s) if self._last is not None else now
        return [at] if at > now else []

    @staticmethod
    def _again_at(said_at: float, lease_s: float) -> float:
        return said_at + lease_s / 10
