"""coordinator/logs.py: one JSON object in a line, whatever was logged; and an app that has said where lines go keeps its say."""

from __future__ import annotations

import io
import json
import logging
import math
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from genlock.coordinator.logs import MAX_STACK, JsonFormatter, formatter_of, set_up


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], logging.Logger]]:
    """nobody(): from here on nobody has said where lines go; the logger of genlock. In the test itself: pytest's own handlers come last."""
    ours = logging.getLogger("genlock")
    level = ours.level

    def nobody() -> logging.Logger:
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        monkeypatch.setattr(ours, "handlers", [])
        return ours

    yield nobody
    ours.setLevel(level)


def line_of(message: str = "done", *words: Any, error: BaseException | None = None, **extra: Any) -> dict[str, Any]:
    info = (type(error), error, error.__traceback__) if error else None
    record = logging.getLogger("genlock.worker").makeRecord(
        "genlock.worker", logging.WARNING, "file.py", 7, message, words, info, extra=extra
    )
    text = JsonFormatter().format(record)
    assert "\n" not in text, "one line for each event: a collector splits them there"
    found = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert isinstance(found, dict)
    return found


def test_a_line_has_its_facts() -> None:
    line = line_of(
        "model %s: generation %d", "digits", 4, event="flipped", model="digits", generation=4, seconds={"fencing": 0.01}
    )
    moment = datetime.fromisoformat(line.pop("time"))
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 60
    assert line == {
        "level": "warning",
        "logger": "genlock.worker",
        "pid": os.getpid(),
        "message": "model digits: generation 4",
        "event": "flipped",
        "model": "digits",
        "generation": 4,
        "seconds": {"fencing": 0.01},
    }


def test_an_error_is_in_the_same_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        line = line_of("it broke", error=error)
    assert line["exception"].endswith("ValueError: two\nlines")
    assert len(line["exception"]) <= MAX_STACK


@pytest.mark.parametrize("odd", [object(), math.nan, b"x", {1, 2}, {("a", 1): 2}, "\udcff", "a\nb"])
def test_whatever_is_logged_becomes_a_line(odd: Any) -> None:
    """A fact that is no JSON must not cost the line that says what went wrong."""
    line = line_of("the model %s", "m", event="odd", fact=odd)
    assert (line["message"], line["event"]) == ("the model m", "odd")
    assert "fact" in line


def test_a_circle_becomes_a_line() -> None:
    circle: dict[str, Any] = {}
    circle["self"] = circle
    assert line_of(fact=circle)["message"] == "done"


def test_facts_hide_nothing_of_the_line_itself() -> None:
    line = line_of(level="mine", time="mine", logger="mine")
    assert (line["level"], line["logger"]) == ("warning", "genlock.worker")
    assert line["time"] != "mine"


def test_a_program_of_ours_says_where_lines_go(nobody: Callable[[], logging.Logger]) -> None:
    ours, out = nobody(), io.StringIO()
    set_up("json", out)
    logging.getLogger("genlock.admin").info("hello", extra={"event": "begun"})
    logging.getLogger("genlock.admin").debug("not this")
    (line,) = out.getvalue().splitlines()
    assert json.loads(line)["event"] == "begun"
    set_up("json", out)
    assert len(ours.handlers) == 1, "no line comes twice"


def test_text_is_for_people(nobody: Callable[[], logging.Logger]) -> None:
    nobody()
    out = io.StringIO()
    set_up("text", out)
    logging.getLogger("genlock.worker").warning("Redis is gone", extra={"event": "redis-gone"})
    assert out.getvalue().endswith(" WARNING genlock.worker: Redis is gone\n")
    assert not isinstance(formatter_of("text"), JsonFormatter)


@pytest.mark.parametrize("whose", ["root", "genlock"])
def test_who_has_set_up_logging_keeps_the_say(whose: str, nobody: Callable[[], logging.Logger]) -> None:
    theirs, ours = logging.NullHandler(), nobody()
    (ours if whose == "genlock" else logging.getLogger()).handlers.append(theirs)
    out = io.StringIO()
    set_up("json", out)
    logging.getLogger("genlock.worker").warning("hello")
    assert out.getvalue() == ""
