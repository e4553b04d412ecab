"""A watcher that runs beside the test, and checkpoints to watch."""

import json
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.manifest import Artifact, version_of
from genlock.coordinator.settings import Settings
from genlock.coordinator.watching import Patterned, Watcher, notice, patterns_of, settling, watcher

#: Seconds that files of these tests have to be unchanged.
SETTLED_S = 0.2


def whole(number: int, size: int = 4000) -> bytes:
    """A safetensors file with one tensor, each number another one."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes([number % 256]) * size


def version(**artifacts: bytes) -> str:
    """The version of these contents."""
    return version_of(Artifact(name, len(data), blake3(data).hexdigest()) for name, data in artifacts.items())


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is waited for is shorter than for users, in proportion."""
    for room, name, value in [
        (watcher, "SETTLED_S", SETTLED_S),
        (watcher, "SETTLED_ELSEWHERE_S", SETTLED_S),
        (watcher, "POLL_S", 0.1),
        (notice, "POLL_S", 0.1),
        (settling, "OTHERS_S", 3 * SETTLED_S),
        (notice, "STEP_MS", 50),
        (notice, "BEGUN_MS", 100),
    ]:
        monkeypatch.setattr(room, name, value)


class Watching:
    """watching(*patterns, settings=None): a watcher that runs until the test has ended, or `end` of it."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._threads: dict[Watcher, threading.Thread] = {}

    def __call__(self, *patterns: str | Path, settings: Settings | None = None) -> Watcher:
        made = Watcher(settings or self._fleet.settings, Patterned(patterns_of(map(str, patterns))), note="noticed")
        self._threads[made] = threading.Thread(target=made.run, name="watcher")
        self._threads[made].start()
        return made

    def end(self, *watchers: Watcher) -> None:
        """Returns when nothing of them goes on; all of them, if none is named."""
        for one in watchers or self._threads:
            one.stop()
            self._threads[one].join()


@pytest.fixture
def watching(fleet: Fleet, soon: None) -> Iterator[Watching]:
    assert fleet.identity
    made = Watching(fleet)
    yield made
    made.end()


@pytest.fixture
def versions(fleet: Fleet) -> Callable[..., list[str]]:
    """versions(model="m"): of all generations of the model, the oldest first."""

    def of(model: str = "m") -> list[str]:
        known = {found.model for found in fleet.status().models}
        return [found.version for found in reversed(fleet.history(model))] if model in known else []

    return of
