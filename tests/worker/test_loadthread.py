"""worker/loadthread.py: one load after the other, each outcome reported once and put down to whom it belongs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from genlock.coordinator.errors import (
    BadCheckpoint,
    GenlockError,
    LoadFailed,
    SerialsUnreadable,
    SettingsInvalid,
    StoreUnreachable,
    Unsigned,
)
from genlock.coordinator.manifest import Manifest
from genlock.coordinator.store import Store
from genlock.worker import hostcache, loadthread
from genlock.worker.hostcache import HostCache
from genlock.worker.hostwork import HostWork, one_of
from genlock.worker.lastgood import LastGood
from genlock.worker.loaders import Loader
from genlock.worker.loadthread import Done, LoadThread, import_ahead, trim
from genlock.worker.slot import Job
from safetensors.torch import save_file

WaitFor = Callable[..., Any]


class Bench:
    """A load thread whose loader a test chooses, and what it reported."""

    def __init__(self, tmp_path: Path) -> None:
        self.store = Store(tmp_path / "store")
        self.last_good = LastGood(tmp_path / "state", "t")
        self.done: list[Done] = []
        self.loader: Loader = lambda checkpoint: checkpoint.state_dict()
        self.thread = LoadThread(
            store=self.store,
            host=HostWork(tmp_path / "state", loads_per_host=1),
            last_good=self.last_good,
            loader_of=lambda model: self.loader,
            report=self.done.append,
        )
        save_file({"w": torch.ones(2)}, tmp_path / "f")
        self.manifest = Manifest.of("m", [self.store.stage(tmp_path / "f", name="model")], created_at=0.0)

    def job(self, number: int = 1, *, purpose: str = "active", manifest: str | None = None, version: str = "") -> Job:
        text = self.manifest.encode().decode() if manifest is None else manifest
        return Job(number, "m", (7, version or self.manifest.version), purpose, text)

    def outcome(self, wait_for: WaitFor, job: Job) -> Done:
        self.done.clear()
        self.thread.begin(job)
        wait_for(lambda: self.done, description="a report")
        (done,) = self.done
        return done


class Slow(Store):
    """A store on a network; it hears of each piece that is asked for."""

    asked: Callable[[], object]

    def read_at(self, digest: str, size: int, offset: int, length: int) -> bytes:
        self.asked()
        return super().read_at(digest, size, offset, length)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.thread.close(20)


def test_a_load_is_reported_with_its_payload(bench: Bench, wait_for: WaitFor) -> None:
    done = bench.outcome(wait_for, bench.job())
    assert (done.key, done.said) == ((7, bench.manifest.version), "")
    assert done.loaded is not None
    assert torch.equal(done.loaded.payload["w"], torch.ones(2))
    assert done.manifest == bench.manifest


def test_people_see_the_step_of_a_load_while_it_runs(bench: Bench, wait_for: WaitFor) -> None:
    """A candidate of 40 GB takes minutes on each worker: an operator wants to see at which step it is, and since when."""
    seen: list[Any] = []
    bench.loader = lambda checkpoint: (seen.append(bench.thread.loading), checkpoint.state_dict())[1]
    began = time.time()
    bench.outcome(wait_for, bench.job())
    (loading,) = seen
    assert 0 <= loading["m"].pop("since") - began < 20
    assert loading == {"m": {"generation": 7, "step": "build"}}
    assert bench.thread.loading == {}, "and nothing when it is done"


def test_bad_bytes_are_bad(bench: Bench, wait_for: WaitFor) -> None:
    """R13: the loader ran on verified bytes, and says that it is they."""

    def refuse(_: Any) -> None:
        raise BadCheckpoint("m", "build", "not a model of mine")

    bench.loader = refuse
    done = bench.outcome(wait_for, bench.job())
    assert (done.said, done.step) == ("bad", "build")
    assert "not a model of mine" in done.why


def test_a_missing_object_is_a_failure_and_not_bad(bench: Bench, wait_for: WaitFor) -> None:
    """R13: a store that is not mounted here says nothing about the model."""
    bench.store.path(bench.manifest.artifacts[0].digest).unlink()
    done = bench.outcome(wait_for, bench.job())
    assert (done.said, done.step) == ("failed", "verify")


@pytest.mark.parametrize("text", ["", "{}", "no JSON"])
def test_a_manifest_that_cannot_be_read_is_a_failure(bench: Bench, wait_for: WaitFor, text: str) -> None:
    done = bench.outcome(wait_for, bench.job(manifest=text))
    assert (done.said, done.step) == ("failed", "manifest")


def test_a_manifest_of_other_content_is_refused(bench: Bench, wait_for: WaitFor) -> None:
    """Promise 7: what Redis says under a generation is believed only if it is what was agreed on."""
    done = bench.outcome(wait_for, bench.job(version="f" * 64))
    assert (done.said, done.step) == ("failed", "manifest")
    assert "ffffffffffff" in done.why


def test_an_error_that_nobody_expected_is_a_failure_and_is_logged(
    bench: Bench, wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of ours must not poison a version, nor end the thread."""

    def fault(model: str) -> Loader:
        raise ZeroDivisionError("a fault of ours")

    bench.thread._loader_of = fault
    done = bench.outcome(wait_for, bench.job())
    assert (done.said, done.step, done.why) == ("failed", "load", "ZeroDivisionError: a fault of ours")
    assert "a fault of ours" in caplog.text
    bench.thread._loader_of = lambda model: bench.loader
    assert bench.outcome(wait_for, bench.job(2)).loaded


