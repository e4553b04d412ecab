"""Which fleet a store belongs to: its id and its lease, made once, in `ROOT/fleets/NAME.json`.

Redis may lose everything; whoever starts an epoch over a missing fleet key brings the id and the lease from
here (R6). Beside it the empty file `NAME.member` says that the fleet has had a member: without it nobody can
be answering from memory, and a new fleet need not stay closed for a lease.

In an object store the same two stand below its URL. Exactly one of several who make it at once succeeds where the service decides that
(S3, Google Cloud Storage); elsewhere each reads again what stands there, and two first calls ever in the same instant could go on with
different ids: the later one is then refused by the fleet's record in Redis (FleetMismatch), and nothing is lost.
"""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from blake3 import blake3

from .disk import explained, make_folder, open_source, sync_folder, write_whole
from .errors import (
    ArtifactError,
    ArtifactMissing,
    ArtifactRefused,
    IdentityInvalid,
    SettingsInvalid,
    StoreUnreachable,
    StoreUnusable,
)
from .manifest import check_name
from .notation import MAX_LEASE_S, MIN_LEASE_S
from .settings import LEASE_S
from .store import Store

if TYPE_CHECKING:
    from .remote import RemoteStore
    from .store import AnyStore

#: The form of the file that this genlock writes; it refuses a higher one.
FORMAT = 1

