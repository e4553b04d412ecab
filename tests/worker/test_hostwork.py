"""Once per host, few at a time, and no lock outlives its holder."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from genlock.coordinator import hostlock
from genlock.coordinator.errors import ArtifactDamaged, ArtifactMissing, ArtifactRefused
from genlock.coordinator.manifest import Artifact
from genlock.coordinator.store import Progress, Store
from genlock.worker import hostwork
from genlock.worker.hostwork import Cancelled, HostWork, one_of, one_torch_thread

PRELUDE = """
import os, sys
from pathlib import Path
from genlock.coordinator.store import Store
from genlock.worker.hostwork import HostWork
store_dir, state_dir, digest, size, log = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5]
def say(text):
    with open(log, "a") as file:
        file.write(text + "\\n")
class Counting(Store):
    def verify(self, digest, size, *, progress=None):
        say("verify")
        super().verify(digest, size, progress=progress)
"""


class Counting(Store):
    """Counts verifications; `during` runs in the middle of each."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.count = 0
        self.during: Callable[[], object] = lambda: None

    def verify(self, digest: str, size: int, *, progress: Progress | None = None) -> None:
        self.count += 1
        self.during()
        super().verify(digest, size, progress=progress)


@pytest.fixture
def store(tmp_path: Path) -> Counting:
    return Counting(tmp_path / "store")


@pytest.fixture
def host(tmp_path: Path) -> HostWork:
    return HostWork(tmp_path / "state", loads_per_host=1)


@pytest.fixture
def artifact(tmp_path: Path, store: Store) -> Artifact:
    (tmp_path / "file").write_bytes(b"weights" * 1000)
    return store.stage(tmp_path / "file", name="file")


def never() -> bool:
    return False


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"waited 30 s for: {what}"
        pause.wait(0.01)


def spawn(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PRELUDE + script, *map(str, arguments)])


# --- once per host ----------------------------------------------------------------------------------------------------


def test_an_object_is_read_once(store: Counting, host: HostWork, artifact: Artifact, tmp_path: Path) -> None:
    """Every flip of four workers would otherwise read the file four times; a later worker finds the marker too."""
    host.verified(store, artifact.digest, artifact.size, never)
    host.verified(store, artifact.digest, artifact.size, never)
    HostWork(tmp_path / "state", loads_per_host=1).verified(store, artifact.digest, artifact.size, never)
    assert store.count == 1


def test_workers_that_start_together_read_it_once(artifact: Artifact, store: Store, tmp_path: Path) -> None:
    """Four processes at the same moment: one hashes, the others wait for its marker."""
    script = (
        "HostWork(state_dir, loads_per_host=4).verified(Counting(store_dir), digest, size, lambda: False); say('done')"
    )
    log = tmp_path / "log"
    workers = [spawn(script, store.root, tmp_path / "state", artifact.digest, artifact.size, log) for _ in range(4)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0, 0]
    assert sorted(log.read_text().split()) == ["done"] * 4 + ["verify"]


def test_who_waits_for_a_reading_uses_its_outcome(store: Counting, host: HostWork, artifact: Artifact) -> None:
    """The first is in the middle of the file when the second comes: the second waits, and finds the marker."""
    reading, second_waits = threading.Event(), threading.Event()

    def first_reads() -> None:
        reading.set()
        assert second_waits.wait(30)

    def asked() -> bool:  # asked while the lock is somebody else's
        second_waits.set()
        return False

    store.during = first_reads
    first = threading.Thread(target=host.verified, args=(store, artifact.digest, artifact.size, never))
    first.start()
    assert reading.wait(30)
    host.verified(store, artifact.digest, artifact.size, asked)
    first.join(30)
    assert store.count == 1 and second_waits.is_set()


def test_another_file_under_the_same_name_is_read_again(store: Counting, host: HostWork, artifact: Artifact) -> None:
    """An administrator restores the store from a backup: same names, same sizes, other files."""
    host.verified(store, artifact.digest, artifact.size, never)
    path = store.path(artifact.digest)
    path.chmod(0o644)
    path.write_bytes(b"w" + path.read_bytes()[1:])
    host.verified(store, artifact.digest, artifact.size, never)
    assert store.count == 2


