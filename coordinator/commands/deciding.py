"""`genlock abort`, `pin`, `unpin`, `clear`, `refresh`: what an operator decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from . import words
from .output import Table
from .publishing import Candidate, Model, read_seconds
from .session import Session

if TYPE_CHECKING:
    from ..task import TaskResult

Why = Annotated[str, typer.Option("--message", "-m", metavar="WHY", help="Why; it stands in the audit log.")]
Timeout = Annotated[
    float | None,
    typer.Option(metavar="TIME", parser=read_seconds, help="Longest wait: 60, 2m.  [GENLOCK_PREPARE_TIMEOUT]"),
]

#: Exit status of a task that some worker failed, and of one that some did not answer.
FAILED, SILENT = 1, 4


def abort(session: Session, model: Model, generation: Candidate = None, why: Why = "") -> None:
    """Stop the candidate of a model; what is active stays active."""
    generation = session.fleet.abort(model, generation=generation, why=why)
    answer = {"outcome": "aborted", "model": model, "generation": generation}
    session.show(answer, lambda: [f"{model}: generation {generation} is aborted; what was active stays active"])


def pin(session: Session, model: Model, why: Why = "") -> None:
    """Keep a model at its active generation.

    Proposals are refused until `genlock unpin`; a candidate that is in work is stopped.
    """
    generation = session.fleet.pin(model, why=why)
    answer = {"outcome": "pinned", "model": model, "generation": generation}
    session.show(answer, lambda: [f"{model}: pinned to generation {generation}; `genlock unpin {model}` ends it"])


def unpin(session: Session, model: Model, why: Why = "") -> None:
    """Let proposals for a pinned model in again."""
    generation = session.fleet.unpin(model, why=why)
    answer = {"outcome": "unpinned", "model": model, "generation": generation}
    session.show(answer, lambda: [f"{model}: not pinned any more; generation {generation} is active"])


def clear(
    session: Session,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="The model; unset: all of them.", show_default=False)
    ] = None,
    timeout: Timeout = None,
    why: Why = "",
) -> None:
    """Make every worker drop a model, or all models.

    A model is loaded again when it is next used.
    """
    _show(session, session.fleet.clear(model, why=why, timeout=timeout), "dropped")


def refresh(session: Session, model: Model, timeout: Timeout = None, why: Why = "") -> None:
    """Make every worker load the active generation of a model afresh.

    Beside the old copy, which answers meanwhile; there is no new generation.
    """
    _show(session, session.fleet.refresh(model, why=why, timeout=timeout), "loaded afresh")


def _show(session: Session, result: TaskResult, did: str) -> None:
    outcome, status = _judge(result)
    answer: dict[str, Any] = msgspec.to_builtins(result)
    session.show({"outcome": outcome, **answer}, lambda: _said(result, did))
    if status:
        raise typer.Exit(status)


def _judge(result: TaskResult) -> tuple[str, int]:
    """The word and the exit status of what the workers answered."""
    if result.failed:
        return "failed", FAILED
    return ("silent", SILENT) if result.silent else ("done", 0)


def _said(result: TaskResult, did: str) -> list[str | Table]:
    what = result.model or "all models"
    if not result.asked:
        return [f"{what}: no worker had to be asked"]
    bad = [(worker, f"failed: {why}") for worker, why in result.failed.items()]
    bad += [(worker, "did not answer in time") for worker in result.silent]
    summary = f"{what}: {did} by {len(result.done)} of {words.counted(result.asked, 'worker')}"
    return [summary, Table(("WORKER", "WHAT"), bad)] if bad else [summary]
