"""The demo as lines: for a pipe, a log, or who wants no live view."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console

from ...coordinator.commands.output import one_line
from .board import Board

#: Seconds between two lines about the clients.
EVERY_S = 5.0


class Lines:
    """Writes each thing that happened once, and every few seconds what the clients see."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._written = 0  # notes
        self._next_s = EVERY_S

    def update(self, board: Board, now: float) -> None:
        """Writes what is new."""
        for at, text in board.notes[self._written :]:
            self._say(at, text)
        self._written = len(board.notes)
        if board.passed(now) >= self._next_s:
            self._next_s += EVERY_S
            self._say(now - board.began, _clients(board, now))

    def _say(self, at: float, text: str) -> None:
        self._console.print(f"{at:6.1f} s  {one_line(text)}", soft_wrap=True)

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to put back."""


def _clients(board: Board, now: float) -> str:
    rate, latency = board.recent(now)
    return (
        f"clients: {rate:.0f} requests a second, p50 {latency.p50 * 1000:.1f} ms, p99 {latency.p99 * 1000:.1f} ms,"
        f" {board.errors} errors, {board.stale} stale answers"
    )
