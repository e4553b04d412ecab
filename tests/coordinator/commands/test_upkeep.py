"""`genlock verify`, `gc`, `redis`."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from genlock.coordinator.commands.upkeep import generations_of
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.server import EmbeddedServer
from genlock.coordinator.upkeep import Damage, Use
from redis import Redis

PROGRAM = (sys.executable, "-m", "genlock.coordinator.commands")


@pytest.fixture
def stored(genlock: Callable[..., Any], checkpoint: Callable[..., Path], fleet: Fleet) -> Path:
    """The object of a model's only checkpoint."""
    assert genlock("publish", "digits", checkpoint()).status == 0
    (found,) = fleet.store.objects()
    return found.path


def damage(path: Path) -> None:
    """Other bytes, of the same size."""
    path.chmod(0o600)
    path.write_bytes(bytes(path.stat().st_size))


def test_a_whole_store_is_told_as_whole(stored: Path, genlock: Callable[..., Any]) -> None:
    """No output at all left people wondering whether anything had been read."""
    assert genlock("verify").out == "every artifact is what its digest says\n"
    assert genlock("verify", "--json").document == []


def test_damage_is_status_1_and_says_whose_it_is_and_how_to_mend_it(
    stored: Path, genlock: Callable[..., Any], checkpoint: Callable[..., Path]
) -> None:
    """A flipped bit was found when the first worker restarted; publishing again did not mend a file of the right size."""
    damage(stored)
    ran = genlock("verify")
    assert ran.status == 1 and "1 artifact damaged or missing" in ran.out
    assert "digits" in ran.out and "genlock verify --set-aside" in ran.out
    (found,) = genlock("verify", "--json").document
    assert found["path"] == str(stored) and found["aside"] is None

    ran = genlock("verify", "--set-aside")
    assert ran.status == 1 and "moved away" in ran.out and "--set-aside" not in ran.out
    ran = genlock("verify")
    assert ran.status == 1 and "missing" in ran.out and "--set-aside" not in ran.out, "there is nothing to move"
    assert genlock("publish", "digits", checkpoint()).status == 0
    assert genlock("verify").status == 0


def test_damage_says_which_generations_it_is_of(
    stored: Path, genlock: Callable[..., Any], checkpoint: Callable[..., Path]
) -> None:
    """`publish the checkpoint again`: which of the forty, and is it the one that answers?"""
    damage(stored)
    assert "digits 1 (active)  " in genlock("verify").out
    assert genlock("publish", "digits", checkpoint("2")).status == 0
    ran = genlock("verify")
    assert "digits 1  " in ran.out and "still there" in ran.out and "genlock history MODEL" in ran.out
    (found,) = genlock("verify", "--json").document
    uses = [{"model": "digits", "generation": 1, "active": False}]
    assert (found["generations"], found["models"], found["missing"]) == (uses, ["digits"], False)


def test_generations_are_told_the_newest_first() -> None:
    uses = (Use("a", 0), Use("a", 2), Use("a", 4, True), Use("b", 7, True))
    found = Damage(digest="d", path="p", why="w", models=("a", "b"), generations=uses)
    assert generations_of(found) == "a what waits as next, 4 (active), 2; b 7 (active)"


def test_gc_removes_what_no_generation_needs(
    stored: Path, genlock: Callable[..., Any], fleet: Fleet, checkpoint: Callable[..., Path]
) -> None:
    """A dry run must not remove anything, and nothing that is needed is ever removed."""
    unneeded = fleet.store.path(fleet.store.stage(checkpoint("unneeded", "u"), name="u").digest)
    for path in (stored, unneeded):
        os.utime(path, (1, 1))
    ran = genlock("gc", "--dry-run")
    assert (ran.status, ran.out) == (0, "1 file would be removed · 19 B\n") and unneeded.exists()
    assert genlock("gc", "--dry-run", "--keep", "2").out == ran.out
    assert genlock("gc", "--keep", "1").status == 2
    (found,) = genlock("gc", "--json").document
    assert found["path"] == str(unneeded)
    assert not unneeded.exists() and stored.exists()
    assert genlock("gc").out == "0 files removed · 0 B\n"


# --- the embedded server ---------------------------------------------------------------------------------------------


@pytest.fixture
def own_server(environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedServer]:
    """The embedded server of a state folder of this test, which has not been started yet."""
    monkeypatch.delenv("GENLOCK_REDIS_URL")
    monkeypatch.setenv("GENLOCK_STATE_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("GENLOCK_STORE", str(tmp_path / "own" / "store"))
    server = EmbeddedServer(tmp_path / "own")
    yield server
    server.stop()


def test_a_server_that_had_to_be_started_is_told_once_and_stops_when_asked(
    own_server: EmbeddedServer, genlock: Callable[..., Any]
) -> None:
    """People wondered months later which server ran there, and how to end it."""
    ran = genlock("status", "--json")
    assert ran.status == 0 and ran.document["models"] == []
    assert ran.err.count("started genlock's own server") == 1
    assert own_server.where in ran.err and "genlock redis --stop" in ran.err
    assert genlock("status").err == ""

    assert genlock("redis", "--stop").out == f"stopped the server at {own_server.where}\n"
    stopped = {"outcome": "not running", "where": own_server.where, "connections": 0}
    assert genlock("redis", "--stop", "--json").document == stopped


def test_who_stops_a_server_hears_that_others_start_it_again(
    own_server: EmbeddedServer, genlock: Callable[..., Any]
) -> None:
    """It was stopped, and seconds later it ran: a worker had started it, as it should."""
    own_server.ensure()
    client = Redis(unix_socket_path=str(own_server.socket))
    client.ping()
    ran = genlock("redis", "--stop")
    client.close()
    assert f"stopped the server at {own_server.where}\n1 connection of others went with it: " in ran.out
    assert "starts it again" in ran.out


def test_a_server_that_runs_already_is_not_run_again(own_server: EmbeddedServer, genlock: Callable[..., Any]) -> None:
    """Two servers on one file would destroy it; nor is "Ctrl-C ends it" said of the other one."""
    own_server.ensure()
    ran = genlock("redis")
    assert ran.status == 1 and f"pid {own_server.pid()}" in ran.err and "genlock redis --stop" in ran.err
    assert "Ctrl-C" not in ran.err


def test_the_foreground_is_no_document(own_server: EmbeddedServer, genlock: Callable[..., Any]) -> None:
    """The server's log would stand before the JSON."""
    ran = genlock("redis", "--json")
    assert (ran.status, ran.document["outcome"]) == (2, "usage")


def test_the_foreground_runs_until_ctrl_c(own_server: EmbeddedServer, wait_for: Any) -> None:
    """A supervisor runs `genlock redis`; a Redis URL in its environment is told, because others then use that one."""
    environment = os.environ | {"GENLOCK_REDIS_URL": "redis://elsewhere"}
    command = [*PROGRAM, "redis"]
    running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(own_server.pid)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 0
    assert own_server.where in err and "a Redis URL is set" in err


def test_a_server_that_fails_is_status_1(own_server: EmbeddedServer, wait_for: Any) -> None:
    """A supervisor did not start the server again, because the command had ended with 0."""
    running = subprocess.Popen([*PROGRAM, "redis"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        os.kill(wait_for(own_server.pid), signal.SIGKILL)
        assert running.wait(30) == 1
    finally:
        running.kill()
        running.wait()
