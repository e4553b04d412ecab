"""How long each phase of a flip took, as one worker saw it. Pure: moments are handed in."""

from __future__ import annotations


class Phases:
    """Seconds on the worker's clock. A candidate is known by its model and generation."""

    def __init__(self) -> None:
        self._began: dict[tuple[str, int], dict[str, float]] = {}

    def begins(self, model: str, generation: int, phase: str, now: float) -> None:
        """A candidate entered a phase (preparing, fencing); what is said again counts once."""
        self._began.setdefault((model, generation), {}).setdefault(phase, now)

    def forget(self, model: str, generation: int) -> None:
        """It did not become active."""
        self._began.pop((model, generation), None)

    def flipped(self, model: str, generation: int, now: float) -> dict[str, float]:
        """The seconds of its phases, those that it had: a cold load has none, a rollback to what is warm no preparing."""
        began = self._began.get((model, generation), {})
        self._began = {key: phases for key, phases in self._began.items() if key[0] != model}
        if "fencing" not in began:
            return {}
        seconds = {"fencing": now - began["fencing"]}
        if "preparing" in began:
            seconds["preparing"] = began["fencing"] - began["preparing"]
        return seconds
