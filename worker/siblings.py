"""The worker processes of one host that serve the same fleet from the same service: what all of them count, whichever is asked.

Each writes its figures every second into a file of its own below the state folder, from a thread of its own: neither a request nor the
heartbeat waits for a disk. Who is asked adds what the files of living processes say, and removes those of dead ones. What a dead process
has counted goes with it: its series, which have its name, end there, and nobody's counter falls.

::

    STATE/figures/FLEET/PLACE@SERVICE@PROCESS@CACHE.FORM

PLACE is the host and its table of processes (containers may share a state folder), SERVICE the process that the siblings come from, PROCESS
the one that writes; both as pid and start time, because a pid is used again. CACHE tells the caches of one process apart; FORM changes
with what is written, so that a worker of another release is left out and not misread.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from ..coordinator.disk import write_whole
from ..coordinator.metrics import BUCKETS_S
from .exposition import FAMILIES

_log = logging.getLogger("genlock.worker")

#: Seconds between two writes: as often as a heartbeat of the usual lease, well below the interval of a scrape (Prometheus: 15 s to 60 s).
WRITE_S = 1.0
#: Seconds that closing waits for a write that has begun.
CLOSE_S = 1.0
#: What is written, as a number: of everything that says where its values stand.
_FORM = f".{zlib.crc32(repr((FAMILIES, BUCKETS_S)).encode()):08x}"

Detail = Mapping[str, Any]


def process(pid: int) -> str | None:
    """PID-START of a process that lives; None if there is none. START: ticks since the boot, 0 where /proc does not say."""
    try:
        # proc(5): behind the name, which may have blanks and brackets in it, the state is the first field and the start the twentieth.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else f"{pid}-{int(fields[19])}"
    except (OSError, IndexError, ValueError):
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except OSError:
        return None
    return f"{pid}-0"


#: The process that imported this room: behind a fork, what the children have in common.
_IMPORTER = (os.getpid(), process(os.getpid()) or "")


def service() -> str:
    """The process that this one and its siblings come from: gunicorn's arbiter, the supervisor of other servers, or this one itself."""
    pid, importer = _IMPORTER
    if pid != os.getpid():
        return importer
    spawned = sys.modules.get("multiprocessing.process")  # how uvicorn and hypercorn begin their workers
    is_child = "gunicorn.arbiter" in sys.modules or (spawned is not None and spawned.parent_process() is not None)
    return (process(os.getppid()) if is_child else None) or importer


def _place() -> str:
    try:
        table = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        table = ""
    return quote(socket.gethostname() + "".join(filter(str.isdigit, table)), safe="")


class _Name(NamedTuple):
    """Of one file."""

    place: str
    service: str
    process: str
    cache: str

    @classmethod
    def of(cls, path: Path) -> _Name | None:
        parts = path.stem.split("@")
        return cls(*parts) if len(parts) == len(cls._fields) else None

    @property
    def is_alive(self) -> bool:
        pid = self.process.partition("-")[0]
        return pid.isascii() and pid.isdigit() and process(int(pid)) == self.process


class Siblings:
    """One cache of this process among those of its siblings. Made anew after a fork; nothing is touched before `start` or `details`."""

    _caches = itertools.count()

    def __init__(self, state_dir: Path, fleet: str, detail: Callable[[], Detail], *, cache: int) -> None:
        """`detail`: the figures of this process, ready for JSON; called by any thread. `cache`: from `number`, the same after a fork."""
        self._folder = state_dir / "figures" / fleet
        self._detail, self._cache = detail, cache
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def number(cls) -> int:
        """Of the next cache of this process."""
        return next(cls._caches)

    def start(self) -> None:
        """Begins to write. A disk that does not take it costs the others these figures, and nothing else."""
        self._thread = threading.Thread(target=self._run, name="genlock-figures", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends, and takes the figures away; harmless twice."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def details(self) -> list[Detail]:
        """The figures of this process, as they are now, and of its siblings, at most about a second old; sorted by worker."""
        me, found = self._me(), [self._detail()]
        for path, name in self._files():
            is_ours = path.suffix == _FORM and (name.service, name.cache) == (me.service, me.cache)
            if is_ours and name != me and (detail := _read(path)):
                found.append(detail)
        return sorted(found, key=lambda detail: str(detail["worker"]))

    def _me(self) -> _Name:
        own = process(os.getpid()) or f"{os.getpid()}-0"
        return _Name(_place(), service(), own, str(self._cache))

    def _files(self) -> Iterator[tuple[Path, _Name]]:
        """Of living processes of this place; those of dead ones are removed."""
        place = _place()
        for path in self._listed():
            name = _Name.of(path)
            if name is None or name.place != place:
                continue
            if name.is_alive:
                yield path, name
            else:
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def _listed(self) -> list[Path]:
        """What lies in the folder; nothing where it is somebody else's: what others can write there is not believed."""
        try:
            about = self._folder.stat()
            is_ours = about.st_uid == os.geteuid() and not about.st_mode & 0o022
            return list(self._folder.iterdir()) if is_ours else []
        except OSError:
            return []

    def _run(self) -> None:
        own, is_said = self._folder / f"{'@'.join(self._me())}{_FORM}", False
        while True:
            try:
                self._write(own)
                is_said = False
            except OSError as error:
                if not is_said:
                    _log.warning("the figures of this worker cannot be written for the others of its host: %s", error)
                is_said = True
            if self._stop.wait(WRITE_S):
                break
        with suppress(OSError):
            own.unlink(missing_ok=True)

    def _write(self, own: Path) -> None:
        """Whole or not at all: somebody may read at any moment. Not synchronised: after a crash of the machine nobody wants it."""
        data = msgspec.json.encode(self._detail())
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A name that goes with this process's others, should it be killed just now.
        write_whole(own, data, durable=False, temp=own.with_suffix(".draft"))


def _read(path: Path) -> Detail | None:
    """What a sibling wrote; None when it has just gone, or left something that cannot be read."""
    try:
        detail = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, RecursionError):
        return None
    return detail if isinstance(detail, dict) and "worker" in detail else None
