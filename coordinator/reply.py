"""What comes back from Redis: one reply for every script. Pure.

Nothing in it is believed because it came from Redis: `decode` checks types and ranges and raises ReplyInvalid.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import msgspec

from .canary import Both

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
    """What has become of a request (R10). `state`: candidate, canary, next, committed, rejected, superseded, aborted, done; `verb`: the
    script that it was a call of, empty where an older program wrote the answer; `share`: of a promote, in ten-thousandths, 0: all."""

    verdict: str = "ok"
    state: str = ""
    generation: Whole | None = None
    version: str = ""
    why: str = ""
    step: str = ""
    worker: str = ""
    target: Whole | None = None
    verb: str = ""
    share: Whole | None = None


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
    share: Whole | None = None
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
