"""Which path is which artifact of which model. Pure but for the working directory, below which a relative path begins.

::

    runs                                  runs/m.pt, .pth, .safetensors or .pt2 is model m
    runs/{model}/best.pt                  the folder is the model's name
    runs/{model}/{artifact}.safetensors   several files of one model: those that are there
    runs/{model}/{artifact:cnn,svm}.pt    several files of one model: these two
    digits=out/best.pt                    the model's name is said, the path need not have it

`*` stands for any part of a name. Nothing stands for several folders: how deep a pattern looks can be read in it. What begins with a dot
is never meant: that is how savers call what they rename later.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import BadInput, InvalidName
from ..manifest import check_name, is_name
from ..staging import ONLY

#: The endings of files that a folder without a pattern is searched for: those of torch.save, safetensors and torch.export.
ENDINGS = ("pt", "pth", "safetensors", "pt2")
#: A name that does not begin with a dot.
_NAME = "[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}"
_FIELD = re.compile(r"\{(?P<field>[^{}:/]*)(?::(?P<list>[^{}/]*))?\}|(?P<any>\*)")


@dataclass(frozen=True)
class Pattern:
    """`root`: the folder below which the first step leads; `steps`: names, or what names have to match; `model`: where the pattern says
    it; `listed`: the artifacts that it names, which all have to be there."""

    text: str
    root: Path
    steps: tuple[str | re.Pattern[str], ...]
    model: str | None = None
    listed: frozenset[str] = field(default=frozenset())

    @classmethod
    def of(cls, text: str, below: Path | None = None) -> Pattern:
        """`text` as in the table above; a relative path begins `below` (default: the working directory). Raises BadInput."""
        model, path = _named(text)
        if model in (".", ".."):
            raise _wrong(text, f"{model!r} cannot be the name of a model")
        if not path or "\0" in path:
            raise _wrong(text, "it names no file")
        parts = (below or Path()).joinpath(path).expanduser().absolute().parts
        if "{" in (alone := _FIELD.sub("", path)) or "}" in alone:
            raise _wrong(text, "a brace stands alone, or has a / in it")
        if not _FIELD.search(path) and model is None:
            parts += (f"{{model}}.{{ending:{','.join(ENDINGS)}}}",)
        return cls._of_parts(text, model, parts)

    @classmethod
    def _of_parts(cls, text: str, model: str | None, parts: tuple[str, ...]) -> Pattern:
        fixed = next((number for number, part in enumerate(parts) if _FIELD.search(part)), len(parts) - 1)
        steps, listed = [], set[str]()
        names = set() if model is None else {"model"}
        for part in parts[fixed:]:
            steps.append(_step(text, part, names, listed, is_named=model is not None))
        if "model" not in names:
            raise _wrong(text, "it does not say the model: write {model} into it, or MODEL=PATH")
        return cls(text, Path(*parts[:fixed]), tuple(steps), model, frozenset(listed))

    @property
    def key(self) -> str:
        """What is the same for two patterns that mean the same paths."""
        steps = [step if isinstance(step, str) else step.pattern for step in self.steps]
        return repr((self.model, str(self.root), steps))

    @property
    def is_path(self) -> bool:
        """Whether it means one path alone, which it names."""
        return len(self.steps) == 1 and isinstance(self.steps[0], str)

    def names_of(self, name: str, step: int, bound: Bound) -> Bound | None:
        """What is known when the entry `name` is taken for step number `step`; None: it does not match."""
        wanted = self.steps[step]
        if isinstance(wanted, str):
            return bound if name == wanted else None
        found = wanted.fullmatch(name)
        if found is None:
            return None
        new = found.groupdict()
        if any(bound.get(key, value) != value for key, value in new.items()):
            return None  # {model} stands twice, and is not the same
        return {**bound, **new}

    def target_of(self, bound: Bound) -> tuple[str, str]:
        """(model, artifact) of a path that all steps have matched."""
        return self.model or bound["model"], bound.get("artifact", ONLY)

    def match(self, path: Path) -> tuple[str, str] | None:
        """(model, artifact) that `path` would be, or None."""
        bound = self._along(path)
        return self.target_of(bound) if bound is not None and len(self._below(path)) == len(self.steps) else None

    def leads_to(self, path: Path) -> bool:
        """Whether a file of the pattern may lie at or below `path`, or `path` is on the way to its first step."""
        return self.root.is_relative_to(path) or self._along(path) is not None

    def _below(self, path: Path) -> tuple[str, ...]:
        return path.relative_to(self.root).parts if path.is_relative_to(self.root) else ()

    def _along(self, path: Path) -> Bound | None:
        names = self._below(path)
        bound: Bound | None = {} if 0 < len(names) <= len(self.steps) else None
        for number, name in enumerate(names):
            if bound is None:
                return None
            bound = self.names_of(name, number, bound)
        return bound


#: What the steps so far have said: model and artifact → name.
Bound = dict[str, str]


def patterns_of(arguments: Iterable[str], below: Iterable[str] = ()) -> tuple[Pattern, ...]:
    """The patterns of a command line: `arguments` are folders or patterns, `below` are patterns below each of those folders. Raises
    BadInput."""
    return tuple(_patterns(list(arguments), list(below)))


def _patterns(arguments: list[str], below: list[str]) -> Iterator[Pattern]:
    for text in arguments:
        if not below or _FIELD.search(text) or _named(text)[0] is not None:
            yield Pattern.of(text)
        else:
            yield from (Pattern.of(pattern, Path(text)) for pattern in below)


def _named(text: str) -> tuple[str | None, str]:
    """`MODEL=PATH` apart; a path with {model} in it, or a folder before its `=`, has no name before it. `..` is one that cannot be."""
    name, equals, path = text.partition("=")
    is_said = equals and (is_name(name) or name in (".", ".."))
    return (name, path) if is_said and "{model" not in path else (None, text)


def _step(text: str, part: str, names: set[str], listed: set[str], *, is_named: bool) -> str | re.Pattern[str]:
    """One component: a name as it is, or a regular expression with the groups model and artifact."""
    if not _FIELD.search(part):
        return part
    found, end, here = "", 0, set[str]()
    for match in _FIELD.finditer(part):
        found += re.escape(part[end : match.start()])
        found += _expression(text, match, here, listed, is_first=match.start() == 0)
        end = match.end()
    if is_named and "model" in here:
        raise _wrong(text, "MODEL= says the model already")
    names |= here
    return re.compile(found + re.escape(part[end:]))


def _expression(text: str, match: re.Match[str], here: set[str], listed: set[str], *, is_first: bool) -> str:
    if match["any"]:
        return r"(?!\.)[^/]*" if is_first else "[^/]*"
    name, names = match["field"], match["list"]
    if name == "ending" and names:
        return f"(?:{'|'.join(map(re.escape, names.split(',')))})"
    if name not in ("model", "artifact") or (name == "model" and names is not None):
        raise _wrong(text, f"{match[0]} means nothing: there are {{model}}, {{artifact}}, {{artifact:NAME,NAME}} and *")
    if name in here:
        return f"(?P={name})"
    here.add(name)
    if names is None:
        return f"(?P<{name}>{_NAME})"
    chosen = [_artifact(text, one.strip()) for one in names.split(",")]
    listed.update(chosen)
    return f"(?P<{name}>{'|'.join(map(re.escape, sorted(chosen, key=len, reverse=True)))})"


def _artifact(text: str, name: str) -> str:
    try:
        return check_name(name, "artifact")
    except InvalidName as error:
        raise _wrong(text, str(error)) from error


def _wrong(text: str, why: str) -> BadInput:
    return BadInput(f"the pattern {text!r}", why)
