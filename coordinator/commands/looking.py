"""`genlock status`, `workers`, `history`, `events`: what is, and what was."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from . import output, words
from .output import Table, joined
from .progress import INTERRUPTED
from .publishing import Model
from .session import Session

if TYPE_CHECKING:
    from ..records import Event
    from ..status import FleetStatus, Generation, ModelStatus, WorkerStatus

#: Facts of an event that a line begins with, and those that only programs have a use for.
_FIRST_FACTS = ("generation", "version", "why", "step", "worker", "by")
_QUIET_FACTS = {"request", "about"}


def status(
    session: Session,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="The model; unset: the fleet.", show_default=False)
    ] = None,
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
    """Show the audit log: every change, who and why, the newest last."""
    found = session.fleet.events(follow=follow)
    if not follow:
        entries = list(found)
        session.show([_event(entry) for entry in entries], lambda: [said_of_event(entry) for entry in entries])
        return
    try:
        for entry in found:
            print(output.line(_event(entry)) if session.as_json else said_of_event(entry), flush=True)
    except KeyboardInterrupt:  # how this is meant to end
        raise typer.Exit(INTERRUPTED) from None


# --- for programs -------------------------------------------------------------------------------------------


def _entry(row: Generation) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(row)
    return {**fields, "created_at": _iso(row.created_at), "decided_at": _iso(row.decided_at)}


def _iso(at: float | None) -> str | None:
    return words.iso(at) if at is not None else None


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
    columns = ("MODEL", "GEN>", "VERSION", "COMMITTED", "HOLDERS>", "STATE")
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
        "candidate": _candidate(model, now),
        **_figures(model),
        "watched": _watched(model, now),
        "next": _waiting(model),
        "pinned": _pinned(model, now),
        "unproven": "no worker has loaded it yet" if model.unproven else "",
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
            words.age(row.decided_at or row.created_at, now),
            row.author,
            _about(row),
        )
        for row in rows
    ]
    return [Table(("GEN>", "VERSION", "OUTCOME", "WHEN", "BY", "ABOUT"), told)]


def said_of_event(event: Event) -> str:
    """An event on one line: when, what, the model, the facts that people look for first, the others."""
    facts = {name: fact for name, fact in event.facts.items() if name not in _QUIET_FACTS and fact not in ("", None)}
    about = event.facts.get("about")  # of a member that has joined: all that it says of itself
    if isinstance(about, dict):
        facts["worker"] = about.get("worker")
    names = [name for name in _FIRST_FACTS if name in facts] + sorted(facts.keys() - set(_FIRST_FACTS))
    told = [f"{name}={_fact(name, facts[name])}" for name in names]
    return output.printable(" ".join([f"{words.moment(event.at)}  {event.what:<10}", event.model or "-", *told]))


def _fact(name: str, fact: Any) -> str:
    if name == "version":
        return words.short(str(fact))
    if not isinstance(fact, str):
        return output.line(fact)
    return output.line(fact) if " " in fact or "\n" in fact else fact


def _about(row: Generation) -> str:
    """What there is to say of a generation: why it was decided against, what it goes back to, its message and metrics."""
    metrics = " ".join(f"{name}={value:g}" for name, value in row.metrics.items() if name not in row.message)
    back = f"rollback to {row.rollback_of}" if row.rollback_of else ""
    decided = f"{row.step}: {row.why}" if row.step else row.why
    return joined(decided, row.worker, back, row.message, metrics)


def _state(model: ModelStatus) -> str:
    """What goes on with a model, for a cell of a table."""
    waits = "next waits" if model.waits else ""
    pin = f"pinned by {model.pin.by}" if model.pin else ""
    return joined(_in_work(model), waits, pin, "unproven" if model.unproven else "") or "-"


def _in_work(model: ModelStatus) -> str:
    c = model.candidate
    if c is None:
        return ""
    if c.share is not None:
        return f"canary {c.generation}: {c.share * 100:g} % of the requests with a key"
    told = c.ready + c.awaited + c.failed + c.fenced
    done = f"{c.fenced} of {told} fenced" if model.phase == "fencing" else f"{c.ready} of {told} ready"
    return f"{model.phase} {c.generation}: {done}" + (f", {c.failed} failed" if c.failed else "")


def _candidate(model: ModelStatus, now: float) -> str:
    c = model.candidate
    if c is None:
        return ""
    left = f"{words.took(c.deadline - now)} left" if c.deadline > now else "its time is over"
    return joined(f"{_in_work(model)}, {left}", f"version {words.short(c.version)}", f"by {c.by}")


def _figures(model: ModelStatus) -> dict[str, str]:
    """What is compared, a line for each group."""
    found = model.candidate.figures if model.candidate else None
    found = found or (model.watch.figures if model.watch else None) or {}
    names = {"candidate": "tried", "active": "against"}
    return {name: figures_said(found[group]) for group, name in names.items() if group in found}


def figures_said(group: dict[str, Any]) -> str:
    """What one group of a canary has done, in words."""
    p95 = f"p95 {group['p95_s'] * 1000:.3g} ms" if group["p95_s"] is not None else ""
    score = f"score {group['score']:.4g}" if group["score"] is not None else ""
    return joined(words.counted(group["requests"], "request"), words.counted(group["errors"], "error"), p95, score)


def _watched(model: ModelStatus, now: float) -> str:
    if model.watch is None or model.watch.until <= now:
        return ""
    return (
        f"for {words.took(model.watch.until - now)} more: its policy rolls it back if it does worse than the one before"
    )


def _waiting(model: ModelStatus) -> str:
    return f"version {words.short(model.waits.version)} by {model.waits.by}" if model.waits else ""


def _pinned(model: ModelStatus, now: float) -> str:
    pin = model.pin
    return f"by {pin.by}, {words.age(pin.at, now)}" + (f": {pin.why}" if pin.why else "") if pin else ""


def _or_dash(value: object) -> object:
    return "-" if value is None else value
