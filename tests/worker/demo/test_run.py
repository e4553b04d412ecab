"""The director: signals, waiting, and children that fail. The whole of it is tested by the flow."""

import os
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import pytest
from genlock.coordinator.commands.progress import Interrupted
from genlock.worker.demo.board import Board, Plan
from genlock.worker.demo.child import Child, DemoFailed
from genlock.worker.demo.news import Connected, encode
from genlock.worker.demo.run import Halt, Run


class Blind:
    """A display that only counts."""

    def __init__(self) -> None:
        self.updates = 0

    def __enter__(self) -> "Blind":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, board: Board, now: float) -> None:
        self.updates += 1


def new_run(halt: Halt | None = None) -> Run:
    return Run(Plan(6, 2, 2, 8), port=0, display=Blind(), halt=halt or Halt())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_raised_where_somebody_waits_and_nowhere_else(number: signal.Signals) -> None:
    """Between starting a process and writing down its id, an exception would leave it running."""
    before = signal.getsignal(number)
    with Halt() as halt:
        halt.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match=f"ended by {number.name}; nothing that the demo started is left running"):
            halt.check()
        with pytest.raises(Interrupted):
            new_run(halt)._wait(lambda: False, 60, "never")
    assert signal.getsignal(number) is before


def test_a_wait_has_an_end_that_says_what_was_waited_for() -> None:
    with pytest.raises(DemoFailed, match=r"waited 0.05 s until pigs fly, in vain. Last words:"):
        new_run()._wait(lambda: False, 0.05, "pigs fly", 0.01)


def test_a_child_that_fails_ends_every_wait_at_once(tmp_path: Path) -> None:
    run = new_run()
    command = [sys.executable, "-c", "raise SystemExit('no module named torch')"]
    began = time.monotonic()
    with ExitStack() as stack:
        run._add(stack, Child("gunicorn", command, env=os.environ, log=tmp_path / "log"))
        with pytest.raises(DemoFailed, match=r"gunicorn ended with status 1.*\nno module named torch"):
            run._wait(lambda: False, 60, "it serves")
        assert run._last_words() == "no module named torch"
    assert time.monotonic() - began < 30


def test_what_children_tell_is_on_the_board_and_shown() -> None:
    run = new_run()
    run._lines.put(encode(Connected(2)))
    run._wait(lambda: run.board.connected == 2, 10, "they are connected")
    assert isinstance(run._display, Blind)
    assert run._display.updates == 1
