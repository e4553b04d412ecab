"""What requests have begun and wait for: it goes on when they stop waiting, and is found again by its request id.

A job that is lost with its process is no loss: what it proposed goes on in the fleet, and the same request id asks Redis for the outcome
(R10).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from werkzeug.exceptions import ServiceUnavailable

from ..errors import BadInput
from ..flip import Progress

#: Jobs at the same time; each has a thread and two connections to Redis.
MOST_JOBS = 16
#: Seconds after which somebody may try again where there are too many.
AGAIN_S = 5

#: What is done; it is given somebody to tell how far it is.
Action = Callable[[Callable[[Progress], None]], Any]


class Job:
    """One of them. `what`: verb, model and body, which have to be the same when somebody asks again."""

    def __init__(self, what: tuple[Any, ...]) -> None:
        self.what = what
        self.done: Future[Any] = Future()
        self.state = "begun"  #: how far it is: only its own thread writes it

    def tell(self, progress: Progress) -> None:
        """How far it is."""
        of = f"{progress.done} of {progress.total}"
        self.state = (
            f"{progress.text}, {of} workers" if progress.stage == "waiting" else f"{progress.stage}, {of} bytes"
        )

    def run(self, action: Action) -> None:
        try:
            self.done.set_result(action(self.tell))
        except Exception as error:  # whoever waits gets it
            self.done.set_exception(error)


class Jobs:
    """Those of one process, by request id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}  # what runs; guarded by the lock

    def begin(self, request: str, what: tuple[Any, ...], action: Action) -> Job:
        """The job of that request id, begun unless it runs. Raises BadInput (another one runs under it), ServiceUnavailable (too many)."""
        with self._lock:
            job = self._jobs.get(request)
            if job is not None:
                if job.what != what:
                    raise BadInput("Idempotency-Key", f"{request} is that of another request, which is still in work")
                return job
            if len(self._jobs) >= MOST_JOBS:
                raise ServiceUnavailable(f"{MOST_JOBS} changes are in work", retry_after=AGAIN_S)
            job = self._jobs[request] = Job(what)
        try:
            threading.Thread(
                target=self._run, args=(request, job, action), name="genlock-admin-job", daemon=True
            ).start()
        except RuntimeError as error:  # the machine has no thread for it
            unavailable = ServiceUnavailable(f"the change was not begun: {error}", retry_after=AGAIN_S)
            job.done.set_exception(unavailable)  # the same request may have come again, and wait for it
            self._forget(request)
            raise unavailable from error
        return job

    def _run(self, request: str, job: Job, action: Action) -> None:
        try:
            job.run(action)
        finally:
            self._forget(request)

    def _forget(self, request: str) -> None:
        with self._lock:
            del self._jobs[request]
