"""worker/lookout.py: files that training overwrites, looked at by one worker of a host for all."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from genlock.coordinator.clock import clock
from genlock.coordinator.errors import BadInput, NotReady
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.settings import Settings
from genlock.coordinator.watching import Named, watcher
from genlock.worker.cache import ModelCache
from genlock.worker.lookout import Elected, Lookout, _parts_of


class Slow:
    """A file that torch writes to, and that waits after some of its writes."""

    def __init__(self, file: Any) -> None:
        self.file, self.writes = file, 0

    def write(self, data: bytes) -> int:
        self.writes += 1
        if self.writes % 4 == 0:
            threading.Event().wait(0.1)
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


CHECKED = {"check_mtime": True}


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "SETTLED_S", 0.15)
    monkeypatch.setattr(watcher, "POLL_S", 0.05)


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """put(value, name="m"): training has overwritten a checkpoint, which multiplies by `value`."""

    def put(value: float, name: str = "m") -> Path:
        path = tmp_path / f"{name}.pt"
        torch.save({"weight": torch.eye(2) * value, "bias": torch.zeros(2)}, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").rename(path)
        return path

    return put


def said(cache: ModelCache) -> float | None:
    """What the model multiplies by; None while nothing is published."""
    try:
        with cache.use("m") as held, torch.no_grad():
            return float(held.payload(torch.ones(1, 2))[0, 0])
    except NotReady:
        return None


@pytest.mark.usefixtures("soon")
def test_a_worker_publishes_for_all_and_a_file_is_asked_for_once_a_turn(
    new_cache: Any, put: Any, fleet: Fleet, wait_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three workers of a host with the same sources: one looks, whichever requests come; when it ends, another one does."""
    path = put(1.0)
    asked: Counter[str] = Counter()
    stat = Path.stat

    def counting(path: Path, **how: Any) -> Any:
        if threading.current_thread().name == "genlock-lookout":
            asked[path.name] += 1
        return stat(path, **how)

    turns: list[float] = []
    idle: list[float] = []
    look = Elected.look

    def turning(elected: Elected) -> Any:
        found = look(elected)
        (turns if found.files else idle).append(clock())
        return found

    monkeypatch.setattr(Path, "stat", counting)
    monkeypatch.setattr(Elected, "look", turning)
    caches = [new_cache("m", settings=CHECKED, sources={"m": path}) for _ in range(3)]
    assert all(cache.sources == {"m": {"model": path}} for cache in caches)
    # Nobody has ever published anything.
    wait_for(lambda: [said(cache) for cache in caches] == [1.0] * 3, description="what was there is published")
    put(2.0)
    wait_for(lambda: fleet.model("m").generation == 2, description="the change is published")
    wait_for(lambda: [said(cache) for cache in caches] == [2.0] * 3, description="all have changed")
    wait_for(lambda: len(idle) > 10, description="the others had their turns")
    assert asked["m.pt"] <= len(turns) + 1
    assert min(after - before for before, after in pairwise(turns)) > 0.9 * watcher.POLL_S
    caches[0].close()  # it came first
    put(3.0)
    wait_for(lambda: [said(cache) for cache in caches[1:]] == [3.0] * 2, description="another one looks")
    assert [found.outcome for found in fleet.history("m")] == ["committed"] * 3
    assert fleet.history("m")[0].message == f"noticed by a worker: {path}"


@pytest.mark.usefixtures("soon")
def test_a_torch_save_in_many_writes_is_never_proposed_torn(
    new_cache: Any, fleet: Fleet, wait_for: Any, tmp_path: Path
) -> None:
    """torch writes the records of its archive one by one; whoever took the file in between would have half of a model."""
    path = tmp_path / "runs/m/best.pt"
    path.parent.mkdir(parents=True)
    settings = CHECKED | {"watch": (f"{tmp_path}/runs/{{model}}/best.pt",)}
    cache = new_cache("m", settings=settings)
    cache.start()
    for value in (1.0, 2.0):
        with path.open("wb", buffering=0) as file:
            slow = Slow(file)
            torch.save({"weight": torch.eye(2) * value, "bias": torch.zeros(2)}, slow)
        assert slow.writes > 8
        wait_for(lambda value=value: said(cache) == value, description=f"{value} answers")
    assert [found.outcome for found in fleet.history("m")] == ["committed"] * 2


