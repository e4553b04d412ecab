"""Private folders that a trainer writes into, and from which a store takes its files."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from .disk import explained, make_folder
from .errors import ArtifactRefused


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
