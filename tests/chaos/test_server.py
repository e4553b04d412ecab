"""A server that dies, forgets and fails over as a test says."""

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from chaos.proxy import Proxy
from chaos.server import Program, Server, ServerFailed

#: As in the registry's contract: a developer's machine may have no redis-server; in CI a missing one is a failure.
PROGRAMS: tuple[Program, ...] = (
    ("valkey", "redis") if os.environ.get("CI") or shutil.which("redis-server") else ("valkey",)
)
each_program = pytest.mark.parametrize("program", PROGRAMS)


@each_program
def test_it_is_the_program_that_was_meant(tmp_path: Path, program: Program) -> None:
    with Server(tmp_path, program=program) as server, server.client() as client:
        info = client.info("server")
        assert info.get("server_name", "redis") == program
        assert info["process_id"] == server.pid
        assert info["tcp_port"] == server.port
        with redis.Redis.from_url(server.url) as other:
            assert other.ping()


def test_a_program_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerFailed, match="no redis-server"):
        Server(tmp_path, program="redis")


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    """And leaves no process: the error comes at once, not after the time that a start may take."""
    server = Server(tmp_path, options={"maxmemory": "much"})
    with pytest.raises(ServerFailed, match=r"(?s)is gone; its log ends.*maxmemory"), server:
        pass
    assert not server.is_up


@each_program
@pytest.mark.parametrize(
    ("persistence", "kill", "survives"),
    [
        ("none", True, False),
        ("none", False, False),
        ("always", True, True),
        ("everysec", True, True),
        ("everysec", False, True),
    ],
)
def test_a_restart_keeps_what_the_persistence_keeps(
    tmp_path: Path, program: Program, persistence: Any, kill: bool, survives: bool
) -> None:
    with Server(tmp_path, program=program, persistence=persistence) as server, server.client() as client:
        client.set("a", "b")
        before, port, began = server.pid, server.port, time.monotonic()
        answered = server.restart(kill=kill)
        assert began < answered <= time.monotonic()
        assert server.pid != before
        assert server.port == port
        assert client.get("a") == (b"b" if survives else None)


@each_program
def test_a_machine_that_fails_loses_the_last_second_of_everysec(
    tmp_path: Path, program: Program, wait_for: Callable[..., Any]
) -> None:
    """A kill alone does not: the system has what was written (which waits while the server syncs what was before). What was not yet
    synced is cut off."""
    with Server(tmp_path, program=program, persistence="everysec") as server, server.client() as client:
        empty = server.written_bytes
        client.set("a", "old")
        synced = wait_for(lambda: server.written_bytes > empty and server.written_bytes)
        client.set("a", "new")
        wait_for(lambda: server.written_bytes > synced)
        server.restart()
        assert client.get("a") == b"new"
        with pytest.raises(ServerFailed, match="end it before"):
            server.lose_behind(synced)
        server.kill()
        server.lose_behind(synced)
        server.start()
        assert client.get("a") == b"old"


def test_everything_can_be_lost(tmp_path: Path) -> None:
    """But not under a server that runs, which would go on with what it has in memory."""
    with Server(tmp_path, persistence="always") as server, server.client() as client:
        client.set("a", "b")
        with pytest.raises(ServerFailed, match="end it before"):
            server.lose_everything()
        server.kill()
        server.lose_everything()
        server.start()
        assert client.dbsize() == 0


def test_while_it_is_down_its_port_refuses_and_stays_its_own(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.kill()
        assert not server.is_up
        with pytest.raises(ServerFailed, match="does not run"):
            _ = server.pid
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((server.host, server.port))
        with socket.socket() as thief, pytest.raises(OSError, match="in use"):
            thief.bind(("127.0.0.1", server.port))
        server.start()
        with pytest.raises(ServerFailed, match="runs already"):
            server.start()


@each_program
def test_a_stopped_server_lives_and_does_not_answer(tmp_path: Path, program: Program) -> None:
    with Server(tmp_path, program=program) as server, server.client() as client:
        client.ping()
        client.connection_pool.reset()
        server.stop()
        assert server.is_up
        with socket.create_connection((server.host, server.port)) as raw:
            raw.settimeout(0.1)
            raw.sendall(b"INCR n\r\n")
            with pytest.raises(TimeoutError):
                raw.recv(100)
            server.go_on()
            raw.settimeout(5)
            assert raw.recv(100) == b":1\r\n"
        server.stop()
        server.end()
        assert not server.is_up


@each_program
def test_a_lagging_replica_takes_over(tmp_path: Path, program: Program, wait_for: Callable[..., Any]) -> None:
    """Behind a proxy that lets nothing through it does not know the last write; then it is a primary without it."""
    with (
        Server(tmp_path / "a", program=program) as primary,
        Server(tmp_path / "b", program=program) as replica,
        Proxy((primary.host, primary.port)) as cable,
        primary.client() as first,
        replica.client() as second,
    ):
        first.set("a", "1")
        replica.follow(cable)
        assert second.get("a") == b"1"
        with pytest.raises(redis.exceptions.ReadOnlyError):
            second.set("a", "2")
        first.set("a", "2")
        wait_for(lambda: second.get("a") == b"2")
        cable.block(to_server=False, to_client=True)
        first.set("a", "3")
        replica.promote()
        assert second.get("a") == b"2"
        assert second.set("a", "4")
        assert first.get("a") == b"3"


@each_program
def test_settings_change_while_it_runs(tmp_path: Path, program: Program) -> None:
    with Server(tmp_path, program=program) as server, server.client() as client:
        server.config("maxmemory-policy", "allkeys-lru")
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
