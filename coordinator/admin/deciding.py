"""The routes that change something: the verbs of Fleet, for operators.

All of them wait until it is decided, at most WAIT_S; then the answer is 202, it goes on, and the same request with the same
Idempotency-Key asks for the outcome. Each is logged with who, when, from which generation to which, and why; the audit log of the fleet
has the same author.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path
from typing import Any

import msgspec

from ..errors import BadInput, GenlockError, NotAllowed
from ..fleet import Fleet
from ..flip import Flip, Progress
from ..notation import share
from ..task import TaskResult
from .jobs import Job
from .route import API, DECIDING, Answers, Asked, route
from .wire import Abort, Clear, Decided, Pending, Promote, Publish, Refresh, Rollback, Why

_log = logging.getLogger("genlock.admin")

#: Seconds that a request waits for a decision: proxies and browsers give up on an answer that takes 30.
WAIT_S = 25.0
#: Seconds that workers get for a clear or refresh, as through a worker; who needs longer is named, and does it.
TASK_S = 20.0

Tell = Callable[[Progress], None]
_MODEL = f"{API}/models/{{model}}"
_FLIP: Answers = {200: Flip, 202: Pending}
_DECIDED: Answers = {200: Decided, 202: Pending}
_TASK: Answers = {200: TaskResult, 202: Pending}


@route("POST", f"{_MODEL}/publish", role="operator", answers=_FLIP, problems=(*DECIDING, 423, 507))
def publish(asked: Asked, body: Publish) -> Any:
    """Publish a file of the admin's host as the next generation, and wait for the fleet's decision."""
    what = _what(asked, body)
    golden = None if body.golden is None else _source(asked, "golden", body.golden)
    agreement = _agreement(body.agreement)

    def act(fleet: Fleet, tell: Tell) -> Flip:
        return fleet.publish(
            asked.model,
            what,
            canary=body.canary,
            policy=body.policy,
            canary_timeout=body.canary_timeout,
            agreement=agreement,
            timeout=body.timeout,
            message=body.message,
            metrics=body.metrics,
            golden=golden,
            now=body.now,
            force=body.force,
            wait=body.wait,
            author=asked.author,
            request=asked.request,
            progress=tell,
        )

    return _decide(asked, "publish", body, act, why=body.message)


@route("POST", f"{_MODEL}/rollback", role="operator", answers=_FLIP, problems=DECIDING)
def rollback(asked: Asked, body: Rollback) -> Any:
    """Make an earlier generation the next one, and pin the model there."""

    def act(fleet: Fleet, tell: Tell) -> Flip:
        return fleet.rollback(
            asked.model,
            body.to,
            pin=body.pin,
            why=body.why,
            wait=body.wait,
            timeout=body.timeout,
            author=asked.author,
            request=asked.request,
            progress=tell,
        )

    return _decide(asked, "rollback", body, act, why=body.why)


@route("POST", f"{_MODEL}/promote", role="operator", answers=_FLIP, problems=DECIDING)
def promote(asked: Asked, body: Promote) -> Any:
    """Give a canary a greater share of the requests, or commit it."""

    def act(fleet: Fleet, tell: Tell) -> Flip:
        return fleet.promote(
            asked.model,
            body.share,
            generation=body.generation,
            why=body.why,
            author=asked.author,
            request=asked.request,
            progress=tell,
        )

    return _decide(asked, "promote", body, act, why=body.why)


@route("POST", f"{_MODEL}/abort", role="operator", answers=_DECIDED, problems=DECIDING)
def abort(asked: Asked, body: Abort) -> Any:
    """Stop the candidate; what is active stays active."""

    def act(fleet: Fleet, tell: Tell) -> Decided:
        return _decided(
            asked,
            "aborted",
            fleet.abort(
                asked.model, generation=body.generation, why=body.why, author=asked.author, request=asked.request
            ),
        )

    return _decide(asked, "abort", body, act, why=body.why)


@route("POST", f"{_MODEL}/pin", role="operator", answers=_DECIDED, problems=DECIDING)
def pin(asked: Asked, body: Why) -> Any:
    """Keep the model at its active generation: proposals are refused, a candidate is stopped."""

    def act(fleet: Fleet, tell: Tell) -> Decided:
        found = fleet.pin(asked.model, why=body.why, author=asked.author, request=asked.request)
        return _decided(asked, "pinned", found)

    return _decide(asked, "pin", body, act, why=body.why)


@route("POST", f"{_MODEL}/unpin", role="operator", answers=_DECIDED, problems=DECIDING)
def unpin(asked: Asked, body: Why) -> Any:
    """Let proposals for a pinned model in again."""

    def act(fleet: Fleet, tell: Tell) -> Decided:
        found = fleet.unpin(asked.model, why=body.why, author=asked.author, request=asked.request)
        return _decided(asked, "unpinned", found)

    return _decide(asked, "unpin", body, act, why=body.why)


@route("POST", f"{_MODEL}/refresh", role="operator", answers=_TASK, problems=(*DECIDING, 502))
def refresh(asked: Asked, body: Refresh) -> Any:
    """Make every holder load the active generation afresh beside the old copy; 502 with who failed, 504 with who did not answer."""

    def act(fleet: Fleet, tell: Tell) -> TaskResult:
        return fleet.refresh(asked.model, **_terms(asked, body))

    return _decide(asked, "refresh", body, act, why=body.why)


@route("POST", f"{API}/clear", role="operator", answers=_TASK, problems=(*DECIDING, 502))
def clear(asked: Asked, body: Clear) -> Any:
    """Make every worker drop a model, or all of them; 502 with who failed, 504 with who did not answer."""

    def act(fleet: Fleet, tell: Tell) -> TaskResult:
        return fleet.clear(body.model, **_terms(asked, body))

    return _decide(asked, "clear", body, act, why=body.why)


# --- what is asked for -----------------------------------------------------------------------------------------------


def _what(asked: Asked, body: Publish) -> Path | dict[str, Path]:
    if (body.path is None) == (body.paths is None):
        raise BadInput("path", "say either the path of one file, or paths: the path of each artifact by its name")
    if body.path is not None:
        return _source(asked, "path", body.path)
    return {name: _source(asked, f"paths.{name}", path) for name, path in (body.paths or {}).items()}


def _source(asked: Asked, where: str, text: str) -> Path:
    """A path that may be published from: where it leads in the end counts."""
    if "\0" in text or not text.startswith("/"):
        raise BadInput(where, "it is no absolute path of a file on the admin's host")
    folders = asked.admin.settings.admin_sources
    if not folders:
        return Path(text)
    try:
        path = Path(text).resolve()
    except (OSError, RuntimeError) as error:
        raise BadInput(where, str(error)) from None
    if not any(path.is_relative_to(folder.resolve()) for folder in folders):
        known = ", ".join(map(str, folders))
        raise NotAllowed(f"{where}: files are published from {known} only (GENLOCK_ADMIN_SOURCES)")
    return path


def _agreement(given: str | float | None) -> str | None:
    """A share of workers as the setting takes it; here a wrong one is the client's fault."""
    if given is None:
        return None
    try:
        share(str(given))
    except ValueError as error:
        raise BadInput("agreement", str(error)) from None
    return str(given)


