"""deploy/redis: a fleet runs under its users, each has every command that its role needs and no other, and reaches nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from genlock.coordinator.calls import Hold, Join, Leave, Lock
from genlock.coordinator.errors import FlipRejected, RedisRefused
from genlock.coordinator.fleet import Fleet
from genlock.worker import BadCheckpoint, Checkpoint, ModelCache

from deploy.files import DEPLOY, FLEET, PASSWORDS, ROOT, Server, program, rendered_acl, running

#: Commands that any user may send: they introduce it.
FREE = {"auth", "hello"}
#: Commands that a run need not come to, and why a role has them all the same.
REASONED = {
    "admin": {
        "hdel": "whoever sends the last answer or settles a deadline clears the list of a candidate",
        "hsetnx": "whoever meets a server that has lost the fleet's key begins the next epoch",
        "del": "whoever meets a key of a wrong type removes it before that",
        "pttl": "a publisher that finds the lock taken looks at when it expires",
        "pexpire": "and mends one that never would",
        "xrange": "`genlock events --follow` reads on from the last entry",
    },
    "worker": {
        "hsetnx": "as for the admin",
        "del": "as for the admin",
    },
}


@pytest.fixture(params=["redis", "valkey"])
def server(request: pytest.FixtureRequest, tmp_path: Path, wait_for: Any) -> Iterator[Server]:
    with running(request.param, tmp_path / "server", wait_for) as found:
        yield found


class Listener:
    """Who has used which command, also inside scripts. Workers come by TCP and publishers by the socket: that is how MONITOR tells them
    apart. It hears later than they are executed: what it is told stands between them."""

    def __init__(self, server: Server) -> None:
        self.used: dict[str, set[str]] = {"worker": set(), "admin": set()}
        self._client, self._voice = server.super(socket_timeout=None), server.super()  # it may be quiet for long
        self._voice.ping()  # connected before anything is heard
        self._monitor = self._client.monitor()
        self._monitor.__enter__()
        self._thread = threading.Thread(target=self._listen, name="monitor")
        self._thread.start()

    def _listen(self) -> None:
        who, is_deaf = "admin", False  # deaf while the super user acts, by the socket too
        while True:
            heard = self._monitor.next_command()
            name = heard["command"].partition(" ")[0].lower()
            if heard["client_type"] != "lua":
                who = {"unix": "admin", "tcp": "worker"}[heard["client_type"]]
            if name == "echo":
                word = heard["command"].split()[1]
                if word == "end":
                    return
                is_deaf = word == "deaf"
            elif not is_deaf or who == "worker":
                self.used[who].add(name)

    def tell(self, word: str) -> None:
        """A word: `deaf`, what comes by the socket from here on is the super user's; `hears`, it is the admin's again; `end`."""
        self._voice.echo(word)

    def end(self) -> None:
        self.tell("end")
        self._thread.join()
        self._monitor.__exit__(None, None, None)
        self._client.close()
        self._voice.close()


def listed(role: str) -> set[str]:
    """The commands of a role in the file."""
    line = next(text for text in rendered_acl().stdout.splitlines() if text.startswith(f"user genlock-{role} "))
    return set(re.findall(r" \+(\S+)", line))


def loader(checkpoint: Checkpoint) -> bytes:
    """A loader that needs no torch."""
    data = checkpoint.path("model").read_bytes()
    if data == b"bad":
        raise BadCheckpoint(checkpoint.model, "bytes", "they are bad")
    return data


class Stage:
    """A publisher and two workers, each under its own user."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._server, self._folder = server, folder
        self.fleet = self.new_fleet(server.unix("admin"))
        self.worker_fleets = [self.new_fleet(server.tcp("worker")) for _ in range(3)]
        self.caches = [ModelCache(fleet, loaders={"m": loader}) for fleet in self.worker_fleets[:2]]

    def new_fleet(self, url: str) -> Fleet:
        return Fleet(url, name=FLEET, store=self._folder / "store", state_dir=self._folder / "state", lease=1)

    def write(self, data: bytes) -> Path:
        path = self._folder / "m.bin"
        path.write_bytes(data)
        return path

    def publish(self, data: bytes) -> int:
        flip = self.fleet.publish("m", self.write(data), timeout=20)
        assert flip.outcome == "committed" and flip.generation
        return flip.generation

    def use(self) -> set[int]:
        return {cache.get("m").generation for cache in self.caches}

    def end(self) -> None:
        for cache in self.caches:
            cache.close()
        for fleet in (self.fleet, *self.worker_fleets):
            fleet.close()


