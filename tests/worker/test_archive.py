"""Files that were made to cost memory, minutes or a second opinion: refused by their directory alone."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import pytest
from genlock.worker.archive import (
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    FormatError,
    check_safetensors,
    directory,
    kind_of,
    read_entry,
)


def zipped(*names: str, compression: int = zipfile.ZIP_STORED, body: bytes = b"x") -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name in names:
            archive.writestr(name, body)
    return file


def with_zip64(file: io.BytesIO, **changed: int) -> io.BytesIO:
    """The same zip with the two records for large ones, as torch writes them always; `changed` replaces their numbers."""
    data = file.getvalue()
    size, offset = struct.unpack("<LL", data[-10:-2])
    numbers = {"size": size, "offset": offset, "end64": len(data) - 22, **changed}
    end64 = struct.pack("<4s36xQQ", b"PK\x06\x06", numbers["size"], numbers["offset"])
    locator = struct.pack("<4s4xQ4x", b"PK\x06\x07", numbers["end64"])
    return io.BytesIO(data[:-22] + end64 + locator + data[-22:])


def write(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "object").write_bytes(data)
    return tmp_path / "object"


# --- kind -------------------------------------------------------------------------------------------------------------


def test_the_kind_is_told_by_the_content(tmp_path: Path) -> None:
    """Objects of the store are named by their digest: there is no suffix to go by."""
    assert kind_of(write(tmp_path, zipped("a/b").getvalue())) == "zip"
    assert kind_of(write(tmp_path, struct.pack("<Q", 2) + b"{}")) == "safetensors"


@pytest.mark.parametrize(
    ("data", "why"),
    [(b"\x80\x02}q\x00.", "bare pickle"), (b"GGUF1234567890", "neither"), (b"", "neither"), (b"\x02", "neither")],
)
def test_other_content_is_refused(data: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=why):
        kind_of(write(tmp_path, data))


# --- safetensors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "why"), [(2**63, "truncated"), (100, "truncated"), (MAX_HEADER_BYTES + 1, "are allowed")]
)
def test_a_header_that_is_too_long_is_never_read(length: int, why: str, tmp_path: Path) -> None:
    """A header of 60 MB with 600,000 tensors takes half a minute to load, with the GIL held for much of it."""
    path = write(tmp_path, struct.pack("<Q", length) + b"{}")
    if why == "are allowed":
        with path.open("r+b") as file:
            file.truncate(length + 8)
    with pytest.raises(FormatError, match=why):
        check_safetensors(path)


def test_a_file_of_four_bytes_has_no_header(tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        check_safetensors(write(tmp_path, b"\x01\0\0\0"))


def test_a_good_header_is_let_through(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    check_safetensors(write(tmp_path, struct.pack("<Q", len(header)) + header + b"\0" * 4))


# --- zip --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda file: file, with_zip64], ids=["zip", "zip64"])
def test_the_directory_has_no_outer_folder(wrap: object) -> None:
    assert callable(wrap)
    file = wrap(zipped("m/data.pkl", "m/data/0"))
    entries = directory(file)
    assert list(entries) == ["data.pkl", "data/0"]
    assert read_entry(file, entries["data.pkl"]) == b"x"


def test_a_zip_bomb_is_refused() -> None:
    """A pickle of 10 GB takes 10 MB when it is deflated; torch never deflates."""
    with pytest.raises(FormatError, match="compressed"):
        directory(zipped("m/data.pkl", compression=zipfile.ZIP_DEFLATED))


def test_a_directory_too_long_is_never_read() -> None:
    """100,000 entries: the size of the directory says it, before any of them is looked at."""
    file = with_zip64(zipped("m/data.pkl"))
    data = bytearray(file.getvalue())
    end = len(data) - 22 - 20 - 56
    padding = MAX_HEADER_BYTES
    forged = with_zip64(
        io.BytesIO(bytes(data[:end]) + b"\0" * padding + struct.pack("<4s8xLL2x", b"PK\x05\x06", end + padding, 0))
    )
    with pytest.raises(FormatError, match="directory has"):
        directory(forged)


def test_too_many_entries_are_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo("m/0")
        for number in range(MAX_TENSORS + 1):
            info.filename = f"m/{number}"
            archive.writestr(info, b"")
    with pytest.raises(FormatError, match=f"{MAX_TENSORS + 1} entries"):
        directory(file)


@pytest.mark.parametrize("names", [("m/data.pkl", "m/data.pkl"), ("m/data.pkl", "m/DATA.PKL")])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_is_refused(names: tuple[str, ...]) -> None:
    """The one that checks reads the last of the two, the one that loads the first; and torch ignores case."""
    with pytest.raises(FormatError, match="twice"):
        directory(zipped(*names))


def test_two_outer_folders_are_refused() -> None:
    with pytest.raises(FormatError, match="one folder"):
        directory(zipped("a/data.pkl", "b/data.pkl"))


def test_a_truncated_zip_is_refused() -> None:
    data = zipped("m/data.pkl").getvalue()
    for length in range(len(data)):
        with pytest.raises(FormatError):
            directory(io.BytesIO(data[:length]))


@pytest.mark.parametrize("changed", [{"size": 5}, {"offset": 5}, {"end64": 5}])
def test_two_ends_that_disagree_are_refused(changed: dict[str, int]) -> None:
    """One reader believes the old record, another one the new one: they would see two directories."""
    with pytest.raises(FormatError, match="do not agree"):
        directory(with_zip64(zipped("m/data.pkl"), **changed))


def test_something_before_the_zip_is_refused() -> None:
    """Python corrects all offsets by what stands before a zip, torch does not."""
    with pytest.raises(FormatError, match="before its end"):
        directory(io.BytesIO(b"MZ" + zipped("m/data.pkl").getvalue()))


def test_a_directory_of_rubbish_is_refused() -> None:
    data = bytearray(zipped("m/data.pkl").getvalue())
    data[data.index(b"PK\x01\x02")] = 0
    with pytest.raises(FormatError, match="no zip"):
        directory(io.BytesIO(data))


def test_a_large_pickle_is_not_read() -> None:
    file = zipped("m/data.pkl", body=b"x" * 100)
    with pytest.raises(FormatError, match="100 bytes, 99 are allowed"):
        read_entry(file, directory(file)["data.pkl"], limit=99)


def test_a_damaged_entry_is_refused() -> None:
    file = zipped("m/data.pkl", body=b"abcdefgh")
    entry = directory(file)["data.pkl"]
    damaged = io.BytesIO(file.getvalue().replace(b"abcdefgh", b"abcdefgX"))
    with pytest.raises(FormatError, match="cannot be read"):
        read_entry(damaged, entry)
