"""`genlock publish`, `promote` and `rollback`: the commands that wait for a flip."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..flip import CANARY
from ..manifest import MAX_METRIC_CHARACTERS, is_name
from ..notation import seconds
from . import words
from .output import joined
from .progress import FlipBars
from .session import Session

if TYPE_CHECKING:
    from ..flip import Flip


def read_seconds(text: str) -> float:
    """A time of a command line; raises typer.BadParameter."""
    try:
        return seconds(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def read_whole(text: str | int) -> int:
    """A whole number of a command line; raises typer.BadParameter."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no whole number") from None


def read_metric(text: str) -> tuple[str, float]:
    """A metric of a command line, NAME=NUMBER; raises typer.BadParameter."""
    name, _, number = text.rpartition("=")
    if not 0 < len(name) <= MAX_METRIC_CHARACTERS:
        raise typer.BadParameter(f"{text!r} is no metric: write NAME=NUMBER, such as val_loss=0.12")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(f"{number!r} is no number that a metric can have: write {name}=0.12")
    return name, value


Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model.", show_default=False)]
Candidate = Annotated[
    int | None,
    typer.Option(
        metavar="GEN", parser=read_whole, help="Only if this generation is the candidate; unset: whichever is."
    ),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the fleet has decided.")]


Timeout = Annotated[
    float | None,
    typer.Option(
        metavar="TIME", parser=read_seconds, help="Longest time to get ready: 60, 2m.  [GENLOCK_PREPARE_TIMEOUT]"
    ),
]


def publish(
    session: Session,
    model: Model,
    path: Annotated[list[str], typer.Argument(metavar="PATH", help="The file; or NAME=PATH for each of several.")],
    wait: Wait = True,
    agreement: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Workers that must be ready: all, 0.9, 90%.  [GENLOCK_AGREEMENT]"),
    ] = None,
    timeout: Timeout = None,
    golden: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Inputs and outputs that every worker must reproduce.")
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Stop the candidate that is in work.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Try a version again that was found bad.")] = False,
    canary: Annotated[
        str | None,
        typer.Option(metavar="SHARES", help="First answer so many of the requests with a key: 5%, or steps: 5%,25%."),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="LIMITS",
            help="Let the figures decide on the canary: errors=1%,latency=1.25,score=0.02,requests=200,seconds=10, any of them.",
        ),
    ] = None,
    canary_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="TIME", parser=read_seconds, help="Longest time of a step of the canary: 30m; default 1h."
        ),
    ] = None,
    message: Annotated[
        str, typer.Option("--message", "-m", metavar="TEXT", help="What people should know of it.")
    ] = "",
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="What training measured: val_loss=0.12; again for each of several."),
    ] = None,
) -> None:
    """Publish a checkpoint as the next generation of a model.

    Waits until every worker that holds the model has loaded it and all of them have changed to it, or until the fleet has decided
    against it (exit status 3); then what was active stays active. With --canary and no --policy it returns when the canary has begun;
    `genlock promote` and `genlock abort` decide.
    """
    if canary is None and (policy is not None or canary_timeout is not None):
        raise typer.BadParameter("a policy and a timeout are those of a canary: say its share too, as in --canary 5%")
    what, metrics = artifacts_of(path), metrics_of(metric or [])
    with FlipBars(model) as bars:
        flip = session.fleet.publish(
            model,
            what,
            agreement=agreement,
            timeout=timeout,
            golden=golden,
            wait=wait,
            now=now,
            force=force,
            canary=canary,
            policy=policy,
            canary_timeout=canary_timeout,
            message=message,
            metrics=metrics,
            progress=bars,
        )
    session.show(flip, lambda: said_of(flip))


def promote(
    session: Session,
    model: Model,
    share: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Of the requests with a key: 25%; unset: all, it is committed.")
    ] = None,
    generation: Candidate = None,
    wait: Wait = True,
    timeout: Timeout = None,
    why: Annotated[str, typer.Option("--message", "-m", metavar="WHY", help="Why; it stands in the audit log.")] = "",
) -> None:
    """Give a canary a greater share of requests, or commit it."""
    with FlipBars(model) as bars:
        flip = session.fleet.promote(
            model, share, generation=generation, why=why, wait=wait, timeout=timeout, progress=bars
        )
    session.show(flip, lambda: said_of(flip))


