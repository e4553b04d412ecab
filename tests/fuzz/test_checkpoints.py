"""Checkpoint files that somebody spoiled: bits flipped, pieces cut or doubled, headers that lie, zips with two faces, pickles with code.

The publisher refuses or accepts, the loader loads or says that the bytes are bad; neither ends otherwise, runs code, takes memory that
is not there, or takes minutes. What may end a process natively is tried in one of its own, below a limit of memory.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from genlock.coordinator.container import check_container
from genlock.coordinator.errors import ArtifactRefused, BadCheckpoint, LoadFailed
from genlock.coordinator.manifest import Manifest
from genlock.coordinator.store import Store
from genlock.worker.hostwork import HostWork
from genlock.worker.loaders import exported_program, state_dict_into
from genlock.worker.loading import load
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

fuzz = settings.get_profile("fuzz")

#: Seconds that a file of some KiB may take, on a busy machine.
LONGEST_S = 5.0
#: Address space of the process that tries what may end it: torch alone maps 5 GB of it.
ADDRESS_SPACE_BYTES = 16 * 2**30
WEIGHTS = {"weight": torch.eye(2), "bias": torch.zeros(2)}


def linear() -> nn.Module:
    return nn.Linear(2, 2)


class Calls:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


# --- good files ----------------------------------------------------------------------------------------------------------


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def exported() -> bytes:
    file = io.BytesIO()
    torch.export.save(torch.export.export(linear(), (torch.ones(1, 2),)), file)
    return file.getvalue()


@pytest.fixture(scope="module")
def good() -> dict[str, bytes]:
    """One of each kind, small; what is spoiled is made of these."""
    return {"safetensors": save(WEIGHTS), "torch": saved(WEIGHTS), "program": exported()}


class Bench:
    """A store, a host, and the way of a file through publisher and loader."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "file"
        self.store, self.host = Store(folder / "store"), HostWork(folder / "state", loads_per_host=1)

    def publisher_takes(self, data: bytes, name: str = "file") -> bool:
        self.path.write_bytes(data)
        with self.path.open("rb") as file:
            try:
                check_container(file, name)
            except ArtifactRefused as error:
                assert name in str(error)
                return False
        return True

    def loads(self, data: bytes, loader: Any) -> str:
        """What the whole load of a worker came to: loaded, bad or failed."""
        self.path.write_bytes(data)
        artifact = self.store.stage(self.path, name="model")
        manifest = Manifest.of("m", [artifact], created_at=0.0)
        try:
            load(manifest, 1, store=self.store, loader=loader, host=self.host, cancelled=lambda: False)
        except BadCheckpoint as error:
            assert str(error)
            return "bad"
        except LoadFailed as error:
            # Weights without a loader; a file of nothing, which no manifest of a publisher names.
            assert error.step == "loader", error
            return "failed"
        finally:
            self.store.path(artifact.digest).unlink()
        return "loaded"

    def tries(self, data: bytes, kind: str) -> str:
        began = time.monotonic()
        self.publisher_takes(data, "x.safetensors" if kind == "safetensors" else "x")
        found = self.loads(data, exported_program() if kind == "program" else state_dict_into(linear))
        assert time.monotonic() - began < LONGEST_S
        return found


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize("kind", ("safetensors", "torch", "program"))
def test_what_is_whole_is_loaded(bench: Bench, good: dict[str, bytes], kind: str) -> None:
    """Else nothing below would show anything."""
    assert bench.tries(good[kind], kind) == "loaded"


# --- spoiled bytes -------------------------------------------------------------------------------------------------------

NUMBERS = st.sampled_from(
    [
        b"\xff" * 8,
        b"\0" * 8,
        b"\xff" * 4,
        b"\xff\xff\xff\x7f",
        b"\x01\0\0\0",
        b"PK\x03\x04",
        b"PK\x01\x02",
        b"PK\x05\x06",
    ]
)


