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
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException

from ..coordinator import problems
from ..coordinator.errors import GenlockError
from ..coordinator.gate import RELAYED
from .cache import Held, ModelCache
from .headers import KEY, MIN_GENERATION
from .routes import ROUTES, Asked, Route, Said, of_error, said
from .used import Used
from .view import View

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

#: As WSGI has them; looked up in each request.
_MIN_GENERATION = f"HTTP_{MIN_GENERATION.upper().replace('-', '_')}"
_KEY = f"HTTP_{KEY.upper().replace('-', '_')}"

#: Used, in the WSGI environ of a request: that is at hand everywhere, and `flask.g` costs a look-up of its own each time.
_USED = "genlock.used"
#: Of an app whose answers tell what they have used.
_TELLS = "genlock.tells"

routes = Blueprint("genlock", __name__)


def init_app(app: Flask, cache: ModelCache) -> None:
    """Adds the routes and the headers to `app`, which answers from `cache`. Several apps of a process may have one each."""
    app.extensions["genlock"] = cache
    app.register_blueprint(routes)
    app.register_error_handler(GenlockError, failed)
    tell(app)


def tell(app: Flask) -> None:
    """Every answer of `app` tells what it has used, once, however often this is called."""
    if not app.extensions.get(_TELLS):
        app.extensions[_TELLS] = True
        app.wsgi_app = _telling(app.wsgi_app)  # type: ignore[method-assign, assignment]  # how Flask says to do it


# --- for view functions ----------------------------------------------------------------------------------------------


def get(model: str) -> View:
    """ModelCache.get for the request that is being answered: with its key and its least generation, and told in its answer.

    Raises what Used.get does.
    """
    return view_for(request.environ, current_app.extensions["genlock"], model)


def view_for(environ: dict[str, Any], cache: ModelCache, model: str) -> View:
    """`get` for who has both at hand: each look at `request` or `current_app` costs ten times what the cache does."""
    return used_in(environ).get(cache, model)


#: `with use("m") as held:` as ModelCache.use. The same function: a view is a context.
use = get


def use_many(*models: str) -> Held:
    """ModelCache.use_many for the request that is being answered; see get."""
    return used_in(request.environ).get_many(current_app.extensions["genlock"], *models)


def used_in(environ: dict[str, Any]) -> Used:
    """What the request of this WSGI environ has used so far."""
    found: Used | None = environ.get(_USED)
    if found is None:
        found = environ[_USED] = Used(environ.get(_KEY), environ.get(_MIN_GENERATION))
    return found


def _telling(app: WSGIApplication) -> WSGIApplication:
    """Every answer tells what it used, whoever made it. Here, and not in after_request: that costs ten times as much."""

    def told(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], error: Any = None) -> Callable[[bytes], object]:
            used: Used | None = environ.get(_USED)
            if used is None:
                return start_response(status, headers, error)
            used.answered(failed=status[:1] == "5")
            return start_response(status, [*headers, *used.told()], error)

        return app(environ, start)

    return told


# --- errors ------------------------------------------------------------------------------------------------------------


def failed(error: Exception) -> Any:
    """The answer to an error: ours, one of HTTP itself, or one that nobody expected. An error handler of Flask."""
    if not isinstance(error, HTTPException):
        return respond(of_error(error, request.path))
    if error.code is None or error.response is not None:
        return error  # an answer that somebody made on purpose
    headers = dict(error.get_headers(request.environ))
    return respond(said(problems.of_http(error.code, error.description or "", request.path, headers)))


def respond(answer: Said) -> Response:
    """An answer of `routes` as Flask has it."""
    return Response(answer.body, answer.status, dict(answer.headers))


# --- routes ------------------------------------------------------------------------------------------------------------


def asked(model: str = "") -> Asked:
    """The request that is being answered, as `routes` want it."""
    return Asked(
        path=request.path,
        model=model,
        format=request.args.get("format", "json"),
        authorization=request.headers.get("Authorization"),
        address=request.remote_addr,
        relayed=any(name in request.headers for name in RELAYED),
    )


def _view(route: Route, model: str = "") -> Response:
    return respond(route.answer(current_app.extensions["genlock"], asked(model)))


for _route in ROUTES:
    _path = _route.path.replace("{", "<").replace("}", ">")
    routes.add_url_rule(_path, _route.name, partial(_view, _route), methods=[_route.method])
