"""An object store that is a dict, for tests: every call that others could notice is a step, so that a test may try every order of them.

A call is none where its order tells nothing: reading a claim (written once, whole), looking at one's own mark, folders that stay empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from genlock.coordinator.errors import ArtifactMissing
from genlock.coordinator.remotefiles import RemoteFile
from greenlet import getcurrent, greenlet


class Bucket:
    """What RemoteFiles does. `step` is called before each call; `now`: unix seconds on its clock."""

    url = scheme = "bucket"

    def __init__(self, step: Callable[[], object] = lambda: None) -> None:
        self.files: dict[str, tuple[bytes, float]] = {}
        self.now = 1_000_000.0
        self.step = step

    def close(self) -> None:
        pass

    def read(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        if key not in self.files:
            raise ArtifactMissing(key)
        return self.files[key][0][start:end]

    def look(self, key: str) -> RemoteFile | None:
        if key.startswith("objects/"):
            self.step()
        found = self.files.get(key)
        return RemoteFile(key, len(found[0]), found[1]) if found else None

    def list(self, prefix: str) -> list[RemoteFile]:
        if prefix not in ("temp", "damaged"):
            self.step()
        files = sorted(self.files.items())
        return [RemoteFile(key, len(data), at) for key, (data, at) in files if key.startswith(f"{prefix}/")]

    def write(self, key: str, data: bytes) -> None:
        self.step()
        self.files[key] = (bytes(data), self.now)

    def create(self, key: str, data: bytes) -> bool:
        self.step()
        return self.files.setdefault(key, (data, self.now))[0] is data

    def upload(self, key: str, pieces: Iterable[Any], *, beside: str) -> None:
        data = b"".join(map(bytes, pieces))
        self.write(key, data)

    def move(self, key: str, to: str) -> None:
        self.step()
        self.files[to] = self.files.pop(key)

    def remove(self, key: str) -> None:
        self.step()
        self.files.pop(key, None)


class Stage:
    """Runs some actors, a step at a time, in the order of `plan` (their numbers), then in any order; remembers what it could have done."""

    def __init__(self, plan: list[int]) -> None:
        self._plan, self._waiting = plan, set[int]()
        self.trace: list[tuple[int, list[int]]] = []
        self._actors: list[greenlet] = []
        self._main = getcurrent()

    def step(self) -> None:
        """Another actor may go first."""
        if getcurrent() is not self._main:
            self._main.switch()

    def wait(self, _seconds: float) -> None:
        """Another actor goes first, if there is one."""
        self._waiting.add(self._actors.index(getcurrent()))
        self._main.switch()

    def run(self, *actors: Callable[[], object]) -> None:
        self._actors = [greenlet(actor) for actor in actors]
        while live := [number for number, actor in enumerate(self._actors) if not actor.dead]:
            able = [number for number in live if number not in self._waiting] or live
            turn = self._plan[len(self.trace)] if len(self.trace) < len(self._plan) else able[0]
            self.trace.append((turn, able))
            self._waiting.clear() if turn not in self._waiting else self._waiting.discard(turn)
            self._actors[turn].switch()


def every_order(play: Callable[[Stage], None]) -> int:
    """Plays it in every order of the steps of its actors; how many orders there were."""
    plans: list[list[int]] = [[]]
    count = 0
    while plans:
        plan = plans.pop()
        stage = Stage(plan)
        play(stage)
        count += 1
        chosen = [turn for turn, _ in stage.trace]
        for at in range(len(plan), len(chosen)):
            plans += [[*chosen[:at], other] for other in stage.trace[at][1] if other != chosen[at]]
    return count
