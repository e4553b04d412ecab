"""worker/hooks.py: what gunicorn calls, in the arbiter and in its workers. The processes themselves are tested in tests/flow."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.logs import JsonFormatter
from genlock.worker import badge as badge_room
from genlock.worker import hooks, living
from genlock.worker.badge import Badge, Membership
from genlock.worker.cache import ModelCache
from gunicorn.app.base import Application
from gunicorn.config import Config
from torch import nn

Publish = Callable[..., Any]
NewCache = Callable[..., ModelCache]
WaitFor = Callable[..., Any]


class Log:
    """gunicorn's log."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.error_log = logging.Logger("gunicorn.error", logging.INFO)
        self.error_log.addHandler(logging.NullHandler())

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda text, *words: self.lines.append((level, text % words))

    def of(self, level: str) -> str:
        return "\n".join(line for at, line in self.lines if at == level)


@pytest.fixture
def server() -> Any:
    return SimpleNamespace(log=Log(), cfg=Config())


@pytest.fixture
def worker(server: Any) -> Any:
    """As gunicorn's: the arbiter makes it, the child goes on with it."""
    signs: list[float] = []
    return SimpleNamespace(pid=os.getpid(), alive=True, log=server.log, signs=signs, notify=lambda: signs.append(0.0))


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that nobody has prepared yet."""
    monkeypatch.setattr(living, "_on_joined", [])
    monkeypatch.setattr(hooks, "_warned", set())
    monkeypatch.setattr(hooks, "_ours", logging.Logger("genlock"))
    yield


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arbiter waits for as long as a busy Redis takes to hear of a dead worker."""
    monkeypatch.setattr(hooks, "REPORT_S", 20.0)
    monkeypatch.setattr(badge_room, "CALL_S", 10.0)


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """only(cache, …): the caches of this process; those of other tests may not be collected yet."""
    return lambda *these: monkeypatch.setattr(hooks, "caches", lambda: list(these))


# --- as a configuration ----------------------------------------------------------------------------------------------


def test_gunicorn_takes_nothing_from_it_but_hooks() -> None:
    """gunicorn reads every global of a configuration whose name is a setting's: an import named `workers` would set that."""
    taken = {name for name in vars(hooks) if name in Config().settings}
    assert taken == set(hooks.__all__)
    config = Config()
    for name in taken:
        config.set(name, getattr(hooks, name))  # refuses a hook of a wrong arity


def test_gunicorn_reads_it_as_python_and_as_part_of_another(tmp_path: Path) -> None:
    own = tmp_path / "gunicorn.conf.py"
    own.write_text("from genlock.worker.hooks import *\nworkers = 3\n")
    for location in ("python:genlock.worker.hooks", str(own)):
        app = Application.__new__(Application)
        app.cfg = Config()
        app.load_config_from_module_name_or_filename(location)
        assert app.cfg.post_worker_init is hooks.post_worker_init
        assert app.cfg.child_exit is hooks.child_exit


# --- in a worker -----------------------------------------------------------------------------------------------------


def test_a_worker_is_warm_before_it_takes_requests(
    publish: Publish, new_cache: NewCache, server: Any, worker: Any, only: Any, wait_for: WaitFor
) -> None:
    """gunicorn would kill one that gives no sign while a large model loads."""
    publish(1)

    def large() -> nn.Module:
        wait_for(lambda: worker.signs, description="a sign while it loads")
        return nn.Linear(2, 2)

    cache = new_cache(loaders={"m": large})
    only(cache)
    hooks.pre_fork(server, worker)
    hooks.post_fork(server, worker)
    hooks.post_worker_init(worker)
    assert cache.is_warmed_up()
    assert "1 of 1 models are loaded" in server.log.of("info")


def test_a_worker_comes_up_unready_when_its_time_is_over(
    publish: Publish, new_cache: NewCache, server: Any, worker: Any, only: Any
) -> None:
    """R8: bounded by GENLOCK_MAX_WAIT. What it holds is loaded later; /readyz says when."""
    publish(1, "a")
    go_on = threading.Event()

    def slow() -> nn.Module:
        assert go_on.wait(20)
        return nn.Linear(2, 2)

    cache = new_cache(loaders={"a": slow, "b": slow}, settings={"max_wait_s": 0.05})
    only(cache)
    hooks.post_worker_init(worker)
    assert "0 of 2 models are loaded" in server.log.of("warning")
    go_on.set()