@st.composite
def spoiled(draw: st.DrawFn, data: bytes) -> bytes:
    """Bits flipped, numbers overwritten, a piece cut, doubled or put in; most of it where the directories are, at start and end."""
    for _ in range(draw(st.integers(1, 3))):
        near_start, near_end = st.integers(0, min(len(data), 300)), st.integers(max(0, len(data) - 1500), len(data))
        at = draw(near_start | near_end | st.integers(0, len(data)))
        piece = data[at : at + draw(st.integers(0, 64))]
        new = draw(
            st.binary(max_size=9)
            | NUMBERS
            | st.just(piece * 2)
            | st.just(bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in piece[:1]))
        )
        how = draw(st.integers(0, 3))
        end = at + (len(new) if how < 2 else len(piece))
        data = data[:at] if how == 3 and draw(st.booleans()) else data[:at] + new + data[end:]
    return data or b"\0"


@pytest.mark.parametrize("kind", ("safetensors", "torch"))
@fuzz
@given(data=st.data())
def test_spoiled_weights_are_loaded_or_bad(
    bench: Bench, good: dict[str, bytes], kind: str, data: st.DataObject
) -> None:
    assert bench.tries(data.draw(spoiled(good[kind])), kind) in ("loaded", "bad")


@pytest.mark.parametrize("kind", ("safetensors", "torch", "program"))
def test_no_file_ends_the_process(good: dict[str, bytes], tmp_path: Path, kind: str) -> None:
    """A library that reads beyond a mapping, or takes memory that is not there, does not raise: it dies. In a process of its own, with
    a limit of memory; "failed" would be such a memory that Python was told of."""
    path, seed = tmp_path / "good", random.SystemRandom().randrange(2**32)
    path.write_bytes(good[kind])
    words = [kind, str(path), str(seed), str(fuzz.max_examples), str(ADDRESS_SPACE_BYTES)]
    ran = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("spoiler.py")), *words],
        capture_output=True,
        text=True,
        timeout=100 + fuzz.max_examples,
    )
    assert ran.returncode == 0, f"{' '.join(words)} ended with {ran.returncode}: {ran.stderr[-2000:]}"
    found = json.loads(ran.stdout)
    assert sum(found.values()) == fuzz.max_examples and found.keys() <= {
        "refused",
        "BadCheckpoint",
        "loaded",
        "LoadFailed",
    }


