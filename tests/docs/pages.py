"""The pages, and every fenced block of them. Pure, but for reading the files."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Where pages are, from the root of the checkout.
PLACES = ("*.md", "docs/**/*.md", "benchmarks/*.md", "examples/**/*.md", "deploy/**/*.md")

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>.*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block. `page`: from the root; `line`: of its first line of text, from 1; `before`: the paragraph that stands above it."""

    page: str
    line: int
    language: str
    text: str
    before: str = ""

    @property
    def saved_as(self) -> str | None:
        """The file that the page saves it as: the paragraph above says "Save this as `train.py`", or "This is `conftest.py`"."""
        found = re.search(r"\b(?:save (?:this|it) as|this is)\s+`([\w.]+)`", self.before, re.I)
        return found[1] if found else None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str, text: str) -> Iterator[Block]:
    """Every fenced block, also of a list. Raises ValueError for a fence that nothing closes."""
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        opened = _FENCE.match(lines[at])
        at += 1
        if not opened:
            continue
        first = at
        while at < len(lines) and lines[at].strip() != opened["fence"]:
            at += 1
        if at == len(lines):
            raise ValueError(f"{page}:{first}: nothing closes this block")
        inside = textwrap.dedent("\n".join(lines[first:at])) + "\n"
        yield Block(page, first + 1, opened["info"].strip(), inside, _paragraph(lines[: first - 1]))
        at += 1


def _paragraph(lines: list[str]) -> str:
    text = "\n".join(lines).rstrip()
    return text.rpartition("\n\n")[2].strip()


def page_names() -> list[str]:
    """Of every page, from the root."""
    return sorted({str(path.relative_to(ROOT)) for place in PLACES for path in ROOT.glob(place)})


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str, *languages: str) -> list[Block]:
    """The blocks of a page, or those in these languages."""
    return [one for one in blocks_of(page, text_of(page)) if not languages or one.language in languages]
