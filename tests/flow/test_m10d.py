"""examples/m10d: a backend with the evaluator of yesterday, and the same one with genlock. One import is the difference, and what happens
while training writes."""

import difflib
import http.client
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from chaos.ports import Port
from genlock.coordinator import Fleet

EXAMPLE = Path(__file__).parents[2] / "examples" / "m10d"
SIG = "m=3;tau=1"
INPUTS = {"inputs": [[0.0] * 6]}


class After:
    """gunicorn with two workers of after:app, on a free port of loopback."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._kept = Port()
        self.port = self._kept.number
        self.log = folder / "gunicorn.log"
        words = ["-c", "python:genlock.worker.hooks", "-b", f"127.0.0.1:{self.port}", "-w", "2", "after:app"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *words],
                env={**os.environ, **environment, "PYTHONPATH": str(EXAMPLE), "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
                cwd=folder,
            )

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON (None: it was none) of a request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"content-type": "application/json"} if data else {})
            answer = connection.getresponse()
            text = answer.read()
            found = json.loads(text) if "json" in answer.getheader("content-type", "") else None
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, found
        finally:
            connection.close()

    @property
    def is_up(self) -> bool:
        try:
            return self.ask("GET", "/cache/status")[0] == 200
        except OSError:
            return False

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self._kept.close()


class Before:
    """before:app in this process."""

    def __init__(self) -> None:
        self._client = importlib.import_module("before").app.test_client()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str], Any]:
        found = self._client.open(path, method=method, json=body)
        return found.status_code, dict(found.headers), found.get_json(silent=True)


def value_of(backend: After | Before) -> float | None:
    """What the linear model says to zeros; None: an error."""
    status, _, found = backend.ask("POST", f"/evaluate/{SIG}", INPUTS)
    return found["outputs"]["linear"][0][0] if status == 200 else None


@dataclass
class Clients:
    """Threads that ask all the while: (began, ended, value) of each answer."""

    backend: After
    answers: list[tuple[float, float, float | None]] = field(default_factory=list)

    def __enter__(self) -> "Clients":
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._run) for _ in range(4)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _run(self) -> None:
        while not self.stop.wait(0.005):
            began = time.monotonic()
            value = value_of(self.backend)
            self.answers.append((began, time.monotonic(), value))


@pytest.fixture
def after(environment: dict[str, str], tmp_path: Path) -> Iterator[After]:
    backend = After(tmp_path, {**environment, "GENLOCK_MODELS": ""})
    yield backend
    backend.stop()


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Before]:
    monkeypatch.syspath_prepend(EXAMPLE)
    monkeypatch.chdir(tmp_path)
    yield Before()
    for name in ("before", "model_evaluator", "nets"):
        del sys.modules[name]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """train(value): the training job of the example, as a user starts it, overwrites both files."""

    def run(value: str) -> None:
        monkeypatch.setattr(sys, "argv", ["train.py", str(tmp_path / "models"), SIG, value])
        runpy.run_path(str(EXAMPLE / "train.py"), run_name="__main__")

    return run


def test_one_import_is_the_difference() -> None:
    """Apart from what the two programs say of themselves in their first lines."""
    before, after = (
        (EXAMPLE / f"{name}.py").read_text().partition('"""\n\n')[2].splitlines() for name in ("before", "after")
    )
    changed = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
    assert sorted(changed) == [
        "+ from genlock.worker.compat import EVALUATION_CONFIG, ModelEvaluator, evaluation_bp",
        "- from model_evaluator import EVALUATION_CONFIG, ModelEvaluator, evaluation_bp",
    ]


def test_before_and_after_answer_the_same_but_for_what_went_wrong(
    after: After,
    before: Before,
    train: Callable[[str], None],
    trainer: Fleet,
    tmp_path: Path,
    wait_for: Callable[..., Any],
) -> None:
    """While a file is being overwritten the old evaluator answered errors, and each worker changed when it was asked next. Now the old
    model answers until the file is whole, and then all workers change together."""
    train("1.5")
    wait_for(lambda: after.is_up, 60, "the service is up")

    # The same requests, the same answers: and the first ones of two workers have published each file once.
    same = [("POST", f"/evaluate/{SIG}", INPUTS), ("POST", f"/evaluate/{SIG}", {"inputs": [[1.0] * 6, [2.0] * 6]})]
    for request in same * 3:
        old, new = before.ask(*request), after.ask(*request)
        assert (old[0], old[2]) == (new[0], new[2]) == (200, new[2])
    models = [model.model for model in trainer.status().models]
    assert models == ["m-3d3-3btau-3d1--linear", "m-3d3-3btau-3d1--perceptron"]
    assert [len(trainer.history(model)) for model in models] == [1, 1]
    assert new[1]["x-genlock-generation"] == ", ".join(f"{model}=1" for model in models)

    # Old clients find in the status what they know.
    old_status = before.ask("GET", "/cache/status")[2]
    found = wait_for(lambda: [one for one in [after.ask("GET", "/cache/status")[2]] if SIG in one["signatures"]])
    new_status = found[0]  # of a worker that was asked for the signature
    assert old_status["config"] == new_status["config"]
    for key, value in old_status["signatures"][SIG].items():
        assert type(new_status["signatures"][SIG][key]) is type(value), key
    for key in ("models", "loaded", "timestamps"):
        assert new_status["signatures"][SIG][key] == old_status["signatures"][SIG][key]

    # A writer that overwrites in place and takes its time.
    path = tmp_path / "models" / SIG / "linear.pt"
    torch.save({key: weight + 1 for key, weight in torch.load(path).items()}, tmp_path / "next.pt")
    whole = (tmp_path / "next.pt").read_bytes()
    with Clients(after) as clients:
        with path.open("wb") as file:
            file.write(whole[: len(whole) // 2])
            file.flush()
            assert value_of(before) is None, "the old evaluator falls over the half file"
            count = len(clients.answers)
            wait_for(lambda: len(clients.answers) > count + 50)
            file.write(whole[len(whole) // 2 :])
        wait_for(lambda: value_of(after) == 2.5)
        count = len(clients.answers)
        wait_for(lambda: len(clients.answers) > count + 50)
    assert {value for _, _, value in clients.answers} == {1.5, 2.5}, "no error, and nothing else"
    first = min(ended for _, ended, value in clients.answers if value == 2.5)
    assert [began for began, _, value in clients.answers if value == 1.5 and began > first] == [], "all together"
    assert len(trainer.history(models[0])) == 2
    assert value_of(before) == 2.5

    # The routes that change something.
    for path_of, word in (("/cache/clear", "cleared"), (f"/cache/refresh/{SIG}", "refreshed")):
        old, new = before.ask("POST", path_of), after.ask("POST", path_of)
        assert (old[0], old[2]["status"]) == (new[0], new[2]["status"]) == (200, word)
    assert value_of(before) == value_of(after) == 2.5
    log = after.log.read_text()
    assert f"reloaded: {SIG}/linear, generation 2: file changed" in log
    assert f"invalidated: {SIG}/linear, generation 2: cleared" in log
