"""The requests that may not answer from memory, and wait for the runtime. What they are answered is decided by the agent: see questions."""

from __future__ import annotations

import threading
from itertools import count

from .orders import Answered
from .shelf import Shelf
from .view import View

#: Of all questions of this process: each has one of its own.
_tokens = count(1)


class Question:
    """A request that waits. Its own thread makes it and reads it when `event` is set; the runtime's answers it."""

    __slots__ = ("error", "event", "models", "token", "views")

    def __init__(self, models: tuple[str, ...]) -> None:
        self.models = models
        self.token = next(_tokens)
        self.event = threading.Event()
        self.views: tuple[View, ...] | None = None
        self.error: Answered | None = None

    def refuse(self, why: str) -> None:
        """There is no answer, of its first model."""
        self.error = Answered(self.token, model=self.models[0], why=why)
        self.event.set()


class Asking:
    """Those that wait now. Only the runtime's thread touches it."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._waiting: dict[int, Question] = {}  # by token

    def add(self, question: Question) -> None:
        """It waits from now on."""
        self._waiting[question.token] = question

    def forget(self, question: Question) -> None:
        """It waits no longer, if it did."""
        self._waiting.pop(question.token, None)

    def of(self, model: str) -> list[int]:
        """The tokens of those that name the model."""
        return [token for token, question in self._waiting.items() if model in question.models]

    def answer(self, answer: Answered) -> None:
        """What the agent has found; nothing where nobody waits for it any more."""
        question = self._waiting.pop(answer.token, None)
        if question is None:
            return
        if answer.found:
            question.views = tuple(self._shelf.answer(model, *answer.found[model]) for model in question.models)
        else:
            question.error = answer
        question.event.set()
