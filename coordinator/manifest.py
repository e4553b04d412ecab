"""What a generation is made of: Artifact, Golden, Manifest, their canonical form and the version digest.

Pure. A manifest travels as opaque bytes (`encode`); what comes back is read by `decode`, which believes nothing: every
name, size, digest and the version are checked again.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec
from blake3 import blake3

from .errors import InvalidName, ManifestInvalid

#: Names of models, artifacts and fleets (PROTOCOL, words): they stand in keys, paths and URLs without any escape.
NAME = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")
#: Bytes of an encoded manifest; a larger one is refused before it is parsed. 64 artifacts take about 16 KiB.
MAX_MANIFEST_BYTES = 65_536
#: Artifacts of one model.
MAX_ARTIFACTS = 64
#: Numbers that training may tell with a generation.
MAX_METRICS = 64
#: Characters of the name of one.
MAX_METRIC_CHARACTERS = 128
_METRICS = f"metrics are at most {MAX_METRICS} finite numbers, with names of 1 to {MAX_METRIC_CHARACTERS} characters"

Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Text = Annotated[str, msgspec.Meta(max_length=4096)]
Size = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
WayBack = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64})?\Z")]
MetricName = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_METRIC_CHARACTERS)]


def is_name(text: str) -> bool:
    """Whether a model, an artifact or a fleet may be called so. `.` and `..` are no names: a name may become a file's."""
    return bool(NAME.match(text)) and text not in (".", "..")


def check_name(name: str, what: str = "model") -> str:
    """`name`, or InvalidName."""
    if not isinstance(name, str) or not is_name(name):
        raise InvalidName(str(name), what)
    return name


def check_metrics(metrics: Mapping[str, float]) -> None:
    """Raises ManifestInvalid unless a manifest can carry these."""
    wrong = [f"{name!r} is {value!r}" for name, value in metrics.items() if not _is_metric(name, value)]
    if wrong or len(metrics) > MAX_METRICS:
        raise ManifestInvalid(f"{_METRICS}, and {wrong[0] if wrong else f'these are {len(metrics)}'}")


def _is_metric(name: object, value: object) -> bool:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_METRIC_CHARACTERS:
        return False
    # What JSON has no number for is none: a truth value, what only looks like a float (numpy's), NaN, what is beyond all floats.
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]


class Artifact(msgspec.Struct, frozen=True, order=True):
    """One file of a model: name inside the model, size in bytes, BLAKE3 digest (64 hex digits)."""

    name: str
    size: Size
    digest: Digest


class Golden(msgspec.Struct, frozen=True):
    """Inputs and the outputs that every worker must reproduce: a safetensors object of the store, and the tolerances."""

    digest: Digest
    size: Size
    rtol: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1e-4
    atol: Annotated[float, msgspec.Meta(ge=0)] = 1e-5


class Source(msgspec.Struct, frozen=True):
    """Where an artifact came from, for people: never opened by a worker."""

    path: Text
    mtime_ns: int


