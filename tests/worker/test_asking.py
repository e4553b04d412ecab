"""worker/asking.py: who waits for the runtime, and what each is given."""

from __future__ import annotations

from typing import Any

from genlock.worker.asking import Asking, Question
from genlock.worker.orders import Answered


class Shelf:
    """Of the runtime's: what it was asked for."""

    def answer(self, *what: Any) -> Any:
        return what


def asked(*models: str) -> tuple[Asking, Question]:
    asking, question = Asking(Shelf()), Question(models)  # type: ignore[arg-type]
    asking.add(question)
    return asking, question


def test_who_asks_is_given_all_that_it_named_in_its_order() -> None:
    asking, question = asked("a", "b")
    assert asking.of("b") == [question.token] and asking.of("c") == []
    asking.answer(Answered(question.token, {"b": ((2, "v"), 7, False), "a": ((1, "v"), 6, True)}))
    assert question.views == (("a", (1, "v"), 6, True), ("b", (2, "v"), 7, False))
    assert question.error is None and question.event.is_set() and asking.of("a") == []


def test_who_cannot_be_answered_hears_why() -> None:
    asking, question = asked("a")
    asking.answer(Answered(question.token, model="a", why="it is away"))
    assert question.error is not None and question.error.why == "it is away" and question.views is None
    assert question.event.is_set()


def test_an_answer_that_comes_too_late_is_nobodys() -> None:
    asking, question = asked("a")
    other = Question(("a",))
    assert other.token != question.token
    asking.forget(question)
    asking.forget(question)
    asking.answer(Answered(question.token, model="a", why="it is away"))
    assert not question.event.is_set() and asking.of("a") == []
