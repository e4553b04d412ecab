"""What a simulation raises when a promise is broken."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from world import World


class Violation(Exception):
    """Which invariant, and what was found. `world`: where, as it was then."""

    world: World

    @property
    def invariant(self) -> str:
        """Its name: I1 to I8, a rule, or what every worker and every wait has to come to."""
        found = re.match(r"[IR]\d+ ", str(self))
        return found[0].strip() if found else "rest"
