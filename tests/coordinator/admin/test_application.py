"""coordinator/admin/application.py: who may ask, what a request is read into, what every answer has."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from genlock.coordinator.admin import create_app
from genlock.coordinator.admin.application import MAX_BODY_BYTES
from genlock.coordinator.admin.attempts import MOST
from genlock.coordinator.admin.document import document_of
from genlock.coordinator.admin.reader import Reader
from genlock.coordinator.admin.route import ROUTES
from genlock.coordinator.errors import SettingsInvalid
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.problems import MEDIA_TYPE

NewApp = Callable[..., Flask]
#: An address, as a connection from there has it.
AWAY = {"REMOTE_ADDR": "203.0.113.9"}


@pytest.fixture(scope="session")
def routes() -> list[tuple[str, str, str | None]]:
    """(Method, path, role) of every route, as the document says."""
    return [
        (method.upper(), path.replace("{model}", "digits"), one["security"][0]["token"][0] if one["security"] else None)
        for path, item in document_of(ROUTES)["paths"].items()
        for method, one in item.items()
    ]


def problem(answer: Any, status: int, kind: str = "about:blank") -> Any:
    """The body of an answer that has to be a problem."""
    assert answer.status_code == status, answer.text
    assert answer.content_type == MEDIA_TYPE
    assert (answer.json["status"], answer.json["type"]) == (status, kind)
    assert answer.json["detail"]
    assert "Traceback" not in answer.text
    return answer.json


# --- roles -----------------------------------------------------------------------------------------------------------


def test_no_route_works_without_its_role(app: Flask, routes: list[tuple[str, str, str | None]]) -> None:
    """Somebody adds a route and forgets who may use it: what the document says is tried, for every route, with every kind of caller."""
    client = app.test_client()
    assert len(routes) > 15
    for method, path, role in routes:
        assert role in (None, "viewer", "operator")
        assert (role == "operator") == (method == "POST"), f"{method} {path} takes {role}"
        assert (role is None) == (not path.startswith("/api/")), f"{method} {path} takes {role}"

        def ask(token: str | None, method: str = method, path: str = path) -> int:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            return client.open(path, method=method, headers=headers).status_code

        if role is not None:
            assert (ask(None), ask("may-do-none")) == (401, 401), f"{method} {path}"
            app.extensions["genlock"]._attempts._wrong.clear()
        if role == "operator":
            assert ask("looks-only") == 403, f"{method} {path}"
        assert ask("looks-only" if role == "viewer" else "may-do-all") not in (401, 403, 429, 500), f"{method} {path}"


def test_every_rule_of_the_application_is_described(app: Flask, routes: list[tuple[str, str, str | None]]) -> None:
    """But the files of the page, of which each has a rule in common."""
    rules = {(method, rule.rule) for rule in app.url_map.iter_rules() for method in (rule.methods or set()) - {"HEAD"}}
    described = {(method, path.replace("digits", "<model>")) for method, path, _ in routes}
    assert rules - described == {("GET", "/<name>")}
    assert described - rules == set()


def test_a_token_says_who_it_is(alice: Any, viewer: Any) -> None:
    assert alice.get("whoami").json == {"role": "operator", "name": "alice"}
    assert viewer.get("whoami").json == {"role": "viewer", "name": "viewer"}


def test_who_has_no_token_hears_how_to_send_one(nobody: Any) -> None:
    answer = nobody.get("models")
    assert "Bearer" in problem(answer, 401, "urn:genlock:problem:unauthorized")["detail"]
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_an_admin_nobody_could_log_in_to_does_not_start(fleet: Fleet) -> None:
    """gunicorn would serve a page that refuses everybody, or worse, lets everybody in."""
    with pytest.raises(SettingsInvalid, match="GENLOCK_ADMIN_TOKENS"):
        create_app(fleet.settings)


def test_a_token_of_one_run_opens_beside_those_of_the_settings(new_app: NewApp, asking: Any) -> None:
    app = new_app(token="made-for-this-run")
    assert asking(app, "made-for-this-run").get("whoami").json["role"] == "operator"
    assert asking(app, "looks-only").get("whoami").status_code == 200


def test_a_token_counts_from_when_it_stands_in_the_file(new_app: NewApp, asking: Any, tmp_path: Path) -> None:
    """Somebody leaves: her line goes, and the admin needs no restart."""
    path = tmp_path / "tokens"
    path.write_text("# people\noperator/bob:bobs-token\n")
    path.chmod(0o600)
    app = new_app(admin_tokens_file=path)
    assert asking(app, "bobs-token").get("whoami").json == {"role": "operator", "name": "bob"}
    path.write_text("# people\n")
    assert asking(app, "bobs-token").get("whoami").status_code == 401
    path.chmod(0o644)
    answer = asking(app, "looks-only").get("whoami")
    assert "chmod" in problem(answer, 503, "urn:genlock:problem:settings-invalid")["detail"]


# --- wrong tokens ----------------------------------------------------------------------------------------------------


def test_an_address_that_guesses_is_not_listened_to(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even its right token does not count then, or guessing would go on; from elsewhere it does."""
    now = [1000.0]
    monkeypatch.setattr(app.extensions["genlock"]._attempts, "_clock", lambda: now[0])
    client = app.test_client()

    def ask(token: str, **environ: str) -> Any:
        headers = {"Authorization": f"Bearer {token}"}
        return client.get("/api/v1/whoami", headers=headers, environ_overrides=environ)

    assert [ask("guessed", **AWAY).status_code for _ in range(MOST)] == [401] * MOST
    answer = ask("may-do-all", **AWAY)
    assert "203.0.113.9" in problem(answer, 429)["detail"]
    assert 1 <= int(answer.headers["Retry-After"]) <= 61
    assert ask("may-do-all").status_code == 200
    assert client.get("/", environ_overrides=AWAY).status_code == 200
    now[0] += 61
    assert ask("may-do-all", **AWAY).status_code == 200


