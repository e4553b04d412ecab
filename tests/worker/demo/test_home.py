"""The home of the demo: its own folder, fleet and Redis, and nothing of it left."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from genlock.coordinator import Fleet, RedisUnreachable
from genlock.worker.demo.home import Home


def ended(process: psutil.Process) -> bool:
    """It is gone, or what its parent has not asked for yet."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_it_lives_in_a_folder_of_its_own_with_a_server_that_ends_with_it(
    tmp_path: Path, wait_for: Callable[..., Any]
) -> None:
    with Home({"GENLOCK_STATE_DIR": str(tmp_path / "state")}) as home:
        assert home.folder.parent == tmp_path / "state"
        embedded = home.fleet.endpoint.embedded
        assert embedded is not None
        server = psutil.Process(embedded.pid())
        assert home.fleet.store.root.is_relative_to(home.folder)
        assert home.log("x").parent == home.folder
    assert list((tmp_path / "state").iterdir()) == []
    wait_for(lambda: ended(server), description="the server has ended")


def test_a_socket_that_had_to_live_elsewhere_leaves_no_folder(tmp_path: Path) -> None:
    """A path of more than 103 bytes is too long for a socket; the server's stands below /tmp then."""
    with Home({"GENLOCK_STATE_DIR": str(tmp_path / ("long" * 25))}) as home:
        embedded = home.fleet.endpoint.embedded
        assert embedded is not None
        socket = embedded.socket
        assert not socket.is_relative_to(home.folder)
        assert socket.exists()
    assert not socket.parent.exists()


def test_without_a_state_folder_it_takes_a_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Home({}) as home:
        assert home.folder.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_its_processes_know_nothing_of_another_fleet(tmp_path: Path) -> None:
    """Somebody tries the demo in a shell that is set up for production."""
    theirs = {"GENLOCK_FLEET": "prod", "GENLOCK_STORE": str(tmp_path / "prod"), "M10D_CACHE_TTL": "5", "PATH": "/bin"}
    with Home({"GENLOCK_STATE_DIR": str(tmp_path), **theirs}) as home:
        assert home.env["PATH"] == "/bin"
        assert home.fleet.name == home.env["GENLOCK_FLEET"] != "prod"
        assert home.env["GENLOCK_STATE_DIR"] == str(home.folder)
        assert home.env["GENLOCK_MODELS"] == "digits=genlock.worker.demo.digits:DigitsNet"
        assert not home.env.keys() & {"GENLOCK_STORE", "GENLOCK_REDIS_URL", "M10D_CACHE_TTL"}
    assert not (tmp_path / "prod").exists()


def test_in_somebody_elses_redis_it_leaves_no_key(redis_url: str, tmp_path: Path) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("theirs", "1")
        with Home({"GENLOCK_STATE_DIR": str(tmp_path), "GENLOCK_REDIS_URL": redis_url}) as home:
            assert home.env["GENLOCK_REDIS_URL"] == redis_url
            assert home.fleet.endpoint.embedded is None
            assert len(client.keys()) > 1
        assert client.keys() == [b"theirs"]
    assert list(tmp_path.iterdir()) == []


def test_without_redis_it_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/nobody"
    with pytest.raises(RedisUnreachable, match="nobody"):
        Home({"GENLOCK_STATE_DIR": str(tmp_path), "GENLOCK_REDIS_URL": url})
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_for: Callable[..., Any]
) -> None:
    """Its disk is full, say, and it refuses to shut down: it must not be left running without its folder."""

    def stuck(self: object, timeout_s: float) -> bool:
        raise RedisUnreachable("there", "it has not ended")

    with Home({"GENLOCK_STATE_DIR": str(tmp_path)}) as home:
        embedded = home.fleet.endpoint.embedded
        assert embedded is not None
        server = psutil.Process(embedded.pid())
        monkeypatch.setattr(type(embedded), "stop", stuck)
    wait_for(lambda: ended(server), description="the server has ended")
    assert not os.path.lexists(home.folder)


def test_two_demos_are_two_fleets(redis_url: str, tmp_path: Path) -> None:
    environ = {"GENLOCK_STATE_DIR": str(tmp_path), "GENLOCK_REDIS_URL": redis_url}
    with Home(environ) as one, Home(environ) as other:
        assert one.fleet.name != other.fleet.name
        assert one.folder != other.folder
        assert isinstance(other.fleet, Fleet)
