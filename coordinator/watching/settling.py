"""When what is there may be taken. Pure: what was seen is handed in, and the moment.

A file is known by its identity: device, inode, size, mtime and ctime. Another one is a change, whether it is newer or not: a restored
backup is older, and a file that was renamed into place may have any time. The files of a model are taken together, when

- all of them are there, and none is empty;
- none of them has changed for a while;
- that while was longer than the tick of the clock that the identity was stamped by: two writes in one tick leave the same identity, and
  the second one would never be seen;
- nobody has one of them open for writing, as far as that can be known;
- where only some of them have changed since they were taken last, the others had some time to follow.

What was taken is not taken again before it has changed. A file that is written to all the time is never taken.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

#: Seconds that files on this host have to be unchanged. A writer that pauses for longer is seen by its open file; the second is for what
#: closes a file and opens it again, or writes the next one, and for the tick of the clock.
SETTLED_S = 1.0
#: The same where another host may be the writer, which nobody here can see. Linux writes what is dirty every 5 s
#: (vm.dirty_writeback_centisecs), so a writer that goes on shows within that; NFS believes what it knows of a changed file for 3 s.
SETTLED_ELSEWHERE_S = 6.0
#: Seconds that the other files of a model have to follow one that has changed: a saver that makes several pauses between two.
OTHERS_S = 5.0
#: Seconds of the coarsest tick of a file system whose times are whole seconds (FAT: 2 s; ext3, HFS+ and old servers: 1 s), with some slack.
COARSE_TICK_S = 2.1
#: Nanoseconds of a second.
_SECOND_NS = 1_000_000_000


class FileIdentity(NamedTuple):
    """What is different whenever the file might be."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileIdentity:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    @property
    def tick_s(self) -> float:
        """Longest time in which a second write may leave the same identity: a finer clock than one of seconds shows that it is one (all
        of those tick at least every 10 ms, far below the time that a file has to be unchanged)."""
        return COARSE_TICK_S if self.ctime_ns % _SECOND_NS == 0 else 0.0


#: Artifact → identity; None: not there, empty, or no regular file.
Seen = Mapping[str, FileIdentity | None]


@dataclass(frozen=True)
class Idle:
    """There is nothing to do before something changes. `missing`: what is waited for."""

    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wait:
    """Look again at `until`."""

    until: float


@dataclass(frozen=True)
class Take:
    """What was seen may be taken, if nobody has it open for writing; who finds that says `is_written`."""


class Settling:
    """The files of one model. Moments are in seconds of one clock that only grows."""

    def __init__(self, settled_s: float) -> None:
        """`settled_s`: how long they have to be unchanged."""
        self.settled_s = settled_s
        self._seen: Seen = {}
        self._since = float("-inf")  # when what was seen last was seen first
        self._taken: Seen = {}

    def saw(self, seen: Seen, now: float) -> Idle | Wait | Take:
        """What is to be done about files that look like this `now`."""
        if seen != self._seen:
            self._seen, self._since = dict(seen), now
        missing = tuple(sorted(name for name, identity in seen.items() if identity is None))
        if missing or seen == self._taken or not seen:
            return Idle(missing)
        due = self._since + self._pause_s(seen)
        return Take() if now >= due else Wait(due)

    def is_written(self, now: float) -> Wait:
        """Somebody has one of the files open for writing: it has changed just now, for all that is known."""
        self._since = now
        return Wait(now + self._pause_s(self._seen))

    def taken(self, seen: Seen) -> None:
        """These were dealt with; nothing is to be done before one of them is another."""
        self._taken = dict(seen)

    def _pause_s(self, seen: Seen) -> float:
        changed = [name for name, identity in seen.items() if self._taken.get(name) != identity]
        is_part = bool(self._taken) and len(changed) < len(seen)
        tick_s = max((identity.tick_s for identity in seen.values() if identity is not None), default=0.0)
        return max(self.settled_s, tick_s, OTHERS_S if is_part else 0.0)
