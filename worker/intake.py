"""A trained file becomes a generation now, because somebody needs it: at the first use of a signature, and at a refresh.

What is noticed by itself goes the way of `coordinator.watching`; this is the same way for one file, with an end.
"""

from __future__ import annotations

import stat
import time
import uuid
from functools import partial
from pathlib import Path

from ..coordinator.clock import clock
from ..coordinator.disk import explained
from ..coordinator.errors import ArtifactRefused, NotReady
from ..coordinator.filesystem import kind_of
from ..coordinator.fleet import Fleet
from ..coordinator.staging import ONLY
from ..coordinator.watching.memory import Memory
from ..coordinator.watching.offer import ChangedMeanwhile, InWork, Offer, Offered, Settled
from ..coordinator.watching.settling import SETTLED_ELSEWHERE_S, SETTLED_S, FileIdentity, Settling, Take
from ..coordinator.watching.writers import is_open_for_writing

#: Seconds between two looks at a file that somebody writes.
POLL_S = 0.05
#: Seconds without which nothing is proposed: what the fleet has to refuse because it was not ready in time is not proposed again by itself.
PROPOSE_S = 1.0


def publish_file(
    fleet: Fleet, model: str, path: Path, *, note: str, timeout_s: float | None = None, is_all: bool = False
) -> Offered:
    """Publishes the file, unless the fleet has that content already or gets ready for it; waits until nobody writes it.

    `note`: why, for the message of the generation; `timeout_s`: for the writer, default `max_wait_s`; `is_all`: the fleet's getting ready
    has to be over by then too (default: it may take `prepare_timeout_s` more). Raises NotReady (it was written to all the time, or no time
    was left to propose it), ArtifactMissing, and what Fleet.publish raises.
    """
    until = clock() + (fleet.settings.max_wait_s if timeout_s is None else timeout_s)
    memory = Memory(fleet.settings.state_dir, fleet.name)
    left_s = partial(_left_s, model, path, until) if is_all else None
    while True:
        files = {ONLY: Settled(path, _settled(model, path, until))}
        try:
            return Offer(model, files, fleet=fleet, memory=memory, note=note, left_s=left_s).make(uuid.uuid4().hex)
        except ChangedMeanwhile:
            if clock() > until:
                raise _written(model, path) from None
        except InWork as error:
            return Offered(model=model, outcome=error.outcome, why=str(error))


def _left_s(model: str, path: Path, until: float) -> float:
    if (left_s := until - clock()) < PROPOSE_S:
        raise NotReady(model, f"the time was over before {path} could be published: ask again")
    return left_s


def _settled(model: str, path: Path, until: float) -> FileIdentity:
    """The identity of the file once it has been unchanged for a while, and nobody has it open for writing."""
    is_local = kind_of(path).is_local
    settling = Settling(SETTLED_S if is_local else SETTLED_ELSEWHERE_S)
    unchanged_s = _unchanged_s(path) if is_local else 0.0
    settling.saw({ONLY: _identity_of(path)}, clock() - unchanged_s)
    while True:
        identity, now = _identity_of(path), clock()
        if identity is not None and isinstance(settling.saw({ONLY: identity}, now), Take):
            if not is_open_for_writing(path, is_local=is_local):
                return identity
            settling.is_written(now)
        if now > until:
            raise _written(model, path)
        time.sleep(POLL_S)


def _written(model: str, path: Path) -> NotReady:
    return NotReady(model, f"{path} was written to all the time, or is empty")


def _identity_of(path: Path) -> FileIdentity | None:
    """None: it is empty, as a file is that a writer has just opened."""
    with explained(path):
        found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ArtifactRefused(str(path), "it is not a regular file")
    return FileIdentity.of(found) if found.st_size else None


def _unchanged_s(path: Path) -> float:
    """For how long it has been as it is: its ctime is of this host's clock."""
    return max(0.0, time.time() - path.stat().st_ctime)
