"""What a publish or a rollback came to: Flip; how far it is: Progress; and the error that a decision against it becomes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .canary import ALL
from .errors import (
    BadInput,
    Conflict,
    FlipAborted,
    FlipRejected,
    FlipSuperseded,
    GenlockError,
    InvalidName,
    LockLost,
    NoGeneration,
    Pinned,
    Poisoned,
    RequestReused,
    UnknownModel,
)
from .records import as_number, as_object
from .reply import Answer, Reply

#: States of a proposal that is not decided yet.
IN_WORK = frozenset({"candidate", "next"})
#: The state of one that answers a share of the requests, and waits for a policy or for people.
CANARY = "canary"


class Progress(msgspec.Struct, frozen=True):
    """How far a publish is. `stage`: staging (`done` of `total` bytes) or waiting (of workers that are ready); `text`: of what."""

    stage: str
    done: int
    total: int
    text: str = ""


class Flip(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of a proposal.

    `outcome`: committed, rejected, superseded, aborted; canary where people promote it; candidate or next where nobody waited.
    `seconds`: of stage, propose and total on this process's clock, of prepare, canary and fence on the server's; what did not happen is
    left out. `workers`: by name ("host:pid"), what each said last: state, seconds, why. `unproven`: nobody held the model. `size`: bytes
    of the artifacts.
    """

    model: str
    generation: int | None
    version: str
    outcome: str
    request: str
    seconds: dict[str, float] = {}
    workers: dict[str, dict[str, Any]] = {}
    unproven: bool = False
    size: int = 0


def phases_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of prepare, canary, fence and total of a stored outcome; times of the server's clock."""
    # Milliseconds as the scripts write them; 0: unknown.
    started, tried, fencing, ended = (as_number(row.get(name)) for name in ("started", "tried", "fencing", "ended"))
    spans = {
        "prepare": (started, tried or fencing or ended),
        "canary": (tried, fencing or ended),
        "fence": (fencing, ended),
        "total": (started, ended),
    }
    return {name: (to - since) / 1000 for name, (since, to) in spans.items() if since and to}


def workers_of(row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Worker → what it said last, of a stored outcome; a member that never gave its name stands there by its id."""
    said = row.get("workers")
    entries = said.items() if isinstance(said, dict) else ()
    return {str(about.get("worker") or member): dict(about) for member, about in entries if isinstance(about, dict)}


def error_of(flip: Flip, answer: Answer, *, had_active: bool = True, pinned: int | None = None) -> GenlockError | None:
    """The error of a candidate that ended otherwise than committed. `had_active`: whether a generation stays active then; `pinned`: the
    generation that a rollback leaves the model pinned at."""
    generation = flip.generation or 0
    if answer.state == "rejected":
        return FlipRejected(
            flip.model, generation, flip.version, answer.why, answer.step, answer.worker, flip, had_active, pinned
        )
    if answer.state == "superseded":
        return FlipSuperseded(flip.model, flip.version, answer.why, flip, pinned)
    if answer.state == "aborted":
        return FlipAborted(flip.model, generation, answer.why, flip, pinned)
    return None


def refusal_of(
    reply: Reply, model: str, *, request: str = "", version: str = "", seen: int = 0, to: int | None = None
) -> GenlockError:
    """The error of a change that was refused. `seen`: the generation that it was decided on; `to`: the one to go back to."""
    refusals: dict[str, GenlockError] = {
        "lock": LockLost(model, str(as_object(reply.holder).get("who", ""))),
        "poisoned": Poisoned(model, reply.version or version, reply.why, to),
        "conflict": Conflict(model, _named(str(seen)), _named(reply.found or "0")),
        "nowhere": NoGeneration(model, to, reply.why),
        "unknown-model": UnknownModel(model),
        "plan": BadInput("canary", "the scripts do not take it"),
        "busy": Conflict(model, "a free place for a task", "16 tasks that run or have just ended"),
        "pinned": _pinned(reply, model),
        "reused": RequestReused(request, _used(reply.found or "", reply)),
    }
    return refusals.get(reply.verdict) or InvalidName(model)


def check_is_of(
    verb: str, answer: Answer | None, request: str, *, generation: int | None = None, share: int | None = None
) -> None:
    """Raises RequestReused where the request is known as that of another change. `verb`: the script of this one; `generation`,
    `share`: those that it names."""
    if answer is None or not answer.verb:
        return
    asked = ((generation, answer.generation), (share, answer.share))
    if answer.verb != verb or any(None not in pair and pair[0] != pair[1] for pair in asked):
        raise RequestReused(request, _used(answer.verb, answer))


def _used(verb: str, known: Answer | Reply) -> str:
    """What a request is known as, for people."""
    if verb == "propose":
        return f"publish of version {known.version[:12]}"
    if verb == "rollback" and known.target is not None:
        return f"rollback to generation {known.target}"
    if verb == "abort" and known.generation is not None:
        return f"abort of generation {known.generation}"
    if verb == "promote" and known.share is not None:
        return f"promote to {(known.share or ALL) * 100 / ALL:g} %"
    return verb


def _named(generation: str) -> str:
    return "none" if generation == "0" else f"generation {generation}"


def _pinned(reply: Reply, model: str) -> Pinned:
    pin = reply.pin or {}
    generation = reply.generation or as_number(pin.get("gen"))
    return Pinned(model, str(pin.get("by", "?")), as_number(pin.get("at")) / 1000, str(pin.get("why", "")), generation)
