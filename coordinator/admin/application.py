"""The admin as a WSGI application: who may ask, what a request is read into, what an answer and an error look like, and which headers.

Everything comes from the routes (see `route`); nothing is connected before somebody asks.
"""

from __future__ import annotations

import mimetypes
import re
import threading
import uuid
from collections.abc import Callable
from functools import cached_property
from importlib.resources import files
from typing import Any

import msgspec
from flask import Flask, Response, g, request
from werkzeug.exceptions import BadRequest, HTTPException, NotFound, TooManyRequests, UnsupportedMediaType
from werkzeug.middleware.proxy_fix import ProxyFix

from .. import problems
from ..clock import clock
from ..errors import BadInput, GenlockError, HeaderInvalid, InvalidName, NotReady, SettingsInvalid, Unauthorized
from ..gate import Caller, caller_of
from ..manifest import check_name
from ..problems import Problem
from ..settings import Settings
from ..task import TaskResult
from ..tokens import tokens_of
from . import deciding, looking
from .attempts import Attempts
from .document import document_of
from .jobs import Jobs
from .reader import Reader
from .route import ROUTES, Asked, Route
from .streams import Streams
from .wire import Pending, Ready

#: Bytes of a body: 64 paths of 4,096 characters, and a message.
MAX_BODY_BYTES = 512 * 1024
#: Streams at the same time unless said otherwise; each takes a thread of the server.
STREAMS = 32
#: The header with the request id of a change (R10).
KEY = "Idempotency-Key"

#: The page runs its own scripts, talks to where it came from, and is shown in no frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
#: Files of the page that are given out.
_FILE = re.compile(r"[A-Za-z0-9_-]+\.(html|js|css|svg)")
_JSON = "application/json"
#: What msgspec says of a value, or of a key, that is not of its type.
_PLACED = re.compile(r"(?P<why>.*) - at (`key` in )?`\$(?P<where>[^`]*)`", re.S)
_NOBODY = Caller("viewer", "nobody")

Tokens = tuple[tuple[str, str], ...]


class Admin:
    """What the application stands on. `tokens`: those that count now."""

    def __init__(self, settings: Settings, tokens: Callable[[], Tokens], streams: int) -> None:
        self.settings, self.tokens = settings, tokens
        self.reader = Reader(settings)
        self.jobs = Jobs()
        self.streams = Streams(self.reader, streams)
        self._attempts, self._lock = Attempts(clock), threading.Lock()

    def caller(self, authorization: str | None, address: str) -> Caller:
        """Who asks; raises Unauthorized, TooManyRequests."""
        if authorization is None:
            raise Unauthorized("send one in the header Authorization: Bearer TOKEN")
        with self._lock:
            wait_s = self._attempts.wait_s(address)
        if wait_s > 0:
            why = f"too many tokens from {address} were not known"
            raise TooManyRequests(why, retry_after=max(1, round(wait_s + 0.5)))
        try:
            return caller_of(self.tokens(), authorization)
        except Unauthorized:
            with self._lock:
                self._attempts.failed(address)
            raise

    def active(self, model: str) -> int | None:
        """The active generation, as far as it is known without asking."""
        try:
            found = self.reader.picture().models.get(model)
        except GenlockError:
            return None
        return found.generation if found else None

    def readiness(self) -> Ready:
        """Raises what keeps the admin from its fleet."""
        try:
            fleet = self.reader.picture().fleet
        except GenlockError as error:
            raise NotReady("*", str(error)) from error
        if fleet.stale:
            raise NotReady("*", fleet.why)
        return Ready(ready=True, as_of=fleet.as_of)

    @cached_property
    def document(self) -> bytes:
        """The description of all routes."""
        return msgspec.json.encode(document_of(ROUTES))

    def file(self, name: str) -> Response:
        """A file of the page; raises NotFound."""
        found = files(__package__) / "page" / name
        if not _FILE.fullmatch(name) or not found.is_file():
            raise NotFound(f"there is no {name}")
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        response = Response(found.read_bytes(), 200, {"Content-Type": kind, "Cache-Control": "no-cache"})
        response.add_etag()
        response.make_conditional(request)
        return response


