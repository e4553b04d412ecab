"""What the director and a trainer process say to each other, one JSON line each. Pure."""

from __future__ import annotations

import msgspec

#: Where a trainer can be made to die or to stop: before or after it sends that call, in the middle of the copy, or while it waits.
STEPS = (*("before:lock", "after:lock", "staging", "before:propose", "after:propose", "before:read", "after:read"),)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Publish the checkpoint `content`, or roll back if it is 0.

    `broken`: it holds a NaN; `unlike`: its golden outputs are of another one; `file`: publish this one, whatever it is; `die`, `stop`:
    one of STEPS, at which SIGKILL or SIGSTOP meets it; `timeout`, `wait`, `now`: as of Fleet.publish.
    """

    content: int = 0
    broken: bool = False
    unlike: bool = False
    file: str = ""
    die: str = ""
    stop: str = ""
    timeout: float = 20.0
    wait: bool = True
    now: bool = False


class Staging(msgspec.Struct, frozen=True, tag="staging"):
    """What the fleet will call the checkpoint that is about to be published, so that it is known whatever becomes of the trainer."""

    version: str


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """What became of an order. `outcome`: of the Flip, or the name of the error."""

    outcome: str
    version: str = ""
    generation: int = 0
    why: str = ""
    seconds: dict[str, float] = {}


Said = Staging | Done
