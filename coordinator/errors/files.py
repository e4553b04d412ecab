"""A file is not what it should be."""

from __future__ import annotations

from dataclasses import dataclass

from .base import GenlockError


class ArtifactError(GenlockError):
    status = 422
    outcome = "artifact"


@dataclass(eq=False)
class ArtifactMissing(ArtifactError):
    path: str
    why: str = "there is no such file"

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


@dataclass(eq=False)
class ArtifactDamaged(ArtifactError):
    """Bytes other than the digest names. A hiccup, not a verdict on the model (R13)."""

    path: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.path} is damaged: expected {self.expected}, found {self.found}. Publish the checkpoint again to mend it"


@dataclass(eq=False)
class ArtifactRefused(ArtifactError):
    """A path that must not be used: a folder, a FIFO, an empty file, a link out of the store."""

    path: str
    why: str

    def __str__(self) -> str:
        return f"{self.path} is refused: {self.why}"


@dataclass(eq=False)
class BadCheckpoint(ArtifactError):
    """Verified bytes that are no good: said once, remembered by the whole fleet (R13)."""

    model: str
    step: str
    why: str

    def __str__(self) -> str:
        return f"the checkpoint of model {self.model!r} is bad at {self.step}: {self.why}"


@dataclass(eq=False)
class LoadFailed(ArtifactError):
    """It could not be loaded here and now; another try may work (R13)."""

    model: str
    step: str
    why: str

    status = 503

    def __str__(self) -> str:
        return f"model {self.model!r} could not be loaded at {self.step}: {self.why}"


@dataclass(eq=False)
class ManifestInvalid(ArtifactError):
    why: str

    def __str__(self) -> str:
        return f"the manifest is refused: {self.why}"


@dataclass(eq=False)
class IdentityInvalid(ArtifactError):
    """The file of a store that says which fleet it belongs to cannot be used."""

    path: str
    why: str
    remedy: str

    status = 500

    def __str__(self) -> str:
        return f"{self.path} does not say which fleet this is: {self.why}. {self.remedy}"


@dataclass(eq=False)
class StoreUnusable(ArtifactError):
    """The folder of the store cannot be made, this user cannot look into it, or an object store does not let this process in."""

    path: str
    why: str
    remedy: str = "choose another GENLOCK_STORE"

    status = 500

    def __str__(self) -> str:
        return f"the store {self.path} cannot be used: {self.why}: {self.remedy}"


@dataclass(eq=False)
class StoreUnreachable(ArtifactError):
    """A store on a network does not answer now; another try may work."""

    url: str
    why: str

    status = 503

    def __str__(self) -> str:
        return f"the store {self.url} does not answer: {self.why}. Workers go on with what they hold; try again"


@dataclass(eq=False)
class StoreFull(ArtifactError):
    path: str
    why: str

    status = 507

    def __str__(self) -> str:
        return f"{self.path} cannot be written: {self.why}. Nothing was changed; free space (`genlock gc`) and publish again"


@dataclass(eq=False)
class SerialsUnreadable(ArtifactError):
    """What this host remembers of serials cannot be read or written: nothing can be said of a number."""

    path: str
    why: str
    remedy: str

    status = 500

    def __str__(self) -> str:
        return f"{self.path}: {self.why}. {self.remedy}"
