"""A fleet-wide clear, and a refresh, of a thousand workers: from the call until all have answered."""

from __future__ import annotations

import time
from collections.abc import Callable

from genlock.coordinator.fleet import Fleet
from genlock.coordinator.task import TaskResult

from . import nets
from .figure import Figure, at_most, shown
from .herd import Work, herd
from .stand import Stand, stand

#: Workers, and fleets of so many, one after the other.
WORKERS, ROUNDS = 1000, 5
#: Seconds until all hold again what they have cleared; it takes less than one.
HOLD_S = 30.0
#: Seconds that the figure may take.
REACH_S = 2.0


def measure(*, quick: bool) -> list[Figure]:
    """See README.md, "Clearing"."""
    workers, rounds = (50, 2) if quick else (WORKERS, ROUNDS)
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for what, seconds in _round(workers).items():
            found.setdefault(what, []).append(seconds)
    looked = found.pop("status and workers")
    figures = [at_most(f"{what}, {workers} workers", values, REACH_S, unit="s") for what, values in found.items()]
    return [*figures, shown(f"status and workers, {workers} workers", looked, unit="s")]


def _round(workers: int) -> dict[str, float]:
    """Seconds by what was done, in a fleet of its own: one keeps what its last tasks found for a minute."""
    with stand() as place:
        fleet = place.fleet
        fleet.publish("m", nets.save(nets.Small(), place.folder / "model.safetensors"))
        with herd(_work(place, workers)):
            cleared = _timed(fleet.clear, workers)
            _wait_for_holders(fleet, workers)
            return {
                "clear": cleared,
                "refresh": _timed(lambda: fleet.refresh("m"), workers),
                "status and workers": _seconds(lambda: (fleet.workers(), fleet.status())),
            }


def _wait_for_holders(fleet: Fleet, workers: int) -> None:
    """A refresh is for those who hold the model: who has cleared it holds it again a moment later."""
    end = time.monotonic() + HOLD_S
    while (holders := fleet.model("m").holders) < workers:
        if time.monotonic() > end:
            raise RuntimeError(f"{holders} of {workers} hold their model again after {HOLD_S:g} s")
        time.sleep(0.01)


def _work(place: Stand, workers: int) -> Work:
    embedded, identity = place.fleet.endpoint.embedded, place.fleet.identity
    assert embedded is not None
    return Work(str(embedded.socket), place.fleet.name, identity.fleet_id, identity.lease_s, workers, "m")


def _timed(way: Callable[[], TaskResult], workers: int) -> float:
    """Seconds; all of them have to have done it."""

    def run() -> None:
        result = way()
        if not result.ok or len(result.done) != workers:
            raise RuntimeError(f"{len(result.done)} of {workers} have done it, {len(result.silent)} did not answer")

    return _seconds(run)


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
