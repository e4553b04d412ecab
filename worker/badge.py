"""What a child process shows its parent: which members of which fleets it is. A few bytes of memory that both have, whichever dies.

The parent makes it before the fork, the child writes it before the first `hold` of each membership, and the parent reads it when the
child is dead. gunicorn's hooks use it; nothing here knows of gunicorn.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Hashable

import msgspec

from ..coordinator.calls import Leave
from ..coordinator.endpoint import Endpoint
from ..coordinator.identity import Identity
from ..coordinator.registry import Registry
from ..coordinator.reply import Epoch
from ..coordinator.settings import Settings

#: Bytes of a badge: a membership takes about 300, and the URL of its Redis.
BADGE_BYTES = 16_384
#: Seconds that one answer of Redis is waited for while a parent says that its child is dead.
CALL_S = 0.1
_LENGTH_BYTES = 4


class Membership(msgspec.Struct, frozen=True):
    """One member of one fleet, and where that is."""

    redis_url: str | None
    state_dir: str
    fleet: str
    fleet_id: str
    lease_s: float
    member: str
    epoch: int
    nonce: str


_DECODER = msgspec.json.Decoder(list[Membership])


class Badge:
    """Made by the parent, one for each child."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, BADGE_BYTES)
        #: Written by the child only: by whom → membership.
        self._shown: dict[Hashable, Membership] = {}
        self._lock = threading.Lock()

    def show(self, who: Hashable, membership: Membership) -> None:
        """The membership of `who` in this process, in place of its former one."""
        with self._lock:
            self._shown[who] = membership
            self._write()

    def clear(self) -> None:
        """This process has left."""
        with self._lock:
            self._shown.clear()
            self._write()

    def _write(self) -> None:
        data = msgspec.json.encode(list(self._shown.values()))
        self._memory[:_LENGTH_BYTES] = bytes(_LENGTH_BYTES)  # who dies in here shows nothing, and is evicted in the end
        if len(data) <= BADGE_BYTES - _LENGTH_BYTES:
            self._memory[_LENGTH_BYTES : _LENGTH_BYTES + len(data)] = data
            self._memory[:_LENGTH_BYTES] = len(data).to_bytes(_LENGTH_BYTES, "big")

    def read(self) -> list[Membership]:
        """What is shown; for the parent."""
        length = int.from_bytes(self._memory[:_LENGTH_BYTES], "big")
        data = self._memory[_LENGTH_BYTES : _LENGTH_BYTES + length]
        try:
            return _DECODER.decode(data) if length else []
        except (msgspec.DecodeError, UnicodeDecodeError):  # a child that wrote over its memory
            return []


def report_dead(membership: Membership) -> None:
    """Tells the fleet that the member died, once and over a connection of its own. Starts no server. Raises Unavailable.

    In another epoch nothing is done: there the id may be somebody else's.
    """
    settings = Settings().with_arguments(redis_url=membership.redis_url, state_dir=membership.state_dir)
    identity = Identity(membership.fleet_id, membership.lease_s, had_member=True)
    registry = Registry(Endpoint.of(settings), membership.fleet, identity, timeout_s=CALL_S)
    registry.epoch = Epoch(membership.epoch, membership.nonce)
    try:
        registry.send(Leave(membership.member, died=True))
    finally:
        registry.close()
