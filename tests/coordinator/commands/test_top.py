"""`genlock top`: one picture, and the live one at a terminal."""

import codecs
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from genlock.coordinator.commands.layout import Line, Room
from genlock.coordinator.commands.picture import Rates
from genlock.coordinator.commands.top import Terminal, look_at, watch
from genlock.coordinator.errors import RedisUnreachable
from genlock.coordinator.fleet import Fleet

PROGRAM = (sys.executable, "-m", "genlock.coordinator.commands")


@pytest.fixture
def published(fleet: Fleet, checkpoint: Callable[..., Path]) -> Fleet:
    fleet.publish("digits", checkpoint("1"))
    return fleet


def test_a_pipe_gets_one_picture(genlock: Callable[..., Any], published: Fleet, member: Callable[..., Any]) -> None:
    """`genlock top | head` drew for ever."""
    member()
    for arguments in (["top"], ["top", "--once", "--interval", "5s"]):
        ran = genlock(*arguments)
        assert (ran.status, ran.err) == (0, "")
        first, *more = ran.out.splitlines()
        assert first == "the only worker agrees: what it holds is what is active"
        assert any(line.startswith("digits    1") for line in more) and "\x1b" not in ran.out


def test_json_is_status_and_workers(genlock: Callable[..., Any], published: Fleet, member: Callable[..., Any]) -> None:
    member()
    found = genlock("top", "--json").document
    assert found["agreement"]["state"] == "agree"
    assert found | {"revision": 0} == {
        "agreement": found["agreement"],
        **genlock("status", "--json").document,
        "workers": genlock("workers", "--json").document,
    } | {"revision": 0}


def test_a_redis_that_is_gone_is_said_and_the_picture_kept(published: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended with an error in the middle of the fault that one had opened it for."""
    pictures: list[list[Line]] = []
    found, rates = look_at(published), Rates()
    down = [True, True, False]

    def workers() -> Any:
        if down and down.pop(0):
            raise RedisUnreachable("unix:///s", "it is gone")
        return []

    monkeypatch.setattr(published, "workers", workers)
    terminal = Terminal(pictures.append, lambda: Room(100, 30))
    watch(published, found, rates, terminal, lambda _: not down, 0.01)
    firsts = [lines[0].text for lines in pictures]
    assert firsts[0] == firsts[-1] == "no worker is a member of this fleet now"
    assert all(text.startswith("it is not known whether all workers agree") for text in firsts[1:-1])
    assert [line.text for line in pictures[1]][1].startswith("no Redis answers at unix:///s")
    assert any("digits" in line.text for line in pictures[1])


def test_another_size_is_drawn_at_once(published: Fleet) -> None:
    """The next look was an hour away, and half of the screen was black until then."""
    sizes = [Room(100, 30)] * 3 + [Room(30, 5)] * 50
    pictures: list[list[Line]] = []
    terminal = Terminal(pictures.append, lambda: sizes.pop(0))
    watch(published, look_at(published), Rates(), terminal, lambda _: len(pictures) > 1, 3600)
    assert [max(len(line.text) for line in lines) <= 30 for lines in pictures] == [False, True]


class Screen:
    """A terminal that `genlock top` runs at."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._fd, its = pty.openpty()
        self.resize(80, 24)
        command = [*PROGRAM, "top", "--interval", "100ms"]
        self.process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environ, start_new_session=True)
        os.close(its)
        self.written = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end within a character

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def press(self, key: bytes) -> None:
        os.write(self._fd, key)

    def read_until(self, text: str) -> str:
        """What was written until then; fails after 20 s."""
        end = time.monotonic() + 20
        while text not in self.written:
            assert time.monotonic() < end, f"{text!r} is not in {self.written[-2000:]!r}"
            if select.select([self._fd], [], [], 0.1)[0]:
                self.written += self._decoder.decode(os.read(self._fd, 65536))
        before, _, self.written = self.written.partition(text)
        return before + text

    def rest(self) -> str:
        """What it writes until it has ended; fails after 20 s."""
        try:
            while select.select([self._fd], [], [], 20)[0] and (piece := os.read(self._fd, 65536)):
                self.written += self._decoder.decode(piece)
        except OSError:
            pass  # how Linux says that the other side is closed
        self.process.wait(20)
        return self.written

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)


@pytest.mark.parametrize("ends_by", ["q", "Ctrl-C"])
def test_a_terminal_gets_a_live_picture_and_itself_back(
    published: Fleet, environment: None, checkpoint: Callable[..., Path], ends_by: str
) -> None:
    """Look, publish from elsewhere, see it come, make the window narrow, press an arrow, which is no key of ours, end it."""
    no_color = "1" if ends_by == "q" else ""
    environ = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    screen = Screen({**environ, "TERM": "xterm-256color", "NO_COLOR": no_color})
    try:
        first = screen.read_until("unproven")
        assert "\x1b[?1049h" in first, "the other screen"
        assert ("\x1b[33m" in first) == (not no_color), "news is yellow, where colours are wanted"
        published.publish("fusion", checkpoint("2"))
        screen.read_until("fusion")
        screen.resize(40, 24)
        screen.read_until("fleet t · 0 workers on 0 hosts · 2 mode…")
        screen.press(b"\x1b[A")
        if ends_by == "q":
            screen.press(b"q")
        else:
            screen.process.send_signal(signal.SIGINT)
        rest = screen.rest()
    finally:
        screen.close()
    assert screen.process.returncode == 0 and "\x1b[?1049l" in rest and "Traceback" not in rest


def test_an_unreachable_redis_at_the_start_is_an_error(
    genlock: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENLOCK_REDIS_URL", "redis://127.0.0.1:1/0")
    ran = genlock("top", "--json")
    assert ran.status == 5 and json.loads(ran.out)["outcome"] == "unavailable"
