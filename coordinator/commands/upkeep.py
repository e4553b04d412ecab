"""`genlock verify`, `gc`, `redis`: the store and the embedded server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..upkeep import LEAST_KEPT
from . import output, words
from .output import Table, joined
from .progress import Bars
from .publishing import read_whole
from .session import Session

#: Behind every generation: what waits as next has no number yet.
LAST = 2**53

if TYPE_CHECKING:
    from ..store import StoredObject
    from ..upkeep import Damage


def read_keep(text: str) -> int:
    """How many generations of a model stay; raises typer.BadParameter."""
    if (number := read_whole(text)) < LEAST_KEPT:
        raise typer.BadParameter(f"{LEAST_KEPT} at least: what is active, and the way back")
    return number


def verify(
    session: Session,
    set_aside: Annotated[
        bool,
        typer.Option("--set-aside", help="Move what is damaged away, so that publishing the same checkpoint mends it."),
    ] = False,
) -> None:
    """Read every stored artifact again, compare it with its digest."""
    with Bars() as bars:
        found = session.fleet.verify(set_aside=set_aside, progress=bars)
    session.show(found, lambda: said_of_damage(found))
    if found:
        raise typer.Exit(1)


def gc(
    session: Session,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    keep: Annotated[
        int | None,
        typer.Option(
            "--keep",
            parser=read_keep,
            metavar="K",
            help="Of each model keep only the last K committed generations; default: 64.",
        ),
    ] = None,
) -> None:
    """Remove stored artifacts that no generation needs any more.

    And leftovers; nothing that was used within the last hour. What is active, in work or next stays always. There is no way back to a
    generation whose artifacts were removed.
    """
    found = session.fleet.gc(dry_run=dry_run, keep=keep)
    session.show(found, lambda: [said_of_removed(found, dry_run=dry_run)])


def said_of_damage(found: list[Damage]) -> list[str | Table]:
    """A row for each damaged object."""
    if not found:
        return ["every artifact is what its digest says"]
    rows = [(words.short(d.digest), generations_of(d), _place(d), d.why) for d in found]
    told: list[str | Table] = [
        f"{words.counted(len(found), 'artifact')} damaged or missing",
        Table(("DIGEST", "GENERATIONS", "FILE", "WHY"), rows),
    ]
    if any(not d.aside and not d.missing for d in found):
        told.append(
            "`genlock verify --set-aside` moves damaged files away: only then does publishing their checkpoints again mend them"
        )
    if any(d.models for d in found):
        told.append(
            "`genlock history MODEL` says which checkpoint a generation was; publish that again, or go back: `genlock rollback MODEL`"
        )
    return told


def generations_of(damage: Damage) -> str:
    """Which generations need it: `digits 4 (active), 2`; the newest first."""
    found: dict[str, list[str]] = {}
    for use in sorted(damage.generations, key=lambda one: (one.model, -(one.generation or LAST))):
        number = str(use.generation) if use.generation else "what waits as next"
        found.setdefault(use.model, []).append(number + (" (active)" if use.active else ""))
    return "; ".join(f"{model} {', '.join(numbers)}" for model, numbers in found.items()) or "-"


def _place(damage: Damage) -> str:
    if damage.missing:
        return "missing"
    return "moved away" if damage.aside else "still there"


def said_of_removed(found: list[StoredObject], *, dry_run: bool) -> str:
    """How many, and how much room."""
    did = "would be removed" if dry_run else "removed"
    room = words.size(sum(one.size for one in found))
    return joined(f"{words.counted(len(found), 'file')} {did}", room)


def said_of_stop(where: str, connections: int | None) -> list[str]:
    """What has become of the server; `connections` that others had to it, None: it did not run."""
    if connections is None:
        return [f"no server runs at {where}"]
    there = f"{words.counted(connections, 'connection')} of others went with it: a worker, watch or admin that still runs starts it again"
    return [f"stopped the server at {where}", *([there] if connections else [])]


def redis(
    session: Session,
    stop: Annotated[
        bool, typer.Option("--stop", help="End the one that runs, after it has written everything.")
    ] = False,
) -> None:
    """Run genlock's own server in the foreground; --stop ends it.

    Without a Redis URL every command and worker starts it in the background when none runs; there it stays until --stop.
    """
    from ..server import EmbeddedServer

    server = EmbeddedServer(session.settings.state_dir)
    if stop:
        connections = server.connections()
        stopped = server.stop()
        answer = {"outcome": "stopped" if stopped else "not running", "where": server.where, "connections": connections}
        session.show(answer, lambda: said_of_stop(server.where, connections if stopped else None))
        return
    if session.as_json:
        raise typer.BadParameter("--json goes with --stop: in the foreground the server writes its log")
    if server.pid() is None:
        output.notice(f"genlock's own server at {server.where}; Ctrl-C ends it")
    if session.settings.redis_url:
        output.notice("a Redis URL is set, so commands and workers that have it use that one instead")
    status = server.run_foreground()
    if status:
        raise typer.Exit(1)
