"""What a service that keeps models in memory gets by moving to genlock: the targets that its first users had set themselves, and ours.

`what` of each figure names theirs. Memory after 200 flips is `memory.many_flips`, which is measured once in a run.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from genlock.coordinator.manifest import decode
from genlock.worker.app import create_app
from genlock.worker.cache import ModelCache
from genlock.worker.hostwork import HostWork
from genlock.worker.loaders import state_dict_into
from genlock.worker.loading import load

from . import nets
from .figure import Figure, at_least, at_most, quantile, shown
from .load import Load, Plan, Response
from .memory import many_flips
from .stand import EVALUATOR, HOOKS, START_S, Serving, Stand, serving, stand
from .throughput import Run

#: Reads of the hit rate: of three models, by four threads.
READS, THREADS, MODELS = 200_000, 4, ("a", "b", "c")
#: Requests that are watched for what they do to files.
WATCHED = 5_000
#: Starts of each app, by turns; loads of 200 MB of each kind.
STARTS, LOADS = 7, 15
#: Seconds of each service in a pair, of a turn of one, and pairs.
SECONDS, TURN_S, PAIRS = 4.0, 1.0, 5
#: Seconds between two looks at a service that starts.
LOOK_S = 0.005


def measure(*, quick: bool) -> list[Figure]:
    """See README.md, "Migrating"."""
    return [
        _hits(READS // 4 if quick else READS),
        _files(WATCHED // 20 if quick else WATCHED),
        *_loading(3 if quick else LOADS),
        *_starting(1 if quick else STARTS),
        *_evaluating(2 if quick else PAIRS, 1.0 if quick else SECONDS),
        many_flips(quick=quick),
    ]


# --- hits ---------------------------------------------------------------------------------------------------------------


def _hits(reads: int) -> Figure:
    """Of all uses of a process, from its start on: the first one of each model is a miss."""
    with stand() as place:
        for model in MODELS:
            place.fleet.publish(model, nets.save(nets.Small(), place.folder / f"{model}.safetensors"))
        cache = ModelCache(place.fleet, loaders=dict.fromkeys(MODELS, nets.Small))
        try:
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(partial(_read, cache), [reads // THREADS] * THREADS))
            found = cache.get_stats()
        finally:
            cache.close()
    note = f"{found['misses']} of {found['hits'] + found['misses']} uses were misses"
    return at_least("hit rate, unchanged models (theirs: > 0.9)", [found["hit_rate"]], 0.999, note=note)


def _read(cache: ModelCache, reads: int) -> None:
    for n in range(reads):
        with cache.use(MODELS[n % len(MODELS)]) as held:
            _ = held.payload


# --- files --------------------------------------------------------------------------------------------------------------


class FileLooks:
    """What one thread does to files: opens, lists, and stats them. For a process of its own: an audit hook stays."""

    #: Events that CPython tells audit hooks (docs.python.org/3/library/audit_events.html); it tells none of a stat.
    EVENTS = ("open", "os.listdir", "os.scandir")

    def __init__(self) -> None:
        self.count = 0
        self._thread = threading.get_ident()

    def watch(self) -> None:
        """From now on, in this thread."""
        self._thread = threading.get_ident()
        sys.addaudithook(lambda event, _: self.heard(event))
        os.stat, os.lstat = self.counting(os.stat), self.counting(os.lstat)  # type: ignore[assignment]

    def heard(self, event: str) -> None:
        if event in self.EVENTS and threading.get_ident() == self._thread:
            self.count += 1

    def counting(self, look: Callable[..., Any]) -> Callable[..., Any]:
        """`look`, and every call of it counts."""

        def counted(*words: Any, **named: Any) -> Any:
            self.heard("open")
            return look(*words, **named)

        return counted


def _files(requests: int) -> Figure:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        looks, us = pool.submit(_watched, requests).result()
    note = f"{looks} in {requests} requests; the model is read in {us:.2f} µs"
    return at_most("files looked at per request (theirs: checked in < 10 ms)", [looks / requests], 0, note=note)


def _watched(requests: int) -> tuple[int, float]:
    """How often the thread of these requests looked at a file; and the µs that reading the model takes."""
    logging.disable(logging.INFO)
    with stand() as place:
        place.fleet.publish("m", nets.save(nets.Small(), place.folder / "model.safetensors"))
        cache = ModelCache(place.fleet, loaders={"m": nets.Small})
        client = create_app(cache).test_client()
        ask = partial(client.post, "/evaluate/m", data=nets.body(), content_type="application/json")
        looks = FileLooks()
        try:
            for _ in range(100):  # whatever is imported by the first ones
                _check(ask().status_code)
            looks.watch()
            for _ in range(requests):
                _check(ask().status_code)
            found, began = looks.count, time.perf_counter()
            for _ in range(100_000):
                _ = cache.get("m").payload
            return found, (time.perf_counter() - began) * 10
        finally:
            cache.close()


def _check(status: int) -> None:
    if status != 200:
        raise RuntimeError(f"a request ended with status {status}")


# --- loading ------------------------------------------------------------------------------------------------------------


def _loading(loads: int) -> list[Figure]:
    """200 MB that this host has verified, and whose file is in memory: for a process that has torch already."""
    with stand() as place:
        file = nets.save(nets.deep_200(), place.folder / "model.safetensors")
        torch.save(nets.deep_200().state_dict(), old := place.folder / "model.pt")
        place.fleet.publish("m", file)
        cache = ModelCache(place.fleet, loaders={"m": nets.deep_200})
        try:
            _ = cache.get("m").payload
            assert cache.runtime is not None
            manifest = decode(cache.runtime.manifest_of("m", 1) or "")
        finally:
            cache.close()
        host = HostWork(place.folder / "state", loads_per_host=1)
        steps: dict[str, float] = {}
        # Not by turns: what an inline load has freed is given back to the system in the next load of the same process, and counted there.
        ours_ms = [_ms(lambda: steps.update(_mapped(place, manifest, host))) for _ in range(loads)]
        theirs_ms = [_ms(lambda: _inline(old)) for _ in range(loads)]
    note = ", ".join(f"{step} {seconds * 1000:.0f}" for step, seconds in steps.items() if seconds >= 0.0005)
    ratios = [a / b for a, b in zip(ours_ms, theirs_ms, strict=True)]
    return [
        at_most("load of 200 MB, verified before (theirs: 500 → 50 ms)", ours_ms, 50, unit="ms", note=f"ms: {note}"),
        shown("the same / torch.load and load_state_dict", ratios, note=f"{quantile(theirs_ms, 0.5):.0f} ms"),
    ]


def _mapped(place: Stand, manifest: Any, host: HostWork) -> dict[str, float]:
    return load(
        manifest, 1, store=place.fleet.store, loader=state_dict_into(nets.deep_200), host=host, cancelled=lambda: False
    ).seconds


def _inline(file: Path) -> None:
    net = nets.deep_200()
    net.load_state_dict(torch.load(file, weights_only=True))


def _ms(action: Callable[[], object]) -> float:
    gc.collect()
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


# --- starting -----------------------------------------------------------------------------------------------------------


def _starting(starts: int) -> list[Figure]:
    """One worker with 200 MB: ours, which loads beside its probes; and one that loads when it is imported."""
    with stand() as place:
        place.fleet.publish("m", nets.save(nets.deep_200(), place.folder / "model.safetensors"))
        torch.save(nets.deep_200().state_dict(), old := place.folder / "model.pt")
        nets.flush(old)
        plain = {"BENCH_NET": "benchmarks.nets:deep_200", "BENCH_FILE": str(old)}
        alive, ready, theirs = [], [], []
        for turn in range(-1, starts):
            inline = _start(place, "benchmarks.inline:with_mtime()", plain, "POST /evaluate/m")
            own = _start(place, EVALUATOR, place.environment(m="benchmarks.nets:deep_200"), "GET /livez", "GET /readyz")
            if turn >= 0:  # the first of each wrote the bytecode, and verified the model
                theirs.append(inline[0])
                alive.append(own[0])
                ready.append(own[1])
    note = f"{quantile(alive, 0.5):.2f} s and {quantile(theirs, 0.5):.2f} s"
    return [
        at_most("start until /livez / models loaded at import (theirs: 0.67)", _ratios(alive, theirs), 0.67, note=note),
        shown("start until /readyz / the same", _ratios(ready, theirs), note=f"{quantile(ready, 0.5):.2f} s"),
    ]


def _start(place: Stand, app: str, environment: dict[str, str], *asks: str) -> list[float]:
    """Seconds from the start of gunicorn until each of these, one after the other, is answered with 200."""
    began, found = time.monotonic(), []
    with serving(place.folder, app, environment, workers=1) as service:
        for ask in asks:
            _answered(service, ask)
            found.append(time.monotonic() - began)
    return found


def _answered(service: Serving, ask: str) -> None:
    body = nets.body() if ask.startswith("POST") else ""
    head = f"{ask} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    deadline = time.monotonic() + START_S
    while _status(service.socket, (head + body).encode()) != 200:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{ask} is not answered with 200")
        time.sleep(LOOK_S)


def _status(path: str, request: bytes) -> int:
    """Of an answer; waits for it, also for a worker that is only starting."""
    response = Response()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(START_S)
        connection.connect(path)
        connection.sendall(request)
        while not response.take(piece := connection.recv(1 << 16)):
            if not piece:
                return 0
    return response.status


def _ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [a / b for a, b in zip(ours, theirs, strict=True)]


# --- evaluations --------------------------------------------------------------------------------------------------------


def _evaluating(pairs: int, seconds: float) -> list[Figure]:
    """The same evaluator and model of 20 MB, with the cache and with `GENLOCK_USE_CACHE=false`, where each request loads it."""
    with stand() as place, ExitStack() as stack:
        place.fleet.publish("m", nets.save(nets.deep_20(), place.folder / "model.safetensors"))
        services = []
        for cached in ("true", "false"):
            folder = place.folder / cached
            folder.mkdir()
            environment = place.environment(m="benchmarks.nets:deep_20") | {"GENLOCK_USE_CACHE": cached}
            services.append(stack.enter_context(serving(folder, EVALUATOR, environment, hooks=HOOKS)))
        runs = [_pair(services, seconds) for _ in range(-1, pairs)][1:]  # the first requests of a process are slow
    errors = sum(run.errors for pair in runs for run in pair)
    rates = [quantile([pair[side].per_s for pair in runs], 0.5) for side in (0, 1)]
    note = f"{rates[0]:.0f} and {rates[1]:.0f} requests/s"
    factors = [with_.per_s / without.per_s for with_, without in runs]
    return [
        at_least("evaluations with / without the cache (theirs: 50/s from 30/s)", factors, 1.67, note=note),
        at_most("request errors meanwhile", [errors], 0),
    ]


def _pair(services: list[Serving], seconds: float) -> tuple[Run, Run]:
    plans = [Plan(app.socket, "/evaluate/m", nets.body(), None, seconds) for app in services]
    with Load(*plans, turn_s=TURN_S) as load_:
        with_, without = load_.finish()
    return Run([with_], 0.0), Run([without], 0.0)
