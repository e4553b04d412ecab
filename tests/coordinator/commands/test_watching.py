"""`genlock watch`."""

import json
import os
import signal
import subprocess
import threading
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.watching import watcher

from .conftest import PROGRAM


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "SETTLED_S", 0.1)
    monkeypatch.setattr(watcher, "POLL_S", 0.1)


def saved(path: Path, content: str) -> None:
    """An archive as torch.save writes it, as far as `genlock watch` looks into it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", content)


@pytest.mark.usefixtures("soon")
def test_one_look_tells_what_became_of_each_model(genlock: Callable[..., Any], fleet: Fleet, tmp_path: Path) -> None:
    """From cron: what is new is published, and the status is that of the worst."""
    runs = tmp_path / "runs"
    runs.mkdir()
    ran = genlock("watch", runs, "--once")
    assert (ran.status, ran.out) == (0, f"no checkpoint found in {runs}\n")

    saved(runs / "a.pt", "1")
    ran = genlock("watch", runs, "--once")
    assert ran.status == 0 and ran.out.startswith("a: committed · generation 1 (")
    ran = genlock("watch", runs / "a.pt", "--once")
    assert ran.status == 2 and f"say MODEL={runs / 'a.pt'}" in ran.err
    (runs / "b.safetensors").write_text("checkpoint 2")  # is none
    fleet.pin("a")
    saved(runs / "a.pt", "3")
    ran = genlock("watch", runs, "--once", "--json")
    assert ran.status == 3
    assert [(found["model"], found["outcome"]) for found in ran.document] == [("a", "pinned"), ("b", "artifact")]
    assert "is pinned to generation 1" in ran.document[0]["why"]

    (runs / "b.safetensors").unlink()
    fleet.unpin("a")
    (runs / "c").mkdir()
    saved(runs / "c/best.pt", "4")
    ran = genlock(
        "watch",
        runs,
        "--pattern",
        "{model}/best.pt",
        "--pattern",
        "{model}.pt",
        f"d={runs}/c/best.pt",
        "--once",
        "--json",
    )
    assert [(found["model"], found["outcome"]) for found in ran.document] == [
        ("a", "committed"),
        ("c", "committed"),
        ("d", "committed"),
    ]
    ran = genlock("watch", runs, "--once", "--json")
    assert [found["outcome"] for found in ran.document] == ["unchanged"]


@pytest.mark.usefixtures("soon")
def test_one_look_that_finds_nothing_where_something_should_be_has_failed(
    genlock: Callable[..., Any], fleet: Fleet, tmp_path: Path
) -> None:
    """A typing mistake in cron: "no checkpoint found", status 0, and nobody looked again."""
    runs = tmp_path / "runs"
    runs.mkdir()
    ran = genlock("watch", f"{runs}/typo", f"m={runs}", "--once")
    assert (ran.status, ran.out) == (
        1,
        f"odd: {runs}/typo is not there\nm: odd · {runs}, which would be model m, is a folder: name the file in it\n",
    )
    assert "waited for" not in ran.err and "WARNING" not in ran.err  # it is told once
    saved(runs / "a.pt", "1")
    (runs / "b.pt").touch()
    ran = genlock("watch", runs, "--once", "--json")
    assert ran.status == 1
    assert [(found["model"], found["outcome"]) for found in ran.document] == [("a", "committed"), ("b", "odd")]

    (runs / "b.pt").unlink()
    fleet.pin("a", why="a weekend")
    saved(runs / "a.pt", "2")
    ran = genlock("watch", runs, "--once")
    assert ran.status == 3 and ran.out.startswith("a: pinned · it is pinned to generation 1 since ")
    assert "model 'a'" not in ran.out and "Tried again" not in ran.err


def test_what_makes_no_sense_is_a_usage_error(genlock: Callable[..., Any], tmp_path: Path) -> None:
    ran = genlock("watch", tmp_path / "*.pt")
    assert ran.status == 2 and "write {model} into it, or MODEL=PATH" in ran.err
    ran = genlock("watch", tmp_path, "--json")
    assert ran.status == 2 and "GENLOCK_LOG=json" in ran.out
    assert genlock("watch").status == 2
    ran = genlock("watch", tmp_path, "--redis-url", "redis://127.0.0.1:1", "--once")
    assert ran.status == 5


def test_it_goes_on_until_a_signal_and_tells_programs_what_it_does(
    environment: None, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Under systemd, and in a terminal: log lines that can be read, and an end that is none of an accident."""
    environ = os.environ | {"GENLOCK_LOG": "json"}
    ends = {"terminated": signal.SIGTERM, "interrupted": signal.SIGINT}
    with ExitStack() as stack:
        begun = {}
        for model in ends:
            command = [*PROGRAM, "watch", f"{model}={tmp_path}/{model}"]
            process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            begun[model] = stack.enter_context(process)
            watchdog = threading.Timer(60, process.kill)
            stack.callback(watchdog.cancel)
            stack.callback(process.kill)  # before it is waited for
            watchdog.start()
        for model, process in begun.items():
            into = json.loads(process.stderr.readline())
            assert into["event"] == "watching" and f"fleet {into['fleet']} at" in into["message"], (
                "a wrong fleet is seen at once"
            )
            assert json.loads(process.stderr.readline())["event"] == "waiting"
            assert json.loads(process.stderr.readline())["event"] == "listening"
            checkpoint("1", model)
        for model, process in begun.items():
            assert json.loads(process.stderr.readline())["files"] == f"{tmp_path}/{model}"
            published = json.loads(process.stderr.readline())
            assert (published["event"], published["model"], published["generation"]) == ("published", model, 1)
            process.send_signal(ends[model])
        for process in begun.values():
            assert process.wait(20) == 0
            assert json.loads(process.stderr.read())["event"] == "ended" and process.stdout.read() == ""