class Signature(msgspec.Struct, frozen=True):
    """Who has signed: the id of a public key (16 hex digits), and an Ed25519 signature in base64. See signing."""

    key: Annotated[str, msgspec.Meta(max_length=64)]
    value: Annotated[str, msgspec.Meta(max_length=128)]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's decision to go back to this content. It has a serial of its own, later than what it leaves, so that it counts once:
    brought back after the next publish it is an old number like any other.
    """

    fleet: Text
    model: Text
    version: Digest
    back_to: Size  #: the serial of the manifest that is gone back to
    left: Size  #: the generation that was active when it was decided
    serial: Size
    author: Text = ""
    at: float = 0.0  #: unix seconds, the operator's clock; for people
    signature: Signature | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """All that identifies one content of a model, and who made it when."""

    model: str
    version: Digest
    artifacts: tuple[Artifact, ...]
    created_at: float  #: unix seconds, the publisher's clock; for people
    sources: dict[str, Source] = {}
    golden: Golden | None = None
    author: Text = ""
    message: Text = ""
    metrics: dict[MetricName, float] = {}  #: what training measured, for people: name → value
    fleet: Text = ""  #: id of the fleet that it is signed for
    serial: Size = 0  #: the trainer's growing number; 0: none
    way_back: WayBack = ""  #: the version that was active when this one was published
    signature: Signature | None = None  #: of all but itself and the order
    order: Order | None = None

    @classmethod
    def of(
        cls,
        model: str,
        artifacts: Iterable[Artifact],
        *,
        created_at: float,
        sources: dict[str, Source] | None = None,
        golden: Golden | None = None,
        author: str = "",
        message: str = "",
        metrics: Mapping[str, float] | None = None,
    ) -> Manifest:
        """The manifest of these artifacts; the order in which they are given does not matter."""
        ordered = tuple(sorted(artifacts))
        manifest = cls(
            model=model,
            version=version_of(ordered),
            artifacts=ordered,
            created_at=created_at,
            sources=sources or {},
            golden=golden,
            author=author,
            message=message,
            metrics=dict(metrics or {}),
        )
        # What decode() refuses must not be proposed: a worker would have to say so, after the staging.
        return decode(manifest.checked().encode())

    def checked(self) -> Manifest:
        """Itself, or ManifestInvalid / InvalidName with what is wrong."""
        check_name(self.model)
        if not 1 <= len(self.artifacts) <= MAX_ARTIFACTS:
            raise ManifestInvalid(f"{len(self.artifacts)} artifacts, 1 to {MAX_ARTIFACTS} are possible")
        for artifact in self.artifacts:
            check_name(artifact.name, "artifact")
        names = [artifact.name for artifact in self.artifacts]
        if names != sorted(set(names)):
            raise ManifestInvalid(f"artifacts are not in order or stand twice: {', '.join(names)}")
        check_metrics(self.metrics)
        if self.version != version_of(self.artifacts):
            raise ManifestInvalid(f"version {self.version[:12]} is not the digest of its artifacts")
        return self

    @property
    def size(self) -> int:
        """Bytes of all artifacts."""
        return sum(artifact.size for artifact in self.artifacts)

    @property
    def poison(self) -> str:
        """What is remembered of a bad one (R13): the version and the digest of its golden outputs."""
        return f"{self.version}:{self.golden.digest if self.golden else ''}"

    @property
    def digests(self) -> frozenset[str]:
        """Every object of the store that this manifest needs."""
        golden = {self.golden.digest} if self.golden else set()
        return frozenset({artifact.digest for artifact in self.artifacts} | golden)

    def artifact(self, name: str | None = None) -> Artifact:
        """The artifact of that name; without a name, the only one."""
        if name is None:
            if len(self.artifacts) == 1:
                return self.artifacts[0]
            raise KeyError(f"model {self.model!r} has {len(self.artifacts)} artifacts, name one of: {self._names()}")
        for artifact in self.artifacts:
            if artifact.name == name:
                return artifact
        raise KeyError(f"model {self.model!r} has no artifact {name!r}, only: {self._names()}")

    def _names(self) -> str:
        return ", ".join(artifact.name for artifact in self.artifacts)

    def encode(self) -> bytes:
        """The canonical form: JSON with sorted keys, UTF-8, no white space."""
        try:
            return msgspec.json.encode(self, order="sorted")
        except UnicodeEncodeError as error:  # a file's name that is not UTF-8
            raise ManifestInvalid(str(error)) from error


_DECODER = msgspec.json.Decoder(Manifest)


def decode(data: bytes | str) -> Manifest:
    """The manifest in `data`, checked; raises ManifestInvalid (or InvalidName) whatever the bytes are."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestInvalid(f"{len(data)} bytes, {MAX_MANIFEST_BYTES} are allowed")
    try:
        manifest = _DECODER.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeError, RecursionError) as error:
        raise ManifestInvalid(str(error)) from error
    return manifest.checked()


def version_of(artifacts: Iterable[Artifact]) -> str:
    """The version: BLAKE3 over names, sizes and digests in the order of names. The same bytes are the same version."""
    rows = [[artifact.name, artifact.size, artifact.digest] for artifact in sorted(artifacts)]
    return blake3(b"genlock version 1\n" + msgspec.json.encode(rows)).hexdigest()
