"""The command: its options, its output and its exit status. What happens in between is played here, and real in the flow."""

import io
import json
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint

import genlock.worker.demo as package
import pytest
from genlock.coordinator.commands import main as genlock
from genlock.coordinator.commands import program
from genlock.worker.demo import program as room
from genlock.worker.demo.board import Plan
from genlock.worker.demo.live import LiveView
from genlock.worker.demo.news import Published, Request
from genlock.worker.demo.plain import Lines
from genlock.worker.demo.program import epochs_in, main
from genlock.worker.demo.run import Run
from rich.console import Console


@pytest.fixture(autouse=True)
def hooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is found where pyproject.toml says that it is."""
    found = EntryPoint("demo", "genlock.worker.demo:command", "genlock.commands")
    monkeypatch.setattr(program, "_entry_points", lambda: [found])


def play(monkeypatch: pytest.MonkeyPatch, tell: Callable[[Run], None]) -> None:
    monkeypatch.setattr(Run, "show", tell)


def good(run: Run) -> None:
    """A whole run in order."""
    board = run.board
    board.start = board.began
    for generation in range(1, run._plan.epochs + 2):
        at = board.began + generation
        workers = run._plan.workers if generation > 1 else 0
        version = f"v{generation}"
        board.hear(
            Published(
                outcome="committed", what="epoch", generation=generation, version=version, workers=workers, ended=at
            ),
            at,
        )
        board.hear(Request(at + 0.1, at + 0.2, 0.1, generation, version, "h:1"), at)
    board.hear(Published(outcome="rejected", what="full of NaN", broken=True, generation=99), board.began)


def bad(run: Run) -> None:
    """The same, and at the end somebody sees the first generation again."""
    good(run)
    at = run.board.began + 100
    run.board.hear(Request(at, at + 1, 1.0, 1, "v1", "h:2"), at)


def test_a_run_that_keeps_its_promises_ends_with_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play(monkeypatch, good)
    assert genlock(["demo", "--seconds", "6", "--workers", "3"]) == 0
    out, err = capsys.readouterr()
    first, last = out.splitlines()[0], out.splitlines()[-1]
    assert first == "genlock demo: 3 gunicorn workers, 8 keep-alive clients, one training job, 6 s"
    assert last == "Every promise was kept."
    assert err == ""


def test_a_run_that_breaks_a_promise_ends_with_1_and_says_which(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play(monkeypatch, bad)
    assert main(["--seconds", "6"]) == 1
    out = capsys.readouterr().out
    assert "✗ Nobody sees an older answer after a newer one" in out
    assert out.splitlines()[-1] == "Broken: Nobody sees an older answer after a newer one."


@pytest.mark.parametrize(("tell", "status"), [(good, 0), (bad, 1)])
def test_json_is_one_document_and_alone_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tell: Callable[[Run], None], status: int
) -> None:
    play(monkeypatch, tell)
    assert genlock(["demo", "--json", "--seconds", "6"]) == status
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["ok"], found["order_violations"]) == (not status, status)
    assert "WHAT WAS PROMISED" in err


def test_what_is_not_installed_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(room, "NEEDED", ("torch", "no_such_module"))
    assert genlock(["demo"]) == 1
    assert "the demo needs no_such_module: `pip install 'genlock[demo]'`" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--seconds", "1"], ["--workers", "0"], ["--port", "70000"], ["--clients", "x"]])
def test_values_that_make_no_demo_are_usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert genlock(["demo", *words]) == 2
    assert words[0] in capsys.readouterr().err


def test_checkpoints_are_even_and_not_too_close() -> None:
    assert [epochs_in(seconds) for seconds in (3, 6, 7, 30, 3600)] == [4, 8, 8, 12, 12]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_only_a_terminal_that_can_draw_gets_the_live_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """FORCE_COLOR makes rich take a pipe for a terminal; a log full of cursor movements helps nobody."""
    plan = Plan(6, 2, 2, 8)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(room._display(Console(file=Terminal()), plan, live=True), LiveView)
    assert isinstance(room._display(Console(file=Terminal()), plan, live=False), Lines)
    assert isinstance(room._display(Console(file=io.StringIO()), plan, live=True), Lines)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(room._display(Console(file=Terminal()), plan, live=True), Lines)


def test_who_wants_the_net_gets_no_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every worker imports the package for its net."""
    assert package.command is room.command
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018
    monkeypatch.setattr(sys, "argv", ["demo", "--help"])
    assert main() == 0
