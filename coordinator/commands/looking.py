"""`genlock status`, `workers`, `history`, `events`: what is, and what was."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from . import output, words
from .output import Table, joined
from .publishing import Model
from .session import Session

if TYPE_CHECKING:
    from ..records import Event
    from ..status import FleetStatus, Generation, ModelStatus, WorkerStatus

#: Facts of an event that people have no use for.
_QUIET_FACTS = ("request",)


def status(
    session: Session,
    model: Annotated[str | None, typer.Argument(help="The model; unset: the fleet.", show_default=False)] = None,
) -> None:
    """Show the fleet and its models, or one model."""
    if model is not None:
        found = session.fleet.model(model)
        session.show(found, lambda: said_of_model(found, time.time()))
    else:
        fleet = session.fleet.status()
        session.show(fleet, lambda: said_of_fleet(fleet, time.time()))


def workers(session: Session) -> None:
    """Show the live workers and what each holds."""
    found = session.fleet.workers()
    session.show(found, lambda: said_of_workers(found, time.time()))


def history(session: Session, model: Model) -> None:
    """Show the generations of a model, the newest first."""
    found = session.fleet.history(model)
    session.show([_entry(row) for row in found], lambda: said_of_history(found, time.time()))


def events(
    session: Session,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C; with --json a document a line.")
    ] = False,
) -> None:
    """Show the audit log: every change, who and why; the newest last."""
    found = session.fleet.events(follow=follow)
    if not follow:
        entries = list(found)
        session.show([_event(entry) for entry in entries], lambda: [said_of_event(entry) for entry in entries])
        return
    for entry in found:
        print(output.line(_event(entry)) if session.as_json else output.printable(said_of_event(entry)), flush=True)


# --- for programs -------------------------------------------------------------------------------------------


def _entry(row: Generation) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(row)
    return {**fields, "created_at": words.iso(row.created_at) if row.created_at else None}


def _event(entry: Event) -> dict[str, Any]:
    return {"id": entry.id, "at": words.iso(entry.at), "what": entry.what, "model": entry.model, "facts": entry.facts}


# --- for people -----------------------------------------------------------------------------------------------


def said_of_fleet(fleet: FleetStatus, now: float) -> list[str | Table]:
    """The fleet in a line or two, then a row for each model."""
    state = "open" if fleet.open else "closed (watched for one lease before it is trusted)"
    head = joined(f"fleet {fleet.name}", state, words.counted(fleet.workers, "worker"), f"lease {fleet.lease_s:g} s")
    places = [f"redis  {fleet.redis}", f"store  {fleet.store}"]
    if not fleet.models:
        return [head, *places, "no model yet: `genlock publish MODEL PATH` makes one"]
    columns = ("MODEL", "GEN>", "VERSION", "SINCE", "HOLDERS>", "STATE")
    rows = [
        (m.model, _or_dash(m.generation), words.short(m.version), words.age(m.committed_at, now), m.holders, _state(m))
        for m in fleet.models
    ]
    return [head, *places, "", Table(columns, rows)]


def said_of_model(model: ModelStatus, now: float) -> list[str | Table]:
    """One model, a fact a line."""
    active = f"generation {model.generation} ({words.short(model.version)}), {words.age(model.committed_at, now)}"
    facts = {
        "model": model.model,
        "active": active if model.generation is not None else "nothing yet",
        "by": model.author,
        "message": model.message,
        "state": _state(model),
        "holders": str(model.holders),
        "poisoned": f"{words.counted(model.poisoned, 'version')} found bad" if model.poisoned else "",
    }
    return [f"{name:<9} {output.one_line(fact)}" for name, fact in facts.items() if fact]


def said_of_workers(workers: list[WorkerStatus], now: float) -> list[str | Table]:
    """A row for each worker."""
    if not workers:
        return ["no worker is a member of this fleet now"]
    rows = [
        (
            w.worker,
            words.age(w.started_at, now).removesuffix(" ago"),
            len(w.models),
            ", ".join(f"{model}={w.generations.get(model, '?')}" for model in w.models) or "-",
            w.last_error or "-",
        )
        for w in workers
    ]
    if all(row[-1] == "-" for row in rows):
        return [Table(("WORKER", "UP", "MODELS>", "HOLDS (MODEL=GENERATION)"), [row[:-1] for row in rows])]
    return [Table(("WORKER", "UP", "MODELS>", "HOLDS (MODEL=GENERATION)", "LAST ERROR"), rows)]


def said_of_history(rows: list[Generation], now: float) -> list[str | Table]:
    """A row for each generation."""
    if not rows:
        return ["nothing is kept of its generations"]
    told = [
        (
            row.generation,
            words.short(row.version),
            "active" if row.active else row.outcome,
            words.age(row.created_at, now),
            row.author,
            _about(row),
        )
        for row in rows
    ]
    return [Table(("GEN>", "VERSION", "OUTCOME", "STAGED", "BY", "ABOUT"), told)]


def said_of_event(event: Event) -> str:
    """An event on one line."""
    facts = {name: fact for name, fact in event.facts.items() if fact not in ("", None) and name not in _QUIET_FACTS}
    told = " ".join(f"{name}={_fact(name, fact)}" for name, fact in facts.items())
    return output.one_line(f"{words.moment(event.at)}  {event.what:<12} {event.model or '-':<12} {told}")


def _fact(name: str, fact: Any) -> str:
    if name == "version":
        return words.short(str(fact))
    text = fact if isinstance(fact, str) else output.line(fact)
    return f'"{text}"' if " " in text and isinstance(fact, str) else text


def _about(row: Generation) -> str:
    """What there is to say of a generation: why it was decided against, what it goes back to, its message."""
    back = f"rollback to {row.rollback_of}" if row.rollback_of else ""
    decided = f"{row.step}: {row.why}" if row.step else row.why
    return joined(decided, row.worker, back, row.message)


def _state(model: ModelStatus) -> str:
    """What goes on with a model."""
    return joined(_in_work(model), _waiting(model), _pinned(model), "unproven" if model.unproven else "") or "-"


def _in_work(model: ModelStatus) -> str:
    c = model.candidate
    if c is None:
        return ""
    done = f"{c.fenced} of {c.ready + c.awaited + c.failed + c.fenced} fenced" if model.phase == "fencing" else ""
    done = done or f"{c.ready} of {c.ready + c.awaited + c.failed} ready"
    return f"{model.phase} {c.generation}: {done}" + (f", {c.failed} failed" if c.failed else "")


def _waiting(model: ModelStatus) -> str:
    return f"next: {words.short(model.waits.version)} by {model.waits.by}" if model.waits else ""


def _pinned(model: ModelStatus) -> str:
    if model.pin is None:
        return ""
    return f"pinned by {model.pin.by}" + (f" ({model.pin.why})" if model.pin.why else "")


def _or_dash(value: object) -> object:
    return "-" if value is None else value
