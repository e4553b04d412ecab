"""The live view: the picture of the demo, drawn again a few times a second on a terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.live import Live

from .board import Board
from .picture import picture

#: Pictures per second: flips take tens of milliseconds, eyes a tenth of a second.
RATE = 8


class LiveView:
    """Shows the picture until its block ends; then it is gone, and the report takes its place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn = float("-inf")

    def update(self, board: Board, now: float) -> None:
        """Draws, if the last picture is old enough."""
        if now - self._drawn >= 1 / RATE:
            self._drawn = now
            self._live.update(picture(board, now), refresh=True)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
