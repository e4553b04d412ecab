"""worker/blueprint.py: what an answer tells, what a request may demand, and the routes of a worker."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from flask import Flask, abort, redirect
from flask.testing import FlaskClient
from genlock.coordinator.canary import place_of
from genlock.coordinator.errors import NotReady
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.problems import MEDIA_TYPE
from genlock.worker import routes
from genlock.worker.blueprint import failed, get, init_app, use, use_many
from genlock.worker.cache import ModelCache

Publish = Callable[..., Any]
NewCache = Callable[..., ModelCache]
WaitFor = Callable[..., Any]
Background = Callable[[Callable[[], Any]], "Future[Any]"]

MIN, KEY = "X-Genlock-Min-Generation", "X-Genlock-Key"


def app_of(cache: ModelCache) -> Flask:
    """Somebody's app, which answers from the models a and b."""
    app = Flask("theirs")
    init_app(app, cache)

    @app.get("/one")
    def one() -> dict[str, Any]:
        with use("a") as held:
            return {"generation": held.generation}

    @app.get("/both")
    def both() -> dict[str, Any]:
        with use_many("a", "b") as (a, b):
            return {"a": a.generation, "b": b.generation}

    @app.get("/one-by-one")
    def one_by_one() -> dict[str, Any]:
        return {"a": get("a").generation, "b": get("b").generation}

    @app.get("/none")
    def none() -> str:
        return "no model"

    @app.get("/lost")
    def lost() -> str:
        get("a")
        abort(404)

    @app.get("/fails")
    def fails() -> str:
        get("a")
        raise NotReady("a", "it was made up", 4)

    return app


@pytest.fixture
def cache(publish: Publish, new_cache: NewCache) -> ModelCache:
    publish(1, "a")
    publish(2, "b")
    publish(3, "b")
    return new_cache("a", "b")


@pytest.fixture
def client(cache: ModelCache) -> FlaskClient:
    return app_of(cache).test_client()


def problem(answer: Any, status: int, kind: str) -> Any:
    """The body of an answer that has to be a problem."""
    assert answer.status_code == status, answer.text
    assert answer.content_type == MEDIA_TYPE
    assert answer.json["status"] == status
    assert answer.json["type"] == kind
    assert answer.json["detail"]
    assert "Traceback" not in answer.text
    return answer.json


# --- headers ---------------------------------------------------------------------------------------------------------


def test_an_answer_tells_where_it_comes_from(client: FlaskClient, cache: ModelCache, publish: Publish) -> None:
    for generation in (1, 2):
        answer = client.get("/one")
        assert answer.headers["X-Genlock-Generation"] == str(generation)
        assert answer.headers["X-Genlock-Version"] == cache.get("a").version
        assert "X-Genlock-Stale" not in answer.headers
        publish(7, "a")


@pytest.mark.parametrize("path", ["/both", "/one-by-one"])
def test_with_several_models_it_is_a_dictionary(client: FlaskClient, cache: ModelCache, path: str) -> None:
    answer = client.get(path)
    assert answer.headers["X-Genlock-Generation"] == "a=1, b=2"
    version = f'a="{cache.get("a").version}", b="{cache.get("b").version}"'
    assert answer.headers["X-Genlock-Version"] == version


def test_an_answer_without_a_model_tells_nothing(client: FlaskClient) -> None:
    assert not [name for name, _ in client.get("/none").headers if name.startswith("X-Genlock")]


