"""worker/siblings.py: whichever worker of a host is scraped, the figures of all that live come back, and of nobody else."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from genlock.worker import siblings as room
from genlock.worker.siblings import Siblings, process, service
from prometheus_client.parser import text_string_to_metric_families as read

WaitFor = Callable[..., Any]
Make = Callable[..., Siblings]

#: Another process that writes figures; it prints its name when it has, and ends with its input.
OTHER = """
import sys, threading
from pathlib import Path
from genlock.worker import siblings as room
folder, service = sys.argv[1:]
if service: room.service = lambda: service
one = room.Siblings(Path(folder), "t", lambda: {"worker": "other", "hits": 7}, cache=0)
one.start()
while not list(Path(folder).glob("figures/t/*@" + room.process(room.os.getpid()) + "@0" + room._FORM)): threading.Event().wait(0.002)
print(room.service(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """make(worker="me", cache=0): the figures of a cache of this process."""
    made: list[Siblings] = []

    def make(worker: str = "me", *, cache: int = 0, fleet: str = "t") -> Siblings:
        made.append(Siblings(tmp_path, fleet, lambda: {"worker": worker, "hits": 1}, cache=cache))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """other(service): another process, by default one that comes from where this one does."""
    begun: list[subprocess.Popen[str]] = []

    def other(its_service: str = "") -> subprocess.Popen[str]:
        command = [sys.executable, "-c", OTHER, str(tmp_path), its_service]
        begun.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert begun[-1].stdout is not None
        assert begun[-1].stdout.readline().strip()
        return begun[-1]

    yield other
    for one in begun:
        one.kill()
        one.communicate()


def workers(one: Siblings) -> list[str]:
    return [detail["worker"] for detail in one.details()]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("figures/*/*"))


def test_alone_there_is_nothing_to_add(make: Make, tmp_path: Path) -> None:
    one = make()
    assert one.details() == [{"worker": "me", "hits": 1}]
    assert not (tmp_path / "figures").exists(), "who does not begin leaves nothing on the disk"


def test_what_others_may_write_is_not_believed(make: Make, other: Any, tmp_path: Path) -> None:
    """A folder that another user can write to, or that is another user's: this worker's own figures are what is left."""
    other(service())
    one = make()
    assert workers(one) == ["me", "other"]
    (tmp_path / "figures/t").chmod(0o777)
    assert workers(one) == ["me"]


def test_siblings_are_added_until_they_die(make: Make, other: Any, tmp_path: Path) -> None:
    """A scrape meets one worker of four, another one each time: seen, counters that jump between four values. A worker that was killed
    cannot take its figures away: seen in other libraries, a worker of last week in every sum."""
    one, sibling = make(), other(service())
    assert one.details() == [{"worker": "me", "hits": 1}, {"worker": "other", "hits": 7}]
    sibling.send_signal(signal.SIGKILL)
    sibling.wait()
    assert workers(one) == ["me"]
    assert files(tmp_path) == []


def test_a_dead_one_that_nobody_has_waited_for_is_dead(make: Make, other: Any, wait_for: WaitFor) -> None:
    """Its process is a zombie until the arbiter looks: it has a pid, and counts nothing any more."""
    one, sibling = make(), other(service())
    assert len(workers(one)) == 2
    sibling.send_signal(signal.SIGKILL)
    wait_for(lambda: workers(one) == ["me"])


def test_another_service_of_the_host_is_another_ones_figures(make: Make, other: Any) -> None:
    """Two gunicorns serve the same fleet at two ports, and both are scraped: with the figures of both in both, every sum is twice."""
    stranger = other()
    assert workers(make()) == ["me"]
    assert stranger.poll() is None


def test_a_pid_that_is_used_again_is_not_the_dead_one(make: Make, tmp_path: Path) -> None:
    """The figures of a worker of yesterday, under a pid that today is somebody else's: by its start time it is another process."""
    one = make()
    (tmp_path / "figures" / "t").mkdir(parents=True)
    stem = "@".join(one._me()._replace(process=f"{os.getppid()}-1"))
    (tmp_path / "figures" / "t" / (stem + room._FORM)).write_text('{"worker": "dead"}')
    (tmp_path / "figures" / "t" / (stem + ".draft")).write_text("{")
    assert workers(one) == ["me"]
    assert files(tmp_path) == []


def test_figures_of_another_host_release_or_cache_are_left_alone(make: Make, tmp_path: Path) -> None:
    """A state folder on a volume of several containers, each with a table of processes of its own; a worker of the next release, which
    counts in another form; the second app of this process: neither is read, nor taken for dead."""
    one = make()
    (tmp_path / "figures" / "t").mkdir(parents=True)
    me, parent = one._me(), process(os.getppid()) or ""
    theirs = [
        ("@".join(me._replace(place="elsewhere", process="1-1")), room._FORM),
        ("@".join(me._replace(process=parent)), ".0"),
        ("@".join(me._replace(process=parent, cache="1")), room._FORM),
        ("notes", ".txt"),
    ]
    for stem, suffix in theirs:
        (tmp_path / "figures" / "t" / (stem + suffix)).write_text('{"worker": "theirs"}')
    assert workers(one) == ["me"]
    assert len(files(tmp_path)) == len(theirs)


@pytest.mark.parametrize("data", ["", "{", "[]", '"x"', "{}", '{"worker": ' + "[" * 100_000, "\udcff"])
def test_what_cannot_be_read_is_left_out(make: Make, tmp_path: Path, data: str) -> None:
    one = make()
    (tmp_path / "figures" / "t").mkdir(parents=True)
    stem = "@".join(one._me()._replace(process=process(os.getppid()) or ""))
    (tmp_path / "figures" / "t" / (stem + room._FORM)).write_bytes(data.encode("utf-8", "surrogateescape"))
    assert workers(one) == ["me"]


def test_it_writes_now_and_then_for_itself_alone_and_takes_it_away(
    make: Make, tmp_path: Path, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "WRITE_S", 0.005)
    monkeypatch.setattr(room, "CLOSE_S", 20.0)
    one = make()
    one.start()
    (path,) = wait_for(lambda: [path for path in files(tmp_path) if path.suffix == room._FORM])
    assert json.loads(path.read_text()) == {"worker": "me", "hits": 1}
    assert path.parent.stat().st_mode & 0o077 == 0, "others of this machine need not read it"
    first = path.stat().st_mtime_ns
    wait_for(lambda: path.exists() and path.stat().st_mtime_ns > first, description="it writes again")
    assert workers(one) == ["me"], "its own file is not another worker"
    one.close()
    one.close()
    assert files(tmp_path) == []


def test_a_disk_that_takes_nothing_is_said_once(
    make: Make, tmp_path: Path, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker answers all the same; whoever is scraped has its own figures."""
    monkeypatch.setattr(room, "WRITE_S", 0.002)
    (tmp_path / "figures").write_text("in the way")
    asked = threading.Semaphore(0)
    one = Siblings(tmp_path, "t", lambda: asked.release() or {"worker": "me"}, cache=0)
    one.start()
    wait_for(lambda: asked.acquire(blocking=False) and "cannot be written" in caplog.text)
    assert all(asked.acquire(timeout=20) for _ in range(3)), "it goes on trying"
    one.close()
    assert workers(one) == ["me"]
    assert caplog.text.count("cannot be written") == 1


# --- which processes belong together ---------------------------------------------------------------------------------

FORKED = """
import os
from genlock.worker.siblings import process, service
mine = process(os.getpid())
assert service() == mine, "alone it is a service of its own"
if os.fork() == 0:
    os._exit(0 if service() == mine and process(os.getpid()) != mine else 1)
assert os.wait()[1] == 0, "what was imported before the fork is what the children share"
import sys, types
sys.modules["gunicorn.arbiter"] = types.ModuleType("gunicorn.arbiter")
assert service() == process(os.getppid()), "an app that gunicorn's worker imports after the fork"
"""


def test_behind_a_fork_the_importer_is_the_service() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_what_a_supervisor_has_spawned_is_one_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvicorn and hypercorn begin their workers by multiprocessing, each with modules of its own."""
    import multiprocessing.process

    monkeypatch.delitem(sys.modules, "gunicorn.arbiter", raising=False)  # another test may have needed it
    assert service() == process(os.getpid())
    monkeypatch.setattr(multiprocessing.process, "parent_process", lambda: object())
    assert service() == process(os.getppid())


def test_a_process_has_a_name_while_it_lives() -> None:
    me = process(os.getpid())
    assert me is not None and me.startswith(f"{os.getpid()}-") and not me.endswith("-0")
    assert process(2**22 + 1) is None, "above the highest pid that Linux gives"


def test_where_no_proc_is_a_pid_alone_must_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS: less exact, and still none that is dead."""
    monkeypatch.setattr(room, "Path", lambda path: Path("/nowhere") / path.lstrip("/"))
    assert process(os.getpid()) == f"{os.getpid()}-0"
    assert process(1) == "1-0", "it lives, though it may not be ours to signal"
    assert process(2**22 + 1) is None


# --- under gunicorn --------------------------------------------------------------------------------------------------

#: An app whose cache writes its figures as one that answers does, without a Redis and without torch.
APP = """
import os
from genlock.coordinator.fleet import Fleet
from genlock.worker.cache import ModelCache
cache, begun = ModelCache(Fleet(state_dir=os.environ["STATE"])), []
def app(environ, start_response):
    if not begun:
        begun.append(cache._siblings.start())
    start_response("200 OK", [])
    return [cache.metrics().encode()]
"""


@pytest.fixture
def gunicorn(tmp_path: Path, wait_for: WaitFor) -> Iterator[Callable[..., Any]]:
    """gunicorn(*options): a service of two workers; gives a function that asks it which workers there are."""
    (tmp_path / "app.py").write_text(APP)
    begun: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> Callable[[], set[str]]:
        socket = tmp_path / f"{len(begun)}.sock"
        command = [sys.executable, "-m", "gunicorn", "--bind", f"unix:{socket}", "--workers", "2", *options, "app:app"]
        log = (tmp_path / "log").open("ab")
        begun.append(
            subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "STATE": str(tmp_path)}, stdout=log, stderr=log)
        )
        log.close()

        def workers() -> set[str]:
            with closing(http.client.HTTPConnection("localhost", timeout=20)) as connection:
                connection.sock = wait_for(lambda: connected(socket), description="it listens")
                connection.request("GET", "/metrics")
                families = {family.name: family for family in read(connection.getresponse().read().decode())}
            found = [sample.labels["worker"] for sample in families["genlock_worker_uptime_seconds"].samples]
            assert len(set(found)) == len(found)
            return set(found)

        return workers

    yield start
    for one in begun:
        one.terminate()
        one.wait(20)


def connected(path: Path) -> socket.socket | None:
    one = socket.socket(socket.AF_UNIX)
    try:
        one.connect(str(path))
    except OSError:
        one.close()
        return None
    return one


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["imported by each worker", "imported before the fork"])
def test_one_scrape_has_all_workers_of_its_service(
    gunicorn: Callable[..., Any], wait_for: WaitFor, options: tuple[str, ...]
) -> None:
    """Two services of one fleet on one host, scraped at two ports; in one of them a worker is killed, and cannot say so."""
    ours, theirs = gunicorn(*options), gunicorn(*options)
    mine = wait_for(lambda: len(found := ours()) == 2 and found, description="both have answered, and written once")
    other = wait_for(lambda: len(found := theirs()) == 2 and found)
    assert mine.isdisjoint(other)
    assert all(ours() == mine for _ in range(5)), "whichever of them answers"
    victim = min(mine)
    os.kill(int(victim.rpartition(":")[2]), signal.SIGKILL)
    after = wait_for(
        lambda: len(found := ours()) == 2 and found != mine and found, description="gunicorn begins another one"
    )
    assert victim not in after
    assert theirs() == other
