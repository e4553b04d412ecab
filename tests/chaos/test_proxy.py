"""The network between genlock and its server: each fault is what it says, to a real server and the driver that genlock uses."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from genlock.coordinator.calls import Attach, Lock, Read
from genlock.coordinator.errors import RedisUnreachable
from genlock.coordinator.fleet import Fleet
from redis.backoff import NoBackoff
from redis.retry import Retry

from chaos.proxy import Proxy, ProxyFailed
from chaos.server import Server

#: Seconds that a client waits which will get no answer; it is connected within them, too.
PATIENCE_S = 1.0
#: Seconds that nothing has to happen in.
QUIET_S = 0.1
#: Seconds after which a copy comes: longer than this process may stand still between two calls.
LATE_S = 1.0
LOST = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "server") as server:
        yield server


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy((server.host, server.port)) as proxy:
        yield proxy


@pytest.fixture
def new_client(proxy: Proxy) -> Iterator[Callable[..., redis.Redis]]:
    """new_client(**options): one more client behind the proxy."""
    made = []

    def make(**options: Any) -> redis.Redis:
        usual = {"socket_timeout": 5, "protocol": 2, "retry": Retry(NoBackoff(), 0), "retry_on_error": []}
        made.append(redis.Redis(proxy.host, proxy.port, **(usual | options)))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(new_client: Callable[..., redis.Redis]) -> redis.Redis:
    """Behind the proxy, and connected."""
    client = new_client()
    client.ping()
    return client


@pytest.fixture
def hasty(new_client: Callable[..., redis.Redis]) -> redis.Redis:
    """The same, for what will not be answered."""
    client = new_client(socket_timeout=PATIENCE_S)
    client.ping()
    return client


@pytest.fixture
def inside(server: Server) -> Iterator[redis.Redis]:
    """A client that does not go through the proxy."""
    with server.client() as client:
        yield client


# --- what passes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
def test_commands_and_replies_pass_as_they_are(
    new_client: Callable[..., redis.Redis], protocol: int, proxy: Proxy
) -> None:
    """Of all shapes and lengths, many at once, in order."""
    client, large = new_client(protocol=protocol), b"\r\n$-1" * 400_000
    assert client.set("a", large)
    assert client.get("a") == large
    assert client.get("none") is None
    client.hset("h", mapping={"x": "1", "y": "2"})
    assert client.hgetall("h") == {b"x": b"1", b"y": b"2"}
    assert client.eval("return {1, {2, 'three'}, false}", 0) == [1, [2, b"three"], None]
    with pytest.raises(redis.exceptions.ResponseError):
        client.incr("h")
    with client.pipeline(transaction=True) as pipe:
        for number in range(500):
            pipe.incrby("n", number)
        assert pipe.execute()[-1] == sum(range(500))
    assert proxy.counts["INCRBY"] == 500  # and not the one that was refused
    assert proxy.counts["GET"] == 2


@pytest.mark.parametrize("protocol", [2, 3])
def test_messages_pass(new_client: Callable[..., redis.Redis], inside: redis.Redis, protocol: int) -> None:
    with new_client(protocol=protocol).pubsub() as heard:
        heard.subscribe("c")
        assert heard.get_message(timeout=5)["type"] == "subscribe"
        for number in range(100):
            inside.publish("c", f"{number}" * 1000)
        for number in range(100):
            assert heard.get_message(timeout=5)["data"] == (f"{number}" * 1000).encode()


@pytest.fixture
def fleet(new_fleet: Callable[..., Fleet], proxy: Proxy) -> Fleet:
    return new_fleet(url=proxy.url)


def test_genlocks_calls_are_known_by_the_names_of_their_scripts(fleet: Fleet, proxy: Proxy, server: Server) -> None:
    """Also when the server has forgotten the scripts; then the first attempt is no call."""
    fleet.registry.ask(Attach())
    before = proxy.counts.get("read", 0)
    fleet.registry.ask(Read("digits"))
    with server.client() as inside:
        inside.script_flush()
    fleet.registry.ask(Read("digits"))
    assert proxy.counts["read"] == before + 2
    assert proxy.counts["attach"] >= 1
    assert {"EVAL", "EVALSHA"}.isdisjoint(proxy.counts)


def test_a_proxy_that_is_over_has_left_nothing(server: Server) -> None:
    """The fixture of all tests looks at the threads, Python at the sockets."""
    with Proxy((server.host, server.port)) as proxy, redis.Redis(proxy.host, proxy.port) as client:
        client.ping()
        proxy.block()
        socket.create_connection((proxy.host, proxy.port)).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((proxy.host, proxy.port))


# --- replies that are lost, calls that come twice --------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cut", "swallow"])
def test_a_dropped_reply_is_of_a_call_that_was_executed(
    proxy: Proxy, client: redis.Redis, hasty: redis.Redis, inside: redis.Redis, how: Any
) -> None:
    """The client cannot know; the server has counted. Only as many calls as were said, and only of that name."""
    proxy.drop_replies("INCRBY", 2, how=how)
    loser, error = (
        (hasty, redis.exceptions.TimeoutError) if how == "swallow" else (client, redis.exceptions.ConnectionError)
    )
    for expected in (b"1", b"2"):
        with pytest.raises(error):
            loser.incr("n")
        assert inside.get("n") == expected
        assert client.ping()
    assert client.incr("n") == 3
    assert proxy.dropped == {"INCRBY": 2}
    assert proxy.counts["INCRBY"] == 3


def test_an_error_is_no_reply_to_drop(proxy: Proxy, client: redis.Redis) -> None:
    """NOSCRIPT comes before the call that is meant: had that been dropped, nothing would have been executed."""
    digest = "4cd2c8b3b4ab17cc79b6e2a3ff7d1f4b5e5d0c6e"
    proxy.drop_replies(digest)
    with pytest.raises(redis.exceptions.NoScriptError):
        client.evalsha(digest, 0)
    assert proxy.dropped == {}


def test_a_swallowed_reply_is_not_taken_for_the_next_one(proxy: Proxy, hasty: redis.Redis) -> None:
    """A network that loses a packet gives the connection nothing behind it either."""
    with closing(socket.create_connection((proxy.host, proxy.port))) as raw:
        raw.settimeout(PATIENCE_S)
        proxy.drop_replies("INCR", how="swallow")
        raw.sendall(b"INCR n\r\nPING\r\n")
        with pytest.raises(TimeoutError):
            raw.recv(100)


def test_a_lock_whose_reply_was_lost_is_taken(fleet: Fleet, proxy: Proxy) -> None:
    """By the name of the script, at the level of genlock."""
    registry = fleet.registry
    registry.ask(Attach())
    proxy.drop_replies("lock")
    with pytest.raises(RedisUnreachable):
        registry.ask(Lock("digits", "take", "token", "{}", 10_000))
    assert registry.ask(Lock("digits", "take", "another", "{}", 10_000)).verdict != "ok"
    assert proxy.dropped == {"lock": 1}


def test_a_call_that_comes_twice_is_answered_once(
    proxy: Proxy, client: redis.Redis, inside: redis.Redis, wait_for: Callable[..., Any]
) -> None:
    proxy.duplicate("INCRBY")
    assert client.incr("n") == 1
    wait_for(lambda: proxy.duplicated == {"INCRBY": 1})
    assert inside.get("n") == b"2"
    assert client.incr("n") == 3


def test_a_copy_may_come_late(
    proxy: Proxy, client: redis.Redis, inside: redis.Redis, wait_for: Callable[..., Any]
) -> None:
    """Behind what its client has done since."""
    proxy.duplicate("SET", late_s=LATE_S)
    began = time.monotonic()
    client.set("n", "old")
    client.set("n", "new")
    wait_for(lambda: inside.get("n") == b"old")
    assert time.monotonic() - began >= LATE_S


def test_what_is_disarmed_does_not_happen(proxy: Proxy, client: redis.Redis, inside: redis.Redis) -> None:
    proxy.drop_replies("INCRBY")
    proxy.duplicate("INCRBY")
    called = proxy.on_call("INCRBY")
    proxy.disarm()
    assert client.incr("n") == 1
    assert inside.get("n") == b"1"
    assert not called.is_set()


# --- the moment of a call --------------------------------------------------------------------------------------------


def test_a_hook_acts_before_the_server_has_the_call(proxy: Proxy, client: redis.Redis, inside: redis.Redis) -> None:
    """What the director does there has happened when the script runs."""
    called = proxy.on_call("INCRBY", lambda: inside.set("n", "100"))
    assert client.incr("n") == 101
    assert called.wait(5)
    assert client.incr("n") == 102


def test_a_hook_acts_after_the_execution_and_before_the_reply(
    proxy: Proxy, client: redis.Redis, server: Server, inside: redis.Redis
) -> None:
    """A server that dies there has executed the call, and its client does not know."""
    found = []
    called = proxy.on_call("INCRBY", lambda: (found.append(inside.get("n")), proxy.cut()), executed=True)
    with pytest.raises(redis.exceptions.ConnectionError):
        client.incr("n")
    assert called.is_set()
    assert found == [b"1"]


def test_waiting_for_a_call(proxy: Proxy, client: redis.Redis, background: Callable[..., Any]) -> None:
    assert not proxy.wait_for_call("INCRBY", 0.01)
    waiting = background(lambda: proxy.wait_for_call("INCRBY", 20))
    while not waiting.done():
        client.incr("n")
    assert waiting.result()


def test_a_hook_that_fails_is_told(server: Server) -> None:
    """Its fault was not injected: a run that passes would prove nothing."""
    with (
        pytest.raises(ProxyFailed, match="ZeroDivisionError"),
        Proxy((server.host, server.port)) as proxy,
        redis.Redis(proxy.host, proxy.port, retry=Retry(NoBackoff(), 0)) as client,
    ):
        proxy.on_call("PING", lambda: 1 / 0)
        with pytest.raises(LOST):
            client.ping()


# --- partitions ------------------------------------------------------------------------------------------------------


def test_what_does_not_reach_the_server_is_executed_late(
    proxy: Proxy, client: redis.Redis, hasty: redis.Redis, inside: redis.Redis, wait_for: Callable[..., Any]
) -> None:
    """One way: the client has given up long ago when its call arrives."""
    proxy.block(to_server=True, to_client=False)
    with pytest.raises(redis.exceptions.TimeoutError):
        hasty.incr("n")
    assert inside.get("n") is None
    proxy.unblock()
    wait_for(lambda: inside.get("n") == b"1")
    assert client.incr("n") == 2


def test_what_does_not_reach_the_client_was_executed(
    proxy: Proxy, client: redis.Redis, inside: redis.Redis, background: Callable[..., Any], wait_for: Callable[..., Any]
) -> None:
    """The other way; who waits long enough gets the reply."""
    proxy.block(to_server=False, to_client=True)
    reply = background(lambda: client.incr("n"))
    wait_for(lambda: inside.get("n") == b"1")
    assert not reply.done()
    proxy.unblock()
    assert reply.result(5) == 1


def test_connections_can_die_of_a_partition(
    proxy: Proxy, client: redis.Redis, inside: redis.Redis, background: Any
) -> None:
    """What was held is lost with them."""
    called = proxy.on_call("INCRBY")
    proxy.block()
    reply = background(lambda: client.incr("n"))
    assert not called.wait(QUIET_S)
    assert not reply.done()
    proxy.unblock(late=False)
    with pytest.raises(redis.exceptions.ConnectionError):
        reply.result(5)
    assert inside.get("n") is None
    assert client.incr("n") == 1


@pytest.mark.parametrize("way", ["to_server", "to_client"])
def test_no_connection_begins_in_a_partition(
    proxy: Proxy, new_client: Callable[..., redis.Redis], inside: redis.Redis, way: str, background: Any
) -> None:
    """Who gave up never said anything; who waits is connected afterwards."""
    proxy.block(**({"to_server": False, "to_client": False} | {way: True}))
    with pytest.raises(redis.exceptions.TimeoutError):
        new_client(socket_timeout=PATIENCE_S).incr("n")
    patient = background(lambda: new_client().incr("n"))
    assert not patient.done()
    assert inside.get("n") is None
    proxy.unblock()
    assert patient.result(5) == 1


def test_an_end_is_not_heard_through_a_partition(proxy: Proxy, server: Server) -> None:
    """A server that dies behind it sends nothing that arrives."""
    with closing(socket.create_connection((proxy.host, proxy.port))) as raw:
        raw.settimeout(5)
        raw.sendall(b"PING\r\n")
        assert raw.recv(100) == b"+PONG\r\n"
        proxy.block()
        server.kill()
        raw.settimeout(QUIET_S)
        with pytest.raises(TimeoutError):
            raw.recv(100)
        proxy.unblock()
        raw.settimeout(5)
        assert raw.recv(100) == b""


def test_a_half_open_subscription_hears_nothing_and_does_not_end(
    proxy: Proxy, new_client: Callable[..., redis.Redis], inside: redis.Redis, server: Server
) -> None:
    """Not even of the death of the server; what subscribes later hears, and commands pass."""
    with new_client().pubsub(ignore_subscribe_messages=True) as deaf, new_client().pubsub() as other:
        deaf.subscribe("c")
        deaf.get_message(timeout=5)
        assert proxy.deafen() == 1
        assert proxy.deafen() == 0
        other.subscribe("c")
        assert other.get_message(timeout=5)["type"] == "subscribe"
        assert inside.publish("c", "hint") == 2
        assert other.get_message(timeout=5)["data"] == b"hint"
        assert new_client().ping()
        server.kill()
        with pytest.raises(redis.exceptions.ConnectionError):
            other.get_message(timeout=5)
        assert deaf.get_message(timeout=QUIET_S) is None


@pytest.mark.parametrize("is_partition", [True, False], ids=["partition", "slow reader"])
def test_the_server_cuts_a_subscriber_that_does_not_read(
    proxy: Proxy, inside: redis.Redis, server: Server, is_partition: bool, wait_for: Callable[..., Any]
) -> None:
    """The bytes stay with their sender, whose buffer is limited: the proxy is no endless one."""
    server.config("client-output-buffer-limit", "pubsub 1mb 0 0")
    with closing(socket.create_connection((proxy.host, proxy.port))) as raw:
        raw.sendall(b"SUBSCRIBE c\r\n")
        wait_for(lambda: inside.pubsub_numsub("c") == [(b"c", 1)])
        proxy.block(to_server=False, to_client=is_partition)
        message, sent = b"x" * 2**20, 0
        while inside.publish("c", message):
            sent += 1
            assert sent < 100, "100 MiB were taken for a subscriber that does not read"
        proxy.unblock()
        raw.settimeout(5)
        while raw.recv(2**20):
            pass


def test_a_slow_link_ends_behind_what_is_under_way(proxy: Proxy, inside: redis.Redis) -> None:
    """Who hangs up after a call has made it, also over a slow link; more than fits is not taken from its sender."""
    value = bytes(range(256)) * 1000
    proxy.slow(0.05, bytes_per_s=2_000_000)
    with closing(socket.create_connection((proxy.host, proxy.port))) as raw:
        raw.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$%d\r\n%s\r\nQUIT\r\n" % (len(value), value))
        raw.settimeout(5)
        assert b"".join(iter(lambda: raw.recv(100), b"")) == b"+OK\r\n" * 2
    assert inside.get("a") == value


# --- slow links, cuts, another server --------------------------------------------------------------------------------


def _seconds(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def test_a_slow_link_delays_each_way(proxy: Proxy, client: redis.Redis) -> None:
    proxy.slow(0.05)
    assert _seconds(client.ping) >= 0.1
    proxy.slow(0)
    assert min(_seconds(client.ping) for _ in range(20)) < 0.05


def test_a_narrow_link_carries_so_many_bytes_a_second(proxy: Proxy, client: redis.Redis) -> None:
    value = bytes(range(256)) * 1000
    client.set("a", value)
    proxy.slow(0, bytes_per_s=1_000_000)
    assert _seconds(lambda: client.get("a")) >= 0.25
    assert client.get("a") == value


def test_a_cut_resets_all_connections_and_no_later_one(proxy: Proxy, client: redis.Redis) -> None:
    with closing(socket.create_connection((proxy.host, proxy.port))) as raw:
        raw.sendall(b"PING\r\n")
        assert raw.recv(100) == b"+PONG\r\n"
        assert proxy.cut() == 2
        with pytest.raises(ConnectionResetError):
            raw.recv(100)
    assert client.ping()  # the driver saw it, and has connected anew


def test_who_is_refused_knows_at_once_and_who_is_connected_stays(proxy: Proxy, client: redis.Redis) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((proxy.host, proxy.port))
    assert client.ping()
    proxy.refuse(False)
    socket.create_connection((proxy.host, proxy.port)).close()


def test_a_server_that_is_gone_is_as_gone_through_the_proxy(proxy: Proxy, client: redis.Redis, server: Server) -> None:
    server.kill()
    for _ in range(2):
        with pytest.raises(redis.exceptions.ConnectionError):
            client.ping()
    server.start()
    assert client.ping()


def test_a_failover_moves_only_new_connections(
    proxy: Proxy, client: redis.Redis, new_client: Callable[..., redis.Redis], tmp_path: Path
) -> None:
    with Server(tmp_path / "other") as other, other.client() as inside:
        inside.set("who", "other")
        proxy.point_to(other.host, other.port)
        assert client.get("who") is None
        assert new_client().get("who") == b"other"
        proxy.cut()
        assert client.get("who") == b"other"
