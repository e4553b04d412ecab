"""Nobody whose key counts here vouches for a manifest."""

from __future__ import annotations

from dataclasses import dataclass

from .base import GenlockError


class NotTrusted(GenlockError):
    """`outcome` is the reason as a word, in metrics and logs."""

    status = 403
    exit_status = 3
    outcome = "not-trusted"


@dataclass(eq=False)
class Unsigned(NotTrusted):
    model: str
    version: str

    outcome = "unsigned"

    def __str__(self) -> str:
        what = f"version {self.version[:12]}" if self.version else "what is published here"
        return (
            f"{what} of model {self.model!r} is not signed, and GENLOCK_VERIFY_KEYS asks for a signature:"
            " publish it where GENLOCK_SIGNING_KEY is set"
        )


@dataclass(eq=False)
class UnknownKey(NotTrusted):
    model: str
    key: str
    known: tuple[str, ...] = ()

    outcome = "unknown-key"

    def __str__(self) -> str:
        known = f" ({', '.join(self.known)})" if self.known else ""
        return (
            f"model {self.model!r} is signed with key {self.key}, which is none of GENLOCK_VERIFY_KEYS{known}: sign with one of"
            " those, or add the public key where it is missing"
        )


@dataclass(eq=False)
class WrongSignature(NotTrusted):
    model: str
    key: str

    outcome = "wrong-signature"

    def __str__(self) -> str:
        return (
            f"the signature of key {self.key} is not of this manifest of model {self.model!r}: somebody changed it after it was"
            " signed. Publish again, and find out who can write to Redis"
        )


@dataclass(eq=False)
class ForeignManifest(NotTrusted):
    """Rightly signed, and for something else. `what`: fleet or model."""

    model: str
    what: str
    expected: str
    found: str

    outcome = "foreign"

    def __str__(self) -> str:
        return (
            f"the manifest of model {self.model!r} is signed for {self.what} {self.found}, not for {self.expected}: somebody copied"
            " it there. Publish the checkpoint in this fleet"
        )


@dataclass(eq=False)
class SerialTooLow(NotTrusted):
    model: str
    serial: int
    seen: int

    outcome = "low-serial"

    def __str__(self) -> str:
        return (
            f"the manifest of model {self.model!r} has serial {self.serial}, and {self.seen} was active on this host before: it is"
            " an old one that was brought back. Publish the checkpoint again, or use `genlock rollback`"
        )


@dataclass(eq=False)
class NotOrdered(NotTrusted):
    model: str
    serial: int
    seen: int

    outcome = "no-order"

    def __str__(self) -> str:
        return (
            f"the rollback of model {self.model!r} from serial {self.seen} to {self.serial} has no operator's order, and is not the"
            " way back that its trainer signed: use `genlock rollback` where GENLOCK_SIGNING_KEY is one of GENLOCK_OPERATOR_KEYS"
        )


@dataclass(eq=False)
class WrongOrder(NotTrusted):
    model: str
    why: str

    outcome = "wrong-order"

    def __str__(self) -> str:
        return (
            f"the order to roll model {self.model!r} back is refused: {self.why}. Use `genlock rollback` where GENLOCK_SIGNING_KEY is"
            " one of GENLOCK_OPERATOR_KEYS"
        )
