"""Who says that something may have changed: the kernel (inotify, through watchfiles) where it tells of everything, the clock elsewhere.

The kernel's word is only a hint to look: its queue may overflow, a link's target lies elsewhere, another host's writes are not told of.
So the clock goes on everywhere, slowly where the kernel tells.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..filesystem import Filesystem, kind_of

if TYPE_CHECKING:
    from watchfiles import Change

_log = logging.getLogger("genlock.watch")

#: Seconds between two looks where nobody tells: a second, as the time that a file has to be unchanged is.
POLL_S = 1.0
#: Seconds between two looks where the kernel tells.
SAFETY_S = 30.0
#: Milliseconds between two looks of watchfiles at what the kernel has told: each costs 20 µs, and nothing here is in a hurry.
STEP_MS = 200
#: Milliseconds after which watchfiles says that it has begun, if nothing has changed by then.
BEGUN_MS = 500
#: Seconds that its thread gets to end: a few steps.
END_S = 5.0

#: A folder that is there: path, device, inode. One that was deleted and made again is another.
_Folder = tuple[Path, int, int]


class Notice:
    """Calls `wake` from a thread of its own when something changed that concerns somebody."""

    def __init__(self, wake: Callable[[], None], concerns: Callable[[Path], bool]) -> None:
        self._wake, self._concerns = wake, concerns
        self._followed: frozenset[_Folder] = frozenset()
        self._asked: dict[
            Path, Path
        ] = {}  # a folder that is there → what was asked for, which may have to appear in it
        self._kinds: dict[Path, Filesystem] = {}
        self._extra: frozenset[Path] = frozenset()
        self._tells = False
        self._broken = ""  # why the kernel does not tell in spite of the file system
        self._ears: _Ears | None = None

    def follow(self, folders: Iterable[Path], targets: Iterable[Path] = ()) -> float:
        """Listens to these folders from now on, or where they would appear, and to where links lead; the seconds after which the clock
        has to look."""
        self._extra = frozenset(targets)
        self._asked = {target.parent: target.parent for target in self._extra}
        for folder in sorted(folders):  # a folder before what may appear in it
            self._asked.setdefault(_standing(folder), folder)
        there = frozenset(filter(None, map(_folder, self._asked)))
        if there != self._followed or (self._ears is not None and (self._ears.failure or self._ears.is_deaf)):
            self._change(there)
        return SAFETY_S if self._tells else POLL_S

    def close(self) -> None:
        """Ends the thread."""
        ears, self._ears = self._ears, None
        if ears is not None:
            ears.close()

    def _change(self, there: frozenset[_Folder]) -> None:
        if self._ears is not None and self._ears.failure and not self._broken:
            self._broken = self._ears.failure
            _log.warning(
                "the kernel cannot tell of changes (%s): looked at every %g s",
                self._broken,
                POLL_S,
                extra={"event": "polling", "why": self._broken},
            )
        self.close()
        self._followed = there
        folders = sorted(path for path, _, _ in there)
        self._kinds = {path: self._kinds.get(path) or self._told(path) for path in folders}
        telling = [path for path, kind in self._kinds.items() if kind.tells]
        self._tells = bool(folders) and len(telling) == len(folders) and not self._broken
        if telling and not self._broken:
            self._ears = _Ears(telling, self._wake, self._is_ours)

    def _told(self, folder: Path) -> Filesystem:
        """The kind of a folder; said where it is not that of a folder above, which was said."""
        kind = kind_of(folder)
        if any(self._kinds.get(parent) == kind for parent in folder.parents):
            return kind
        self._kinds[folder] = kind
        asked = self._asked[folder]
        is_on = "is on" if asked == folder else "would be on"
        how = f"which does not tell of every change: looked at every {POLL_S:g} s"
        how = "where the kernel tells of changes" if kind.tells else how
        facts = {"event": "listening" if kind.tells else "polling", "folder": str(asked), "kind": kind.name}
        _log.info("%s %s %s, %s", asked, is_on, kind.name, how, extra=facts)
        return kind

    def _is_ours(self, path: Path) -> bool:
        return path in self._extra or self._concerns(path)


class _Ears:
    """A thread that waits for the kernel."""

    def __init__(self, folders: list[Path], wake: Callable[[], None], concerns: Callable[[Path], bool]) -> None:
        self.failure = ""  #: why it has ended by itself
        self.is_deaf = (
            False  #: a folder is gone; one that comes back in its place (with its inode, often) is not listened to
        )
        self._names = frozenset(map(str, folders))
        self._folders, self._wake, self._concerns = folders, wake, concerns
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="genlock-notice", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(END_S)

    def _run(self) -> None:
        try:
            self._listen()
        except (
            Exception
        ) as error:  # the limit of watches, a folder that has just gone: whatever it is, the clock still looks
            self.failure = f"{type(error).__name__}: {error}"
            self._wake()

    def _listen(self) -> None:
        from watchfiles import watch

        has_begun = False
        for changes in watch(
            *self._folders,
            watch_filter=self._matters,
            step=STEP_MS,
            stop_event=self._stop,
            rust_timeout=BEGUN_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
            recursive=False,
            ignore_permission_denied=True,
        ):
            if changes or not has_begun:  # what changed before it listened was told to nobody
                has_begun = True
                self._wake()

    def _matters(self, change: Change, path: str) -> bool:
        if change.name == "deleted" and path in self._names:
            self.is_deaf = True
            return True
        return self._concerns(Path(path))


def _standing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there: where it would appear."""
    return next((place for place in (folder, *folder.parents) if place.is_dir()), Path("/"))


def _folder(path: Path) -> _Folder | None:
    with suppress(OSError):
        found = path.stat()
        return path, found.st_dev, found.st_ino
    return None
