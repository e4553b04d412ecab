"""coordinator/identity.py: the id and the lease of a fleet are made once, kept, and believed only when they are whole."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest
from genlock.coordinator import identity as identity_module
from genlock.coordinator.errors import (
    ArtifactRefused,
    GenlockError,
    IdentityInvalid,
    InvalidName,
    SettingsInvalid,
    StoreFull,
    StoreUnusable,
)
from genlock.coordinator.identity import Identity, check_lease, identity, mark_had_member
from genlock.coordinator.remote import RemoteStore
from genlock.coordinator.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def write(store: Store, data: bytes, fleet: str = "prod") -> Path:
    path = store.root / "fleets" / f"{fleet}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_the_first_makes_it_and_all_others_read_it(store: Store) -> None:
    first = identity(store, "prod", lease_s=3.0)
    assert len(bytes.fromhex(first.fleet_id)) == 16
    assert (first.lease_s, first.had_member) == (3.0, False)
    assert identity(Store(store.root), "prod", lease_s=5.0) == first, "the lease is set when the fleet is made"
    assert [path.name for path in (store.root / "fleets").iterdir()] == ["prod.json"]
    assert list((store.root / "temp").iterdir()) == []


def test_fleets_of_one_store_have_identities_of_their_own(store: Store) -> None:
    names = ["prod", "prod.json", "prod.member", ".prod"]
    made = {name: identity(store, name, lease_s=3.0) for name in names}
    assert len({one.fleet_id for one in made.values()}) == len(names)
    mark_had_member(store, "prod")
    assert [identity(store, name, lease_s=3.0).had_member for name in names] == [True, False, False, False]


MAKE = """
import sys
from pathlib import Path
from genlock.coordinator.identity import identity
from genlock.coordinator.store import Store

print(identity(Store(Path(sys.argv[1])), "prod", lease_s=float(sys.argv[2])))
"""


def test_processes_that_start_at_once_agree_on_one(store: Store) -> None:
    """Two ids of one fleet, each in somebody's memory: each would refuse the other's calls (R6)."""
    commands = [[sys.executable, "-c", MAKE, store.root, str(lease)] for lease in (1, 2, 3)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    said = {process.communicate(timeout=60)[0] for process in running}
    assert said == {f"{identity(store, 'prod', lease_s=9.0)}\n"}


def test_threads_that_start_at_once_agree_on_one(store: Store) -> None:
    start, found = threading.Barrier(8), []

    def make() -> None:
        start.wait(10)
        found.append(identity(store, "prod", lease_s=3.0))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 8
    assert len(set(found)) == 1


def test_the_slower_of_two_takes_what_the_faster_made(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both find no file · one makes it · the other is about to link its own."""
    made: list[Identity] = []
    make = identity_module._make

    def after_another(path: Path, temp: Path, data: bytes) -> None:
        monkeypatch.undo()
        made.append(identity(store, "prod", lease_s=1.0))
        make(path, temp, data)

    monkeypatch.setattr(identity_module, "_make", after_another)
    assert [identity(store, "prod", lease_s=2.0)] == made
    assert list((store.root / "temp").iterdir()) == []


