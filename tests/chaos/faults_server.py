"""What happens to the server: it dies, stops, restarts with and without its memory, loses keys, changes its clock, and cuts subscribers."""

from __future__ import annotations

import random
import time

from genlock.coordinator.calls import KEYS, hint_of, keys_of

from .fault import Fault
from .faults_network import drop
from .stand import Stand

#: Leases that the server is away: long enough for all leases to run out.
AWAY_LEASES = 2.5
#: Seconds by which its wall clock is set.
STEPS_S = (15.0, -15.0, 3600.0, -3600.0)
#: Bytes that a subscriber may leave unread before the server cuts it, and of the messages that are sent to it.
BUFFER_BYTES, MESSAGE_BYTES = 64 * 1024, 64 * 1024
#: Seconds in which sockets and buffers are full; some megabytes.
FLOOD_S = 3.0
#: Milliseconds in which nobody may write.
NO_WRITES_MS = 700


def _flush(stand: Stand, chance: random.Random) -> None:
    with stand.server.client() as client:
        client.flushall()


def _forget_scripts(stand: Stand, chance: random.Random) -> None:
    with stand.server.client() as client:
        client.script_flush()


def _delete_key(name: str) -> Fault:
    def act(stand: Stand, chance: random.Random) -> None:
        with stand.server.client() as client:
            client.delete(_key(name))

    return Fault(f"key deleted: {name}", act, loses=True)


def _spoil_key(name: str) -> Fault:
    def act(stand: Stand, chance: random.Random) -> None:
        with stand.server.client() as client:
            client.pipeline().delete(_key(name)).set(_key(name), "spoiled").execute()

    return Fault(f"key of a wrong type: {name}", act, loses=name not in ("log", "workers"))


def _key(name: str) -> str:
    return keys_of("chaos")[KEYS.index(name)]


def _killed(stand: Stand, chance: random.Random) -> None:
    """It restarts as an operator's supervisor would have it: at once."""
    answered = stand.server.restart()
    _reopened(stand, answered)


def _stopped_and_started(stand: Stand, chance: random.Random) -> None:
    _reopened(stand, stand.server.restart(kill=False))


def _away(stand: Stand, chance: random.Random) -> None:
    stand.server.kill()
    with stand.dark():
        time.sleep(AWAY_LEASES * stand.lease_s)
    _reopened(stand, stand.server.start())


def _reopened(stand: Stand, answered: float) -> None:
    """How long the fleet stays closed is a figure, where the server has kept its data."""
    stand.over()
    measure = stand.opened_after(answered)
    if stand.persistence != "none":
        stand.measures.append(measure)


def _frozen(stand: Stand, chance: random.Random) -> None:
    stand.server.stop()
    with stand.dark():
        time.sleep(AWAY_LEASES * stand.lease_s)
    stand.server.go_on()


def _frozen_shortly(stand: Stand, chance: random.Random) -> str:
    seconds = chance.random() * stand.lease_s
    stand.server.stop()
    time.sleep(seconds)
    stand.server.go_on()
    return f"{seconds:.2f} s"


def _writes_paused(stand: Stand, chance: random.Random) -> None:
    with stand.server.client() as client:
        client.client_pause(NO_WRITES_MS, all=False)
    time.sleep(NO_WRITES_MS / 1000)


def _demoted(stand: Stand, chance: random.Random) -> None:
    """It answers reads and refuses writes, as a primary that was demoted (R16): nobody may be told that his lease goes on."""
    with stand.server.client() as client:
        client.replicaof("127.0.0.1", "1")
        with stand.dark():
            time.sleep(AWAY_LEASES * stand.lease_s)
        client.replicaof("NO", "ONE")


def _out_of_memory(stand: Stand, chance: random.Random) -> None:
    with stand.server.client() as client:
        client.config_set("maxmemory", "1")
        with stand.dark():
            time.sleep(AWAY_LEASES * stand.lease_s)
        client.config_set("maxmemory", "0")


def _subscribers_cut(stand: Stand, chance: random.Random) -> str:
    """Nobody reads while more is said on the channel of hints than sockets and the server's limit for a subscriber take."""
    channel = hint_of("chaos")
    with stand.server.client() as client:
        limit = client.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
        client.config_set("client-output-buffer-limit", f"pubsub {BUFFER_BYTES} {BUFFER_BYTES} 1")
        before = client.pubsub_numsub(channel)[0][1]
        for proxy in stand.proxies.values():
            proxy.block(to_server=False, to_client=True)
        message = b"x" * MESSAGE_BYTES
        until = time.monotonic() + FLOOD_S
        while (left := client.pubsub_numsub(channel)[0][1]) and time.monotonic() < until:
            client.publish(channel, message)
        for proxy in stand.proxies.values():
            proxy.unblock(late=True)
        client.config_set("client-output-buffer-limit", limit)
    if left == before:
        raise RuntimeError(f"none of {before} subscribers was cut in {FLOOD_S:g} s")
    return f"{before - left} of {before}"


def _clock(seconds: float) -> Fault:
    def act(stand: Stand, chance: random.Random) -> None:
        assert stand.clock is not None
        stand.clock.step(seconds)
        stand.over()
        time.sleep(4 * stand.lease_s)

    return Fault(f"wall clock of the server set by {seconds:+g} s", act)


#: With or without persistence.
SERVER = (
    Fault("server stopped for longer than the leases", _frozen),
    Fault("server stopped for less than a lease", _frozen_shortly),
    Fault("writes paused", _writes_paused),
    Fault("server demoted: READONLY", _demoted),
    Fault("server out of memory: OOM", _out_of_memory),
    Fault("SCRIPT FLUSH", _forget_scripts),
    Fault("subscribers cut by their buffer limit", _subscribers_cut),
)
CLOCKS = tuple(_clock(seconds) for seconds in STEPS_S)
#: Data is lost.
LOSSES = (
    Fault("FLUSHALL", _flush, loses=True),
    drop("open", _flush, loses=True),
    drop("heal", _flush, loses=True),
    *(_delete_key(name) for name in KEYS if name not in ("log", "workers")),
    Fault("key deleted: log", _delete_key("log").act),
    *(_spoil_key(name) for name in KEYS),
)


def restarts(persistence: str) -> tuple[Fault, ...]:
    """Of a server that keeps its data so."""
    loses = persistence == "none"
    return (
        Fault(f"server killed and restarted, persistence {persistence}", _killed, loses=loses),
        Fault(f"server ended and restarted, persistence {persistence}", _stopped_and_started, loses=loses),
        Fault(f"server killed and away for longer than the leases, persistence {persistence}", _away, loses=loses),
    )
