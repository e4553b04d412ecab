"""Bytes on disk and in Redis that say what a model is: manifests, golden outputs, a fleet's identity, notes of the last good generation,
marks of what was verified. Each is read, or refused by its documented error; nothing in them opens a file outside the store."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy
import pytest
from genlock.coordinator.errors import (
    ArtifactError,
    ArtifactMissing,
    ArtifactRefused,
    IdentityInvalid,
    InvalidName,
    ManifestInvalid,
)
from genlock.coordinator.golden import read_golden, write_golden
from genlock.coordinator.identity import MAX_LEASE_S, MIN_LEASE_S, identity
from genlock.coordinator.manifest import Artifact, Golden, Manifest, Source, decode, version_of
from genlock.coordinator.store import Store
from genlock.worker.hostwork import HostWork
from genlock.worker.lastgood import LastGood
from hypothesis import example, given, settings
from hypothesis import strategies as st

fuzz = settings.get_profile("fuzz")
#: Of tests that write a file for each example.
fewer = settings(fuzz, max_examples=fuzz.max_examples // 2)

DIGEST = "ab" * 32
FULL = Manifest.of(
    "m",
    [Artifact("a", 1, DIGEST), Artifact("b", 2, "cd" * 32)],
    created_at=1.5,
    sources={"a": Source("/tmp/a", 7)},
    golden=Golden("ef" * 32, 3),
    author="ann",
    message="because",
)

BIG = st.sampled_from([2**53, 2**53 + 1, 2**63, 2**64, -1, 10**400])
NAMES = st.sampled_from(
    [
        "../x",
        "/etc/passwd",
        "..",
        ".",
        "a/b",
        "a\0",
        "",
        "x" * 129,
        "ÿ",
        "a\n",
        "A" * 64,
        "../" * 20 + "x",
        DIGEST.upper(),
        "0" * 63,
    ]
)
TEXTS = NAMES | st.text(max_size=8) | st.sampled_from(["y" * 5000, "\ud800", "\U0010ffff", "NaN"])
SCALARS = st.none() | st.booleans() | BIG | st.integers() | st.floats() | TEXTS
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8
)


def to_json(value: Any) -> bytes:
    """As any program may write it: NaN and Infinity as words, half a surrogate as its three bytes or as an escape."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


@st.composite
def edited(draw: st.DrawFn, document: Any) -> Any:
    """The document with one value at any depth replaced, taken out, or put under another name."""
    if isinstance(document, list) and document and draw(st.booleans()):
        at = draw(st.integers(0, len(document) - 1))
        return [*document[:at], draw(edited(document[at])), *document[at + 1 :]]
    if not isinstance(document, dict) or not document or draw(st.integers(0, 7)) == 0:
        return draw(JSON)
    key = draw(st.sampled_from(sorted(document)))
    rest = {name: value for name, value in document.items() if name != key}
    if draw(st.integers(0, 5)) == 0:
        return rest | draw(st.dictionaries(TEXTS, JSON, max_size=1))
    return rest | {key: draw(edited(document[key]))}


