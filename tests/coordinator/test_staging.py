"""coordinator/staging.py: what a trainer gives is looked at before the first byte is copied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from genlock.coordinator.errors import ArtifactError, ArtifactMissing, ArtifactRefused, ManifestInvalid
from genlock.coordinator.flip import Progress
from genlock.coordinator.staging import Draft
from genlock.coordinator.store import Store


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    """With one file that is as it should be."""
    (tmp_path / "model.bin").write_bytes(b"weights")
    made = Draft(Store(tmp_path / "store"))
    made.copy("model", tmp_path / "model.bin")
    return made


def empty(draft: Draft, path: Path) -> None:
    path.touch()
    draft.copy("second", path)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda draft, path: draft.copy("second", path), ArtifactMissing),
        (lambda draft, _: draft.path("second"), ArtifactMissing),
        (lambda draft, path: draft.copy_golden(path), ArtifactMissing),
        (empty, ArtifactRefused),
        (lambda draft, _: draft.metrics.update(loss=float("nan")), ManifestInvalid),
        (lambda draft, _: draft.metrics.update(loss="0.25"), ManifestInvalid),
    ],
)
def test_what_is_wrong_is_said_before_a_byte_is_copied(
    draft: Draft, tmp_path: Path, spoil: Callable[[Draft, Path], object], error: type[ArtifactError]
) -> None:
    """A NaN among the metrics was refused when 40 GB had been uploaded."""
    told: list[Progress] = []
    spoil(draft, tmp_path / "nothing")
    with pytest.raises(error):
        draft.stage("m", author="", progress=told.append)
    assert told == [] and list(draft._store.objects()) == []


def test_what_is_right_is_staged_and_told(draft: Draft, tmp_path: Path) -> None:
    told: list[Progress] = []
    draft.metrics["loss"] = 0.25
    (tmp_path / "b.bin").write_bytes(b"more")
    draft.copy("b", tmp_path / "b.bin")
    manifest = draft.stage("m", author="eve", progress=told.append)
    assert (manifest.author, manifest.metrics, manifest.size) == ("eve", {"loss": 0.25}, 11)
    assert [(one.stage, one.done, one.total, one.text) for one in told] == [
        ("staging", 7, 11, "model"),
        ("staging", 11, 11, "b"),
    ]
    assert {found.digest for found in draft._store.objects()} == manifest.digests
