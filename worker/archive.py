"""What a file is by its content, and whether its directory may be given to a library.

The bytes are those that were published, but nobody promised that they mean well. A directory that costs minutes or memory is refused
before any library reads it; so is what two readers of one zip could understand differently (a name that stands twice, a directory
that is not at the end), because then the one that checks and the one that loads could see two files.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import IO, Literal
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from ..coordinator.container import ZIP

#: Tensors of one file. 50,000 take 2 s from safetensors and 10 s by `torch.load`, most of it with the GIL held (2 cores).
MAX_TENSORS = 50_000
#: Bytes of a header, a directory, a pickle or a graph, which are all read at once: 50,000 tensors with names of 100 letters.
MAX_HEADER_BYTES = 8 * 2**20

#: The records at the end of a zip: signature, and of the directory its bytes and where it begins (the locator: where _END64 begins).
_END = struct.Struct("<4s8xLL2x")
_END64_LOCATOR = struct.Struct("<4s4xQ4x")
_END64 = struct.Struct("<4s36xQQ")
#: What stands in _END for a number that only _END64 can hold.
_ELSEWHERE = 2**32 - 1


class FormatError(Exception):
    """The file cannot be what it has to be; the text says why."""


def kind_of(path: Path) -> Literal["safetensors", "zip"]:
    """By the content, never by the name: an object of the store has no suffix. Raises FormatError or OSError."""
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith(ZIP):
        return "zip"
    if start[8:9] == b"{":
        return "safetensors"
    if start[:1] == b"\x80":
        raise FormatError(
            "it is a bare pickle, which can hold code: save it with safetensors, or with torch.save and its default format"
        )
    raise FormatError(f"it is neither safetensors nor an archive of torch.save: it begins with {start!r}")


def check_safetensors(path: Path) -> None:
    """Raises FormatError if the header is longer than the file or than MAX_HEADER_BYTES."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
    size = path.stat().st_size
    if length > size - 8:
        raise FormatError(f"its header says {length} bytes, the file has {size}: it is truncated")
    if length > MAX_HEADER_BYTES:
        raise FormatError(f"its header has {length} bytes, {MAX_HEADER_BYTES} are allowed")


def directory(file: IO[bytes]) -> dict[str, ZipInfo]:
    """The files of a zip by name, without the folder that torch puts around them all; raises FormatError.

    Nothing may be compressed (torch never does), so no file in it is larger than the zip.
    """
    if (length := _directory_bytes(file)) > MAX_HEADER_BYTES:
        raise FormatError(f"its directory has {length} bytes, {MAX_HEADER_BYTES} are allowed")
    try:
        entries = ZipFile(file).infolist()
    except (BadZipFile, NotImplementedError, ValueError) as error:
        raise FormatError(f"it is no zip that can be read: {error}") from error
    if len(entries) > MAX_TENSORS:
        raise FormatError(f"it has {len(entries)} entries, {MAX_TENSORS} are allowed")
    if any(entry.compress_type != ZIP_STORED for entry in entries):
        raise FormatError("it is compressed, which torch.save never does")
    # torch looks names up without regard to case
    if len({entry.filename.lower() for entry in entries}) < len(entries):
        raise FormatError("a name stands twice in it")
    if len({entry.filename.partition("/")[0] for entry in entries}) != 1:
        raise FormatError("its files are not all in one folder, as torch puts them")
    return {entry.filename.partition("/")[2]: entry for entry in entries}


def read_entry(file: IO[bytes], entry: ZipInfo, *, limit: int = MAX_HEADER_BYTES) -> bytes:
    """The bytes of a file in the zip; raises FormatError if it has more than `limit` or is damaged."""
    if entry.file_size > limit:
        raise FormatError(f"{entry.filename} has {entry.file_size} bytes, {limit} are allowed")
    try:
        return ZipFile(file).read(entry)
    except (BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise FormatError(f"{entry.filename} cannot be read: {error}") from error


def _directory_bytes(file: IO[bytes]) -> int:
    """The bytes of a zip's directory, by the records that have to be the last ones (APPNOTE 6.3.10, 4.3.14 to 4.3.16)."""
    end = file.seek(0, os.SEEK_END) - _END.size
    signature, *found = _END.unpack(_at(file, end, _END.size))
    if signature != b"PK\x05\x06":
        raise FormatError("the end of the zip is missing: it is truncated")
    locator = end - _END64_LOCATOR.size
    signature, end64 = _END64_LOCATOR.unpack(_at(file, locator, _END64_LOCATOR.size))
    if signature == b"PK\x06\x07":
        signature, *large = _END64.unpack(_at(file, locator - _END64.size, _END64.size))
        agree = all(small in (_ELSEWHERE, number) for small, number in zip(found, large, strict=True))
        if signature != b"PK\x06\x06" or end64 != locator - _END64.size or not agree:
            raise FormatError("the records at the end of the zip do not agree")
        found, end = large, end64
    if sum(found) != end:
        raise FormatError("the directory of the zip is not before its end")
    return int(found[0])


def _at(file: IO[bytes], offset: int, length: int) -> bytes:
    """`length` bytes from `offset`; zeros where the file has none."""
    file.seek(max(0, offset))
    return file.read(length).ljust(length, b"\0")