def test_who_sends_no_token_has_not_guessed(app: Flask, nobody: Any, viewer: Any) -> None:
    """A page that is open without being logged in asks again and again."""
    assert {nobody.get("whoami").status_code for _ in range(2 * MOST)} == {401}
    assert viewer.get("whoami").status_code == 200


def test_forwarded_addresses_are_believed_of_as_many_proxies_as_there_are(new_app: NewApp) -> None:
    """Otherwise everybody writes another address into the header for each guess, or shuts out who has that address."""
    sent = {"Authorization": "Bearer guessed", "X-Forwarded-For": "198.51.100.1, 203.0.113.9"}
    for proxies, blamed in ((0, "127.0.0.1"), (1, "203.0.113.9"), (2, "198.51.100.1")):
        client = new_app(admin_proxies=proxies).test_client()
        answers = [client.get("/api/v1/whoami", headers=sent) for _ in range(MOST + 1)]
        assert blamed in problem(answers[-1], 429)["detail"]


# --- what a request is read into -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind", "status", "said"),
    [
        (b"{", "application/json", 400, "no JSON"),
        (b"\xff\xfe", "application/json", 400, "no JSON"),
        (b'{"why": "x"}', "text/plain", 415, "application/json"),
        (b'{"why": "x"}', "application/x-www-form-urlencoded", 415, "application/json"),
        (b"[]", "application/json", 422, "body: Expected `object`"),
        (b'{"why": 3}', "application/json", 422, "body.why: Expected `str`"),
        (b'{"wy": "x"}', "application/json", 422, "unknown field `wy`"),
        (b'{"why": "%b"}' % (b"x" * 4097), "application/json", 422, "body.why"),
        (b" " * (MAX_BODY_BYTES + 1), "application/json", 413, "exceeds"),
    ],
)
def test_a_body_that_makes_no_sense_is_told_where(app: Flask, data: bytes, kind: str, status: int, said: str) -> None:
    headers = {"Authorization": "Bearer may-do-all"}
    answer = app.test_client().post("/api/v1/models/digits/pin", data=data, content_type=kind, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.content_type == MEDIA_TYPE
    assert said in answer.json["detail"]


def test_no_body_is_an_empty_one(app: Flask, alice: Any) -> None:
    """`curl -X POST` sends none."""
    headers = {"Authorization": "Bearer may-do-all"}
    answer = app.test_client().post("/api/v1/models/digits/pin", headers=headers)
    problem(answer, 404, "urn:genlock:problem:unknown-model")


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("events?limit=x", "query.limit"),
        ("events?limit=1001", "query.limit"),
        ("events?limit=1&limit=2", "query.limit"),
        ("events?after=then", "query.after"),
        ("events?follow=perhaps", "query.follow"),
        ("events?folow=1", "query"),
        ("models/digits/history?limit=0", "query.limit"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_told(viewer: Any, path: str, where: str) -> None:
    assert problem(viewer.get(path), 422, "urn:genlock:problem:bad-input")["where"] == where


@pytest.mark.parametrize("key", ["", "a b", "ü", "x" * 129, "..", '"'])
def test_a_key_that_cannot_be_one_is_refused(app: Flask, key: str) -> None:
    """It would be taken for another one, or for none, and the change done twice."""
    headers = {"Authorization": "Bearer may-do-all", "Idempotency-Key": key}
    answer = app.test_client().post("/api/v1/clear", headers=headers)
    assert problem(answer, 400, "urn:genlock:problem:header-invalid")["header"] == "Idempotency-Key"


def test_every_answer_to_a_change_names_its_key(alice: Any) -> None:
    assert alice.post("clear", key="one").headers["Idempotency-Key"] == "one"
    assert alice.post("clear", key='"two"').headers["Idempotency-Key"] == "two"
    assert len(alice.post("models/nope/pin").headers["Idempotency-Key"]) == 32
    assert "Idempotency-Key" not in alice.get("fleet").headers


# --- what every answer has -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("GET", "/api/v1/nope", 404),
        ("GET", "/api/v1/models/", 404),
        ("GET", "/page/main.js", 404),
        ("GET", "/..%2fapplication.py", 404),
        ("GET", "/figures.py", 404),
        ("DELETE", "/api/v1/models", 405),
        ("OPTIONS", "/api/v1/models", 405),
        ("POST", "/", 405),
    ],
)
def test_other_paths_and_methods_are_problems(app: Flask, method: str, path: str, status: int) -> None:
    answer = app.test_client().open(path, method=method)
    problem(answer, status)
    assert (status == 405) == ("Allow" in answer.headers)


