"""deploy/nginx: a real nginx with these files, before small servers that tell what they were asked."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from chaos.ports import Port

from deploy.files import DEPLOY, program


class Upstream(ThreadingHTTPServer):
    """Tells what it was asked; 503 where a header of the request says so."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.connections, self.asked, self.go_on = 0, 0, threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, name="upstream")
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def end(self) -> None:
        self.go_on.set()
        self.shutdown()
        self.server_close()
        self._thread.join()


class Asked(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20
    wbufsize = 65536  # an answer in one piece: its second would wait for the first one's acknowledgement
    server: Upstream

    def do_GET(self) -> None:
        self.server.asked += 1
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.startswith("/api/v1/events"):
            return self._stream()
        found = {
            "port": self.server.server_port,
            "path": self.path,
            "bytes": len(body),
            "headers": {name.lower(): value for name, value in self.headers.items()},
        }
        self.send_response(int(self.headers.get("X-Answer", 200)))
        data = json.dumps(found).encode()
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Genlock-Generation", "7")
        self.end_headers()
        self.wfile.write(data)
        return None

    do_POST = do_GET

    def _stream(self) -> None:
        """An event, and another one when the test has seen the first."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"data: 1\n\n")
        self.wfile.flush()
        self.server.go_on.wait(20)
        self.wfile.write(b"data: 2\n\n")
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Not to stderr."""


class Front:
    """A running nginx."""

    def __init__(self, port: int, lines: Path, errors: Path) -> None:
        self.port, self._lines, self._errors = port, lines, errors

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Status, headers, JSON."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            text = answer.read()
        try:
            found = json.loads(text)
        except ValueError:
            found = {}
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, found

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._lines.read_text().splitlines()]

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def answers(self) -> bool:
        try:
            return self.ask("GET", "/nginx-health")[0] == 204
        except OSError:
            return False


def configure(folder: Path, evaluators: list[int], admin: int, port: int) -> Path:
    """The files of deploy/nginx for these ports; nothing else is changed."""
    text = (DEPLOY / "nginx/upstreams.conf").read_text()
    (line,) = [line for line in text.splitlines() if line.strip().startswith("server evaluator:8000")]
    servers = "\n".join(line.replace("evaluator:8000", f"127.0.0.1:{one}") for one in evaluators)
    assert "server admin:8900" in text
    (folder / "upstreams.conf").write_text(text.replace(line, servers).replace("admin:8900", f"127.0.0.1:{admin}"))
    main = (DEPLOY / "nginx/nginx.conf").read_text()
    for old, new in {
        "listen 8080;": f"listen 127.0.0.1:{port};",
        "/tmp/nginx": f"{folder}/nginx",
        "/dev/stdout": f"{folder}/lines",
        "/dev/stderr": f"{folder}/errors",
    }.items():
        assert old in main
        main = main.replace(old, new)
    (folder / "nginx.conf").write_text(main)
    return folder / "nginx.conf"


