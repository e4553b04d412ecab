"""A process's link to its fleet: what it hears, and that a duty which fails is not the caller's trouble."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import redis
from genlock.coordinator.calls import Attach, Evict, Settle, hint_of
from genlock.coordinator.clock import clock
from genlock.coordinator.errors import RedisUnreachable
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.link import Ear
from genlock.coordinator.registry import Registry, Subscription
from genlock.coordinator.reply import NO_EPOCH, Epoch

Background = Callable[[Callable[[], Any]], "Future[Any]"]
TellHint = Callable[[str], None]


@pytest.fixture
def tell_hint(fleet: Fleet, redis_url: str) -> Iterator[TellHint]:
    """Says something on the fleet's channel, as a script does."""
    with redis.Redis.from_url(redis_url) as client:
        yield lambda text: client.publish(hint_of(fleet.name), text)


def test_a_duty_is_for_one_epoch_only(fleet: Fleet, member: Any) -> None:
    """Watched in an epoch that was lost since: member 1 with that beat is another one now, and lives (R5)."""
    one = member()
    fleet.registry.ask(Attach())
    beat = str(fleet.registry.snapshot().members[0].beat)
    other = Epoch(fleet.registry.epoch.number - 1, "another")
    fleet._link.send_quietly(Evict(one.id, beat, "me"), other)
    assert [worker.member for worker in fleet.workers()] == [one.id]


def test_a_duty_that_fails_is_nobodys_trouble(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    def gone(self: Registry, call: Any, epoch: Any) -> Any:
        sent.append(call)
        raise RedisUnreachable("there", "gone")

    monkeypatch.setattr(Registry, "send", gone)
    fleet._link.send_quietly(Settle(), NO_EPOCH)
    assert sent == [Settle()]


def test_an_ear_hears_its_model_and_no_other(fleet: Fleet, background: Background, tell_hint: TellHint) -> None:
    """A busy fleet has hints all the time: a publisher that read the state at each of them would be a storm."""
    fleet.status()  # begins its epoch, which has a hint of its own
    with Ear(fleet._link, "digits") as ear:
        ear.wait(60)  # subscribes, and comes back to let the state be read
        began = clock()
        hints = ["7 8 other", "not a hint", "7 9 digits"]
        waiting = background(lambda: ear.wait(60))
        for hint in hints:
            tell_hint(hint)
        waiting.result(10)
        tell_hint("7 10 other")
        ear.wait(0.05)
        assert 0.05 <= clock() - began < 30


@pytest.mark.parametrize("hint", ["7 8 ", "7 8 digits"])
def test_a_hint_of_the_whole_fleet_concerns_every_model(
    fleet: Fleet, background: Background, tell_hint: TellHint, hint: str
) -> None:
    """A new epoch, and its opening, name no model."""
    fleet.status()
    for model in ("digits", None):
        with Ear(fleet._link, model) as ear:
            ear.wait(60)
            waiting = background(lambda ear=ear: ear.wait(60))
            tell_hint(hint)
            waiting.result(10)


def test_an_ear_that_hears_nothing_any_more_waits_and_subscribes_again(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Redis it must neither raise nor return at once: the publisher would spin (R14)."""
    with Ear(fleet._link, "digits") as ear:
        ear.wait(60)

        def lost(self: Subscription, timeout_s: float) -> Any:
            raise RedisUnreachable("there", "the connection was lost")

        monkeypatch.setattr(Subscription, "wait", lost)
        began = clock()
        ear.wait(0.05)
        assert clock() - began >= 0.05
        ear.wait(60)
        assert ear._subscription is not None
