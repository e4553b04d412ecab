"""`genlock verify`, `gc`, `redis`: the store and the embedded server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from . import output, words
from .output import Table, joined
from .progress import Bars
from .session import Session

if TYPE_CHECKING:
    from ..store import StoredObject
    from ..upkeep import Damage


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
            "--keep", min=2, metavar="K", help="Of each model keep only the last K committed generations; default: 64."
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
    rows = [
        (words.short(d.digest), ", ".join(d.models) or "-", "moved away" if d.aside else "left", d.why) for d in found
    ]
    told: list[str | Table] = [
        f"{words.counted(len(found), 'artifact')} damaged or missing",
        Table(("DIGEST", "MODELS", "NOW", "WHY"), rows),
    ]
    if not all(d.aside for d in found):
        told.append(
            "`genlock verify --set-aside` moves damaged ones away; publish those checkpoints again to mend the store"
        )
    return told


def said_of_removed(found: list[StoredObject], *, dry_run: bool) -> str:
    """How many, and how much room."""
    did = "would be removed" if dry_run else "removed"
    room = words.size(sum(one.size for one in found))
    return joined(f"{words.counted(len(found), 'file')} {did}", room)


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
        stopped = server.stop()
        answer = {"outcome": "stopped" if stopped else "not running", "where": server.where}
        session.show(
            answer,
            lambda: [f"stopped the server at {server.where}" if stopped else f"no server runs at {server.where}"],
        )
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