def test_a_loader_that_cannot_be_had_is_a_failure_of_its_own_step(bench: Bench, wait_for: WaitFor) -> None:
    """It was reported "at manifest", where nobody would look for a typo in GENLOCK_MODELS."""

    def none(model: str) -> Loader:
        raise SettingsInvalid("loader", "no.such:Net", "No module named 'no'")

    bench.thread._loader_of = none
    done = bench.outcome(wait_for, bench.job())
    assert (done.said, done.step) == ("failed", "loader")
    assert "No module named 'no'" in done.why


def test_a_job_that_nobody_wants_any_more_ends_without_a_word(bench: Bench, wait_for: WaitFor) -> None:
    """The candidate was rejected while it waited behind another load: not a byte of it is read."""
    begun, go_on = threading.Event(), threading.Event()
    built: list[int] = []

    def slow(checkpoint: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        built.append(checkpoint.generation)
        return checkpoint.state_dict()

    bench.loader = slow
    first, second = bench.job(1), bench.job(2)
    bench.thread.begin(first)
    bench.thread.begin(second)
    assert begun.wait(20)
    bench.thread.cancel(first)
    bench.thread.cancel(second)
    go_on.set()
    wait_for(lambda: len(bench.done) == 2)
    assert [(done.job.id, done.loaded, done.said) for done in bench.done] == [(1, None, ""), (2, None, "")]
    assert built == [7]


def test_the_last_good_generation_comes_from_this_hosts_note(bench: Bench, wait_for: WaitFor) -> None:
    """Without Redis the job knows neither generation nor manifest."""
    nothing = Job(1, "m", (0, ""), "fallback", "")
    done = bench.outcome(wait_for, nothing)
    assert (done.said, done.step) == ("failed", "fallback")
    bench.last_good.write("m", 5, bench.manifest.encode().decode())
    done = bench.outcome(wait_for, nothing._replace(id=2))
    assert done.key == (5, bench.manifest.version)
    assert done.loaded


@pytest.mark.parametrize("error", [Unsigned("m", "v"), SerialsUnreadable("m.json", "it is no file", "Mend it")])
def test_a_last_good_one_that_nobody_vouches_for_fails_at_its_signature(
    bench: Bench, wait_for: WaitFor, tmp_path: Path, error: GenlockError
) -> None:
    """The same step as of what Redis shows: whoever reads it looks at keys and serials, not at the manifest."""

    def examine(*_: Any) -> None:
        raise error

    bench.last_good.write("m", 5, bench.manifest.encode().decode())
    done: list[Done] = []
    host = HostWork(tmp_path / "state", loads_per_host=1)
    thread = LoadThread(
        store=bench.store,
        host=host,
        last_good=bench.last_good,
        loader_of=lambda model: bench.loader,
        report=done.append,
        examine=examine,
    )
    thread.begin(Job(1, "m", (0, ""), "fallback", ""))
    wait_for(lambda: done)
    thread.close(20)
    assert (done[0].said, done[0].step, done[0].why) == ("failed", "signature", str(error))


def test_chores_are_done_in_turn_and_an_error_of_one_is_logged(
    bench: Bench, wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[int] = []

    def fails() -> None:
        raise OSError("disk full")

    bench.thread.chore(fails)
    bench.thread.chore(lambda: done.append(1))
    wait_for(lambda: done)
    assert "disk full" in caplog.text


def test_closing_stops_a_load_and_leaves_chores_that_nobody_is_owed(bench: Bench, wait_for: WaitFor) -> None:
    """What was active here has to be on the disk before the next process looks: it was forgotten by a worker that ended just then."""
    begun, go_on = threading.Event(), threading.Event()
    chores: list[int] = []

    def slow(checkpoint: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return checkpoint.state_dict()

    bench.loader = slow
    bench.thread.begin(bench.job())
    bench.thread.chore(lambda: chores.append(1))
    bench.thread.chore(lambda: chores.append(2), is_owed=True)
    assert begun.wait(20)
    bench.thread.close(0.01)
    go_on.set()
    wait_for(lambda: bench.done)
    assert bench.done[0].loaded is None
    bench.thread.close(20)
    assert chores == [2]


def test_closing_one_that_never_began_is_nothing(tmp_path: Path) -> None:
    Bench(tmp_path).thread.close(20)


def test_trimming_harms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    trim()
    monkeypatch.setattr("sys.platform", "other")
    trim()


def test_load_failed_of_a_loader_keeps_its_step(bench: Bench, wait_for: WaitFor) -> None:
    def refuse(_: Any) -> None:
        raise LoadFailed("m", "build", "its factory raises")

    bench.loader = refuse
    done = bench.outcome(wait_for, bench.job())
    assert (done.said, done.step, done.why) == ("failed", "build", "its factory raises")


def test_what_cannot_be_imported_ahead_is_the_first_loads_to_say() -> None:
    """A loader that is missing, or whose module raises, must not end the thread that keeps the lease: the others are imported all the
    same."""
    asked: list[str] = []

    def loader_of(model: str) -> Loader:
        asked.append(model)
        raise {"a": SettingsInvalid("models", "a", "no such module"), "b": ZeroDivisionError()}.get(
            model, ImportError()
        )

    import_ahead(("a", "b", "c"), loader_of)
    assert asked == ["a", "b", "c"]


def test_how_far_a_fetch_is_is_told_in_steps_of_a_twentieth(
    tmp_path: Path, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knew whether a worker that loaded for a minute was doing anything. Nor may every piece cost a heartbeat of every worker."""
    monkeypatch.setattr(hostcache, "PIECE_BYTES", 1000)
    monkeypatch.setattr(hostcache, "TOGETHER", 1)
    far, seen, done = Slow(tmp_path / "store"), list[Any](), list[Done]()
    save_file({"w": torch.ones(25_000)}, tmp_path / "f")  # about a hundred pieces
    manifest = Manifest.of("m", [far.stage(tmp_path / "f", name="model")], created_at=0.0)
    cache = HostCache(far, tmp_path / "state", max_bytes=None)
    host, last_good = HostWork(tmp_path / "state", loads_per_host=1), LastGood(tmp_path / "state", "t")
    thread = LoadThread(
        store=cache, host=host, last_good=last_good, loader_of=lambda _: lambda c: c.state_dict(), report=done.append
    )
    far.asked = lambda: seen.append(thread.loading["m"])
    thread.begin(Job(1, "m", (7, manifest.version), "candidate", manifest.encode().decode()))
    wait_for(lambda: done)
    assert done[0].loaded is not None and next(iter(done[0].loaded.seconds)) == "fetch"
    assert {about["step"] for about in seen} == {"fetch"}
    told = {about["done"] for about in seen[2:]}
    assert len(seen) > 90 and 15 <= len(told) <= 21 and {about["total"] for about in seen[2:]} == {manifest.size}
    thread.holds(done[0].loaded.digests)
    wait_for(lambda: cache._holding == manifest.digests)
    thread.close(20)
    assert list((cache.all / "held").iterdir()) == []


def test_what_was_loaded_is_held_before_anybody_has_taken_it(tmp_path: Path, wait_for: WaitFor) -> None:
    """Three models, and room for two: the third took the place of the first, which had just become active, because the runtime's word for
    it stood behind the other loads. Nor may a word that is late take back what was loaded since."""
    store, done, manifests = Store(tmp_path / "store"), list[Done](), dict[str, Manifest]()
    for model in "abc":
        save_file({"w": torch.ones(500) * ord(model)}, tmp_path / model)
        manifests[model] = Manifest.of(model, [store.stage(tmp_path / model, name="model")], created_at=0.0)
    size = manifests["a"].size
    cache = HostCache(store, tmp_path / "state", max_bytes=2 * size)
    host, last_good = HostWork(tmp_path / "state", loads_per_host=1), LastGood(tmp_path / "state", "t")
    thread = LoadThread(
        store=cache, host=host, last_good=last_good, loader_of=lambda _: lambda c: c.state_dict(), report=done.append
    )

    def held() -> set[str]:
        (word,) = (cache.all / "held").iterdir()
        return {model for model, manifest in manifests.items() if manifest.digests <= set(word.read_text().split())}

    for number, (model, manifest) in enumerate(manifests.items()):
        thread.begin(Job(number, model, (7, manifest.version), "active", manifest.encode().decode()))
    wait_for(lambda: len(done) == 3)
    assert [(one.said, one.step) for one in done] == [("", ""), ("", ""), ("failed", "fetch")]
    assert "DoesNotFit" in done[2].why
    wait_for(lambda: held() == {"a", "b"})

    thread.holds(manifests["a"].digests)  # said when the first was taken
    thread.begin(Job(4, "c", (7, manifests["c"].version), "active", manifests["c"].encode().decode()))
    wait_for(lambda: len(done) == 4)
    assert done[3].said == "failed"
    wait_for(lambda: held() == {"a", "b"})
    thread.holds(manifests["a"].digests | manifests["b"].digests)
    thread.holds(manifests["b"].digests)  # the first was dropped
    thread.begin(Job(5, "c", (7, manifests["c"].version), "active", manifests["c"].encode().decode()))
    wait_for(lambda: len(done) == 5)
    assert done[4].loaded is not None and held() == {"b", "c"}
    thread.close(20)


class Remote(Bench):
    """The same with a store on a network."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path)
        self.cache = HostCache(self.store, tmp_path / "state", max_bytes=None)
        self.thread._store = self.cache

    def words(self) -> list[str]:
        """What the workers of this host say that they hold, or are about to: a text each."""
        return [path.read_text() for path in (self.cache.all / "held").iterdir()]


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Remote]:
    made = Remote(tmp_path)
    yield made
    made.thread.close(20)


@pytest.mark.parametrize("how", ["bad", "cancelled"])
def test_a_load_that_came_to_nothing_holds_nothing(remote: Remote, wait_for: WaitFor, how: str) -> None:
    """A candidate with a NaN kept its place in the host cache until the next one was fetched, which had no place for that.

    Nor does it wait for another worker that has the room: a verdict of bad rejects at once (R13), and came a minute late.
    """
    job, (digest,) = remote.job(), remote.manifest.digests
    named: list[bool] = []
    room = one_of([remote.cache.all / "room"], lambda: False)

    def refuse(_: Any) -> None:
        named.append(digest in remote.words()[0])
        room.__enter__()
        remote.thread.cancel(job)
        if how == "bad":
            raise BadCheckpoint("m", "check", "NaN")

    remote.loader = refuse
    done = remote.outcome(wait_for, job)
    assert (done.said, done.loaded) == ("bad" if how == "bad" else "", None)
    assert named == [True] and digest in remote.words()[0], "the room is not free yet"
    room.__exit__(None, None, None)
    wait_for(lambda: remote.words() == [""])


@pytest.mark.parametrize("ends", ["it is loaded", "nobody tries again"])
def test_what_came_of_a_fetch_that_the_store_broke_off_is_named_for_the_next_try(
    remote: Remote, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """Between two tries another worker's fetch took the part away, which is the first to go: all of it had to come again."""
    (digest,) = remote.manifest.digests

    def breaks(*_: Any) -> bytes:
        raise StoreUnreachable("store", "the line broke")

    monkeypatch.setattr(hostcache, "PAUSES_S", ())
    with monkeypatch.context() as patch:
        patch.setattr(remote.store, "read_at", breaks)
        for number in range(2):
            done = remote.outcome(wait_for, remote.job(number))
            assert (done.said, done.step) == ("failed", "fetch")
    remote.thread.holds(frozenset())  # another model was dropped meanwhile
    said = threading.Event()
    remote.thread.chore(said.set)
    assert said.wait(20) and remote.words()[0].startswith(digest)
    if ends == "it is loaded":
        assert remote.outcome(wait_for, remote.job(2)).loaded is not None
        remote.thread.holds(remote.manifest.digests)
        remote.thread.holds(frozenset())
    else:
        monkeypatch.setattr(loadthread, "KEPT_S", 0.01)
        with monkeypatch.context() as patch:
            patch.setattr(remote.store, "read_at", breaks)
            remote.outcome(wait_for, remote.job(3))
    wait_for(lambda: remote.words() == [""])


def test_what_does_not_fit_is_not_named_for_the_next_try(remote: Remote, wait_for: WaitFor) -> None:
    """It failed at its fetch too, and not for a moment: others would find no room for what does fit."""
    remote.cache._max_bytes = 1
    done = remote.outcome(wait_for, remote.job())
    assert (done.said, done.step, done.goes_on) == ("failed", "fetch", False)
    wait_for(lambda: remote.words() == [""])


def test_a_thread_that_cannot_be_started_is_a_failure_of_its_job(
    bench: Bench, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A container's limit of threads: the job was never reported, and the model never loaded."""
    start, chores = threading.Thread.start, list[int]()

    def refuses(thread: threading.Thread) -> None:
        if thread.name == "genlock-loads":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuses)
        bench.thread.chore(lambda: chores.append(1))
        done = bench.outcome(wait_for, bench.job())
    assert (done.said, done.step, done.why) == ("failed", "load", "can't start new thread")
    assert "can't start new thread" in caplog.text
    assert bench.outcome(wait_for, bench.job(2)).loaded
    assert chores == [1]


def test_closing_leaves_the_host_cache_to_the_thread_that_uses_it(remote: Remote, wait_for: WaitFor) -> None:
    """What one thread uses was closed by another one; what the first one had mapped might be taken away, and its next word stayed until its
    process ended::

        load thread                           who closes
        builds from files that it has mapped
                                              waits 2 s, closes the cache: its word goes
        is done, and says another word
    """
    begun, go_on = threading.Event(), threading.Event()
    remote.loader = lambda checkpoint: (begun.set(), go_on.wait(20))
    remote.thread.begin(remote.job())
    assert begun.wait(20)
    remote.thread.close(0.01)
    (word,) = remote.words()
    assert remote.manifest.artifact().digest in word, "it may have it mapped"
    go_on.set()
    wait_for(lambda: not remote.words(), description="its thread to close it")


def test_closing_ends_a_wait_for_the_room_of_the_host_cache(
    remote: Remote, wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that was stopped had the lock; every other one took a minute to end."""
    remote.outcome(wait_for, remote.job())
    with one_of([remote.cache.all / "room"], lambda: False):
        remote.thread.holds(frozenset({"f" * 64}))
        wait_for(lambda: remote.thread._held == {"f" * 64})
        remote.thread.close(20)
        assert remote.thread._thread is not None and not remote.thread._thread.is_alive()
    assert remote.words() == [] and "failed" not in caplog.text


def test_a_host_cache_that_was_never_used_is_closed_by_who_closes(remote: Remote, monkeypatch: Any) -> None:
    closed: list[bool] = []
    monkeypatch.setattr(remote.cache, "close", lambda: closed.append(True))
    remote.thread.close(20)
    assert closed == [True]
