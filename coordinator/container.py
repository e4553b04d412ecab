"""Whether a checkpoint is whole, as far as its container tells: seen by the publisher at once, without torch and without reading tensors.

Workers look much closer. A file that is neither safetensors nor a zip archive is accepted: a loader of the user's may read it. Where
nobody has said that a file is ready, more is asked of it (`check_noticed`).
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import PurePath
from typing import IO, Any

from .disk import CALL_BYTES
from .errors import ArtifactRefused

#: Bytes of the header of a safetensors file; the library's own limit.
MAX_HEADER_BYTES = 100_000_000
_LENGTH = struct.Struct("<Q")
#: What a zip archive, and so a file of `torch.save`, begins with.
ZIP = b"PK\x03\x04"
#: The endings of files that torch.save and torch.export write.
_TORCH = (".pt", ".pth", ".pt2")
_TRUNCATED = "it is truncated, or was published before it was completely written"


def check_container(file: IO[bytes], path: str) -> None:
    """Raises ArtifactRefused about `path` if `file` is a safetensors file or a zip archive (torch.save), and not whole."""
    start = file.read(9)
    if start.startswith(ZIP):
        _check_zip(file, path)
    elif _is_tensors(start):
        read_header(file, path)
    elif path.endswith(".safetensors"):
        raise ArtifactRefused(path, "it is called .safetensors and does not begin like one")


def check_noticed(file: IO[bytes], path: str) -> None:
    """The same of a file that somebody else than its writer found ready: reads an archive to its end, in pieces, and compares the
    checksums in it. What has the name of a torch file has to be one that workers load.

    A safetensors file has no checksum, and an archive need not have any (0: torch.serialization.set_crc32_options(False), skip_data):
    then a piece in the middle that was never written cannot be seen.
    """
    check_container(file, path)
    file.seek(0)
    start = file.read(9)
    if start.startswith(ZIP):
        _compare_checksums(file, path)
    elif PurePath(path).suffix in _TORCH and not _is_tensors(start):
        why = "it is no archive of torch.save but a bare pickle, or no checkpoint at all, and workers load neither"
        raise ArtifactRefused(path, f"{why}: save it with torch.save in its default format, or with safetensors")


def read_header(file: IO[bytes], path: str) -> dict[str, Any]:
    """The header of a safetensors file; raises ArtifactRefused if it cannot be read, or the file is not as long as it says."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    (length,) = _LENGTH.unpack(file.read(8).ljust(8, b"\0"))
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise ArtifactRefused(path, f"its header says {length} bytes, the file has {size}: {_TRUNCATED}")
    try:
        header = json.loads(file.read(length))
        ends = [int(about["data_offsets"][1]) for name, about in header.items() if name != "__metadata__"]
    except (ValueError, OverflowError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ArtifactRefused(path, f"its header is not that of a safetensors file ({error})") from error
    expected = 8 + length + max(ends, default=0)
    if expected != size:
        raise ArtifactRefused(path, f"its tensors end at byte {expected}, the file has {size}: {_TRUNCATED}")
    return dict(header)


def _is_tensors(start: bytes) -> bool:
    return start[8:9] == b"{" and int(_LENGTH.unpack(start[:8])[0]) <= MAX_HEADER_BYTES


def _check_zip(file: IO[bytes], path: str) -> None:
    from zipfile import BadZipFile, ZipFile

    try:
        with ZipFile(file) as archive:
            outside = [
                item.filename
                for item in archive.infolist()
                if item.header_offset + item.compress_size > archive.start_dir
            ]
    except (BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise ArtifactRefused(path, f"its archive cannot be read ({error}): {_TRUNCATED}") from error
    if outside:
        raise ArtifactRefused(path, f"{outside[0]} is not all in its archive: {_TRUNCATED}")


def _compare_checksums(file: IO[bytes], path: str) -> None:
    from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

    name = "its archive"
    try:
        with ZipFile(file) as archive:
            for item in archive.infolist():
                if item.CRC and item.compress_type in (ZIP_STORED, ZIP_DEFLATED):
                    name = item.filename
                    with archive.open(item) as entry:  # compared at its end
                        while entry.read(CALL_BYTES):
                            pass
    except (BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        why = "a part of it was never written or copied, or was damaged since"
        raise ArtifactRefused(path, f"{name} is not what was saved ({error}): {why}") from error