@contextmanager
def front(folder: Path, evaluators: list[int], admin: int, wait_for: Callable[..., Any]) -> Iterator[Front]:
    """nginx before these ports of loopback."""
    kept = Port()
    path = configure(folder, evaluators, admin, kept.number)
    (folder / "lines").touch()
    process = subprocess.Popen(
        [program("nginx"), "-c", str(path), "-g", "daemon off; user root;" if is_root() else "daemon off;"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    found = Front(kept.number, folder / "lines", folder / "errors")
    try:
        wait_for(lambda: process.poll() is not None or found.answers(), description="nginx answers")
        assert process.poll() is None, found.errors
        yield found
    finally:
        process.terminate()
        process.wait(20)
        kept.close()


def is_root() -> bool:
    """Then nginx would change to a user that cannot write to the folder of the test; in the container it is not root."""
    import os

    return os.geteuid() == 0


@pytest.fixture
def upstreams() -> Iterator[list[Upstream]]:
    """Two evaluators and an admin."""
    made = [Upstream() for _ in range(3)]
    yield made
    for one in made:
        one.end()


@pytest.fixture
def nginx(upstreams: list[Upstream], tmp_path: Path, wait_for: Any) -> Iterator[Front]:
    """Before them, and before an evaluator that is not there."""
    *evaluators, admin = [one.server_port for one in upstreams]
    with closing(Port()) as nobody, front(tmp_path, [nobody.number, *evaluators], admin, wait_for) as found:
        yield found


def test_nginx_takes_the_files_as_they_are(tmp_path: Path) -> None:
    """`nginx -t` with both files; only the names of containers are made addresses, for nobody here knows them."""
    for file in (DEPLOY / "nginx").iterdir():
        shutil.copy(file, tmp_path)
    upstreams = tmp_path / "upstreams.conf"
    upstreams.write_text(
        upstreams.read_text()
        .replace("server evaluator:", "server 127.0.0.1:")
        .replace("server admin:", "server 127.0.0.1:")
    )
    done = subprocess.run(
        [program("nginx"), "-t", "-q", "-c", str(tmp_path / "nginx.conf")],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_evaluations_reach_live_evaluators_over_kept_connections(nginx: Front, upstreams: list[Upstream]) -> None:
    """One of three evaluators is down: nobody sees it. Both others are asked, over connections that stay."""
    answers = [nginx.ask("POST", "/evaluate/digits", b"{}") for _ in range(40)]
    assert {status for status, _, _ in answers} == {200}
    assert {found["port"] for _, _, found in answers} == {one.server_port for one in upstreams[:2]}
    assert {found["path"] for _, _, found in answers} == {"/evaluate/digits"}
    assert upstreams[0].connections + upstreams[1].connections < 40


def test_what_a_client_says_of_itself_is_replaced(nginx: Front, upstreams: list[Upstream]) -> None:
    """A client writes another's address into X-Forwarded-For: the admin would lock that one out for its failed log-ins."""
    forged = {
        "X_Forwarded_For": "10.1.2.3",
        "X_Real_IP": "10.1.2.3",
        "Forwarded": "for=10.1.2.3",
        "X_Forwarded_Proto": "https",
    }
    for path, port in (("/api/v1/fleet", upstreams[2].server_port), ("/evaluate/digits", None)):
        status, _, found = nginx.ask("GET", path, X_Genlock_Key="user-1", Authorization="Bearer t", **forged)
        assert status == 200
        heard = found["headers"]
        assert (heard["x-forwarded-for"], heard["x-real-ip"], heard["x-forwarded-proto"]) == (
            "127.0.0.1",
            "127.0.0.1",
            "http",
        )
        assert "forwarded" not in heard
        assert heard["host"] == heard["x-forwarded-host"] == f"127.0.0.1:{nginx.port}"
        assert (heard["x-genlock-key"], heard["authorization"]) == ("user-1", "Bearer t")
        assert len(heard["x-request-id"]) == 32
        assert port in (None, found["port"])


def test_a_change_is_sent_once(nginx: Front, upstreams: list[Upstream]) -> None:
    """An evaluator answers 503 to a POST: the client hears it. A GET, which changes nothing, is tried with another one."""
    assert nginx.ask("POST", "/evaluate/digits", b"{}", X_Answer="503")[0] == 503
    assert sum(one.asked for one in upstreams) == 1
    assert nginx.ask("GET", "/evaluate/digits", X_Answer="503")[0] == 503
    assert sum(one.asked for one in upstreams) == 3
    assert nginx.ask("POST", "/api/v1/clear", b"{}", X_Answer="503")[0] == 503
    assert upstreams[2].asked == 1


def test_events_come_one_by_one(nginx: Front, upstreams: list[Upstream]) -> None:
    """The page hears of the first event before the second has happened."""
    connection = http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=10)
    with closing(connection):
        connection.request("GET", "/api/v1/events?follow=1")
        answer = connection.getresponse()
        assert answer.readline() == b"data: 1\n"  # while the admin waits to be told to go on
        upstreams[2].go_on.set()
        assert answer.read() == b"\ndata: 2\n\n"


def test_figures_of_workers_and_of_the_admin_stay_inside(nginx: Front) -> None:
    assert nginx.ask("GET", "/metrics")[0] == 404
    status, _, found = nginx.ask("POST", "/cache/clear", b"")
    assert (status, found["port"]) == (200, nginx.ask("GET", "/")[2]["port"])  # the admin, which has no such route


def test_a_flood_of_one_client_is_refused_and_a_large_body_too(nginx: Front) -> None:
    """Somebody guesses tokens as fast as the line allows, or sends a gigabyte."""
    statuses = [nginx.ask("GET", "/api/v1/fleet")[0] for _ in range(120)]
    assert set(statuses) == {200, 429}
    assert nginx.ask("POST", "/evaluate/digits", b"{}")[0] == 200
    status, _, _ = nginx.ask("POST", "/evaluate/digits", None, Content_Length=str(17 << 20))
    assert status == 413


def test_each_request_is_a_line_of_json(nginx: Front, wait_for: Any) -> None:
    """Also one whose path is meant to break the line."""
    _, _, found = nginx.ask("POST", "/evaluate/a%22%0a%7b", b"{}")
    line = wait_for(lambda: nginx.lines and nginx.lines[-1], 10, "the request is logged")
    assert (line["event"], line["status"], line["generation"]) == ("request", 200, "7")
    assert line["path"] == '/evaluate/a"\n{'
    assert line["request"] == found["headers"]["x-request-id"]
    assert time.strptime(line["time"][:19], "%Y-%m-%dT%H:%M:%S")
