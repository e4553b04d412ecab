"""What is said to Redis: one type per script. Pure.

A call knows the name of its script and its arguments as text; `registry` sends it, a simulation may too. What comes back is a Reply.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

#: The schema of the keys that this program writes and reads; scripts refuse a newer one.
SCHEMA = 1


@dataclass(frozen=True)
class Call:
    """The base of all calls. `script`: the file in lua/; `parts`: files put before it, after the shared ones."""

    script: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = ()
    #: Whether the caller goes on after a reply of another epoch by asking once more itself (publishers and operators do).
    locks: ClassVar[bool] = False

    def arguments(self) -> list[str | bytes]:
        """ARGV from 9 on."""
        return []


@dataclass(frozen=True)
class Attach(Call):
    script = "attach"


@dataclass(frozen=True)
class Join(Call):
    about: str
    serial: int = 0
    script = "join"

    def arguments(self) -> list[str | bytes]:
        return [self.about]


@dataclass(frozen=True)
class Heartbeat(Call):
    member: str
    counter: int
    watched: tuple[str, ...] = ()
    about: str = ""
    script = "heartbeat"

    def arguments(self) -> list[str | bytes]:
        return [self.member, str(self.counter), " ".join(self.watched), self.about]


@dataclass(frozen=True)
class Read(Call):
    model: str
    request: str = ""
    watched: tuple[str, ...] = ()
    script = "read"

    def arguments(self) -> list[str | bytes]:
        return [self.model, self.request, " ".join(self.watched)]


@dataclass(frozen=True)
class Ask(Call):
    """`tokens`: the questions of requests that this one answers; they are not sent."""

    member: str
    models: tuple[str, ...]
    tokens: tuple[int, ...] = ()
    script = "ask"

    def arguments(self) -> list[str | bytes]:
        return [self.member, *self.models]


@dataclass(frozen=True)
class Hold(Call):
    member: str
    counter: int
    models: tuple[str, ...]
    script = "hold"

    def arguments(self) -> list[str | bytes]:
        return [self.member, str(self.counter), *self.models]


@dataclass(frozen=True)
class ManifestOf(Call):
    model: str
    gen: int
    script = "manifest"

    def arguments(self) -> list[str | bytes]:
        return [self.model, str(self.gen)]


@dataclass(frozen=True)
class Leave(Call):
    member: str
    died: bool = False
    script = "leave"

    def arguments(self) -> list[str | bytes]:
        return [self.member, "1" if self.died else "0"]


@dataclass(frozen=True)
class Evict(Call):
    member: str
    beat: str
    watcher: str = ""
    script = "evict"

    def arguments(self) -> list[str | bytes]:
        return [self.member, self.beat, self.watcher]


@dataclass(frozen=True)
class Open(Call):
    watcher: str = ""
    script = "open"

    def arguments(self) -> list[str | bytes]:
        return [self.watcher]


@dataclass(frozen=True)
class Heal(Call):
    """Gives back what was told active. `committed`, `heard`: numbers of epochs; `rollback`: the generation that it went back to, or 0."""

    model: str
    gen: int
    version: str
    committed: int
    heard: int
    manifest: str
    poison: str
    pin: Mapping[str, Any] | None = field(default=None, hash=False)
    poisoned: Mapping[str, Any] | None = field(default=None, hash=False)
    rollback: int = 0
    script = "heal"
    parts = ("_heal",)

    def arguments(self) -> list[str | bytes]:
        numbers = [str(self.committed), str(self.heard)]
        pin = json.dumps(self.pin) if self.pin else ""
        poisoned = json.dumps(self.poisoned) if self.poisoned else ""
        what = [self.model, str(self.gen), self.version, *numbers, self.manifest, self.poison, pin, poisoned]
        return [*what, str(self.rollback)]


@dataclass(frozen=True)
class Reopen(Heal):
    script = "reopen"


@dataclass(frozen=True)
class Lock(Call):
    """`action`: take, extend, free. `about`: JSON of who holds it and since when."""

    model: str
    action: str
    token: str
    about: str
    ttl_ms: int
    script = "lock"
    locks = True

    def arguments(self) -> list[str | bytes]:
        return [self.action, self.token, self.about, str(self.ttl_ms)]


@dataclass(frozen=True)
class Propose(Call):
    model: str
    request: str
    token: str
    version: str
    poison: str
    manifest: bytes
    agreement: float
    prepare_ms: int
    by: str
    now: bool = False
    force: bool = False
    canary: str = ""
    script = "propose"
    locks = True

    def arguments(self) -> list[str | bytes]:
        flags = ["1" if self.now else "0", "1" if self.force else "0"]
        how = [repr(self.agreement), str(self.prepare_ms), self.by, *flags]
        return [self.model, self.request, self.token, self.version, self.poison, self.manifest, *how, self.canary]


@dataclass(frozen=True)
class Say(Call):
    """What a worker says of a generation; `detail`: worker, step, why, seconds."""

    member: str
    model: str
    gen: int
    said: str
    detail: Mapping[str, Any] = field(default_factory=dict, hash=False)
    script = "answer"

    def arguments(self) -> list[str | bytes]:
        return [self.member, self.model, str(self.gen), self.said, json.dumps(self.detail)]


@dataclass(frozen=True)
class Report(Call):
    """What a worker has counted since a step of a canary began; step 0: of an active generation that is watched."""

    member: str
    model: str
    gen: int
    step: int
    counted: str
    script = "report"

    def arguments(self) -> list[str | bytes]:
        return [self.member, self.model, str(self.gen), str(self.step), self.counted]


@dataclass(frozen=True)
class Settle(Call):
    script = "settle"


@dataclass(frozen=True)
class _Decision(Call):
    """An operator's change, decided on generation `seen` (abort: the candidate's). `asked`: the generation that somebody named, 0: whatever
    was there; an earlier change with the same request id was of the same, or is another one (R10)."""

    model: str
    request: str
    seen: int
    by: str
    why: str = ""
    asked: int = field(default=0, kw_only=True)
    parts = ("_operator",)

    def arguments(self) -> list[str | bytes]:
        return [self.model, self.request, str(self.seen), self.by, self.why, str(self.asked)]


@dataclass(frozen=True)
class Abort(_Decision):
    script = "abort"


@dataclass(frozen=True)
class Promote(_Decision):
    """`gen`: the candidate's; `share`: of the requests, in ten-thousandths, 0: all; `step`: that it was decided in, 0: any."""

    gen: int = 0
    share: int = 0
    step: int = 0
    script = "promote"

    def arguments(self) -> list[str | bytes]:
        return [*super().arguments(), str(self.gen), str(self.share), str(self.step)]


