"""Files that training writes, noticed and published whole: a real fleet, real files, writers in processes of their own."""

import io
import logging
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from genlock.coordinator.clock import clock
from genlock.coordinator.errors import ArtifactMissing, OutcomeUnknown, RedisUnreachable
from genlock.coordinator.filesystem import Filesystem
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.status import Generation
from genlock.coordinator.watching import Offered, Patterned, Watcher, notice, offer, patterns_of, settling, watcher
from genlock.coordinator.watching.memory import Known, Memory, Record
from genlock.coordinator.watching.settling import FileIdentity

from .conftest import SETTLED_S, version, whole

#: Writes what comes on stdin, in two pieces: "MODE PATH SECONDS-BETWEEN-THEM FROM", once for each line; says "done" after each.
WRITER = """
import os, sys, time
for line in sys.stdin:
    mode, path, pause, source = line.split()
    data = open(source, "rb").read()
    target = path + ".tmp" if mode == "rename" else path
    with open(target, "r+b" if mode == "over" else "wb", buffering=0) as file:
        file.write(data[:1000])
        time.sleep(float(pause))
        file.write(data[1000:])
    if mode == "rename":
        os.rename(target, path)
    print("done", flush=True)
"""


@pytest.fixture
def writer(tmp_path: Path) -> Any:
    """writer(mode, path, content, pause): a process writes it in two pieces; returns when it is done."""
    process = subprocess.Popen([sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout
    source = tmp_path / "content"

    def write(mode: str, path: Path, content: bytes, pause: float = 0.0) -> None:
        source.write_bytes(content)
        print(mode, path, pause, source, file=process.stdin, flush=True)
        assert process.stdout and process.stdout.readline() == "done\n"

    yield write
    process.stdin.close()
    process.wait()
    process.stdout.close()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file lies on a file system that does not tell, and where no lease says who writes."""
    kind = Filesystem("nfs", is_local=False, tells=False)
    monkeypatch.setattr(notice, "kind_of", lambda path: kind)
    monkeypatch.setattr(watcher, "kind_of", lambda path: kind)


@pytest.fixture(params=["the kernel tells", "the clock looks"])
def either(request: pytest.FixtureRequest) -> None:
    if request.param == "the clock looks":
        request.getfixturevalue("elsewhere")


@pytest.mark.usefixtures("either")
def test_each_content_arrives_once_and_whole(
    watching: Any, writer: Any, versions: Any, wait_for: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A saver that opens, writes a quarter, computes for longer than a file has to be unchanged, and goes on; one that overwrites in place;
    one that renames: every content is a generation, once, and nothing else ever is. The folder is made after the watch has begun."""
    caplog.set_level(logging.INFO, "genlock.watch")
    runs = tmp_path / "runs"
    watching(runs)
    runs.mkdir()
    path = runs / "m.safetensors"
    expected = []
    for number, mode in enumerate(("new", "over", "rename")):
        writer(mode, path, whole(number), 0.0 if mode == "rename" else 1.5 * SETTLED_S)
        expected.append(version(model=whole(number)))
        wait_for(lambda: versions() == expected, description=f"{expected} is published")

    def said() -> list[str]:
        seen = ("listening", "polling", "found", "waiting")
        return [record.event for record in caplog.records if record.event not in seen]

    wait_for(lambda: len(said()) == 3, description="all is said")
    assert said() == ["published"] * 3


def test_a_torn_file_is_refused_once_and_a_touched_one_is_nothing_new(
    watching: Any, fleet: Fleet, versions: Any, wait_for: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The trainer was killed in the middle of a write: the half lies there, nobody has it open, nobody will change it."""
    caplog.set_level(logging.DEBUG, "genlock.watch")

    def events(name: str) -> list[str]:
        return [record.getMessage() for record in caplog.records if getattr(record, "event", "") == name]

    path = tmp_path / "m.safetensors"
    path.write_bytes(whole(1)[:1000])
    watching(tmp_path)
    wait_for(lambda: events("refused"), description="it is refused")
    path.write_bytes(whole(2))
    wait_for(lambda: versions() == [version(model=whole(2))], description="the whole one is published")
    path.touch()
    wait_for(lambda: events("unchanged"), description="the same content is nothing new")
    assert len(versions()) == 1 and len(events("refused")) == 1 and "truncated" in events("refused")[0]
    found = fleet.history("m")[0]
    assert found.message == f"noticed: {path}" and found.artifacts[0].source == str(path)


def test_several_files_wait_for_each_other(
    watching: Any, versions: Any, wait_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new encoder with the old head answers nonsense: both are published together, or neither."""
    run, a, b = tmp_path / "runs/m", whole(1), whole(2)
    run.mkdir(parents=True)
    watching(tmp_path / "runs/{model}/{artifact:enc,head}.*", tmp_path / "runs/{model}/{artifact}.pt")
    (run / "enc.safetensors").write_bytes(a)
    (tmp_path / "runs/other").mkdir()
    (tmp_path / "runs/other/x.pt").write_bytes(a)
    wait_for(lambda: versions("other"), description="a model of one file is published")
    assert versions() == []
    (run / "head.safetensors").write_bytes(b)
    wait_for(lambda: versions() == [version(enc=a, head=b)], description="both are published")
    monkeypatch.setattr(settling, "OTHERS_S", 30.0)  # longer than this process may stand still between the two
    (run / "enc.safetensors").write_bytes(whole(3))
    (run / "head.safetensors").write_bytes(whole(4))
    newest = version(enc=whole(3), head=whole(4))
    wait_for(lambda: versions()[1:] == [newest], description="the new ones are published, together")
    monkeypatch.setattr(settling, "OTHERS_S", 3 * SETTLED_S)
    other = tmp_path / "runs/other"
    (other / "y.pt").write_bytes(b)
    both = version(x=a, y=b)
    wait_for(lambda: versions("other")[1:] == [both], description="a file more is a change of the model")
    (other / "y.pt").unlink()
    (other / "x.pt").write_bytes(b)
    (run / "enc.safetensors").write_bytes(a)
    wait_for(lambda: len(versions()) == 3, description="something else is published meanwhile")
    assert len(versions("other")) == 2  # half of a model is none


def test_links_folders_that_come_back_and_names_that_cannot_be(
    watching: Any, versions: Any, wait_for: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`best.pt` is a link that the trainer moves; what it leads to may be overwritten in place, in a folder that nobody named; and a run
    that is started anew removes its folder first."""
    runs, kept = tmp_path / "runs", tmp_path / "kept"
    for folder in (runs / "m", kept):
        folder.mkdir(parents=True)
    (kept / "e=1.pt").write_bytes(whole(1))
    (kept / "e=2.pt").write_bytes(whole(2))
    best = runs / "m/best.pt"
    best.symlink_to(kept / "e=1.pt")
    watching(runs / "{model}/best.pt", kept)
    expected = [version(model=whole(1))]
    wait_for(lambda: versions() == expected, description="what the link leads to")

    (runs / "new").symlink_to(kept / "e=2.pt")
    (runs / "new").rename(best)
    expected.append(version(model=whole(2)))
    wait_for(lambda: versions() == expected, description="the link leads elsewhere")

    (kept / "e=2.pt").write_bytes(whole(3))
    expected.append(version(model=whole(3)))
    wait_for(lambda: versions() == expected, description="what it leads to is overwritten")

    best.unlink()
    (runs / "m").rmdir()
    runs.rmdir()
    (runs / "m").mkdir(parents=True)
    best.hardlink_to(kept / "e=1.pt")
    expected.append(version(model=whole(1)))
    wait_for(lambda: versions() == expected, description="the folder came back")

    best.unlink()
    best.symlink_to(best)
    for name in ("a.pt", "a.safetensors"):
        (kept / name).write_bytes(whole(5))

    def said() -> str:
        return " ".join(record.getMessage() for record in caplog.records)

    wait_for(lambda: "a.pt and" in said() and "cannot be looked at" in said(), description="what is odd is said")
    assert "'e=1' cannot be the name of a model" in said() and versions("a") == []
    (kept / "a.pt").unlink()
    wait_for(lambda: versions("a"), description="one of the two is gone")


def test_one_models_trouble_is_said_once_and_stops_nobody(
    watching: Any, fleet: Fleet, versions: Any, wait_for: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A pin of a weekend: the trainer goes on, other models are published, and at its end the newest checkpoint counts, not the oldest.
    A rollback is not undone by a file that has not changed since."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(whole(1))
    first = watching(tmp_path)
    wait_for(lambda: len(versions()) == 1, description="the first")
    fleet.pin("m")
    path.write_bytes(whole(2))

    def warned() -> list[Any]:
        return [record for record in caplog.records if record.levelno >= logging.WARNING]

    wait_for(warned, description="the pin is met")
    (tmp_path / "n.safetensors").write_bytes(whole(7))
    wait_for(lambda: versions("n"), description="another model is published")
    path.write_bytes(whole(3))
    fleet.unpin("m")
    wait_for(lambda: len(versions()) == 2, description="the pin is gone")
    assert versions()[1] == version(model=whole(3)) and [r.outcome for r in warned()] == ["pinned"]
    said = warned()[0].getMessage()
    assert said.startswith("model 'm' is pinned to generation 1 since ") and said.endswith(
        "`genlock unpin m` lets proposals in again. Tried again with growing pauses, until it succeeds or the file changes"
    )

    fleet.rollback("m", pin=False)
    watching.end(first)
    watching(tmp_path)
    path.with_name("n.safetensors").write_bytes(whole(8))
    wait_for(lambda: len(versions("n")) == 2, description="the next watcher has looked")
    assert len(versions()) == 3 and versions()[2] == version(model=whole(1))
    path.write_bytes(whole(3))  # the job insists
    wait_for(lambda: versions()[3:] == [version(model=whole(3))], description="what was written again is news")


def test_what_the_fleet_has_refused_is_not_tried_again(
    watching: Any, fleet: Fleet, member: Any, wait_for: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The workers find NaN in it: nothing changes that but another file, neither time nor a restart of the watcher."""
    worker = member("h:1", "digits")
    path = tmp_path / "digits.safetensors"
    path.write_bytes(whole(1))
    first = watching(tmp_path)
    worker.bad(wait_for(lambda: worker.candidate(), description="it is proposed"))
    wait_for(lambda: "NaN" in caplog.text, description="the watcher hears of it")
    watching.end(first)
    watching(tmp_path)
    path.write_bytes(whole(2))
    generation = wait_for(lambda: worker.candidate(), description="another content is proposed")
    assert generation == 2
    worker.ready(generation)
    wait_for(lambda: worker.state().phase == "fencing", description="it is fenced")
    worker.fenced(generation)
    wait_for(lambda: fleet.model("digits").generation == 2, description="it is committed")


def test_what_another_host_has_proposed_is_waited_for(
    watching: Any, fleet: Fleet, member: Any, wait_for: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The workers take a minute to load it; who sees the same file meanwhile must not stop that by proposing it once more."""
    caplog.set_level(logging.DEBUG, "genlock.watch")

    def events(*names: str) -> list[str]:
        return [record.event for record in caplog.records if record.event in names]

    worker = member("h:1", "digits")
    (tmp_path / "digits.safetensors").write_bytes(whole(1))
    watching(tmp_path)
    generation = wait_for(lambda: worker.candidate(), description="it is proposed")
    watching(tmp_path, settings=replace(fleet.settings, state_dir=tmp_path / "two", store=fleet.store.root))
    wait_for(lambda: events("retrying"), description="the other host sees that it is in work")
    assert events("published", "unchanged") == []
    worker.ready(generation)
    wait_for(lambda: worker.state().phase == "fencing", description="it is fenced")
    worker.fenced(generation)
    wait_for(lambda: len(events("published", "unchanged")) == 2, description="both are content")
    assert sorted(events("published", "unchanged")) == ["published", "unchanged"]
    assert len(fleet.history("digits")) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_file_that_is_not_what_was_read_of_it_is_read_again(
    watching: Any, fleet: Fleet, versions: Any, wait_for: Any, tmp_path: Path
) -> None:
    """A writer through a mapping changes the content, and neither time nor size: the copy does not have the digest that is remembered."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(whole(1))
    known = Known(str(path), FileIdentity.of(path.stat()), blake3(whole(2)).hexdigest())
    Memory(fleet.settings.state_dir, fleet.name).write("m", Record({"model": known}))
    watching(tmp_path)
    wait_for(lambda: versions() == [version(model=whole(1))], description="what is there is published")


def test_redis_that_is_gone_is_waited_for(
    watching: Any, versions: Any, wait_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """And a fault of ours is as good as an outage: said, and tried again."""
    failures: list[Exception] = [RedisUnreachable("r", "gone"), RedisUnreachable("r", "still gone"), ValueError("odd")]

    class Failing(Fleet):
        def model(self, name: str) -> Any:
            if failures:
                raise failures.pop(0)
            return super().model(name)

    monkeypatch.setattr(watcher, "Fleet", Failing)
    monkeypatch.setattr("genlock.coordinator.watching.attempts.FIRST_PAUSE_S", 0.1)
    (tmp_path / "m.safetensors").write_bytes(whole(1))
    watching(tmp_path)
    wait_for(lambda: versions(), description="it is published")
    retried = [r.outcome for r in caplog.records if r.event == "retrying" and r.levelno == logging.WARNING]
    assert retried == ["unavailable", "failed"]


def test_no_room_for_a_thread_is_a_try_that_failed(
    watching: Any, versions: Any, wait_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """A limit of processes that is reached once: the model was never published again, and the end of the watch raised."""
    faults, start = [RuntimeError("can't start new thread")], threading.Thread.start

    def failing(thread: threading.Thread) -> None:
        if thread.name == "genlock-publish-m" and faults:
            raise faults.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", failing)
    monkeypatch.setattr("genlock.coordinator.watching.attempts.FIRST_PAUSE_S", 0.1)
    (tmp_path / "m.safetensors").write_bytes(whole(1))
    watching(tmp_path)
    wait_for(lambda: versions(), description="it is published")
    retried = [r.getMessage() for r in caplog.records if r.event == "retrying" and r.levelno == logging.WARNING]
    assert retried == [
        "model m: can't start new thread. Tried again with growing pauses, until it succeeds or the file changes"
    ]


@pytest.mark.usefixtures("soon")
def test_a_watch_whose_publish_cannot_begin_ends_all_the_same(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    (tmp_path / "m.safetensors").write_bytes(whole(1))
    one = Watcher(fleet.settings, Patterned(patterns_of([str(tmp_path)])), note="noticed", notices=False)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", failing)
        ((model, error),) = one.once()
    assert model == "m" and "can't start" in str(error)


def test_what_is_first_found_of_a_model_is_said(
    watching: Any, fleet: Fleet, wait_for: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody who starts a watch over what is active already reads which file is which model, and then nothing."""
    caplog.set_level(logging.DEBUG, "genlock.watch")
    path = tmp_path / "m.safetensors"
    path.write_bytes(whole(1))
    fleet.publish("m", path)
    watching(tmp_path)

    def said() -> list[tuple[str, str]]:
        return [(r.levelname, r.getMessage()) for r in caplog.records if getattr(r, "event", "") == "unchanged"]

    sentence = "model m: nothing to publish, it is active"
    wait_for(lambda: said() == [("INFO", sentence)], description="it is said that it is active")
    path.touch()
    wait_for(lambda: said()[1:] == [("DEBUG", sentence)], description="later that is no news")


def test_what_is_not_there_is_said_once_and_waited_for(
    watching: Any, versions: Any, wait_for: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`genlock watch /nosuch` said that / is on ext4."""
    caplog.set_level(logging.INFO, "genlock.watch")
    runs, best = tmp_path / "runs", tmp_path / "best.pt"
    watching(runs, f"b={best}")
    expected = [f"{best} is not there yet: waited for", f"{runs} is not there yet: waited for"]

    def said() -> list[str]:
        return sorted(record.getMessage() for record in caplog.records if record.event == "waiting")

    wait_for(lambda: said() == expected, description="both are waited for")
    runs.mkdir()
    (runs / "m.safetensors").write_bytes(whole(1))
    wait_for(versions, description="what came is published")
    (runs / "m.safetensors").unlink()
    runs.rmdir()
    runs.mkdir()
    (runs / "m.safetensors").touch()  # somebody has just made it
    (runs / "n.safetensors").write_bytes(whole(2))
    wait_for(lambda: versions("n"), description="the folder came back")
    assert said() == expected
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_fault_in_a_look_is_seen_and_ends_nothing(
    watching: Any, versions: Any, wait_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    look, faults = Patterned.look, [RuntimeError("odd")]

    def faulty(patterned: Patterned) -> Any:
        if faults:
            raise faults.pop()
        return look(patterned)

    monkeypatch.setattr(Patterned, "look", faulty)
    (tmp_path / "m.safetensors").write_bytes(whole(1))
    watching(tmp_path)
    wait_for(lambda: versions(), description="it is published")
    assert [record.event for record in caplog.records] == ["fault"]


def test_a_restart_does_not_read_again_what_has_not_changed(
    watching: Any, versions: Any, wait_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 GB of checkpoints, and the machine restarts: only what changed meanwhile is read. Where nobody remembers, it is read, and found
    to be what is active: nothing is published."""
    read: list[str] = []
    hash_file = offer.hash_file
    monkeypatch.setattr(offer, "hash_file", lambda source, size: [read.append(""), hash_file(source, size)][1])
    for model in ("a", "b"):
        (tmp_path / f"{model}.safetensors").write_bytes(whole(1))
    first = watching(tmp_path)
    wait_for(lambda: versions("a") and versions("b"), description="both are published")
    watching.end(first)
    assert len(read) == 2

    second = watching(tmp_path)
    (tmp_path / "b.safetensors").write_bytes(whole(2))
    wait_for(lambda: len(versions("b")) == 2, description="what changed is published")
    watching.end(second)
    assert len(read) == 3

    for record in (tmp_path / "state/watched/t").iterdir():
        record.unlink()
    watching(tmp_path)
    wait_for(lambda: len(read) == 5, description="they are read again")
    (tmp_path / "b.safetensors").write_bytes(whole(3))
    wait_for(lambda: len(versions("b")) == 3, description="the next change is published")
    assert len(versions("a")) == 1


def test_two_hosts_that_see_the_same_file_publish_it_once(
    watching: Any, fleet: Fleet, versions: Any, wait_for: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A shared folder, a watcher on each host: under the lock the second one finds that there is nothing left to do."""
    caplog.set_level(logging.DEBUG, "genlock.watch")
    shared = tmp_path / "shared"
    shared.mkdir()
    for host in ("one", "two"):
        watching(shared, settings=replace(fleet.settings, state_dir=tmp_path / host, store=fleet.store.root))

    def done() -> list[str]:
        return [r.event for r in caplog.records if r.event in ("published", "unchanged")]

    for number in range(1, 4):
        (shared / "m.safetensors").write_bytes(whole(number))
        wait_for(lambda number=number: len(done()) == 2 * number, description="both have dealt with it")
    assert versions() == [version(model=whole(number)) for number in range(1, 4)]


@pytest.mark.usefixtures("soon")
def test_one_look_does_not_turn_without_end_while_one_publishes_and_another_changes(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its time the moment up to which it paused was past: 100,000 turns a second, for as long as the workers took to load."""
    turns, looks, enough = list[float](), list[float](), threading.Event()
    turn, look, make = Watcher._turn, Watcher._look, offer.Offer.make

    def counted_look(self: Watcher) -> None:
        looks.append(clock())
        if sum(moment > looks[0] + watcher.ONCE_S for moment in looks) >= 5:
            enough.set()
        look(self)

    def slow(self: offer.Offer, request: str) -> Offered:
        assert enough.wait(60)
        return make(self, request)

    monkeypatch.setattr(watcher, "ONCE_S", 0.5)
    monkeypatch.setattr(Watcher, "_turn", lambda self: [turns.append(clock()), turn(self)][1])
    monkeypatch.setattr(Watcher, "_look", counted_look)
    monkeypatch.setattr(offer.Offer, "make", slow)
    (tmp_path / "m.safetensors").write_bytes(whole(1))
    with (tmp_path / "n.safetensors").open("wb") as file:
        file.write(whole(2))
        file.flush()
        found = Watcher(fleet.settings, Patterned(patterns_of([str(tmp_path)])), note="noticed").once()
    assert [one.outcome for one in found if isinstance(one, Offered)] == ["committed", "changing"]
    assert len(turns) < 5 * len(looks) + 20


@pytest.mark.usefixtures("soon")
def test_one_look_publishes_more_than_can_be_published_at_the_same_time(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty models, each of which takes a minute: those that had to wait for a place were said to be changing."""
    for name, value in (("PUBLISHES", 1), ("ONCE_S", 0.0), ("SETTLED_S", 0.0), ("SETTLED_ELSEWHERE_S", 0.0)):
        monkeypatch.setattr(watcher, name, value)
    for number, model in enumerate("abc"):
        (tmp_path / f"{model}.safetensors").write_bytes(whole(number))
    found = Watcher(fleet.settings, Patterned(patterns_of([str(tmp_path)])), note="noticed").once()
    assert [one.outcome for one in found if isinstance(one, Offered)] == ["committed"] * 3


@pytest.mark.usefixtures("soon")
def test_one_look_tells_what_can_never_be_published(fleet: Fleet, tmp_path: Path, caplog: Any) -> None:
    """A typing mistake in cron, for a year: no checkpoint was found, and all was well."""
    (tmp_path / "empty.pt").touch()
    for name in ("two.pt", "two.safetensors"):
        (tmp_path / name).write_bytes(whole(1))
    patterns = patterns_of([f"{tmp_path}", f"{tmp_path}/typo", f"folder={tmp_path}", f"gone={tmp_path}/no.pt"])

    def once() -> dict[str | None, tuple[str, str]]:
        found = Watcher(fleet.settings, Patterned(patterns), note="noticed").once()
        return {one.model: (one.outcome, one.why) for one in found if isinstance(one, Offered)}

    assert once() == {
        None: ("odd", f"{tmp_path}/typo is not there"),
        "empty": ("odd", f"{tmp_path}/empty.pt is empty"),
        "folder": ("odd", f"{tmp_path}, which would be model folder, is a folder: name the file in it"),
        "gone": ("odd", f"{tmp_path}/no.pt is not there"),
        "two": (
            "odd",
            f"{tmp_path}/two.pt and {tmp_path}/two.safetensors would both be model two: neither is published;"
            " remove one, or say which with a pattern",
        ),
    }
    with (tmp_path / "empty.pt").open("ab"):  # it has just been made
        assert once()["empty"][0] == "changing"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]  # it is told already


@pytest.mark.usefixtures("soon")
def test_one_look_publishes_what_is_there_and_ends(fleet: Fleet, tmp_path: Path, versions: Any) -> None:
    """For cron: what is being written is left for the next time."""

    def once() -> dict[str, str]:
        found = Watcher(fleet.settings, Patterned(patterns_of([str(tmp_path)])), note="noticed").once()
        return {one.model: one.outcome for one in found if isinstance(one, Offered)}

    assert once() == {}
    (tmp_path / "m.safetensors").write_bytes(whole(1))
    assert once() == {"m": "committed"}
    with pytest.MonkeyPatch.context() as patch, (tmp_path / "n.safetensors").open("wb") as file:
        patch.setattr(watcher, "ONCE_S", 1.0)
        file.write(whole(2))
        file.flush()
        assert once() == {"m": "unchanged", "n": "changing"}
    assert once() == {"m": "unchanged", "n": "committed"}


def test_a_hole_and_a_bare_pickle_are_refused_and_the_next_whole_one_is_published(
    watching: Any, versions: Any, wait_for: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An interrupted `rsync --inplace` leaves an archive whose end is right and whose middle is nothing."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("m/data/0", b"y" * 5000)
    data = buffer.getvalue()
    path = tmp_path / "m.pt"
    path.write_bytes(data[:1000] + bytes(1000) + data[2000:])
    (tmp_path / "n.pt").write_bytes(b"hello")
    watching(tmp_path)
    wait_for(lambda: "Bad CRC-32" in caplog.text and "bare pickle" in caplog.text, description="both are refused")
    path.write_bytes(data)
    wait_for(lambda: versions() == [version(model=data)], description="the whole one is published")
    assert versions("n") == []


def test_after_an_unknown_outcome_other_content_is_another_request(
    watching: Any,
    versions: Any,
    wait_for: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Redis goes away between the proposal and its answer, and training saves again meanwhile: with the id of the first, the second was
    answered with what became of the first, and said to be committed."""
    caplog.set_level(logging.INFO, "genlock.watch")
    path, publish, requests = tmp_path / "m.safetensors", offer.Offer._publish, list[str]()
    path.write_bytes(whole(1))

    def lost(self: offer.Offer, wanted: str, request: str) -> Offered:
        requests.append(request)
        offered = publish(self, wanted, request)
        if len(requests) == 1:
            path.write_bytes(whole(2))
            raise OutcomeUnknown("m", request, "Redis is gone")
        return offered

    monkeypatch.setattr(offer.Offer, "_publish", lost)
    monkeypatch.setattr("genlock.coordinator.watching.attempts.FIRST_PAUSE_S", 0.1)
    watching(tmp_path)
    both = [version(model=whole(1)), version(model=whole(2))]
    wait_for(lambda: versions() == both, description="the second content is published too")
    assert len(requests) == 2 and len(set(requests)) == 2


def offered(fleet: Fleet, path: Path) -> Offered:
    """The file as it is, as model m, always with the same request."""
    files = {"model": offer.Settled(path, FileIdentity.of(path.stat()))}
    memory = Memory(fleet.settings.state_dir, fleet.name)
    return offer.Offer("m", files, fleet=fleet, memory=memory, note="noticed").make("one-request")


def test_a_file_that_is_written_while_it_is_checked_is_not_refused(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comparing checksums takes seconds; what is torn then is another file, which was not refused."""
    path, check = tmp_path / "m.safetensors", offer.check_noticed

    def late(file: Any, name: str) -> None:
        path.write_bytes(whole(2)[:100])
        check(file, name)

    monkeypatch.setattr(offer, "check_noticed", late)
    path.write_bytes(whole(1))
    with pytest.raises(offer.ChangedMeanwhile):
        offered(fleet, path)


def test_an_answer_about_other_content_is_not_believed(fleet: Fleet, versions: Any, tmp_path: Path) -> None:
    """The same request, and the file was written through a mapping since: its identity need not tell."""
    path = tmp_path / "m.safetensors"

    path.write_bytes(whole(1))
    assert offered(fleet, path).outcome == "committed"
    path.write_bytes(whole(2))
    with pytest.raises(offer.ChangedMeanwhile, match="another content was published"):
        offered(fleet, path)
    assert versions() == [version(model=whole(1))]


def test_a_store_that_is_gone_is_said_and_waited_for(
    watching: Any, versions: Any, wait_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Its folder, or its bucket: that is no file that changed meanwhile, which is tried each second without a word."""
    failures, publish = [ArtifactMissing(str(tmp_path / "store/objects"))], offer.Offer._publish

    def failing(self: offer.Offer, wanted: str, request: str) -> Offered:
        if failures:
            raise failures.pop()
        return publish(self, wanted, request)

    monkeypatch.setattr(offer.Offer, "_publish", failing)
    monkeypatch.setattr("genlock.coordinator.watching.attempts.FIRST_PAUSE_S", 0.1)
    (tmp_path / "m.safetensors").write_bytes(whole(1))
    watching(tmp_path)
    wait_for(versions, description="it is published")
    (said,) = [r.getMessage() for r in caplog.records if r.event == "retrying" and r.levelno == logging.WARNING]
    assert "store/objects: there is no such file" in said


@pytest.mark.usefixtures("soon")
def test_what_a_rollback_has_left_is_left_on_a_host_that_knows_nothing(
    fleet: Fleet, versions: Callable[..., list[str]], wait_for: Any, tmp_path: Path
) -> None:
    """A container with a fresh state folder starts after a rollback, sees the bad checkpoint, and published it again. Also while the
    model is pinned, so that it stays so when the pin goes; until the job writes it once more."""
    path = tmp_path / "m.safetensors"

    def once(host: str) -> str:
        settings = replace(fleet.settings, state_dir=tmp_path / host, store=fleet.store.root)
        (found,) = Watcher(settings, Patterned(patterns_of([str(path.parent)])), note="noticed").once()
        return found.outcome if isinstance(found, Offered) else str(getattr(found[1], "outcome", found[1]))

    for number in (1, 2):
        path.write_bytes(whole(number))
        assert once("first") == "committed"
    fleet.rollback("m")
    assert once("new") == "unchanged"
    fleet.unpin("m")
    assert once("new") == once("newer") == "unchanged"
    path.write_bytes(whole(3))
    assert once("new") == "committed"
    path.write_bytes(whole(2))
    os.utime(path, (1, 1))  # a backup that was put back, where somebody looks who knew what was there before
    assert once("new") == "committed"
    fleet.rollback("m", pin=False)
    left_at = fleet.model("m").committed_at or 0.0

    def is_newer() -> bool:  # the clock that stamps files ticks every few milliseconds
        path.touch()
        return path.stat().st_mtime > left_at

    wait_for(is_newer, description="it is written after the rollback")
    assert once("newest") == "committed"
    assert versions()[-1] == version(model=whole(2))


def row(generation: int, content: str, rollback_of: int | None = None, outcome: str = "committed") -> Generation:
    return Generation(
        generation=generation,
        version=content,
        outcome=outcome,
        active=False,
        created_at=None,
        author="",
        message="",
        why="",
        step="",
        worker="",
        rollback_of=rollback_of,
        seconds={},
        workers={},
    )


def test_a_rollback_leaves_all_that_was_active_behind_where_it_went() -> None:
    history = [row(1, "a"), row(2, "b"), row(3, "c"), row(4, "x", outcome="rejected"), row(5, "a", rollback_of=1)]
    assert [one for one in "abcx" if offer.is_left(history[::-1], one)] == ["b", "c"]
    again = [*history, row(6, "c"), row(7, "d"), row(8, "c", rollback_of=6)]
    assert [one for one in "abcd" if offer.is_left(again[::-1], one)] == ["b", "d"]
    assert not offer.is_left([row(3, "a", rollback_of=1, outcome="rejected"), row(2, "b"), row(1, "a")], "b")
