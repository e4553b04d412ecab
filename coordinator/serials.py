"""Serials: which signed manifest is the newest that this host has seen active, and the number that a trainer signs next.

::

    STATE_DIR/serials/FLEET_ID/models/MODEL.json    the highest serial that was active here (workers of one host and user share it)
    STATE_DIR/serials/FLEET_ID/before/MODEL.json    the highest serial that trainers here know to have been active
    STATE_DIR/serials/FLEET_ID/used.json            the highest serial that was signed here
    STATE_DIR/serials/FLEET_ID/lock                 held while one of them is read, compared and written

By the fleet's id, not its name: a fleet that is made anew begins anew. A file is complete and flushed before a rename gives it its name.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from .disk import FULL, make_folder, write_whole
from .errors import NotOrdered, SerialsUnreadable, SerialTooLow
from .hostlock import locked
from .manifest import Manifest, Size, check_name

#: The greatest whole number that every reader of JSON, and Lua, holds exactly.
MAX_SERIAL = 2**53
#: Bytes of one of the files, of which 64 versions take 4288; what is larger is something else.
MAX_FILE_BYTES = 8192
#: Versions that are remembered of what was active: as many as Redis keeps ways back (KEPT_COMMITTED in lua/_candidate.lua).
MAX_LEFT = 64
#: Seconds that the lock is waited for. Its holder flushes one file: who has not come to an end in that time is stopped, or its disk is.
MAX_WAIT_S = 10.0

#: Of each kind of file: what it does not say, and what its absence would mean.
_MODELS = (
    "it does not say which serial was seen last",
    "Mend it; to remove it is to trust whatever signed manifest Redis has now",
)
_BEFORE = (
    "it does not say which serial is known to have been active",
    "Mend it; to remove it is to sign whatever signed manifest Redis has now as the way back of the next one",
)
_USED = (
    "it does not say which serial was signed last",
    "Remove it, if the clock of this host is right: serials go on above the time, and above what is active",
)
#: Of a number that no reader would hold exactly: used.json alone says it, or the clock or what is active does.
_FILE_AHEAD = "A clock was far ahead when it was written: remove it, if the clock of this host is right"
_AHEAD = (
    "Set the clock of this host right; if it is, a manifest was signed with such a serial: replace its key,"
    " and remove the files in `models` beside this one on every host"
)


class Claim(msgspec.Struct, frozen=True):
    """What a vouched for generation says of its place. `serial`: of the order, where there is one that counts; else the manifest's."""

    serial: Size
    version: str
    way_back: str = ""
    is_rollback: bool = False

    @classmethod
    def of(cls, manifest: Manifest, *, is_rollback: bool, orders_count: bool) -> Claim:
        """`is_rollback`: Redis says so; `orders_count`: the order was checked, where there is one."""
        order = manifest.order if orders_count else None
        serial = order.serial if order is not None else manifest.serial
        return cls(serial, manifest.version, "" if order is not None else manifest.way_back, is_rollback)


_Version = Annotated[str, msgspec.Meta(max_length=64)]


class Seen(msgspec.Struct, frozen=True):
    """The newest generation that was active here; `way_back`: the version that its trainer says was active before it. `back_serial`,
    `back_version`: what was gone back to from it without a serial of its own. `left`: versions that were active before, oldest first."""

    serial: Size = 0
    version: _Version = ""
    way_back: _Version = ""
    back_serial: Size = 0
    back_version: _Version = ""
    left: tuple[_Version, ...] = ()


class _Used(msgspec.Struct, frozen=True):
    serial: Size = 0


def judge(model: str, claim: Claim, seen: Seen, *, needs_order: bool) -> None:
    """Raises SerialTooLow or NotOrdered unless the claim may become, or stay, active on a host that has seen that much.

    The same number is the same content (a refresh, a restart, a heal). A lower one is let in as a rollback: by Redis's word where no
    operator's key is set; else without an order only to the version that the trainer of the newest one has signed as its way back,
    or where the newest is the same content (an order led to it, and does not count any more: its key was replaced).
    """
    if claim.serial > seen.serial or (claim.serial, claim.version) == (seen.serial, seen.version):
        return
    if (claim.serial, claim.version) == (seen.back_serial, seen.back_version):
        return
    if not claim.is_rollback:
        raise SerialTooLow(model, claim.serial, seen.serial)
    if needs_order and claim.version not in (seen.way_back, seen.version):
        raise NotOrdered(model, claim.serial, seen.serial)