@dataclass(frozen=True)
class Pin(_Decision):
    script = "pin"


@dataclass(frozen=True)
class Unpin(_Decision):
    script = "unpin"


@dataclass(frozen=True)
class Rollback(_Decision):
    """`to`: a committed generation, 0: the newest way back; `if_watched`: only while the active one is watched after its canary;
    `manifest`: of `to`, with an operator's order, empty: as it is stored; `to` is then named by who signs, `asked` by who has called."""

    to: int = 0
    pin: bool = True
    agreement: float = 1.0
    prepare_ms: int = 120_000
    if_watched: bool = False
    manifest: bytes = b""
    script = "rollback"

    def arguments(self) -> list[str | bytes]:
        more = [str(self.to), "1" if self.pin else "0", repr(self.agreement), str(self.prepare_ms)]
        return [*super().arguments(), *more, "1" if self.if_watched else "0", self.manifest]


@dataclass(frozen=True)
class StartTask(Call):
    request: str
    kind: str
    model: str
    timeout_ms: int
    by: str
    why: str = ""
    script = "task"

    def arguments(self) -> list[str | bytes]:
        return ["start", self.request, self.kind, self.model, str(self.timeout_ms), self.by, self.why]


@dataclass(frozen=True)
class TaskDone(Call):
    member: str
    task: str
    ok: bool
    detail: Mapping[str, Any] = field(default_factory=dict, hash=False)
    script = "task"

    def arguments(self) -> list[str | bytes]:
        return ["answer", self.member, self.task, "done" if self.ok else "failed", json.dumps(self.detail)]


#: Keys of one fleet in the order of KEYS, without the prefix `genlock:{FLEET}:`.
KEYS = ("fleet", "members", "holds", "models", "waiting", "generations", "log", "workers")


def keys_of(fleet: str, call: Call | None = None) -> list[str]:
    """KEYS of a call: the same eight, and the lock of its model where it looks at that."""
    keys = [f"genlock:{{{fleet}}}:{key}" for key in KEYS]
    if call is not None and call.locks:
        keys.append(f"genlock:{{{fleet}}}:lock:{call.model}")  # type: ignore[attr-defined]
    return keys


def hint_of(fleet: str) -> str:
    """The channel of hints: "EPOCH REVISION MODEL"."""
    return f"genlock:{{{fleet}}}:hint"
