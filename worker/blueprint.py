"""Flask: `init_app(app, cache)` gives an app the routes of a worker, and every answer that used a model its headers.

    cache = ModelCache(fleet, loaders=…)
    init_app(app, cache)

    @app.post("/predict")
    def predict():
        with use("digits") as held:          # from this room, not cache.use: the answer tells which generation it came from
            return {"y": held.payload(…)}

The headers that it reads and writes are those of `headers`. A GenlockError that a view function lets go becomes a problem (RFC 9457).
Nothing is kept here: the cache is `app.extensions["genlock"]`, what a request used stands in its WSGI environ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, closing
from typing import TYPE_CHECKING, Any, cast

import msgspec
from flask import Blueprint, Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException

from ..coordinator import problems
from ..coordinator.errors import GenlockError
from ..coordinator.fleet import Fleet, TaskResult
from ..coordinator.gate import RELAYED, check_operator
from ..coordinator.problems import Problem
from ..coordinator.tokens import tokens_of
from .cache import Held, ModelCache
from .exposition import CONTENT_TYPES, render
from .headers import KEY, MIN_GENERATION, Least, of_views
from .view import View

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

#: Seconds that a fleet-wide clear or refresh is waited for. gunicorn kills a worker that is busy for 30 s; what was not done by then goes
#: on, and is named as silent.
TASK_S = 20.0
#: As WSGI has them; looked up in each request.
_MIN_GENERATION = f"HTTP_{MIN_GENERATION.upper().replace('-', '_')}"
_KEY = f"HTTP_{KEY.upper().replace('-', '_')}"

#: The views that a request has used, in its WSGI environ: that is at hand everywhere, and `flask.g` costs a look-up of its own each time.
_USED = "genlock.used"

routes = Blueprint("genlock", __name__)


def init_app(app: Flask, cache: ModelCache) -> None:
    """Adds the routes and the headers to `app`, which answers from `cache`. Several apps of a process may have one each."""
    app.extensions["genlock"] = cache
    app.register_blueprint(routes)
    app.register_error_handler(GenlockError, failed)
    app.wsgi_app = _telling(app.wsgi_app)  # type: ignore[method-assign, assignment]  # how Flask says to do it


# --- for view functions ----------------------------------------------------------------------------------------------


def get(model: str) -> View:
    """ModelCache.get for the request that is being answered: with its key and its least generation, and told in its answer.

    Raises what that raises; NotReady too if the request demands a later generation, HeaderInvalid for a demand that makes no sense.
    """
    return view_for(request.environ, current_app.extensions["genlock"], model)


def view_for(environ: dict[str, Any], cache: ModelCache, model: str) -> View:
    """`get` for who has both at hand: each look at `request` or `current_app` costs ten times what the cache does."""
    key = environ.get(_KEY)
    view = cache.get(model) if key is None else cache.get(model, key=key)
    _used(environ, (view,))
    return view


#: `with use("m") as held:` as ModelCache.use. The same function: a view is a context.
use = get


def use_many(*models: str) -> Held:
    """ModelCache.use_many for the request that is being answered; see get."""
    cache: ModelCache = current_app.extensions["genlock"]
    held = cache.use_many(*models)
    _used(request.environ, held)
    return held


def _used(environ: dict[str, Any], views: tuple[View, ...]) -> None:
    used: list[View] = environ.setdefault(_USED, [])
    used.extend(views)
    demand = environ.get(_MIN_GENERATION)
    if demand is not None:
        try:
            Least.of(demand).check(used)
        except GenlockError:
            for view in used:
                view.ended(failed=False)  # what a client demands is no fault of a canary
            raise


def _telling(app: WSGIApplication) -> WSGIApplication:
    """Every answer tells what it used, whoever made it. Here, and not in after_request: that costs ten times as much."""

    def told(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], error: Any = None) -> Callable[[bytes], object]:
            used = environ.get(_USED)
            for view in used or ():
                view.ended(failed=status[:1] == "5")
            return start_response(status, [*headers, *of_views(used)] if used else headers, error)

        return app(environ, start)

    return told


# --- errors ------------------------------------------------------------------------------------------------------------


def failed(error: Exception) -> Any:
    """The answer to an error: ours, one of HTTP itself, or one that nobody expected. An error handler of Flask."""
    if isinstance(error, GenlockError):
        return _answer(problems.of_error(error, request.path))
    if not isinstance(error, HTTPException):
        return _answer(problems.of_fault(error, request.path))
    if error.code is None or error.response is not None:
        return error  # an answer that somebody made on purpose
    headers = dict(error.get_headers(request.environ))
    return _answer(problems.of_http(error.code, error.description or "", request.path, headers))


routes.register_error_handler(Exception, failed)


def _answer(problem: Problem) -> Response:
    headers = {"Content-Type": problems.MEDIA_TYPE, "Cache-Control": "no-store", **problem.headers}
    return Response(problem.encode(), problem.status, headers)


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), 200, {"Content-Type": "application/json"})


# --- routes ------------------------------------------------------------------------------------------------------------


def _cache() -> ModelCache:
    return cast(ModelCache, current_app.extensions["genlock"])


@routes.get("/livez")
def livez() -> Response:
    """200 as long as restarting this process would not help."""
    runtime = _cache().runtime
    if runtime is not None and not runtime.is_alive:
        why = f"the thread that keeps the models current has ended: {runtime.failure or 'nobody knows why'}"
        return _answer(problems.of_kind("not-alive", 503, why, request.path, {}))
    return _json({"alive": True})


@routes.get("/readyz")
def readyz() -> Response:
    """200 if every configured model can be answered from. Whoever looks also begins to load what is missing."""
    cache = _cache()
    try:
        cache.start()
        reasons = cache.why_not_ready()
    except GenlockError as error:
        reasons = {"*": str(error)}
    if reasons:
        why = "; ".join(f"{model}: {reason}" for model, reason in reasons.items())
        facts = {"reasons": reasons, "notice": cache.notice, "retry_after_s": 1}
        return _answer(problems.of_kind("not-ready", 503, why, request.path, facts))
    return _json({"ready": True, "notice": cache.notice, "models": cache.get_warmed_models()})


@routes.get("/metrics")
def metrics() -> Response:
    """The figures of this worker and of its siblings as Prometheus reads them."""
    return Response(_cache().metrics(), 200, {"Content-Type": CONTENT_TYPES["prometheus"]})


@routes.get("/cache/stats")
def stats() -> Response:
    """The figures of this worker: `?format=json` (the default), `csv` or `prometheus`."""
    form = request.args.get("format", "json")
    text = render(_cache().get_detailed_stats(), form)
    return Response(text, 200, {"Content-Type": CONTENT_TYPES[form]})


@routes.get("/cache/status")
def status() -> Response:
    """What this worker holds and how it stands with its fleet. Asks nobody."""
    cache = _cache()
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
    return _json(found)


@routes.post("/cache/clear")
def clear() -> Response:
    """Every worker of the fleet drops all models; 200, or 504 with who did not answer in time."""
    _check_operator()
    with _fleet() as fleet:
        return _done(fleet.clear(timeout=TASK_S))


@routes.post("/cache/refresh/<model>")
def refresh(model: str) -> Response:
    """Every holder of the fleet loads the model afresh and changes to that; 200, 502 with who failed, or 504 with who did not answer."""
    _check_operator()
    with _fleet() as fleet:
        return _done(fleet.refresh(model, timeout=TASK_S))


def _fleet() -> AbstractContextManager[Fleet]:
    """A Fleet of this request: one is used from one thread at a time."""
    return closing(Fleet(settings=_cache().fleet.settings))


def _check_operator() -> None:
    check_operator(
        tokens_of(_cache().settings),
        authorization=request.headers.get("Authorization"),
        address=request.remote_addr,
        relayed=any(name in request.headers for name in RELAYED),
    )


def _done(result: TaskResult) -> Response:
    problem = problems.of_task(result, request.path, waited_s=TASK_S)
    return _json(msgspec.to_builtins(result)) if problem is None else _answer(problem)