def test_a_worker_that_cannot_begin_comes_up_unready(new_cache: NewCache, server: Any, worker: Any, only: Any) -> None:
    cache = new_cache()
    cache.close()
    only(cache)
    hooks.post_worker_init(worker)
    assert "comes up unready" in server.log.of("error")


def test_a_worker_that_is_told_to_end_while_it_loads_does(
    publish: Publish, new_cache: NewCache, worker: Any, only: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload during a slow start: gunicorn would kill it after its graceful timeout."""
    publish(1)
    go_on = threading.Event()

    def slow() -> nn.Module:
        assert go_on.wait(20)
        return nn.Linear(2, 2)

    cache = new_cache(loaders={"m": slow})
    only(cache)
    monkeypatch.setattr(hooks, "SIGN_S", 0.01)
    monkeypatch.setattr(worker, "notify", lambda: setattr(worker, "alive", False))
    hooks.post_worker_init(worker)
    assert not cache.is_warmed_up()
    go_on.set()


def test_the_arbiter_knows_the_member_before_it_holds_anything(
    publish: Publish, fleet: Fleet, new_cache: NewCache, server: Any, worker: Any, only: Any
) -> None:
    publish(1)
    cache = new_cache()
    only(cache)
    hooks.pre_fork(server, worker)
    hooks.post_fork(server, worker)
    assert worker.genlock_badge.read() == []
    cache.get("m")
    (shown,) = worker.genlock_badge.read()
    assert shown.member == fleet.workers()[0].member
    assert (shown.fleet, shown.fleet_id, shown.epoch) == ("t", fleet.identity.fleet_id, fleet.status().epoch)
    hooks.worker_exit(server, worker)
    assert fleet.workers() == []
    assert worker.genlock_badge.read() == [], "it has left by itself"
    hooks.child_exit(server, worker)
    assert [event.what for event in fleet.events()].count("left") == 1


def test_lines_of_genlock_go_to_gunicorns_log_where_nobody_else_takes_them(
    server: Any, worker: Any, only: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They came out bare, through logging's last resort: no time, no pid, and nothing below a warning."""
    only()
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    hooks.pre_fork(server, worker)
    hooks.post_fork(server, worker)
    hooks.post_worker_init(worker)
    log = worker.log.error_log
    assert (hooks._ours.handlers, hooks._ours.level) == (log.handlers, logging.INFO)
    root.handlers.append(logging.NullHandler())
    hooks.post_worker_init(worker)
    assert (hooks._ours.handlers, hooks._ours.level) == ([], logging.NOTSET), (
        "the app's own set-up: no line comes twice"
    )


@pytest.mark.parametrize("whose", ["root", "genlock"])
def test_who_has_said_where_lines_go_is_left_alone(
    whose: str, server: Any, worker: Any, only: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    only()
    theirs = logging.NullHandler()
    monkeypatch.setattr(logging.getLogger(), "handlers", [theirs] if whose == "root" else [])
    monkeypatch.setattr(hooks._ours, "handlers", [theirs] if whose == "genlock" else [])
    hooks.pre_fork(server, worker)
    hooks.post_fork(server, worker)
    hooks.post_worker_init(worker)
    assert hooks._ours.handlers == ([theirs] if whose == "genlock" else [])
    assert hooks._ours.level == logging.NOTSET


def test_all_lines_of_gunicorn_are_json_where_that_is_wanted(
    server: Any, worker: Any, only: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stream has gunicorn's lines and ours: a collector that reads JSON stumbles over each that is not."""
    only()
    (handler,) = server.log.error_log.handlers
    hooks.pre_fork(server, worker)
    assert handler.formatter is None
    monkeypatch.setenv("GENLOCK_LOG", "xml")
    hooks.pre_fork(server, worker)
    assert handler.formatter is None, "the app says what is wrong with it; the arbiter goes on"
    monkeypatch.setenv("GENLOCK_LOG", "json")
    server.cfg.set("logconfig_dict", {"version": 1})
    hooks.pre_fork(server, worker)
    assert handler.formatter is None, "who has configured gunicorn's logging keeps the say"
    server.cfg.set("logconfig_dict", {})
    hooks.pre_fork(server, worker)
    assert isinstance(handler.formatter, JsonFormatter)


# --- in the arbiter --------------------------------------------------------------------------------------------------


def dies(worker: Any, cache: ModelCache) -> None:
    """The child is killed: nothing of it goes on, and its badge stays."""
    runtime = cache.runtime
    assert runtime is not None
    runtime.agent.membership.left = True
    runtime.post(lambda: None)
    runtime._thread.join(20)
    worker.pid = 0


@pytest.mark.usefixtures("patient")
def test_a_dead_worker_is_reported_at_once(
    publish: Publish, fleet: Fleet, new_cache: NewCache, server: Any, worker: Any, only: Any
) -> None:
    """Else every flip waits for its lease: 3.35 s."""
    publish(1)
    cache = new_cache()
    hooks.pre_fork(server, worker)
    hooks.post_fork(server, worker)
    cache.get("m")
    dies(worker, cache)
    assert len(fleet.workers()) == 1
    hooks.child_exit(server, worker)
    assert fleet.workers() == []
    assert list(fleet.events())[-1].facts["died"] == 1
    assert "told the fleet t that member" in server.log.of("info")


@pytest.mark.usefixtures("patient")
def test_gunicorn_calls_worker_exit_in_the_arbiter_for_one_that_is_gone(
    publish: Publish, fleet: Fleet, new_cache: NewCache, server: Any, worker: Any, only: Any
) -> None:
    """It must not close what the arbiter has (preload_app), and the worker has died all the same."""
    publish(1)
    cache, preloaded = new_cache(), new_cache()
    hooks.pre_fork(server, worker)
    hooks.post_fork(server, worker)
    cache.get("m")
    dies(worker, cache)
    only(preloaded)
    hooks.worker_exit(server, worker)
    assert fleet.workers() == []
    assert preloaded.get("m").generation == 1


@pytest.mark.parametrize("lost", ["no server", "a server that hangs"])
def test_without_redis_the_arbiter_goes_on(
    lost: str, server: Any, worker: Any, tmp_path: Path, wait_for: WaitFor
) -> None:
    """Never more than 0.3 s: it has other workers to look after."""
    worker.genlock_badge = Badge()
    shown = Membership(f"unix://{tmp_path / 's'}", str(tmp_path), "t", "f" * 32, 3.0, "7", 1, "n")
    worker.genlock_badge.show(1, shown)
    with socket.socket(socket.AF_UNIX) as listening:
        if lost == "a server that hangs":
            listening.bind(str(tmp_path / "s"))
            listening.listen()
        began = time.monotonic()
        hooks.child_exit(server, worker)
        assert time.monotonic() - began < 10 * hooks.REPORT_S
        wait_for(lambda: "could not be told that a worker died" in server.log.of("warning"))


def test_a_worker_without_a_badge_is_nobodys_concern(server: Any, worker: Any, only: Any) -> None:
    """A configuration that took some of the hooks only."""
    only()
    hooks.child_exit(server, worker)
    hooks.worker_exit(server, worker)
    assert server.log.lines == []


def test_the_arbiter_is_warned_of_torch_before_the_fork_once(
    server: Any, worker: Any, only: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R12: the first parallel operation of a child hangs if one has run in the parent, and nobody would know why."""
    only()
    monkeypatch.setitem(sys.modules, "torch", sys.modules["torch"])
    for _ in range(2):
        hooks.pre_fork(server, worker)
    assert server.log.of("warning").count("torch is imported in the gunicorn master") == 1
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(hooks, "_warned", set())
    server.log.lines.clear()
    hooks.pre_fork(server, worker)
    assert server.log.lines == []


def test_the_arbiter_is_warned_when_it_is_a_member_itself(
    publish: Publish, new_cache: NewCache, server: Any, worker: Any, only: Any
) -> None:
    """An app that evaluates something at import, with preload_app: the master would hold up every flip."""
    publish(1)
    cache = new_cache()
    only(cache)
    hooks.pre_fork(server, worker)
    assert "a model was used in the gunicorn master" not in server.log.of("warning")
    cache.get("m")
    hooks.pre_fork(server, worker)
    assert "a model was used in the gunicorn master" in server.log.of("warning")
