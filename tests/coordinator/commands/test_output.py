"""What commands write."""

import json
import sys
from pathlib import Path

import msgspec
import pytest
from genlock.coordinator.commands import output
from genlock.coordinator.commands.output import Table


class Fact(msgspec.Struct):
    where: Path
    numbers: dict[int, float]


def test_a_document_is_json_whatever_the_value_holds() -> None:
    """A path in a struct made `--json` end in a traceback."""
    assert json.loads(output.document(Fact(Path("/a"), {1: 0.5}))) == {"where": "/a", "numbers": {"1": 0.5}}
    assert "\n" not in output.line(Fact(Path("/a"), {}))


def test_what_others_wrote_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """A message with escape codes cleared the terminal of whoever looked at the history."""
    output.say("\x1b[2Jgone", Table(("A", "B"), [("\x1b[31mred", "two\nlines")]))
    assert "\x1b" not in capsys.readouterr().out
    output.notice("\x1b[2Jgone")
    assert "\x1b" not in capsys.readouterr().err


def test_what_looks_like_markup_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    """The message `[bold]run` lost its first word, and `[/]` ended in a traceback."""
    output.say(Table(("MESSAGE",), [("[bold]run[/bold] [/] :smile:",)]))
    assert "[bold]run[/bold] [/] :smile:" in capsys.readouterr().out


def test_a_table_in_a_pipe_is_neither_cut_nor_wrapped_nor_padded(capsys: pytest.CaptureFixture[str]) -> None:
    """`genlock history m | grep` lost the ends of long messages."""
    output.say(Table(("A", "N>"), [("x" * 200, 1), ("y", 10)]))
    rows = capsys.readouterr().out.splitlines()
    assert [row.split() for row in rows] == [["A", "N"], ["x" * 200, "1"], ["y", "10"]]
    assert rows[1].endswith("   1") and rows[2].endswith("  10")


def test_a_table_on_a_terminal_stays_within_its_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long message wrapped over the columns of the next row; now it continues in its own column, and the others stay whole."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output.say(Table(("VERSION", "ABOUT"), [("0123456789ab", "m" * 60 + " " + "n" * 90)]))
    rows = capsys.readouterr().out.splitlines()
    assert rows[1].split() == ["0123456789ab", "m" * 60]
    assert all(len(row) <= 80 and row.startswith(" " * 14) for row in rows[2:])
    assert "".join(row.strip() for row in rows[2:]) == "n" * 90


def test_a_sentence_on_a_terminal_is_broken_between_words_and_nothing_of_it_is_lost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path was broken in the middle, and could not be copied."""
    monkeypatch.setenv("COLUMNS", "40")
    path = "/a-long/" + "x" * 60
    output.notice(f"the file {path} is not there\nnext")
    assert capsys.readouterr().err == f"the file {path} is not there\nnext\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    output.notice(f"the file {path} is not there\nnext")
    assert capsys.readouterr().err == f"the file\n{path}\nis not there\nnext\n"


def test_only_what_is_said_is_joined() -> None:
    """An empty message left a dot with nothing behind it."""
    assert output.joined("a", "", "b") == "a · b"
    assert output.one_line(" a\n  b\t") == "a b"
