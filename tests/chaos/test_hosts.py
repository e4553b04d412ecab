"""Machines of their own on this one. Where the system does not allow them, the reason is what is tested."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from chaos import hosts
from chaos.hosts import Host, HostMissing, missing, missing_time_namespace, time_namespace
from chaos.server import Server

#: Seconds that nothing has to arrive in; a busy machine answers within them.
QUIET_S = 1.0
#: Seconds that clocks may differ which are read one after the other.
NEAR_S = 5
#: Counts one further on the server, whenever it is told to; prints what came of it.
PINGER = """
import sys
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
host, port, patience_s = sys.argv[1:]
client = redis.Redis(host, int(port), socket_timeout=float(patience_s), retry=Retry(NoBackoff(), 0))
for line in sys.stdin:
    try:
        print(client.incr("n"), flush=True)
    except (redis.exceptions.TimeoutError, redis.exceptions.ConnectionError) as error:
        print(type(error).__name__, flush=True)
"""


def _refuses() -> bool:
    """Whether there can be no Host here; then it says so, with the reason."""
    if missing():
        with pytest.raises(HostMissing) as raised, Host("elsewhere"):
            pass
        assert str(raised.value) == missing()
    return bool(missing())


@pytest.fixture
def server_for(tmp_path: Path) -> Callable[[Host], Server]:
    """server_for(host): a server on this side of its cable."""
    return lambda host: Server(tmp_path / "server", host=host.address)


@pytest.fixture
def new_pinger() -> Iterator[Callable[..., Callable[[], str]]]:
    """new_pinger(host, server): a call that a client on that machine makes; gives what came of it."""
    made: list[subprocess.Popen[str]] = []

    def make(host: Host, server: Server) -> Callable[[], str]:
        where = (server.host, str(server.port), str(QUIET_S))
        command = [*host.prefix, sys.executable, "-c", PINGER, *where]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        made.append(process)
        assert process.stdin and process.stdout
        says, hears = process.stdin, process.stdout

        def ping() -> str:
            says.write("\n")
            says.flush()
            return hears.readline().strip()

        return ping

    yield make
    for process in made:
        process.communicate()


def test_a_machine_reaches_this_one_until_it_is_cut_off(
    server_for: Callable[[Host], Server], new_pinger: Callable[..., Callable[[], str]], wait_for: Callable[..., Any]
) -> None:
    """Both ways: no call is executed, and all is well afterwards."""
    if _refuses():
        return
    with Host("elsewhere") as host, server_for(host) as server, server.client() as inside:
        ping = new_pinger(host, server)
        assert ping() == "1"
        host.drop()
        assert ping() == "TimeoutError"
        assert inside.get("n") == b"1"
        host.heal()
        wait_for(lambda: ping().isdigit())


@pytest.mark.parametrize("way", ["inbound", "outbound"])
def test_a_partition_of_one_way(
    way: str, server_for: Callable[[Host], Server], new_pinger: Callable[..., Callable[[], str]]
) -> None:
    """Inbound: what was called is executed, and its caller does not hear of it. Outbound: it is not executed."""
    if _refuses():
        return
    with Host("elsewhere") as host, server_for(host) as server, server.client() as inside:
        ping = new_pinger(host, server)
        assert ping() == "1"
        host.drop(inbound=way == "inbound", outbound=way == "outbound")
        assert ping() == "TimeoutError"
        assert inside.get("n") == (b"2" if way == "inbound" else b"1")
        host.heal()


def test_a_program_there_has_its_process_and_its_name(tmp_path: Path) -> None:
    """A signal to the process that was started reaches the program itself; two machines in one have two names."""
    if _refuses():
        return
    with Host("elsewhere") as host:
        program = "import os, socket; print(os.getpid(), socket.gethostname())"
        process = subprocess.Popen([*host.prefix, sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert process.communicate()[0].split() == [str(process.pid), "elsewhere"]


def test_a_server_there_is_reached_from_here(tmp_path: Path) -> None:
    if _refuses():
        return
    with (
        Host("elsewhere") as host,
        Server(tmp_path, prefix=host.prefix, host=host.its_address) as server,
        server.client() as client,
    ):
        assert client.info("server")["process_id"] == server.pid
        host.drop()
        with pytest.raises(redis.exceptions.TimeoutError):
            client.ping()
        host.heal()
        assert client.ping()


def test_two_machines_do_not_get_in_each_others_way() -> None:
    """Nor do two runs at once: who makes a namespace has it."""
    if _refuses():
        return
    with Host("one") as one, Host("other") as other:
        assert len({one.address, one.its_address, other.address, other.its_address}) == 4


def test_a_machine_leaves_nothing() -> None:
    if _refuses():
        return
    with Host("elsewhere") as host:
        assert host.address in _addresses()
    assert host.address not in _addresses()
    assert not Path(host.prefix[1].removeprefix("--net=")).exists()


def _addresses() -> set[str]:
    said = subprocess.run(["ip", "-json", "address"], capture_output=True, text=True, check=True)
    return {address["local"] for link in json.loads(said.stdout) for address in link["addr_info"]}


def test_what_the_system_refuses_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    asked = (hosts.missing, hosts.missing_time_namespace)
    for one in asked:
        one.cache_clear()
    try:
        assert missing() == "no ip on the PATH"
        with pytest.raises(HostMissing, match="no ip"), Host("elsewhere"):
            pass
        assert missing_time_namespace() == "no unshare on the PATH"
        with pytest.raises(HostMissing, match="no unshare"):
            time_namespace(1, 1)
    finally:
        for one in asked:
            one.cache_clear()


def test_clocks_with_another_base() -> None:
    """A machine that has been up for a day more; the clock on its wall is right."""
    if missing_time_namespace():
        with pytest.raises(HostMissing) as raised:
            time_namespace(1, 1)
        assert str(raised.value) == missing_time_namespace()
        return
    program = (
        "import os, time; print(os.getpid(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME), time.time())"
    )
    command = [*time_namespace(86_400, 172_800), sys.executable, "-c", program]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    pid, monotonic, boottime, wall = map(float, process.communicate()[0].split())
    assert pid == process.pid
    assert abs(monotonic - time.monotonic() - 86_400) < NEAR_S
    assert abs(boottime - time.clock_gettime(time.CLOCK_BOOTTIME) - 172_800) < NEAR_S
    assert abs(wall - time.time()) < NEAR_S