@st.composite
def spoiled(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with a piece of them replaced, doubled or taken out."""
    start = draw(st.integers(0, len(data)))
    end = draw(st.integers(start, min(len(data), start + 40)))
    middle = draw(
        st.binary(max_size=20)
        | st.sampled_from([b"", data[start:end] * 2, b"\0" * 20, b"\xff\xfe", b'"', b"9" * 30, b"NaN"])
    )
    return data[:start] + middle + data[end:]


# --- manifests ---------------------------------------------------------------------------------------------------------


def check_manifest(data: bytes | str) -> None:
    """Either refused, or the same thing written again, and every object that it names is one of the store."""
    try:
        found = decode(data)
    except (ManifestInvalid, InvalidName) as error:
        assert str(error)
        return
    assert decode(found.encode()) == found
    assert found.version == version_of(found.artifacts)
    store = Store(Path("/nowhere"))
    for digest in found.digests:
        assert store.path(digest).is_relative_to(store.root) and ".." not in store.path(digest).parts


@fuzz
@given(st.binary(max_size=400) | st.text(max_size=400))
def test_any_bytes_are_a_manifest_or_none(data: bytes | str) -> None:
    check_manifest(data)


@fuzz
@given(edited(json.loads(FULL.encode())))
def test_a_manifest_with_another_field_is_one_or_none(document: Any) -> None:
    check_manifest(to_json(document))


@fuzz
@given(edited(json.loads(FULL.encode())))
def test_a_version_that_fits_makes_no_name_good(document: Any) -> None:
    """Whoever can write to Redis can compute a version, too."""
    try:
        rows = [Artifact(row["name"], row["size"], row["digest"]) for row in document["artifacts"]]
        document["version"] = version_of(rows)
    except (TypeError, KeyError, ValueError, msgspec.MsgspecError):
        pass
    check_manifest(to_json(document))


@fuzz
@given(spoiled(FULL.encode()))
def test_a_manifest_with_other_bytes_in_it_is_one_or_none(data: bytes) -> None:
    check_manifest(data)


@pytest.mark.parametrize(
    "data",
    (
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"model":' + b'"m","model":' * 3 + b'"m"}',
        FULL.encode()[:-1] + b',"version":"' + b"0" * 64 + b'"}',
        FULL.encode()[:-1] + b',"artifacts":[]}',
        b" " * 65_537,
        FULL.encode().replace(b'"message":"because"', b'"message":"' + b"\\u0000" * 4096 + b'"'),
    ),
    ids=("lists", "objects", "twice", "two versions", "two lists", "long", "NUL"),
)
def test_shapes_that_no_generator_finds(data: bytes) -> None:
    check_manifest(data)


def test_thousands_of_artifacts_are_refused() -> None:
    """Before anything of them is looked at: a worker that has to read such a one must not be busy with it."""
    rows = tuple(Artifact(f"a{n:04}", 1, DIGEST) for n in range(5000))
    found = Manifest(model="m", version=version_of(rows), artifacts=rows, created_at=0.0)
    with pytest.raises(ManifestInvalid, match="bytes"):
        decode(found.encode())
    rows = rows[:65]
    found = Manifest(model="m", version=version_of(rows), artifacts=rows, created_at=0.0)
    with pytest.raises(ManifestInvalid, match="65 artifacts"):
        decode(found.encode())


@fewer
@given(TEXTS | JSON, st.integers(-1, 5))
@example("../../secret", 6)
@example("..\0" + "0" * 61, 6)
@example("0" * 62 + "/x", 6)
def test_no_digest_leaves_the_store(tmp_path_factory: pytest.TempPathFactory, digest: Any, size: int) -> None:
    """A store that is asked for what somebody wrote: not below its root is refused, and nothing is opened, set aside or made."""
    root = tmp_path_factory.mktemp("store")
    (root.parent / "secret").write_bytes(b"secret")
    store = Store(root)
    for action in (store.path, store.set_aside, lambda d: store.open(d, size), lambda d: store.verify(d, size)):
        with pytest.raises((ArtifactRefused, ArtifactMissing)):
            assert action(digest) is not None, "there is no object to be set aside"
            raise ArtifactMissing(str(digest))
    assert [path for path in root.rglob("*") if path.is_file()] == []


# --- golden outputs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    inputs, outputs = {"x": [[1.0, 2.0]], "n": [1, 2]}, [numpy.array([[0.5]]), numpy.array([1.5, 2.5])]
    return write_golden(tmp_path_factory.mktemp("golden"), inputs, outputs)


def parts_of(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and what follows it."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


@pytest.mark.parametrize("framework", ("pt", "numpy"))
@fewer
@given(data=st.data())
def test_golden_outputs_are_read_or_refused(golden: Path, framework: Any, data: st.DataObject) -> None:
    header, rest = parts_of(golden)
    if data.draw(st.booleans()):
        text = to_json(data.draw(edited(header)))
        content = struct.pack("<Q", len(text)) + text + rest
    else:
        content = data.draw(spoiled(golden.read_bytes()) | st.binary(max_size=100))
    path = golden.with_suffix(".spoiled")
    path.write_bytes(content)
    try:
        inputs, outputs = read_golden(path, framework)
    except ArtifactRefused as error:
        assert str(path) in str(error)
    else:
        assert inputs is not None and outputs is not None


# --- the identity of a fleet -------------------------------------------------------------------------------------------

IDENTITY = {"format": 1, "fleet_id": "f" * 32, "lease_s": 3.0}


@fewer
@given(st.binary(max_size=200) | edited(IDENTITY).map(to_json) | spoiled(to_json(IDENTITY)))
@example(b"[" * 100_000)
@example(b'{"format":1,"fleet_id":' + b'{"a":' * 100_000)
@example(b"")
def test_an_identity_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """The lease of a file that somebody edited is one that a fleet may have; anything else says what to do about it."""
    store = Store(tmp_path_factory.mktemp("store"))
    path = store.root / "fleets" / "t.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    try:
        found = identity(store, "t", lease_s=None)
    except IdentityInvalid as error:
        assert str(path) in str(error)
    else:
        assert len(found.fleet_id) == 32 and MIN_LEASE_S <= found.lease_s <= MAX_LEASE_S
    assert path.read_bytes() == data, "nobody but an operator mends it: its workers may know another id"


# --- the state folder of a worker ----------------------------------------------------------------------------------------

NOTE = {"generation": 3, "manifest": FULL.encode().decode()}


@fewer
@given(st.binary(max_size=200) | edited(NOTE).map(to_json) | spoiled(to_json(NOTE)))
@example(b'{"x":' + b"[" * 100_000)
@example(b'{"generation":1,"manifest":"' + b"[" * 60_000 + b'"}')
def test_a_note_of_the_last_good_generation_is_read_or_none(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    state = tmp_path_factory.mktemp("state")
    note = LastGood(state, "t")
    note.write("m", 3, FULL.encode().decode())
    (state / "last_good" / "t" / "m.json").write_bytes(data)
    found = note.read("m")
    assert found is None or (
        isinstance(found[0], int) and found[1].model == "m" and decode(found[1].encode()) == found[1]
    )


@fewer
@given(st.binary(max_size=80))
def test_a_mark_that_is_none_verifies_again(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """A mark says that the object was read and found whole; what somebody wrote there must not count as that."""
    folder = tmp_path_factory.mktemp("host")
    (folder / "file").write_bytes(b"content")
    store, host = Store(folder / "store"), HostWork(folder / "state", loads_per_host=1)
    artifact = store.stage(folder / "file", name="a")
    path = store.path(artifact.digest)
    path.chmod(0o600)
    path.write_bytes(b"CONTENT")
    mark = host._marker(store, artifact.digest)
    mark.parent.mkdir(parents=True)
    mark.write_bytes(data)
    with pytest.raises(ArtifactError):
        host.verified(store, artifact.digest, artifact.size, lambda: False)
