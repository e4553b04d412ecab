"""coordinator/admin/serving.py, under a real gunicorn: it answers, streams, and ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from chaos.ports import Port
from genlock.coordinator.fleet import Fleet

WaitFor = Callable[..., Any]


class Served:
    """A process that serves the admin on a free port of loopback."""

    def __init__(self, folder: Path, environment: dict[str, str], command: Callable[[str], list[str]]) -> None:
        self._kept = Port()
        self.port = self._kept.number
        self._connections: list[http.client.HTTPConnection] = []
        self._answers: list[http.client.HTTPResponse] = []
        self.out, self.err = folder / "out", folder / "err"
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("GENLOCK_", "COVERAGE_PROCESS"))
        }
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command(f"127.0.0.1:{self.port}")],
                stdout=out,
                stderr=err,
                env=kept | environment,
            )

    def open(self, path: str, token: str | None = None, *, method: str = "GET") -> http.client.HTTPResponse:
        """An answer, of which the body was not read yet; on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        self._connections.append(connection)
        connection.request(method, path, headers={"Authorization": f"Bearer {token}"} if token else {})
        self._answers.append(connection.getresponse())
        return self._answers[-1]

    @property
    def is_up(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            return self.open("/livez").status == 200
        return False

    def stop(self) -> None:
        for one in (*self._answers, *self._connections):
            one.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
        self._kept.close()


@pytest.fixture
def serve(fleet: Fleet, tmp_path: Path, wait_for: WaitFor) -> Iterator[Callable[..., Served]]:
    """serve(command, **environment): the admin of the fleet; `command`: the words behind `python -m`, from the address."""
    made: list[Served] = []
    environment = {
        "GENLOCK_REDIS_URL": fleet.settings.redis_url or "",
        "GENLOCK_FLEET": fleet.name,
        "GENLOCK_STORE": str(fleet.store.root),
        "GENLOCK_STATE_DIR": str(fleet.settings.state_dir),
    }
    assert fleet.identity

    def start(command: Callable[[str], list[str]], **more: str) -> Served:
        made.append(Served(tmp_path, environment | more, command))
        wait_for(lambda: made[-1].is_up or made[-1].process.poll() is not None, 30, "the admin answers")
        assert made[-1].process.poll() is None, made[-1].err.read_text()
        return made[-1]

    yield start
    for served in made:
        served.stop()


def ours(bind: str) -> list[str]:
    return ["genlock.coordinator.commands", "admin", "--bind", bind, "--threads", "20"]


def theirs(bind: str) -> list[str]:
    return ["gunicorn", "genlock.coordinator.admin:app", "--bind", bind, "--threads", "8", "--log-level", "warning"]


def test_the_link_that_is_printed_opens_everything_until_it_ends(serve: Callable[..., Served], fleet: Fleet) -> None:
    """Somebody tries it on a laptop: one command, one click. A stream that is open must not hold up Ctrl-C for half a minute."""
    served = serve(ours)
    (link,) = [word for word in served.out.read_text().split() if word.startswith("http://")]
    address, _, token = link.partition("/#token=")
    assert (address, len(token)) == (f"http://127.0.0.1:{served.port}", 32)
    assert json.load(served.open("/api/v1/whoami", token)) == {"role": "operator", "name": "operator"}
    assert served.open("/api/v1/whoami", token + "x").status == 401
    assert served.open("/").status == 200
    assert served.open("/api/v1/clear", token, method="POST").status == 200
    stream = served.open("/api/v1/events?follow=1&state=1", token)
    assert stream.readline() == b": genlock\n"
    served.process.send_signal(signal.SIGINT)
    assert b"event: fleet" in stream.read()
    assert served.process.wait(10) == 0
    log = served.err.read_text()
    assert "clear of all models by operator@127.0.0.1" in log
    assert "Traceback" not in log
    assert token not in log


def test_gunicorn_serves_it_by_its_name(serve: Callable[..., Served], fleet: Fleet, wait_for: WaitFor) -> None:
    """In production; its lines are JSON where somebody collects them, and a stream ends with the process here, too."""
    served = serve(theirs, GENLOCK_ADMIN_TOKENS="operator/alice:may-do-all", GENLOCK_LOG="json")
    assert json.load(served.open("/api/v1/fleet", "may-do-all"))["name"] == "t"
    assert served.open("/api/v1/clear", "may-do-all", method="POST").status == 200
    stream = served.open("/api/v1/events?follow=1", "may-do-all")
    assert stream.readline() == b": genlock\n"
    served.process.send_signal(signal.SIGTERM)
    stream.read()
    assert served.process.wait(10) == 0
    lines = [json.loads(line) for line in served.err.read_text().splitlines() if line.startswith("{")]
    (told,) = [line for line in lines if line.get("event") == "clear"]
    assert (told["by"], told["outcome"], told["logger"]) == ("alice@127.0.0.1", "done", "genlock.admin")


def test_gunicorn_says_why_nobody_could_log_in(fleet: Fleet, tmp_path: Path) -> None:
    environment = {"GENLOCK_REDIS_URL": fleet.settings.redis_url or "", "GENLOCK_STATE_DIR": str(tmp_path)}
    served = Served(tmp_path, environment, theirs)
    try:
        assert served.process.wait(20) != 0
        assert "GENLOCK_ADMIN_TOKENS" in served.err.read_text()
    finally:
        served.stop()
