"""A child: heard, watched, and gone with everything that it started."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from genlock.worker.demo import child as room
from genlock.worker.demo.child import Child, DemoFailed


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def start(code: str, tmp_path: Path, heard: list[bytes] | None = None, *, may_end: bool = False) -> Child:
    hear = heard.append if heard is not None else None
    return Child("it", python(code), env=os.environ, log=tmp_path / "log", heard=hear, may_end=may_end)


def test_its_lines_are_heard_and_it_is_told(tmp_path: Path) -> None:
    heard: list[bytes] = []
    with start("print(input(), flush=True); print('rest', end='')", tmp_path, heard, may_end=True) as child:
        child.tell(b"hello\n")
        child.finish()
        child.check()
        assert child.has_ended
    assert heard == [b"hello\n", b"rest"]


def test_without_a_listener_its_output_goes_to_its_log(tmp_path: Path) -> None:
    with start("import sys; print('out'); print('\\x1b[2Jerr', file=sys.stderr)", tmp_path, may_end=True) as child:
        child.finish()
        assert sorted(child.last_words.splitlines()) == ["?[2Jerr", "out"]


def test_one_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    with start("raise SystemExit('no disk')", tmp_path, may_end=True) as child:
        child.finish()
        with pytest.raises(DemoFailed, match=r"it ended with status 1. Its last words:\nno disk"):
            child.check()


def test_one_that_was_killed_is_told_by_its_signal(tmp_path: Path) -> None:
    with start("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", tmp_path) as child:
        child.finish()
        with pytest.raises(DemoFailed, match="it was killed by signal 9"):
            child.check()


def test_one_that_should_go_on_may_not_even_end_well(tmp_path: Path) -> None:
    with start("pass", tmp_path) as child:
        child.finish()
        with pytest.raises(DemoFailed, match="it ended with status 0"):
            child.check()


def test_telling_one_that_has_ended_is_harmless(tmp_path: Path, wait_for: Callable[..., Any]) -> None:
    with start("pass", tmp_path, may_end=True) as child:
        wait_for(lambda: child.has_ended, description="it ends")
        child.tell(b"hello\n")
        child.finish()


def test_a_terminals_ctrl_c_does_not_reach_it(tmp_path: Path) -> None:
    """The director ends its children in order; a group of their own keeps the terminal's signal from them."""
    with start("input()", tmp_path) as child:
        assert os.getpgid(child.pid) == child.pid != os.getpgid(0)


def test_what_a_child_has_started_ends_with_it(tmp_path: Path, wait_for: Callable[..., Any]) -> None:
    """gunicorn's arbiter is killed, and its workers would go on for ever."""
    heard: list[bytes] = []
    code = "import subprocess as s; p = s.Popen(['sleep', '600']); print(p.pid, flush=True); input()"
    with start(code, tmp_path, heard) as child:
        wait_for(lambda: heard, description="it has a child")
        grandchild = psutil.Process(int(heard[0]))
        os.kill(child.pid, signal.SIGKILL)
        wait_for(lambda: child.has_ended, description="it is dead")
        assert grandchild.is_running()
    wait_for(
        lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE, description="it goes too"
    )


def test_one_that_does_not_listen_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_for: Callable[..., Any]
) -> None:
    monkeypatch.setattr(room, "PATIENCE_S", 0.2)
    heard: list[bytes] = []
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()"
    with start(code, tmp_path, heard) as child:
        wait_for(lambda: heard, description="it ignores TERM")
    with pytest.raises(DemoFailed, match="signal 9"):
        child.check()
    child.end()
