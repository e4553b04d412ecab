"""The thread that loads: one load after the other, beside requests, at a lower priority; and the small chores of a disk."""

from __future__ import annotations

import ctypes
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from ..coordinator.errors import (
    ArtifactError,
    BadCheckpoint,
    GenlockError,
    LoadFailed,
    ManifestInvalid,
    NotTrusted,
    SerialsUnreadable,
)
from ..coordinator.manifest import Manifest, decode
from ..coordinator.priority import low_priority
from ..coordinator.store import Store
from .hostcache import HostCache
from .hostwork import Cancelled, HostWork
from .lastgood import LastGood
from .loaders import Loader
from .loading import Loaded, load
from .slot import RETRY_TO_S, Job, Key

_log = logging.getLogger("genlock.worker")

#: Steps in which a fetch is told to people.
TWENTIETHS = 20
#: Seconds for which what came of a fetch that the store broke off is named for the next try: twice the longest pause before that one.
KEPT_S = 2 * RETRY_TO_S


class Done(NamedTuple):
    """What a job came to: loaded, or said ("bad", "failed") with step and why; neither: nobody wanted it any more. `goes_on`: the store
    broke a fetch off, and the next try goes on from there."""

    job: Job
    key: Key
    loaded: Loaded | None = None
    manifest: Manifest | None = None
    said: str = ""
    step: str = ""
    why: str = ""
    goes_on: bool = False


class _Chore(NamedTuple):
    action: Callable[[], None]
    is_owed: bool


