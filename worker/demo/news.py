"""What the processes of the demo tell its director, one JSON line each. Pure.

All times are seconds of `time.monotonic()`, which all processes of a machine share; that is what lets their requests be put into order.
"""

from __future__ import annotations

import msgspec

#: The model's name in the fleet.
MODEL = "digits"
#: The file of held-out digits, in the demo's folder: the trainer writes it, clients read it.
HELD_OUT_FILE = "held-out.json"


class Request(msgspec.Struct, frozen=True, tag="request"):
    """One request as its client saw it.

    `start`: just before it was written; `end`: when its answer had been read. `latency`: seconds since it was due, which is earlier
    than `start` where the connection still waited for an answer. `generation` 0: no answer (`error` says why).
    """

    start: float
    end: float
    latency: float
    generation: int = 0
    version: str = ""
    worker: str = ""
    stale: bool = False
    correct: bool = False
    error: str = ""


class Connected(msgspec.Struct, frozen=True, tag="connected"):
    """A client process has opened its connections."""

    connections: int


class Trained(msgspec.Struct, frozen=True, tag="trained"):
    """An epoch is done. `accuracy`: share of the held-out digits that the trainer reads rightly with it."""

    epoch: int
    loss: float
    accuracy: float


class Publishing(msgspec.Struct, frozen=True, tag="publishing"):
    """The trainer begins to publish `what`."""

    what: str


class Published(msgspec.Struct, frozen=True, kw_only=True, tag="published"):
    """What became of a publish, from `began` to `ended`. `broken`: nobody may take it.

    `outcome`: committed, rejected (by `worker`), or refused (by the publisher's own check, before anybody was asked). `seconds` of
    each phase; `workers`: how many changed.
    """

    outcome: str
    what: str = ""
    broken: bool = False
    began: float = 0.0
    ended: float = 0.0
    generation: int = 0
    version: str = ""
    seconds: dict[str, float] = {}
    workers: int = 0
    worker: str = ""
    step: str = ""
    why: str = ""

    @property
    def as_promised(self) -> bool:
        """Whether it was taken if it was good, and not if it was broken."""
        return (self.outcome == "committed") is not self.broken


class Trial(msgspec.Struct, frozen=True):
    """What the director tells the trainer: publish `epochs` checkpoints spread over `seconds`, and broken ones halfway."""

    start: float
    seconds: float
    epochs: int


News = Request | Connected | Trained | Publishing | Published

_decoder: msgspec.json.Decoder[News] = msgspec.json.Decoder(News)


def encode(news: News | Trial) -> bytes:
    """One line."""
    return msgspec.json.encode(news) + b"\n"


def decode(line: bytes) -> News:
    """The inverse; raises msgspec.DecodeError."""
    return _decoder.decode(line)
