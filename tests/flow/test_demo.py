"""`genlock demo`, whole: its JSON, its exit status, and that nothing of it is left when it ends or is ended."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

#: Seconds for the demo to start, end and be killed on a slow machine.
PATIENCE_S = 100.0


class Demo:
    """The demo as a process in a session of its own, which stands for its terminal."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._folder = folder
        environ = {name: value for name, value in os.environ.items() if not name.startswith("GENLOCK_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "genlock.worker.demo", "--workers", "2", "--clients", "2", *words],
            env=environ | {"GENLOCK_STATE_DIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )

    def read_until(self, text: str) -> None:
        """Reads its lines up to one with `text`."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return
        raise AssertionError(f"it never said {text!r}, but: {self.process.communicate()}")

    def ended_by(self, number: signal.Signals) -> tuple[int, str]:
        """Sends a signal to its whole process group, as a terminal does; exit status and stderr."""
        os.killpg(self.process.pid, number)
        return self.process.wait(PATIENCE_S), self.process.communicate(timeout=PATIENCE_S)[1]

    def wait_for(self, processes: int) -> None:
        """Until so many can be seen: one that has just been started still bears its parent's name."""
        end = time.monotonic() + PATIENCE_S
        while len(self.left()) < processes:
            assert time.monotonic() < end, self.left()

    def left(self) -> list[str]:
        """Processes that have anything to do with its folder."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                known = [*process.cmdline(), *process.environ().values()]
                if process.status() != psutil.STATUS_ZOMBIE and any(str(self._folder) in word for word in known):
                    found.append(f"{process.pid}: {' '.join(process.cmdline())}")
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """GENLOCK_STATE_DIR; whatever a failed test leaves there is killed."""
    home = tmp_path / "state"
    yield home
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if any(str(home) in word for word in [*process.cmdline(), *process.environ().values()]):
                process.kill()


def test_it_keeps_its_promises_and_says_so_in_json(folder: Path) -> None:
    demo = Demo(folder, "--seconds", "6", "--json")
    out, err = demo.process.communicate(timeout=PATIENCE_S)
    found = json.loads(out)
    assert (demo.process.returncode, found["ok"], found["broken"]) == (0, True, []), err
    assert {name: found[name] for name in ("errors", "stale", "order_violations", "impostors")} == {
        "errors": 0,
        "stale": 0,
        "order_violations": 0,
        "impostors": 0,
    }
    assert (found["generations"], found["rejected"]) == (9, 2)
    assert found["requests"] > 100
    assert sum(row["answers"] for row in found["answers"].values()) == found["requests"]
    assert [row["outcome"] for row in found["rejections"]] == ["rejected", "refused"]
    assert "not finite" in found["rejections"][0]["why"]
    assert [row["workers"] for row in found["flips"]] == [2] * 8
    assert all(row["seconds"].keys() >= {"stage", "prepare", "fence", "total"} for row in found["flips"])
    assert found["p99_ratio"] > 0
    assert found["memory"]["pss_bytes"] > 10_000_000
    accuracies = [row["accuracy"] for row in found["answers"].values()]
    assert accuracies[-1] > accuracies[0]
    assert "Every promise was kept." in err
    assert demo.left() == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGINT, "clients are connected"), (signal.SIGTERM, "Redis answers"), (signal.SIGINT, "gunicorn starts")],
)
def test_ended_at_any_moment_it_leaves_nothing_running(folder: Path, number: signal.Signals, moment: str) -> None:
    """Ctrl-C while clients send requests, while workers start, and TERM while the training job imports torch."""
    demo = Demo(folder, "--seconds", "60")
    demo.read_until(moment)
    demo.wait_for(3)
    began = time.monotonic()
    status, said = demo.ended_by(number)
    assert status == 130
    assert said == f"genlock: ended by {number.name}; nothing that the demo started is left running\n"
    assert demo.left() == []
    assert list(folder.iterdir()) == []
    assert time.monotonic() - began < 30