def test_it_is_flushed_before_anybody_uses_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fleet whose id is lost in a crash, but not in Redis, cannot be used by anyone (FleetMismatch)."""
    order: list[str] = []
    fsync, link = os.fsync, os.link

    def flushed(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        order.append(Path(f"/proc/self/fd/{descriptor}").readlink().name if is_folder else "file")
        fsync(descriptor)

    def linked(source: Path, target: Path) -> None:
        order.append("link")
        link(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "link", linked)
    identity(store, "prod", lease_s=3.0)
    assert order[-3:] == ["file", "link", "fleets"]
    order.clear()
    for _ in range(2):  # the second does not know whether the first came so far
        mark_had_member(store, "prod")
        assert order[-2:] == ["file", "fleets"]
        assert identity(store, "prod", lease_s=3.0).had_member
        order.clear()


def test_a_member_can_be_remembered_before_there_is_an_identity(store: Store) -> None:
    mark_had_member(store, "prod")
    assert identity(store, "prod", lease_s=3.0).had_member


GOOD = {"format": 1, "fleet_id": "0" * 32, "lease_s": 3}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 5000,
        b"null",
        b"{}",
        b'"\xff"',
        *[msgspec.json.encode(GOOD | {name: bad}) for name in GOOD for bad in (None, "x", -1, 1e9)],
        *[msgspec.json.encode({name: value for name, value in GOOD.items() if name != left}) for left in GOOD],
        msgspec.json.encode(GOOD) + b"x",
    ],
)
def test_garbage_is_an_error_that_says_what_to_do(store: Store, data: bytes) -> None:
    """To make a new id over a damaged file would split the fleet in two."""
    path = write(store, data)
    with pytest.raises(IdentityInvalid) as caught:
        identity(store, "prod", lease_s=3.0)
    assert str(path) in str(caught.value)
    assert "backup" in str(caught.value) or "Upgrade" in str(caught.value)
    assert path.read_bytes() == data


def test_what_a_later_release_adds_in_the_same_format_is_left_alone(store: Store) -> None:
    write(store, msgspec.json.encode(GOOD | {"name": "prod"}))
    assert identity(store, "prod", lease_s=9.0) == Identity("0" * 32, 3.0, False)


def test_a_newer_format_is_refused(store: Store) -> None:
    """What an older program does not know, it cannot keep."""
    write(store, b'{"format": 2, "fleet": {"id": 7}}')
    with pytest.raises(IdentityInvalid, match=r"format is 2.*up to 1.*Upgrade genlock"):
        identity(store, "prod", lease_s=3.0)


@pytest.mark.parametrize("kind", ["folder", "fifo", "dangling"])
def test_what_is_no_file_is_refused_and_does_not_hang(store: Store, kind: str) -> None:
    path = write(store, b"")
    path.unlink()
    {"folder": path.mkdir, "fifo": lambda: os.mkfifo(path), "dangling": lambda: path.symlink_to("nowhere")}[kind]()
    with pytest.raises(IdentityInvalid, match="backup"):
        identity(store, "prod", lease_s=3.0)


@pytest.mark.parametrize("place", ["file", "file/below", "proc", "no"])
def test_a_store_that_cannot_be_one_is_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """A wrong GENLOCK_STORE was told to be restored from a backup."""
    (tmp_path / "file").touch()
    root = Path("/proc/nope") if place == "proc" else tmp_path / place
    look = os.stat

    def refuse(path: Any, **how: Any) -> os.stat_result:
        if path == tmp_path / "no" / "fleets":
            raise PermissionError(errno.EACCES, "Permission denied")
        return look(path, **how)

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(StoreUnusable, match=rf"the store {root} cannot be used: .*: choose another GENLOCK_STORE"):
        identity(Store(root), "prod", lease_s=3.0)


def test_a_file_that_cannot_be_read_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    write(store, msgspec.json.encode(GOOD))
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(IdentityInvalid, match=r"Permission denied.*readable to this user"):
        identity(store, "prod", lease_s=3.0)


@pytest.mark.parametrize("lease_s", [0.0, -1.0, 61.0, float("nan"), float("inf")])
def test_a_lease_that_nobody_could_read_back_is_not_written(store: Store, lease_s: float) -> None:
    with pytest.raises(SettingsInvalid, match="GENLOCK_LEASE"):
        identity(store, "prod", lease_s=lease_s)
    assert not store.root.exists()


@pytest.mark.parametrize("fleet", ["", "..", "a/b", "a\nb"])
def test_a_fleets_name_is_checked(store: Store, fleet: str) -> None:
    for use in (lambda: identity(store, fleet, lease_s=3.0), lambda: mark_had_member(store, fleet)):
        with pytest.raises(InvalidName, match="fleet"):
            use()


def test_a_store_that_cannot_be_written_is_an_error_and_not_a_guess(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreFull):
        identity(store, "prod", lease_s=3.0)
    assert list((store.root / "fleets").iterdir()) == []
    assert list((store.root / "temp").iterdir()) == []
    (store.root / "fleets" / "prod.member").mkdir()
    monkeypatch.undo()
    blocked = Store(store.root / "file")
    blocked.root.touch()
    for use in (lambda: identity(blocked, "prod", lease_s=3.0), lambda: mark_had_member(blocked, "prod")):
        with pytest.raises(GenlockError, match="stands in its way"):
            use()
    with pytest.raises(ArtifactRefused):
        mark_had_member(blocked, "prod")


def test_another_lease_is_an_error_only_when_somebody_set_it() -> None:
    """Workers that count another lease would answer after a watcher has evicted them (R5)."""
    made = Identity("0" * 32, 3.0, False)
    check_lease(made, None)
    check_lease(made, 3.0)
    with pytest.raises(SettingsInvalid, match=r"GENLOCK_LEASE='5'.*3 s when the fleet was made.*unset it"):
        check_lease(made, 5.0)


def test_a_full_disk_of_the_host_costs_the_copy_of_an_object_stores_and_keeps_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process that started left a file behind on the disk that was full."""
    url = f"memory://{uuid.uuid4().hex}/x"
    store = RemoteStore(url, tmp_path)
    made = identity(store, "prod", lease_s=3.0)
    mark_had_member(store, "prod")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        next_one = identity(RemoteStore(url, tmp_path), "prod", lease_s=None)
    assert (next_one.fleet_id, next_one.had_member) == (made.fleet_id, True)
    assert not [path for path in (tmp_path / "identities").rglob("*") if path.is_file()]
    identity(RemoteStore(url, tmp_path), "prod", lease_s=None)
    assert [path.name for path in (tmp_path / "identities").rglob("*") if path.is_file()] == ["prod.json"]
