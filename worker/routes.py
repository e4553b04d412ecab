"""The routes of a worker: what each says, and to whom it is allowed. No web framework: `blueprint` and `asgi` carry them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from ..coordinator import problems
from ..coordinator.errors import GenlockError
from ..coordinator.fleet import Fleet, TaskResult
from ..coordinator.gate import check_operator
from ..coordinator.problems import Problem
from ..coordinator.tokens import tokens_of
from .cache import ModelCache
from .exposition import CONTENT_TYPES, render

#: Seconds that a fleet-wide clear or refresh is waited for. gunicorn kills a worker that is busy for 30 s; what was not done by then goes
#: on, and is named as silent.
TASK_S = 20.0


class Asked(NamedTuple):
    """What is read of a request: its path; the model in it; `?format=`; the header Authorization; the address of who connects (None: it
    has none); and whether one of `gate.RELAYED` came along."""

    path: str
    model: str = ""
    format: str = "json"
    authorization: str | None = None
    address: str | None = None
    relayed: bool = False


class Said(NamedTuple):
    """An answer."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Route(NamedTuple):
    """`path` has its parameter as `{model}`. `waits`: it may wait for a disk or for Redis, so it is nothing for an event loop."""

    method: str
    path: str
    tell: Callable[[ModelCache, Asked], Said]
    waits: bool = False

    @property
    def name(self) -> str:
        return self.tell.__name__

    def answer(self, cache: ModelCache, asked: Asked) -> Said:
        """What it says; an error is a problem."""
        try:
            return self.tell(cache, asked)
        except Exception as error:
            return of_error(error, asked.path)


def of_error(error: Exception, path: str) -> Said:
    """The answer to an error of genlock's, or to one that nobody expected; `path`: of the request."""
    if isinstance(error, GenlockError):
        return said(problems.of_error(error, path))
    return said(problems.of_fault(error, path))


def said(problem: Problem) -> Said:
    """A problem as an answer."""
    headers = {"Content-Type": problems.MEDIA_TYPE, "Cache-Control": "no-store", **problem.headers}
    return Said(problem.status, problem.encode(), headers)


# --- looking -----------------------------------------------------------------------------------------------------------


def livez(cache: ModelCache, asked: Asked) -> Said:
    """200 as long as restarting this process would not help."""
    runtime = cache.runtime
    if runtime is not None and not runtime.is_alive:
        why = f"the thread that keeps the models current has ended: {runtime.failure or 'nobody knows why'}"
        return said(problems.of_kind("not-alive", 503, why, asked.path, {}))
    return as_json({"alive": True})


def readyz(cache: ModelCache, asked: Asked) -> Said:
    """200 if every configured model can be answered from. Whoever looks also begins to load what is missing."""
    try:
        cache.start()
        reasons = cache.why_not_ready()
    except GenlockError as error:
        reasons = {"*": str(error)}
    if reasons:
        why = "; ".join(f"{model}: {reason}" for model, reason in reasons.items())
        facts = {"reasons": reasons, "notice": cache.notice, "retry_after_s": 1}
        return said(problems.of_kind("not-ready", 503, why, asked.path, facts))
    return as_json({"ready": True, "notice": cache.notice, "models": cache.get_warmed_models()})


def metrics(cache: ModelCache, _: Asked) -> Said:
    """The figures of this worker and of its siblings as Prometheus reads them."""
    return _text(cache.metrics(), "prometheus")


def stats(cache: ModelCache, asked: Asked) -> Said:
    """The figures of this worker: `?format=json` (the default), `csv` or `prometheus`."""
    return _text(render(cache.get_detailed_stats(), asked.format), asked.format)


def status(cache: ModelCache, _: Asked) -> Said:
    """What this worker holds and how it stands with its fleet. Asks nobody."""
    runtime, views = cache.runtime, cache.views
    models = {
        model: None
        if (view := views.get(model)) is None
        else {"generation": view.generation, "version": view.version, "stale": view.stale, "bytes": view.bytes}
        for model in sorted(cache.configured | views.keys())
    }
    found = {
        "worker": cache.worker,
        "fleet": cache.fleet.name,
        "member": runtime.agent.member if runtime else None,
        "epoch": runtime.agent.epoch.number if runtime else None,
        "redis": None if runtime is None else "gone" if runtime.is_gone else "reached",
        "lease_s": cache.get_stats()["lease_s"],
        "ready": not cache.why_not_ready(),
        "notice": cache.notice,
        "last_error": runtime.last_error if runtime else "",
        "models": models,
    }
    return as_json(found)


# --- fleet-wide --------------------------------------------------------------------------------------------------------


def clear(cache: ModelCache, asked: Asked) -> Said:
    """Every worker of the fleet drops all models; 200, or 504 with who did not answer in time."""
    for_operators(cache, asked)
    with _fleet(cache) as fleet:
        return done(fleet.clear(timeout=TASK_S), asked)


def refresh(cache: ModelCache, asked: Asked) -> Said:
    """Every holder of the fleet loads the model afresh and changes to that; 200, 502 with who failed, or 504 with who did not answer."""
    for_operators(cache, asked)
    with _fleet(cache) as fleet:
        return done(fleet.refresh(asked.model, timeout=TASK_S), asked)


def for_operators(cache: ModelCache, asked: Asked) -> None:
    """Raises Unauthorized or NotAllowed for who may not change anything here."""
    check_operator(
        tokens_of(cache.settings),
        authorization=asked.authorization,
        address=asked.address,
        relayed=asked.relayed,
    )


def _fleet(cache: ModelCache) -> Fleet:
    """One of this request: it is used from one thread at a time."""
    return Fleet(settings=cache.fleet.settings)


def done(result: TaskResult, asked: Asked, **more: Any) -> Said:
    """What came of something that every worker had to do, and `more` to say where all did it."""
    problem = problems.of_task(result, asked.path, waited_s=TASK_S)
    return as_json({**more, **msgspec.to_builtins(result)}) if problem is None else said(problem)


def as_json(value: Any) -> Said:
    """200, with this."""
    return Said(200, msgspec.json.encode(value), {"Content-Type": CONTENT_TYPES["json"]})


def _text(text: str, form: str) -> Said:
    return Said(200, text.encode(), {"Content-Type": CONTENT_TYPES[form]})


ROUTES = (
    Route("GET", "/livez", livez),
    Route("GET", "/readyz", readyz, waits=True),
    Route("GET", "/metrics", metrics, waits=True),
    Route("GET", "/cache/stats", stats),
    Route("GET", "/cache/status", status),
    Route("POST", "/cache/clear", clear, waits=True),
    Route("POST", "/cache/refresh/{model}", refresh, waits=True),
)