def test_after_the_next_boot_it_is_read_again(
    store: Counting, host: HostWork, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was verified came from the page cache; what the disk gives after a crash has not been seen by anybody."""
    host.verified(store, artifact.digest, artifact.size, never)
    monkeypatch.setattr(hostwork, "_boot", lambda: "another boot")
    host.verified(store, artifact.digest, artifact.size, never)
    assert store.count == 2


def test_damage_is_set_aside_and_said(store: Counting, host: HostWork, artifact: Artifact) -> None:
    """One flipped bit: the object leaves its place, so that the next publish writes it again (R13)."""
    path = store.path(artifact.digest)
    path.chmod(0o644)
    path.write_bytes(b"W" + path.read_bytes()[1:])
    with pytest.raises(ArtifactDamaged):
        host.verified(store, artifact.digest, artifact.size, never)
    with pytest.raises(ArtifactMissing):
        host.verified(store, artifact.digest, artifact.size, never)
    assert list((store.root / "damaged").iterdir())


def test_a_short_file_is_damage_too(store: Counting, host: HostWork, artifact: Artifact) -> None:
    store.path(artifact.digest).chmod(0o644)
    os.truncate(store.path(artifact.digest), 100)
    with pytest.raises(ArtifactDamaged, match="100 bytes"):
        host.verified(store, artifact.digest, artifact.size, never)
    assert not store.path(artifact.digest).exists()


def test_damage_is_said_where_the_store_may_only_be_read(
    store: Counting, host: HostWork, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(digest: str) -> None:
        raise ArtifactRefused(digest, "read-only file system")

    monkeypatch.setattr(store, "set_aside", refuse)
    with pytest.raises(ArtifactDamaged):
        host.verified(store, artifact.digest, artifact.size + 1, never)


def test_a_refreshed_mtime_during_the_reading_costs_one_more(
    store: Counting, host: HostWork, artifact: Artifact
) -> None:
    """A trainer publishes the same content while a worker reads it: the store refreshes the mtime of the object."""

    def refresh_once() -> None:
        store.during = lambda: None
        os.utime(store.path(artifact.digest), ns=(1, 1))

    store.during = refresh_once
    host.verified(store, artifact.digest, artifact.size, never)
    host.verified(store, artifact.digest, artifact.size, never)
    assert store.count == 2


def test_a_file_that_never_rests_is_refused(store: Counting, host: HostWork, artifact: Artifact) -> None:
    store.during = lambda: os.utime(store.path(artifact.digest), ns=(store.count, store.count))
    with pytest.raises(ArtifactRefused, match="changed 3 times"):
        host.verified(store, artifact.digest, artifact.size, never)
    assert store.count == 3


def test_reading_can_be_cancelled_in_the_middle(store: Counting, host: HostWork, artifact: Artifact) -> None:
    """A newer proposal supersedes a candidate of many GB: its worker must not read it to the end."""
    asked: list[bool] = []

    def cancelled() -> bool:
        asked.append(True)
        return True

    with pytest.raises(Cancelled):
        host.verified(store, artifact.digest, artifact.size, cancelled)
    assert asked and store.count == 1
    host.verified(store, artifact.digest, artifact.size, never)


def test_markers_of_collected_objects_go(store: Counting, host: HostWork, artifact: Artifact, tmp_path: Path) -> None:
    """A training job publishes for a year: the state folder must not grow by a file for each epoch."""
    host.verified(store, artifact.digest, artifact.size, never)
    store.path(artifact.digest).unlink()
    (tmp_path / "file").write_bytes(b"other")
    other = store.stage(tmp_path / "file", name="file")
    host.verified(store, other.digest, other.size, never)
    markers = [path.name for path in (tmp_path / "state" / "verified").rglob("*") if path.is_file()]
    assert markers == [other.digest]


def test_two_stores_do_not_disturb_each_other(
    store: Counting, host: HostWork, artifact: Artifact, tmp_path: Path
) -> None:
    """Two fleets on one host publish the same file into their own stores: each keeps its own marker."""
    second = Counting(tmp_path / "second")
    second.stage(tmp_path / "file", name="file")
    for one in (store, second, store, second):
        host.verified(one, artifact.digest, artifact.size, never)
    assert (store.count, second.count) == (1, 1)


def test_a_digest_that_is_a_path_reaches_no_file(store: Counting, host: HostWork, tmp_path: Path) -> None:
    with pytest.raises(ArtifactRefused):
        host.verified(store, "../../../../evil", 10, never)
    assert not (tmp_path / "state").exists()


def test_a_machine_without_boot_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Path) -> str:
        raise FileNotFoundError(str(self))

    monkeypatch.setattr(Path, "read_text", missing)
    assert hostwork._boot.__wrapped__() == "-"


# --- slots ------------------------------------------------------------------------------------------------------------


def test_only_so_many_load_at_the_same_time(tmp_path: Path) -> None:
    """Four threads, two slots: never more than two inside, and all get in."""
    host = HostWork(tmp_path, loads_per_host=2)
    lock, inside, most, done = threading.Lock(), [0], [0], []
    together = threading.Barrier(2)

    def load() -> None:
        with host.slot(never):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            together.wait(20)
            threading.Event().wait(0.05)  # a third one would come now
            with lock:
                inside[0] -= 1
        done.append(True)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(done) == 4 and most == [2]


def test_a_slot_is_free_again_after_an_exception(host: HostWork) -> None:
    with pytest.raises(ZeroDivisionError), host.slot(never):
        raise ZeroDivisionError
    entered = False
    with host.slot(never):
        entered = True
    assert entered


def test_waiting_for_a_slot_can_be_cancelled(tmp_path: Path) -> None:
    host = HostWork(tmp_path, loads_per_host=1)
    answers = iter([False, False, True])
    with host.slot(never), pytest.raises(Cancelled), host.slot(lambda: next(answers)):
        pytest.fail("there was a second slot")


def test_a_killed_worker_gives_its_slot_back(store: Store, artifact: Artifact, tmp_path: Path) -> None:
    """kill -9 in the middle of a load: the kernel drops the lock, the next worker does not wait for anybody's timeout."""
    script = """
with HostWork(state_dir, loads_per_host=1).slot(lambda: False):
    say("inside")
    sys.stdin.read()
"""
    log = tmp_path / "log"
    arguments = [store.root, tmp_path / "state", artifact.digest, artifact.size, log]
    worker = subprocess.Popen([sys.executable, "-c", PRELUDE + script, *map(str, arguments)], stdin=subprocess.PIPE)
    assert worker.stdin
    try:
        wait_for(lambda: log.exists() and "inside" in log.read_text(), "the other process to have the slot")
        host = HostWork(tmp_path / "state", loads_per_host=1)
        answers = iter([False, True])
        with pytest.raises(Cancelled), host.slot(lambda: next(answers)):
            pytest.fail("both have the slot")
        worker.kill()
        worker.wait(30)
        began = time.monotonic()
        with host.slot(never):
            assert time.monotonic() - began < hostwork.MAX_WAIT_S / 2
    finally:
        worker.kill()
        worker.wait(30)
        worker.stdin.close()


def test_a_stopped_holder_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R8. A worker that was stopped (SIGSTOP, a debugger) keeps its slot: the others go on without one."""
    monkeypatch.setattr(hostwork, "MAX_WAIT_S", 0.05)
    host = HostWork(tmp_path, loads_per_host=1)
    entered = []
    with host.slot(never), host.slot(never):
        entered.append(True)
    assert entered


def test_a_holder_that_gets_on_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: Callable[..., object]
) -> None:
    """A fetch of 100 GB takes longer than any wait: the others of the host must not begin it, too, while more of it comes."""
    monkeypatch.setattr(hostwork, "MAX_WAIT_S", 0.2)
    looks, free = iter(range(10**9)), threading.Event()

    def moving() -> int:
        look = next(looks)
        if look == 150:  # three times as long as MAX_WAIT_S
            free.set()
        return look

    def hold() -> None:
        with one_of([tmp_path / "lock"], lambda: False) as held:
            assert held
            taken.set()
            free.wait(20)

    taken = threading.Event()
    holding = background(hold)
    assert taken.wait(20)
    with one_of([tmp_path / "lock"], lambda: False) as held:
        assert not held, "without a word of progress it goes on alone"
    with one_of([tmp_path / "lock"], lambda: False, moving=moving) as held:
        assert held and free.is_set()
    holding.result(20)  # type: ignore[attr-defined]


def test_a_slot_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "slots").mkdir()
    (tmp_path / "slots" / "0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError), HostWork(tmp_path, loads_per_host=1).slot(never):
        pytest.fail("the link was followed")
    assert not (tmp_path / "elsewhere").exists()


def test_an_error_of_the_lock_leaks_no_descriptor(
    host: HostWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system without locks (ENOLCK): said, and the descriptor is closed."""
    locked: list[int] = []

    def no_locks(descriptor: int, how: int) -> None:
        locked.append(descriptor)
        raise OSError(37, "No locks available")

    monkeypatch.setattr(hostlock.fcntl, "flock", no_locks)
    with pytest.raises(OSError, match="No locks"), host.slot(never):
        pytest.fail("there was a lock")
    (descriptor,) = locked
    # Another thread may have the number now, of another file.
    assert Path(f"/proc/self/fd/{descriptor}").resolve() != (tmp_path / "state" / "slots" / "0").resolve(strict=True)


def in_a_thread(function: Callable[[], object]) -> object:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join(60)
    return found[0]


def test_torch_works_in_the_loaders_thread_alone() -> None:
    """A team of nice threads on busy cores waits for its slowest at the end of each of a hundred operations. Requests keep theirs:
    torch.set_num_threads() would take them from every thread of the process that uses torch for the first time afterwards."""
    import torch

    def load() -> tuple[int, object, int]:
        openmp = hostwork._openmp()
        assert openmp and torch.get_num_threads()  # which sets torch up for this thread
        openmp.omp_set_num_threads(3)
        with one_torch_thread():
            inside, others = torch.get_num_threads(), in_a_thread(torch.get_num_threads)
        return inside, others, torch.get_num_threads()

    here = torch.get_num_threads()
    assert in_a_thread(load) == (1, here, 3)
    assert torch.get_num_threads() == here


def test_a_torch_without_openmp_keeps_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(hostwork, "_openmp", lambda: None)
    here = torch.get_num_threads()
    with one_torch_thread():
        assert torch.get_num_threads() == here
