"""coordinator/manifest.py: the same bytes are the same version, and nothing that arrives is believed."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import numpy
import pytest
from genlock.coordinator.errors import InvalidName, ManifestInvalid
from genlock.coordinator.manifest import (
    MAX_ARTIFACTS,
    MAX_MANIFEST_BYTES,
    Artifact,
    Golden,
    Manifest,
    Source,
    check_metrics,
    check_name,
    decode,
    version_of,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

CNN = Artifact("cnn", 10, "a" * 64)
SVM = Artifact("svm", 20, "b" * 64)
FULL = Manifest.of(
    "fusion",
    [SVM, CNN],
    created_at=1.5,
    sources={"cnn": Source("/out/a.pt", 7)},
    golden=Golden("c" * 64, 30),
    author="trainer",
    message="run 41 – größer",
)

#: A busy machine is no reason to fail.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NAMES = st.text("aZ09._-", min_size=1, max_size=128).filter(lambda name: name not in (".", ".."))
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
SIZES = st.integers(0, 2**53)
ARTIFACTS = st.lists(st.builds(Artifact, NAMES, SIZES, DIGESTS), min_size=1, max_size=5, unique_by=lambda one: one.name)
TEXTS = st.text(max_size=50)
MANIFESTS = st.builds(
    Manifest.of,
    NAMES,
    ARTIFACTS,
    created_at=st.floats(allow_nan=False, allow_infinity=False),
    sources=st.dictionaries(NAMES, st.builds(Source, TEXTS, st.integers(-(2**63), 2**63 - 1)), max_size=3),
    golden=st.none() | st.builds(Golden, DIGESTS, SIZES, st.floats(0, 1), st.floats(0, 1e9)),
    author=TEXTS,
    message=TEXTS,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | DIGESTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)


def refused(data: bytes | str) -> bool:
    """Whether decode() refuses it; any error but the two promised ones fails the test."""
    try:
        decode(data)
    except (ManifestInvalid, InvalidName) as error:
        assert str(error)
        return True
    return False


def changed(**fields: Any) -> bytes:
    """FULL, encoded, with other values in these fields."""
    return json.dumps(json.loads(FULL.encode()) | fields).encode()


# --- the version ---------------------------------------------------------------------------------------------


def test_the_order_of_artifacts_does_not_matter() -> None:
    assert Manifest.of("fusion", [CNN, SVM], created_at=1.0).version == FULL.version
    assert FULL.artifacts == (CNN, SVM)


def test_the_version_is_the_content_and_nothing_else() -> None:
    """The same bytes are the same version, whoever publishes them when: else a retry would be another proposal."""
    assert Manifest.of("other", [CNN, SVM], created_at=9.0, author="else").version == FULL.version


@pytest.mark.parametrize(
    "artifacts",
    [
        [CNN],
        [CNN, msgspec.structs.replace(SVM, name="swm")],
        [CNN, msgspec.structs.replace(SVM, size=21)],
        [CNN, msgspec.structs.replace(SVM, digest="d" * 64)],
        [Artifact("cnn", 10, SVM.digest), Artifact("svm", 20, CNN.digest)],
    ],
)
def test_another_name_size_or_digest_is_another_version(artifacts: list[Artifact]) -> None:
    assert version_of(artifacts) != FULL.version


def test_the_version_stays_the_same_from_release_to_release() -> None:
    """Workers of two releases in one fleet compute it for themselves and have to agree."""
    assert version_of([CNN, SVM]) == "2d32384ce0d71cc77488ac9e2516eb7f792585416ec87955e479122ed3aa934a"


# --- what it says of itself --------------------------------------------------------------------------------


def test_its_size_its_digests_and_what_is_remembered_when_it_is_bad() -> None:
    assert FULL.size == 30
    assert FULL.digests == {"a" * 64, "b" * 64, "c" * 64}
    assert FULL.poison == f"{FULL.version}:{'c' * 64}"
    plain = msgspec.structs.replace(FULL, golden=None)
    assert plain.digests == {"a" * 64, "b" * 64}
    assert plain.poison == f"{FULL.version}:", "without golden outputs it may be good where it was bad with them"


def test_an_artifact_is_found_by_its_name_or_by_being_the_only_one() -> None:
    assert FULL.artifact("svm") == SVM
    assert Manifest.of("cnn", [CNN], created_at=1.0).artifact() == CNN
    with pytest.raises(KeyError, match=r"has 2 artifacts, name one of: cnn, svm"):
        FULL.artifact()
    with pytest.raises(KeyError, match=r"no artifact 'gpt', only: cnn, svm"):
        FULL.artifact("gpt")


# --- what cannot be made -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\n", "a b", "ü", "x" * 129, "a\0", None, 7])
def test_a_name_that_needs_an_escape_is_none(name: Any) -> None:
    """Names stand in keys, paths and URLs as they are."""
    with pytest.raises(InvalidName):
        check_name(name)
    with pytest.raises(InvalidName):
        Manifest.of(name, [CNN], created_at=1.0)
    with pytest.raises(InvalidName, match="artifact"):
        Manifest.of("fusion", [Artifact(name, 1, "a" * 64)], created_at=1.0)


@pytest.mark.parametrize("name", ["digits", "a.b-c_D9", "...", "x" * 128])
def test_a_name_is_itself(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("artifacts", "why"),
    [
        ([], "0 artifacts"),
        ([Artifact(f"a{i}", 1, "a" * 64) for i in range(MAX_ARTIFACTS + 1)], "65 artifacts"),
        ([CNN, Artifact("cnn", 11, "d" * 64)], "stand twice"),
    ],
)
def test_none_too_many_or_doubled_artifacts_are_refused(artifacts: list[Artifact], why: str) -> None:
    with pytest.raises(ManifestInvalid, match=why):
        Manifest.of("fusion", artifacts, created_at=1.0)


def test_the_most_artifacts_with_the_longest_names_fit() -> None:
    artifacts = [Artifact(f"{i:0128}", 2**53, "a" * 64) for i in range(MAX_ARTIFACTS)]
    manifest = Manifest.of("x" * 128, artifacts, created_at=1.0, author="é" * 4096, message="é" * 4096)
    assert decode(manifest.encode()) == manifest


@pytest.mark.parametrize(
    "fields",
    [
        {"message": "x" * 4097},
        {"author": "\udcff"},
        {"sources": {"cnn": Source("/out/gr\udcfc\udcdfe.pt", 7)}},
        {"sources": {f"a{i}": Source("x" * 4096, 7) for i in range(20)}},
        {"golden": Golden("c", 30)},
        {"created_at": float("nan")},
    ],
)
def test_what_no_worker_would_accept_cannot_be_made(fields: dict[str, Any]) -> None:
    """It would be proposed, and the first to notice would be all the workers. A path may be no UTF-8."""
    with pytest.raises(ManifestInvalid):
        Manifest.of("fusion", [CNN], **{"created_at": 1.0} | fields)


# --- there and back ----------------------------------------------------------------------------------------


@patient
@given(MANIFESTS)
def test_what_was_encoded_is_decoded(manifest: Manifest) -> None:
    data = manifest.encode()
    assert decode(data) == manifest
    assert decode(data.decode()) == manifest
    assert decode(data).encode() == data, "there is one form, so signatures and comparisons can rely on it"


def test_the_form_is_sorted_and_without_white_space() -> None:
    text = msgspec.structs.replace(FULL, golden=None).encode().decode()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


# --- promise 7: nobody is trusted --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"version": "a" * 64},
        {"version": FULL.version.upper()},
        {"version": FULL.version + "\n"},
        {"model": "../fusion"},
        {"artifacts": []},
        {"artifacts": [msgspec.to_builtins(SVM), msgspec.to_builtins(CNN)]},
        {"artifacts": [msgspec.to_builtins(CNN)] * 2},
        {"artifacts": [{"name": "cnn", "size": 10, "digest": "../../etc/passwd"}]},
        {"artifacts": [{"name": "cnn", "size": -1, "digest": "a" * 64}]},
        {"artifacts": [{"name": "cnn", "size": 2**53 + 1, "digest": "a" * 64}]},
        {"artifacts": [{"name": "cnn", "size": 1.5, "digest": "a" * 64}]},
        {"artifacts": {"name": "cnn"}},
        {"golden": {"digest": "c" * 63, "size": 1}},
        {"golden": {"digest": "c" * 64, "size": 1, "rtol": 1.1}},
        {"golden": {"digest": "c" * 64, "size": 1, "atol": -1}},
        {"sources": {"cnn": {"path": "x" * 4097, "mtime_ns": 1}}},
        {"author": "x" * 4097},
        {"message": None},
        {"created_at": "now"},
        {"created_at": None},
    ],
)
def test_a_manifest_that_says_anything_else_is_refused(fields: dict[str, Any]) -> None:
    assert refused(changed(**fields))
    assert not refused(changed())


@pytest.mark.parametrize("field", ["model", "version", "artifacts", "created_at"])
def test_a_manifest_without_a_needed_field_is_refused(field: str) -> None:
    rest = {name: value for name, value in json.loads(FULL.encode()).items() if name != field}
    with pytest.raises(ManifestInvalid, match=field):
        decode(json.dumps(rest))


def test_one_that_is_too_large_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ManifestInvalid, match=f"{MAX_MANIFEST_BYTES + 1} bytes"):
        decode(b"[" * (MAX_MANIFEST_BYTES + 1))


@patient
@given(st.binary(max_size=300) | st.text(max_size=300))
@example(b"")
@example(b"[" * MAX_MANIFEST_BYTES)
@example(b'{"model":' * 7000)
@example(b'"\xff"')
@example(b'{"model":"\xff"}')
@example('{"model":"\\ud800"}')
@example(b"1" * 5000)
@example("\ud800")
@example(b"\xef\xbb\xbf{}")
def test_no_bytes_break_the_decoder(data: bytes | str) -> None:
    assert refused(data)


@patient
@given(JSON)
def test_no_json_breaks_the_decoder(value: Any) -> None:
    assert refused(json.dumps(value))


@patient
@given(st.sampled_from(sorted(json.loads(FULL.encode()))), JSON)
def test_no_value_of_a_field_breaks_the_decoder(field: str, value: Any) -> None:
    """What is let through was believed for a reason: it is a manifest, with the version that its artifacts have."""
    data = changed(**{field: value})
    if not refused(data):
        assert decode(data).version == version_of(decode(data).artifacts)


@patient
@given(st.integers(0, len(FULL.encode())), st.integers(0, 20), st.binary(max_size=20))
def test_no_damage_breaks_the_decoder(at: int, left_out: int, put_in: bytes) -> None:
    """A piece of a good one replaced by anything. The content that it names is the same, or it is refused."""
    good = FULL.encode()
    data = good[:at] + put_in + good[at + left_out :]
    if not refused(data):
        assert decode(data).version == version_of(decode(data).artifacts)


@pytest.mark.parametrize(
    "metrics",
    [
        {"loss": math.nan},
        {"loss": math.inf},
        {"": 1.0},
        {"x" * 129: 1.0},
        {str(n): 1.0 for n in range(65)},
        {"loss": "0.25"},
        {"loss": None},
        {"loss": True},
        {"loss": 10**400},
        {1: 1.0},
        {"loss": numpy.float32(1)},
    ],
)
def test_metrics_are_a_few_finite_numbers(metrics: dict[str, float]) -> None:
    """A loss that ran away must not make a manifest that no JSON reader can read."""
    with pytest.raises(ManifestInvalid, match="64 finite numbers"):
        Manifest.of("m", [Artifact("model", 1, "0" * 64)], created_at=0.0, metrics=metrics)
    with pytest.raises(ManifestInvalid, match="64 finite numbers"):
        check_metrics(metrics)


def test_metrics_travel_with_the_manifest() -> None:
    made = Manifest.of("m", [Artifact("model", 1, "0" * 64)], created_at=0.0, metrics={"val_loss": 0.25})
    assert decode(made.encode()).metrics == {"val_loss": 0.25}
