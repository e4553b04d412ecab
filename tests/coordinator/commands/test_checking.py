"""`genlock doctor`, as a user calls it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from genlock.coordinator.commands.checking import said_of_checkup
from genlock.coordinator.commands.output import Table
from genlock.coordinator.doctor import Checkup, Finding
from genlock.coordinator.fleet import Fleet

FINDINGS = [
    Finding("redis", "role", "ok", "it is a primary"),
    Finding("redis", "eviction", "wrong", "it evicts", "Change it"),
    Finding("store", "space", "warning", "little is left", "Free some"),
]


def test_each_finding_is_a_row_and_what_to_do_stands_below() -> None:
    checkup = Checkup(outcome="wrong", fleet="prod", redis="unix:///s", store="/mnt", findings=FINDINGS)
    summary, *places, table = said_of_checkup(checkup)
    assert summary == "fleet prod: 3 checks, 1 wrong, 1 warning" and places[:2] == ["redis  unix:///s", "store  /mnt"]
    assert isinstance(table, Table)
    assert list(table.rows) == [
        ("ok", "redis role", "it is a primary"),
        ("WRONG", "redis eviction", "it evicts"),
        ("", "", "→ Change it"),
        ("WARNING", "store space", "little is left"),
        ("", "", "→ Free some"),
    ]
    well = Checkup(outcome="ok", fleet="prod", redis="", store="", findings=FINDINGS[:1])
    assert said_of_checkup(well)[0] == "fleet prod: 1 check, all is well"


def test_a_fleet_with_warnings_ends_with_nothing_wrong(
    genlock: Callable[..., Any], member: Callable[..., Any], fleet: Fleet, checkpoint: Callable[..., Path]
) -> None:
    """A server of the tests writes nothing down: that is a warning, and no reason to stop a deployment."""
    fleet.publish("digits", checkpoint("1"), wait=False)
    member()
    ran = genlock("doctor", "--json")
    assert (ran.status, ran.document["outcome"]) == (0, "warning")
    found = {(row["subject"], row["check"]): row for row in ran.document["findings"]}
    assert found["redis", "persistence"]["level"] == "warning"
    assert {found["fleet", check]["level"] for check in ("record", "identity", "lease", "epoch", "workers")} == {"ok"}
    assert "all is well" not in genlock("doctor").out


def test_a_server_that_evicts_is_wrong_and_the_other_checks_go_on(genlock: Callable[..., Any], redis_url: str) -> None:
    """Every other command refuses such a server at once: this one has to say it beside all else."""
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            ran = genlock("doctor")
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert ran.status == 1 and "CONFIG SET maxmemory-policy noeviction" in ran.out and "host python" in ran.out


def test_without_redis_this_host_is_checked_all_the_same(
    genlock: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENLOCK_REDIS_URL", "redis://127.0.0.1:1/0")
    ran = genlock("doctor", "--json")
    assert (ran.status, ran.document["outcome"]) == (5, "unreachable")
    found = {(row["subject"], row["check"]): row for row in ran.document["findings"]}
    assert found["redis", "reachable"]["level"] == "wrong" and found["host", "python"]["level"] == "ok"
    assert not any(subject == "fleet" for subject, _ in found)


def test_checking_makes_no_fleet(genlock: Callable[..., Any], redis_url: str, tmp_path: Path) -> None:
    """A mistyped name made a fleet of that name, in Redis and in the store."""
    before = sorted(tmp_path.rglob("*"))
    assert genlock("doctor", "--fleet", "prdo").status == 0
    assert sorted(tmp_path.rglob("*")) == before
    with redis.Redis.from_url(redis_url) as client:
        assert list(client.scan_iter("*prdo*")) == []
