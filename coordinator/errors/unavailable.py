"""Redis or the fleet cannot answer now."""

from __future__ import annotations

from dataclasses import dataclass

from .base import GenlockError


class Unavailable(GenlockError):
    status = 503
    exit_status = 5
    outcome = "unavailable"


@dataclass(eq=False)
class RedisUnreachable(Unavailable):
    where: str
    why: str
    remedy: str = "Start it, or set GENLOCK_REDIS_URL to another one, or unset it to let genlock start its own"

    def __str__(self) -> str:
        return f"no Redis answers at {self.where}: {self.why.rstrip('.')}. {self.remedy}"


@dataclass(eq=False)
class RedisRefused(Unavailable):
    """The server answers, and does not do what genlock needs (READONLY, LOADING, OOM, NOPERM, an eviction policy, …)."""

    where: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"the Redis at {self.where} refuses: {self.why.rstrip('.')}. {self.remedy}"


@dataclass(eq=False)
class FleetClosed(Unavailable):
    fleet: str
    waited_s: float

    exit_status = 4
    outcome = "closed"

    def __str__(self) -> str:
        return (
            f"fleet {self.fleet!r} is closed: Redis has lost or may have lost data, and its members watch it for one lease"
            f" before they trust it again. Waited {self.waited_s:.1f} s; try again, or with a longer timeout"
        )


@dataclass(eq=False)
class FleetMismatch(Unavailable):
    fleet: str
    expected: str
    found: str

    exit_status = 1

    def __str__(self) -> str:
        return (
            f"fleet {self.fleet!r} in this Redis has the id {self.found}, the store says {self.expected}: two fleets share one"
            " name, or GENLOCK_STORE is not the folder that this fleet's workers and trainers use. Set it to that folder, or give one of"
            " the fleets another name (GENLOCK_FLEET) or its own store"
        )


@dataclass(eq=False)
class SchemaTooNew(Unavailable):
    fleet: str
    found: int
    known: int

    exit_status = 1

    def __str__(self) -> str:
        return f"fleet {self.fleet!r} has schema {self.found} in Redis, this genlock knows up to {self.known}: upgrade genlock here"


@dataclass(eq=False)
class NotReady(Unavailable):
    """A request cannot be answered from the generation that it needs."""

    model: str
    why: str
    retry_after_s: float = 1.0

    def __str__(self) -> str:
        return f"model {self.model!r} cannot answer now: {self.why}"
