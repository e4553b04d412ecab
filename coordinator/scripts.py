"""The Lua of each call: files of `lua/` put together, and the arguments that all begin with. Reads the package's files only."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files

from .calls import Call, Epoch, hint_of, keys_of

#: Files of lua/ that every script begins with, in this order.
SHARED = ("_fleet", "_model", "_candidate", "_state")


@dataclass(frozen=True)
class Caller:
    """Who calls: what every script is told first. `run`: the server's run id, as this connection heard it."""

    fleet: str
    fleet_id: str
    lease_ms: int
    virgin: bool = False
    run: str = ""

    def arguments(self, call: Call, epoch: Epoch) -> list[str | bytes]:
        """ARGV of the call."""
        fresh = secrets.token_hex(8)
        virgin = "1" if self.virgin else "0"
        common = [
            self.fleet_id,
            str(epoch.number),
            epoch.nonce,
            fresh,
            str(self.lease_ms),
            virgin,
            hint_of(self.fleet),
        ]
        return [*common, self.run, *call.arguments()]

    def keys(self, call: Call) -> list[str]:
        """KEYS of the call."""
        return keys_of(self.fleet, call)


@cache
def source_of(script: str, parts: tuple[str, ...] = ()) -> str:
    """The whole text of a script: what all share, its parts, itself."""
    folder = files(__package__) / "lua"
    names = (*SHARED, *parts, script)
    return "\n".join((folder / f"{name}.lua").read_text("utf-8") for name in names)


@cache
def digest_of(script: str, parts: tuple[str, ...] = ()) -> str:
    """What EVALSHA calls it."""
    return sha1(source_of(script, parts).encode(), usedforsecurity=False).hexdigest()
