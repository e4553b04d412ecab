"""Something that every worker does once, fleet-wide: clear or refresh; and who did it, failed, or did not answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .calls import Read, StartTask
from .clock import clock
from .flip import refusal_of
from .link import GONE, Ear, Link, new_wait, pursue
from .status import name_of
from .wait import Wait

#: Member → (awaited, done or failed; what it said).
Said = Mapping[str, tuple[str, dict[str, Any]]]


class TaskResult(msgspec.Struct, frozen=True, kw_only=True):
    """`asked`: how many workers; `done`: worker → facts; `failed`: worker → why; `silent`: who left, died or did not answer in time."""

    kind: str
    model: str | None
    asked: int
    done: dict[str, dict[str, Any]]
    failed: dict[str, str]
    silent: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.failed and not self.silent


def run_task(
    link: Link, kind: str, model: str | None, request: str, *, timeout_s: float, lease_s: float, by: str, why: str = ""
) -> TaskResult:
    """Starts it and waits until nobody is waited for, at most `timeout_s`.

    Raises FleetClosed, Conflict (16 tasks run), RequestReused, OutcomeUnknown.
    """
    names = {member.id: name_of(member) for member in link.use(lambda registry: registry.snapshot()).members}
    start = StartTask(request, kind, model or "", round(timeout_s * 1000), by, why)
    wait = new_wait(link, start, model or "", request, prepare_s=timeout_s, lease_s=lease_s, is_patient=False)
    pursue(link, wait)
    if wait.refusal is not None:
        raise refusal_of(wait.refusal, model or "", request=request)
    assert wait.reply is not None
    said = _wait_for(link, wait, wait.reply.task or "", until=clock() + timeout_s)
    return _result(kind, model, wait.reply.awaited, said, names)


def _wait_for(link: Link, wait: Wait, task: str, *, until: float) -> Said:
    """What the members have said when nobody is waited for any more, or at `until`; who has gone is still awaited there."""
    said: dict[str, tuple[str, dict[str, Any]]] = {}
    with Ear(link, wait.model) as ear:
        while True:
            still = _look(link, wait, task)
            said |= still or {}
            is_done = still is not None and all(state != "awaited" for state, _ in still.values())
            if is_done or clock() > until:
                return said
            ear.wait(wait.pause_s(clock()))


def _look(link: Link, wait: Wait, task: str) -> Said | None:
    """What the members that are still there have said, and the duties of who looks; None: Redis did not answer."""
    try:
        wait.heard(link.ask(Read("", watched=wait.watched)), clock())
        said = link.use(lambda registry: registry.task_answers(task))
    except GONE:
        wait.lost()
        return None
    for duty in wait.duties(clock()):
        link.send_quietly(duty, wait.epoch)
    return said


def _result(kind: str, model: str | None, asked: int, said: Said, names: Mapping[str, str]) -> TaskResult:
    done, failed, silent = {}, {}, []
    for member, (state, facts) in said.items():
        worker = str(facts.get("worker") or names.get(member, member))
        if state == "done":
            done[worker] = facts
        elif state == "failed":
            failed[worker] = str(facts.get("why", "it did not say why"))
        else:
            silent.append(worker)
    asked = max(asked, len(said))  # asked for a second time, Redis counts only who is still waited for
    return TaskResult(kind=kind, model=model, asked=asked, done=done, failed=failed, silent=tuple(sorted(silent)))