class LoadThread:
    """Begins with the first job. `report` is called with every Done: on this thread, or by `begin` where it cannot be started."""

    def __init__(
        self,
        *,
        store: Store,
        host: HostWork,
        last_good: LastGood,
        loader_of: Callable[[str], Loader],
        report: Callable[[Done], None],
        examine: Callable[[str, int, Manifest, int], None] = lambda *_: None,
    ) -> None:
        """`examine`: raises NotTrusted for a manifest of this host's disk that nobody vouches for."""
        self._store, self._host, self._last_good = store, host, last_good
        self._loader_of, self._report, self._examine = loader_of, report, examine
        self._queue: queue.SimpleQueue[Job | _Chore | None] = queue.SimpleQueue()
        self._cancelled: set[int] = set()  # ids of jobs; added to by the runtime's thread, read here: adding is atomic
        self._thread: threading.Thread | None = None
        self._closing = False
        # For the host cache, by the loading thread: the objects of what is held, as was said last; of what was reported and not yet said.
        self._held, self._given = frozenset[str](), list[frozenset[str]]()
        # Likewise, seconds of time.monotonic: until then what came of a fetch that was broken off is named; None: nothing is.
        self._kept_until: float | None = None
        #: What is being loaded now, for people: model → generation, step, since (unix s); of a fetch also done and total (bytes). Replaced
        #: as a whole by this thread.
        self.loading: Mapping[str, Mapping[str, Any]] = {}

    def begin(self, job: Job) -> None:
        """Loads, after what was begun before. Where the thread cannot be started that is reported at once."""
        try:
            self._start()
        except RuntimeError as error:  # the limit of threads of a host or a container: the job is tried again
            self._report(Done(job, job.key, said="failed", step="load", why=str(error)))
        else:
            self._queue.put(job)

    def cancel(self, job: Job) -> None:
        """Nobody wants it any more: it stops at its next step."""
        self._cancelled.add(job.id)

    def chore(self, action: Callable[[], None], *, is_owed: bool = False) -> None:
        """Does a small thing that may touch a disk; an error of it is logged. `is_owed`: also when this worker is closing."""
        self._queue.put(_Chore(action, is_owed))
        _quietly(self._start)

    def holds(self, digests: frozenset[str]) -> None:
        """What this process has loaded: the cache of the host keeps these for it, where there is one; and what was reported and is not yet
        among what was said here."""
        if isinstance(self._store, HostCache):
            self.chore(partial(self._hold, digests))

    def _hold(self, digests: frozenset[str]) -> None:
        self._held = digests
        self._given = [given for given in self._given if not given <= digests]
        self._say_held()

    def _say_held(self) -> None:
        """On this thread, and not during a load."""
        if isinstance(self._store, HostCache):
            with suppress(Cancelled):  # closing: then this process holds nothing any more
                coming = self._kept_until is not None
                self._store.holds(self._held.union(*self._given), lambda: self._closing, coming=coming)

    def close(self, timeout_s: float) -> None:
        """Ends after what is being done, or goes on alone (it is a daemon) when that takes longer: what it may have mapped stays held, and
        the store, which one thread uses, is closed by that thread.
        """
        self._closing = True
        if self._thread is None:
            self._store.close()
        else:
            self._queue.put(None)
            self._thread.join(timeout_s)

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="genlock-loads", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        low_priority()
        try:
            while (task := self._next()) is not None:
                if isinstance(task, Job):
                    self._tell(self._done(task))
                elif task.is_owed or not self._closing:
                    _quietly(task.action)
        finally:
            _quietly(self._store.close)

    def _next(self) -> Job | _Chore | None:
        """The next task; before it comes, what was kept for a try that nobody makes is let go."""
        if self._kept_until is not None:
            with suppress(queue.Empty):
                return self._queue.get(timeout=max(0.0, self._kept_until - time.monotonic()))
            self._kept_until = None
            _quietly(self._say_held)
        return self._queue.get()

    def _tell(self, done: Done) -> None:
        """Reports it, and says what is held now: what was fetched for a load that came to nothing is held no longer, but for what goes on.

        To say so may take a minute, while another worker that is stopped has the room: a verdict for which the fleet waits comes before it.
        """
        self._kept_until = time.monotonic() + KEPT_S if done.goes_on else None
        if done.loaded is not None:
            _quietly(self._say_held)
            self._report(done)
        else:
            self._report(done)
            _quietly(self._say_held)

    def _done(self, job: Job) -> Done:
        try:
            return self._load(job)
        except Cancelled:
            return Done(job, job.key)
        except BadCheckpoint as error:
            return Done(job, job.key, said="bad", step=error.step, why=error.why)
        except LoadFailed as error:
            goes_on = error.step == "fetch" and isinstance(error.__cause__, ArtifactError)
            return Done(job, job.key, said="failed", step=error.step, why=error.why, goes_on=goes_on)
        except GenlockError as error:
            step = "signature" if isinstance(error, NotTrusted | SerialsUnreadable) else "manifest"
            return Done(job, job.key, said="failed", step=step, why=str(error))
        except Exception as error:
            _log.exception("loading %s ended in an error that nobody expected", job.model)
            return Done(job, job.key, said="failed", step="load", why=f"{type(error).__name__}: {error}")
        finally:
            self.loading = {}
            self._cancelled.discard(job.id)

    def _load(self, job: Job) -> Done:
        generation, manifest = self._manifest_of(job)
        loaded = load(
            manifest,
            generation,
            store=self._store,
            loader=self._loader(job.model),
            host=self._host,
            cancelled=lambda: self._closing or job.id in self._cancelled,
            enters=partial(self._enter, job.model, generation, time.time()),
            fetched=partial(self._fetched, job.model),
        )
        if isinstance(self._store, HostCache):
            # Held from now on. Whoever gets it says so later, and a load may come before that, for which room is made.
            self._given.append(loaded.digests)
        return Done(job, (generation, manifest.version), loaded, manifest)

    def _enter(self, model: str, generation: int, since: float, step: str) -> None:
        self.loading = {model: {"generation": generation, "step": step, "since": since}}

    def _fetched(self, model: str, done: int, size: int) -> None:
        """In twentieths: each change is carried by a heartbeat of every worker."""
        told = {"done": done * TWENTIETHS // max(size, 1) * size // TWENTIETHS, "total": size}
        about = {**self.loading.get(model, {}), **told}
        if about != self.loading.get(model):
            self.loading = {model: about}

    def _loader(self, model: str) -> Loader:
        try:
            return self._loader_of(model)
        except GenlockError as error:
            raise LoadFailed(model, "loader", str(error)) from error

    def _manifest_of(self, job: Job) -> tuple[int, Manifest]:
        if job.purpose == "fallback":
            found = self._last_good.read(job.model)
            if found is None:
                raise LoadFailed(job.model, "fallback", "this host keeps no last good generation of it")
            self._examine(job.model, *found, 0)
            return found
        manifest = decode(job.manifest)
        if manifest.model != job.model or manifest.version != job.key[1]:
            raise ManifestInvalid(
                f"it is of {manifest.model} {manifest.version[:12]}, not of {job.model} {job.key[1][:12]}"
            )
        return job.key[0], manifest


def import_ahead(models: Iterable[str], loader_of: Callable[[str], Loader]) -> None:
    """Torch, and the modules that these models' loaders are in: seconds, once, in which the interpreter hardly lets any other thread run.

    Neither at a low priority, nor in the slot for which other workers of the host wait, nor as a member, whose "fenced" a whole fleet
    may wait for. What cannot be imported is said by the first load.
    """
    with suppress(Exception):  # of a damaged installation, OSError
        import torch  # noqa: F401
    for model in models:
        with suppress(Exception, SystemExit):  # a module of the user's may raise anything
            loader_of(model)


def _quietly(action: Callable[[], None]) -> None:
    try:
        action()
    except Exception:
        _log.exception("a chore of the loading thread failed")


def trim() -> None:
    """Gives freed memory back to the system: glibc keeps the arenas of what was let go."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
