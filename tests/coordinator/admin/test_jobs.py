"""coordinator/admin/jobs.py: what is in work is found again by its request id."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from genlock.coordinator.admin.jobs import MOST_JOBS, Jobs
from genlock.coordinator.errors import BadInput, NotReady
from genlock.coordinator.flip import Progress
from werkzeug.exceptions import ServiceUnavailable


def test_whoever_asks_again_gets_the_same_job(wait_for: Callable[..., Any]) -> None:
    jobs, ends, runs = Jobs(), threading.Event(), []

    def action(_: Any) -> int:
        runs.append(1)
        ends.wait(20)
        return 5

    first = jobs.begin("r", ("pin", "m"), action)
    assert jobs.begin("r", ("pin", "m"), action) is first
    with pytest.raises(BadInput, match="another request"):
        jobs.begin("r", ("unpin", "m"), action)
    ends.set()
    assert (first.done.result(20), runs) == (5, [1])
    wait_for(lambda: not jobs._jobs)
    assert jobs.begin("r", ("pin", "m"), action).done.result(20) == 5
    wait_for(lambda: not jobs._jobs)


def test_what_went_wrong_is_the_askers(wait_for: Callable[..., Any]) -> None:
    jobs = Jobs()

    def action(_: Any) -> None:
        raise NotReady("m", "made up")

    with pytest.raises(NotReady):
        jobs.begin("r", (), action).done.result(20)
    wait_for(lambda: not jobs._jobs)


def test_how_far_it_is_is_told(wait_for: Callable[..., Any]) -> None:
    jobs, step, ends = Jobs(), threading.Event(), threading.Event()

    def action(tell: Any) -> None:
        tell(Progress("staging", 3, 8, "model"))
        step.wait(20)
        tell(Progress("waiting", 1, 2, "preparing"))
        ends.wait(20)

    job = jobs.begin("r", (), action)
    wait_for(lambda: job.state == "staging, 3 of 8 bytes")
    step.set()
    wait_for(lambda: job.state == "preparing, 1 of 2 workers")
    ends.set()
    wait_for(lambda: not jobs._jobs)


def test_a_job_that_gets_no_thread_takes_no_place(
    monkeypatch: pytest.MonkeyPatch, wait_for: Callable[..., Any]
) -> None:
    """A machine out of threads for a moment: after sixteen of these every change was refused, until the admin was restarted."""
    jobs = Jobs()

    def fail(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        for number in range(MOST_JOBS + 1):
            with pytest.raises(ServiceUnavailable, match="not begun: can't start new thread") as caught:
                jobs.begin(str(number), (), lambda _: None)
            assert caught.value.retry_after is not None
    assert jobs.begin("0", (), lambda _: 5).done.result(20) == 5
    wait_for(lambda: not jobs._jobs)


def test_who_asks_again_while_there_is_no_thread_hears_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is known · the same request comes again and waits for it · it gets no thread: 25 s later that was told to ask again."""
    jobs, found = Jobs(), []

    def fail(self: threading.Thread) -> None:
        found.append(jobs.begin("r", (), lambda _: None))
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(ServiceUnavailable, match="not begun"):
            jobs.begin("r", (), lambda _: None)
    [job] = found
    with pytest.raises(ServiceUnavailable, match="not begun: can't start new thread") as caught:
        job.done.result(0)
    assert caught.value.retry_after is not None and not jobs._jobs


def test_there_are_only_so_many(wait_for: Callable[..., Any]) -> None:
    jobs, ends = Jobs(), threading.Event()
    for number in range(MOST_JOBS):
        jobs.begin(str(number), (), lambda _: ends.wait(20))
    with pytest.raises(ServiceUnavailable):
        jobs.begin("one more", (), lambda _: None)
    assert jobs.begin("3", (), lambda _: None)
    ends.set()
    wait_for(lambda: not jobs._jobs)