def _terms(asked: Asked, body: Clear | Refresh) -> dict[str, Any]:
    """Of a task."""
    timeout_s = min(body.timeout or TASK_S, TASK_S)
    return {"why": body.why, "timeout": timeout_s, "author": asked.author, "request": asked.request}


# --- doing it --------------------------------------------------------------------------------------------------------


def _decide(asked: Asked, verb: str, body: msgspec.Struct, act: Callable[[Fleet, Tell], Any], *, why: str = "") -> Any:
    """Begins it, or finds what was begun under that request id, and waits for it."""
    before = asked.admin.active(asked.model)

    def action(tell: Tell) -> Any:
        try:
            with Fleet(settings=asked.admin.settings) as fleet:
                result = act(fleet, tell)
        except GenlockError as error:
            _tell_log(asked, verb, before, None, why, error)
            raise
        _tell_log(asked, verb, before, result, why, None)
        return result

    job = asked.admin.jobs.begin(asked.request, (verb, asked.model, body), action)
    try:
        return job.done.result(WAIT_S)
    except NotYet:
        return _pending(asked, job)
    finally:
        asked.admin.reader.catch_up()  # who decided sees it, whatever they look at next


def _pending(asked: Asked, job: Job) -> Pending:
    return Pending(outcome="pending", model=asked.model or None, request=asked.request, state=job.state)


def _decided(asked: Asked, outcome: str, generation: int) -> Decided:
    return Decided(outcome=outcome, model=asked.model, generation=generation, request=asked.request)


def _outcome(result: Flip | Decided | TaskResult) -> str:
    if isinstance(result, TaskResult):
        return "done" if result.ok else "silent" if result.silent else "failed"
    return result.outcome


def _tell_log(asked: Asked, verb: str, before: int | None, result: Any, why: str, error: GenlockError | None) -> None:
    to = getattr(result, "generation", None)
    outcome = _outcome(result) if error is None else error.outcome
    facts = {
        "event": verb,
        "model": asked.model or None,
        "by": asked.author,
        "role": asked.caller.role,
        "address": asked.address,
        "from_generation": before,
        "generation": to,
        "outcome": outcome,
        "why": why,
        "request": asked.request,
    }
    what = f"{verb} of {asked.model or 'all models'} by {asked.author} (role {asked.caller.role})"
    change = f"generation {before} -> {to}" if to is not None else f"generation {before}"
    said = f": {error}" if error is not None else ""
    level = logging.INFO if error is None else logging.WARNING
    _log.log(level, "%s: %s, %s, why: %s%s", what, outcome, change, why or "not said", said, extra=facts)
