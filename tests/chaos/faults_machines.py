"""What happens to machines: cables that carry nothing, one way or both, disks that are full, and a server whose place another one takes."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from pathlib import Path

from . import clock, disks, hosts
from .clock import Clock
from .disks import SmallDisk
from .fault import Fault
from .faults_network import DARK_LEASES
from .hosts import Host, time_namespace
from .proxy import Proxy
from .server import Server
from .stand import NotStruck, Plan, Stand

#: Bytes of the disks that get full: some hundred checkpoints, and some minutes of an append-only file.
STORE_BYTES, SERVER_BYTES = 32 << 20, 64 << 20
#: Seconds by which the monotonic clocks of two machines differ: they were not started at the same time.
BASES_S = (100_000, 7)
#: Seconds that a replica lags at most when its primary dies, and until it has copied everything.
LAG_S, COPY_S = 0.5, 20.0


# --- stages: stands on such machines --------------------------------------------------------------------------------------


def with_clock(stack: ExitStack, folder: Path) -> Stand:
    """The server's clock on the wall can be set."""
    (folder / "clock").mkdir(parents=True)
    return Stand(folder, clock=stack.enter_context(Clock(folder / "clock")))


def on_hosts(stack: ExitStack, folder: Path) -> Stand:
    """Each service on a machine of its own: another network, another base of its monotonic clock."""
    plans, found = [], {}
    for name, base_s in zip("ab", BASES_S, strict=True):
        host = found[name] = stack.enter_context(Host(f"chaos-{name}"))
        prefix = (*host.prefix, *time_namespace(base_s, base_s))
        plans.append(Plan(name, prefix=prefix, host=host.its_address, redis_host=host.address))
    stand = Stand(folder, plans=plans)
    stand.hosts = found
    return stand


def missing_hosts() -> str:
    return hosts.missing() or hosts.missing_time_namespace()


def on_small_disks(stack: ExitStack, folder: Path) -> Stand:
    """The store on one disk, the server's files on another."""
    made = {}
    for name, path, size in (
        ("store", folder / "store", STORE_BYTES),
        ("server", folder / "server" / "data", SERVER_BYTES),
    ):
        path.mkdir(parents=True)
        made[name] = stack.enter_context(SmallDisk(path, size))
    stand = Stand(folder, persistence="everysec", program="redis")
    stand.disks = made
    return stand


def with_spare(stack: ExitStack, folder: Path) -> Stand:
    """Two servers, of which one follows the other."""
    stand = Stand(folder, persistence="everysec")
    stand.spare = Server(folder / "spare", persistence="everysec")
    return stand


missing_clock, missing_disks = clock.missing, disks.missing


# --- cables ---------------------------------------------------------------------------------------------------------------


def _unplug(*, inbound: bool, outbound: bool) -> Fault:
    ways = {(True, True): "both ways", (True, False): "towards it", (False, True): "from it"}

    def act(stand: Stand, chance: random.Random) -> str:
        name = chance.choice(sorted(stand.hosts))
        # Its clients live on this side: their packets still arrive.
        stand.hosts[name].drop(inbound=inbound, outbound=outbound, port=stand.proxies[name].port)
        with stand.dark(name):
            time.sleep(DARK_LEASES * stand.lease_s)
        stand.hosts[name].heal()
        return name

    return Fault(f"packets between a host and the server lost, {ways[inbound, outbound]}", act)


HOSTS = (
    _unplug(inbound=True, outbound=True),
    _unplug(inbound=True, outbound=False),
    _unplug(inbound=False, outbound=True),
)


# --- disks ----------------------------------------------------------------------------------------------------------------


def _store_full(stand: Stand, chance: random.Random) -> str:
    """A trainer finds no space: it is told, and the fleet goes on with what it has."""
    with stand.nobody_publishes():
        disk = stand.disks["store"]
        disk.fill()
        outcome = stand.publish_good(timeout=3.0).outcome
        disk.free()
    if outcome != "StoreFull":
        raise NotStruck(f"the publish was {outcome}")
    return outcome


def _server_full(stand: Stand, chance: random.Random) -> str:
    """The server cannot write its file: it refuses writes (MISCONF) until it can again."""
    disk = stand.disks["server"]
    disk.fill()
    time.sleep(2.0)  # it writes once a second
    with stand.server.client() as client:
        status = str(client.info("persistence")["aof_last_write_status"])
    disk.free()
    if status == "ok":
        raise NotStruck("it wrote all the same")
    return status


DISKS = (
    Fault("disk full for a trainer", _store_full),
    Fault("disk full for the server", _server_full),
)


# --- failover -------------------------------------------------------------------------------------------------------------


def _fail_over(*, lagging: bool) -> Fault:
    def act(stand: Stand, chance: random.Random) -> str:
        assert stand.spare is not None
        lag_s = chance.random() * LAG_S if lagging else 0.0
        with ExitStack() as stack:
            link = stack.enter_context(Proxy((stand.server.host, stand.server.port)))
            stand.spare.follow(link)
            _await_copy(stand)
            if lagging:
                link.block()
                time.sleep(lag_s)
            stand.fail_over()
        stand.spare.start()
        return f"{lag_s:.2f} s behind" if lagging else "copied"

    return Fault(f"failover to {'a lagging' if lagging else 'an up-to-date'} replica", act, forgets=True)


def _await_copy(stand: Stand) -> None:
    """Until the replica has all that the primary had."""
    assert stand.spare is not None
    until = time.monotonic() + COPY_S
    with stand.server.client() as primary, stand.spare.client() as replica:
        wanted = int(primary.info("replication")["master_repl_offset"])
        while int(replica.info("replication").get("slave_repl_offset", 0)) < wanted:
            if time.monotonic() > until:
                raise RuntimeError(f"the replica has not copied everything in {COPY_S:g} s")
            time.sleep(0.01)


FAILOVER = (_fail_over(lagging=True), _fail_over(lagging=True), _fail_over(lagging=False))
