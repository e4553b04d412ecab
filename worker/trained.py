"""The files that training overwrites, `MODELS_DIR/RQA_SIG/NAME.pt`, as models of the fleet. One of the Sources of coordinator.watching."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..coordinator.errors import BadInput
from ..coordinator.staging import ONLY
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
        """The names of a signature that have a file now, sorted; none where there is no such folder, or this host does not see it. What a
        link leads to is seen when it is read: every worker asks this often, and no file is asked for here."""
        folder = _entries(self.folder / check_part(rqa_sig, "rqa_sig"))
        return tuple(_name(entry) for entry in folder if _is_trained(entry))

    def look(self) -> Found:
        """What is there now; a file whose model's name would be too long is left out, and said."""
        found = Found(folders={self.folder})
        for folder in _entries(self.folder):
            if folder.is_dir():
                found.folders.add(Path(folder.path))
                _look_into(folder, found)
        return found

    def concerns(self, path: Path) -> bool:
        """Whether a change of `path` may be one of theirs."""
        return self.folder.is_relative_to(path) or path.parent == self.folder or path.parent.parent == self.folder


def _look_into(folder: os.DirEntry[str], found: Found) -> None:
    for entry in filter(_is_trained, _entries(folder)):
        path = Path(entry.path)
        try:
            model, status = model_of(folder.name, _name(entry)), path.stat()
        except BadInput as error:
            found.oddities[str(path)] = f"{path} is left alone: {error}"
        except OSError:  # gone meanwhile, or a link that leads nowhere
            continue
        else:
            if stat.S_ISREG(status.st_mode):
                # An empty one has just been opened by a writer.
                found.files[model] = {ONLY: File(path, FileIdentity.of(status) if status.st_size else None)}


def _is_trained(entry: os.DirEntry[str]) -> bool:
    """By what the folder says, without a look at the file. Hidden ones are what a writer has not renamed yet."""
    is_hidden, is_folder = entry.name.startswith("."), entry.is_dir(follow_symlinks=False)
    return entry.name.endswith(SUFFIX) and not is_hidden and not is_folder


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name.removesuffix(SUFFIX)


def _entries(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:  # gone, no folder, not readable: nothing to be found there now
        return []
