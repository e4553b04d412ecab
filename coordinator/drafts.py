"""Private folders that a trainer writes into, and from which a store takes its files."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from .disk import explained, make_folder
from .errors import ArtifactRefused
from .hostlock import give_back, lock, try_lock

#: Seconds after which a draft goes whose process is gone: long enough to look what a trainer had written when it was killed.
LEFT_S = 86_400.0


class Drafts:
    """The drafts below one folder, which is made with the first of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def new(self) -> Path:
        """A new draft; only this user may look into it."""
        draft = self.folder / uuid.uuid4().hex
        with explained(self.folder):
            make_folder(self.folder)
            draft.mkdir(mode=0o700)
        return draft

    def discard(self, draft: Path) -> None:
        """Remove a draft with all that is in it; one that is gone already is no error. ArtifactRefused: it is none."""
        if draft.resolve().parent != self.folder.resolve():
            raise ArtifactRefused(str(draft), f"it is not a draft below {self.folder}")
        shutil.rmtree(draft, ignore_errors=True)

    def inside(self, path: Path) -> Path:
        """`path` without links above it; ArtifactRefused if it does not lie in a draft."""
        path = path.parent.resolve() / path.name
        if not path.is_relative_to(self.folder.resolve()):
            raise ArtifactRefused(str(path), f"only what lies in a draft below {self.folder} can be moved")
        return path


class HostDrafts(Drafts):
    """Drafts on a disk of this host that no collect() looks at: whoever makes a new one removes what dead processes left.

    A draft is locked by the process that made it. A trainer may hold one for as long as it likes.
    """

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time) -> None:
        """`now`: unix seconds."""
        super().__init__(folder)
        self._now = now
        self._locked: dict[str, int] = {}  # name of a draft → its descriptor, locked

    def new(self) -> Path:
        draft = super().new()
        with explained(draft):
            self._locked[draft.name] = _open(draft)
            lock(self._locked[draft.name])
        for other in self.folder.iterdir():
            self._remove_left(other)
        return draft

    def discard(self, draft: Path) -> None:
        super().discard(draft)
        if (descriptor := self._locked.pop(draft.name, None)) is not None:
            give_back(descriptor)

    def _remove_left(self, draft: Path) -> None:
        try:
            descriptor = _open(draft)
        except OSError:  # discarded meanwhile; or no draft
            return
        try:
            is_old = self._now() - os.fstat(descriptor).st_mtime > LEFT_S
            if is_old and try_lock(descriptor):  # else its process lives
                shutil.rmtree(draft, ignore_errors=True)
        finally:
            give_back(descriptor)


def _open(draft: Path) -> int:
    return os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
