"""Fleet-wide clear and refresh: the workers are played by hand, who asked runs in a thread."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from genlock.coordinator.calls import Call, Read, StartTask
from genlock.coordinator.errors import Conflict, RedisUnreachable, RequestReused, SettingsInvalid, UnknownModel
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.registry import Registry
from genlock.coordinator.reply import Reply
from genlock.coordinator.task import TaskResult

Background = Callable[[Callable[[], Any]], "Future[Any]"]


@pytest.fixture
def digits(fleet: Fleet, tmp_path: Path) -> str:
    """A model with a generation."""
    path = tmp_path / "m"
    path.write_bytes(b"some bytes")
    fleet.publish("digits", path)
    return "digits"


def started(one: Any, kind: str, wait_for: Callable[..., Any]) -> str:
    return str(wait_for(lambda: one.task(kind), description=f"the task {kind}"))


def test_clear_waits_for_every_worker_and_tells_what_each_did(
    fleet: Fleet, member: Any, background: Background, wait_for: Any
) -> None:
    one, two = member("h:1"), member("h:2")
    flying = background(lambda: fleet.clear())
    task = started(one, "clear", wait_for)
    one.did(task, freed=7)
    assert not flying.done()
    two.did(task, ok=False, why="it is loading")
    result = flying.result(10)
    assert result == TaskResult(
        kind="clear",
        model=None,
        asked=2,
        done={"h:1": {"worker": "h:1", "freed": 7}},
        failed={"h:2": "it is loading"},
        silent=(),
    )
    assert not result.ok


def test_refresh_asks_the_holders_of_the_model_only(
    fleet: Fleet, digits: str, member: Any, background: Background, wait_for: Any
) -> None:
    one, _other = member("h:1"), member("h:2", "another")
    flying = background(lambda: fleet.refresh(digits))
    one.did(started(one, "refresh", wait_for))
    result = flying.result(10)
    assert (result.asked, set(result.done), result.ok) == (1, {"h:1"}, True)


def test_who_has_not_answered_in_time_is_named(
    fleet: Fleet, member: Any, background: Background, wait_for: Any
) -> None:
    one, _two = member("h:1"), member("h:2")
    flying = background(lambda: fleet.clear(timeout=2))  # h:1 has to have answered by then
    one.did(started(one, "clear", wait_for))
    result = flying.result(10)
    assert (set(result.done), result.silent, result.ok) == ({"h:1"}, ("h:2",), False)


def test_a_worker_that_died_is_evicted_and_named_before_the_time_is_over(
    fleet: Fleet, member: Any, background: Background, wait_for: Any
) -> None:
    """It never answers, and the fleet has nobody else who would notice: the minute of the timeout would be spent for nothing (R5)."""
    one, two = member("h:1"), member("h:2")
    two.fall_silent()
    flying = background(lambda: fleet.clear(timeout=60))
    one.did(started(one, "clear", wait_for))
    result = flying.result(10)
    assert (set(result.done), result.silent) == ({"h:1"}, ("h:2",))
    assert [worker.worker for worker in fleet.workers()] == ["h:1"]


def test_without_workers_nobody_is_asked(fleet: Fleet, digits: str) -> None:
    assert fleet.clear(digits) == TaskResult(kind="clear", model=digits, asked=0, done={}, failed={}, silent=())


def test_an_unknown_model_and_an_impossible_time_are_refused(fleet: Fleet) -> None:
    with pytest.raises(UnknownModel):
        fleet.refresh("nothing")
    with pytest.raises(SettingsInvalid):
        fleet.clear(timeout=-1)


def test_the_same_request_is_the_same_task(
    fleet: Fleet, new_fleet: Any, member: Any, background: Background, wait_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply was lost: asked again, the workers must not clear twice (R10)."""
    send, sent = Registry.send, []

    def losing(self: Registry, call: Call, *rest: Any) -> Reply:
        reply = send(self, call, *rest)
        if isinstance(call, StartTask):
            sent.append(reply.task)
            if len(sent) == 1:
                raise RedisUnreachable("there", "the reply was lost")
        return reply

    monkeypatch.setattr(Registry, "send", losing)
    one = member()
    flying = background(lambda: fleet.clear())
    one.did(started(one, "clear", wait_for))
    assert flying.result(10).asked == 1
    assert len(sent) == 2 and len(set(sent)) == 1


def test_a_request_is_of_one_task(fleet: Fleet, digits: str) -> None:
    fleet.clear(digits, request="r")
    with pytest.raises(RequestReused, match="earlier clear of digits"):
        fleet.refresh(digits, request="r")


def test_the_log_has_why(fleet: Fleet, digits: str) -> None:
    fleet.clear(digits, why="a bad copy")
    fleet.refresh(digits, why="and again")
    fleet.refresh(digits)
    whys = [event.facts["why"] for event in fleet.events() if event.what == "task-started"]
    assert whys == ["a bad copy", "and again", ""]


def test_a_lost_read_does_not_end_the_waiting(
    fleet: Fleet, member: Any, background: Background, wait_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, lost = Registry.send, []

    def losing(self: Registry, call: Call, *rest: Any) -> Reply:
        reply = send(self, call, *rest)
        if isinstance(call, Read) and len(lost) < 2:
            lost.append(call)
            raise RedisUnreachable("there", "the reply was lost")
        return reply

    one = member()
    monkeypatch.setattr(Registry, "send", losing)
    flying = background(lambda: fleet.clear())
    task = started(one, "clear", wait_for)
    wait_for(lambda: len(lost) == 2, description="the lost reads")
    one.did(task)
    assert flying.result(10).ok


def test_more_tasks_than_the_fleet_takes_are_refused(
    fleet: Fleet, member: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that begins one clear after the other while a worker hangs: every reply to every worker would name all of them. Those
    that have ended do not count."""
    monkeypatch.setattr("genlock.coordinator.wait.AGAIN", frozenset({"closed"}))
    for _ in range(20):
        assert fleet.clear().ok
    one = member()
    for n in range(16):
        assert one.registry.ask(StartTask(f"r{n}", "clear", "", 60_000, "a script")).verdict == "ok"
    with pytest.raises(Conflict, match="16 tasks"):
        fleet.clear()
