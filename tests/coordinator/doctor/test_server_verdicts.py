"""docs/redis.md, judged: what a server says of itself, and what is to be done about it."""

from dataclasses import replace
from typing import Any

import pytest
from genlock.coordinator.doctor.facts import ServerFacts
from genlock.coordinator.doctor.finding import Finding, worst_of
from genlock.coordinator.doctor.server_verdicts import judge_server

INFO = {
    "redis_version": "7.2.4",
    "valkey_version": "9.0.1",
    "role": "master",
    "connected_slaves": "0",
    "maxmemory_policy": "noeviction",
    "maxmemory": "0",
    "used_memory": "2000000",
    "aof_enabled": "1",
    "aof_last_write_status": "ok",
    "rdb_last_bgsave_status": "ok",
    "connected_clients": "10",
    "maxclients": "10000",
}
CONFIG = {"appendfsync": "everysec", "busy-reply-threshold": "5000", "timeout": "0"}
GOOD = ServerFacts(
    where="unix:///s", info=INFO, config=CONFIG, trips_s=(0.0001,) * 9, scripts_s=(0.0002,) * 9, ahead_s=0.01
)
LEASE_S = 3.0


def judged(server: ServerFacts = GOOD, **info: str) -> dict[str, Finding]:
    """Check → finding, with INFO changed by what is given."""
    found = judge_server(replace(server, info={**server.info, **info}), LEASE_S)
    return {finding.check: finding for finding in found}


def test_a_good_server_has_nothing_to_be_done() -> None:
    found = judged()
    assert worst_of(found.values()) == "ok"
    assert [finding.advice for finding in found.values()] == [""] * len(found)
    assert found["version"].found == "Valkey 9.0.1 answers at unix:///s"
    assert found["latency"].found.startswith(
        "a round trip takes 0.1 ms, a script 0.2 ms, the longest of 18 0.2 ms; a lease of 3 s"
    )


def test_one_that_does_not_answer_has_one_finding() -> None:
    (found,) = judge_server(ServerFacts(where="redis://h:1/0", silence="refused", remedy="Start it"), LEASE_S)
    assert (found.level, found.found, found.advice) == (
        "wrong",
        "no usable Redis at redis://h:1/0: refused",
        "Start it",
    )


@pytest.mark.parametrize(
    ("check", "level", "info", "words"),
    [
        ("version", "wrong", {"redis_version": "6.0.16", "valkey_version": ""}, "Redis 6.0.16"),
        ("version", "ok", {"redis_version": "6.2.0", "valkey_version": ""}, "Redis 6.2.0"),
        ("version", "warning", {"redis_version": "", "valkey_version": ""}, "unknown"),
        ("role", "wrong", {"role": "slave", "master_host": "h", "master_port": "6379"}, "a replica of h:6379"),
        ("role", "warning", {"cluster_enabled": "1"}, "cluster"),
        ("role", "ok", {"connected_slaves": "2"}, "2 replicas; a failover"),
        ("eviction", "wrong", {"maxmemory_policy": "allkeys-lru"}, "maxmemory-policy allkeys-lru"),
        ("eviction", "warning", {"maxmemory_policy": "unknown"}, "does not say"),
        ("memory", "ok", {"maxmemory": "10000000"}, "1.91 MiB of 9.54 MiB (20%)"),
        ("memory", "warning", {"maxmemory": "2400000"}, "(83%)"),
        ("memory", "wrong", {"maxmemory": "2000001"}, "(100%)"),
        ("memory", "ok", {"maxmemory": "much"}, "no limit"),
        ("persistence", "warning", {"aof_enabled": "0"}, "no append-only file"),
        ("last save", "wrong", {"aof_last_write_status": "err"}, "could not write the append-only file"),
        ("last save", "wrong", {"rdb_last_bgsave_status": "err"}, "the last snapshot"),
        ("connections", "warning", {"connected_clients": "8500"}, "8500 of 10000"),
        ("connections", "wrong", {"connected_clients": "9990"}, "9990 of 10000"),
    ],
)
def test_what_info_says_is_judged(check: str, level: str, info: dict[str, str], words: str) -> None:
    """Each of these has cost somebody a night: the finding names the value that the server has, and what to change."""
    found = judged(**info)[check]
    assert found.level == level
    assert words in found.found
    assert bool(found.advice) == (level != "ok")


@pytest.mark.parametrize(
    ("flush", "level", "words"),
    [
        ("always", "ok", "before it answers"),
        ("everysec", "ok", "once a second"),
        ("no", "warning", "when the system likes"),
        (None, "ok", "may not read"),
    ],
)
def test_each_row_of_the_table_of_promises(flush: str | None, level: str, words: str) -> None:
    config = {} if flush is None else {"appendfsync": flush}
    found = judged(replace(GOOD, config=config))["persistence"]
    assert (found.level, words in found.found) == (level, True)


@pytest.mark.parametrize(
    ("check", "level", "facts", "words"),
    [
        ("writes", "wrong", {"refused": "MISCONF disk"}, "MISCONF disk"),
        ("permissions", "wrong", {"denied": ("the command EVAL", "the channel c")}, "the command EVAL; the channel c"),
        ("scripts", "wrong", {"script_error": "NOPERM"}, "NOPERM"),
        ("scripts", "warning", {"config": {"lua-time-limit": "50"}}, "50 ms"),
        ("scripts", "ok", {"config": {}}, "it runs scripts"),
        ("connections", "warning", {"config": {"timeout": "30"}}, "silent for 30 s"),
        ("clock", "warning", {"ahead_s": 12.4}, "12 s ahead of"),
        ("clock", "warning", {"ahead_s": -12.4}, "12 s behind"),
        ("clock", "warning", {"ahead_s": None}, "what time it is"),
        ("latency", "warning", {"scripts_s": ()}, "not measured"),
    ],
)
def test_what_was_tried_is_judged(check: str, level: str, facts: dict[str, Any], words: str) -> None:
    found = judged(replace(GOOD, **facts))[check]
    assert (found.level, words in found.found) == (level, True)


@pytest.mark.parametrize(
    ("lease_s", "trip_s", "worst_s", "level"),
    [
        (3.0, 0.002, 0.01, "ok"),
        (3.0, 0.06, 0.07, "warning"),  # 16 in a third of the lease
        (3.0, 0.002, 0.6, "warning"),  # one of them would have been given up
        (0.3, 0.002, 0.11, "warning"),
        (3.0, 0.51, 0.6, "wrong"),
    ],
)
def test_a_lease_needs_many_round_trips(lease_s: float, trip_s: float, worst_s: float, level: str) -> None:
    """A Redis on another continent: every heartbeat came just in time, until one did not."""
    server = replace(GOOD, trips_s=(trip_s,) * 9, scripts_s=(*(trip_s,) * 9, worst_s))
    (found,) = [one for one in judge_server(server, lease_s) if one.check == "latency"]
    assert found.level == level


def test_genlocks_own_server_that_had_to_be_started_is_said() -> None:
    assert "`genlock redis --stop`" in judged(replace(GOOD, started=True))["version"].found
