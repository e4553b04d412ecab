"""GENLOCK_CHECK_MTIME=true: one worker of each host looks at the files that training overwrites, and publishes what is new for all.

Which one is decided file by file: who gets the lock of a source in the state folder looks at it, once in a second, until it ends; the
others try the lock as often. So whatever the number of workers, a file is asked for once in a second on its host, from a thread of its
own with a low priority, and never by a request. What is found goes the way of every publish: under the publish lock, into the store,
to the whole fleet.

::

    STATE/watched/FLEET/….lock    of one source: a model's files, or a pattern; whoever has it locked looks
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path

from blake3 import blake3

from ..coordinator.hostlock import give_back, open_lock, try_lock
from ..coordinator.priority import low_priority
from ..coordinator.settings import Settings
from ..coordinator.watching import Named, Patterned, Watcher, patterns_of
from ..coordinator.watching.sources import Found, Sources

_log = logging.getLogger("genlock.worker")

#: Seconds that closing waits for a look, and for a publish that ends just now.
CLOSE_S = 4.0


class Lookout:
    """What one cache of this process does about it. Nothing is touched before `start`."""

    def __init__(self, settings: Settings, named: Named, more: Mapping[str, Sources] | None = None) -> None:
        """`named`: the sources of the cache; GENLOCK_WATCH says others, and `more` does, by a text that is the same in every worker. Raises
        BadInput for a pattern that makes no sense."""
        self._settings = settings
        self._parts = _parts_of(named, settings.watch) | dict(more or {})
        self._elected: Elected | None = None
        self._watcher: Watcher | None = None
        self._thread: threading.Thread | None = None
        what = ", ".join([*sorted(named.files), *settings.watch, *(more or ())])
        #: Said in the log and in /readyz.
        self.notice = f"files are looked at (GENLOCK_CHECK_MTIME), by one worker of this host: {what}"
        if not self._parts:
            self.notice = (
                "GENLOCK_CHECK_MTIME=true, but neither sources= nor GENLOCK_WATCH names a file: nothing is looked at"
            )

    def start(self) -> None:
        """Begins to look, where there is anything to look at."""
        (_log.info if self._parts else _log.warning)("%s", self.notice)
        if self._parts and self._thread is None:
            self._elected = Elected(self._parts, self._settings.state_dir / "watched" / self._settings.fleet)
            self._watcher = Watcher(self._settings, self._elected, note="noticed by a worker", notices=False)
            self._thread = threading.Thread(
                target=self._run, args=(self._watcher,), name="genlock-lookout", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Ends it; another worker goes on. What was proposed goes on in the fleet."""
        if self._watcher is not None and self._thread is not None and self._elected is not None:
            self._watcher.stop()
            self._thread.join(CLOSE_S)
            self._elected.close()

    @staticmethod
    def _run(watcher: Watcher) -> None:
        low_priority()
        watcher.run()


def _parts_of(named: Named, watch: tuple[str, ...]) -> dict[str, Sources]:
    """Each source by what is the same in every worker that has it; what was named counts before what a pattern finds."""
    parts: dict[str, Sources] = {
        f"{model}: {sorted(files.items())}": Named({model: files}) for model, files in named.files.items()
    }
    return parts | {pattern.key: Patterned([pattern], but=named.files) for pattern in patterns_of(watch)}


class Elected:
    """Those sources that this process has the lock of."""

    def __init__(self, parts: Mapping[str, Sources], folder: Path) -> None:
        self._parts, self._folder = parts, folder
        self._open: dict[str, int] = {}  # source → descriptor of its lock
        self._ours: set[str] = set()
        _all.add(self)

    def look(self) -> Found:
        found = Found()
        for key, sources in self._parts.items():
            if key in self._ours or self._locked(key):
                found = found.and_also(sources.look())
        return found

    def concerns(self, path: Path) -> bool:
        return any(sources.concerns(path) for sources in self._parts.values())

    def close(self) -> None:
        """Gives the locks back."""
        for descriptor in self._open.values():
            give_back(descriptor)
        self._open, self._ours = {}, set()

    def forget(self) -> None:
        """In a child: its parent has the locks, and this process must not keep them when that ends."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open, self._ours = {}, set()

    def _locked(self, key: str) -> bool:
        try:
            if key not in self._open:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                path = self._folder / f"{blake3(key.encode('utf-8', 'surrogateescape')).hexdigest(length=16)}.lock"
                self._open[key] = open_lock(path)
            if not try_lock(self._open[key]):
                return False
            self._ours.add(key)
        except OSError as error:
            # A state folder that cannot be written: then every worker looks, which is only more work.
            _log.debug("the lock of a source: %s", error)
        return True


#: Every Elected of this process, so that a child lets go of their locks.
_all: weakref.WeakSet[Elected] = weakref.WeakSet()


def _forget_in_child() -> None:
    for elected in _all:
        elected.forget()


os.register_at_fork(after_in_child=_forget_in_child)