def test_a_key_takes_part_in_a_canary_and_its_answer_says_so(
    client: FlaskClient, cache: ModelCache, publish: Publish, wait_for: WaitFor
) -> None:
    """X-Genlock-Key in, X-Genlock-Candidate out; the generation stays that of all the others. What ends as a 5xx is an error."""
    cache.get("a")
    publish(7, "a", canary="50%")
    arms = wait_for(lambda: cache.views["a"].arms, 20, "the canary is heard of")
    keys = {place_of("a", 2, f"u{n}") < 5000: f"u{n}" for n in range(50)}
    plain, tried, active = (client.get("/one", headers=head) for head in ({}, {KEY: keys[True]}, {KEY: keys[False]}))
    assert [one.headers.get("X-Genlock-Candidate") for one in (plain, tried, active)] == [None, "2", None]
    assert {one.headers["X-Genlock-Generation"] for one in (plain, tried, active)} == {"1"}
    assert tried.headers["X-Genlock-Version"] != active.headers["X-Genlock-Version"]
    counted, other = arms.trial.candidate, arms.trial.active
    assert (counted.requests, counted.errors, sum(counted.slow)) == (1, 0, 1)
    answer = client.get("/fails", headers={KEY: keys[True]})
    assert (answer.status_code, answer.headers["X-Genlock-Candidate"]) == (503, "2")
    assert (counted.requests, counted.errors, sum(counted.slow)) == (2, 1, 2)
    assert client.get("/lost", headers={KEY: keys[True]}).status_code == 404
    assert (counted.requests, counted.errors, sum(counted.slow)) == (3, 1, 3), "the client's own fault"
    assert (other.requests, other.errors, sum(other.slow)) == (1, 0, 1)
    assert client.get("/one", headers={KEY: keys[True], MIN: "99"}).status_code == 503
    assert (counted.requests, counted.errors, sum(counted.slow)) == (4, 1, 4), "anybody may demand what is not there"


def test_an_error_that_used_a_model_tells_it_too(client: FlaskClient) -> None:
    """A client that checks the order of generations must not lose sight of them in its errors."""
    answer = client.get("/fails")
    found = problem(answer, 503, "urn:genlock:problem:not-ready")
    assert (found["model"], found["instance"]) == ("a", "/fails")
    assert answer.headers["Retry-After"] == "4"
    assert answer.headers["X-Genlock-Generation"] == "1"


