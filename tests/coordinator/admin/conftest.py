"""The admin over the fleet of the fixture `fleet`: its application in this process, asked as an operator, as a viewer or as nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from genlock.coordinator.admin import create_app
from genlock.coordinator.fleet import Fleet
from werkzeug.test import TestResponse

API = "/api/v1"
TOKENS = (("operator/alice", "may-do-all"), ("viewer", "looks-only"))
ALICE = "may-do-all"
VIEWER = "looks-only"


class Asking:
    """Somebody with a token, or without one."""

    def __init__(self, client: FlaskClient, token: str | None) -> None:
        self._client, self._token = client, token

    def get(self, path: str, **headers: str) -> TestResponse:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: Any = None, *, key: str | None = None) -> TestResponse:
        headers = {"Idempotency-Key": key} if key else {}
        return self.ask("POST", path, json={} if body is None else body, **headers)

    def ask(self, method: str, path: str, *, json: Any = None, **headers: str) -> TestResponse:
        """`headers`: with `_` for `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self._token is not None:
            sent["Authorization"] = f"Bearer {self._token}"
        place = (
            path
            if not path.startswith(("models", "events", "fleet", "workers", "stats", "whoami", "clear"))
            else f"{API}/{path}"
        )
        return self._client.open(place, method=method, json=json, headers=sent)


@pytest.fixture
def new_app(fleet: Fleet) -> Iterator[Callable[..., Flask]]:
    """new_app(**settings): an admin of the fleet with the tokens above; `streams`, `token`: see create_app."""
    made: list[Flask] = []
    assert fleet.identity  # with the lease of the fixture

    def make(*, streams: int = 4, token: str | None = None, **settings: Any) -> Flask:
        chosen = fleet.settings.with_arguments(**({"admin_tokens": TOKENS} | settings))
        made.append(create_app(chosen, token=token, streams=streams))
        return made[-1]

    yield make
    for app in made:
        app.extensions["genlock"].reader.close()


@pytest.fixture
def app(new_app: Callable[..., Flask]) -> Flask:
    return new_app()


@pytest.fixture
def alice(app: Flask) -> Asking:
    """The operator alice."""
    return Asking(app.test_client(), ALICE)


@pytest.fixture
def viewer(app: Flask) -> Asking:
    return Asking(app.test_client(), VIEWER)


@pytest.fixture
def nobody(app: Flask) -> Asking:
    return Asking(app.test_client(), None)


@pytest.fixture
def asking() -> Callable[[Flask, str | None], Asking]:
    """asking(app, token): somebody else."""
    return lambda app, token: Asking(app.test_client(), token)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    """file(content): a file to be published."""

    def make(content: str = "1") -> Path:
        path = tmp_path / f"{content}.bin"
        path.write_text(f"checkpoint {content}")
        return path

    return make


class Stream:
    """What a follower reads, in a thread: (event, data, id) of each message, comments as ("", text, None)."""

    def __init__(self, response: TestResponse) -> None:
        self.response = response
        self.messages: list[tuple[str, str, str | None]] = []
        self.has_ended = False
        self._thread = threading.Thread(target=self._read, name="follower")
        self._thread.start()

    def _read(self) -> None:
        for chunk in self.response.response:
            for text in bytes(chunk).decode().split("\n\n")[:-1]:
                rows = dict(line.partition(": ")[::2] for line in text.split("\n"))
                self.messages.append((rows.get("event", ""), rows.get("data", rows.get("", "")), rows.get("id")))
        self.response.close()
        self.has_ended = True

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def follow(app: Flask) -> Iterator[Callable[..., Stream]]:
    """follow(query="", **headers): a follower of the events, as a viewer; ended with the app at the latest."""
    made: list[Stream] = []

    def start(query: str = "", **headers: str) -> Stream:
        sent = {"Authorization": f"Bearer {VIEWER}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        response = app.test_client().get(f"{API}/events?follow=1{query}", headers=sent, buffered=False)
        assert response.status_code == 200, response.text
        made.append(Stream(response))
        return made[-1]

    yield start
    app.extensions["genlock"].reader.end()
    for stream in made:
        stream.join()
