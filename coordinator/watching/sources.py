"""What is there now: the files of patterns, or those that were named, and their identities. Each is asked for once in a look."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from ..errors import BadInput
from ..manifest import check_name, is_name
from ..staging import ONLY
from .pattern import ENDINGS, Bound, Pattern
from .settling import FileIdentity


class File(NamedTuple):
    """One artifact of a model as it is now. `identity` is None where it is not there, is empty or no regular file; then `path` is where
    it was looked for, or None where only its name is known."""

    path: Path | None
    identity: FileIdentity | None


@dataclass
class Found:
    """What one look has found. `files`: model → artifact → file; `folders`: where something could appear; `open_sets`: models whose
    pattern does not say which artifacts they have; `oddities`: what people should know: subject → sentence; `absent`: what was asked for
    by its name and is not there: subject → path; `empty`: model → a file without anything in it. A subject is a model, or a path."""

    files: dict[str, dict[str, File]] = field(default_factory=dict)
    folders: set[Path] = field(default_factory=set)
    open_sets: set[str] = field(default_factory=set)
    oddities: dict[str, str] = field(default_factory=dict)
    absent: dict[str, Path] = field(default_factory=dict)
    empty: dict[str, Path] = field(default_factory=dict)

    def and_also(self, other: Found) -> Found:
        """Both together; what this one has found of a model counts."""
        return Found(
            other.files | self.files,
            other.folders | self.folders,
            other.open_sets | self.open_sets,
            other.oddities | self.oddities,
            other.absent | self.absent,
            other.empty | self.empty,
        )


class Sources(Protocol):
    """Where files come from."""

    def look(self) -> Found:
        """What is there now."""

    def concerns(self, path: Path) -> bool:
        """Whether a change of `path` may be one of theirs."""


class Named:
    """Files that were named, one by one."""

    def __init__(self, sources: Mapping[str, str | Path | Mapping[str, str | Path]]) -> None:
        """Model → its file, or artifact → file. Raises InvalidName, BadInput."""
        self.files: dict[str, dict[str, Path]] = {}
        for model, what in sources.items():
            parts = what if isinstance(what, Mapping) else {ONLY: what}
            if not parts:
                raise BadInput(f"the sources of model {model!r}", "there is none: name a file, or leave the model out")
            self.files[check_name(model)] = {
                check_name(name, "artifact"): Path(path).expanduser().absolute() for name, path in parts.items()
            }
        self._paths = {path for parts in self.files.values() for path in parts.values()}

    def look(self) -> Found:
        found = Found(folders={path.parent for path in self._paths})
        for model, parts in self.files.items():
            found.files[model] = {name: File(path, _identity_of(model, path, found)) for name, path in parts.items()}
        return found

    def concerns(self, path: Path) -> bool:
        return any(known.is_relative_to(path) for known in self._paths)


class Patterned:
    """The files that patterns mean; `but`: models that are left to others."""

    def __init__(self, patterns: Iterable[Pattern], but: Iterable[str] = ()) -> None:
        self.patterns, self._but = tuple(patterns), frozenset(but)

    def look(self) -> Found:
        found = Found()
        meant: dict[str, dict[str, dict[Path, FileIdentity]]] = {}
        listed: dict[str, set[str]] = {}
        for pattern in self.patterns:
            for path, bound in _walk(pattern, found):
                model, artifact = pattern.target_of(bound)
                if model in self._but:
                    continue
                if (identity := _identity_of(model, path, found, pattern)) is None:
                    continue
                meant.setdefault(model, {}).setdefault(artifact, {})[path] = identity
                listed.setdefault(model, set()).update(pattern.listed)
                if not pattern.listed and artifact != ONLY:
                    found.open_sets.add(model)
        for model, parts in meant.items():
            _put(model, parts, listed[model], found)
        return found

    def concerns(self, path: Path) -> bool:
        return any(pattern.leads_to(path) for pattern in self.patterns)


def _put(model: str, parts: Mapping[str, Mapping[Path, FileIdentity]], listed: Iterable[str], found: Found) -> None:
    """The files of one model; one with two files for an artifact is left alone: nobody can say which one is meant."""
    twice = next((sorted(paths) for paths in parts.values() if len(paths) > 1), None)
    if twice is not None:
        both = " and ".join(map(str, twice))
        found.oddities[model] = (
            f"{both} would both be model {model}: neither is published; remove one, or say which with a pattern"
        )
        return
    there = {name: File(*next(iter(paths.items()))) for name, paths in parts.items()}
    found.files[model] = dict.fromkeys(listed, File(None, None)) | there


# --- folders ---------------------------------------------------------------------------------------------------------


def _walk(pattern: Pattern, found: Found) -> list[tuple[Path, Bound]]:
    """The paths that a pattern may mean, and what their names say; one that ends in a plain name need not be there."""
    places: list[tuple[Path, Bound]] = [(pattern.root, {})]
    for number, step in enumerate(pattern.steps):
        found.folders |= {folder for folder, _ in places}
        places = [
            (folder / name, more)
            for folder, bound in places
            for name in _names_in(folder, step, found, is_root=number == 0, is_last=number == len(pattern.steps) - 1)
            if (more := pattern.names_of(name, number, bound)) is not None
        ]
    return places


def _names_in(folder: Path, step: str | re.Pattern[str], found: Found, *, is_root: bool, is_last: bool) -> list[str]:
    """The names in a folder that a step may mean; none where it cannot be listed."""
    if isinstance(step, str):
        return [step]
    try:
        names = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        if is_root:
            found.absent[str(folder)] = folder
        return []
    except NotADirectoryError:
        if is_root:
            found.oddities[str(folder)] = f"{folder} is no folder"
        return []
    except OSError as error:
        found.oddities[str(folder)] = f"{folder} cannot be listed: {error.strerror}"
        return []
    if is_last and "model" in step.groupindex:
        found.oddities |= {str(folder / name): _odd(folder / name) for name in names if _is_odd(name)}
    return names


def _is_odd(name: str) -> bool:
    """Whether it looks like a checkpoint, and no model can be called that."""
    stem, _, ending = name.rpartition(".")
    return ending in ENDINGS and bool(stem) and not is_name(stem) and not stem.startswith(".")


def _odd(path: Path) -> str:
    return (
        f"{path} is left alone: {path.stem!r} cannot be the name of a model (A-Z a-z 0-9 . _ - can); say MODEL={path}"
    )


def _identity_of(model: str, path: Path, found: Found, pattern: Pattern | None = None) -> FileIdentity | None:
    """The identity of the file that `path` leads to; None: there is none, it is empty, or no regular file. `pattern`: that means it, where
    it was not named by itself."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if pattern is not None and pattern.is_path:
            found.absent[model] = path
        return None
    except OSError as error:  # a link in a circle, a folder that may not be entered, a server that is gone
        found.oddities[str(path)] = f"{path} cannot be looked at: {error.strerror}"
        return None
    if stat.S_ISREG(status.st_mode):
        if status.st_size:
            return FileIdentity.of(status)
        found.empty[model] = path
    elif pattern is None or isinstance(pattern.steps[-1], str) or path.suffix[1:] in ENDINGS:  # else a folder beside it
        kind = "a folder: name the file in it" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        found.oddities[model] = f"{path}, which would be model {model}, is {kind}"
    return None
