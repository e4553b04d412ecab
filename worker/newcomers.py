"""The thread that looks for files which have come since a signature was used first, and adds them to its batch.

A folder is listed once in LOOK_S. Redis is asked only while there is a file that is in no batch, over one connection, and for one number:
the fleet's models are read again when its revision is another, for only then can such a file have become one of them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from ..coordinator.calls import Read
from ..coordinator.errors import GenlockError
from ..coordinator.fleet import Fleet
from ..coordinator.reply import Epoch
from .rqasig import model_of
from .signatures import Batch, InFleet, Signatures, in_fleet

_log = logging.getLogger("genlock.worker.compat")

#: Seconds between two looks for files that are new; those that change are looked at as often (GENLOCK_CHECK_MTIME).
LOOK_S = 1.0
#: The longest pause after looks that came to nothing because the fleet could not be read, in seconds: it is doubled each time.
MAX_PAUSE_S = 30.0
#: Seconds that closing waits for the thread.
CLOSE_S = 2.0


class Listed(Protocol):
    """Where the files of signatures are."""

    def names(self, rqa_sig: str) -> tuple[str, ...]:
        """The names of a signature that have a file now."""


class Newcomers:
    """Of one cache. Nothing is touched before `start`."""

    def __init__(
        self,
        signatures: Signatures,
        files: Listed,
        *,
        looks: bool,
        new_fleet: Callable[[], Fleet],
        can_load: Callable[[str, int], bool],
        is_news: Callable[[str, str], bool],
    ) -> None:
        """`looks`: by the clock too, not only when it is woken; `new_fleet`: a Fleet for this thread; `can_load`: whether a generation of
        a model can be answered from, which may take its time; `is_news`: whether that was not said last of a signature."""
        self._signatures, self._files, self._looks = signatures, files, looks
        self._new_fleet, self._can_load, self._is_news = new_fleet, can_load, is_news
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        # Of the thread alone:
        self._fleet: Fleet | None = None
        self._seen: tuple[Epoch, int] | None = None  # the revision that the following is at least of
        self._in_fleet: InFleet = {}
        self._faults = 0  # looks in a row in which the fleet could not be read

    def start(self) -> None:
        """Begins, where it has not begun. Where it cannot, that is said, and the next call tries again: batches answer without it."""
        if self._thread is not None:  # for good; every use of a batch asks
            return
        with self._lock:
            if self._thread is not None or self._closed:
                return
            thread = threading.Thread(target=self._run, name="genlock-batches", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # as many threads as the user may have
                if self._is_news(thread.name, str(error)):
                    _log.warning("files that come later join no batch before a thread can look for them: %s", error)
                return
            self._thread = thread  # not before it runs: what has not begun has no end that could be waited for

    def wake(self) -> None:
        """Makes it look now."""
        self._wake.set()

    def stop(self) -> None:
        """Makes the thread end soon."""
        with self._lock:
            self._closed = True
        self._wake.set()

    def join(self) -> None:
        """Waits until it has ended, at most CLOSE_S."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(CLOSE_S)

    # --- the thread ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._pause_s())
            self._wake.clear()
            self._look()
        self._let_go()

    def _pause_s(self) -> float | None:
        if not self._looks and not self._faults:
            return None
        return min(MAX_PAUSE_S, LOOK_S * 2.0 ** min(self._faults, 10))

    def _look(self) -> None:
        is_new, faults = False, self._faults
        for rqa_sig, batch in self._signatures.batches.items():
            if self._closed:
                return
            try:
                is_new = self._add_new(rqa_sig, batch) or is_new
            except GenlockError as error:
                is_new = True
                if not self._closed and self._is_news(rqa_sig, str(error)):
                    _log.warning("signature %s: what is new of it cannot be used: %s", rqa_sig, error)
            except Exception as error:  # it must be seen, and must not end the thread: nobody would begin another
                is_new = True
                if self._is_news(rqa_sig, repr(error)):
                    _log.exception("signature %s: a fault of ours; its new files are looked for again", rqa_sig)
        self._faults = faults + 1 if self._faults > faults else 0
        if not is_new or not self._looks:
            self._let_go()

    def _add_new(self, rqa_sig: str, seen: Batch) -> bool:
        """Adds the files to a batch that have become models of the fleet, once this worker has loaded them. Whether there are any that it
        had not."""
        new = set(self._files.names(rqa_sig)) - seen.keys()
        if not new:
            return False
        known = self._read_fleet().get(rqa_sig, {})
        there = sorted(new & known.keys())
        self._signatures.check_number(rqa_sig, len(seen) + len(there))
        models = {name: model_of(rqa_sig, name) for name in there}
        loaded = {name: model for name, model in models.items() if self._fits(model, known[name].generation)}
        # Not into a batch that was forgotten meanwhile: it would be one of the new ones alone. One that was replaced is looked at again.
        if loaded and not self._signatures.join(rqa_sig, seen, loaded) and rqa_sig in self._signatures.batches:
            self._wake.set()
        return True

    def _fits(self, model: str, generation: int) -> bool:
        return not self._signatures.is_unfit(model, generation) and self._can_load(model, generation)

    # --- what the fleet has ------------------------------------------------------------------------------------------------

    def _read_fleet(self) -> InFleet:
        """What it has now. Raises what Fleet does."""
        try:
            if self._fleet is None:
                self._fleet = self._new_fleet()
            reply = self._fleet.registry.ask(Read(""))
            revision = (reply.epoch_id, reply.revision)
            if revision != self._seen:
                self._in_fleet = in_fleet(self._fleet.snapshot().models)
                self._seen = revision  # asked for before: what has changed since is read next time
        except Exception:
            self._faults += 1
            self._let_go()
            raise
        return self._in_fleet

    def _let_go(self) -> None:
        """Gives the connection back, where there is one, and forgets what was read."""
        fleet, self._fleet = self._fleet, None
        self._seen, self._in_fleet = None, {}
        if fleet is not None:
            fleet.close()
