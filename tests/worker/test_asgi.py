"""worker/asgi.py: the same as the Flask blueprint for FastAPI, beginning and ending with the app, and an event loop that never waits."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Response
from fastapi.testclient import TestClient
from genlock.coordinator.canary import place_of
from genlock.coordinator.errors import NotReady
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.problems import MEDIA_TYPE
from genlock.worker import routes
from genlock.worker.asgi import Telling, init_app, lifespan, use, use_many
from genlock.worker.cache import ModelCache
from genlock.worker.loaders import state_dict_into
from genlock.worker.trial import Counted, Group
from genlock.worker.view import View
from torch import nn

Publish = Callable[..., Any]
NewCache = Callable[..., ModelCache]
WaitFor = Callable[..., Any]

MIN, KEY = "X-Genlock-Min-Generation", "X-Genlock-Key"
HERE = ("127.0.0.1", 7)


def app_of(cache: ModelCache, **keywords: Any) -> FastAPI:
    """Somebody's app, which answers from the models a and b, in functions of both kinds."""
    app = FastAPI(lifespan=lifespan(cache, **keywords))
    init_app(app, cache)

    @app.get("/one")
    async def one() -> dict[str, int]:
        async with use("a") as held:
            return {"generation": held.generation}

    @app.get("/one-in-a-thread")
    def one_in_a_thread() -> dict[str, int]:
        with use("a") as held:
            return {"generation": held.generation}

    @app.get("/both")
    async def both() -> dict[str, int]:
        async with use_many("a", "b") as (a, b):
            return {"a": a.generation, "b": b.generation}

    @app.get("/both-in-a-thread")
    def both_in_a_thread() -> dict[str, int]:
        with use("a") as a, use("b") as b:
            return {"a": a.generation, "b": b.generation}

    @app.get("/none")
    async def none() -> str:
        return "no model"

    @app.get("/fails")
    async def fails() -> None:
        async with use("a"):
            pass
        raise NotReady("a", "it was made up", 4)

    @app.get("/breaks")
    async def breaks() -> None:
        async with use("a"):
            pass
        raise ZeroDivisionError

    @app.get("/wrong")
    async def wrong() -> None:
        with use("a"):
            pass

    return app


def asking(app: FastAPI, talk: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    """What `talk` gives, on an event loop that the app answers on too; nothing begins or ends the app."""

    async def main() -> Any:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=HERE)
        async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
            return await talk(client)

    return asyncio.run(main())


