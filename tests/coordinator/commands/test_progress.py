"""How far long work is, and what Ctrl-C leaves behind."""

import io
import sys

import pytest
from genlock.coordinator.commands.progress import Bars, FlipBars, Interrupted, amount_of
from genlock.coordinator.flip import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("progress", "said"),
    [
        (Progress("staging", 500, 2_000_000, "cnn"), "500 B of 2.0 MB · cnn"),
        (Progress("verifying", 0, 0), "0 B of 0 B"),
        (Progress("waiting", 2, 4, "fencing"), "2 of 4 ready · fencing"),
    ],
)
def test_an_amount_has_the_unit_of_its_stage(progress: Progress, said: str) -> None:
    """Workers were counted in bytes."""
    assert amount_of(progress) == said


def test_nothing_is_drawn_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """The log of a training job was full of escape codes."""
    with Bars() as bars:
        bars(Progress("staging", 1, 2))
    assert capsys.readouterr() == ("", "")
    assert bars.stage == "staging"


def test_a_terminal_has_a_bar_for_each_stage_and_they_go_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was left of a bar stood between the lines of the answer."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Bars() as bars:
        for done in (1, 2):
            bars(Progress("staging", done, 2, "[bold]cnn"))
        bars(Progress("waiting", 0, 4))
    text = terminal.getvalue()
    assert "staging" in text and "2 B of 2 B · [bold]cnn" in text and "0 of 4 ready" in text
    assert text.endswith("\x1b[1A\x1b[2K")  # one line up, and cleared
    assert capsys.readouterr().out == ""


def test_ctrl_c_before_the_proposal_was_answered_does_not_pretend_to_know() -> None:
    """ "Nothing was proposed" was said while the proposal was on its way."""
    with pytest.raises(Interrupted, match="before the fleet had answered"), FlipBars("m") as bars:
        bars(Progress("staging", 1, 2))
        raise KeyboardInterrupt


def test_ctrl_c_while_the_fleet_works_says_how_to_stop_it() -> None:
    """The fleet does not need the publisher any more: Ctrl-C stops nothing there."""
    with pytest.raises(Interrupted, match="genlock abort m"), FlipBars("m") as bars:
        bars(Progress("waiting", 1, 2))
        raise KeyboardInterrupt


def test_other_errors_pass() -> None:
    """Only Ctrl-C is told otherwise."""
    with pytest.raises(ValueError, match="x"), FlipBars("m"):
        raise ValueError("x")