def rollback(
    session: Session,
    model: Model,
    to: Annotated[
        int | None,
        typer.Option(metavar="GEN", parser=read_whole, help="The committed generation; unset: the newest way back."),
    ] = None,
    pin: Annotated[bool, typer.Option("--pin/--no-pin", help="Refuse proposals until `genlock unpin`.")] = True,
    wait: Wait = True,
    timeout: Timeout = None,
    why: Annotated[str, typer.Option("--message", "-m", metavar="WHY", help="Why; it stands in the audit log.")] = "",
) -> None:
    """Go back to an earlier generation, and pin the model there.

    Its checkpoint becomes a new generation, with a higher number. The model is pinned because the next checkpoint of a training job that
    goes on would undo the rollback.
    """
    with FlipBars(model) as bars:
        flip = session.fleet.rollback(model, to, pin=pin, why=why, wait=wait, timeout=timeout, progress=bars)
    pinned = [f"  {model} is pinned there now; `genlock unpin {model}` ends it"] if pin else []
    session.show(flip, lambda: said_of(flip) + pinned)


def artifacts_of(texts: list[str]) -> Path | dict[str, str | Path]:
    """What the PATHs of a command line mean: one file, or artifacts by name. Raises typer.BadParameter.

    A single text that has a `=` is still the path of a file if there is such a file, or if no artifact could have that name.
    """
    named = [text.partition("=") for text in texts]
    if len(texts) == 1 and (not _is_named(texts[0]) or Path(texts[0]).exists()):
        return Path(texts[0])
    for text in texts:
        if not _is_named(text):
            raise typer.BadParameter(f"{text!r} needs a name, because there are several: write NAME={text}")
    found: dict[str, str | Path] = {}
    for name, _, path in named:
        if name in found:
            raise typer.BadParameter(f"the name {name!r} stands twice: {found[name]} and {path}")
        found[name] = path
    return found


def metrics_of(texts: list[str]) -> dict[str, float]:
    """Name → number. Raises typer.BadParameter."""
    found: dict[str, float] = {}
    for name, value in map(read_metric, texts):
        if name in found:
            raise typer.BadParameter(f"the metric {name!r} stands twice: {found[name]:g} and {value:g}")
        found[name] = value
    return found


def _is_named(text: str) -> bool:
    name, equals, path = text.partition("=")
    return bool(equals and path and is_name(name))


def said_of(flip: Flip) -> list[str]:
    """What has become of it, for people."""
    version = words.short(flip.version)
    if flip.outcome == "next":
        return [
            f"{flip.model}: version {version} waits behind the candidate that is in work; `genlock status {flip.model}`"
        ]
    generation = f"{flip.model}: generation {flip.generation} ({version})"
    if flip.outcome == CANARY:
        return [
            f"{generation} answers a share of the requests with a key; `genlock status {flip.model}` shows how it does,"
            f" `genlock promote {flip.model}` and `genlock abort {flip.model}` decide"
        ]
    if flip.outcome != "committed":
        return [
            f"{generation} is {flip.outcome}; the fleet goes on by itself, `genlock status {flip.model}` shows how far it is"
        ]
    where = f"in {words.counted(len(flip.workers), 'worker')}" if flip.workers else "(no worker holds the model yet)"
    return [f"{generation} is active {where}", _times(flip)]


def _times(flip: Flip) -> str:
    """How long each phase took; without a worker there was none to get ready."""
    phases = {"stage": "staged", "prepare": "prepared", "canary": "tried", "fence": "fenced", "total": "in all"}
    happened = [name for name in phases if name in flip.seconds and (flip.workers or name in ("stage", "total"))]
    told = [f"{phases[name]} {words.took(flip.seconds[name])}" for name in happened]
    return "  " + joined(words.size(flip.size), *told)
