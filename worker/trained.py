"""The files that training overwrites, `MODELS_DIR/RQA_SIG/NAME.pt`, as models of the fleet. One of the Sources of coordinator.watching."""

from __future__ import annotations

import stat
from pathlib import Path

from ..coordinator.errors import BadInput
from ..coordinator.publish import ONLY
from ..coordinator.watching.settling import FileIdentity
from ..coordinator.watching.sources import File, Found
from .rqasig import check_part, model_of

#: How the files of training end.
SUFFIX = ".pt"


class TrainedFiles:
    """Of all signatures, as the folder is at the moment of each look."""

    def __init__(self, models_dir: str | Path) -> None:
        self.folder = Path(models_dir).expanduser().absolute()

    def path(self, rqa_sig: str, name: str) -> Path:
        """Where training writes that model. Raises BadInput for what would lead elsewhere."""
        return self.folder / check_part(rqa_sig, "rqa_sig") / f"{check_part(name, 'name')}{SUFFIX}"

    def names(self, rqa_sig: str) -> tuple[str, ...]:
        """The names of a signature that have a file now, sorted; none where there is no such folder, or this host does not see it."""
        return tuple(name for name, _ in _files(self.folder / check_part(rqa_sig, "rqa_sig")))

    def look(self) -> Found:
        """What is there now; a file whose model's name would be too long is left out, and said."""
        found = Found(folders={self.folder})
        for folder in filter(Path.is_dir, _entries(self.folder)):
            found.folders.add(folder)
            for name, path in _files(folder):
                try:
                    model = model_of(folder.name, name)
                except BadInput as error:
                    found.oddities[str(path)] = f"{path} is left alone: {error}"
                else:
                    found.files[model] = {ONLY: File(path, _identity_of(path))}
        return found

    def concerns(self, path: Path) -> bool:
        """Whether a change of `path` may be one of theirs."""
        return self.folder.is_relative_to(path) or path.parent == self.folder or path.parent.parent == self.folder


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Name and path. Hidden ones are what a writer has not renamed yet; an empty one has just been opened by a writer."""
    found = [path for path in _entries(folder) if path.name.endswith(SUFFIX) and not path.name.startswith(".")]
    return [(path.name.removesuffix(SUFFIX), path) for path in found if path.is_file()]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # gone, no folder, not readable: nothing to be found there now
        return []


def _identity_of(path: Path) -> FileIdentity | None:
    """None: it is empty, or gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return FileIdentity.of(found) if stat.S_ISREG(found.st_mode) and found.st_size else None
