"""`genlock top`: the fleet at a terminal, live.

It asks for the fleet's state as `genlock status` and `workers` do, once per interval, and draws picture.py's lines. Without a terminal, and
with --once, it is one picture. While Redis does not answer, the last picture stays and says how old it is.
"""

from __future__ import annotations

import os
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import typer

from ..agreement import agreement_of
from ..errors import Unavailable
from .layout import Line, Room
from .looking import said_of_event
from .picture import EVENTS, Look, Rates, picture_of
from .publishing import read_seconds
from .session import Session

if TYPE_CHECKING:
    from ..fleet import Fleet

#: Seconds between two looks: a thousand workers and a hundred models cost a tenth of that.
INTERVAL_S = 1.0
#: Seconds between two looks at the keyboard and at the size of the terminal.
KEY_S = 0.1
#: What rich calls our styles; with NO_COLOR it leaves their colours out.
STYLES = {"good": "bold green", "news": "yellow", "bad": "bold red", "head": "bold", "quiet": "dim"}
#: What ends it, beside Ctrl-C.
QUIT = b"qQ"
#: Bytes of keys that are read at a time: an arrow has three.
KEY_BYTES = 64


def top(
    session: Session,
    interval: Annotated[
        float | None, typer.Option(metavar="TIME", parser=read_seconds, help="Time between two looks: 2, 500ms.  [1]")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="One picture, of all there is.")] = False,
) -> None:
    """Show live whether all workers agree; q ends it.

    Below that: models and what goes on with them, workers by host and what they hold (digits=3!4 shows generation 3 where 4 is active), the
    last events. Without a terminal it is one picture, as with --once.
    """
    look, rates = look_at(session.fleet), Rates()
    rates.saw(look.workers)
    if session.as_json or once or not (sys.stdin.isatty() and sys.stdout.isatty()):
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        lines = [] if session.as_json else picture_of(look, rates, Room(width), now=look.at)
        session.show(document(look), lambda: [line.text for line in lines])
        return
    session.tell_of_server()
    with drawing() as terminal:
        watch(session.fleet, look, rates, terminal, keys, max(KEY_S, INTERVAL_S if interval is None else interval))


def look_at(fleet: Fleet) -> Look:
    """The fleet now; the workers first, as agreement_of wants them."""
    workers = fleet.workers()
    status = fleet.status()
    events = [said_of_event(event) for event in fleet.events(newest=EVENTS)]
    return Look(status, workers, events, time.time())


def document(look: Look) -> dict[str, Any]:
    """For programs: whether all agree, then what `status` and `workers` give."""
    agreement: dict[str, Any] = msgspec.to_builtins(agreement_of(look.fleet, look.workers, now=look.at))
    return {"agreement": agreement, **msgspec.to_builtins(look.fleet), "workers": look.workers}


class Terminal(NamedTuple):
    """What a live picture is drawn with. `draw`: shows lines; `size`: the room that there is now."""

    draw: Callable[[list[Line]], None]
    size: Callable[[], Room]


def watch(
    fleet: Fleet,
    look: Look,
    rates: Rates,
    terminal: Terminal,
    wait: Callable[[float], bool],
    interval_s: float,
) -> None:
    """Looks and draws until `wait` (seconds → whether to end) says so; draws anew at once when the room changes, or a second has passed."""
    lost, looked_at = "", time.monotonic()
    while True:
        room = terminal.size()
        terminal.draw(picture_of(look, rates, room, now=time.time(), lost=lost))
        due = min(time.monotonic() + INTERVAL_S, looked_at + interval_s)
        while True:
            if wait(KEY_S):  # also where every look takes longer than the interval
                return
            if room != terminal.size() or time.monotonic() >= due:
                break
        if time.monotonic() >= looked_at + interval_s:
            try:
                look, lost = look_at(fleet), ""
            except Unavailable as error:
                lost = str(error)
            rates.saw(look.workers)
            looked_at = time.monotonic()


def keys(seconds: float) -> bool:
    """Waits so long for a key; whether it is one that ends it."""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    if not ready:
        return False
    pressed = os.read(sys.stdin.fileno(), KEY_BYTES)
    return not pressed or any(key in QUIT for key in pressed)  # several at once, if they came quickly


@contextmanager
def drawing() -> Iterator[Terminal]:
    """The terminal's other screen, keys without Return; all as before at the end. Ctrl-C ends the block as q does."""
    import termios
    import tty

    from rich.console import Console
    from rich.live import Live

    before = termios.tcgetattr(sys.stdin)
    console = Console(highlight=False, markup=False, emoji=False)
    try:
        tty.setcbreak(sys.stdin)
        with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            yield Terminal(
                lambda lines: live.update(_drawn(lines), refresh=True), lambda: Room(*shutil.get_terminal_size())
            )
    except KeyboardInterrupt:
        pass  # how this is meant to end
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _drawn(lines: list[Line]) -> Any:
    from rich.console import Group
    from rich.text import Text

    return Group(*(Text(line.text, STYLES.get(line.style, ""), no_wrap=True, overflow="ellipsis") for line in lines))