@pytest.fixture
def stage(server: Server, tmp_path: Path) -> Iterator[Stage]:
    made = Stage(server, tmp_path)
    yield made
    made.end()


def everything(stage: Stage, server: Server, listener: Listener, wait_for: Callable[..., Any]) -> None:
    """What happens in the life of a fleet, by whoever does it."""
    fleet = stage.fleet
    stage.publish(b"1")
    assert stage.use() == {1}
    assert stage.publish(b"2") == 2
    with pytest.raises(FlipRejected):
        stage.publish(b"bad")
    assert fleet.rollback("m").generation == 4
    fleet.unpin("m")
    fleet.pin("m")
    fleet.unpin("m")
    for someone in (fleet, stage.worker_fleets[2]):  # an operator, and a worker that passes his wish on
        assert someone.refresh("m", timeout=20).ok
        assert someone.clear(timeout=20).ok
        stage.use()
    assert [fleet.model("m").generation, len(fleet.workers()), len(fleet.history("m"))] == [4, 2, 4]
    last = [event.id for event in fleet.events()][-2]
    assert len(list(fleet.events(after=last))) == 1
    assert fleet.verify() == []
    assert fleet.gc() == []
    try_canaries(stage, wait_for)
    take_lock(fleet)
    lose_everything(stage, server, listener, wait_for)
    silence(stage)


def try_canaries(stage: Stage, wait_for: Callable[..., Any]) -> None:
    """One that workers count the answers of gets a greater share, and then all; another is aborted."""
    path = stage.write(b"canary")
    begun = stage.fleet.publish("m", path, canary="50%", timeout=20)
    assert (begun.outcome, begun.generation) == ("canary", 5)
    wait_for(lambda: counted(stage) > 0, 20, "workers tell how many they have answered")
    stage.fleet.promote("m", share="80%")
    assert stage.fleet.promote("m").generation == 5
    assert stage.fleet.publish("m", stage.write(b"another"), canary="50%", timeout=20).generation == 6
    assert stage.fleet.abort("m") == 6


def counted(stage: Stage) -> int:
    """Requests that the candidate has answered, after a hundred more."""
    for number in range(100):
        with stage.caches[number % 2].use("m", key=f"user-{number}"):
            pass
    candidate = stage.fleet.model("m").candidate
    return candidate.figures["candidate"]["requests"] if candidate and candidate.figures else 0


def take_lock(fleet: Fleet) -> None:
    """Two trainers want to publish; the first one's lock is extended, and freed."""
    said = [
        fleet.registry.ask(Lock("m", action, token, "{}", ms)).verdict
        for action, token, ms in (("take", "a", 9000), ("take", "b", 9000), ("extend", "a", 9000), ("free", "a", 1))
    ]
    assert said == ["ok", "held", "ok", "ok"]


def lose_everything(stage: Stage, server: Server, listener: Listener, wait_for: Callable[..., Any]) -> None:
    """Somebody empties the server, and later overwrites a key: each time the workers begin a new epoch, and give back what was active."""
    for number, spoil in enumerate((empty, overwrite)):
        before = stage.fleet.status().epoch
        listener.tell("deaf")
        with server.super() as client:
            spoil(client)
            wait_for(lambda client=client, before=before: epoch_of(client) > before, 20, "a worker begins an epoch")
        listener.tell("hears")
        wait_for(lambda: stage.fleet.status().open, 20, "the fleet opens")
        assert stage.publish(b"after %d" % number) == 6 + number


def empty(client: redis.Redis) -> None:
    client.flushall()


def overwrite(client: redis.Redis) -> None:
    client.delete(f"genlock:{{{FLEET}}}:models")
    client.set(f"genlock:{{{FLEET}}}:models", "spoiled")


def epoch_of(client: redis.Redis) -> int:
    return int(client.hget(f"genlock:{{{FLEET}}}:fleet", "epoch") or 0)


def silence(stage: Stage) -> None:
    """A worker stops in the middle: the next flip evicts it. Another is reported by its arbiter."""
    registry = stage.worker_fleets[2].new_registry()
    member = registry.ask(Join('{"worker":"h:9"}')).id or ""
    registry.ask(Hold(member, 1, ("m",)))
    stage.publish(b"without h:9")
    registry.ask(Leave(registry.ask(Join('{"worker":"h:8"}')).id or ""))
    registry.close()


