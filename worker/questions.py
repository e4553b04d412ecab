"""What requests ask that may not answer from memory, until each has its answer. Pure; the agent owns it.

One ask is sent for all questions that had come before it, so its reply is true of a moment after each of them began. All models of
one question are judged by one reply: one instant of the fleet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..coordinator.reply import State
from .orders import Answered
from .slot import Key, Slot


class Questions:
    """The questions of one worker: token → models. `answer` is called with every answer, once per question."""

    def __init__(self, slots: Mapping[str, Slot], answer: Callable[[Answered], None], *, stale_allowed: bool) -> None:
        self._slots, self._say, self._stale_allowed = slots, answer, stale_allowed
        self._models: dict[int, tuple[str, ...]] = {}
        self._unasked: dict[int, None] = {}  # those that the next ask is for, in the order of their coming

    def __contains__(self, token: int) -> bool:
        return token in self._models

    def add(self, token: int, models: tuple[str, ...]) -> None:
        """A request asks."""
        self._models[token] = models
        self._unasked[token] = None

    def given_up(self, token: int) -> None:
        """The request waits no longer."""
        self._models.pop(token, None)
        self._unasked.pop(token, None)

    @property
    def to_ask(self) -> set[str]:
        """The models that the next ask has to name."""
        return {model for token in self._unasked for model in self._models[token]}

    def take_asked(self) -> tuple[int, ...]:
        """The questions that the ask about to be sent will answer."""
        tokens = tuple(self._unasked)
        self._unasked.clear()
        return tokens

    def again(self, tokens: Iterable[int]) -> None:
        """Their ask got no answer, or a load has ended since: they are asked once more."""
        self._unasked.update(dict.fromkeys(token for token in tokens if token in self._models))

    def of(self, model: str) -> list[int]:
        """The questions that name the model."""
        return [token for token, models in self._models.items() if model in models]

    @property
    def all(self) -> list[int]:
        """All that wait."""
        return list(self._models)

    def refuse(self, token: int, why: str) -> None:
        """There is no answer."""
        self._answer(Answered(token, model=self._models[token][0], why=why))

    def _answer(self, answer: Answered) -> None:
        self.given_up(answer.token)
        self._say(answer)

    def judge_stale(self, token: int, why: str, *, gone: bool) -> None:
        """Redis is gone or the fleet is closed: from what is shown, marked; an error where that is not wanted; or it waits for a load."""
        models = self._models[token]
        if not self._stale_allowed:
            return self.refuse(token, why)
        slots = {model: self._slots.get(model) for model in models}
        shown = {m: (slot.shown, slot.handles[slot.shown], True) for m, slot in slots.items() if slot and slot.shown}
        if len(shown) == len(slots):
            return self._answer(Answered(token, shown))
        for model, slot in slots.items():
            # Who asks before the last good generation was looked for waits for that.
            hopeless = slot is None or (slot.shown is None and slot.job is None and slot.fallback_tried)
            if gone and hopeless:
                why = f"{why}, and this worker holds no generation of it"
                return self._answer(Answered(token, model=model, why=why))
        return None

    def judge(self, token: int, states: Mapping[str, State]) -> None:
        """The reply to an ask that was sent after the question: what it shows active is the answer, if it is loaded; or it waits."""
        if token not in self._models:
            return None
        found: dict[str, tuple[Key, int, bool]] = {}
        for model in self._models[token]:
            slot, state = self._slots.get(model), states.get(model)
            if slot is None or state is None:
                return self._answer(Answered(token, model=model, why="it was dropped while a request waited for it"))
            if state.rev < slot.applied:
                return self.again([token])  # something newer is known here already
            one = self._one(slot, state)
            if one is None:
                return None
            if isinstance(one, str):
                unknown = state.active is None and state.cand is None and not slot.behind
                why = unpublished(model) if unknown else one
                return self._answer(Answered(token, model=model, why=why, unknown=unknown))
            found[model] = one
        return self._answer(Answered(token, found))

    def _one(self, slot: Slot, state: State) -> tuple[Key, int, bool] | str | None:
        """One model: what to answer from, why there is nothing, or None: it is being loaded."""
        if state.active is None and not slot.behind:
            return "nothing is active yet"
        key = (state.active.gen, state.active.version) if state.active else (0, "")
        if key in slot.handles and not slot.behind:
            return key, slot.handles[key], False
        if not (slot.behind or slot.has_failed):
            return None
        if self._stale_allowed and slot.shown is not None:
            return slot.shown, slot.handles[slot.shown], True
        return _why_not(slot)


def unpublished(model: str) -> str:
    """Why there is nothing to answer from, of a model without any generation."""
    return f"nothing is published yet: `genlock publish {model} PATH`"


def _why_not(slot: Slot) -> str:
    if slot.behind or slot.told is None:
        return "the fleet shows an older generation than this worker was told of, and is being mended"
    detail = slot.detail_of(slot.told.key)
    return f"generation {slot.told.key[0]} could not be loaded here at {detail.get('step')}: {detail.get('why')}"
