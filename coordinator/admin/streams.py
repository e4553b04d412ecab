"""Server-sent events: who listens, and what each is told. One thread of the server for each, so their number has a limit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress

from flask import Response, request
from werkzeug.exceptions import ServiceUnavailable

from ..clock import clock
from .reader import Reader, Start, log_message
from .wire import EventsQuery

#: Seconds without any event after which a comment is sent: proxies close what says nothing for a minute.
KEEP_ALIVE_S = 15.0
#: Seconds after which a stream is ended, so that a token that is not known any more does not listen on; clients begin a new one at once.
LONGEST_S = 3600.0
#: Seconds in which a client has to take what it is sent; then it is let go.
STALLED_S = 10.0
#: Seconds in which a stream notices that the process ends.
NOTICE_S = 0.5
#: Seconds after which a client that was let go may come again.
AGAIN_S = 5


class Streams:
    """The streams of one process."""

    def __init__(self, reader: Reader, most: int) -> None:
        """`most`: streams at the same time, fewer than the server has threads."""
        self._reader, self._most = reader, most
        self._lock = threading.Lock()
        self._open = 0

    def answer(self, query: EventsQuery, after: str | None) -> Response:
        """A stream; `after`: the last entry of the log that the client has had. Raises ServiceUnavailable where there are too many."""
        self._reader.picture()  # or the error of a fleet that was never seen, as an answer of its own
        with self._lock:
            if self._open >= self._most:
                why = f"{self._most} streams are open, which is as many as there may be; ask for the state instead"
                raise ServiceUnavailable(why, retry_after=AGAIN_S)
            self._open += 1
        _give_up_on_stalled()
        told = self._told(query, after or query.after)
        response = Response(told, 200, {"Content-Type": "text/event-stream; charset=utf-8"})
        response.headers["X-Accel-Buffering"] = "no"  # nginx would keep events until there are enough of them
        response.call_on_close(self._left)
        return response

    def _left(self) -> None:
        with self._lock:
            self._open -= 1

    def _told(self, query: EventsQuery, after: str | None) -> Iterator[bytes]:
        start = self._reader.start(limit=query.limit, after=after)
        yield _first(start, with_state=query.state)
        number, ends, spoke = start.number, clock() + LONGEST_S, clock()
        while clock() < ends:
            changes = self._reader.changes(number, NOTICE_S)
            if changes is None:
                return
            number += len(changes)
            text = b"".join(change.log + change.state if query.state else change.log for change in changes)
            if text or clock() - spoke >= KEEP_ALIVE_S:
                spoke = clock()
                yield text or b": still here\n\n"


def _first(start: Start, *, with_state: bool) -> bytes:
    """Also a comment, so that a client of an empty log hears that it is connected."""
    log = b"".join(log_message(entry) for entry in start.events)
    return b": genlock\n\n" + (start.picture.everything if with_state else b"") + log


def _give_up_on_stalled() -> None:
    """A client that takes nothing would hold its thread for as long as its machine is there."""
    connection = request.environ.get("gunicorn.socket")
    with suppress(AttributeError, OSError):
        connection.settimeout(STALLED_S)  # type: ignore[union-attr]
