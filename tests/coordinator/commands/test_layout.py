"""Tables of text for a given width."""

import pytest
from genlock.coordinator.commands.layout import Cells, Column, cut, table

COLUMNS = (Column("HOST"), Column("WORKERS>", 3), Column("USES/S>", 2), Column("HOLDS", 1))
ROWS = [Cells(("h1", "10", "1200", "digits=4")), Cells(("host-2", "9", "7", "digits=3!4 ranker=9"), "bad")]


def told(width: int | None) -> list[str]:
    return [line.text for line in table(COLUMNS, ROWS, width)]


def test_columns_are_as_wide_as_what_stands_in_them() -> None:
    assert told(None) == [
        "HOST    WORKERS  USES/S  HOLDS",
        "h1           10    1200  digits=4",
        "host-2        9       7  digits=3!4 ranker=9",
    ]
    assert [line.style for line in table(COLUMNS, ROWS, None)] == ["head", "", "bad"]


@pytest.mark.parametrize(
    ("width", "heading"),
    [
        (44, "HOST    WORKERS  USES/S  HOLDS"),
        (41, "HOST    WORKERS  USES/S  HOLDS"),  # the last one may be cut
        (40, "HOST    USES/S  HOLDS"),
        (28, "HOST    HOLDS"),
        (10, "HOST"),
        (1, "HOST"),
    ],
)
def test_where_it_is_narrow_columns_go_by_their_rank(width: int, heading: str) -> None:
    """At 60 columns every cell was three characters and an ellipsis."""
    assert told(width)[0] == heading


def test_a_last_column_that_says_nothing_is_left_out() -> None:
    rows = [Cells(("h", "1", "2", "-"))]
    assert [line.text for line in table(COLUMNS, rows, None)] == ["HOST  WORKERS  USES/S", "h           1       2"]


def test_nothing_of_what_others_wrote_moves_the_cursor() -> None:
    """A worker's last error had a line end and an escape in it."""
    rows = [Cells(("h", "1", "2", "a\x1b[2J\nb"))]
    assert table(COLUMNS, rows, None)[1].text == "h           1       2  a?[2J b"


def test_what_is_cut_says_so() -> None:
    assert [cut("digits", width) for width in (None, 6, 5, 1)] == ["digits", "digits", "digi…", "…"]
