"""Who shows no sign of life, as the admin sees it. Pure: clocks are handed in.

A member that died stays on the list until somebody has to wait for it (R5): between flips nobody watches. People want to know before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..clock import patience_s
from ..records import Member


class Silence:
    """The beat that each member showed last, and since when. One thread uses it."""

    def __init__(self) -> None:
        self._beats: dict[str, tuple[int, float, float]] = {}  # member → beat, first seen at: our clock, unix s

    def saw(self, members: Iterable[Member], lease_s: float, *, now: float, as_of: float) -> Mapping[str, float]:
        """Member → since when it has been silent (unix s), of those whose beat is older than a watcher waits.

        `now`: seconds of our clock.
        """
        before = self._beats
        self._beats = {
            member.id: seen if (seen := before.get(member.id)) and seen[0] == member.beat else (member.beat, now, as_of)
            for member in members
        }
        patience = patience_s(lease_s)
        return {member: unix for member, (_, since, unix) in self._beats.items() if now - since > patience}

    def lost(self) -> None:
        """Redis did not answer: the members may have had none either, so their silence begins to count when it is back."""
        self._beats = {}