def advanced(claim: Claim, seen: Seen) -> Seen:
    """What is seen when a claim that `judge` let in has become active: the highest serial never falls.

    A way back is one step. Where it is a version that was left here before, somebody showed its trainer an old manifest as the active
    one: it does not count. One that this host has not seen does: the host may have missed a publish.
    """
    if claim.serial > seen.serial:
        now = {seen.version, seen.back_version} - {""}
        # The same content again has the same way back.
        steps = now | {seen.way_back} if claim.version == seen.version else now
        way_back = claim.way_back if claim.way_back in steps or claim.way_back not in seen.left else ""
        left = [version for version in seen.left if version not in now] + sorted(now)
        return Seen(claim.serial, claim.version, way_back, left=tuple(left[-MAX_LEFT:]))
    if (claim.serial, claim.version) == (seen.serial, seen.version):
        return seen
    return msgspec.structs.replace(seen, back_serial=claim.serial, back_version=claim.version)


_Kind = TypeVar("_Kind", Seen, _Used)


class Serials:
    """The files of one host and user, for one fleet. All of it raises SerialsUnreadable."""

    def __init__(self, state_dir: Path, fleet_id: str) -> None:
        self._folder = state_dir / "serials" / check_name(fleet_id, "fleet")

    def seen(self, model: str) -> Seen:
        """The newest that was active here, of any process of this host and user."""
        return _read(self._path(model), Seen, _MODELS)

    def became_active(self, model: str, claim: Claim, *, needs_order: bool) -> None:
        """Remembers it; flushed when this returns. What is older than what another process has seen meanwhile is not remembered."""
        path = self._path(model)
        if advanced(claim, before := self.seen(model)) == before:
            return
        with self._locked():
            before = self.seen(model)
            try:
                judge(model, claim, before, needs_order=needs_order)
            except (SerialTooLow, NotOrdered):
                return
            if (after := advanced(claim, before)) != before:
                _write(path, after)

    def highest_before(self, model: str) -> int:
        """The highest serial that a trainer of this host and user knows to have been active."""
        return _read(self._path_before(model), _Used, _BEFORE).serial

    def was_active(self, model: str, serial: int) -> None:
        """Remembers it for `highest_before`; flushed when this returns."""
        if serial <= self.highest_before(model):
            return
        with self._locked():
            if serial > self.highest_before(model):
                _write(self._path_before(model), _Used(serial))

    def next(self, *, above: int, now_us: int) -> int:
        """A number that no manifest was signed with here, above `above` and not below the time, in unix microseconds; flushed."""
        path = self._folder / "used.json"
        with self._locked():
            serial = max(now_us, _read(path, _Used, _USED).serial, above) + 1
            if serial > MAX_SERIAL:
                why = f"the serial after {serial - 1} would be above {MAX_SERIAL}"
                raise SerialsUnreadable(str(path), why, _FILE_AHEAD if max(now_us, above) < MAX_SERIAL else _AHEAD)
            _write(path, _Used(serial))
        return serial

    def _path(self, model: str) -> Path:
        return self._folder / "models" / f"{check_name(model)}.json"

    def _path_before(self, model: str) -> Path:
        return self._folder / "before" / f"{check_name(model)}.json"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time; the kernel lets go of the lock when its holder dies."""
        path, end = self._folder / "lock", time.monotonic() + MAX_WAIT_S
        with _written(path):
            make_folder(path.parent)
            with locked([path], lambda: time.monotonic() < end) as is_ours:
                if not is_ours:
                    why = f"another process of this host has held it for {MAX_WAIT_S:g} s"
                    raise SerialsUnreadable(str(path), why, "End it: it is stopped, or its disk does not answer")
                yield


def _read(path: Path, kind: type[_Kind], about: tuple[str, str]) -> _Kind:
    """`about`: what it does not say where it cannot be read, and what to do then."""
    unsaid, remedy = about
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(MAX_FILE_BYTES), type=kind)
    except FileNotFoundError:
        return kind()
    except OSError as error:
        raise SerialsUnreadable(str(path), f"{unsaid} ({error.strerror})", remedy) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SerialsUnreadable(str(path), f"{unsaid} ({error})", remedy) from error


def _write(path: Path, value: Seen | _Used) -> None:
    with _written(path):
        make_folder(path.parent)
        write_whole(path, msgspec.json.encode(value), durable=True)


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Turns an error of the operating system about a file that has to be written into words about the state folder."""
    try:
        yield
    except OSError as error:
        first = "Free space there" if error.errno in FULL else "Let this user write there"
        remedy = f"{first}, or move the folder `serials` to another GENLOCK_STATE_DIR"
        raise SerialsUnreadable(str(path), f"it cannot be written ({error.strerror})", remedy) from error
