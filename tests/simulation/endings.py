"""Every wait has an end (R8): checks like those of observables, each of one wait that would last for ever without its limit."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable

from genlock.coordinator.calls import Attach, Lock, Propose, Read, Say, Settle
from genlock.coordinator.endpoint import Endpoint
from genlock.coordinator.errors import Unavailable
from genlock.coordinator.identity import Identity
from genlock.coordinator.registry import Registry
from genlock.coordinator.reply import READY
from genlock.coordinator.settings import Settings
from genlock.coordinator.wait import Wait
from puppet import LEASE_S, Fleet

Changes = Iterable[tuple[str, str]]


def preparing_ends(changes: Changes = ()) -> None:
    """A worker that lives and never answers does not keep a candidate for ever."""
    fleet = Fleet(changes)
    fleet.member("m")
    assert fleet.propose(1).state == "candidate"
    fleet.pass_time(10.1)
    assert fleet.say(Read("m")).due, "nobody is told that a deadline has passed"
    fleet.say(Settle())
    assert fleet.became("request-1") == "rejected", fleet.became("request-1")


def fencing_ends(changes: Changes = ()) -> None:
    """A worker that lives, is ready, and never fences does not keep the others asking for more than three leases."""
    fleet = Fleet(changes)
    member = fleet.member("m")
    fleet.propose(1)
    fleet.say(Say(member, "m", 1, READY))
    assert fleet.say(Read("m")).states["m"].is_fencing
    fleet.pass_time(3 * LEASE_S + 0.1)
    fleet.say(Settle())
    assert fleet.became("request-1") == "rejected", fleet.became("request-1")


def a_lock_expires(changes: Changes = ()) -> None:
    """A trainer that died does not keep the others out."""
    fleet = Fleet(changes)
    assert fleet.say(Lock("m", "take", "dead", "{}", 30_000)).verdict == "ok"
    fleet.pass_time(30.1)
    assert fleet.say(Lock("m", "take", "next", "{}", 30_000)).verdict == "ok", (
        "the lock of a dead trainer is still held"
    )


def a_call_ends(changes: Changes = ()) -> None:
    """A server that takes connections and never answers: the call fails within its timeout, or half of the fleet would hang with it."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    endpoint = Endpoint.of(Settings(redis_url=f"redis://127.0.0.1:{port}/0"))
    registry = Registry(endpoint, "sim", Identity("f" * 32, LEASE_S, False), timeout_s=0.1)
    ended: list[float] = []

    def call() -> None:
        began = time.monotonic()
        try:
            registry.send(Attach())
        except Unavailable:
            ended.append(time.monotonic() - began)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(2.0)
    listener.close()  # which ends a call that waits for ever
    thread.join(5.0)
    registry.close()
    assert ended and ended[0] < 1.5, f"the call took {ended} s"


def a_waiting_publisher_gives_up(changes: Changes = ()) -> None:
    """Redis never answers: publish() ends all the same, and says that it does not know."""
    change = Propose("m", "r", "t", "v", "v:", b"{}", 1.0, 10_000, "check")
    wait = Wait(change, "m", "r", prepare_s=10.0, now=0.0, lease_s=LEASE_S, watcher="check", jitter=0.0)
    now = 0.0
    while now <= wait.until and now < 1000:
        wait.next_call()
        wait.loses("no answer")
        now += max(0.01, wait.pause_s(now))
    assert now < 60, f"it waits for {now:g} s"
