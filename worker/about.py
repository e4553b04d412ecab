"""What people see of a worker, and what it has loaded. Pure; `coordinator.status` reads the first."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from .slot import Slot
from .stats import Held
from .view import Views


def about(
    worker: str,
    views: Views,
    *,
    pid: int,
    started_at: float,
    last_error: str,
    stats: Mapping[str, Any],
    loading: Mapping[str, Any],
) -> str:
    """A JSON object that the heartbeat carries to the key `workers`; nothing is decided by it.

    `worker`: its name, host:pid. `started_at`: unix seconds. `stats`: the summary of its figures. `loading`: see LoadThread.
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
        "loading": loading,
        "stats": stats,
    }
    return json.dumps(facts)


def held_of(slots: Mapping[str, Slot], bytes_of: Callable[[int], int]) -> Held:
    """What is loaded: active; candidate; warm, which is the way back, or what answers until the active one is loaded. `bytes_of`: of
    the payload of a handle."""
    found = {}
    for model, slot in slots.items():
        active = slot.told.key if slot.told else None
        found[model] = {
            "active" if key == active else "candidate" if key == slot.target else "warm": {
                "generation": key[0],
                "bytes": bytes_of(handle),
            }
            for key, handle in sorted(slot.handles.items())
        }
    return found
