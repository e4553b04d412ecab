"""What a command writes: one JSON document, or lines and tables for people, on stdout; notices on stderr.

rich is imported only when a table is drawn.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

#: Columns of a table that goes into a file or a pipe: nothing is wrapped or cut there.
UNBOUNDED = 10_000


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text below `columns`; a column whose name ends in `>` stands right. Where a terminal is
    narrow, the last one continues below itself."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[object]]


def document(value: Any) -> str:
    """`value` as one JSON document; structs and dataclasses by their fields, what JSON does not know as text."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False)


def line(value: Any) -> str:
    """`value` as a JSON document on one line."""
    return json.dumps(plain(value), ensure_ascii=False)


def plain(value: Any) -> Any:
    """`value` made of dicts, lists, texts and numbers only."""
    return msgspec.to_builtins(value, enc_hook=str, str_keys=True)


def say(*parts: str | Table) -> None:
    """Write lines and tables to stdout."""
    for part in parts:
        if isinstance(part, Table):
            _draw(part)
        else:
            print(printable(part))


def notice(text: str) -> None:
    """Write a sentence to stderr; a terminal gets it broken between words."""
    lines = printable(text).split("\n")
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        lines = [textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) for line in lines]
    print("\n".join(lines), file=sys.stderr)


def printable(text: object) -> str:
    """`text` without what would move a terminal's cursor: messages and names are written by others. Line ends stay."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in str(text))


def one_line(text: object) -> str:
    """`text` on one line."""
    return printable(" ".join(str(text).split()))


def joined(*parts: str) -> str:
    """The parts that are not empty, with dots between them."""
    return " · ".join(part for part in parts if part)


def _draw(table: Table) -> None:
    from rich.console import Console
    from rich.table import Table as Drawn
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else UNBOUNDED, highlight=False, markup=False, emoji=False)
    drawn = Drawn(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, column in enumerate(table.columns):
        drawn.add_column(
            column.rstrip(">"),
            justify="right" if column.endswith(">") else "left",
            no_wrap=number < len(table.columns) - 1,
            overflow="fold",
        )
    for row in table.rows:
        drawn.add_row(*(Text(one_line(cell)) for cell in row))
    with console.capture() as captured:  # what is printed by rich itself ends the process when the pipe is closed
        console.print(drawn)
    print("\n".join(row.rstrip() for row in captured.get().splitlines()))