def test_stale_answers_are_marked(client: FlaskClient, cache: ModelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    views = {model: cache.get(model).as_stale() for model in ("a", "b")}
    monkeypatch.setattr(cache, "get", views.__getitem__)
    assert client.get("/one").headers["X-Genlock-Stale"] == "1"
    assert client.get("/one-by-one").headers["X-Genlock-Stale"] == "a=1, b=1"


@pytest.mark.parametrize(
    ("path", "demand", "status"),
    [
        ("/one", "1", 200),
        ("/one", "2", 503),
        ("/one", "a=1", 200),
        ("/one", "a=2", 503),
        ("/one", "b=99", 200),
        ("/both", "a=1, b=2", 200),
        ("/both", "b=3", 503),
        ("/one-by-one", "b=3", 503),
        ("/both", "1", 400),
        ("/one-by-one", "1", 400),
        ("/one", "x", 400),
        ("/one", "", 400),
        ("/none", "99", 200),
    ],
)
def test_a_request_may_demand_a_generation(client: FlaskClient, path: str, demand: str, status: int) -> None:
    """Who has seen generation 2 can be sure never to see 1 again, whichever worker answers; at once, not after a wait."""
    answer = client.get(path, headers={MIN: demand})
    assert answer.status_code == status, answer.text
    if status == 503:
        assert "demands" in problem(answer, 503, "urn:genlock:problem:not-ready")["detail"]
        assert answer.headers["Retry-After"] == "1"
    if status == 400:
        problem(answer, 400, "urn:genlock:problem:header-invalid")


def test_a_key_is_passed_on(client: FlaskClient, cache: ModelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[Any] = []
    view = cache.get("a")

    def spy(model: str, *, key: str | None = None) -> Any:
        keys.append(key)
        return view

    monkeypatch.setattr(cache, "get", spy)
    client.get("/one", headers={"X-Genlock-Key": "user-7"})
    client.get("/one")
    assert keys == ["user-7", None]


def test_two_apps_of_a_process_have_their_own_models(cache: ModelCache, new_cache: NewCache, publish: Publish) -> None:
    other = new_cache("a", fleet=Fleet(settings=cache.fleet.settings, name="another"))
    ours, theirs = app_of(cache).test_client(), app_of(other).test_client()
    assert ours.get("/one").json == {"generation": 1}
    assert theirs.get("/one").status_code == 503, "nothing is published there"
    assert ours.get("/cache/status").json["fleet"] == "t"
    assert theirs.get("/cache/status").json["fleet"] == "another"


# --- looking ---------------------------------------------------------------------------------------------------------


def test_a_worker_is_ready_when_it_can_answer(client: FlaskClient, wait_for: WaitFor) -> None:
    """Whoever looks also begins the loads: without a warm-up nobody would send requests to a worker that is not ready."""
    found = problem(client.get("/readyz"), 503, "urn:genlock:problem:not-ready")
    assert set(found["reasons"]) <= {"a", "b"}
    assert client.get("/readyz").headers.get("Retry-After", "1") == "1"
    wait_for(lambda: client.get("/readyz").status_code == 200)
    assert client.get("/readyz").json == {"ready": True, "notice": "", "models": ["a", "b"]}


def test_what_is_set_for_debugging_is_said(publish: Publish, new_cache: NewCache, wait_for: WaitFor) -> None:
    publish(1, "a")
    client = app_of(new_cache("a", settings={"use_cache": "false"})).test_client()
    wait_for(lambda: client.get("/readyz").status_code == 200)
    assert client.get("/readyz").json["notice"] == "GENLOCK_USE_CACHE=false, every use loads"


def test_a_worker_that_cannot_begin_is_not_ready_and_says_why(cache: ModelCache, client: FlaskClient) -> None:
    cache.close()
    found = problem(client.get("/readyz"), 503, "urn:genlock:problem:not-ready")
    assert "this cache was closed" in found["reasons"]["*"]
    assert client.get("/livez").status_code == 200
    problem(client.get("/one"), 503, "urn:genlock:problem:not-ready")


def test_a_worker_lives_until_its_runtime_has_died(client: FlaskClient, cache: ModelCache, wait_for: WaitFor) -> None:
    """Its answers would be stale for ever; only another process helps."""
    assert client.get("/livez").json == {"alive": True}
    client.get("/one")
    assert client.get("/livez").json == {"alive": True}
    assert cache.runtime is not None
    cache.runtime.post(cache.runtime.agent.leave)
    wait_for(lambda: client.get("/livez").status_code == 503)
    problem(client.get("/livez"), 503, "urn:genlock:problem:not-alive")


def test_the_status_says_how_a_worker_stands(client: FlaskClient, cache: ModelCache, fleet: Fleet) -> None:
    before = client.get("/cache/status").json
    assert (before["member"], before["redis"], before["ready"]) == (None, None, False)
    assert before["models"] == {"a": None, "b": None}
    assert cache.runtime is None, "looking begins nothing"
    cache.prewarm()
    after = client.get("/cache/status").json
    assert after["models"]["b"]["generation"] == 2
    assert after["models"]["a"] == {"generation": 1, "version": cache.get("a").version, "stale": False, "bytes": 24}
    assert (after["worker"], after["redis"], after["ready"]) == (cache.worker, "reached", True)
    assert after["member"] == fleet.workers()[0].member
    assert after["lease_s"] > 0


def test_figures_in_three_forms(client: FlaskClient, cache: ModelCache) -> None:
    client.get("/one")
    assert client.get("/cache/stats").json["models"]["a"]["generation"] == 1
    assert client.get("/cache/stats?format=csv").text.startswith("model,metric,value\n")
    text = client.get("/cache/stats?format=prometheus")
    assert client.get("/metrics").content_type == text.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert f'genlock_worker_active_generation{{worker="{cache.worker}",model="a"}} 1' in client.get("/metrics").text
    problem(client.get("/cache/stats?format=xml"), 422, "urn:genlock:problem:bad-input")


# --- fleet-wide ------------------------------------------------------------------------------------------------------


def test_clear_and_refresh_reach_the_fleet(client: FlaskClient, cache: ModelCache) -> None:
    cache.prewarm()
    before = cache.get("a")
    found = client.post("/cache/refresh/a")
    assert found.status_code == 200
    assert found.json["asked"] == 1
    assert list(found.json["done"]) == [cache.worker]
    assert cache.get("a").payload is not before.payload
    found = client.post("/cache/clear").json
    assert (found["kind"], found["model"], found["silent"], list(found["done"])) == ("clear", None, [], [cache.worker])
    assert cache.get_warmed_models() == []
    problem(client.post("/cache/refresh/other"), 404, "urn:genlock:problem:unknown-model")


def test_who_did_not_answer_is_named(
    client: FlaskClient, cache: ModelCache, member: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that hangs: the others have done it, and the answer says that this one has not."""
    cache.prewarm()
    member("h:9", "a")
    monkeypatch.setattr(routes, "TASK_S", 1.0)  # in which this worker has to clear its own
    found = problem(client.post("/cache/clear"), 504, "urn:genlock:problem:silent-workers")
    assert found["silent"] == ["h:9"]
    assert list(found["done"]) == [cache.worker]
    assert "h:9" in found["detail"]


def test_who_failed_is_named_with_why(
    client: FlaskClient, cache: ModelCache, member: Any, background: Background, wait_for: WaitFor
) -> None:
    cache.prewarm()
    one = member("h:9", "a")
    asked = background(lambda: client.post("/cache/refresh/a"))
    one.did(wait_for(lambda: one.task("refresh")), ok=False, why="disk error")
    found = problem(asked.result(), 502, "urn:genlock:problem:failed-workers")
    assert found["failed"] == {"h:9": "disk error"}
    assert "h:9 failed: disk error" in found["detail"]


@pytest.mark.parametrize("path", ["/cache/clear", "/cache/refresh/a"])
def test_only_an_operator_may(publish: Publish, new_cache: NewCache, path: str) -> None:
    publish(1, "a")
    tokens = {"admin_tokens": "operator:sesame-open,viewer:only-looking"}
    client = app_of(new_cache("a", settings=tokens)).test_client()
    refused = client.post(path)
    problem(refused, 401, "urn:genlock:problem:unauthorized")
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    problem(client.post(path, headers={"Authorization": "Bearer only-looking"}), 403, "urn:genlock:problem:not-allowed")
    headers = {"Authorization": "Bearer sesame-open", "X-Forwarded-For": "203.0.113.9"}
    assert client.post(path, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("environ", "headers"),
    [
        ({"REMOTE_ADDR": "203.0.113.9"}, {}),
        ({"REMOTE_ADDR": ""}, {}),
        ({"REMOTE_ADDR": "127.0.0.1"}, {"X-Forwarded-For": "127.0.0.1"}),
        ({"REMOTE_ADDR": "127.0.0.1"}, {"Forwarded": "for=127.0.0.1"}),
        ({"REMOTE_ADDR": "127.0.0.1"}, {"Origin": "https://elsewhere.example"}),
    ],
)
def test_without_tokens_only_this_machine_may(client: FlaskClient, environ: Any, headers: Any) -> None:
    refused = client.post("/cache/clear", environ_base=environ, headers=headers)
    problem(refused, 403, "urn:genlock:problem:not-allowed")


# --- errors ----------------------------------------------------------------------------------------------------------


def test_errors_in_these_routes_are_problems(
    client: FlaskClient, cache: ModelCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache, "get_detailed_stats", lambda: 1 / 0)
    with caplog.at_level(logging.ERROR):
        found = problem(client.get("/cache/stats"), 500, "urn:genlock:problem:fault")
    assert found["id"] in caplog.text
    assert "division" not in str(found)


def test_the_pages_of_somebodys_app_stay_theirs(client: FlaskClient) -> None:
    """Only our errors are ours: their 404 keeps its page."""
    assert client.get("/nowhere").content_type.startswith("text/html")
    assert client.get("/cache/clear").status_code == 405


def test_redirects_and_answers_on_purpose_are_no_problems(cache: ModelCache) -> None:
    """As the handler of a whole app, which is what the ready-made evaluator makes of it."""
    app = app_of(cache)
    app.register_error_handler(Exception, failed)
    app.add_url_rule("/gone", "gone", lambda: abort(410, "no more"))
    app.add_url_rule("/made", "made", lambda: abort(app.response_class("made", 418)))
    app.add_url_rule("/own", "own", lambda: abort(404, response=app.response_class("own", 404)))
    app.add_url_rule("/to", "to", lambda: abort(redirect("/one")))
    app.add_url_rule("/folder/", "folder", lambda: "")
    client = app.test_client()
    assert problem(client.get("/gone"), 410, "about:blank")["detail"] == "no more"
    assert client.get("/made").text == "made"
    assert client.get("/own").text == "own"
    assert client.get("/to").status_code == 302
    assert client.get("/folder").status_code == 308
    assert problem(client.put("/one"), 405, "about:blank")["title"] == "Method Not Allowed"
    assert "GET" in client.put("/one").headers["Allow"]
