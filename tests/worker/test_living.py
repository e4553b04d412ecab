"""worker/living.py: what the process does with its caches: tells of memberships, forks, ends."""

from __future__ import annotations

import atexit
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.reply import Epoch
from genlock.worker import living as room
from genlock.worker.cache import ModelCache
from genlock.worker.living import caches, on_joined

Publish = Callable[..., Any]
NewCache = Callable[..., ModelCache]


def test_memberships_are_told_before_the_first_hold(
    publish: Publish, fleet: Fleet, new_cache: NewCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a parent process rests on: a child that dies while it is waited for can be named."""
    monkeypatch.setattr(room, "_on_joined", [])
    told: list[Any] = []

    def joined(cache: ModelCache, member: str, epoch: Epoch) -> None:
        assert threading.current_thread().name == "genlock-runtime"
        told.append((cache, member, epoch.number, fleet.workers()[0].models))

    on_joined(joined)
    publish(1)
    cache = new_cache()
    cache.get("m")
    member = fleet.workers()[0]
    assert told == [(cache, member.member, fleet.status().epoch, [])]
    assert member.models == ["m"]
    assert cache in caches()


FORKS = """
import os, sys
from genlock.coordinator.fleet import Fleet
from genlock.worker import ModelCache
import torch
torch.set_num_threads(1)

url, store, state = sys.argv[1:]
cache = ModelCache(Fleet(url, name="t", store=store, state_dir=state), loaders={"m": lambda: torch.nn.Linear(2, 2)})
seen = []
cache.on_flip(lambda *facts: seen.append(os.getpid()))
first = cache.get("m")
read, write = os.pipe()
child = os.fork()
if child == 0:
    assert cache.views == {} and cache.runtime is None, "nothing of the parent's"
    view = cache.get("m")
    assert view.payload is not first.payload
    names = sorted(worker.worker for worker in Fleet(url, name="t", store=store, state_dir=state).workers())
    cache.close()
    os.write(write, repr((cache.worker, names, seen[-1] == os.getpid())).encode())
    os._exit(0)
os.waitpid(child, 0)
print(eval(os.read(read, 10000)), cache.worker, cache.get("m") is first, sep="|")
cache.close()
"""


def test_after_a_fork_the_child_is_a_worker_of_its_own(publish: Publish, redis_url: str, tmp_path: Path) -> None:
    """R12: the parent's views, threads, connections and membership are not the child's; the parent notices nothing."""
    publish(1)
    command = [sys.executable, "-c", FORKS, redis_url, str(tmp_path / "store"), str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    text, parent, same = done.stdout.strip().split("|")
    child, names, called = eval(text)
    assert names == sorted([child, parent])
    assert child != parent
    assert (called, same) == (True, "True")


def test_a_process_that_just_ends_leaves_its_fleet(
    publish: Publish, fleet: Fleet, redis_url: str, tmp_path: Path
) -> None:
    """Nobody calls close() at the end of a script."""
    publish(1)
    script = FORKS.partition("seen = []")[0] + 'cache.get("m")\n'
    command = [sys.executable, "-c", script, redis_url, str(tmp_path / "store"), str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert [event.what for event in fleet.events()][-2:] == ["joined", "left"]


def test_importing_it_loads_neither_torch_nor_flask() -> None:
    """A gunicorn master imports the hooks; torch would have to be loaded before the fork, and Flask is not everybody's."""
    script = (
        "import sys, genlock.worker, genlock.worker.hooks;"
        "print([m for m in ('torch', 'numpy', 'flask', 'werkzeug', 'gunicorn', 'typer', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_cache_that_is_opened_again_and_again_leaves_once(publish: Publish, new_cache: NewCache) -> None:
    """Seen: each left one more function behind that the end of the process calls."""
    publish(1)
    cache = new_cache()
    cache.prewarm()
    before = atexit._ncallbacks()
    for _ in range(3):
        cache.close()
        cache.open()
        cache.prewarm()
    assert atexit._ncallbacks() == before


class AtExit:
    """What is called at the end of a process, the last one first."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def register(self, call: object) -> None:
        self.calls.append(call)

    def unregister(self, call: object) -> None:
        self.calls = [other for other in self.calls if other != call]


def test_a_temporary_folder_is_there_when_its_cache_leaves(
    new_cache: NewCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second cache of a process left when its folder had gone: only the first one had said that caches leave."""
    at_exit = AtExit()
    monkeypatch.setattr(room, "atexit", at_exit)
    for folder in ("first", "second"):
        at_exit.register(folder)
        new_cache().start()
    assert at_exit.calls == ["first", "second", room._close_all]


def test_one_that_cannot_leave_does_not_keep_the_others(
    publish: Publish, fleet: Fleet, new_cache: NewCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of them comes first; who has not begun, or was closed, is left alone."""
    publish(1)
    made = [new_cache() for _ in range(4)]
    for cache in made[:3]:
        cache.prewarm()
    made[2].close()
    closed: list[ModelCache] = []

    def fails(cache: ModelCache) -> None:
        closed.append(cache)
        raise OSError("made up")

    with monkeypatch.context() as patched:
        patched.setattr(ModelCache, "close", fails)
        patched.setattr(room, "_caches", set(made))
        with pytest.raises(OSError, match="made up"):
            room._close_all()
    assert set(closed) == set(made[:2]) and len(closed) == 2
    room._close_all()
    assert fleet.workers() == []
