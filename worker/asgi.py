"""FastAPI: `lifespan(cache)` begins and ends with the app, `init_app(app, cache)` gives it the routes of a worker, and every answer that
used a model its headers.

    cache = ModelCache(fleet, loaders=…)
    app = FastAPI(lifespan=lifespan(cache))
    init_app(app, cache)

    @app.post("/predict")
    async def predict(x: list[float]):
        async with use("digits") as held:       # in a `def`, which FastAPI runs in a thread: `with use("digits") as held:`
            return {"y": held.payload(…)}

The headers that it reads and writes are those of `headers`; a GenlockError that an endpoint lets go becomes a problem (RFC 9457).
Reading a model takes no longer than a dictionary look-up while the lease lives; where a use has to wait (for Redis, for a load) `async
with` does so in a thread, and the event loop goes on. What a request used stands in a context variable, which the threads of endpoints
inherit.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from functools import partial
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..coordinator.errors import GenlockError
from ..coordinator.gate import RELAYED
from ..coordinator.logs import set_up
from .cache import Held, ModelCache, OnProgress
from .headers import KEY, MIN_GENERATION
from .routes import ROUTES, Asked, Route, of_error
from .used import Used
from .view import View

_log = logging.getLogger("genlock.worker")

#: Threads for routes that wait, apart from those of endpoints: a probe or a clear is not kept back by requests for a cold model.
ROUTE_THREADS = 4
#: Threads of one event loop in which `async with` waits, as many as AnyIO has for endpoints. Those would all be taken by requests for one
#: cold model, and no `def` endpoint would be answered any more.
WAIT_THREADS = 40
#: Seconds that shutting down waits for a prewarm that is under way; it has been told by then.
CLOSE_S = 2.0

T = TypeVar("T")


class _Asking(NamedTuple):
    """The request that is being answered."""

    cache: ModelCache
    used: Used


_asking: ContextVar[_Asking] = ContextVar("genlock_asking")
#: What counts the threads that wait, of each event loop: one must not be used from two.
_limiter: RunVar[CapacityLimiter] = RunVar("genlock_waiters")


def init_app(app: FastAPI, cache: ModelCache) -> None:
    """Adds the routes and the headers to `app`, which answers from `cache`. Before it takes requests."""
    app.include_router(router(cache))
    app.add_middleware(Telling, cache=cache)
    app.add_exception_handler(GenlockError, failed)


def lifespan(
    cache: ModelCache, *, on_progress: OnProgress | None = None, wait: bool = False
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """For FastAPI(lifespan=…): loads the configured models when the app starts, leaves the fleet when it ends.

    The app answers at once, `/livez` before torch is imported, and `/readyz` says when the models are there; with `wait` it takes no
    request before (at most `max_wait_s`: then it comes up unready). `on_progress(model, done, all)`: see ModelCache.prewarm; it is
    called on a thread. What cannot be loaded is logged, and keeps neither the app nor the other models back. Where the app has not set up
    logging, genlock's lines go to stderr as GENLOCK_LOG says.
    """

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        own = CapacityLimiter(1)  # the threads of endpoints may all be waiting
        set_up(cache.settings.log)  # uvicorn sets up its own lines only
        cache.open()
        warming = threading.Thread(target=_prewarm, args=(cache, on_progress), name="genlock-prewarm", daemon=True)
        warming.start()
        try:
            if wait:
                await run_sync(warming.join, limiter=own, abandon_on_cancel=True)
            yield
        finally:
            await run_sync(_close, cache, warming, limiter=own)

    return living


def _prewarm(cache: ModelCache, on_progress: OnProgress | None) -> None:
    try:
        cache.prewarm(on_progress=on_progress)
        _log.info("%d of %d models are loaded", len(cache.get_warmed_models()), len(cache.configured))
    except GenlockError as error:
        _log.error("the worker comes up unready: %s", error)
    except Exception:  # of on_progress
        _log.exception("prewarm ended in an error that nobody expected")


def _close(cache: ModelCache, warming: threading.Thread) -> None:
    try:
        cache.close()
    except Exception:  # the app's own shutdown has to go on
        _log.exception("closing the cache of fleet %s failed", cache.fleet.name)
    warming.join(CLOSE_S)


# --- for endpoints ---------------------------------------------------------------------------------------------------


def use(model: str, *, cache: ModelCache | None = None) -> Block[View]:
    """A block that is answered from one generation, as ModelCache.use: with the key and the least generation of the request that is
    being answered, and told in its answer. `async with` in an `async def`, `with` in a `def`.

    `cache`: where no request is being answered, as in a WebSocket or a thread of your own; RuntimeError where it is missing there.
    Raises what Used.get does.
    """
    return Block(cache, (model,), lambda held: held[0])


def use_many(*models: str, cache: ModelCache | None = None) -> Block[Held]:
    """Several models at one instant of the fleet; see use."""
    return Block(cache, models, lambda held: held)


class Block(Generic[T]):
    """What `use` and `use_many` give: for one `with` or `async with`."""

    __slots__ = ("_asking", "_give", "_held", "_is_given_up", "_models")

    def __init__(self, cache: ModelCache | None, models: tuple[str, ...], give: Callable[[Held], T]) -> None:
        self._asking = _here() if cache is None else _Asking(cache, Used(None, None))
        self._models, self._give = models, give
        self._held, self._is_given_up = Held(), False

    def __enter__(self) -> T:
        if _is_loop():
            raise RuntimeError(
                "on an event loop nobody may wait for a model: write `async with`, or make the endpoint a `def`"
            )
        self._held = self._wait()
        return self._give(self._held)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for view in self._held:
            view.__exit__(kind, error, trace)
        self._held = Held()

    async def __aenter__(self) -> T:
        cache, used = self._asking
        held = used.at_once(cache, *self._models)
        if held is None:
            try:
                held = await run_sync(self._wait_beside, limiter=_waiters())
            # Cancelled: by the server, whose client has gone, or by a limit of the endpoint's own.
            except BaseException:
                self._is_given_up = True
                self.__exit__(None, None, None)
                raise
        self._held = held
        return self._give(held)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def _wait_beside(self) -> Held:
        """On a thread, which goes on when who waits for it is cancelled. Nobody takes what it gets then; that ends here or there, or it
        would count as a failed request of a canary::

            the thread                      the event loop
            has what answers, says so
                                            is cancelled, says so, ends what is there
            looks: it is given up; ends it
        """
        self._held = held = self._wait()
        if self._is_given_up:
            self.__exit__(None, None, None)
        return held

    def _wait(self) -> Held:
        cache, used = self._asking
        if len(self._models) == 1:
            return Held((used.get(cache, *self._models),))
        return used.get_many(cache, *self._models)


def _here() -> _Asking:
    try:
        return _asking.get()
    except LookupError:
        raise RuntimeError(
            "no request is being answered by an app that init_app(app, cache) has prepared: say use(model, cache=cache)"
        ) from None


def _waiters() -> CapacityLimiter:
    """Of the event loop that calls."""
    try:
        return _limiter.get()
    except LookupError:
        limiter = CapacityLimiter(WAIT_THREADS)
        _limiter.set(limiter)
        return limiter


def _is_loop() -> bool:
    """Whether this thread runs an event loop just now."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Telling:
    """The middleware (plain ASGI: an endpoint sees the context variables that are set here): every answer tells what it used."""

    def __init__(self, app: ASGIApp, cache: ModelCache) -> None:
        self._app, self._cache = app, cache

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        used = Used(headers.get(KEY), headers.get(MIN_GENERATION))

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                used.answered(failed=message["status"] >= 500)
                told = [(name.lower().encode(), value.encode()) for name, value in used.told()]
                message["headers"] = [*message.get("headers", ()), *told]
            await send(message)

        before = _asking.set(_Asking(self._cache, used))
        try:
            return await self._app(scope, receive, tell)
        except Exception:
            used.answered(failed=True)
            raise
        finally:
            _asking.reset(before)


