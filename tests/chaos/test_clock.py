"""A clock on the wall that is stepped while a server reads it."""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from chaos import clock
from chaos.clock import Clock, ClockMissing, build, missing
from chaos.server import Program, Server
from chaos.test_server import each_program

#: Seconds that two clocks may differ which are read one after the other on a busy machine; a server's is cut to whole seconds.
NEAR_S = 5
#: Prints the clock on the wall, twice, and the monotonic one.
READ = "import time; print(time.time(), time.clock_gettime(time.CLOCK_REALTIME), time.monotonic())"


def _refuses(folder: Path) -> bool:
    """Whether there can be no clock here; then it says so, with the reason."""
    if missing():
        with pytest.raises(ClockMissing, match="no C compiler"):
            Clock(folder)
    return bool(missing())


def _is_ahead(client: redis.Redis, seconds: float) -> bool:
    return abs(client.time()[0] - time.time() - seconds) < NEAR_S


@each_program
def test_a_server_sees_the_steps_of_its_clock(tmp_path: Path, program: Program, wait_for: Callable[..., Any]) -> None:
    """Forwards and backwards, by seconds and hours, within a moment (Valkey keeps the time for a millisecond)."""
    if _refuses(tmp_path):
        return
    with (
        Clock(tmp_path) as clock,
        Server(tmp_path / "server", program=program, preload=clock.library) as server,
        server.client() as client,
    ):
        expected = 0
        for step in (0, 3600, -3600, -3600, 3615, -30):
            clock.step(step)
            expected += step
            assert clock.offset_s == expected
            wait_for(partial(_is_ahead, client, expected))
        # What the server measures durations by stays right.
        assert client.info("server")["uptime_in_seconds"] < 3000


@each_program
def test_a_step_does_not_end_a_server(tmp_path: Path, program: Program, wait_for: Callable[..., Any]) -> None:
    """Expiry goes by the clock on the wall: that is what the step is to show."""
    if _refuses(tmp_path):
        return
    with (
        Clock(tmp_path) as clock,
        Server(tmp_path / "server", program=program, preload=clock.library) as server,
        server.client() as client,
    ):
        client.set("a", "b", ex=1800)
        clock.step(3600)
        wait_for(lambda: client.get("a") is None)
        assert server.is_up


def test_other_programs_see_it_too_and_their_monotonic_clock_is_right(tmp_path: Path) -> None:
    if _refuses(tmp_path):
        return
    with Clock(tmp_path) as clock:
        clock.step(-7200.5)
        said = subprocess.run([sys.executable, "-c", READ], env=clock.env, capture_output=True, text=True, check=True)
    wall, again, monotonic = map(float, said.stdout.split())
    assert abs(wall - time.time() + 7200.5) < NEAR_S
    assert abs(again - time.time() + 7200.5) < NEAR_S
    assert abs(monotonic - time.monotonic()) < NEAR_S


def test_two_clocks_are_wrong_in_their_own_ways(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    if _refuses(tmp_path):
        return
    with Clock(folders[0]) as one, Clock(folders[1]) as other:
        one.step(60)
        assert (one.offset_s, other.offset_s) == (60, 0)


def test_without_a_compiler_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    clock.missing.cache_clear()
    try:
        assert missing() == "no C compiler (cc) on the PATH"
        with pytest.raises(ClockMissing, match="no C compiler"):
            build(tmp_path)
    finally:
        clock.missing.cache_clear()