def test_each_user_may_do_what_its_role_needs_and_nothing_else(server: Server, stage: Stage, wait_for: Any) -> None:
    """Everything that a fleet does is done under the users of the file. A command that the file lacks makes it fail; one that nobody has
    used, and for which there is no reason here, should not be there."""
    listener = Listener(server)
    try:
        everything(stage, server, listener, wait_for)
    finally:
        stage.end()
        listener.end()
    with server.super() as client:
        refused = [(entry["username"], entry["object"]) for entry in client.acl_log()]
    assert refused == []
    for role, used in listener.used.items():
        reasons = set(REASONED[role])
        assert used - FREE - listed(role) == set(), role
        assert listed(role) - used - reasons == set(), f"{role} has commands that nobody used"


def test_a_command_less_is_noticed(server: Server, stage: Stage) -> None:
    """A user that is one command short is refused inside a script; what is said leads to the ACL, and not to a fault of genlock."""
    with server.super() as client:
        client.execute_command("ACL", "SETUSER", "genlock-admin", "-hset")
    with pytest.raises(RedisRefused, match=r"allow genlock's keys, its channel and the commands"):
        stage.publish(b"1")


FOREIGN = [
    ("worker", ("GET", f"genlock:{{{FLEET}}}:lock:m")),
    ("worker", ("HGETALL", "genlock:{other}:models")),
    ("worker", ("XRANGE", f"genlock:{{{FLEET}}}:log", "-", "+")),
    ("worker", ("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")),
    ("admin", ("HGETALL", "genlock:{other}:models")),
    ("admin", ("PUBLISH", "genlock:{other}:hint", "x")),
    ("admin", ("FLUSHALL",)),
    ("admin", ("KEYS", "*")),
    ("admin", ("ACL", "LIST")),
    ("admin", ("SCRIPT", "FLUSH")),
    ("metrics", ("HGETALL", f"genlock:{{{FLEET}}}:models")),
    ("metrics", ("SHUTDOWN",)),
]


def test_nobody_reaches_anything_else(server: Server) -> None:
    """The password of one role leaks: whoever has it cannot read another fleet, change the server, or be another role."""
    for role, command in FOREIGN:
        with redis.Redis.from_url(server.tcp(role)) as client, pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command)
    with server.super() as client:  # protected mode would shut workers out if anybody could be the default user
        assert {"on", "nopass"} & set(client.acl_getuser("default")["flags"]) == set()
    with redis.Redis.from_url(server.tcp("metrics")) as client:
        assert client.ping()
        assert client.info("memory")["maxmemory_policy"] == "noeviction"
        assert client.info("persistence")["aof_enabled"] == 1
    for url in (f"redis://127.0.0.1:{server.port}", server.tcp("admin").replace(PASSWORDS["admin"], "x" * 20)):
        with redis.Redis.from_url(url) as client, pytest.raises(redis.exceptions.AuthenticationError):
            client.ping()


def test_the_health_check_of_the_compose_file_tells_alive_from_refused(server: Server) -> None:
    """`redis-cli` ends with 0 also when it was refused, so the check looks at what it says."""
    import yaml

    (kind, command) = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["redis"]["healthcheck"][
        "test"
    ]
    assert kind == "CMD-SHELL"
    command = command.replace("redis-cli", f"{program('redis-cli')} -p {server.port}")
    for password, status in ((PASSWORDS["metrics"], 0), ("wrong", 1)):
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            env={"PATH": os.environ["PATH"], "REDISCLI_AUTH": password},
            capture_output=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == status, done


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("REDIS_ADMIN_PASSWORD", "short", "fewer than 16"),
        ("REDIS_ADMIN_PASSWORD", "sixteen chars with blanks", "something other"),
        ("GENLOCK_FLEET", "a/b", "no name of a fleet"),
    ],
)
def test_acl_sh_refuses_what_would_not_work(variable: str, value: str, why: str) -> None:
    """A password that a URL would need to escape, or that is guessed from its hash; a fleet that genlock refuses."""
    done = rendered_acl(**{variable: value})
    assert done.returncode != 0
    assert why in done.stderr
    assert "user" not in done.stdout


def test_no_password_is_in_what_acl_sh_prints() -> None:
    text = rendered_acl().stdout
    assert [line.split()[1] for line in text.splitlines()] == [
        "default",
        "genlock-worker",
        "genlock-admin",
        "genlock-metrics",
    ]
    assert [password for password in PASSWORDS.values() if password in text] == []
    assert len(re.findall(r"#[0-9a-f]{64} ", text)) == 3


def test_the_page_about_redis_shows_the_commands_of_the_admin() -> None:
    """docs/redis.md has one user for everything; it is that of the admin, so that there is one list."""
    (line,) = re.findall(r"```acl\nuser genlock (.*?)```", (ROOT / "docs/redis.md").read_text(), re.S)
    assert set(re.findall(r"\+(\S+)", line)) == listed("admin")
    assert (DEPLOY / "redis/users.acl").exists()
