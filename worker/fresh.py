"""The two settings for debugging: GENLOCK_USE_CACHE=false (every use loads) and GENLOCK_FORCE_RELOAD=true (every use checks the
files of the store, and loads if one of them is not the same file any more). Which generation is active is asked as ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..coordinator.errors import NotReady
from ..coordinator.manifest import Manifest, decode
from ..coordinator.settings import Settings
from ..coordinator.store import Store
from .hostwork import Cancelled, HostWork, stop_if
from .loaders import Loader
from .loading import Loaded, load
from .orders import Arrived
from .stats import Stats
from .view import View

#: What is said to who uses a cache that was closed.
CLOSED = "this cache was closed: `open()` begins it anew"

#: What tells that a file is another one: device, inode, size, mtime_ns. Different, not newer.
Identity = tuple[int, int, int, int]


class FreshLoads:
    """Loads in the request's own thread, one at a time."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store,
        loader_of: Callable[[str], Loader],
        stats: Stats,
        notify: Callable[[Arrived], object],
    ) -> None:
        self._store, self._loader_of, self._stats, self._notify = store, loader_of, stats, notify
        self._always = not settings.use_cache
        self._host = HostWork(settings.state_dir, loads_per_host=settings.loads_per_host)
        self._lock = threading.Lock()  # of whoever uses the store, and what is known
        self._closed = False
        self._known: dict[tuple[str, str], tuple[tuple[Identity, ...], Loaded]] = {}
        #: Said in the log and in /readyz.
        self.notice = (
            "GENLOCK_USE_CACHE=false, every use loads"
            if self._always
            else "GENLOCK_FORCE_RELOAD=true, every use checks the file"
        )

    def view(self, view: View, text: str | None) -> View:
        """`view`, or one of the same generation that was loaded just now; `text`: its manifest, if it is known.

        Raises NotReady (also once this is closed), BadCheckpoint, LoadFailed.
        """
        if text is None:
            if view.stale or view.candidate is not None:  # without Redis, or of a canary that has just ended
                return view
            raise NotReady(view.model, "its manifest is not known here yet")
        manifest = decode(text)
        try:
            with self._lock:
                return _view(view, self._current(view, manifest))
        except Cancelled:
            raise NotReady(view.model, CLOSED) from None
        finally:
            self._let_go()

    def close(self) -> None:
        """Ends what is being loaded, at its next step, and waits for nobody: who is loading closes the store."""
        self._closed = True
        self._let_go()

    def _let_go(self) -> None:
        """Called after the flag is set, and after each use of the store: so by at least one who finds the lock free and the flag set."""
        if self._closed and self._lock.acquire(blocking=False):
            try:
                self._store.close()
            finally:
                self._lock.release()

    def _current(self, view: View, manifest: Manifest) -> Loaded:
        """What is known of the files as they are, or what they give now. With the lock."""
        stop_if(self._is_closed)
        identity = self._identity_of(manifest)
        number = view.candidate or view.generation
        known = self._known.get((view.model, view.version))
        if not self._always and known is not None and known[0] == identity:
            return known[1]
        loaded = load(
            manifest,
            number,
            store=self._store,
            loader=self._loader_of(view.model),
            host=self._host,
            cancelled=self._is_closed,
        )
        self._stats.loaded(view.model, steps=loaded.seconds, reload=True)
        self._notify(Arrived(view.model, (number, view.version), "forced"))
        self._known = {key: value for key, value in self._known.items() if key[0] != view.model}
        if not self._always:
            self._known[(view.model, view.version)] = (identity, loaded)
        return loaded

    def _is_closed(self) -> bool:
        return self._closed

    def _identity_of(self, manifest: Manifest) -> tuple[Identity, ...]:
        found = []
        for artifact in manifest.artifacts:
            try:
                status = self._store.path(artifact.digest).stat()
            except OSError:
                found.append((0, 0, 0, 0))
            else:
                found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(found)


def _view(asked: View, loaded: Loaded) -> View:
    """What was asked for, with the payload that was loaded here."""
    return View(
        model=asked.model,
        payload=loaded.payload,
        generation=asked.generation,
        version=asked.version,
        stale=asked.stale,
        candidate=asked.candidate,
        bytes=loaded.bytes,
    )
