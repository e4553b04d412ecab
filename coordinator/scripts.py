"""The Lua of each call: files of `lua/` put together, and the arguments that all begin with. Reads the package's files only."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files

from .calls import Call, hint_of, keys_of
from .reply import Epoch

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
    """The text of a script: what it needs of what all share, its parts, itself."""
    folder = files(__package__) / "lua"
    names = (*SHARED, *parts, script)
    return reached("\n".join((folder / f"{name}.lua").read_text("utf-8") for name in names))


@cache
def digest_of(script: str, parts: tuple[str, ...] = ()) -> str:
    """What EVALSHA calls it."""
    return sha1(source_of(script, parts).encode(), usedforsecurity=False).hexdigest()


def reached(source: str) -> str:
    """A script without the functions that it never calls: making them is a third of what a short call costs here.

    Functions of the outermost level only, from their first line to an `end` at its beginning.
    """
    blocks: list[tuple[str, list[str]]] = []  # (name, or "" for what is no function, lines)
    inside = False
    for line in source.splitlines():
        if inside:
            blocks[-1][1].append(line)
            inside = line != "end"
        elif found := re.match(r"(?:local )?function (\w+)\(", line):
            blocks.append((found[1], [line]))
            inside = line.partition(" --")[0].rstrip().endswith(")")
        else:
            blocks.append(("", [line]))
    words = [set().union(*map(_names_of, lines)) for _, lines in blocks]
    called: set[str] = set().union(*(found for (name, _), found in zip(blocks, words, strict=True) if not name))
    before = -1
    while len(called) > before:
        before = len(called)
        called.update(*(found for (name, _), found in zip(blocks, words, strict=True) if name in called))
    return "\n".join(line for name, lines in blocks if not name or name in called for line in lines)


def _names_of(line: str) -> set[str]:
    """What a line may call: no comment, no text, no field, and not the announcement of a function that is made further below."""
    code = re.sub(r"'[^']*'", "", line).partition("--")[0]
    return set() if re.fullmatch(r"local \w+\s*", code) else set(re.findall(r"(?<![.\w])[A-Za-z_]\w*", code))
