"""worker/tasks.py: each task once, as long as the fleet shows it. What a worker does for one is tested with the agent."""

from __future__ import annotations

from genlock.coordinator.calls import TaskDone
from genlock.coordinator.reply import Task
from genlock.worker.tasks import Tasks

CLEAR, REFRESH = Task("clear"), Task("refresh", "m")


def test_each_task_is_new_once_and_said_once() -> None:
    tasks = Tasks()
    assert tasks.take({"5": CLEAR, "6": REFRESH}) == {"5": CLEAR, "6": REFRESH}
    assert tasks.due("1", "h:1") is None, "both are in work"
    tasks.done(["5"], ok=True)
    assert tasks.due("1", "h:1") == TaskDone("1", "5", True, {"worker": "h:1"})
    assert tasks.due("1", "h:1") is not None, "until Redis has heard it"
    tasks.said("5")
    assert tasks.take({"5": CLEAR, "6": REFRESH}) == {} and tasks.due("1", "h:1") is None
    tasks.done(["6"], ok=False)
    assert tasks.due("1", "h:1") == TaskDone("1", "6", False, {"worker": "h:1"})


def test_what_began_before_is_not_ours() -> None:
    tasks = Tasks()
    tasks.not_ours({"5": CLEAR})
    assert tasks.take({"5": CLEAR, "6": CLEAR}) == {"6": CLEAR}


def test_what_is_to_be_said_is_kept_until_it_was() -> None:
    """The fleet waits no longer for it; that it is over does no harm."""
    tasks = Tasks()
    tasks.take({"5": REFRESH})
    assert tasks.take({}) == {}
    tasks.done(["5"], ok=True)
    tasks.take({})
    assert tasks.due("1", "h:1") == TaskDone("1", "5", True, {"worker": "h:1"})


def test_what_is_over_is_forgotten() -> None:
    """A worker that was told to clear every minute for a year kept the id of each. None that Redis showed no more was of any use: to a
    worker that does not remember it, it is new."""
    tasks = Tasks()
    tasks.not_ours(["4"])
    tasks.take({"4": CLEAR, "5": CLEAR})
    tasks.done(["5"], ok=True)
    tasks.said("5")
    assert tasks.take({"4": CLEAR, "5": CLEAR}) == {}, "others are waited for yet"
    assert tasks.take({}) == {}
    assert tasks.take({"4": CLEAR, "5": CLEAR}).keys() == {"4", "5"}


def test_a_new_epoch_has_tasks_of_its_own() -> None:
    tasks = Tasks()
    tasks.take({"5": CLEAR})
    tasks.done(["5"], ok=True)
    tasks.said("5")
    tasks.new_epoch()
    assert tasks.due("2", "h:1") is None and tasks.take({"5": CLEAR}) == {"5": CLEAR}
