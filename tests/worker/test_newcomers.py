"""worker/newcomers.py: files that come later join their batch, and what that costs while they do not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from genlock.coordinator.errors import RedisUnreachable
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.flip import Flip
from genlock.worker import newcomers as module
from genlock.worker.newcomers import LOOK_S, MAX_PAUSE_S, Newcomers
from genlock.worker.signatures import Signatures

Publish = Callable[..., Flip]
WaitFor = Callable[..., Any]


class Folder:
    """Signature → the names of its files."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[str, ...]] = {}
        self.looks = 0

    def names(self, rqa_sig: str) -> tuple[str, ...]:
        self.looks += 1
        return self.files.get(rqa_sig, ())


class Scene:
    """A Newcomers, and all that it is given; `can_load` may be another."""

    def __init__(self, new_fleet: Callable[..., Fleet], monkeypatch: pytest.MonkeyPatch) -> None:
        self.signatures, self.folder = Signatures(max_models=3), Folder()
        self.fleets: list[Fleet] = []
        self.snapshots = 0
        self.closed = 0
        self.tried: list[tuple[str, int]] = []
        self.said: dict[str, str] = {}
        self._new_fleet = new_fleet
        snapshot, close = Fleet.snapshot, Fleet.close

        def counted(fleet: Fleet) -> Any:
            self.snapshots += fleet in self.fleets
            return snapshot(fleet)

        def ended(fleet: Fleet) -> None:
            self.closed += fleet in self.fleets
            close(fleet)

        monkeypatch.setattr(Fleet, "snapshot", counted)
        monkeypatch.setattr(Fleet, "close", ended)

    def new_fleet(self) -> Fleet:
        self.fleets.append(self._new_fleet())
        return self.fleets[-1]

    def can_load(self, model: str, generation: int) -> bool:
        self.tried.append((model, generation))
        return True

    def is_news(self, subject: str, why: str) -> bool:
        before, self.said[subject] = self.said.get(subject), why
        return why != before

    def newcomers(self, *, looks: bool = True) -> Newcomers:
        return Newcomers(
            self.signatures,
            self.folder,
            looks=looks,
            new_fleet=lambda: self.new_fleet(),
            can_load=lambda model, generation: self.can_load(model, generation),
            is_news=self.is_news,
        )


@pytest.fixture
def scene(new_fleet: Callable[..., Fleet], monkeypatch: pytest.MonkeyPatch) -> Scene:
    scene = Scene(new_fleet, monkeypatch)
    scene.signatures.begin("s", {"a": "s--a"})
    scene.folder.files["s"] = ("a", "b")
    return scene


@pytest.fixture
def newcomers(scene: Scene) -> Iterator[Newcomers]:
    """One whose thread has not begun."""
    made = scene.newcomers()
    yield made
    made.stop()
    made.join()
    made._let_go()


def test_a_file_joins_when_it_is_a_model_of_the_fleet(scene: Scene, newcomers: Newcomers, publish: Publish) -> None:
    newcomers._look()
    assert scene.tried == [], "nobody has published it yet"
    publish(2, "s--b")
    newcomers._look()
    assert scene.tried == [("s--b", 1)]
    assert scene.signatures.batches["s"] == {"a": "s--a", "b": "s--b"}


def test_a_file_that_never_joins_costs_one_connection(
    scene: Scene, newcomers: Newcomers, publish: Publish, fleet: Fleet
) -> None:
    """It was refused, or its model is pinned away: every worker connected each second, and read the whole fleet."""
    publish(1, "other")
    for _ in range(20):
        newcomers._look()
    assert (len(scene.fleets), scene.snapshots) == (1, 1)
    publish(2, "other")
    newcomers._look()
    newcomers._look()
    assert (len(scene.fleets), scene.snapshots) == (1, 2), "read again when something has changed"
    assert fleet.pin("other") == 2
    newcomers._look()
    assert scene.snapshots == 3


def test_a_generation_that_cannot_be_loaded_is_not_tried_again(
    scene: Scene, newcomers: Newcomers, publish: Publish
) -> None:
    publish(2, "s--b")
    scene.signatures.found_unfit("s--b", 1)
    for _ in range(5):
        newcomers._look()
    assert (scene.tried, scene.snapshots) == ([], 1)
    publish(3, "s--b")
    newcomers._look()
    assert scene.tried == [("s--b", 2)]


def test_where_nothing_is_new_redis_is_not_asked(scene: Scene, newcomers: Newcomers) -> None:
    newcomers._look()
    scene.folder.files["s"] = ("a",)
    newcomers._look()
    newcomers._look()
    assert (len(scene.fleets), scene.closed) == (1, 1), "and the connection is given back"


def test_a_batch_that_is_forgotten_while_a_model_is_loaded_gets_nothing(
    scene: Scene, newcomers: Newcomers, publish: Publish
) -> None:
    """A fleet-wide clear, an invalidate or a refresh comes while this waits for the model: the batch was that one model alone then."""
    publish(2, "s--b")

    def can_load(model: str, generation: int) -> bool:
        scene.signatures.forget("s")
        return True

    scene.can_load = can_load  # type: ignore[method-assign]
    newcomers._look()
    assert scene.signatures.batches == {}
    assert not newcomers._wake.is_set(), "there is nothing to look for"


