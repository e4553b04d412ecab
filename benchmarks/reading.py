"""What a version check costs: `cache.get` and `cache.use` against what else a worker could ask on each request."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from genlock.worker.cache import ModelCache

from . import nets
from .figure import Figure, at_most, shown
from .stand import Stand, stand

#: Seconds of a lease: heartbeats come every third of it, so that windows without one are easily found.
LEASE_S = 60.0
#: Calls in a measurement, and measurements of each way; they take turns.
CALLS, ROUNDS = 20_000, 31
#: Requests in the window in which Redis's own count of commands is looked at.
WATCHED = 200_000
#: Windows that are looked at for one in which no heartbeat fell.
WINDOWS = 5


def measure(*, quick: bool) -> list[Figure]:
    """See README.md, "Reading"."""
    with stand(LEASE_S) as place:
        file = nets.save(nets.Small(), place.folder / "model.safetensors")
        place.fleet.publish("m", file)
        cache = ModelCache(place.fleet, loaders={"m": nets.Small})
        client = _client(place)
        try:
            cache.get("m")
            client.set("generation", "12345678901234567890")
            found = _rounds(_ways(cache, file, client), 3 if quick else ROUNDS)
            return [*_figures(found), _commands(cache, client)]
        finally:
            client.close()
            cache.close()


def _client(place: Stand) -> Any:
    embedded = place.fleet.endpoint.embedded
    assert embedded is not None
    return redis.Redis(unix_socket_path=str(embedded.socket))


def _ways(cache: ModelCache, file: Path, client: Any) -> dict[str, Callable[[int], None]]:
    path, get, use, stat, redis_get = str(file), cache.get, cache.use, os.stat, client.get

    def by_get(calls: int) -> None:
        for _ in range(calls):
            _ = get("m").payload

    def by_use(calls: int) -> None:
        for _ in range(calls):
            with use("m") as held:
                _ = held.payload

    def by_stat(calls: int) -> None:
        for _ in range(calls):
            _ = stat(path).st_mtime_ns

    def by_redis(calls: int) -> None:
        for _ in range(calls // 50):  # it takes more than 50 times as long
            _ = redis_get("generation")

    return {"get": by_get, "use": by_use, "stat": by_stat, "redis": by_redis}


def _rounds(ways: dict[str, Callable[[int], None]], rounds: int) -> dict[str, list[float]]:
    """Nanoseconds of one call, by way."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter_ns()
            way(CALLS)
            calls = CALLS // 50 if name == "redis" else CALLS
            found[name].append((time.perf_counter_ns() - began) / calls)
    return found


def _figures(ns: dict[str, list[float]]) -> list[Figure]:
    def ratios(name: str, other: str) -> list[float]:
        return [a / b for a, b in zip(ns[name], ns[other], strict=True)]

    middle = {name: sorted(values)[len(values) // 2] for name, values in ns.items()}
    note = f"{middle['get']:.0f} ns, {middle['use']:.0f} ns; os.stat {middle['stat']:.0f} ns, GET {middle['redis'] / 1000:.0f} µs"
    return [
        at_most("cache.get / os.stat of the file", ratios("get", "stat"), 0.3, note=note),
        at_most("cache.use block / os.stat of the file", ratios("use", "stat"), 0.7),
        shown("cache.get / Redis GET on a unix socket", ratios("get", "redis")),
        shown("cache.use block / Redis GET on a unix socket", ratios("use", "redis")),
    ]


def _commands(cache: ModelCache, client: Any) -> Figure:
    """What the server counts in the best of some windows; a heartbeat falls into one of 20 seconds."""
    found = []
    for _ in range(WINDOWS):
        before = _count(client)
        for _ in range(WATCHED):
            cache.get("m")
        found.append((_count(client) - before) / WATCHED)
    return at_most("Redis commands per request while the lease lives", [min(found)], 0, note=f"in {WATCHED} requests")


def _count(client: Any) -> int:
    """Commands that the server has carried out, but for those of this count."""
    stats = client.info("commandstats")
    return sum(int(row["calls"]) for name, row in stats.items() if name != "cmdstat_info")
