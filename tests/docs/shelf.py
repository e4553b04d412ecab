"""What a typed line of `genlock` finds when it runs: a fleet with a worker that holds the models it names, and the files it names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from genlock.coordinator.fleet import Fleet
from genlock.worker import Checkpoint, ModelCache
from safetensors.numpy import save

from .console import Line
from .programs import parsed

#: Commands that are parsed, and not run, and why.
NOT_RUN = {
    "admin": "serves until Ctrl-C",
    "demo": "has a test of its own, and takes half a minute",
    "redis": "stays in the foreground, or ends a server",
    "watch": "watches until Ctrl-C",
}
#: Options with which a line speaks of a place that is not here, or does not end.
NOT_HERE = {"redis_url", "store", "state_dir", "fleet", "follow"}
#: Generations of each model before the first line; pages go back to some of them.
GENERATIONS = 9


def can_run(line: Line) -> bool:
    """Whether the line is one of genlock's that ends by itself and needs nothing that is not here; all others are parsed only."""
    (command, *others) = line.commands
    if others or command.variables or not line.is_plain or command.words[0] != "genlock":
        return False
    name, given = parsed(command.words[1:])
    ends = name != "top" or given["once"]
    return name not in NOT_RUN and ends and not any(given.get(option) for option in NOT_HERE)


class Shelf:
    """A fleet, its worker, and a folder. `environment`: what a line runs with."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self.environment = {
            "GENLOCK_REDIS_URL": redis_url,
            "GENLOCK_STORE": str(folder / "store"),
            "GENLOCK_STATE_DIR": str(folder / "state"),
            "GENLOCK_LEASE": "1",
            "COLUMNS": "120",
        }
        self._fleet = Fleet.from_env(environ=self.environment)
        self._cache: ModelCache | None = None

    def stock(self, lines: Iterable[Line]) -> None:
        """Publishes the models that the lines name, has a worker hold them, and writes the files that the lines publish."""
        given = [parsed(line.commands[0].words[1:])[1] for line in lines]
        models = {one["model"] for one in given if one.get("model")}
        for model in sorted(models):
            for number in range(1, GENERATIONS + 1):
                file = self.folder / f"{model}-{number}.bin"
                file.write_text(f"{model} {number}")
                self._fleet.publish(model, file)
        if not models:
            return
        self._cache = ModelCache(Fleet.from_env(environ=self.environment), loaders=dict.fromkeys(models, _text))
        assert self._cache.prewarm() == {}
        for one in given:
            self._write(one.get("path"))

    def settle(self) -> None:
        """Nothing of the block before is left in the way of the next one."""
        for model in self._fleet.status().models:
            if model.candidate:
                self._fleet.abort(model.model)
            if model.pin:
                self._fleet.unpin(model.model)

    def arguments_of(self, line: Line) -> list[str]:
        """What is run of the line: nobody waits until a policy has decided."""
        words = line.commands[0].words[1:]
        waits = words[0] == "publish" and "--policy" in words
        return [*words, "--no-wait"] if waits else list(words)

    def _write(self, paths: Any) -> None:
        for word in paths if isinstance(paths, list | tuple) else ():
            path = self.folder / word.rpartition("=")[2]
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_checkpoint())

    def end(self) -> None:
        if self._cache is not None:
            self._cache.close()
            self._cache.fleet.close()
        self._fleet.close()


def _checkpoint() -> bytes:
    """A small safetensors file, each time another one."""
    return save({"weight": np.frombuffer(os.urandom(16), np.uint8)})


def _text(checkpoint: Checkpoint) -> bytes:
    return checkpoint.path().read_bytes()
