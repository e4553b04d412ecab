"""Log lines: as text for people, or one JSON object each for programs that collect them (GENLOCK_LOG=json).

What has an id is said in `extra`, beside the sentence: `_log.info("…", extra={"event": "flipped", "model": "digits", "generation": 4})`.
A JSON line has `time` (RFC 3339, UTC), `level`, `logger`, `pid`, `message`, and then all that stands in `extra`; `event` is a word that
does not change when the sentence does. An app that has set up logging keeps its own say: nothing here touches the handlers of others.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, TextIO

#: The parent of all loggers of genlock.
OURS = "genlock"
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
#: What every record has; the rest came by `extra`. `taskName` is of Python 3.12.
_USUAL = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
#: Characters of a stack that one line takes; the end of it says most.
MAX_STACK = 8000


class JsonFormatter(logging.Formatter):
    """One JSON object in one line, whatever was logged: what is no JSON stands there as text."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in record.__dict__.items() if key not in _USUAL and key not in line}
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)[-MAX_STACK:]
        try:
            return json.dumps(line, default=str, allow_nan=False)
        except (
            ValueError,
            TypeError,
            RecursionError,
        ):  # NaN, a circle, a key that is no text: the line matters more than its form
            return json.dumps({key: str(value) for key, value in line.items()})


def formatter_of(form: str) -> logging.Formatter:
    """`form`: json or text."""
    return JsonFormatter() if form == "json" else logging.Formatter(TEXT)


def set_up(form: str, stream: TextIO | None = None) -> None:
    """Writes genlock's lines from INFO on to `stream` (default: stderr), unless somebody has said where lines go. For programs that
    are genlock's own; a library leaves that to the app."""
    ours = logging.getLogger(OURS)
    if ours.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter_of(form))
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
