"""What the admin answers to who looks at a large fleet: a thousand workers that go on talking, and two hundred models."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from genlock.coordinator.calls import Heartbeat, Hold, Join
from genlock.coordinator.registry import Registry
from genlock.worker.about import about
from genlock.worker.view import View

from .figure import Figure, at_most, quantile
from .stand import START_S, STOP_S, Stand, stand

#: The fleet, models that each worker holds, and requests per route.
WORKERS, MODELS, HELD, REQUESTS = 1000, 200, 20, 400
#: Milliseconds that the 99th percentile may take.
REACH_MS = 20.0
#: Seconds between two things that some worker says, and between two requests.
TALK_S, PAUSE_S = 0.01, 0.005
TOKEN = "looks-only-0"


def measure(*, quick: bool) -> list[Figure]:
    """See README.md, "Looking"."""
    workers, models, requests = (50, 10, 50) if quick else (WORKERS, MODELS, REQUESTS)
    with stand() as place:
        names = _publish(place, models)
        with closing(place.fleet.new_registry()) as registry:
            members = _join(registry, names, workers)
            with _talking(registry, members, names), _admin(place) as port:
                routes = ("fleet", "models", f"models/{names[0]}", "workers", "stats")
                return [_figure(port, route, requests, f"{workers} workers, {models} models") for route in routes]


def _publish(place: Stand, models: int) -> list[str]:
    names = [f"model-{number:03}" for number in range(models)]
    for number, name in enumerate(names):
        (place.folder / "model.bin").write_bytes(bytes([number % 256]))
        place.fleet.publish(name, place.folder / "model.bin")
    return names


def _about(worker: int, names: list[str], uses: int) -> str:
    """What a worker says of itself."""
    held = _held(worker, names)
    return about(
        f"eval-{worker // 20:02}:{worker}",
        {name: View(model=name, payload=None, generation=1, version="0" * 64, bytes=1) for name in held},
        pid=worker,
        started_at=time.time(),
        last_error="",
        stats={"hits": uses, "misses": 0, "errors": 0, "bytes": len(held), "at": time.time()},
        loading={},
    )


def _held(worker: int, names: list[str]) -> list[str]:
    return [names[(worker * HELD + number) % len(names)] for number in range(min(HELD, len(names)))]


def _join(registry: Registry, names: list[str], workers: int) -> list[str]:
    members = [registry.ask(Join(_about(worker, names, 0))).id or "" for worker in range(workers)]
    for worker, member in enumerate(members):
        registry.ask(Hold(member, 1, tuple(_held(worker, names))))
    return members


@contextmanager
def _talking(registry: Registry, members: list[str], names: list[str]) -> Iterator[None]:
    """One worker after the other says how it does."""
    stop = threading.Event()

    def talk() -> None:
        turn = 0
        while not stop.wait(TALK_S):
            worker = turn % len(members)
            registry.ask(Heartbeat(members[worker], 1, (), _about(worker, names, turn)))
            turn += 1

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _admin(place: Stand) -> Iterator[int]:
    """`genlock admin` as a process of its own; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    environment = os.environ | place.environment() | {"GENLOCK_ADMIN_TOKENS": f"viewer:{TOKEN}"}
    command = [sys.executable, "-m", "genlock.coordinator.commands", "admin", "--bind", f"127.0.0.1:{port}"]
    with (place.folder / "admin.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait_for(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(STOP_S)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            if _ask(http.client.HTTPConnection("127.0.0.1", port, timeout=10), "fleet"):
                return
        except OSError as error:
            if time.monotonic() > end or process.poll() is not None:
                raise RuntimeError("genlock admin does not answer") from error
        time.sleep(0.1)


def _ask(connection: http.client.HTTPConnection, route: str) -> int:
    """Bytes of the answer."""
    connection.request("GET", f"/api/v1/{route}", headers={"Authorization": f"Bearer {TOKEN}"})
    answer = connection.getresponse()
    size = len(answer.read())
    if answer.status != 200:
        raise RuntimeError(f"GET {route} is answered by {answer.status}")
    return size


def _figure(port: int, route: str, requests: int, fleet: str) -> Figure:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    size, times_ms = 0, []
    for _ in range(requests):
        began = time.perf_counter()
        size = _ask(connection, route)
        times_ms.append((time.perf_counter() - began) * 1000)
        time.sleep(PAUSE_S)
    connection.close()
    p99, p50 = quantile(times_ms, 0.99), quantile(times_ms, 0.5)
    note = f"median {p50:.1f} ms, {size:,} bytes; {fleet}"
    return at_most(f"GET {'models/M' if '/' in route else route}, p99", [p99], REACH_MS, unit="ms", note=note)
