"""Whether a Redis is good enough, in words: docs/redis.md, judged. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from statistics import median

from ..registry import CALL_TIMEOUT_S
from .facts import ServerFacts
from .finding import Finding, Level, counted, gib, span

#: The least version whose commands the scripts need (redis.io/docs/latest/commands/hrandfield).
LEAST_VERSION = (6, 2)
#: Shares of a limit (memory, connections) from which on it is said, and from which on it is wrong.
NEAR, FULL = 0.8, 0.95
#: Seconds by which clocks may differ before it is worth a word: ages on a screen are rounded to that.
CLOCKS_S = 2.0
#: Milliseconds that a script may run before the server lets others complain; genlock's longest take some 10 (a thousand workers).
LEAST_SCRIPT_MS = 100
#: Round trips in a third of a lease, the time between two heartbeats, below which a lease hangs on luck.
ROUND_TRIPS = 20

SUBJECT = "redis"


def judge_server(server: ServerFacts, lease_s: float) -> list[Finding]:
    """All findings about a server; one that does not answer has one."""
    if server.silence:
        return [_finding("reachable", "wrong", f"no usable Redis at {server.where}: {server.silence}", server.remedy)]
    found = [
        _version(server),
        _role(server),
        _eviction(server),
        _memory(server),
        _persistence(server),
        *_saved(server),
        _writes(server),
        _permissions(server),
        _scripts(server),
        *_connections(server),
        _clock(server),
        _latency(server, lease_s),
    ]
    return [one for one in found if one is not None]


def _finding(check: str, level: Level, found: str, advice: str = "") -> Finding:
    return Finding(SUBJECT, check, level, found, advice)


def _number(server: ServerFacts, name: str) -> int | None:
    text = server.info.get(name, "")
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None


def _version(server: ServerFacts) -> Finding:
    redis, valkey = server.info.get("redis_version", ""), server.info.get("valkey_version", "")
    name = f"Valkey {valkey}" if valkey else f"Redis {redis or 'of an unknown version'}"
    found = f"{name} answers at {server.where}"
    if server.started:
        found += "; it is genlock's own and did not run: it was started, and stays until `genlock redis --stop`"
    numbers = tuple(int(part) for part in re.findall(r"[0-9]+", redis)[:2])
    if not numbers:
        return _finding(
            "version", "warning", found, "Let its user run INFO: genlock needs its run id and its eviction policy"
        )
    if numbers < LEAST_VERSION:
        return _finding("version", "wrong", found, "Use Redis 6.2 to 8, or Valkey")
    return _finding("version", "ok", found)


def _role(server: ServerFacts) -> Finding:
    if server.info.get("role") == "slave":
        primary = f"{server.info.get('master_host', '?')}:{server.info.get('master_port', '?')}"
        advice = "Point GENLOCK_REDIS_URL to the primary; with sentinels, name them and the service: redis+sentinel://"
        return _finding("role", "wrong", f"it is a replica of {primary}: nothing can be changed there", advice)
    if server.info.get("cluster_enabled") == "1":
        advice = "Use a Redis that is no cluster; a fleet has one hash slot and gains nothing from more"
        return _finding(
            "role", "warning", "it is a node of a cluster, and may not be the one of this fleet's keys", advice
        )
    replicas = _number(server, "connected_slaves") or 0
    if replicas:
        more = "a failover to one of them may lose the last changes (docs/redis.md says what that costs)"
        return _finding("role", "ok", f"it is a primary with {counted(replicas, 'replica')}; {more}")
    return _finding("role", "ok", "it is a primary without replicas")


def _eviction(server: ServerFacts) -> Finding:
    policy = server.info.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        return _finding("eviction", "ok", "it throws nothing away (maxmemory-policy noeviction)")
    if policy == "unknown":
        return _finding("eviction", "warning", "it does not say whether it evicts", "Let its user run INFO")
    found = f"it may throw genlock's keys away (maxmemory-policy {policy}); genlock refuses to use it"
    advice = "CONFIG SET maxmemory-policy noeviction, and the same in its configuration file; or use another server"
    return _finding("eviction", "wrong", found, advice)


def _memory(server: ServerFacts) -> Finding:
    used, limit = _number(server, "used_memory") or 0, _number(server, "maxmemory") or 0
    if not limit:
        return _finding("memory", "ok", f"it uses {gib(used)}, and has no limit but the machine's")
    found = f"it uses {gib(used)} of {gib(limit)} ({used / limit:.0%})"
    if used < NEAR * limit:
        return _finding("memory", "ok", found)
    advice = "Raise maxmemory, or move what else lives there: a server that is full refuses every change"
    return _finding("memory", "wrong" if used >= FULL * limit else "warning", found, advice)


def _persistence(server: ServerFacts) -> Finding:
    if "aof_enabled" not in server.info:
        return _finding("persistence", "warning", "it does not say what it writes down", "Let its user run INFO")
    if server.info["aof_enabled"] != "1":
        found = (
            "it keeps no append-only file: a restart loses the last changes; running workers bring back what they know, and until then"
            " not all of them may be at the same generation"
        )
        advice = "CONFIG SET appendonly yes, and in its configuration file; appendfsync everysec is enough for most"
        return _finding("persistence", "warning", found, advice)
    flush = server.config.get("appendfsync")
    if flush == "always":
        return _finding(
            "persistence",
            "ok",
            "it writes every change to the disk before it answers: all promises outlive a crash of its machine",
        )
    if flush == "no":
        advice = "CONFIG SET appendfsync everysec, and in its configuration file"
        found = "its append-only file is flushed when the system likes: a crash of its machine may cost half a minute"
        return _finding("persistence", "warning", found, advice)
    how = "flushed once a second" if flush == "everysec" else "with an appendfsync that its user may not read"
    found = f"it keeps an append-only file, {how}: all promises outlive its process; a crash of its machine may cost the last second"
    return _finding("persistence", "ok", found)


def _saved(server: ServerFacts) -> Iterator[Finding]:
    """What it could not write."""
    parts = {
        "aof_last_write_status": "the append-only file",
        "aof_last_bgrewrite_status": "the shorter append-only file",
        "rdb_last_bgsave_status": "the last snapshot",
    }
    bad = [what for name, what in parts.items() if server.info.get(name, "ok") != "ok"]
    if bad:
        advice = "Look into its log, and free space on its disk: it may refuse every change until it can write"
        yield _finding("last save", "wrong", f"it could not write {' and '.join(bad)}", advice)


def _writes(server: ServerFacts) -> Finding:
    if server.refused:
        advice = "Mend that first: no worker can join and nothing can be published meanwhile"
        return _finding("writes", "wrong", f"it takes no change now: {server.refused}", advice)
    return _finding("writes", "ok", "it takes changes")


def _permissions(server: ServerFacts) -> Finding:
    if not server.denied:
        return _finding(
            "permissions", "ok", "its user may run every command that genlock needs, on its keys and its channel"
        )
    advice = "Give its user the line of docs/redis.md: ACL SETUSER, or the ACL file and ACL LOAD"
    return _finding("permissions", "wrong", f"its user may not use {'; '.join(server.denied)}", advice)


def _scripts(server: ServerFacts) -> Finding:
    if server.script_error:
        advice = "Allow EVAL and EVALSHA: every change of genlock is a script"
        return _finding("scripts", "wrong", f"it runs no script: {server.script_error}", advice)
    limit = server.config.get("busy-reply-threshold") or server.config.get("lua-time-limit") or ""
    if not limit.isdigit():
        return _finding("scripts", "ok", "it runs scripts")
    if 0 < int(limit) < LEAST_SCRIPT_MS:
        found = f"a script that takes {limit} ms makes it refuse everybody else (busy-reply-threshold, lua-time-limit)"
        return _finding("scripts", "warning", found, "Raise that to a second or more; its default is five")
    return _finding(
        "scripts", "ok", f"it runs scripts, and complains of none that takes less than {int(limit) / 1000:g} s"
    )


def _connections(server: ServerFacts) -> Iterator[Finding]:
    used, limit = _number(server, "connected_clients"), _number(server, "maxclients")
    if used is not None and limit:
        found = f"{used} of {limit} connections are taken; a worker has two"
        if used < NEAR * limit:
            yield _finding("connections", "ok", found)
        else:
            yield _finding("connections", "wrong" if used >= FULL * limit else "warning", found, "Raise maxclients")
    if (idle := server.config.get("timeout", "0")).isdigit() and int(idle):
        found = f"it ends connections that were silent for {idle} s (timeout): those that hear hints are made again and again"
        yield _finding("connections", "warning", found, "CONFIG SET timeout 0, and in its configuration file")


def _clock(server: ServerFacts) -> Finding:
    if server.ahead_s is None:
        return _finding("clock", "warning", "it does not say what time it is", "Let its user run TIME")
    if abs(server.ahead_s) < CLOCKS_S:
        return _finding("clock", "ok", f"its clock and this host's differ by {span(abs(server.ahead_s))}")
    which = "ahead of" if server.ahead_s > 0 else "behind"
    found = f"its clock is {abs(server.ahead_s):.0f} s {which} this host's: ages that people see are wrong by as much, nothing else is"
    return _finding("clock", "warning", found, "Let both follow a time server")


def _latency(server: ServerFacts, lease_s: float) -> Finding:
    """Between two heartbeats there has to be time for many round trips, and each call ends after its limit."""
    if not server.scripts_s:
        return _finding("latency", "warning", "it was not measured, because no script could be run", "")
    trips, scripts = server.trips_s, server.scripts_s
    typical, worst = median(scripts), max(*scripts, *trips)
    limit = min(CALL_TIMEOUT_S, max(0.1, lease_s / 3))  # of a worker's call
    found = (
        f"a round trip takes {span(median(trips))}, a script {span(typical)}, the longest of {len(trips) + len(scripts)} {span(worst)};"
        f" a lease of {lease_s:g} s is renewed every {span(lease_s / 3)}, and a call ends after {span(limit)}"
    )
    advice = (
        "Bring Redis nearer to the workers, or find what keeps it busy (SLOWLOG GET, LATENCY DOCTOR);"
        " or make a fleet with a longer lease"
    )
    if typical >= limit:
        return _finding("latency", "wrong", found, advice)
    if worst >= limit or typical * ROUND_TRIPS > lease_s / 3:
        return _finding("latency", "warning", found, advice)
    return _finding("latency", "ok", found)
