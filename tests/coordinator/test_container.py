"""Files that are whole, cut short, or something else, as a publisher looks at them."""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from genlock.coordinator.container import check_container, check_noticed
from genlock.coordinator.errors import ArtifactRefused
from safetensors.numpy import save


def checked(data: bytes, folder: Path, name: str = "m") -> None:
    """check_container of a file with these bytes."""
    path = folder / name
    path.write_bytes(data)
    with path.open("rb") as file:
        check_container(file, str(path))


def noticed(data: bytes, folder: Path, name: str = "m.pt") -> None:
    """check_noticed of a file with these bytes."""
    path = folder / name
    path.write_bytes(data)
    with path.open("rb") as file:
        check_noticed(file, str(path))


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


def without_checksums(data: bytes) -> bytes:
    """An archive as torch writes it when it was told to compute none: 0 before each entry, and in the directory."""
    out, none = bytearray(data), bytes(4)
    for signature, place in ((b"PK\x03\x04", 14), (b"PK\x01\x02", 16)):
        at = data.find(signature)
        while at >= 0:
            out[at + place : at + place + 4] = none
            at = data.find(signature, at + 1)
    return bytes(out)


@pytest.mark.parametrize(
    "make", [tensors, archive, lambda: archive(zipfile.ZIP_DEFLATED), lambda: without_checksums(archive())]
)
def test_a_whole_file_that_was_noticed_is_accepted(make: Callable[[], bytes], tmp_path: Path) -> None:
    noticed(make(), tmp_path)


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_hole_in_an_archive_that_was_noticed_is_refused(kind: int, tmp_path: Path) -> None:
    """`rsync --inplace` was interrupted, or a copy in several streams: the directory at the end is there, a piece before it never came.
    The checksums are the only thing that tells; where the writer wrote none, nothing does."""
    data = archive(kind)
    at = data.index(b"m/data/0") + 8
    torn = data[: at + 2] + bytes(3) + data[at + 5 :]
    checked(torn, tmp_path)
    with pytest.raises(ArtifactRefused, match=r"m/data/0 is not what was saved \(Bad CRC-32.*: .* never written or"):
        noticed(torn, tmp_path)
    noticed(without_checksums(torn), tmp_path)


def test_an_entry_that_begins_with_a_hole_is_refused(tmp_path: Path) -> None:
    data = archive()
    at = data.rindex(b"PK\x03\x04")
    with pytest.raises(ArtifactRefused, match="m/data/0 is not what"):
        noticed(data[:at] + bytes(40) + data[at + 40 :], tmp_path)
    with pytest.raises(ArtifactRefused, match="is not what was saved"):
        noticed(
            data[300:350].join((data[:4], data[400:])), tmp_path
        )  # pieces are missing: the directory leads to before its beginning


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.pt2"])
def test_a_bare_pickle_that_was_noticed_is_refused(name: str, tmp_path: Path) -> None:
    """No worker holds the model yet, so none can refuse it: it would become active, and every worker that comes would fail."""
    for data in (b"hello", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"\xff" * 8 + b"{"):
        checked(data, tmp_path, name)
        with pytest.raises(ArtifactRefused, match=r"bare pickle.*: save it with torch.save in its default format"):
            noticed(data, tmp_path, name)
    noticed(b"hello", tmp_path, "m.bin")  # a loader of the user's may read it


def test_what_torch_writes_without_checksums_is_accepted(tmp_path: Path) -> None:
    """It was told to compute none, or left room for what is written later: 0, which other readers of archives take for a damage."""
    import torch

    everything, room = tmp_path / "everything.pt", tmp_path / "room.pt"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"weight": torch.ones(1000)}, everything)
    finally:
        torch.serialization.set_crc32_options(True)
    with torch.serialization.skip_data():
        torch.save({"weight": torch.ones(1000)}, room)
    for path, has_some in ((everything, False), (room, True)):
        with zipfile.ZipFile(path) as archive:
            assert any(item.CRC for item in archive.infolist()) is has_some
            assert has_some or archive.testzip() is not None
        noticed(path.read_bytes(), tmp_path)
