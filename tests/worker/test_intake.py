"""worker/intake.py: a trained file becomes a generation when somebody needs it, and never while it is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from genlock.coordinator.errors import ArtifactMissing, ArtifactRefused, NotReady
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.flip import Flip
from genlock.worker.intake import PROPOSE_S, publish_file

Background = Callable[[Callable[[], Any]], "Future[Any]"]

#: Seconds since a file was written that nobody waits any longer.
LONG_AGO_S = 60


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Path]:
    """trained(value): the file, as if it had been written a minute ago."""
    monkeypatch.setattr("genlock.worker.intake._unchanged_s", lambda _path: float(LONG_AGO_S))

    def write(value: float) -> Path:
        path = tmp_path / "a.pt"
        torch.save({"weight": torch.full((2, 2), value)}, path)
        return path

    return write


def test_the_same_content_is_published_once(fleet: Fleet, trained: Callable[[float], Path]) -> None:
    """Each of forty workers meets the files at its first request."""
    path = trained(1)
    assert publish_file(fleet, "s--a", path, note="first use").outcome == "committed"
    assert publish_file(fleet, "s--a", path, note="first use").outcome == "unchanged"
    (row,) = fleet.history("s--a")
    assert row.message == f"first use: {path}"
    assert row.artifacts[0].source == str(path)
    assert publish_file(fleet, "s--a", trained(2), note="refresh").generation == 2


def test_two_workers_at_once_publish_once(
    fleet: Fleet, new_fleet: Callable[..., Fleet], trained: Callable[[float], Path], background: Background
) -> None:
    path = trained(1)
    others = [background(lambda: publish_file(new_fleet(), "s--a", path, note="first use").outcome) for _ in range(4)]
    assert sorted(other.result() for other in others) == ["committed", "unchanged", "unchanged", "unchanged"]
    assert len(fleet.history("s--a")) == 1


def test_what_the_fleet_gets_ready_for_is_not_proposed_again(
    fleet: Fleet, trained: Callable[[float], Path], member: Callable[..., Any]
) -> None:
    path = trained(1)
    holder = member("h:1", "s--a")
    flip: Flip = fleet.publish("s--a", path, wait=False)
    assert publish_file(fleet, "s--a", path, note="refresh").outcome == "candidate"
    assert holder.candidate("s--a") == flip.generation
    assert len(fleet.history("s--a")) == 1


def test_a_writer_is_waited_for(fleet: Fleet, trained: Callable[[float], Path], background: Background) -> None:
    """The writer has truncated the file and written half of it; the other half comes later."""
    whole = trained(1).read_bytes()
    path = trained(0)
    with path.open("wb") as file:
        publishing = background(lambda: publish_file(fleet, "s--a", path, note="first use", timeout_s=20))
        file.write(whole[: len(whole) // 2])
        file.flush()
        os.fsync(file.fileno())
        assert not publishing.done()
        file.write(whole[len(whole) // 2 :])
    assert publishing.result().outcome == "committed"
    assert fleet.history("s--a")[0].artifacts[0].size == len(whole)


def test_who_never_stops_writing_is_named(fleet: Fleet, trained: Callable[[float], Path]) -> None:
    path = trained(1)
    with path.open("ab"), pytest.raises(NotReady, match=f"{path} was written to all the time"):
        publish_file(fleet, "s--a", path, note="first use", timeout_s=0.1)
    path.write_bytes(b"")
    with pytest.raises(NotReady, match="or is empty"):
        publish_file(fleet, "s--a", path, note="first use", timeout_s=0.1)


def test_a_bounded_publish_gives_the_fleet_what_is_left(
    fleet: Fleet, trained: Callable[[float], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refresh of 20 s must not wait 20 s for the writer of a file, and then as long for the workers."""
    given: list[float | None] = []
    publishing = Fleet.publishing

    def noted(one: Fleet, model: str, **keywords: Any) -> Any:
        given.append(keywords["timeout"])
        return publishing(one, model, **keywords)

    monkeypatch.setattr(Fleet, "publishing", noted)
    publish_file(fleet, "s--a", trained(1), note="refresh", timeout_s=20.0, is_all=True)
    publish_file(fleet, "s--a", trained(2), note="first use", timeout_s=20.0)
    bounded, free = given
    assert bounded is not None and PROPOSE_S <= bounded <= 20.0
    assert free is None


def test_what_the_fleet_has_no_time_for_is_not_proposed(fleet: Fleet, trained: Callable[[float], Path]) -> None:
    """It would be refused because nobody was ready in time, and a content that was refused is not offered again."""
    path = trained(1)
    with pytest.raises(NotReady, match="the time was over before"):
        publish_file(fleet, "s--a", path, note="refresh", timeout_s=PROPOSE_S / 2, is_all=True)
    assert fleet.status().models == []
    assert publish_file(fleet, "s--a", path, note="refresh", is_all=True).outcome == "committed"
    assert publish_file(fleet, "s--a", path, note="refresh", timeout_s=0.0, is_all=True).outcome == "unchanged"


def test_a_file_that_somebody_changes_again_and_again_is_given_up(
    fleet: Fleet, trained: Callable[[float], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from genlock.coordinator.watching.offer import ChangedMeanwhile, Offer

    def changed(_offer: Offer, _request: str) -> None:
        raise ChangedMeanwhile("it is another")

    monkeypatch.setattr(Offer, "make", changed)
    with pytest.raises(NotReady, match="written to all the time"):
        publish_file(fleet, "s--a", trained(1), note="first use", timeout_s=0.1)


def test_what_is_torn_or_gone_is_refused(fleet: Fleet, trained: Callable[[float], Path], tmp_path: Path) -> None:
    """A training job died in the middle."""
    path = trained(1)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ArtifactRefused, match="truncated"):
        publish_file(fleet, "s--a", path, note="first use")
    with pytest.raises(ArtifactMissing):
        publish_file(fleet, "s--a", tmp_path / "nowhere.pt", note="first use")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtifactRefused, match="regular file"):
        publish_file(fleet, "s--a", tmp_path / "folder", note="first use")


def test_a_file_that_was_just_written_has_to_stay_as_it_is_for_a_while(fleet: Fleet, tmp_path: Path) -> None:
    """Its writer may be about to open it again: the time of its last change says how long it has been left alone."""
    path = tmp_path / "a.pt"
    torch.save({"weight": torch.ones(2)}, path)
    with pytest.raises(NotReady):
        publish_file(fleet, "s--a", path, note="first use", timeout_s=0.2)
    assert publish_file(fleet, "s--a", path, note="first use").outcome == "committed"
