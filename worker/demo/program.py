"""`genlock demo` as a function that the command line makes a command of."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from .board import Plan
    from .run import Display

#: Checkpoints that the plan spreads over its time; one every 2.5 s of the 30 s that are the default.
EPOCHS = 12
#: Seconds from one checkpoint to the next that are the least: an epoch takes 0.2 s on one core, and a flip and its aftermath as long.
SHORTEST_S = 0.75
#: Modules that are not among the dependencies of every genlock (extra "demo").
NEEDED = ("torch", "sklearn", "psutil", "flask", "gunicorn")


def command(
    *,
    seconds: Annotated[
        float, typer.Option(min=3, max=3600, help="How long clients send requests while checkpoints are published.")
    ] = 30,
    workers: Annotated[int, typer.Option(min=1, max=64, help="gunicorn workers.")] = 4,
    clients: Annotated[
        int, typer.Option(min=1, max=256, help="Keep-alive connections, 25 requests a second each.")
    ] = 8,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the service on 127.0.0.1; 0: a free one.")] = 0,
    live: Annotated[
        bool, typer.Option("--live/--no-live", help="Live view, or lines; a pipe always gets lines.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object; all else goes to stderr.")] = False,
) -> None:
    """Show it: workers change model together under load, and prove it.

    A training job publishes a small net after each epoch on 1,797 handwritten digits; gunicorn workers hold it, and clients send
    digits all the while. Halfway a checkpoint full of NaN and a truncated one are published. Exit status 1 if a promise was broken.
    """
    _check_installed()
    from rich.console import Console

    from .board import Plan
    from .picture import closing
    from .report import Report
    from .run import Halt, Run

    console = Console(stderr=as_json, highlight=False, markup=False)
    plan = Plan(seconds, workers, clients, epochs_in(seconds))
    with Halt() as halt, _display(console, plan, live=live) as display:
        run = Run(plan, port=port, display=display, halt=halt)
        run.show()
    report = Report(run.board, run.memory)
    console.print(closing(run.board, report))
    if as_json:
        from ...coordinator.commands.output import document

        print(document(report.as_json()))
    if not report.ok:
        raise typer.Exit(1)


def epochs_in(seconds: float) -> int:
    """How many checkpoints fit; an even number, so that halfway lies between two of them."""
    return max(2, min(EPOCHS, int(seconds / SHORTEST_S)) // 2 * 2)


def _display(console: Console, plan: Plan, *, live: bool) -> Display:
    if live and console.file.isatty() and not console.is_dumb_terminal:
        from .live import LiveView

        return LiveView(console)
    from .plain import Lines

    console.print(f"genlock demo: {plan.title}", soft_wrap=True)
    return Lines(console)


def _check_installed() -> None:
    missing = [module for module in NEEDED if find_spec(module) is None]
    if missing:
        from .child import DemoFailed

        raise DemoFailed(f"the demo needs {', '.join(missing)}: `pip install 'genlock[demo]'` brings all that it needs")


def main(arguments: Sequence[str] | None = None) -> int:
    """The demo alone, with the exit status that `genlock demo` would have."""
    from ...coordinator.commands import main as genlock

    return genlock(["demo", *(sys.argv[1:] if arguments is None else arguments)])
