"""The server of a simulated fleet: the real scripts, what can happen to their keys, and a look at them that changes nothing that counts."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import msgspec
from genlock.coordinator.calls import KEYS, Call, keys_of
from genlock.coordinator.reply import Epoch, Reply
from genlock.coordinator.scripts import Caller
from inprocess import START_S, ScriptError, Server
from violation import Violation

FLEET, FLEET_ID = "sim", "f" * 32
#: Calls before each of which the state is kept more often, to be gone back to: much hangs on these.
DECISIVE = frozenset({"answer", "propose"})

#: The log is emptied by each look: what it says has been seen.
_LOOK = """
local fleet = redis.pcall('HMGET', KEYS[1], 'epoch', 'nonce', 'run', 'open', 'schema')
local valid = not fleet.err and fleet[1] and fleet[2] and fleet[5] and true or false
local stamp = valid and fleet[1] .. ':' .. fleet[2]
for i = 2, 6 do
  local found = redis.pcall('HGET', KEYS[i], '@')
  if type(found) ~= 'string' or found ~= stamp then valid = false end
end
local out = {valid and fleet[1] or '0', valid and fleet[2] or '', valid and fleet[3] or '', valid and fleet[4] or '0'}
local models = valid and redis.call('HGETALL', KEYS[4]) or {}
local kind = redis.call('TYPE', KEYS[7]).ok
local log = kind == 'stream' and redis.call('XRANGE', KEYS[7]) or {}
out[5] = (kind == 'stream' or kind == 'none') and 'read' or 'spoiled'
out[6] = tostring(#models)
for i = 1, #models do out[#out + 1] = models[i] end
for i = 1, #log do
  local row = log[i][2]
  out[#out + 1], out[#out + 2], out[#out + 3] = row[2], row[4], row[6]
end
if kind ~= 'none' then redis.call('DEL', KEYS[7]) end
return table.concat(out, '\\0\\0')
"""


class Look(NamedTuple):
    """All that counts in the keys. `valid`: nothing is missing, and it is the memory of this run of the server.

    `models`: name → record; `log`: (what, model, facts) since the look before; None: it had a wrong type.
    """

    valid: bool
    epoch: tuple[int, str]
    open: bool
    models: Mapping[str, Mapping[str, Any]]
    log: list[tuple[str, str, Mapping[str, Any]]] | None

    def active(self, model: str) -> tuple[int, str] | None:
        active = self.models.get(model, {}).get("active")
        return (int(active["gen"]), active["version"]) if active else None


@lru_cache(8192)
def _parsed(text: bytes) -> Any:
    return msgspec.json.decode(text)


class Machine(Server):
    """One server for many schedules: `begin` makes it new. `is_up` is false while it is down."""

    def __init__(self, changes: Iterable[tuple[str, str]] = ()) -> None:
        """`changes`: (text of the scripts, what stands in its place): faults put in on purpose; each text must be there."""
        self._changes_put_in = tuple(changes)
        texts = [
            file.read_text("utf-8")
            for file in (files("genlock.coordinator") / "lua").iterdir()
            if file.name[-4:] == ".lua"
        ]
        for before, _ in self._changes_put_in:
            if not any(before in text for text in texts):
                raise ValueError(f"no script holds {before!r}")
        super().__init__()
        self._looking = super().compile(_LOOK)

    def begin(self, seed: int) -> None:
        self.flush()
        self.reseed(seed)
        self.hints.clear()
        self.now_s, self.is_up, self._runs = START_S, True, 1
        self.run_id = "run-1"
        self.ghost_run: str | None = None  #: the run of a server that was demoted, and still reads
        self._ghost: Any = None
        self._caller: tuple[Caller, Caller] | None = None
        self._chance = random.Random(seed)
        self._kept: deque[Any] = deque(maxlen=12)
        self.executed = 0

    def execute(self, call: Call, caller: Caller, epoch: Epoch) -> Reply:
        """As a server does, once; the state before it may be what a crash goes back to. A script that fails is a violation (R15)."""
        self.executed += 1
        if self._chance.random() < (0.5 if call.script in DECISIVE else 0.1):
            self._kept.append(self.snapshot())
        try:
            return super().execute(call, self._as_seen_by(caller), epoch)
        except ScriptError as error:
            raise Violation(f"R15 {call.script} fails half-way: {error}") from error

    def _as_seen_by(self, caller: Caller) -> Caller:
        """With the run that its connection heard."""
        if self._caller is None or self._caller[0] is not caller or self._caller[1].run != self.run_id:
            self._caller = caller, replace(caller, run=self.run_id)
        return self._caller[1]

    def compile(self, source: str | bytes) -> Any:
        """With the faults that are put in."""
        assert isinstance(source, str)
        for before, after in self._changes_put_in:
            source = source.replace(before, after)
        return super().compile(source)

    def look(self) -> Look:
        words = self.run(self._looking, keys_of(FLEET), []).split(b"\0\0")
        epoch, nonce, run, is_open, log_is, n = (word.decode() for word in words[:6])
        rows, entries = words[6 : 6 + int(n)], words[6 + int(n) :]
        models = {
            name.decode(): _parsed(text) for name, text in zip(rows[::2], rows[1::2], strict=True) if name != b"@"
        }
        facts = zip(entries[::3], entries[1::3], entries[2::3], strict=True)
        log = [(what.decode(), model.decode(), _parsed(text)) for what, model, text in facts]
        return Look(run == self.run_id, (int(epoch), nonce), is_open == "1", models, log if log_is == "read" else None)

    def has_manifest(self, model: str, gen: int) -> bool:
        """Whether a worker that holds nothing can learn what this generation is."""
        return self.command("HGET", keys_of(FLEET)[KEYS.index("generations")], f"{model}\0{gen}\0m") is not None

    # --- what happens to servers -----------------------------------------------------------------------------------

    def restart(self, *, losing: bool) -> None:
        """Another run id; `losing`: it goes back to what it had written some time ago."""
        self._runs += 1
        self.run_id = f"run-{self._runs}"
        if losing and self._kept:
            self.restore(self._chance.choice(self._kept))
            self._kept.clear()
        elif losing:
            self.flush()

    def demote(self) -> None:
        """From here on the keys as they are now stay with a server that only reads; call `restart` for the new primary."""
        self._ghost, self.ghost_run = self.snapshot(), self.run_id

    def end_ghost(self) -> None:
        """It is gone, or has become what a replica is."""
        self._ghost, self.ghost_run = None, None

    def execute_at_ghost(self, call: Call, caller: Caller, epoch: Epoch) -> Reply | None:
        """At the demoted server; None: it refuses."""
        kept = self.snapshot()
        self.restore(self._ghost)
        self.refuse_writes(True)
        try:
            return super().execute(call, replace(caller, run=self.ghost_run or ""), epoch)
        except ScriptError as error:
            if not str(error).startswith("READONLY"):
                raise
            return None
        finally:
            self.refuse_writes(False)
            self.restore(kept)

    def spoil(self, chance: random.Random) -> str:
        """One key is deleted, or gets a wrong type."""
        name = chance.choice([key for key in KEYS if key != "log"])
        key = keys_of(FLEET)[KEYS.index(name)]
        self.command("DEL", key)
        if chance.random() < 0.5:
            self.command("SET", key, "spoiled")
        return name

    def spoil_log(self) -> None:
        """It gets a wrong type, until somebody looks."""
        self.command("SET", keys_of(FLEET)[KEYS.index("log")], "spoiled")
