"""worker/hostcache.py: one fetch per host, whatever the number of workers, whatever happens on the way, and never more than is allowed."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from genlock.coordinator.errors import ArtifactDamaged, ArtifactMissing, DoesNotFit, StoreUnreachable
from genlock.coordinator.filesystem import Filesystem
from genlock.coordinator.manifest import Artifact, Manifest
from genlock.coordinator.remote import RemoteStore
from genlock.coordinator.settings import Settings
from genlock.coordinator.store import Store
from genlock.worker import hostcache, hostwork
from genlock.worker.hostcache import HostCache, near
from genlock.worker.hostwork import Cancelled, HostWork, one_of

PIECE = 1000


class Far(Store):
    """A store behind a network: it counts what is read, and fails when it is told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: list[tuple[str, int]] = []
        self.before: Callable[[int], object] = lambda offset: None
        self._lock = threading.Lock()

    def read_at(self, digest: str, size: int, offset: int, length: int) -> bytes:
        with self._lock:
            self.reads.append((digest, offset))
        self.before(offset)
        return super().read_at(digest, size, offset, length)

    @property
    def offsets(self) -> list[int]:
        return sorted(offset for _, offset in self.reads)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostcache, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(hostcache, "PAUSES_S", (0.0, 0.0))


@pytest.fixture
def far(tmp_path: Path) -> Far:
    return Far(tmp_path / "store")


@pytest.fixture
def new_cache(far: Far, tmp_path: Path) -> Iterator[Callable[..., HostCache]]:
    """new_cache(max_bytes=None): what one worker of the host uses."""
    made: list[HostCache] = []

    def make(max_bytes: int | None = None) -> HostCache:
        made.append(HostCache(far, tmp_path / "state", max_bytes=max_bytes))
        return made[-1]

    yield make
    for cache in made:
        cache.close()


@pytest.fixture
def publish(far: Far, tmp_path: Path) -> Callable[..., Manifest]:
    """publish(fill, size=3500, model="m"): a manifest of one file in the store."""

    def make(fill: str, size: int = 3500, model: str = "m") -> Manifest:
        path = tmp_path / "file"
        path.write_bytes((fill.encode() * size)[:size])
        return Manifest.of(model, [far.stage(path, name="model")], created_at=1.0)

    return make


def never() -> bool:
    return False


def digest_of(manifest: Manifest) -> str:
    return manifest.artifact().digest


def lies(cache: HostCache, *manifests: Manifest) -> list[bool]:
    return [cache.path(digest_of(manifest)).exists() for manifest in manifests]


