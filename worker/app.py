"""The ready-made evaluator: the WSGI app `genlock.worker.app:app`, which serves the models of GENLOCK_MODELS.

`POST /evaluate/<model>` with `{"inputs": …}` (see wire) answers `{"model", "outputs", "generation", "version", "worker", "stale"}`.
Errors are problems: 400 no JSON, 404 a model that is not served, 413 a body too large, 415 another content type, 422 JSON or inputs that
the model does not take (with where), 503 no generation to answer from. And the routes of `blueprint`.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import msgspec
from flask import Flask, Response, request
from werkzeug.exceptions import BadRequest, NotFound, UnsupportedMediaType

from ..coordinator.fleet import Fleet
from ..coordinator.logs import set_up
from .blueprint import failed, init_app, view_for
from .cache import ModelCache
from .evaluator import answer, dtype_of
from .wire import Evaluation, read_body, read_inputs, write

_log = logging.getLogger("genlock.worker")

#: Bytes of a request's body: a batch of 20 images of 224 × 224 × 3 as JSON.
MAX_BODY_BYTES = 16 * 2**20
_JSON = "application/json"
_TYPE = {"Content-Type": _JSON}


def create_app(cache: ModelCache | None = None) -> Flask:
    """The app, over a cache (default: of the environment's fleet) whose configured models it serves. Connects to nothing."""
    cache = cache if cache is not None else ModelCache(Fleet.from_env())
    set_up(cache.settings.log)
    if not cache.configured:
        _log.warning(
            "GENLOCK_MODELS is empty: this evaluator serves no model. Set it, as in GENLOCK_MODELS=digits=mypkg.models:build"
        )
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    init_app(app, cache)
    app.register_error_handler(Exception, failed)
    app.add_url_rule("/evaluate/<model>", "evaluate", partial(evaluate, cache), methods=["POST"])
    return app


def evaluate(cache: ModelCache, model: str) -> Response:
    """One model's answer, from the generation that the fleet agreed on."""
    asked = request._get_current_object()  # type: ignore[attr-defined]  # each look through the proxy costs 1 µs
    if model not in cache.configured:
        raise NotFound(
            f"this evaluator does not serve {model!r}, but: {', '.join(sorted(cache.configured)) or 'nothing'}"
        )
    environ = asked.environ
    if environ.get("CONTENT_TYPE") != _JSON and asked.mimetype != _JSON:
        raise UnsupportedMediaType(f"send the inputs as {_JSON}")
    try:
        body = read_body(asked.get_data(cache=False))
        view = view_for(environ, cache, model)
        inputs = read_inputs(body, dtype_of(view.payload))
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON: {error}") from None
    # What a model refuses counts against it in a canary, though it is the client's error as far as anybody knows.
    with view:
        outputs = answer(view, inputs)
    found = Evaluation(model, outputs, view.generation, view.version, cache.worker, view.stale, view.candidate)
    return Response(write(found), 200, _TYPE)


def __getattr__(name: str) -> Any:
    """`app` is made when it is asked for, so that importing this room for `create_app` reads no environment."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = globals()["app"] = create_app()
    return app
