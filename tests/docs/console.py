"""The lines of a console block, taken apart. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from .pages import Block

#: What begins a line that somebody types: a user's prompt, and that of root.
PROMPTS = ("$ ", "# ")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


@dataclass(frozen=True)
class Command:
    """One program of a line: its words, and the variables that stand before them."""

    words: tuple[str, ...]
    variables: tuple[str, ...] = ()

    @property
    def program(self) -> str:
        """Its name; of a script of this checkout the path."""
        word = self.words[0]
        return word if word.startswith("deploy/") else word.rpartition("/")[2]


@dataclass(frozen=True)
class Line:
    """What somebody types, and what is shown below it. `where`: page and line."""

    where: str
    text: str
    output: tuple[str, ...] = ()

    @property
    def commands(self) -> list[Command]:
        """Raises ValueError where a quotation mark is missing."""
        return [command for words in _simple(self.text) if (command := _command(words)).words]

    @property
    def is_plain(self) -> bool:
        """One program with its arguments, and nothing that only a shell knows."""
        return len(_simple(self.text)) == 1 and not re.search(r"[<>$`]", self.text)


def lines_of(block: Block) -> list[Line]:
    """The typed lines of a block: with prompts in `console`, in `sh` all of them. Raises ValueError for a block without any."""
    found: list[tuple[int, str, list[str]]] = []
    goes_on = False
    for number, text in enumerate(block.text.splitlines(), block.line):
        typed = text if block.language == "sh" else next((text[2:] for mark in PROMPTS if text.startswith(mark)), None)
        if goes_on:
            at, before, shown = found[-1]
            found[-1] = (at, f"{before[:-1]} {text.strip()}", shown)
        elif typed is not None and typed.strip():
            found.append((number, typed, []))
        elif found and typed is None:
            found[-1][2].append(text)
        elif text.strip():
            raise ValueError(f"{block.page}:{number}: what is typed begins with `$ ` (or `# ` of root): {text!r}")
        goes_on = bool(found) and found[-1][1].endswith("\\") and (goes_on or typed is not None)
    if not found:
        raise ValueError(f"{block.where}: a {block.language} block in which nothing is typed: declare it `text`")
    return [Line(f"{block.page}:{number}", text, tuple(shown)) for number, text, shown in found]


def lines_of_example(path: str, docstring: str) -> list[Line]:
    """What the head of an example says to type: its indented lines that begin with a program."""
    typed = re.findall(r"^ {4}([a-z][\w./-]* .*)", docstring, re.M)
    return [Line(path, text) for text in typed]


def _simple(text: str) -> list[list[str]]:
    """The words of each program, split where a shell does; what is redirected is left out."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    words: Iterator[str] = iter(lexer)
    for word in words:
        if not set(word) <= set("();<>|&"):
            found[-1].append(word)
        elif set(word) & set("<>"):
            next(words, None)
        else:
            found.append([])
    return [words for words in found if words]


def _command(words: list[str]) -> Command:
    first = next((at for at, word in enumerate(words) if not _ASSIGNMENT.match(word)), len(words))
    return Command(tuple(words[first:]), tuple(words[:first]))