def test_what_nobody_expected_is_told_by_an_id_only(
    app: Flask, viewer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Reader) -> None:
        raise ZeroDivisionError("password=hunter2")

    monkeypatch.setattr(Reader, "picture", broken)
    with caplog.at_level(logging.ERROR):
        answer = viewer.get("models")
    found = problem(answer, 500, "urn:genlock:problem:fault")
    assert found["id"] in caplog.text
    assert "hunter2" in caplog.text
    assert "hunter2" not in answer.text


@pytest.mark.parametrize("path", ["/", "/main.js", "/nope", "/livez", "/api/v1/models", "/openapi.json"])
def test_no_answer_may_run_or_frame_anything(app: Flask, path: str) -> None:
    """A browser that was handed something foreign as ours would run it with the operator's token."""
    headers = app.test_client().get(path).headers
    policy = dict(rule.strip().partition(" ")[::2] for rule in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == ("no-cache" if path in ("/", "/main.js") else "no-store")


def test_the_page_and_its_files_are_given_out(app: Flask) -> None:
    client = app.test_client()
    index = client.get("/")
    assert index.content_type.startswith("text/html")
    script = client.get("/main.js")
    assert script.content_type.startswith("text/javascript")
    assert client.get("/icon.svg").content_type.startswith("image/svg+xml")
    again = client.get("/main.js", headers={"If-None-Match": script.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_probes_and_figures_are_open(nobody: Any) -> None:
    assert nobody.get("/livez").json == {"alive": True}
    assert nobody.get("/readyz").json["ready"] is True
    answer = nobody.get("/metrics")
    assert answer.content_type.startswith("text/plain; version=0.0.4")
    assert "genlock_fleet_workers" in answer.text
    assert nobody.get("/openapi.json").json["openapi"] == "3.1.0"