# --- where workers map from ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "is_local"), [("ext4", True), ("overlay", True), ("nfs", False), ("unknown", False)])
def test_only_what_is_on_this_host_is_mapped_where_it_is(
    name: str, is_local: bool, far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An NFS server rebooted, and every worker that had its files mapped hung where no signal reaches."""
    monkeypatch.setattr(hostcache, "kind_of", lambda _: Filesystem(name, is_local=is_local, tells=is_local))
    found = near(far, Settings(state_dir=tmp_path / "state"))
    assert (found is far) == is_local
    assert found.root == far.root or found.root.parent == tmp_path / "state" / "cache"


def test_a_url_is_never_mapped_and_two_stores_do_not_share_a_folder(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    one, two = (near(RemoteStore(f"s3://bucket/{name}", tmp_path), settings) for name in "ab")
    assert isinstance(one, HostCache) and one.root.parent == two.root.parent and one.root != two.root


# --- one fetch -------------------------------------------------------------------------------------------------------


def test_workers_of_a_host_fetch_an_object_once(
    far: Far, new_cache: Callable[..., HostCache], publish: Callable[..., Manifest]
) -> None:
    """Eight workers started, and eight times the model came over the network."""
    manifest = publish("a")
    begun = threading.Barrier(4)

    def work() -> list[tuple[int, int]]:
        cache, told = new_cache(), list[tuple[int, int]]()
        begun.wait()
        cache.fetch(manifest, never, lambda *at: told.append(at))
        assert cache.path(digest_of(manifest)).read_bytes() == b"a" * 3500
        return told

    with ThreadPoolExecutor(4) as pool:
        told = [future.result() for future in [pool.submit(work) for _ in range(4)]]
    assert far.offsets == [0, 1000, 2000, 3000]
    assert any(at[-1] == (3500, 3500) and len(at) >= 4 for at in told), "whoever fetches tells how far it is"
    cache = new_cache()
    cache.fetch(manifest, never)
    assert len(far.reads) == 4
    assert cache.path(digest_of(manifest)).stat().st_mode & 0o777 == 0o444
    assert list((cache.root / "temp").iterdir()) == []


def test_what_has_come_is_not_fetched_again(
    far: Far, new_cache: Callable[..., HostCache], publish: Callable[..., Manifest], tmp_path: Path
) -> None:
    """A worker was killed at 90 % of 10 GB, and the next one began at the first byte."""
    manifest = publish("b", 9500)

    def die(offset: int) -> None:
        if offset >= 4000:
            raise MemoryError

    far.before = die
    with pytest.raises(MemoryError):
        new_cache().fetch(manifest, never)
    part = next((tmp_path / "state" / "cache").glob("*/temp/*"))
    assert part.stat().st_size == 4000
    far.before, far.reads = (lambda _: None), []
    cache, told = new_cache(), list[tuple[int, int]]()
    cache.fetch(manifest, never, lambda *at: told.append(at))
    assert far.offsets == [4000, 5000, 6000, 7000, 8000, 9000]
    assert told[0] == (4000, 9500) and told[-1] == (9500, 9500)
    assert cache.verify(digest_of(manifest), 9500) is None


@pytest.mark.parametrize("mode", [0o444, 0o600])
def test_a_part_that_is_whole_only_gets_its_name(
    far: Far, new_cache: Callable[..., HostCache], publish: Callable[..., Manifest], mode: int, monkeypatch: Any
) -> None:
    """A worker was killed after it had made the part read-only, and before it got its name: "Permission denied", at every try of every
    worker from then on."""
    manifest, cache = publish("b"), new_cache()
    part = cache.root / "temp" / digest_of(manifest)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"b" * 3500)
    part.chmod(mode)
    opened = Path.open

    def as_one_user(path: Path, mode: str = "r", **how: Any) -> Any:  # the superuser may write what is read-only
        if path == part and mode != "r" and not part.stat().st_mode & 0o200:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, mode, **how)

    monkeypatch.setattr(Path, "open", as_one_user)
    cache.fetch(manifest, never)
    assert far.reads == [] and cache.verify(digest_of(manifest), 3500) is None


def test_a_manifest_that_gives_another_size_does_no_harm_to_what_is_here(tmp_path: Path) -> None:
    """Anybody may propose where there are no keys: the active model's digest with half of its size. The good copy was replaced by a short
    one, dropped, and then the whole original was read over the network."""
    source = tmp_path / "file"
    source.write_bytes(b"w" * 3500)
    store = RemoteStore(f"memory://{uuid.uuid4().hex}", tmp_path / "trainer")
    artifact = store.stage(source, name="model")
    cache = HostCache(store, tmp_path / "state", max_bytes=None)
    cache.fetch(Manifest.of("m", [artifact], created_at=1.0), never)
    for wrong in (1500, 3400, 5000):
        manifest = Manifest.of("m", [Artifact(artifact.name, wrong, artifact.digest)], created_at=1.0)
        with pytest.raises(
            (ArtifactDamaged, StoreUnreachable), match=f"expected {wrong} bytes, found more|of 1000 bytes came"
        ):
            cache.fetch(manifest, never)
    assert cache.verify(artifact.digest, 3500) is None
    cache.close()


def test_a_part_that_is_too_long_is_begun_anew(
    far: Far, new_cache: Callable[..., HostCache], publish: Callable[..., Manifest]
) -> None:
    manifest, cache = publish("c"), new_cache()
    part = cache.root / "temp" / digest_of(manifest)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 5000)
    cache.fetch(manifest, never)
    assert cache.verify(digest_of(manifest), 3500) is None


def test_a_broken_connection_is_tried_again_and_one_that_stays_broken_is_said(
    far: Far, new_cache: Callable[..., HostCache], publish: Callable[..., Manifest]
) -> None:
    manifest, breaks = publish("d"), {1000: 2}

    def hiccup(offset: int) -> None:
        if breaks.get(offset, 0):
            breaks[offset] -= 1
            raise StoreUnreachable("s3://b", "connection reset")

    far.before = hiccup
    new_cache().fetch(manifest, never)
    assert far.offsets == [0, 1000, 1000, 1000, 2000, 3000]
    breaks[0] = 3
    with pytest.raises(StoreUnreachable, match="connection reset"):
        new_cache().fetch(publish("e"), never)


def test_bytes_that_are_missing_are_no_end(
    far: Far, new_cache: Callable[..., HostCache], publish: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy cut a body short, and the library gave what had come."""
    monkeypatch.setattr(Far, "read_at", lambda *_: b"short")
    with pytest.raises(StoreUnreachable, match="5 of 1000 bytes came"):
        new_cache().fetch(publish("f"), never)


def test_a_missing_object_is_said(
    new_cache: Callable[..., HostCache], publish: Callable[..., Manifest], far: Far
) -> None:
    manifest = publish("g")
    far.path(digest_of(manifest)).unlink()
    with pytest.raises(ArtifactMissing):
        new_cache().fetch(manifest, never)


def test_who_is_not_wanted_any_more_stops_at_once(
    far: Far, new_cache: Callable[..., HostCache], publish: Callable[..., Manifest]
) -> None:
    """A newer proposal has come; the old one's 10 GB would have been fetched to the end."""
    stop, held = threading.Event(), threading.Event()
    manifest = publish("h", 9000)

    def hang(offset: int) -> None:
        if offset >= 2000:
            stop.set()
            held.wait(20)

    far.before = hang
    with pytest.raises(Cancelled):
        new_cache().fetch(manifest, stop.is_set)
    held.set()


def test_reads_that_hang_do_not_gather(
    far: Far,
    new_cache: Callable[..., HostCache],
    publish: Callable[..., Manifest],
    monkeypatch: pytest.MonkeyPatch,
    wait_for: Callable[..., Any],
) -> None:
    """An NFS server was gone for a night of training: each candidate left four threads that read from it, in every worker."""

    def threads() -> int:
        return len([one for one in threading.enumerate() if one.name == "genlock-fetch"])

    monkeypatch.setattr(hostcache, "HANGING", 8)
    go_on, cache = threading.Event(), new_cache()
    far.before = lambda _: go_on.wait(60)
    for fill, reads in (("a", 4), ("b", 8)):
        with pytest.raises(Cancelled):
            cache.fetch(publish(fill), lambda reads=reads: len(far.reads) == reads)  # type: ignore[misc]
    with pytest.raises(StoreUnreachable, match="8 reads of earlier fetches have not come back"):
        cache.fetch(publish("c"), never)
    assert threads() == 8
    go_on.set()
    wait_for(lambda: threads() == 0)
    cache.fetch(publish("c"), never)


# --- waiting for another worker --------------------------------------------------------------------------------------


def test_who_waits_for_a_fetch_that_goes_on_waits_on_and_else_goes_on_alone(
    far: Far,
    new_cache: Callable[..., HostCache],
    publish: Callable[..., Manifest],
    monkeypatch: pytest.MonkeyPatch,
    background: Callable[..., Any],
    wait_for: Callable[..., Any],
) -> None:
    """The worker that fetched was stopped by a debugger; the others of the host never served (R8)."""
    monkeypatch.setattr(hostwork, "MAX_WAIT_S", 0.1)
    manifest, go_on = publish("i", 5500), threading.Event()

    def stuck(offset: int) -> None:
        if offset == 3000 and len([o for _, o in far.reads if o == 3000]) == 1:
            go_on.wait(20)

    far.before = stuck
    first = background(lambda: new_cache().fetch(manifest, never))
    wait_for(lambda: 3000 in far.offsets)
    other = new_cache()
    other.fetch(manifest, never)  # after 0.1 s without anything that came
    assert other.verify(digest_of(manifest), 5500) is None
    assert far.offsets.count(0) == 2
    go_on.set()
    first.result(20)


def test_who_waits_for_the_room_stops_when_it_is_not_wanted_any_more(
    new_cache: Callable[..., HostCache], publish: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute, for a stopped worker, of a load that was cancelled; then it went on without the lock."""
    monkeypatch.setattr(hostwork, "MAX_WAIT_S", 0.2)
    cache = new_cache()
    with one_of([cache.all / "room"], never):
        with pytest.raises(Cancelled):
            cache.fetch(publish("a"), lambda: True)
        with pytest.raises(Cancelled):
            cache.holds([], lambda: True)
        assert not (cache.all / "held").exists()


# --- damage ----------------------------------------------------------------------------------------------------------


def test_a_damaged_copy_is_dropped_and_brought_again(
    far: Far, new_cache: Callable[..., HostCache], publish: Callable[..., Manifest], tmp_path: Path
) -> None:
    """A bit flipped on its way. The original is whole, and stays (R13)."""
    manifest, cache = publish("j"), new_cache()
    host = HostWork(tmp_path / "state", loads_per_host=1)
    cache.fetch(manifest, never)
    path = cache.path(digest_of(manifest))
    path.chmod(0o644)
    path.write_bytes(b"J" + b"j" * 3499)
    with pytest.raises(ArtifactDamaged):
        host.verified(cache, digest_of(manifest), 3500, never)
    assert lies(cache, manifest) == [False] and far.path(digest_of(manifest)).exists()
    cache.fetch(manifest, never)
    host.verified(cache, digest_of(manifest), 3500, never)


def test_a_damaged_original_is_set_aside(
    far: Far, new_cache: Callable[..., HostCache], publish: Callable[..., Manifest], tmp_path: Path
) -> None:
    """So that the next publish of the same bytes sends them again."""
    manifest, cache = publish("k"), new_cache()
    original = far.path(digest_of(manifest))
    original.chmod(0o644)
    original.write_bytes(b"K" + b"k" * 3499)
    cache.fetch(manifest, never)
    with pytest.raises(ArtifactDamaged):
        HostWork(tmp_path / "state", loads_per_host=1).verified(cache, digest_of(manifest), 3500, never)
    assert not original.exists() and lies(cache, manifest) == [False]


# --- room ------------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_goes_and_what_a_worker_holds_stays(
    new_cache: Callable[..., HostCache], publish: Callable[..., Manifest]
) -> None:
    """A disk of 100 GB was full after a night of training."""
    a, b, c, d = (publish(fill, 100) for fill in "abcd")
    serving, cache = new_cache(300), new_cache(300)
    serving.fetch(a, never)
    serving.holds([digest_of(a)])
    for manifest in (b, c):
        cache.fetch(manifest, never)
    os.utime(cache.root / "used" / digest_of(a), (1, 1))
    assert lies(cache, a, b, c) == [True, True, True]
    cache.fetch(d, never)
    assert lies(cache, a, b, c, d) == [True, False, True, True], "a is the oldest, and held"
    assert not (cache.root / "used" / digest_of(b)).exists() and not (cache.root / "locks" / digest_of(b)).exists()


def test_what_does_not_fit_beside_what_is_held_is_refused_with_the_numbers(
    new_cache: Callable[..., HostCache], publish: Callable[..., Manifest], far: Far
) -> None:
    a, b = publish("a", 200), publish("b", 150)
    serving, cache = new_cache(300), new_cache(300)
    serving.fetch(a, never)
    with pytest.raises(
        DoesNotFit, match=r"150 bytes have to be fetched, 200 are held .* and 300 are allowed in .*HOST_CACHE"
    ) as found:
        cache.fetch(b, never)
    assert str(found.value).endswith(": set GENLOCK_HOST_CACHE to at least 350")
    assert lies(cache, a, b) == [True, False] and far.offsets == [0]
    serving.fetch(publish("small", 10), never)  # which lets go of a
    cache.fetch(b, never)
    assert lies(cache, a, b) == [False, True]


def test_a_candidate_that_was_rejected_is_in_nobodys_way(
    new_cache: Callable[..., HostCache], publish: Callable[..., Manifest]
) -> None:
    """Room for two generations. Both workers found a NaN in b, and each went on naming it, as what it fetched last: none could fetch c,
    nor any candidate after that."""
    a, b, c = (publish(fill, 100) for fill in "abc")
    workers = [new_cache(250), new_cache(250)]
    for candidate in (a, b):
        for worker in workers:
            worker.fetch(candidate, never)
        for worker in workers:
            worker.holds([digest_of(a)])
    for worker in workers:
        worker.fetch(c, never)
    assert lies(workers[0], a, b, c) == [True, False, True]


def test_who_was_refused_names_neither_that_nor_what_it_fetched_before(
    new_cache: Callable[..., HostCache], publish: Callable[..., Manifest]
) -> None:
    """Two workers that were refused, each for what the other had tried before, would never get on."""
    a, b, c = publish("a", 100), publish("b", 100), publish("c", 200)
    refused, other = new_cache(250), new_cache(250)
    refused.fetch(a, never)
    other.fetch(b, never)
    with pytest.raises(DoesNotFit):
        refused.fetch(c, never)
    other.fetch(c, never)
    assert lies(other, a, b, c) == [False, False, True]


def test_what_another_worker_is_fetching_is_counted(
    far: Far,
    new_cache: Callable[..., HostCache],
    publish: Callable[..., Manifest],
    background: Callable[..., Any],
    wait_for: Callable[..., Any],
) -> None:
    """Two fetches at the same time each found room for one."""
    a, b, go_on = publish("a", 200), publish("b", 150), threading.Event()
    far.before = lambda _: go_on.wait(20)
    first = background(lambda: new_cache(300).fetch(a, never))
    wait_for(lambda: far.reads)
    with pytest.raises(DoesNotFit, match="200 are held or being fetched"):
        new_cache(300).fetch(b, never)
    go_on.set()
    first.result(20)


class Disk:
    """A disk of `size` bytes that nobody else uses."""

    def __init__(self, size: int, folder: Path) -> None:
        self._size, self._folder = size, folder

    def __call__(self, _: Any) -> os.statvfs_result:
        free = self._size - sum(path.stat().st_size for path in self._folder.glob("*/*/**/*") if path.is_file())
        return os.statvfs_result((1, 1, 10**9, free, free, 0, 0, 0, 0, 255))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """12 pieces fit on it."""
    monkeypatch.setattr(os, "statvfs", Disk(12 * PIECE, tmp_path / "state" / "cache"))


def test_what_has_come_of_an_object_is_not_in_its_own_way(
    far: Far, new_cache: Callable[..., HostCache], publish: Callable[..., Manifest], disk: None
) -> None:
    """A disk of 12 GB, a model of 10, and a worker that was killed after 6 of them: "6 are allowed", at every try from then on."""
    manifest = publish("a", 10 * PIECE)

    def die(offset: int) -> None:
        if offset >= 6 * PIECE:
            raise MemoryError

    far.before = die
    with pytest.raises(MemoryError):
        new_cache().fetch(manifest, never)
    far.before, far.reads = (lambda _: None), []
    new_cache().fetch(manifest, never)
    assert far.offsets == [6 * PIECE, 7 * PIECE, 8 * PIECE, 9 * PIECE]


def test_who_comes_while_another_worker_fetches_waits_for_that(
    far: Far,
    new_cache: Callable[..., HostCache],
    publish: Callable[..., Manifest],
    disk: None,
    background: Callable[..., Any],
    wait_for: Callable[..., Any],
) -> None:
    """It was refused: what the other one had written counted against it."""
    manifest, go_on = publish("a", 10 * PIECE), threading.Event()
    far.before = lambda offset: offset < 8 * PIECE or go_on.wait(20)
    first = background(lambda: new_cache().fetch(manifest, never))
    parts = far.root.parent / "state" / "cache"
    wait_for(lambda: [part for part in parts.glob("*/temp/*") if part.stat().st_size == 8 * PIECE])
    second = background(lambda: new_cache().fetch(manifest, never))
    wait_for(lambda: second.done() or len(list((parts / "held").iterdir())) == 2)
    go_on.set()
    first.result(20)
    second.result(20)
    assert len(far.reads) == 10


HANG = """
import sys, threading
from pathlib import Path
from genlock.coordinator.manifest import decode
from genlock.coordinator.store import Store
from genlock.worker.hostcache import HostCache
asked = threading.Event()
store = Store(Path(sys.argv[1]))
store.read_at = lambda *_: (asked.set(), threading.Event().wait())
cache, manifest = HostCache(store, Path(sys.argv[2]), max_bytes=None), decode(sys.stdin.read())
threading.Thread(target=cache.fetch, args=(manifest, lambda: False), daemon=True).start()
asked.wait()
"""


def test_a_worker_whose_store_hangs_ends(far: Far, publish: Callable[..., Manifest], tmp_path: Path) -> None:
    """Its NFS server was gone: SIGTERM, every request answered, and then it waited for ever for a thread that read."""
    words = [sys.executable, "-c", HANG, str(far.root), str(tmp_path / "state")]
    assert subprocess.run(words, input=publish("a").encode(), timeout=30).returncode == 0


DIE = """
import os, sys
from pathlib import Path
from genlock.coordinator.manifest import decode
from genlock.coordinator.store import Store
from genlock.worker.hostcache import HostCache
HostCache(Store(Path(sys.argv[1])), Path(sys.argv[2]), max_bytes=300).fetch(decode(sys.stdin.read()), lambda: False)
os.kill(os.getpid(), 9)
"""


def test_a_dead_worker_holds_nothing(
    far: Far, new_cache: Callable[..., HostCache], publish: Callable[..., Manifest], tmp_path: Path
) -> None:
    """It was killed by the kernel for its memory; what it held would have stayed on the disk for ever."""
    a, b = publish("a", 200), publish("b", 150)
    words = [sys.executable, "-c", DIE, str(far.root), str(tmp_path / "state")]
    assert subprocess.run(words, input=a.encode(), timeout=60).returncode == -9
    cache = new_cache(300)
    assert lies(cache, a) == [True] and len(list((cache.all / "held").iterdir())) == 1
    cache.fetch(b, never)
    assert lies(cache, a, b) == [False, True] and len(list((cache.all / "held").iterdir())) == 1


def test_the_part_of_a_fetch_that_nobody_goes_on_with_makes_room_first(
    new_cache: Callable[..., HostCache], publish: Callable[..., Manifest]
) -> None:
    a, b = publish("a", 100), publish("b", 150)
    cache = new_cache(300)
    cache.fetch(a, never)
    orphan = cache.root / "temp" / ("e" * 64)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"x" * 120)
    cache.fetch(b, never)
    assert lies(cache, a, b) == [True, True] and not orphan.exists()


def test_no_more_is_taken_than_is_free_on_the_disk(
    new_cache: Callable[..., HostCache], publish: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state folder filled the disk that Redis writes to."""
    found = os.statvfs("/")
    full = os.statvfs_result([*found[:4], 0, *found[5:]])  # f_bavail
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(DoesNotFit, match=r"and 0 are allowed .*: free 3500 bytes on its disk$"):
        new_cache().fetch(publish("a"), never)
    with pytest.raises(
        DoesNotFit, match=r": set GENLOCK_HOST_CACHE to at least 3500, and free 3500 bytes on its disk$"
    ):
        new_cache(1000).fetch(publish("a"), never)


def test_a_disk_that_is_full_is_said_in_words_of_this_host(
    new_cache: Callable[..., HostCache], publish: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something else filled it meanwhile. `genlock gc`, which mends a full store, would not help."""
    monkeypatch.setattr(HostCache, "_bring", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(DoesNotFit, match=r"is full \(No space left\): free space there, or set GENLOCK_HOST_CACHE"):
        new_cache().fetch(publish("a"), never)


def test_what_is_mapped_stays_whole_when_it_goes(
    new_cache: Callable[..., HostCache], publish: Callable[..., Manifest]
) -> None:
    """A request that still holds a view of an older generation."""
    a, b = publish("a", 200), publish("b", 200)
    cache = new_cache(300)
    cache.fetch(a, never)
    with cache.path(digest_of(a)).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    cache.fetch(b, never)
    assert lies(cache, a, b) == [False, True]
    assert mapped[:] == b"a" * 200
    mapped.close()
