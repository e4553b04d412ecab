"""Files that are whole, cut short, or something else, as a publisher looks at them."""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from genlock.coordinator.container import check_container
from genlock.coordinator.errors import ArtifactRefused
from safetensors.numpy import save


def checked(data: bytes, folder: Path, name: str = "m") -> None:
    """check_container of a file with these bytes."""
    path = folder / name
    path.write_bytes(data)
    with path.open("rb") as file:
        check_container(file, str(path))


def tensors() -> bytes:
    return bytes(save({"a": numpy.ones((3, 4), numpy.float32), "b": numpy.zeros(5, numpy.int64)}, {"k": "v"}))


def archive(kind: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as file:
        file.writestr("m/data.pkl", b"x" * 500)
        file.writestr("m/data/0", b"y" * 500)
    return buffer.getvalue()


def with_header(header: object) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "make", [tensors, archive, lambda: archive(zipfile.ZIP_DEFLATED), lambda: b"short", lambda: b"x" * 50]
)
def test_what_is_whole_or_unknown_is_accepted(make: Callable[[], bytes], tmp_path: Path) -> None:
    checked(make(), tmp_path)


@pytest.mark.parametrize("length", [9, 40, len(tensors()) - 1])
def test_tensors_that_are_cut_short_are_refused(length: int, tmp_path: Path) -> None:
    """The trainer's disk was full, or it was still writing: a worker would find that out, after every other had begun to load."""
    with pytest.raises(ArtifactRefused, match="truncated"):
        checked(tensors()[:length], tmp_path)


@pytest.mark.parametrize("length", [4, 300, len(archive()) - 1, len(archive()) - 60])
def test_an_archive_that_is_cut_short_is_refused(length: int, tmp_path: Path) -> None:
    with pytest.raises(ArtifactRefused, match="archive cannot be read"):
        checked(archive()[:length], tmp_path)


def test_an_archive_whose_directory_points_behind_it_is_refused(tmp_path: Path) -> None:
    data = archive()
    at = data.index(b"PK\x01\x02")
    size = struct.pack("<L", 60_000)
    with pytest.raises(ArtifactRefused, match=r"m/data\.pkl is not all in its archive"):
        checked(data[: at + 20] + size + data[at + 24 :], tmp_path)


def test_bytes_behind_the_last_tensor_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactRefused, match="its tensors end at byte"):
        checked(tensors() + b"more", tmp_path)


@pytest.mark.parametrize(
    "make",
    [
        lambda: struct.pack("<Q", 4) + b"{no}",
        lambda: with_header({"a": {"data_offsets": [0]}}),
        lambda: with_header({"a": {"data_offsets": [0, "x"]}}),
        lambda: with_header({"a": None}),
        lambda: with_header({"a": {}}),
        lambda: struct.pack("<Q", 2000) + b'{"a":' * 400,
        lambda: with_header({"a": {"data_offsets": [0, float("inf")]}}),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(make: Callable[[], bytes], tmp_path: Path) -> None:
    with pytest.raises(ArtifactRefused, match="not that of a safetensors file"):
        checked(make(), tmp_path)


def test_what_only_has_the_name_of_tensors_is_refused(tmp_path: Path) -> None:
    """`torch.save(…, "m.safetensors")`: no loader would take it."""
    with pytest.raises(ArtifactRefused, match=r"called \.safetensors"):
        checked(b"\x80\x04pickle", tmp_path, "m.safetensors")
