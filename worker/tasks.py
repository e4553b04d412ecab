"""What a fleet has asked every worker to do once: clear and refresh, begun while this worker was a member. Pure; the agent owns it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..coordinator.calls import TaskDone
from ..coordinator.reply import Task


class Tasks:
    """Those of one epoch, by their ids."""

    def __init__(self) -> None:
        self._known: dict[str, bool | None] = {}  # None: in work; done well or not: to be said
        self._said: set[str] = set()  # Redis has heard of them, or nobody waits for us

    def new_epoch(self) -> None:
        """None is left."""
        self._known, self._said = {}, set()

    def not_ours(self, ids: Iterable[str]) -> None:
        """They began before we came: nobody waits for us."""
        self._said |= set(ids)

    def take(self, running: Mapping[str, Task]) -> dict[str, Task]:
        """Those of a reply that are new, and in work from now on. What Redis has heard of, and does not show any more, is forgotten."""
        new = {task: what for task, what in running.items() if task not in self._known and task not in self._said}
        self._known |= dict.fromkeys(new)
        for task in self._said - running.keys():
            self._known.pop(task, None)
        self._said &= running.keys()
        return new

    def done(self, tasks: Iterable[str], *, ok: bool) -> None:
        """They have come to this, which is to be said."""
        self._known |= dict.fromkeys(tasks, ok)

    def said(self, task: str) -> None:
        """Redis has heard what it came to."""
        self._said.add(task)

    def due(self, member: str, worker: str) -> TaskDone | None:
        """What is to be said next."""
        for task, ok in self._known.items():
            if ok is not None and task not in self._said:
                return TaskDone(member, task, ok, {"worker": worker})
        return None
