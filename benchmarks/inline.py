"""How models are often reloaded: each request looks at the mtime of the file, and whoever finds it changed loads it, there and then.

The app is otherwise that of plain.py; `BENCH_FILE` is what `torch.save` wrote, and the trainer replaces it by a rename.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import torch
from flask import Flask, Response
from torch import nn

from .plain import answered, made, new_app


class Reloaded:
    """The model of a file, as new as the file. One thread loads it, the others of its process wait for that."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._mtime_ns, self._net, self._loads = -1, nn.Module(), 0

    def get(self) -> tuple[nn.Module, int]:
        """The net, and how many have been loaded."""
        with self._lock:
            mtime_ns = self._path.stat().st_mtime_ns
            if mtime_ns != self._mtime_ns:
                net = made()
                net.load_state_dict(torch.load(self._path, weights_only=True))
                self._net, self._mtime_ns, self._loads = net, mtime_ns, self._loads + 1
            return self._net, self._loads


def with_mtime() -> Flask:
    """An app that says as `generation` how many files it has loaded."""
    flask, reloaded = new_app(), Reloaded(Path(os.environ["BENCH_FILE"]))
    reloaded.get()

    @flask.post("/evaluate/<model>")
    def evaluate(model: str) -> Response:
        net, loads = reloaded.get()
        response = answered(net, model)
        response.headers["X-Genlock-Generation"] = str(loads)
        return response

    return flask
