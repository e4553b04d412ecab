"""The publish lock, and the thread that keeps it, on a real server; how it is waited for is in test_publish.py."""

import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import redis
from genlock.coordinator.calls import Call
from genlock.coordinator.errors import RedisUnreachable
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.lock import EXPIRY_S, Lock
from genlock.coordinator.registry import Registry

KEY = "genlock:{t}:lock:digits"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as found:
        yield found


@pytest.fixture
def made() -> list[Registry]:
    """What the lock's thread has made for itself."""
    return []


class Hurried(threading.Event):
    """Waits a hundredth of the seconds that it is told: the lock is extended often, and runs out on no busy machine."""

    def __init__(self) -> None:
        super().__init__()
        self.told: set[float | None] = set()

    def wait(self, timeout: float | None = None) -> bool:
        self.told.add(timeout)
        return super().wait(timeout and timeout / 100)


@pytest.fixture
def lock(fleet: Fleet, made: list[Registry]) -> Iterator[Lock]:
    def make() -> Registry:
        made.append(fleet.new_registry())
        return made[-1]

    found = Lock(fleet._link, "digits", who="me", make=make)
    found._stop = Hurried()
    yield found
    found.free()


def test_it_is_extended_for_as_long_as_it_is_held(
    lock: Lock, client: redis.Redis, wait_for: Callable[..., Any]
) -> None:
    """Staging took a minute, the lock lasts for half of one: another trainer would stage in the meantime."""
    lock.take(0)
    seen = []

    def raised() -> bool:
        seen.append(client.pttl(KEY))
        return sum(later > sooner for sooner, later in pairwise(seen)) >= 3

    wait_for(raised, description="three extensions")
    assert min(seen) > 0 and max(seen) <= EXPIRY_S * 1000
    assert isinstance(lock._stop, Hurried) and lock._stop.told == {EXPIRY_S / 3}, "two of them may be lost"
    lock.free()
    assert not client.exists(KEY) and not lock.is_held


def test_a_lost_lock_is_not_taken_again(lock: Lock, client: redis.Redis, wait_for: Callable[..., Any]) -> None:
    """Another trainer may have had it in between, and published (R9)."""
    lock.take(0)
    client.delete(KEY)
    wait_for(lambda: not lock._keeper.is_alive(), description="the thread gives up")  # type: ignore[union-attr]
    assert not client.exists(KEY)


def test_the_lock_of_another_is_not_freed(lock: Lock, client: redis.Redis) -> None:
    lock.take(0)
    client.set(KEY, "other {}")
    lock.free()
    assert client.get(KEY) == b"other {}"


def test_a_hiccup_of_redis_does_not_lose_it(
    lock: Lock, made: list[Registry], wait_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, lost, verdicts = Registry.ask, [], []

    def losing(self: Registry, call: Call) -> Any:
        if self in made and not lost:
            lost.append(call)
            raise RedisUnreachable("there", "a hiccup")
        reply = ask(self, call)
        if self in made:
            verdicts.append(reply.verdict)
        return reply

    monkeypatch.setattr(Registry, "ask", losing)
    lock.take(0)
    wait_for(lambda: len(verdicts) > 1, description="extensions after the lost one")
    assert lost and set(verdicts) == {"ok"}
    assert lock._keeper is not None and lock._keeper.is_alive()


def test_it_can_be_given_back_without_redis(lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publish that has failed because Redis is gone must not hide that behind a second error."""
    lock.take(0)

    def gone(self: Registry, call: Call) -> Any:
        raise RedisUnreachable("there", "gone")

    monkeypatch.setattr(Registry, "ask", gone)
    lock.free()
    assert not lock.is_held


def test_it_can_be_taken_again(lock: Lock, client: redis.Redis) -> None:
    for _ in range(2):
        lock.take(0)
        lock.take(0)
        assert client.exists(KEY)
        lock.free()
        lock.free()
        assert not client.exists(KEY)
