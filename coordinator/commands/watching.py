"""`genlock watch`: publishes what a training job writes that cannot be changed."""

from __future__ import annotations

import logging
import re
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import logs
from ..errors import GenlockError, Misuse
from . import output, words
from .session import Session

if TYPE_CHECKING:
    from ..watching import Offered, Watcher

_log = logging.getLogger("genlock.watch")

#: Seconds between two moments in which a signal is sure to be heard.
HEAR_S = 1.0
#: The message of what is published.
NOTE = "noticed by genlock watch"


def watch(
    session: Session,
    folders: Annotated[
        list[str], typer.Argument(metavar="DIR", help="A folder with MODEL.pt in it, a pattern, or MODEL=PATH.")
    ],
    pattern: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="What to look for below each DIR, as in 'runs/{model}/best.pt'."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Look once, publish what is new, and end.")] = False,
) -> None:
    """Publish checkpoints that a training job writes, as they change.

    DIR/m.pt (.pth, .safetensors, .pt2) is model m unless a pattern says otherwise: 'runs/{model}/best.pt';
    'runs/{model}/{artifact}.safetensors' for several files of one model. A file is published when nobody writes to it any more, whole or
    not at all. Goes on until SIGTERM or Ctrl-C; log lines go to stderr (GENLOCK_LOG=json for programs). With --once it ends with the
    status that `genlock publish` would have.
    """
    from ..watching import Patterned, Watcher, patterns_of

    if session.as_json and not once:
        raise typer.BadParameter("--json goes with --once; set GENLOCK_LOG=json for log lines that programs can read")
    for folder in folders:
        if Path(folder).is_file():
            raise typer.BadParameter(f"{folder} is a file: say MODEL={folder}")
    found = Patterned(patterns_of(folders, pattern or ()))
    logs.set_up(session.settings.log)
    session.fleet.status()  # what cannot work is better said now, and the embedded server started
    session.tell_of_server()
    watcher = Watcher(session.settings, found, note=NOTE)
    if once:
        _once(session, watcher, ", ".join(folders))
    else:
        where = (
            f"fleet {session.settings.fleet} at {session.fleet.endpoint.where}, store {session.settings.store_place}"
        )
        _log.info("publishes into %s", where, extra={"event": "watching", "fleet": session.settings.fleet})
        _on_and_on(watcher)
        _log.info("ended", extra={"event": "ended", "fleet": session.settings.fleet})


def _on_and_on(watcher: Watcher) -> None:
    """In a thread of its own: a signal is heard in the main one, and must not meet it holding a lock."""
    thread = threading.Thread(target=watcher.run, name="genlock-watch")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        thread.start()
        while thread.is_alive():
            thread.join(HEAR_S)
    except KeyboardInterrupt:
        pass
    finally:
        watcher.stop()
        thread.join()
        signal.signal(signal.SIGTERM, before)


def _once(session: Session, watcher: Watcher, looked_at: str) -> None:
    found = watcher.once()
    offered = [one if not isinstance(one, tuple) else _failed(*one) for one in found]
    session.show(offered, lambda: [_said_of(one) for one in offered] or [f"no checkpoint found in {looked_at}"])
    if status := max(map(_status_of, found), default=0):
        raise typer.Exit(status)


def _failed(model: str, error: Exception) -> Offered:
    from ..watching import Offered

    outcome = error.outcome if isinstance(error, GenlockError) else "failed"
    return Offered(model=model, outcome=outcome, why=str(error) or type(error).__name__)


def _status_of(found: Offered | tuple[str, Exception]) -> int:
    """A command line cannot be wrong any more when files are looked at."""
    if not isinstance(found, tuple):
        return int(found.outcome == "odd")
    error = found[1]
    return error.exit_status if isinstance(error, GenlockError) and not isinstance(error, Misuse) else 1


def _said_of(found: Offered) -> str:
    if found.model is None:
        return f"{found.outcome}: {output.one_line(found.why)}"
    generation = f"generation {found.generation} ({words.short(found.version)})" if found.version else ""
    named = f"model {found.model!r}"  # the line has it already
    why = re.sub(f" (of|for) {re.escape(named)}", "", found.why).replace(named, "it")
    return output.joined(f"{found.model}: {found.outcome}", generation, output.one_line(why))
