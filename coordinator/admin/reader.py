"""The thread that reads the fleet for one process of the admin: a picture, the newest entries of the log, and what streams are told.

It begins at the first use in a process, after any fork, and looks when a hint comes and at least every second, but only a few times a
second at most; at once where a request has changed something and shows the result. When Redis does not answer, the last picture stays,
marked stale. Requests only take what is there, so however many come, Redis is asked by one.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from ..clock import clock
from ..errors import GenlockError, RedisUnreachable
from ..fleet import Fleet
from ..link import Ear
from ..records import Event
from ..settings import Settings
from .figures import Memory, Told
from .picture import Picture, differences, message, picture_of
from .silence import Silence
from .wire import MOST_EVENTS, LogEntry

_log = logging.getLogger("genlock.admin")

#: Seconds between two looks at a fleet in which nothing is in work: heartbeats carry new figures of a worker every ten seconds.
IDLE_S = 1.0
#: Seconds between two looks while a candidate is in work: what a worker says of it comes without a hint.
BUSY_S = 0.25
#: Seconds between two looks at least, however many hints come.
GAP_S = 0.1
#: Times the last look that is waited at least before the next one, so that in a very large fleet requests are not the ones who wait.
RESTS = 3
#: Seconds in which the thread notices that it is wanted or has to end.
SLICE_S = 0.05
#: Seconds that the first request waits for the first picture: a Redis that does not answer is noticed in half a second.
FIRST_S = 5.0
#: Seconds that a request which has changed something waits for a picture of it.
RESULT_S = 1.5
#: Changes that are kept for streams: a minute of a busy fleet. Who is further behind does not read, and is let go.
KEPT_CHANGES = 256


class Change(NamedTuple):
    """What one look found, for streams: `log`: new entries, `state`: differences to the picture before."""

    log: bytes
    state: bytes


class Start(NamedTuple):
    """What a stream begins with; `number`: of the change that is next."""

    picture: Picture
    events: list[LogEntry]
    number: int


class Reader:
    """What the fleet of `settings` is. Use it from any thread."""

    def __init__(self, settings: Settings, wall: Callable[[], float] = time.time) -> None:
        self._settings, self._wall = settings, wall
        self._begin()

    def _begin(self) -> None:
        """Nothing of the parent's goes on in a fork."""
        self._pid = os.getpid()
        self._changed = threading.Condition()  # guards all below; notified at every look and at the end
        self._thread: threading.Thread | None = None
        self._ends = False
        self._picture: Picture | None = None
        self._error: GenlockError | None = None  # of the last look, if it failed
        self._began, self._wanted = 0, 0  # looks that have begun, and the one that somebody waits for
        self._done = 0  # the last look that has ended
        self._events: deque[LogEntry] = deque(maxlen=MOST_EVENTS)
        self._changes: deque[Change] = deque(maxlen=KEPT_CHANGES)
        self._number = 0  # of the change that is next
        self._silence = Silence()  # of the thread alone
        self.told = Told()  #: what the log has told, for figures

    # --- for requests --------------------------------------------------------------------------------------------------

    def picture(self) -> Picture:
        """The last picture; waits for the first one. Raises what kept the reader from it."""
        self._start()
        with self._changed:
            self._changed.wait_for(lambda: self._picture or self._error or self._ends, FIRST_S)
            return self._known()

    def _known(self) -> Picture:
        if self._picture is not None:
            return self._picture
        raise self._error or RedisUnreachable(
            self._settings.redis_url or "its socket", f"no answer within {FIRST_S:g} s"
        )

    def catch_up(self) -> None:
        """Waits for a look that begins after this call: from then on pictures show what the caller has changed."""
        self._start()
        with self._changed:
            wanted = self._wanted = self._began + 1
            self._changed.wait_for(lambda: self._done >= wanted or self._ends, RESULT_S)

    def events(self, *, limit: int, after: str | None) -> list[LogEntry] | None:
        """The newest entries of the log, or the first ones behind `after`; None: they are too old to be at hand."""
        self.picture()
        with self._changed:
            return _chosen(list(self._events), limit, after)

    # --- for streams ---------------------------------------------------------------------------------------------------

    def start(self, *, limit: int, after: str | None) -> Start:
        """Where a stream begins. Entries of the log that are not at hand any more are left out."""
        self.picture()
        with self._changed:
            known = list(self._events)
            events = _chosen(
                known, limit if after is None else MOST_EVENTS, after
            )  # who comes back has missed what it has missed
            return Start(self._known(), known if events is None else events, self._number)

    def changes(self, number: int, timeout_s: float) -> list[Change] | None:
        """The changes from `number` on; an empty list after `timeout_s` without one; None: the caller is too far behind, or this ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._number > number or self._ends, timeout_s)
            missing = self._number - number
            if self._ends or missing > len(self._changes):
                return None
            return list(self._changes)[len(self._changes) - missing :] if missing else []

    # --- its life ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._pid != os.getpid():
            self._begin()
        with self._changed:
            if (self._thread is None or not self._thread.is_alive()) and not self._ends:
                self._thread = threading.Thread(target=self._run, name="genlock-admin-reader", daemon=True)
                self._thread.start()

    def end(self) -> None:
        """Ends the thread and, with it, all streams. For a signal handler, too: takes no lock; they notice within a second."""
        self._ends = True

    def close(self) -> None:
        """`end`, waited for."""
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        if self._thread is not None and self._pid == os.getpid():
            self._thread.join()

    def _run(self) -> None:
        try:
            with Fleet(settings=self._settings) as fleet, fleet.ear() as ear:
                while not self._ends:
                    began = clock()
                    self._look(fleet)
                    try:
                        self._pause(ear, clock() - began)
                    except GenlockError:  # the next look says it; till then nothing is heard
                        with self._changed:
                            self._changed.wait(IDLE_S)
        finally:
            with self._changed:
                self._changed.notify_all()

    def _pause(self, ear: Ear, took_s: float) -> None:
        """Until the next look: hinted at, wanted, or due. `took_s`: of the last one."""
        began, picture, is_hinted = clock(), self._picture, False
        rest_s = max(GAP_S, RESTS * took_s)
        span_s = max(rest_s, BUSY_S if picture is not None and picture.is_busy else IDLE_S)
        while not self._ends and self._wanted <= self._began:
            if clock() - began >= (rest_s if is_hinted else span_s):
                return
            is_hinted = ear.wait(SLICE_S) or is_hinted

    # --- one look --------------------------------------------------------------------------------------------------------

    def _look(self, fleet: Fleet) -> None:
        with self._changed:
            self._began += 1
        try:
            picture, events = self._seen(fleet), self._heard(fleet)
            self.told.hears(events, Memory(*fleet.registry.memory()), is_new=self._picture is not None)
            return self._show(picture, events, None)
        except GenlockError as error:
            return self._failed(error)
        except Exception as error:  # a fault of ours must not end what all requests stand on
            _log.exception("the fleet could not be read")
            return self._failed(RedisUnreachable(fleet.name, f"what was read makes no sense: {type(error).__name__}"))

    def _seen(self, fleet: Fleet) -> Picture:
        as_of = self._wall()
        snapshot = fleet.snapshot()
        models = fleet.statuses(snapshot)
        is_tried = any(model.candidate for model in models)
        silent = self._silence.saw(snapshot.members, snapshot.lease_s, now=clock(), as_of=as_of)
        return picture_of(
            snapshot,
            models,
            fleet.registry.entries() if is_tried else {},
            name=fleet.name,
            fleet_id=fleet.identity.fleet_id,
            redis=fleet.endpoint.where,
            store=str(fleet.store.root),
            as_of=as_of,
            silent=silent,
            before=self._picture,
        )

    def _heard(self, fleet: Fleet) -> list[LogEntry]:
        newest = self._events[-1].id if self._events else None
        found = fleet.registry.log(after=newest) if newest else fleet.registry.log(newest=MOST_EVENTS)
        return [entry_of(event) for event in found]

    def _failed(self, error: GenlockError) -> None:
        self._silence.lost()
        before = self._picture
        if before is None or before.fleet.stale:
            with self._changed:
                self._error, self._done = error, self._began
                self._changed.notify_all()
            return
        _log.warning("the fleet cannot be read any more, what is shown is old: %s", error)
        self._show(before.gone_stale(str(error)), [], error)

    def _show(self, picture: Picture, events: list[LogEntry], error: GenlockError | None) -> None:
        before = self._picture
        log = b"".join(log_message(entry) for entry in events)
        state = differences(before, picture) if before else picture.everything
        with self._changed:
            self._picture, self._error, self._done = picture, error, self._began
            self._events.extend(events)
            if log or state:
                self._changes.append(Change(log, state))
                self._number += 1
            self._changed.notify_all()


def entry_of(event: Event) -> LogEntry:
    """An entry of the log as it goes over the wire."""
    return LogEntry(id=event.id, at=event.at, what=event.what, model=event.model, facts=event.facts)


def log_message(entry: LogEntry) -> bytes:
    """The event `log` of a stream."""
    return message("log", msgspec.json.encode(entry), entry.id)


def _chosen(known: list[LogEntry], limit: int, after: str | None) -> list[LogEntry] | None:
    if after is None:
        return known[-limit:] if limit else []
    place = _place(after)
    if known and len(known) == MOST_EVENTS and _place(known[0].id) > place:
        return None
    return [entry for entry in known if _place(entry.id) > place][:limit]


def _place(entry_id: str) -> tuple[int, int]:
    """Ids in their order: milliseconds, then a number."""
    at, _, number = entry_id.partition("-")
    return int(at), int(number or 0)
