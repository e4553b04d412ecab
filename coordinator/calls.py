"""What is said to Redis, and what comes back: one type per script, one reply. Pure.

A call knows the name of its script and its arguments as text; `registry` sends it, a simulation may too. Nothing in a reply is
believed because it came from Redis: `decode` checks types and ranges and raises ReplyInvalid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, NamedTuple

import msgspec

from .canary import Both

#: The schema of the keys that this program writes and reads; scripts refuse a newer one.
SCHEMA = 1
#: What members answer. Refused: nobody whose key counts there vouches for it; it rejects as bad does, and says nothing of the bytes.
READY, FAILED, BAD, FENCED, REFUSED = "ready", "failed", "bad", "fenced", "refused"

Whole = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Epoch(NamedTuple):
    """One unbroken memory of Redis. Number 0: none is known yet."""

    number: int
    nonce: str


NO_EPOCH = Epoch(0, "")


class ReplyInvalid(Exception):
    """What came back is not what the script answers."""


class Active(msgspec.Struct, frozen=True):
    """The generation that answers come from: its number, content, the epoch of its commit, ms of the server's clock."""

    gen: Whole
    version: str
    epoch: Whole
    at: Whole = 0
    unproven: bool = False
    poison: str = ""


class Tried(msgspec.Struct, frozen=True):
    """How a candidate is tried: growing shares, in ten-thousandths; ms that a step may take; the policy, as text."""

    steps: list[Whole]
    length: Whole = 0
    policy: str | None = None


class Watched(msgspec.Struct, frozen=True):
    """The active generation is watched by the policy of its canary, until a moment of the server's clock, ms. `base`: what the
    generation before it had counted."""

    gen: Whole
    policy: str
    deadline: Whole = 0
    base: str | None = None


class Candidate(msgspec.Struct, frozen=True):
    """What the fleet is getting ready for; the counts are of entries in that state. `share`: of the requests in the present step of its
    canary, which began at `step_at`, in ten-thousandths."""

    gen: Whole
    version: str
    request: str
    by: str = ""
    started: Whole = 0
    deadline: Whole = 0
    awaited: int = 0
    late: int = 0
    ready: int = 0
    failed: int = 0
    fenced: int = 0
    phase: str = "preparing"
    rollback: str | None = None
    canary: Tried | None = None
    share: Whole = 0
    step: Whole = 0
    step_at: Whole = 0


class State(msgspec.Struct, frozen=True):
    """A model as a member (or anybody) has to see it. `mine`: the asker's entry of the candidate."""

    rev: Whole
    phase: str
    active: Active | None = None
    cand: Candidate | None = None
    mine: str | None = None
    pin: dict[str, Any] | None = None
    poison: dict[str, Any] | None = None
    waits: str | None = None
    watch: Watched | None = None

    @property
    def is_fencing(self) -> bool:
        return self.phase == "fencing"

    @property
    def is_canary(self) -> bool:
        return self.phase == "canary"


class Task(msgspec.Struct, frozen=True):
    """Something that every worker does once: kind clear or refresh; an empty model is all of them."""

    kind: str
    model: str = ""


class Answer(msgspec.Struct, frozen=True):
    """What has become of a request (R10). `state`: candidate, canary, next, committed, rejected, superseded, aborted, done."""

    verdict: str = "ok"
    state: str = ""
    generation: Whole | None = None
    version: str = ""
    why: str = ""
    step: str = ""
    worker: str = ""
    target: Whole | None = None


class Reply(msgspec.Struct, frozen=True):
    """The answer of any script; each header in lua/ says which fields its verdicts fill."""

    verdict: str
    epoch: Whole = 0
    nonce: str = ""
    open: bool = False
    lease: Whole = 0
    revision: Whole = 0
    id: str | None = None
    beat: str | None = None
    states: dict[str, State] = {}
    watch: dict[str, str] = {}
    due: bool = False
    tasks: dict[str, Task] = {}
    answer: Answer | None = None
    manifest: str | None = None
    holder: str | None = None
    found: str | None = None
    pin: dict[str, Any] | None = None
    state: str = ""
    generation: Whole | None = None
    version: str = ""
    why: str = ""
    step: str = ""
    worker: str = ""
    target: Whole | None = None
    task: str | None = None
    awaited: int = 0
    figures: Both | None = None
    age: Whole = 0

    @property
    def epoch_id(self) -> Epoch:
        return Epoch(self.epoch, self.nonce)

    @property
    def lease_s(self) -> float:
        return self.lease / 1000

    @property
    def as_answer(self) -> Answer:
        """The reply to a change, as what has become of its request."""
        return Answer(
            self.verdict,
            self.state,
            self.generation,
            self.version,
            self.why,
            self.step,
            self.worker,
            self.target,
        )


_DECODER = msgspec.json.Decoder(Reply, strict=False)


def decode(data: bytes) -> Reply:
    """The reply in `data`; raises ReplyInvalid whatever the bytes are."""
    if not isinstance(data, bytes):
        raise ReplyInvalid(f"it is a {type(data).__name__}")
    try:
        # What somebody garbled need not be UTF-8. A manifest that is not must look like one that is bad, not like a Redis that is gone.
        return _DECODER.decode(data.decode("utf-8", "replace"))
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise ReplyInvalid(str(error)) from error


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
    """An operator's change, decided on generation `seen` (abort: the candidate's)."""

    model: str
    request: str
    seen: int
    by: str
    why: str = ""
    parts = ("_operator",)

    def arguments(self) -> list[str | bytes]:
        return [self.model, self.request, str(self.seen), self.by, self.why]


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
    `manifest`: of `to`, with an operator's order, empty: as it is stored."""

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
    script = "task"

    def arguments(self) -> list[str | bytes]:
        return ["start", self.request, self.kind, self.model, str(self.timeout_ms), self.by]


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
