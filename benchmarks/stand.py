"""The test stand: a temporary folder with a server, a store and a fleet of its own, and gunicorn with workers of some app.

What is started here is ended here, by its pid.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
from genlock.coordinator import Fleet, GenlockError

#: Seconds until gunicorn and all its workers have answered; importing torch takes two of them on an idle core.
START_S = 60.0
#: Seconds that gunicorn gets to end.
STOP_S = 20.0
#: The ready-made evaluator, and the hooks that it is run with.
EVALUATOR, HOOKS = "genlock.worker.app:app", "python:genlock.worker.hooks"
#: The same for every app: as many threads as connections, and connections are not closed between two requests.
WORKERS, THREADS = 4, 4
KEEP_ALIVE_S = 75
#: Characters of gunicorn's log that an error brings along.
LOG_CHARS = 2000


class Stand:
    """Where one measurement takes place."""

    def __init__(self, lease_s: float | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="genlock-bench-"))
        self._lease_s = lease_s
        self.fleet = Fleet(name="bench", store=self.folder / "store", state_dir=self.folder / "state", lease=lease_s)

    def environment(self, **models: str) -> dict[str, str]:
        """What workers need to be of this fleet; model → its loader."""
        lease = {} if self._lease_s is None else {"GENLOCK_LEASE": str(self._lease_s)}
        return lease | {
            "GENLOCK_FLEET": "bench",
            "GENLOCK_STORE": str(self.folder / "store"),
            "GENLOCK_STATE_DIR": str(self.folder / "state"),
            "GENLOCK_MODELS": ",".join(f"{model}={loader}" for model, loader in models.items()),
        }

    def close(self) -> None:
        self.fleet.close()
        try:
            if self.fleet.endpoint.embedded is not None:
                self.fleet.endpoint.embedded.stop()
        except GenlockError as error:
            print(f"the server of {self.folder} has not ended: {error}", file=sys.stderr)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def stand(lease_s: float | None = None) -> Iterator[Stand]:
    """A Stand, and nothing of it afterwards."""
    made = Stand(lease_s)
    try:
        yield made
    finally:
        made.close()


class Serving:
    """gunicorn on a unix socket."""

    def __init__(
        self, folder: Path, app: str, environment: Mapping[str, str], *, hooks: str | None, workers: int
    ) -> None:
        self.socket = str(folder / f"{app.partition(':')[0].rpartition('.')[2]}.sock")
        self._log = (folder / "gunicorn.log").open("ab")
        self._folder = folder
        options = {
            "bind": f"unix:{self.socket}",
            "workers": workers,
            "threads": THREADS,
            "keep-alive": KEEP_ALIVE_S,
            "timeout": 120,
            "worker-tmp-dir": "/dev/shm",  # gunicorn touches a file in it while it serves: on a disk that somebody flushes it would wait
        }
        flags = [
            "--no-control-socket",
            *(word for name, value in options.items() for word in (f"--{name}", str(value))),
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *(["-c", hooks] if hooks else []), *flags, app],
            # One thread of OpenMP: more workers than cores, each with as many threads as cores, wait for each other.
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    @property
    def last_words(self) -> str:
        """The end of gunicorn's log."""
        return (self._folder / "gunicorn.log").read_text("utf-8", "replace")[-LOG_CHARS:]

    @property
    def workers(self) -> list[psutil.Process]:
        """Its worker processes."""
        found: list[psutil.Process] = psutil.Process(self.process.pid).children()
        return found

    def cpu_s(self) -> float:
        """Seconds of processor time of all workers so far."""
        return sum(sum(worker.cpu_times()[:2]) for worker in self.workers)

    def pss_bytes(self) -> int:
        """Memory of all workers; what several processes share counts in equal parts (proc_pid_smaps(5), smaps_rollup).

        They stand still meanwhile, some 10 ms: the share of a page that is mapped by one after the other would count more than once.
        """
        workers = self.workers
        try:
            for worker in workers:
                worker.suspend()
            return sum(_pss_bytes(worker.pid) for worker in workers)
        finally:
            for worker in workers:
                worker.resume()

    def wait(self) -> None:
        """Until it takes connections."""
        deadline = time.monotonic() + START_S
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    return probe.connect(self.socket)
                except OSError:
                    pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("gunicorn does not answer")
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends it and its workers."""
        children = self.workers if self.process.poll() is None else []
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            for process in children:
                process.kill()
            self.process.kill()
            self.process.wait()
        self._log.close()


def _pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no Pss")


@contextmanager
def serving(
    folder: Path, app: str, environment: Mapping[str, str], *, hooks: str | None = None, workers: int = WORKERS
) -> Iterator[Serving]:
    """gunicorn with workers of `app`, taking connections."""
    made = Serving(folder, app, environment, hooks=hooks, workers=workers)
    try:
        made.wait()
        yield made
    except Exception as error:
        error.add_note(f"gunicorn's log ends:\n{made.last_words}")
        raise
    finally:
        made.stop()


def evaluator(place: Stand, folder: Path | None = None, **models: str) -> AbstractContextManager[Serving]:
    """The ready-made evaluator of this stand's fleet, with its files in `folder` (default: the stand's); model → its loader."""
    return serving(folder or place.folder, EVALUATOR, place.environment(**models), hooks=HOOKS)