async def failed(request: Request, error: Exception) -> Response:
    """The answer to an error of genlock's. An exception handler."""
    answer = of_error(error, request.url.path)
    return Response(answer.body, answer.status, dict(answer.headers))


# --- routes ------------------------------------------------------------------------------------------------------------


def router(cache: ModelCache) -> APIRouter:
    """The routes alone, for an app of another make, or under a prefix of its own: those of a Flask app, see docs/http.md."""
    made = APIRouter(tags=["genlock"])
    limiter = CapacityLimiter(ROUTE_THREADS)
    for route in ROUTES:
        made.add_api_route(
            route.path,
            partial(_answer, cache, route, limiter),
            methods=[route.method],
            name=route.name,
            description=route.tell.__doc__,
            response_class=Response,
            openapi_extra={"parameters": _parameters(route)},
        )
    return made


async def _answer(cache: ModelCache, route: Route, limiter: CapacityLimiter, request: Request) -> Response:
    asked = Asked(
        path=request.url.path,
        model=request.path_params.get("model", ""),
        format=request.query_params.get("format", "json"),
        authorization=request.headers.get("Authorization"),
        address=request.client.host if request.client else None,
        relayed=any(name in request.headers for name in RELAYED),
    )
    answer = await run_sync(route.answer, cache, asked, limiter=limiter) if route.waits else route.answer(cache, asked)
    return Response(answer.body, answer.status, dict(answer.headers))


def _parameters(route: Route) -> list[dict[str, Any]]:
    """For OpenAPI."""
    if "{model}" in route.path:
        return [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]
    if route.name == "stats":
        return [{"name": "format", "in": "query", "schema": {"enum": ["json", "csv", "prometheus"]}}]
    return []
