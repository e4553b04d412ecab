"""gunicorn with the ready-made evaluator, and what can be done to its processes."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from genlock.worker.demo.child import Child

#: Seconds until all workers have loaded the model; importing torch takes two of them on an idle core, and far more on a busy one.
START_S = 60.0
#: Seconds that workers get to answer what they have begun when gunicorn ends.
GRACE_S = 2
#: Seconds that a request waits at most (GENLOCK_MAX_WAIT); less than the clients' patience.
MAX_WAIT_S = 8
TESTS = Path(__file__).parent.parent


class Service:
    """One gunicorn on a free port. `prefix`: of its command (another namespace); `host`: the address it listens on."""

    def __init__(
        self,
        name: str,
        folder: Path,
        environment: Mapping[str, str],
        *,
        workers: int = 2,
        kind: str = "gthread",
        options: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
        prefix: Sequence[str] = (),
        host: str = "127.0.0.1",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.folder, self.workers, self.kind, self.host = name, folder, workers, kind, host
        self.port = _free_port()
        self._environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(TESTS),
            "GENLOCK_STATE_DIR": str(folder / "state"),
            "GENLOCK_MODELS": "m=chaos.models:held_up",
            "GENLOCK_MAX_WAIT": str(MAX_WAIT_S),
            **environment,
        }
        words = {
            "--config": "python:genlock.worker.hooks",
            "--bind": f"{host}:{self.port}",
            "--worker-class": kind,
            "--workers": str(workers),
            "--threads": "4" if kind == "gthread" else "1",
            "--keep-alive": "75",
            "--timeout": "60",
            "--graceful-timeout": str(GRACE_S),
            "--worker-tmp-dir": "/dev/shm",
            **(options or {}),
        }
        spelt = [word for option in words.items() for word in option]
        program = [sys.executable, "-m", "gunicorn", "--no-control-socket", *flags, *spelt, "genlock.worker.app:app"]
        self._command = [*prefix, *program]
        self._child: Child | None = None

    # --- its life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts it; `wait` tells when it answers."""
        self._child = Child(
            f"service {self.name}", self._command, env=self._environment, log=self.folder / "gunicorn.log"
        )

    def wait(self) -> None:
        """Until it is ready."""
        self.wait_for(lambda: self.is_ready, START_S, "it is ready")

    def wait_for(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Until the condition is true; raises RuntimeError with gunicorn's last words."""
        end = time.monotonic() + seconds
        while not condition():
            if self._child is None or self._child.has_ended or time.monotonic() > end:
                words = self._child.last_words if self._child else "(it was not started)"
                raise RuntimeError(f"service {self.name}: not within {seconds:g} s: {what}. Its last words:\n{words}")
            time.sleep(0.01)

    @property
    def is_ready(self) -> bool:
        """As /readyz of one of its workers says, which begins to load what it lacks."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    @property
    def arbiter(self) -> psutil.Process:
        """gunicorn itself, behind whatever prefix."""
        assert self._child is not None
        process = psutil.Process(self._child.pid)
        while "gunicorn" not in " ".join(process.cmdline()) and process.children():
            process = process.children()[0]
        return process

    @property
    def pids(self) -> list[int]:
        """Of its workers that live, the oldest first."""
        with suppress(psutil.NoSuchProcess):
            return sorted(child.pid for child in self.arbiter.children() if child.status() != psutil.STATUS_ZOMBIE)
        return []

    @property
    def log(self) -> str:
        return (self.folder / "gunicorn.log").read_text("utf-8", "replace")

    # --- what is done to it ------------------------------------------------------------------------------------------

    def signal(self, number: signal.Signals) -> None:
        """To gunicorn itself."""
        self.arbiter.send_signal(number)

    def kill_all(self) -> None:
        """The host dies: gunicorn and all of its workers at once, and nobody is left to report it."""
        arbiter = self.arbiter
        processes = [arbiter, *arbiter.children()]
        for process in processes:
            process.suspend()  # or gunicorn would start other workers between two kills
        for process in processes:
            process.kill()
        self.end()

    def end(self) -> None:
        """TERM, then what it takes; harmless twice."""
        if self._child is not None:
            self._child.end()
            self._child = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
