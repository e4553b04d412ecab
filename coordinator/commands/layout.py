"""Lines and tables of text for a given room: what a picture on a terminal is laid out with. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from .output import printable

#: Columns that the last one of a table needs to be worth showing.
LEAST_COLUMNS = 16

Style = Literal["", "good", "news", "bad", "head", "quiet"]


class Line(NamedTuple):
    """A line of the picture, not longer than the room is wide."""

    text: str
    style: Style = ""


class Room(NamedTuple):
    """Columns and lines; no number: without end."""

    width: int | None = None
    height: int | None = None


class Cells(NamedTuple):
    """A row of a table."""

    cells: tuple[str, ...]
    style: Style = ""


class Column(NamedTuple):
    """`rank`: the highest goes first where it is narrow, 0 stays; a name that ends in `>` stands right."""

    name: str
    rank: int = 0


def table(columns: Sequence[Column], rows: Sequence[Cells], width: int | None) -> list[Line]:
    """A heading, and the rows below. A last column that says nothing is left out; where it is too wide, columns go, and the last is cut."""
    cells = [[flat(cell) for cell in row.cells] for row in rows]
    widths = [max([len(column.name.rstrip(">")), *(len(row[i]) for row in cells)]) for i, column in enumerate(columns)]
    kept = _kept(columns, widths, width, says=any(row[-1] != "-" for row in cells))
    heading = Line(_laid([column.name.rstrip(">") for column in columns], columns, widths, kept), "head")
    return [
        heading,
        *(Line(_laid(row, columns, widths, kept), one.style) for row, one in zip(cells, rows, strict=True)),
    ]


def _kept(columns: Sequence[Column], widths: Sequence[int], width: int | None, *, says: bool) -> list[int]:
    """The columns that there is room for."""
    kept = [i for i in range(len(columns)) if says or i < len(columns) - 1]
    while width is not None:
        needed = sum(widths[i] + 2 for i in kept[:-1]) + min(widths[kept[-1]], LEAST_COLUMNS)
        worst = max(kept, key=lambda i: columns[i].rank)
        if needed <= width or not columns[worst].rank:
            break
        kept.remove(worst)
    return kept


def _laid(row: Sequence[str], columns: Sequence[Column], widths: Sequence[int], kept: Sequence[int]) -> str:
    told = [row[i].rjust(widths[i]) if columns[i].name.endswith(">") else row[i].ljust(widths[i]) for i in kept]
    return "  ".join(told).rstrip()


def flat(text: str) -> str:
    """`text` on one line, without what would move a terminal's cursor; its spaces stay."""
    return printable(text.replace("\n", " "))


def cut(text: str, width: int | None) -> str:
    """`text` on one line of that width; what is left out is an ellipsis."""
    text = flat(text)
    return text if width is None or len(text) <= width else text[: max(0, width - 1)] + "…"