def test_it_is_said_that_files_are_looked_at_or_that_none_was_named(
    new_cache: Any, wait_for: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """M10D_CHECK_MTIME=true may stand in the environment of every service: one that names no file goes on, and says so."""
    caplog.set_level(logging.INFO, "genlock.worker")
    blind = new_cache("m", settings=CHECKED)
    assert "neither sources= nor GENLOCK_WATCH names a file" in blind.notice
    blind.start()
    assert blind.notice in caplog.messages
    caplog.set_level(logging.INFO, "genlock.watch")
    seeing = new_cache("m", settings=CHECKED | {"watch": "/runs:/other"}, sources={"m": tmp_path / "m.pt"})
    assert seeing.notice.endswith("by one worker of this host: m, /runs, /other")
    seeing.start()
    waiting = f"model m: waiting for {tmp_path}/m.pt"
    wait_for(lambda: waiting in caplog.messages, description="a file that is not there is said")
    assert new_cache("m", sources={"m": tmp_path / "m.pt"}).notice == ""
    with pytest.raises(BadInput, match="does not say the model"):
        new_cache("m", settings=CHECKED | {"watch": "/runs/*.pt"})


def test_a_separator_within_braces_is_none() -> None:
    """`{artifact:encoder,head}` has the character that stands between two patterns."""
    arguments = ("a", "r/{model}/{artifact:cnn,svm}.pt", "m=b/{artifact}.pt")
    text = ":".join(arguments)
    assert Settings.from_env({"M10D_CHECK_MTIME": "true", "GENLOCK_WATCH": f":{text}::"}).watch == arguments
    assert Settings.from_env({}, watch=arguments).watch == arguments
    with pytest.raises(BadInput, match="a brace stands alone"):
        Lookout(Settings.from_env({}, watch="r/{model:cnn.pt"), Named({}))


def test_a_child_does_not_keep_the_locks_of_its_parent(tmp_path: Path) -> None:
    """gunicorn's master looked at files before it forked, and was killed: its children held its locks, and nobody looked any more."""
    parts = {"m": Named({"m": tmp_path / "m.pt"})}
    first, second = Elected(parts, tmp_path), Elected(parts, tmp_path)
    assert first.look().files and not second.look().files
    ready, over = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"x")
        os.read(over[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    for descriptor in first._open.values():  # as if it had been killed
        os.close(descriptor)
    first._open.clear()
    try:
        assert second.look().files
    finally:
        os.write(over[1], b"x")
        os.waitpid(child, 0)
        second.close()
        for descriptor in (*ready, *over):
            os.close(descriptor)


def test_where_no_lock_can_be_had_everybody_looks(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    elected = Elected({"m": Named({"m": tmp_path / "m.pt"})}, tmp_path / "file")
    assert elected.look().files
    elected.close()


def test_a_lock_that_could_not_be_had_once_is_tried_again(tmp_path: Path) -> None:
    """The state folder's disk was full for a moment: two workers would look at every file until one of them ends."""
    state = tmp_path / "state"
    parts = {"m": Named({"m": tmp_path / "m.pt"})}
    first, second = Elected(parts, state), Elected(parts, state)
    state.touch()
    assert first.look().files and second.look().files
    state.unlink()
    assert second.look().files and not first.look().files
    first.close()
    second.close()


def test_a_file_that_is_named_and_in_a_pattern_is_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, with one lock each: the one asked for what the other asked for too."""
    for name in ("m.pt", "n.pt"):
        (tmp_path / name).write_bytes(b"x")
    asked, stat = Counter[str](), Path.stat
    parts = _parts_of(Named({"m": tmp_path / "m.pt"}), (str(tmp_path),))
    monkeypatch.setattr(Path, "stat", lambda path, **how: [asked.update([path.name]), stat(path, **how)][1])
    found = [sources.look().files for sources in parts.values()]
    assert [set(files) for files in found] == [{"m"}, {"n"}] and asked["m.pt"] == 1


def test_closing_what_never_began_is_nothing(tmp_path: Path) -> None:
    Lookout(Settings(state_dir=tmp_path), Named({"m": tmp_path / "m.pt"})).close()
    assert list(tmp_path.iterdir()) == []
