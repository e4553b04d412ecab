"""The simulated workers of a benchmark do what workers do: they join, hold, change, and do tasks."""

from pathlib import Path

import pytest
from genlock.coordinator.calls import Attach
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.identity import mark_had_member

from benchmarks.herd import Work, herd


def test_a_herd_is_a_fleet(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure that was reached by workers which had not dropped anything."""
    monkeypatch.chdir(Path(__file__).parents[2])
    (tmp_path / "m.bin").write_bytes(b"1")
    fleet.registry.ask(Attach())  # while it never had a member: otherwise it is closed for a lease
    fleet.publish("m", tmp_path / "m.bin")
    mark_had_member(fleet.store, fleet.name)
    found = fleet.identity
    path = fleet.endpoint.where.removeprefix("unix://")
    with herd(Work(path, fleet.name, found.fleet_id, found.lease_s, 6, "m")):
        assert [worker.models for worker in fleet.workers()] == [["m"]] * 6
        (tmp_path / "m.bin").write_bytes(b"2")
        flip = fleet.publish("m", tmp_path / "m.bin")
        assert (flip.outcome, len(flip.workers)) == ("committed", 6)
        for result in (fleet.clear(), fleet.refresh("m")):
            assert result.ok and len(result.done) == 6
