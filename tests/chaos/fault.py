"""What can happen to a stand, by name."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .history import Injection
    from .stand import Stand


Act = Callable[["Stand", random.Random], "str | None"]


class Fault(NamedTuple):
    """`act` does it, and returns when it is over; what it says is written down. For the other fields see history.Injection."""

    kind: str
    act: Act
    kills: bool = False
    loses: bool = False
    forgets: bool = False


def strike(stand: Stand, fault: Fault, chance: random.Random) -> Injection:
    """Injects it, and waits until the fleet has come to rest."""
    nature = {"kills": fault.kills, "loses": fault.loses, "forgets": fault.forgets}
    return stand.inject(fault.kind, lambda stand: fault.act(stand, chance), **nature)
