"""How far long work is: bars on a terminal, nothing elsewhere; and what Ctrl-C leaves behind.

rich is imported only when there is something to draw, and a terminal to draw it on.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import output, words

if TYPE_CHECKING:
    from ..flip import Progress

#: Exit status of a program that Ctrl-C has ended (128 + SIGINT).
INTERRUPTED = 130
#: Stages whose progress is told in bytes; that of the others is in workers.
IN_BYTES = frozenset({"staging", "verifying"})


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, and what goes on in spite of it."""


class Bars:
    """Called with each Progress; one bar for each stage, gone when the block has ended."""

    def __init__(self) -> None:
        self.stage = ""  #: the last one that was heard of
        self._drawn: Any = None
        self._bar: Any = None

    def __call__(self, progress: Progress) -> None:
        if sys.stderr.isatty():
            self._draw(progress)
        self.stage = progress.stage

    def __enter__(self) -> Bars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._drawn is not None:
            self._drawn.stop()

    def _draw(self, progress: Progress) -> None:
        if self._drawn is None:
            self._drawn = _start_drawing()
        if progress.stage != self.stage:
            self._bar = self._drawn.add_task(progress.stage, amount="")
        amount = amount_of(progress)
        self._drawn.update(self._bar, completed=progress.done, total=progress.total or None, amount=amount)


class FlipBars(Bars):
    """The bars of a publish or rollback: Ctrl-C says what becomes of the proposal."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self._model = model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(self._left_behind()) from error

    def _left_behind(self) -> str:
        if self.stage == "waiting":
            return (
                f"interrupted: the fleet goes on with what was proposed for model {self._model!r};"
                f" `genlock abort {self._model}` stops it, `genlock status {self._model}` shows it"
            )
        return (
            "interrupted before the fleet had answered to the proposal;"
            f" `genlock status {self._model}` shows whether there is one"
        )


def _start_drawing() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}", markup=False))
    drawn = Progress(*columns, console=Console(stderr=True), transient=True)
    drawn.start()
    return drawn


def amount_of(progress: Progress) -> str:
    """How much is done, in the unit of the stage."""
    if progress.stage in IN_BYTES:
        return output.joined(f"{words.size(progress.done)} of {words.size(progress.total)}", progress.text)
    return output.joined(f"{progress.done} of {progress.total} ready", progress.text)
