"""What people see of a worker. Pure; `coordinator.status` reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .view import Views


def about(worker: str, views: Views, *, pid: int, started_at: float, last_error: str, stats: Mapping[str, Any]) -> str:
    """A JSON object that the heartbeat carries to the key `workers`; nothing is decided by it.

    `worker`: its name, host:pid. `started_at`: unix seconds. `stats`: the summary of its figures.
    """
    facts = {
        "worker": worker,
        "host": worker.rpartition(":")[0],
        "pid": pid,
        "started_at": started_at,
        "models": {
            model: {"generation": view.generation, "version": view.version, "bytes": view.bytes, "stale": view.stale}
            for model, view in views.items()
        },
        "generations": {model: view.generation for model, view in views.items()},
        "last_error": last_error,
        "stats": stats,
    }
    return json.dumps(facts)