def test_a_batch_that_is_replaced_while_a_model_is_loaded_is_looked_at_again(
    scene: Scene, publish: Publish, wait_for: WaitFor
) -> None:
    """A request leaves another model out while this waits for the new one: it joined nothing, and nothing looked for it again."""
    publish(2, "s--b")
    scene.signatures.begin("s", {"d": "s--d"}, {"s--d"})
    left_out = []

    def can_load(model: str, generation: int) -> bool:
        left_out.append(scene.signatures.leave_out("s", "s--d", 1))
        return True

    scene.can_load = can_load  # type: ignore[method-assign]
    newcomers = scene.newcomers(looks=False)
    newcomers.start()
    try:
        newcomers.wake()
        wait_for(lambda: scene.signatures.batches["s"] == {"a": "s--a", "b": "s--b"})
        assert left_out == [True, False]
    finally:
        newcomers.stop()
        newcomers.join()


def test_a_fault_of_one_signature_keeps_no_other_from_its_files(
    scene: Scene, newcomers: Newcomers, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    publish(2, "s--b")
    publish(2, "t--b")
    scene.signatures.begin("t", {"a": "t--a"})
    scene.folder.files["t"] = ("a", "b")

    def can_load(model: str, generation: int) -> bool:
        if model == "s--b":
            raise OSError(24, "Too many open files")
        return True

    scene.can_load = can_load  # type: ignore[method-assign]
    for _ in range(3):
        newcomers._look()
    assert set(scene.signatures.batches["t"]) == {"a", "b"}
    (record,) = [record for record in caplog.records if "signature s: a fault of ours" in record.getMessage()]
    assert record.exc_info, "with where it came from; and once"


def test_the_thread_lives_through_any_error(
    scene: Scene, publish: Publish, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It ended with the first error that is none of ours, and nobody began another: no file joined before the next start."""
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    publish(2, "s--b")
    new_fleet, made = scene.new_fleet, []

    def failing() -> Fleet:
        made.append(len(made))
        if len(made) == 1:
            raise OSError(24, "Too many open files")
        return new_fleet()

    scene.new_fleet = failing  # type: ignore[method-assign]
    newcomers = scene.newcomers()
    newcomers.start()
    newcomers.start()
    try:
        wait_for(lambda: "b" in scene.signatures.batches["s"])
        assert "Too many open files" in caplog.text
        assert [thread.name for thread in threading.enumerate()].count("genlock-batches") == 1
    finally:
        newcomers.stop()
        newcomers.join()
    assert scene.closed == len(scene.fleets)
    newcomers.start()
    assert "genlock-batches" not in [thread.name for thread in threading.enumerate()], "it was stopped"


def test_a_thread_that_cannot_begin_is_begun_later(
    scene: Scene, newcomers: Newcomers, publish: Publish, wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    """The user may have no more threads just now: whoever looked a batch up got that error, and no thread ever began after it."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "genlock-batches":
            raise RuntimeError("can't start new thread")
        start(thread)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        newcomers.start()
        newcomers.start()
    assert caplog.text.count("can't start new thread") == 1
    newcomers.join()  # a process may end now, too
    publish(2, "s--b")
    newcomers.start()
    newcomers.wake()
    wait_for(lambda: "b" in scene.signatures.batches["s"])


def test_what_cannot_be_used_is_said_once(
    scene: Scene, newcomers: Newcomers, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "bcd":
        publish(2, f"s--{name}")
    scene.folder.files["s"] = ("a", "b", "c", "d")
    for _ in range(3):
        newcomers._look()
    assert caplog.text.count("what is new of it cannot be used") == 1
    assert "has 4 models, a worker holds at most 3" in caplog.text
    assert (scene.snapshots, set(scene.signatures.batches["s"])) == (1, {"a"})


def test_the_pause_grows_while_the_fleet_cannot_be_read(
    scene: Scene, newcomers: Newcomers, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    new_fleet = scene.new_fleet

    def unreachable() -> Fleet:
        raise RedisUnreachable("somewhere", "nobody answers")

    scene.new_fleet = unreachable  # type: ignore[method-assign]
    scene.signatures.begin("t", {"a": "t--a"})
    scene.folder.files["t"] = ("a", "b")
    pauses = []
    for _ in range(12):
        newcomers._look()
        pauses.append(newcomers._pause_s())
    assert pauses[:3] == [2 * LOOK_S, 4 * LOOK_S, 8 * LOOK_S], "of a look, however many signatures there are"
    assert pauses[-1] == MAX_PAUSE_S
    assert caplog.text.count("signature s: what is new of it cannot be used") == 1
    scene.new_fleet = new_fleet  # type: ignore[method-assign]
    publish(2, "s--b")
    newcomers._look()
    assert newcomers._pause_s() == LOOK_S
    assert set(scene.signatures.batches["s"]) == {"a", "b"}


def test_without_a_clock_it_looks_when_it_is_woken(scene: Scene, publish: Publish, wait_for: WaitFor) -> None:
    publish(2, "s--b")
    newcomers = scene.newcomers(looks=False)
    assert newcomers._pause_s() is None
    newcomers.start()
    try:
        newcomers.wake()
        wait_for(lambda: "b" in scene.signatures.batches["s"])
        wait_for(lambda: scene.closed == 1, description="it may be long before it looks again")
    finally:
        newcomers.stop()
        newcomers.join()


def test_closing_stops_it_between_two_signatures(scene: Scene, newcomers: Newcomers) -> None:
    scene.signatures.begin("t", {"a": "t--a"})
    newcomers.stop()
    newcomers._look()
    assert scene.folder.looks == 0