_RESTORE = (
    "Restore it from a backup of the store, readable to this user; without one, stop the fleet's workers and"
    " start them again as a fleet of another name (GENLOCK_FLEET)"
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Id (uuid4, hex) and lease in seconds of one fleet, and whether it has ever had a member."""

    fleet_id: str
    lease_s: float
    had_member: bool


class _Form(msgspec.Struct):
    format: Annotated[int, msgspec.Meta(ge=1)]


class _Record(msgspec.Struct):
    format: int
    fleet_id: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    lease_s: Annotated[float, msgspec.Meta(ge=MIN_LEASE_S, le=MAX_LEASE_S)]


def identity(store: AnyStore, fleet: str, *, lease_s: float | None) -> Identity:
    """The fleet's identity; the first of all processes and hosts to ask makes it, with `lease_s` (None: LEASE_S).

    Raises InvalidName, SettingsInvalid (no possible lease), StoreUnusable, IdentityInvalid (what stands in the file
    cannot be used), StoreUnreachable or, when it has to be made, ArtifactRefused or StoreFull.
    """
    if not isinstance(store, Store):
        return _remote(store, fleet) or _made_remote(store, fleet, lease_s)
    path = _path(store, fleet)
    _check_root(store.root)
    record = _read(path)
    if record is None:
        data = _new(LEASE_S if lease_s is None else lease_s)
        _check_root(store.root, make=True)
        _make(path, store.root / "temp" / uuid.uuid4().hex, data)
        record = _read(path)
    if record is None:
        raise IdentityInvalid(str(path), "it is a link to nowhere, or was removed in this moment", _RESTORE)
    return Identity(record.fleet_id, record.lease_s, _marker(path).exists())


def known(store: AnyStore, fleet: str) -> Identity | None:
    """The same, where it is made already; None: nobody has used the fleet with this store. Makes nothing."""
    if not isinstance(store, Store):
        return _remote(store, fleet)
    path = _path(store, fleet)
    _check_root(store.root)
    record = _read(path)
    return None if record is None else Identity(record.fleet_id, record.lease_s, _marker(path).exists())


def check_lease(identity: Identity, lease_s: float | None) -> None:
    """Raises SettingsInvalid if a lease (seconds) was set explicitly and is not the fleet's."""
    if lease_s is not None and lease_s != identity.lease_s:
        made = f"{identity.lease_s:g}"
        why = (
            f"the lease was set to {made} s when the fleet was made, and its members rely on that;"
            f" unset it, set {made}, or make a fleet of another name"
        )
        raise SettingsInvalid("GENLOCK_LEASE", f"{lease_s:g}", why)


def mark_had_member(store: AnyStore, fleet: str) -> None:
    """Remember, before the first join, that the fleet has had a member; flushed when this returns."""
    if not isinstance(store, Store):
        store.files.create(_keys(fleet)[1], b"{}")
        return
    marker = _marker(_path(store, fleet))
    with explained(marker):
        make_folder(marker.parent)
        descriptor = os.open(marker, os.O_RDONLY | os.O_CREAT, 0o444)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(marker.parent)  # even if it was there: who made it may not have come to this yet


def _check_root(root: Path, *, make: bool = False) -> None:
    """Raises StoreUnusable: no backup of a fleet's file helps where the store itself is a wrong path."""
    try:
        with explained(root):
            with suppress(FileNotFoundError):
                (root / "fleets").lstat()  # fails where the root is no folder, or not ours to look into
            if make:
                make_folder(root)
    except ArtifactMissing as error:
        raise StoreUnusable(str(root), "no folder can be made there") from error
    except ArtifactRefused as error:
        raise StoreUnusable(str(root), error.why) from error


# --- below a URL -------------------------------------------------------------------------------------------------------


def _keys(fleet: str) -> tuple[str, str]:
    """Of the file, and of the mark."""
    name = f"fleets/{check_name(fleet, 'fleet')}"
    return f"{name}.json", f"{name}.member"


def _remote(store: RemoteStore, fleet: str) -> Identity | None:
    """What stands there. Read once more only while it may change: it never does after the first member."""
    key, marker = _keys(fleet)
    if (kept := store.identities.get(key)) is not None:
        return kept
    try:
        record = _decode(f"{store.root}/{key}", store.files.read(key))
        found = Identity(record.fleet_id, record.lease_s, store.files.look(marker) is not None)
    except ArtifactMissing:
        return None
    except StoreUnreachable:
        if (last := _kept_here(store, fleet)) is None:
            raise
        store.identities[key] = last
        return last
    if found.had_member:
        store.identities[key] = found
        _keep_here(store, fleet, record)
    return found


def _here(store: RemoteStore, fleet: str) -> Path:
    """Where this host keeps the same: a worker that starts while the store does not answer serves what this host has (promise 5)."""
    return store.state_dir / "identities" / blake3(store.root.encode()).hexdigest(length=8) / f"{fleet}.json"


def _kept_here(store: RemoteStore, fleet: str) -> Identity | None:
    with suppress(ArtifactError):
        record = _read(_here(store, fleet))
        return Identity(record.fleet_id, record.lease_s, True) if record else None
    return None


def _keep_here(store: RemoteStore, fleet: str, record: _Record) -> None:
    path, data = _here(store, fleet), msgspec.json.encode(record)
    with suppress(OSError):  # a trainer may have no state folder to write to, and needs none of this
        if path.exists() and path.read_bytes() == data:
            return
        make_folder(path.parent)
        write_whole(path, data, durable=True)


def _made_remote(store: RemoteStore, fleet: str, lease_s: float | None) -> Identity:
    key, _ = _keys(fleet)
    store.files.create(key, _new(LEASE_S if lease_s is None else lease_s))
    found = _remote(store, fleet)
    if found is None:
        raise IdentityInvalid(f"{store.root}/{key}", "it was removed in this moment", _RESTORE)
    return found


# --- in a folder -------------------------------------------------------------------------------------------------------


def _path(store: Store, fleet: str) -> Path:
    return store.root / "fleets" / f"{check_name(fleet, 'fleet')}.json"


def _marker(path: Path) -> Path:
    return path.with_suffix(".member")


def _new(lease_s: float) -> bytes:
    if not MIN_LEASE_S <= lease_s <= MAX_LEASE_S:
        why = f"a lease lasts {MIN_LEASE_S:g} to {MAX_LEASE_S:g} seconds"
        raise SettingsInvalid("GENLOCK_LEASE", f"{lease_s:g}", why)
    return msgspec.json.encode(_Record(format=FORMAT, fleet_id=uuid.uuid4().hex, lease_s=lease_s))


def _read(path: Path) -> _Record | None:
    """What stands in the file; None if there is none."""
    try:
        with explained(path), os.fdopen(open_source(path), "rb") as file:
            return _decode(path, file.read())
    except ArtifactMissing:
        return None
    except ArtifactRefused as error:
        raise IdentityInvalid(str(path), error.why, _RESTORE) from error


def _decode(path: Path | str, data: bytes) -> _Record:
    try:
        form = msgspec.json.decode(data, type=_Form).format
        if form > FORMAT:
            why = f"its format is {form}, this genlock knows up to {FORMAT}"
            raise IdentityInvalid(str(path), why, "Upgrade genlock here")
        return msgspec.json.decode(data, type=_Record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IdentityInvalid(str(path), str(error), _RESTORE) from error


def _make(path: Path, temp: Path, data: bytes) -> None:
    """Write the file, unless another is faster."""
    with explained(path):
        make_folder(path.parent)
        make_folder(temp.parent)
        write_whole(path, data, durable=True, temp=temp, replace=False)