def get(app: FastAPI, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    """One answer."""
    return asking(app, lambda client: client.request(method, path, headers=headers))


@pytest.fixture
def cache(publish: Publish, new_cache: NewCache) -> ModelCache:
    publish(1, "a")
    publish(2, "b")
    publish(3, "b")
    return new_cache("a", "b")


def problem(answer: httpx.Response, status: int, kind: str) -> Any:
    """The body of an answer that has to be a problem."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.json()["type"] == kind
    return answer.json()


# --- headers ---------------------------------------------------------------------------------------------------------


def test_an_answer_tells_where_it_comes_from(cache: ModelCache) -> None:
    """In an async function and in one that runs in a thread; with several models as a dictionary; without a model nothing."""
    app = app_of(cache)
    for path in ("/one", "/one-in-a-thread"):
        answer = get(app, path)
        assert answer.json() == {"generation": 1}
        assert answer.headers["x-genlock-generation"] == "1"
        assert answer.headers["x-genlock-version"] == cache.get("a").version
        assert "x-genlock-stale" not in answer.headers
    for path in ("/both", "/both-in-a-thread"):
        assert get(app, path).headers["x-genlock-generation"] == "a=1, b=2"
    assert not [name for name in get(app, "/none").headers if name.startswith("x-genlock")]


def test_requests_at_the_same_time_tell_each_its_own(cache: ModelCache) -> None:
    """What one used must not appear in the answer to another on the same loop: a context variable each, whatever they await."""
    cache.prewarm()

    async def talk(client: httpx.AsyncClient) -> list[str]:
        answers = await asyncio.gather(
            *(client.get(path) for path in ("/one", "/both", "/none", "/one-in-a-thread") * 5)
        )
        return [answer.headers.get("x-genlock-generation", "") for answer in answers]

    assert asking(app_of(cache), talk) == ["1", "a=1, b=2", "", "1"] * 5


def test_stale_answers_are_marked(cache: ModelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    view = cache.get("a").as_stale()
    monkeypatch.setattr(cache, "_views", {"a": view})
    assert get(app_of(cache), "/one").headers["x-genlock-stale"] == "1"


@pytest.mark.parametrize(
    ("path", "demand", "status"),
    [
        ("/one", "1", 200),
        ("/one-in-a-thread", "2", 503),
        ("/one", "a=2", 503),
        ("/both", "1", 400),
        ("/none", "99", 200),
    ],
)
def test_a_request_may_demand_a_generation(cache: ModelCache, path: str, demand: str, status: int) -> None:
    answer = get(app_of(cache), path, **{MIN: demand})
    assert answer.status_code == status, answer.text
    if status == 503:
        assert "demands" in problem(answer, 503, "urn:genlock:problem:not-ready")["detail"]


def test_a_key_takes_part_in_a_canary_and_its_answer_says_so(
    cache: ModelCache, publish: Publish, wait_for: WaitFor
) -> None:
    """From memory on the loop and from a thread; an endpoint that breaks counts against the candidate, a client's demand does not."""
    app = app_of(cache)
    cache.get("a")
    publish(7, "a", canary="50%")
    counted = wait_for(lambda: cache.views["a"].arms, 20, "the canary is heard of").trial.candidate
    key = next(f"u{n}" for n in range(50) if place_of("a", 2, f"u{n}") < 5000)
    for done, path in enumerate(("/one", "/one-in-a-thread"), 1):
        answer = get(app, path, **{KEY: key})
        assert (answer.headers["x-genlock-candidate"], answer.headers["x-genlock-generation"]) == ("2", "1")
        assert (counted.requests, counted.errors) == (done, 0)
    cache._views = {"a": cache.views["a"].must_ask()}  # as if its lease had run out: it waits in a thread
    assert get(app, "/one", **{KEY: key}).headers["x-genlock-candidate"] == "2"
    cache._views = cache.views
    assert (counted.requests, counted.errors) == (3, 0)
    assert get(app, "/breaks", **{KEY: key}).status_code == 500
    assert get(app, "/one", **{KEY: key, MIN: "99"}).status_code == 503
    assert get(app, "/both", **{KEY: key}).headers["x-genlock-generation"] == "a=1, b=2", (
        "several models know no canary"
    )
    assert (counted.requests, counted.errors) == (5, 0), (
        "the block of /breaks had ended well; what came after it is no model's fault"
    )


def test_an_error_that_used_a_model_tells_it_too(cache: ModelCache) -> None:
    answer = get(app_of(cache), "/fails")
    assert problem(answer, 503, "urn:genlock:problem:not-ready")["instance"] == "/fails"
    assert (answer.headers["retry-after"], answer.headers["x-genlock-generation"]) == ("4", "1")


def test_use_says_where_it_cannot_work(cache: ModelCache) -> None:
    """Without a request nobody knows which cache is meant, as in a WebSocket or a thread of their own, unless it is said. And `with` in
    an async function would stop all requests of the worker whenever a model is cold, which no test of its author would show."""
    with pytest.raises(RuntimeError, match="cache=cache"):
        use("a")
    with use("a", cache=cache) as held:
        assert held.generation == 1

    async def alone() -> int:
        async with use_many("a", "b", cache=cache) as held:
            return held[1].generation

    assert asyncio.run(alone()) == 2
    with pytest.raises(RuntimeError, match="async with"):
        TestClient(app_of(cache)).get("/wrong")


# --- the loop --------------------------------------------------------------------------------------------------------


def test_the_loop_goes_on_while_a_model_is_loaded(publish: Publish, new_cache: NewCache) -> None:
    """A model is cold and its load takes long. Whoever needs it waits in a thread; everybody else is answered."""
    publish(1, "a")
    release, begun = threading.Event(), threading.Event()

    def slow(checkpoint: Any) -> nn.Module:
        begun.set()
        release.wait(20)
        return state_dict_into(lambda: nn.Linear(2, 2))(checkpoint)

    cache = new_cache("a", loaders={"a": slow})

    async def talk(client: httpx.AsyncClient) -> list[int]:
        waiting = [asyncio.create_task(client.get(path)) for path in ("/one", "/one", "/one-in-a-thread")]
        assert await asyncio.to_thread(begun.wait, 20)
        others = [(await client.get(path)).status_code for path in ("/livez", "/none", "/readyz", "/cache/status")]
        assert not any(task.done() for task in waiting)
        release.set()
        return [*others, *[(await task).status_code for task in waiting]]

    assert asking(app_of(cache), talk) == [200, 200, 503, 200, 200, 200, 200]


class Waiting:
    """A cache in whose canary every use takes part, after a wait."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.group, self.given = Group(), list[Counted]()

    def at_once(self, *_: str, key: str | None) -> None:
        return None

    def get(self, model: str, **_: str) -> View:
        self.begun.set()
        assert self.go_on.wait(20)
        self.given.append(Counted(View(model=model, payload=None, generation=1, version="v"), self.group))
        return self.given[0]


@pytest.mark.parametrize("when", ["the thread still waits", "the thread has just ended"])
@pytest.mark.parametrize("by", ["its server", "a limit of its own"])
def test_who_gives_up_while_it_waits_is_no_failure_of_a_canary(when: str, by: str, wait_for: WaitFor) -> None:
    """A request that never ends counts as a failed one of its group: clients that gave up while Redis was slow turned a policy against the
    candidate. The thread goes on, whoever cancels the task that waits for it."""
    waiting, statuses, limits = Waiting(), list[int](), list[asyncio.Timeout]()
    app = FastAPI()
    app.add_middleware(Telling, cache=waiting)  # type: ignore[arg-type]

    @app.get("/")
    async def answer() -> Response:
        try:
            async with asyncio.timeout(None) as limit:
                limits.append(limit)
                async with use("a"):
                    raise AssertionError("nobody waits for it any more")
        except TimeoutError:
            return Response(status_code=503)

    async def main() -> None:
        loop, told = asyncio.get_running_loop(), threading.Event()
        tell = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *a, **more: (tell(*a, **more), told.set())[0]  # type: ignore[method-assign]

        async def sent(message: Any) -> None:
            statuses.append(message.get("status", 0))

        async def received() -> Any:
            return {"type": "http.request"}

        headers = [(b"x-genlock-key", b"u")]
        scope = {"type": "http", "method": "GET", "path": "/", "headers": headers, "query_string": b""}
        request = asyncio.create_task(app(scope, received, sent))  # type: ignore[arg-type]
        while not waiting.begun.is_set():
            await asyncio.sleep(0.001)
        if when == "the thread has just ended":
            waiting.go_on.set()
            assert told.wait(20), "the loop, which stands still, hears of it only after it has cancelled"
        if by == "its server":
            request.cancel()
        else:
            limits[0].reschedule(-1)
        await asyncio.wait([request])
        waiting.go_on.set()

    asyncio.run(main())
    wait_for(lambda: waiting.given and waiting.given[0].is_over)
    assert (waiting.group.requests, sum(waiting.group.slow), waiting.group.errors) == (1, 1, 0)
    assert statuses == ([] if by == "its server" else [503, 0])


def test_endpoints_in_threads_are_answered_while_many_wait_for_a_cold_model(
    publish: Publish, new_cache: NewCache
) -> None:
    """A model is cold and popular. Its requests wait in threads, and took all those in which FastAPI runs a `def`: no request for any model
    was answered until the load was over."""
    publish(1, "a")
    publish(2, "b")
    release, begun = threading.Event(), threading.Event()

    def slow(checkpoint: Any) -> nn.Module:
        begun.set()
        release.wait(20)
        return state_dict_into(lambda: nn.Linear(2, 2))(checkpoint)

    cache = new_cache("a", "b", loaders={"a": slow, "b": lambda: nn.Linear(2, 2)})
    app = app_of(cache)

    @app.get("/b-in-a-thread")
    def b_in_a_thread() -> dict[str, int]:
        with use("b") as held:
            return {"generation": held.generation}

    async def talk(client: httpx.AsyncClient) -> list[int]:
        assert (await client.get("/b-in-a-thread")).status_code == 200
        threads = current_default_thread_limiter()
        waiting = [asyncio.create_task(client.get("/one")) for _ in range(int(threads.total_tokens))]
        assert await asyncio.get_running_loop().run_in_executor(None, begun.wait, 20)
        answering = asyncio.create_task(client.get("/b-in-a-thread"))
        await asyncio.wait([answering], timeout=10)
        is_answered = answering.done()
        release.set()
        return [is_answered, (await answering).status_code, *[(await task).status_code for task in waiting]]

    assert asking(app, talk) == [True, *[200] * 41]


def test_the_loop_goes_on_while_a_clear_waits(cache: ModelCache, member: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker hangs: a fleet-wide clear waits for it, and this worker answers meanwhile. Then the silent one is named."""
    cache.prewarm()
    member("h:9", "a")
    monkeypatch.setattr(routes, "TASK_S", 1.5)  # in which this worker has to clear its own

    async def talk(client: httpx.AsyncClient) -> tuple[httpx.Response, int]:
        clearing, answered = asyncio.create_task(client.post("/cache/clear")), 0
        while not clearing.done():
            answered += (await client.get("/livez")).status_code == 200
            await asyncio.sleep(0.001)
        return clearing.result(), answered

    answer, answered = asking(app_of(cache), talk)
    assert problem(answer, 504, "urn:genlock:problem:silent-workers")["silent"] == ["h:9"]
    assert answered > 10


# --- routes ----------------------------------------------------------------------------------------------------------


def test_the_routes_are_those_of_flask(cache: ModelCache) -> None:
    """Somebody moves from one to the other: probes, scrapers and scripts go on unchanged. And OpenAPI knows them."""
    from flask import Flask
    from genlock.worker import blueprint

    flask, app = Flask("theirs"), app_of(cache)
    blueprint.init_app(flask, cache)
    cache.prewarm()
    asked = [(route.method, route.path.format(model="a")) for route in routes.ROUTES]
    asked += [("GET", "/cache/stats?format=csv"), ("GET", "/cache/stats?format=xml"), ("POST", "/cache/refresh/nobody")]
    for method, path in asked:
        theirs, ours = flask.test_client().open(path, method=method), get(app, path, method)
        assert (ours.status_code, ours.headers["content-type"]) == (theirs.status_code, theirs.content_type), path
        if theirs.is_json:
            assert ours.json().keys() == theirs.json.keys(), path
        cache.prewarm()
    described = app.openapi()["paths"]
    assert {path for _, path, *_ in routes.ROUTES} <= described.keys()
    assert described["/cache/refresh/{model}"]["post"]["parameters"][0]["name"] == "model"


@pytest.mark.parametrize(
    ("client", "headers", "status"),
    [
        (HERE, {}, 200),
        (("203.0.113.9", 7), {}, 403),
        (None, {}, 403),
        (HERE, {"X-Forwarded-For": "127.0.0.1"}, 403),
        (HERE, {"origin": "https://elsewhere.example"}, 403),
    ],
)
def test_without_tokens_only_this_machine_may(cache: ModelCache, client: Any, headers: Any, status: int) -> None:
    """None: a unix socket has no address, and a proxy may be behind it."""
    transport = httpx.ASGITransport(app_of(cache), client=client)

    async def post() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://worker") as one:
            return await one.post("/cache/clear", headers=headers)

    assert asyncio.run(post()).status_code == status


def test_with_tokens_an_operator_may(publish: Publish, new_cache: NewCache) -> None:
    publish(1, "a")
    app = app_of(new_cache("a", settings={"admin_tokens": "operator:sesame-open,viewer:only-looking"}))
    assert get(app, "/cache/refresh/a", "POST").headers["www-authenticate"] == "Bearer"
    assert get(app, "/cache/refresh/a", "POST", Authorization="Bearer only-looking").status_code == 403
    assert get(app, "/cache/refresh/a", "POST", Authorization="Bearer sesame-open").status_code == 200


def test_a_fault_in_a_route_is_a_problem(
    cache: ModelCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache, "get_detailed_stats", lambda: 1 / 0)
    with caplog.at_level(logging.ERROR):
        found = problem(get(app_of(cache), "/cache/stats"), 500, "urn:genlock:problem:fault")
    assert found["id"] in caplog.text


# --- beginning and ending --------------------------------------------------------------------------------------------


def test_starting_and_stopping_leaves_nothing_behind(
    publish: Publish, new_cache: NewCache, redis_url: str, wait_for: WaitFor
) -> None:
    """A service that is restarted in one process (tests do, and notebooks) must not gather threads, connections, descriptors or models;
    and it works the second time as it did the first."""
    publish(1, "a")
    cache = new_cache("a")
    app = app_of(cache, wait=True)
    with redis.Redis.from_url(redis_url) as server:

        def open_things() -> tuple[set[str], int, int]:
            gc.collect()
            threads = {thread.name for thread in threading.enumerate() if thread.name.startswith("genlock")}
            return threads, len(server.client_list()), len(os.listdir("/proc/self/fd"))  # noqa: PTH208

        before = open_things()
        for _ in range(2):
            with TestClient(app) as client:
                assert client.get("/readyz").status_code == 200, "with `wait` it is warm before it takes requests"
                assert client.get("/one").json() == {"generation": 1}
                payload = weakref.ref(cache.get("a").payload)
                assert open_things()[0] >= {"genlock-runtime", "genlock-hints", "genlock-loads", "genlock-figures"}
            wait_for(lambda: open_things() == before, 10, f"{open_things()} is {before} again")
            wait_for(lambda gone=payload: gone() is None, 10, "no thread that ends has it any more")
            with pytest.raises(NotReady, match="closed"):
                cache.get("a")


def test_one_model_that_is_broken_keeps_nobody_back(
    publish: Publish, new_cache: NewCache, wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    """One of three models has a loader that raises. The app starts, says so in its log, serves the others, and /readyz tells which."""
    for model in ("a", "b", "c"):
        publish(1, model)
    cache = new_cache(
        loaders={"a": lambda: nn.Linear(2, 2), "b": lambda: nn.Linear(2, 2), "c": lambda checkpoint: 1 / 0}
    )
    heard: list[tuple[str, int, int]] = []
    app = app_of(cache, on_progress=lambda *what: heard.append(what))
    with caplog.at_level(logging.INFO), TestClient(app) as client:
        wait_for(lambda: len(heard) == 3, 20, "prewarm has tried all")
        assert client.get("/both").status_code == 200
        found = client.get("/readyz").json()["reasons"]
        assert list(found) == ["c"]
        assert "ZeroDivisionError" in found["c"]
        assert (cache.is_warmed_up(), cache.get_warmed_models()) == (False, ["a", "b"])
        wait_for(lambda: "2 of 3 models are loaded" in caplog.text)
    assert heard == [("a", 1, 3), ("b", 2, 3), ("c", 3, 3)]
    assert "prewarm: model c is not loaded" in caplog.text


def test_an_app_starts_and_stops_whatever_fails(
    cache: ModelCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No fleet to join, a callback that raises, a close that fails: each is logged, and the app lives and ends."""

    def refuse(**_: Any) -> None:
        raise NotReady("*", "there is no fleet")

    with monkeypatch.context() as patch:
        patch.setattr(cache, "prewarm", refuse)
        with TestClient(app_of(cache, wait=True)) as client:
            assert client.get("/livez").status_code == 200
    assert "comes up unready" in caplog.text and "there is no fleet" in caplog.text
    with TestClient(app_of(cache, wait=True, on_progress=lambda *_: 1 / 0)) as client:
        assert client.get("/one").status_code == 200
    assert "ZeroDivisionError" in caplog.text
    close = cache.close
    with monkeypatch.context() as patch:
        patch.setattr(cache, "close", lambda: (close(), 1 / 0))
        with TestClient(app_of(cache)):
            pass
    assert "closing the cache of fleet t failed" in caplog.text


#: A worker whose `import torch` waits until it is told: what a slow disk makes of it.
LAZY = """
import importlib.abc, sys, threading
from fastapi import FastAPI
from fastapi.testclient import TestClient
from flask import Flask

release, met = threading.Event(), threading.Event()

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            met.set()
            assert release.wait(30)

sys.meta_path.insert(0, Slow())
from genlock.coordinator import Fleet
from genlock.worker import ModelCache, asgi, blueprint

def new():
    return ModelCache(Fleet.from_env())

cache = new()
assert cache.configured == {"m"}  # of GENLOCK_MODELS
flask = Flask("theirs")
blueprint.init_app(flask, cache)
assert flask.test_client().get("/livez").status_code == 200
assert not met.is_set() and "torch" not in sys.modules and "numpy" not in sys.modules

told = []
other = new()
app = FastAPI(lifespan=asgi.lifespan(other, on_progress=lambda *what: told.append(what)))
asgi.init_app(app, other)
with TestClient(app) as client:
    assert met.wait(30)
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 503
    assert "torch" not in sys.modules
    release.set()
    while client.get("/readyz").status_code != 200:
        pass
    assert "torch" in sys.modules
    assert flask.test_client().get("/readyz").status_code in (200, 503)
    while flask.test_client().get("/readyz").status_code != 200:
        pass
cache.close()
assert told == [("m", 1, 1)], told
print([thread.name for thread in threading.enumerate() if thread.name.startswith("genlock")])
"""


def test_an_app_answers_livez_before_torch_is_imported(publish: Publish, fleet: Fleet, tmp_path: Path) -> None:
    """Importing torch takes seconds, minutes from a cold network disk: a probe that gets no answer meanwhile kills the worker, again and
    again. Flask and FastAPI, in a process that has not imported it, with models from the configuration."""
    publish(1)
    (tmp_path / "theirs.py").write_text("import torch\nnet = lambda: torch.nn.Linear(2, 2)\n")
    settings = fleet.settings
    given = {
        "GENLOCK_REDIS_URL": settings.redis_url,
        "GENLOCK_FLEET": fleet.name,
        "GENLOCK_STORE": str(tmp_path / "store"),
        "GENLOCK_STATE_DIR": str(tmp_path / "state"),
        "GENLOCK_MODELS": "m=theirs:net",
        "GENLOCK_LOG": "json",
    }
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", LAZY],
        env={**os.environ, **given, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    events = [json.loads(line).get("event") for line in done.stderr.splitlines() if line.startswith("{")]
    assert "loaded" in events, "no server for ASGI gives genlock's lines a place: the lifespan does"
