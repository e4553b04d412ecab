"""worker/badge.py: what a parent can still say of a child that has died."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from genlock.coordinator.calls import Join
from genlock.coordinator.errors import RedisUnreachable
from genlock.coordinator.fleet import Fleet
from genlock.worker import badge as room
from genlock.worker.badge import Badge, Membership, report_dead

WaitFor = Callable[..., Any]


def membership(member: str = "7", **other: Any) -> Membership:
    usual: dict[str, Any] = {
        "redis_url": None,
        "state_dir": "/nowhere",
        "fleet": "t",
        "fleet_id": "f" * 32,
        "lease_s": 3.0,
        "member": member,
        "epoch": 1,
        "nonce": "n",
    }
    return Membership(**(usual | other))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 and later: the child does next to nothing
def test_a_parent_reads_what_its_child_showed_however_that_ended(wait_for: WaitFor) -> None:
    badge = Badge()
    assert badge.read() == []
    child = os.fork()
    if child == 0:
        try:
            badge.show("a cache", membership("7"))
            badge.show("another", membership("8"))
            badge.show("a cache", membership("9"))  # it joined again
            signal.pause()
        finally:
            os._exit(1)
    wait_for(lambda: [one.member for one in badge.read()] == ["9", "8"])
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert badge.read() == [membership("9"), membership("8")]


def test_who_has_left_shows_nothing() -> None:
    badge = Badge()
    badge.show(1, membership())
    badge.clear()
    assert badge.read() == []
    badge.show(1, membership("8"))
    assert badge.read() == [membership("8")]


def test_what_does_not_fit_is_not_shown() -> None:
    """It is evicted in the end, like one on a machine that lost its power."""
    badge = Badge()
    badge.show(1, membership())
    badge.show(2, membership(fleet="x" * room.BADGE_BYTES))
    assert badge.read() == []


def test_memory_that_was_written_over_says_nothing() -> None:
    """A child that dies of a wild pointer may have hit anything: the arbiter must not die of it too."""
    badge = Badge()
    badge.show(1, membership())
    for garbage in (b"\xff" * 64, (20).to_bytes(4, "big") + b"[" * 20, (3).to_bytes(4, "big") + b"\xff\xfe\xfd"):
        badge._memory[: len(garbage)] = garbage
        assert badge.read() == []


@pytest.fixture
def dead(fleet: Fleet, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Membership:
    """A member of the fleet that says nothing any more. Its parent waits for as long as a busy Redis takes."""
    monkeypatch.setattr(room, "CALL_S", 10.0)
    member = fleet.registry.ask(Join('{"worker": "h:1"}')).id
    assert member
    epoch = fleet.registry.epoch
    return membership(
        member,
        redis_url=redis_url,
        state_dir=str(tmp_path),
        fleet_id=fleet.identity.fleet_id,
        lease_s=fleet.identity.lease_s,
        epoch=epoch.number,
        nonce=epoch.nonce,
    )


def test_the_fleet_is_told_once_and_for_good(fleet: Fleet, dead: Membership) -> None:
    assert len(fleet.workers()) == 1
    report_dead(dead)
    assert fleet.workers() == []
    left = list(fleet.events())[-1]
    assert (left.what, left.facts["died"]) == ("left", 1)
    report_dead(dead)
    assert [event.what for event in fleet.events()].count("left") == 1


def test_in_another_epoch_the_id_is_somebody_elses(fleet: Fleet, dead: Membership, redis_url: str) -> None:
    """Redis was emptied, and the ids begin anew: a late report must not expel a worker that lives."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    status = fleet.status()
    assert status.epoch != dead.epoch
    other = fleet.registry.ask(Join('{"worker": "h:2"}')).id
    report_dead(dead)
    assert [worker.worker for worker in fleet.workers()] == ["h:2"]
    assert other == dead.member, "the very same id"


def test_without_redis_it_says_so_and_starts_none(dead: Membership, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    for lost in ({"redis_url": f"unix://{gone}"}, {"redis_url": None, "state_dir": str(tmp_path / "state")}):
        with pytest.raises(RedisUnreachable):
            report_dead(membership(**lost))
    assert not (tmp_path / "state" / "redis" / "socket").exists()
