"""Whether a checkpoint is whole, as far as its container tells: seen by the publisher at once, without torch and without reading tensors.

Workers look much closer. A file that is neither safetensors nor a zip archive is accepted: a loader of the user's may read it.
"""

from __future__ import annotations

import json
import os
import struct
from typing import IO, Any

from .errors import ArtifactRefused

#: Bytes of the header of a safetensors file; the library's own limit.
MAX_HEADER_BYTES = 100_000_000
_LENGTH = struct.Struct("<Q")
_TRUNCATED = "it is truncated, or was published before it was completely written"


def check_container(file: IO[bytes], path: str) -> None:
    """Raises ArtifactRefused about `path` if `file` is a safetensors file or a zip archive (torch.save), and not whole."""
    start = file.read(9)
    if start.startswith(b"PK\x03\x04"):
        _check_zip(file, path)
    elif start[8:9] == b"{" and _LENGTH.unpack(start[:8])[0] <= MAX_HEADER_BYTES:
        read_header(file, path)
    elif path.endswith(".safetensors"):
        raise ArtifactRefused(path, "it is called .safetensors and does not begin like one")


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
