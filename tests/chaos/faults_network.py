"""What happens between workers and the server: replies that are lost, calls that come twice, partitions, dead subscriptions, slow lines."""

from __future__ import annotations

import random
import time

from .fault import Act, Fault
from .proxy import Proxy
from .stand import NotStruck, Stand

#: Seconds until a call has passed whose reply is to be dropped; some come only in a flip, or when a watcher has waited for a lease.
CALL_S = 6.0
#: Leases that a partition lasts: long enough for all leases to run out.
DARK_LEASES = 2.5
#: Seconds of one way on a slow line, and of a line that is slower than a lease.
SLOW_S, SLOWER_S = 0.03, 0.4


def _some(stand: Stand, chance: random.Random) -> tuple[str, Proxy]:
    name = chance.choice(sorted(stand.services))
    return name, stand.proxies[name]


def _twice(script: str, cause: Act) -> Fault:
    """Copies of a call are executed later, on a connection of their own; `cause` makes somebody call."""

    def act(stand: Stand, chance: random.Random) -> str:
        late_s = chance.choice((0.0, 0.05, stand.lease_s))
        before = _sum(stand, "duplicated", script)
        for proxy in stand.proxies.values():
            proxy.duplicate(script, chance.choice((1, 3)), late_s=late_s)
        cause(stand, chance)
        until = time.monotonic() + CALL_S
        while _sum(stand, "duplicated", script) == before and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(stand.lease_s)
        for proxy in stand.proxies.values():
            proxy.disarm()
        return f"{_some_of(_sum(stand, 'duplicated', script) - before)} copies, {late_s:g} s late"

    return Fault(f"call executed twice: {script}", act)


def _some_of(count: int) -> int:
    if not count:
        raise NotStruck("nobody called")
    return count


def _sum(stand: Stand, what: str, script: str) -> int:
    """How often that has happened to the script at all proxies."""
    return sum(getattr(proxy, what).get(script, 0) for proxy in stand.proxies.values())


def drop(script: str, cause: Act, *, kills: bool = False, loses: bool = False, forgets: bool = False) -> Fault:
    """The server executes the next calls of `script`, whoever sends them, and nobody hears of it; `cause` makes somebody call."""

    def act(stand: Stand, chance: random.Random) -> str:
        how, before = chance.choice(("cut", "swallow")), _sum(stand, "dropped", script)
        for proxy in stand.proxies.values():
            proxy.drop_replies(script, 1, how=how)
        cause(stand, chance)
        until = time.monotonic() + CALL_S
        while _sum(stand, "dropped", script) == before and time.monotonic() < until:
            time.sleep(0.005)
        for proxy in stand.proxies.values():
            proxy.disarm()
        return f"{_some_of(_sum(stand, 'dropped', script) - before)} replies, {how}"

    return Fault(f"reply dropped after execution: {script}", act, kills, loses, forgets)


def _wait(stand: Stand, chance: random.Random) -> None:
    """Workers and trainers call it all the while."""


def _evicted(stand: Stand, chance: random.Random) -> None:
    """A service is away for so long that its workers have to join and hold again."""
    _, proxy = _some(stand, chance)
    proxy.block()
    time.sleep(2 * DARK_LEASES * stand.lease_s)  # a flip has to wait for it, and to evict it
    proxy.unblock(late=False)


def _reset(stand: Stand, chance: random.Random) -> None:
    _some(stand, chance)[1].cut()


def _partition(*, to_server: bool, to_client: bool, keep: bool) -> Fault:
    ways = {(True, True): "both ways", (True, False): "towards the server", (False, True): "from the server"}
    how = "bytes come late" if keep else "connections are lost"

    def act(stand: Stand, chance: random.Random) -> str:
        name, proxy = _some(stand, chance)
        proxy.block(to_server=to_server, to_client=to_client)
        with stand.dark(name):
            time.sleep(DARK_LEASES * stand.lease_s)
        proxy.unblock(late=keep)
        return name

    return Fault(f"partition {ways[to_server, to_client]}, {how}", act)


def _trainers_cut_off(stand: Stand, chance: random.Random) -> str:
    proxy = stand.proxies["trainers"]
    proxy.block(to_server=True, to_client=True)
    time.sleep(DARK_LEASES * stand.lease_s)
    proxy.unblock(late=chance.random() < 0.5)
    return ""


def _deafen(stand: Stand, chance: random.Random) -> str:
    name, proxy = _some(stand, chance)
    found = _some_of(proxy.deafen())
    time.sleep(1.0)
    return f"{found} of {name}"


def _slow(seconds: float) -> Fault:
    def act(stand: Stand, chance: random.Random) -> str:
        name, proxy = _some(stand, chance)
        proxy.slow(seconds * (0.5 + chance.random()))
        time.sleep(4 * stand.lease_s)
        proxy.slow(0.0)
        return name

    return Fault(f"slow line, {seconds * 1000:.0f} ms each way", act)


def _narrow(stand: Stand, chance: random.Random) -> str:
    name, proxy = _some(stand, chance)
    proxy.slow(0.002, 20_000)
    time.sleep(4 * stand.lease_s)
    proxy.slow(0.0)
    return name


def _cut(stand: Stand, chance: random.Random) -> str:
    name, proxy = _some(stand, chance)
    proxy.cut()
    return name


def _refuse(stand: Stand, chance: random.Random) -> str:
    name, proxy = _some(stand, chance)
    proxy.refuse(True)
    proxy.cut()
    with stand.dark(name):
        time.sleep(DARK_LEASES * stand.lease_s)
    proxy.refuse(False)
    return name


NETWORK = (
    *(drop(script, _wait) for script in ("heartbeat", "read", "ask", "answer", "manifest", "lock", "propose")),
    *(drop(script, _evicted) for script in ("join", "hold")),
    drop("attach", _reset),
    *(_twice(script, _wait) for script in ("heartbeat", "read", "ask", "answer", "propose", "lock")),
    *(_twice(script, _evicted) for script in ("join", "hold")),
    _partition(to_server=True, to_client=True, keep=True),
    _partition(to_server=True, to_client=True, keep=False),
    _partition(to_server=True, to_client=False, keep=True),
    _partition(to_server=False, to_client=True, keep=True),
    _partition(to_server=False, to_client=True, keep=False),
    Fault("partition of the trainers", _trainers_cut_off),
    Fault("half-open subscription", _deafen),
    _slow(SLOW_S),
    _slow(SLOWER_S),
    Fault("narrow line, 20 kB/s", _narrow),
    Fault("all connections reset", _cut),
    Fault("connections refused", _refuse),
)
