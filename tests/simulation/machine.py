"""The server of a simulated fleet: the real scripts, what can happen to their keys, and a look at them that changes nothing that counts."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from genlock.coordinator.calls import KEYS, Call, Epoch, Reply, keys_of
from genlock.coordinator.scripts import Caller
from inprocess import START_S, Server

FLEET, FLEET_ID = "sim", "f" * 32
#: Calls that change no model and write no log, as long as they are of the fleet's epoch.
HARMLESS = frozenset({"heartbeat", "ask", "read", "manifest", "attach"})

_LOOK = """
local fleet = redis.pcall('HMGET', KEYS[1], 'epoch', 'nonce', 'run', 'open', 'schema')
local valid = not fleet.err and fleet[1] and fleet[2] and fleet[5] and true or false
local stamp = valid and fleet[1] .. ':' .. fleet[2]
for i = 2, 6 do
  local found = redis.pcall('HGET', KEYS[i], '@')
  if type(found) ~= 'string' or found ~= stamp then valid = false end
end
local out = {valid = valid, models = {}, log = {}}
if valid then
  out.epoch, out.nonce, out.run, out.open = fleet[1], fleet[2], fleet[3], fleet[4] == '1'
  local all = redis.call('HGETALL', KEYS[4])
  for i = 1, #all, 2 do
    if all[i] ~= '@' then out.models[all[i]] = all[i + 1] end
  end
end
if redis.call('TYPE', KEYS[7]).ok == 'stream' then
  for i, row in ipairs(redis.call('XRANGE', KEYS[7])) do
    out.log[i] = {unpack(row[2])}
  end
end
redis.call('DEL', KEYS[7])
return cjson.encode(out)
"""


class Look(NamedTuple):
    """All that counts in the keys. `valid`: nothing is missing, and it is the memory of this run of the server.

    `models`: name → record; `log`: (what, model, facts) since the look before.
    """

    valid: bool
    epoch: tuple[int, str]
    open: bool
    models: Mapping[str, Mapping[str, Any]]
    log: list[tuple[str, str, Mapping[str, Any]]]

    def active(self, model: str) -> tuple[int, str] | None:
        active = self.models.get(model, {}).get("active")
        return (int(active["gen"]), active["version"]) if active else None


@lru_cache(8192)
def _parsed(text: str) -> Any:
    return json.loads(text)


class Machine(Server):
    """One server for many seeds: `begin` makes it new. `is_up` is false while it is down."""

    def __init__(self, changes: Iterable[tuple[str, str]] = ()) -> None:
        """`changes`: (text of the scripts, what stands in its place): faults put in on purpose."""
        self._changes = tuple(changes)
        super().__init__()
        self._looking = self.compile(_LOOK)

    def begin(self, seed: int) -> None:
        self.flush()
        self.reseed(seed)
        self.hints.clear()
        self.now_s, self.is_up, self._runs = START_S, True, 1
        self.run_id = "run-1"
        self._chance = random.Random(seed)
        self._kept: deque[Any] = deque(maxlen=12)
        self.executed = 0

    def execute(self, call: Call, caller: Caller, epoch: Epoch) -> Reply:
        """As a server does, once; the state before it may be what a crash goes back to."""
        self.executed += 1
        if self._chance.random() < (0.5 if call.script in ("answer", "propose") else 0.1):
            self._kept.append(self.snapshot())
        return super().execute(call, caller, epoch)

    def compile(self, source: str | bytes) -> Any:
        """With the faults that are put in."""
        assert isinstance(source, str)
        for before, after in self._changes:
            source = source.replace(before, after)
        return super().compile(source)

    def look(self) -> Look:
        found = json.loads(self.run(self._looking, keys_of(FLEET), []))
        log = []
        for row in found["log"] or []:
            facts = dict(zip(row[::2], row[1::2], strict=True))
            log.append((facts["what"], facts["model"], _parsed(facts["facts"])))
        valid = found["valid"] and found["run"] == self.run_id
        epoch = (int(found.get("epoch", 0)), found.get("nonce", ""))
        models = {name: _parsed(text) for name, text in (found["models"] or {}).items()}
        return Look(valid, epoch, bool(found.get("open")), models, log)

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

    def spoil(self) -> str:
        """One key is deleted, or gets a wrong type."""
        name = self._chance.choice([key for key in KEYS if key != "log"])
        key = keys_of(FLEET)[KEYS.index(name)]
        self.command("DEL", key)
        if self._chance.random() < 0.5:
            self.command("SET", key, "spoiled")
        return name
