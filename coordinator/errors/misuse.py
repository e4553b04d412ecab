"""The caller has to change the call."""

from __future__ import annotations

from dataclasses import dataclass

from .base import GenlockError


class Misuse(GenlockError):
    status = 400
    exit_status = 2
    outcome = "misuse"


@dataclass(eq=False)
class InvalidName(Misuse):
    name: str
    what: str = "model"

    def __str__(self) -> str:
        return f"{self.name!r} cannot be the name of a {self.what}: use 1 to 128 of A-Z a-z 0-9 . _ - only"


@dataclass(eq=False)
class SettingsInvalid(Misuse):
    setting: str
    value: str
    why: str

    def __str__(self) -> str:
        return f"the setting {self.setting}={self.value!r} cannot be used: {self.why}"


@dataclass(eq=False)
class UnknownModel(Misuse):
    model: str
    known: tuple[str, ...] = ()

    status = 404
    outcome = "unknown"

    def __str__(self) -> str:
        known = f" (known: {', '.join(self.known)})" if self.known else ""
        return f"the fleet has no model {self.model!r}{known}: publish one with `genlock publish {self.model} PATH`"


@dataclass(eq=False)
class NoGeneration(Misuse):
    model: str
    wanted: int | None
    why: str

    status = 404
    exit_status = 1
    outcome = "unknown"

    def __str__(self) -> str:
        if self.wanted is None:
            return f"model {self.model!r}: {self.why}"
        return f"model {self.model!r} has no generation {self.wanted}: {self.why}"


@dataclass(eq=False)
class BadInput(Misuse):
    where: str
    why: str

    status = 422
    outcome = "invalid"

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


@dataclass(eq=False)
class HeaderInvalid(Misuse):
    header: str
    value: str
    why: str

    def __str__(self) -> str:
        return f"the header {self.header}: {self.value!r} cannot be used: {self.why}"


@dataclass(eq=False)
class Unauthorized(Misuse):
    """Nobody who is known asks."""

    why: str

    status = 401

    def __str__(self) -> str:
        return f"not without a token that is known: {self.why}"


@dataclass(eq=False)
class NotAllowed(Misuse):
    """Who asks may not do this."""

    why: str

    status = 403

    def __str__(self) -> str:
        return f"not allowed: {self.why}"


@dataclass(eq=False)
class TooLarge(Misuse):
    what: str
    size: int
    limit: int

    status = 413

    def __str__(self) -> str:
        return f"{self.what} has {self.size} bytes, {self.limit} are allowed"


@dataclass(eq=False)
class DoesNotFit(Misuse):
    model: str
    why: str

    status = 507

    def __str__(self) -> str:
        return f"model {self.model!r} cannot be held by this worker: {self.why}"


@dataclass(eq=False)
class Conflict(Misuse):
    """A decision was made on a state that is no longer there (R10)."""

    model: str
    expected: str
    found: str

    status = 409
    exit_status = 1
    outcome = "conflict"

    def __str__(self) -> str:
        return (
            f"model {self.model!r} has changed meanwhile: the call expected {self.expected}, found {self.found};"
            " look at it again and decide again"
        )


@dataclass(eq=False)
class RequestReused(Misuse):
    """The id of an earlier request stands for that change only (R10): nothing was done for another one."""

    request: str
    used: str

    status = 422
    outcome = "reused"

    def __str__(self) -> str:
        return f"the request id {self.request!r} was used for an earlier {self.used}: nothing was done. Use another id for this change"


@dataclass(eq=False)
class ServerRuns(Misuse):
    where: str
    pid: int | None

    status = 409
    exit_status = 1
    outcome = "conflict"

    def __str__(self) -> str:
        pid = "" if self.pid is None else f" (pid {self.pid})"
        return f"an embedded server{pid} already runs at {self.where}: end it with `genlock redis --stop` first"


@dataclass(eq=False)
class CommandBroken(Misuse):
    """A command that another distribution adds cannot be loaded."""

    command: str
    entry_point: str
    why: str

    exit_status = 1

    def __str__(self) -> str:
        return (
            f"the command {self.command!r} ({self.entry_point}) cannot be loaded: {self.why}."
            " Install what it needs, or remove the distribution that adds it"
        )