def create_app(settings: Settings | None = None, *, token: str | None = None, streams: int = STREAMS) -> Flask:
    """The application for the fleet of `settings` (default: the environment's). `token`: of an operator, for this run only.

    Raises SettingsInvalid where nobody could log in.
    """
    chosen = settings or Settings.from_env()
    own: Tokens = (("operator", token),) if token else ()
    if not own and not tokens_of(chosen):
        why = (
            "write operator:TOKEN into it or into GENLOCK_ADMIN_TOKENS_FILE, or start `genlock admin`, which makes one"
        )
        raise SettingsInvalid("GENLOCK_ADMIN_TOKENS", "", why)
    admin = Admin(chosen, lambda: (*own, *tokens_of(chosen)), streams)
    app = Flask(__name__, static_folder=None)
    app.url_map.merge_slashes = False  # a redirect would be no problem, and before any token was looked at
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.extensions["genlock"] = admin
    for route in ROUTES:
        app.add_url_rule(
            route.rule, route.name, _view(admin, route), methods=[route.method], provide_automatic_options=False
        )
    app.add_url_rule("/<name>", "file", admin.file, methods=["GET"], provide_automatic_options=False)
    app.register_error_handler(Exception, failed)
    app.after_request(_finish)
    if chosen.admin_proxies:
        count = chosen.admin_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=count, x_proto=0, x_host=0)  # type: ignore[method-assign]
    return app


# --- a request -------------------------------------------------------------------------------------------------------


def _view(admin: Admin, route: Route) -> Callable[..., Response]:
    def view(model: str = "") -> Response:
        caller, address = _NOBODY, request.remote_addr or ""
        if route.role is not None:
            caller = admin.caller(request.headers.get("Authorization"), address)
            caller.check(route.role)
        if model:
            check_name(model)
        if route.body:
            g.request = _key()
        asked = Asked(
            admin=admin,
            caller=caller,
            address=address,
            model=model,
            request=g.get("request", ""),
            after=_last_event() if route.query else None,
        )
        arguments: dict[str, Any] = {}
        if route.query is not None:
            arguments["query"] = read_query(route.query)
        if route.body is not None:
            arguments["body"] = read_body(route.body)
        return _response(route.view(asked, **arguments))

    return view


def _key() -> str:
    """The id of this request: the client's, quoted or not, or a new one."""
    given = request.headers.get(KEY)
    if given is None:
        return uuid.uuid4().hex
    try:
        return check_name(given[1:-1] if given[:1] == given[-1:] == '"' else given, "request")
    except InvalidName:
        raise HeaderInvalid(KEY, given, "use 1 to 128 of A-Z a-z 0-9 . _ - only") from None


def _last_event() -> str | None:
    given = request.headers.get("Last-Event-ID")
    if given and not re.fullmatch(r"[0-9]{1,16}-[0-9]{1,16}", given):
        raise BadInput("Last-Event-ID", "it is no id of an event")
    return given or None


def read_query(kind: type[msgspec.Struct]) -> msgspec.Struct:
    """The parameters of the URL; raises BadInput with where."""
    given: dict[str, str] = {}
    for name, values in request.args.lists():
        if len(values) > 1:
            raise BadInput(f"query.{name}", "it stands there more than once")
        given[name] = values[0]
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _bad("query", error) from None


def read_body(kind: type[msgspec.Struct]) -> msgspec.Struct:
    """The JSON of the body, nothing being `{}`; raises UnsupportedMediaType, RequestEntityTooLarge, BadRequest, BadInput with where."""
    data = request.get_data(cache=False)
    if data and request.mimetype != _JSON:
        raise UnsupportedMediaType(f"send the body as {_JSON}")
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise _bad("body", error) from None
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise BadRequest(f"the body is no JSON: {error}") from None


def _bad(place: str, error: msgspec.ValidationError) -> BadInput:
    """`Expected `int`, got `str` - at `$.to`` is what is wrong at `body.to`."""
    found = _PLACED.fullmatch(str(error))
    return BadInput(place + found["where"], found["why"]) if found else BadInput(place, str(error))


# --- an answer -------------------------------------------------------------------------------------------------------


def _response(found: Any) -> Response:
    if isinstance(found, Response):
        return found
    if isinstance(found, TaskResult) and (problem := problems.of_task(found, request.path, waited_s=deciding.TASK_S)):
        return answer_of(problem)
    data = found if isinstance(found, bytes) else msgspec.json.encode(found, enc_hook=str)
    return Response(data, 202 if isinstance(found, Pending) else 200, {"Content-Type": _JSON})


def failed(error: Exception) -> Response:
    """The answer to an error: ours, one of HTTP itself, or one that nobody expected."""
    if isinstance(error, GenlockError):
        return answer_of(problems.of_error(error, request.path))
    if not isinstance(error, HTTPException):
        return answer_of(problems.of_fault(error, request.path))
    headers = dict(error.get_headers(request.environ))
    return answer_of(problems.of_http(error.code or 500, error.description or "", request.path, headers))


def answer_of(problem: Problem) -> Response:
    """A problem as Flask sends it."""
    return Response(problem.encode(), problem.status, {"Content-Type": problems.MEDIA_TYPE, **problem.headers})


def _finish(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers[name] = value
    response.headers.setdefault("Cache-Control", "no-store")
    if "request" in g:
        response.headers[KEY] = g.request
    return response


assert looking and deciding  # they define the routes
