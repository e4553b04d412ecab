"""A real service for a flow test: gunicorn, four kinds of trouble, and clients that remember what they were answered."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from chaos.ports import Port
from genlock.coordinator import Fleet
from safetensors.torch import save_file

HERE = Path(__file__).parent
#: Seconds: no worker is behind its lease when a busy machine pauses for a second or two.
LEASE_S = 3.0


def save(path: Path, value: float) -> Path:
    """A checkpoint of `Affine` whose answer to zeros is `value`."""
    save_file({"weight": torch.ones(4), "bias": torch.full((4,), value)}, path)
    return path


@dataclass(frozen=True)
class Answer:
    """What a client got, and when: seconds of this machine's monotonic clock."""

    start: float
    end: float
    status: int
    generation: int
    stale: bool
    value: float
    worker: str
    detail: str = ""


class Service:
    """gunicorn with workers of the ready-made evaluator, on a free port of loopback."""

    def __init__(self, folder: Path, environment: dict[str, str], *, workers: int, app: str, path: Path) -> None:
        self._kept = Port()
        self.port = self._kept.number
        self.workers = workers
        self.hold = folder / "hold"
        self.folder = folder
        self._log = (folder / "service.log").open("ab")
        variables = {"FLOW_HOLD": str(self.hold), "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *self.command, app],
            env={**os.environ, **environment, **variables},
            stdout=self._log,
            stderr=self._log,
            cwd=folder,
        )

    @property
    def command(self) -> list[str]:
        """The server as a module, and its options."""
        options = [
            "--bind",
            f"127.0.0.1:{self.port}",
            "--workers",
            str(self.workers),
            "--threads",
            "2",
            "--timeout",
            "60",
        ]
        return ["gunicorn", "-c", "python:genlock.worker.hooks", *options]

    def ask(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            data = None if body is None else json.dumps(body)
            kind = {"content-type": "application/json"} if data else {}
            connection.request("GET" if body is None else "POST", path, data, {**kind, **(headers or {})})
            response = connection.getresponse()
            text = response.read()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, json.loads(text or b"null")
        finally:
            connection.close()

    def evaluate(self, model: str = "m") -> Answer:
        """One answer to zeros."""
        start = time.monotonic()
        status, headers, found = self.ask(f"/evaluate/{model}", {"inputs": [[0.0] * 4]})
        end = time.monotonic()
        if status != 200:
            return Answer(start, end, status, 0, False, 0.0, "", str(found))
        stale = headers.get("x-genlock-stale") == "1"
        value = found["outputs"][0][0]
        return Answer(start, end, status, int(headers["x-genlock-generation"]), stale, value, found["worker"])

    def each_worker(self, timeout: float = 20) -> list[Answer]:
        """The first answer of each worker, asked now; fails when not all of them have answered within `timeout` seconds."""
        found: dict[str, Answer] = {}
        end = time.monotonic() + timeout
        while len(found) < self.workers:
            assert time.monotonic() < end, f"only {sorted(found)} of {self.workers} workers answered"
            answer = self.evaluate()
            found.setdefault(answer.worker, answer)
        return list(found.values())

    @property
    def is_ready(self) -> bool:
        try:
            return self.ask("/readyz")[0] == 200
        except (OSError, http.client.HTTPException, ValueError):
            return False

    @property
    def log(self) -> str:
        return (self.folder / "service.log").read_text("utf-8", "replace")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()
        self._kept.close()


class Clients:
    """Threads that ask all the while, and remember every answer."""

    def __init__(self, service: Service, count: int) -> None:
        self.answers: list[Answer] = []
        self.errors: list[str] = []
        self._service = service
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, name=f"client {n}") for n in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            try:
                self.answers.append(self._service.evaluate())
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                self.errors.append(repr(error))

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services run at their real speed: measuring the coverage of their processes doubles the time in which they start."""
    for name in [name for name in os.environ if name.startswith("COVERAGE_PROCESS")]:
        monkeypatch.delenv(name)


@pytest.fixture
def environment(redis_url: str, tmp_path: Path) -> dict[str, str]:
    """What workers and trainer agree on."""
    return {
        "GENLOCK_REDIS_URL": redis_url,
        "GENLOCK_FLEET": "flow",
        "GENLOCK_STORE": str(tmp_path / "store"),
        "GENLOCK_STATE_DIR": str(tmp_path / "state"),
        "GENLOCK_LEASE": str(LEASE_S),
        "GENLOCK_MODELS": "m=models:held_up",
        "GENLOCK_MAX_WAIT": "10",
    }


@pytest.fixture
def trainer(environment: dict[str, str]) -> Iterator[Fleet]:
    """The fleet as a training job sees it."""
    fleet = Fleet.from_env(environ=environment)
    yield fleet
    fleet.close()


@pytest.fixture
def serve(
    environment: dict[str, str], tmp_path: Path, wait_for: Callable[..., Any]
) -> Iterator[Callable[..., Service]]:
    """serve(workers=4, members=…): a service whose workers are ready; `members` (default: the workers of all services so far) is how
    many the fleet has to count, 0 when there is no Redis to ask."""
    services: list[Service] = []

    def start(
        workers: int = 4,
        *,
        members: int | None = None,
        app: str = "genlock.worker.app:app",
        path: Path = HERE,
        model: str = "m",
        kind: type[Service] = Service,
        **more: str,
    ) -> Service:
        folder = tmp_path / f"service-{len(services)}"
        folder.mkdir()
        services.append(kind(folder, {**environment, **more}, workers=workers, app=app, path=path))
        expected = sum(service.workers for service in services) if members is None else members
        wait_for(lambda: services[-1].is_ready, 60, "the service is ready")
        with contextlib.closing(Fleet.from_env(environ=environment)) as fleet:
            wait_for(
                lambda: not expected or fleet.model(model).holders == expected, 60, f"{expected} members hold the model"
            )
        return services[-1]

    yield start
    for service in services:
        with contextlib.suppress(ProcessLookupError):
            service.stop()


@pytest.fixture
def ask_all_the_while() -> Iterator[Callable[..., Clients]]:
    """ask_all_the_while(service, count=4): clients, stopped at the end of the test at the latest."""
    made: list[Clients] = []

    def start(service: Service, count: int = 4) -> Clients:
        made.append(Clients(service, count))
        return made[-1]

    yield start
    for clients in made:
        clients.stop()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[float], Path]:
    """checkpoint(value): the trainer's file, always under the same path, overwritten in place."""
    return lambda value: save(tmp_path / "model.safetensors", value)
