"""What is wrong in this worker now, and why a model cannot be answered from. Pure: moments are handed in."""

from __future__ import annotations

from ..coordinator.errors import DoesNotFit
from .questions import unpublished
from .slot import Slot
from .view import View

#: What an error is of that is not of a model: no model has this name.
REDIS = ""


class Faults:
    """What was met and was not mended since. Only the runtime's thread changes it; any thread may read."""

    def __init__(self) -> None:
        self.misfits: dict[str, DoesNotFit] = {}  #: models that were refused for their size
        # By model or REDIS, the last one at the end; replaced as a whole, because other threads read it.
        self._errors: dict[str, str] = {}

    def met(self, subject: str, error: str) -> None:
        """This is wrong from now on, with a model or with Redis."""
        others = {other: told for other, told in self._errors.items() if other != subject}
        # At the end, and at once: nobody may read in between that nothing is wrong.
        self._errors = others | {subject: error}

    def mended(self, subject: str) -> bool:
        """Nothing is wrong with it any more; whether anything was."""
        was = subject in self._errors
        if was:
            self._errors = {other: error for other, error in self._errors.items() if other != subject}
        return was

    @property
    def last(self) -> str:
        """What was met last; or nothing."""
        return next(reversed(self._errors.values()), "")

    def of(self, *models: str) -> str:
        """What is wrong with one of these, or else with Redis; or nothing."""
        errors = self._errors
        return next((errors[subject] for subject in (*models, REDIS) if subject in errors), "")


def why_not(
    model: str, view: View | None, slot: Slot | None, faults: Faults, *, gone: bool, stale_wanted: bool, now: float
) -> str | None:
    """Why the model cannot be answered from now; None if it can, if only from a last good generation that is marked stale.

    `view`: what is shown of it; `slot`: None where it is not held; `gone`: Redis is; `stale_wanted`: there are answers without it.
    """
    if slot is not None and slot.has_failed and slot.told is not None:
        detail = slot.detail_of(slot.told.key)
        return f"generation {slot.told.key[0]} could not be loaded at {detail.get('step')}: {detail.get('why')}"
    if view is None or slot is None:
        return _why_nothing(model, slot, faults, gone=gone)
    if view.stale or (gone and now < view.lease.deadline):
        return None
    if gone:
        return None if stale_wanted else f"Redis is gone, and stale answers are not wanted: {faults.of()}"
    if slot.told is not None and slot.shown != slot.told.key:
        return f"generation {slot.told.key[0]} is active and not loaded yet"
    return None


def _why_nothing(model: str, slot: Slot | None, faults: Faults, *, gone: bool) -> str:
    if misfit := faults.misfits.get(model):
        return str(misfit)
    state = slot.state if slot is not None and not slot.behind else None
    if state is not None and state.active is None and state.cand is None and not gone:
        return unpublished(model)
    return f"nothing is loaded yet; last error: {faults.of(model) or 'none'}"