@pytest.mark.parametrize("kind", ("safetensors", "program"))
@settings(fuzz, max_examples=fuzz.max_examples // 3)
@given(data=st.binary(min_size=1, max_size=60))
def test_any_bytes_are_bad(bench: Bench, kind: str, data: bytes) -> None:
    assert bench.tries(data, kind) == "bad"


# --- headers that lie ------------------------------------------------------------------------------------------------------


def tensors(header: Any, rest: bytes = b"\0" * 24, *, length: int | None = None) -> bytes:
    """A safetensors file with this header (bytes, or what becomes JSON)."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + rest


def row(start: Any = 0, end: Any = 16, shape: Any = (2, 2), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


BIAS = {"bias": row(16, 24, [2])}
HEADERS: dict[str, bytes] = {
    "length 2^63": tensors({}, length=2**63),
    "length 2^64 - 1": tensors({}, length=2**64 - 1),
    "length of 99 MB": tensors({}, length=99_000_000),
    "one byte too long": tensors({"weight": row()} | BIAS, length=500),
    "nested": tensors(b'{"weight":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "nested objects": tensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "infinite end": tensors(b'{"weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,Infinity]}}'),
    "an end of 1e999": tensors(b'{"weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,1e999]}}'),
    "NaN": tensors(b'{"weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,NaN]}}'),
    "5000 digits": tensors(b'{"weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,' + b"9" * 5000 + b"]}}"),
    "half a character": tensors(b'{"weight\xed\xa0\x80":{}}'),
    "half a surrogate": tensors(b'{"\\ud800":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', b"\0" * 16),
    "a list": tensors([]),
    "empty": tensors({}, b""),
    "overlapping": tensors({"weight": row(), "bias": row(8, 16, [2])}, b"\0" * 16),
    "out of the file": tensors({"weight": row(2**40, 2**40 + 16)} | BIAS),
    "backwards": tensors({"weight": row(16, 0)} | BIAS),
    "negative": tensors({"weight": row(-16, 0)} | BIAS),
    "a hole": tensors({"weight": row(), "bias": row(20, 28, [2])}, b"\0" * 28),
    "huge shape": tensors({"weight": row(shape=[2**62, 4])} | BIAS),
    "shape that overflows to the right size": tensors({"weight": row(shape=[2**32, 2**32, 4])} | BIAS),
    "negative shape": tensors({"weight": row(shape=[-2, -2])} | BIAS),
    "half as many bytes": tensors({"weight": row(dtype="F64")} | BIAS),
    "other dtype of that size": tensors({"weight": row(dtype="I32")} | BIAS),
    "no dtype of any": tensors({"weight": row(dtype="F128")} | BIAS),
    "the same name twice": tensors(
        b'{"weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}',
        b"\0" * 16,
    ),
    "metadata of another type": tensors({"__metadata__": [1], "weight": row()} | BIAS),
    "an item without anything": tensors({"weight": {}} | BIAS),
    "100,000 names": tensors({f"t{n}": row(0, 0, [0]) for n in range(100_000)}, b""),
    "9 MB of header": tensors(json.dumps({"weight": row()} | BIAS).encode().ljust(9 * 2**20)),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies_is_bad(bench: Bench, name: str) -> None:
    assert bench.tries(HEADERS[name], "safetensors") == "bad"


# --- zips ------------------------------------------------------------------------------------------------------------------


def zipped(entries: list[tuple[str, bytes]], compress: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compress) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return file.getvalue()


def entries_of(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(item.filename, archive.read(item)) for item in archive.infolist()]


def end_with(data: bytes, **fields: int) -> bytes:
    """The record at the end of the zip with other numbers in it."""
    places = {"disk": (4, 2), "count": (10, 2), "size": (12, 4), "offset": (16, 4), "comment": (20, 2)}
    end = bytearray(data[-22:])
    for name, value in fields.items():
        at, width = places[name]
        end[at : at + width] = value.to_bytes(width, "little")
    return data[:-22] + bytes(end)


def central_with(data: bytes, at: int, new: bytes) -> bytes:
    """The first entry of the zip's directory with other bytes `at` an offset of it."""
    start = data.index(b"PK\x01\x02") + at
    return data[:start] + new + data[start + len(new) :]


ZIPS: dict[str, Callable[[bytes], bytes]] = {
    "a bomb": lambda good: zipped([("x/data.pkl", b"\0" * 20_000_000), ("x/data/0", b"")], zipfile.ZIP_DEFLATED),
    "a compressed one": lambda good: zipped(entries_of(good), zipfile.ZIP_DEFLATED),
    "bzip2": lambda good: zipped(entries_of(good), zipfile.ZIP_BZIP2),
    "an entry beyond the file": lambda good: central_with(good, 42, b"\xff\xff\xff\x7f"),
    "an entry larger than the file": lambda good: central_with(good, 20, b"\xff\xff\xff\x7f\xff\xff\xff\x7f"),
    "an entry at the place of another": lambda good: central_with(good, 42, good[good.rindex(b"PK\x01\x02") + 42 :][:4]),
    "an extra field that is cut": lambda good: central_with(good, 30, b"\xff\xff"),
    "a zip64 field that is cut": lambda good: central_with(good, 20, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
    "a name that is no text": lambda good: central_with(central_with(good, 8, b"\0\x08"), 46, b"\xff\xfe"),
    "encrypted": lambda good: central_with(good, 8, b"\x01\0"),
    "a later version": lambda good: central_with(good, 6, b"\xff\xff"),
    "65,535 entries": lambda good: end_with(good, count=65_535),
    "a directory of 4 GB": lambda good: end_with(good, size=2**32 - 1),
    "a directory elsewhere": lambda good: end_with(good, offset=2**32 - 1),
    "a comment that is not there": lambda good: end_with(good, comment=65_535),
    "twice the same name": lambda good: zipped([*entries_of(good), entries_of(good)[0]]),
    "two zips": lambda good: good + good,
    "a path outside": lambda good: zipped([("../" + name, data) for name, data in entries_of(good)]),
    "an absolute path": lambda good: zipped([("/" + name, data) for name, data in entries_of(good)]),
    "nothing": lambda good: zipped([]),
    "no pickle": lambda good: zipped([(name, data) for name, data in entries_of(good) if not name.endswith("data.pkl")]),
    "no storage": lambda good: zipped([(name, data) for name, data in entries_of(good) if "/data/" not in name]),
    "a storage that is too short": lambda good: zipped([(name, data[:3] if "/data/" in name else data) for name, data in entries_of(good)]),
}  # fmt: skip


#: torch writes the larger records at the end as well, and those count where the small ones say 2^32 - 1; the comment is nobody's.
HARMLESS = {
    "65,535 entries",
    "a directory of 4 GB",
    "a directory elsewhere",
    "a comment that is not there",
    "a storage that is too short",  # its weights are then other bytes of the same file
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ("torch", "program"))
@pytest.mark.parametrize("name", ZIPS)
def test_a_zip_that_lies_is_never_a_crash(bench: Bench, good: dict[str, bytes], name: str, kind: str) -> None:
    """What makes no difference to any reader is loaded: nobody was misled."""
    found = bench.tries(ZIPS[name](good[kind]), kind)
    assert found == "bad" or (found == "loaded" and (name in HARMLESS or (name, kind) == ("no pickle", "program")))


# --- pickles ---------------------------------------------------------------------------------------------------------------


def with_pickle(good: bytes, data: bytes) -> bytes:
    return zipped([(name, data if name.endswith("data.pkl") else old) for name, old in entries_of(good)])


#: What torch.export.load unpickles, of this torch and of older ones.
PICKLED = ("sample_inputs/model.pt", "weights/model.pt", "constants/model.pt")


def code(canary: Path) -> list[Any]:
    """Objects that make the file `canary` when they are unpickled by who does not look."""
    touch = f"open({str(canary)!r}, 'w')"
    return [
        Calls(os.system, f"touch {canary}"),
        Calls(eval, touch),
        Calls(exec, touch),
        Calls(subprocess.call, ["touch", str(canary)]),
        Calls(getattr, Calls(eval, touch), "x"),
        {"weight": Calls(eval, touch), "bias": torch.zeros(2)},
        Calls(torch.load, str(canary)),
        Calls(torch.hub.load, str(canary)),
        Calls(pickle.loads, pickle.dumps(Calls(eval, touch))),
    ]


def test_no_pickle_runs_code(bench: Bench, good: dict[str, bytes], tmp_path: Path) -> None:
    """As a file of its own, as what torch.save wrote, and as samples, weights and constants of a program."""
    canary = tmp_path / "canary"
    for one in code(canary):
        data = pickle.dumps(one, protocol=2)
        files = [(data, "torch"), (with_pickle(good["torch"], data), "torch")]
        if not isinstance(one, dict):
            files.append((saved(one), "torch"))
        for name in PICKLED:
            for inside in (data, with_pickle(good["torch"], data)):
                entries = [(other, old) for other, old in entries_of(good["program"]) if not other.endswith(name)]
                files.append((zipped([*entries, (f"archive/data/{name}", inside)]), "program"))
        for content, kind in files:
            bench.tries(content, kind)
            assert not canary.exists(), (one.function if isinstance(one, Calls) else one, kind)


@settings(fuzz, max_examples=fuzz.max_examples // 2)
@given(data=st.data())
def test_a_spoiled_pickle_is_loaded_or_bad(bench: Bench, good: dict[str, bytes], data: st.DataObject) -> None:
    """With a sum that fits, so that the zip does not say it first."""
    old = next(old for name, old in entries_of(good["torch"]) if name.endswith("data.pkl"))
    assert bench.tries(with_pickle(good["torch"], data.draw(spoiled(old))), "torch") in ("loaded", "bad")
