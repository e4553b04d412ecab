"""coordinator/admin/reader.py: one thread reads for all, tells what is old, begins after a fork, and ends."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from genlock.coordinator.admin.reader import Reader
from genlock.coordinator.errors import GenlockError, RedisUnreachable
from genlock.coordinator.fleet import Fleet

WaitFor = Callable[..., Any]
File = Callable[[str], Path]


@pytest.fixture
def new_reader(fleet: Fleet) -> Iterator[Callable[..., Reader]]:
    """new_reader(**settings): a reader of the fleet."""
    made: list[Reader] = []
    assert fleet.identity

    def make(**settings: Any) -> Reader:
        made.append(Reader(fleet.settings.with_arguments(**settings), wall=lambda: 1000.0))
        return made[-1]

    yield make
    for reader in made:
        reader.close()


def test_nothing_is_begun_before_somebody_asks(new_reader: Callable[..., Reader]) -> None:
    """gunicorn makes the app before it forks, with preload_app: a thread of the parent would be none of the child's."""
    before = threading.active_count()
    reader = new_reader()
    assert threading.active_count() == before
    assert reader.picture().fleet.as_of == 1000.0
    assert threading.active_count() == before + 1
    assert reader.picture() is reader.picture()


def test_a_child_begins_anew(new_reader: Callable[..., Reader]) -> None:
    reader = new_reader()
    reader.picture()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # Python warns of threads that are not in the child; that is the point
        child = os.fork()
    if child == 0:
        try:
            reader.picture()
            os._exit(0 if len(threading.enumerate()) == 2 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert reader.picture()


def test_a_redis_that_goes_away_leaves_an_old_picture(
    serving: Any, new_fleet: Callable[..., Fleet], new_reader: Callable[..., Reader], tmp_path: Path, wait_for: WaitFor
) -> None:
    """What the fleet was is better than nothing in an outage, if nobody takes it for what it is. When Redis is back, so is the truth."""
    folder = tmp_path / "server"
    folder.mkdir()
    (tmp_path / "m.bin").write_text("checkpoint")
    with serving(folder) as url:
        fleet = new_fleet(url=url)
        fleet.publish("digits", tmp_path / "m.bin")
        reader = new_reader(redis_url=url)
        before = reader.picture()
        assert (before.fleet.stale, list(before.models)) == (False, ["digits"])
        number = reader.start(limit=0, after=None).number
    wait_for(lambda: reader.picture().fleet.stale)
    old = reader.picture()
    assert (list(old.models), old.fleet.as_of) == (["digits"], 1000.0)
    assert old.fleet.why
    assert b'"stale":true' in old.models_json
    changes = reader.changes(number, 5.0)
    assert changes
    assert b'"stale":true' in changes[0].state
    assert b"event: models" not in changes[0].state
    with serving(folder) as _:
        wait_for(lambda: not reader.picture().fleet.stale)


def test_a_redis_that_was_never_there_is_an_error(new_reader: Callable[..., Reader], tmp_path: Path) -> None:
    reader = new_reader(redis_url=f"unix://{tmp_path}/nobody")
    for _ in range(2):
        with pytest.raises(RedisUnreachable):
            reader.picture()
    with pytest.raises(RedisUnreachable):
        reader.start(limit=1, after=None)
    reader.catch_up()


def test_what_makes_no_sense_in_redis_does_not_end_the_thread(
    new_reader: Callable[..., Reader], fleet: Fleet, file: File, redis_url: str, wait_for: WaitFor
) -> None:
    """Somebody wrote a text over a hash of the fleet; an admin that has died then does not show that it was mended."""
    fleet.publish("digits", file("1"))
    reader = new_reader()
    assert list(reader.picture().models) == ["digits"]
    with redis.Redis.from_url(redis_url) as client:
        client.set("genlock:{t}:workers", "nonsense")
        client.hset("genlock:{t}:models", "bad", b"\xff{")
        client.hset(
            "genlock:{t}:waiting", mapping={b"\xff": b"\xff", b"a\0b\0c": b"ready", b"digits\0" + b"1\0x": b"odd {"}
        )
    reader.catch_up()
    assert list(reader.picture().models) == ["digits"]
    fleet.pin("digits")
    wait_for(lambda: reader.picture().models["digits"].pin)


def test_a_fault_of_ours_is_shown_as_old_and_passes(
    new_reader: Callable[..., Reader], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reader = new_reader()
    reader.picture()
    with monkeypatch.context() as broken:
        broken.setattr("genlock.coordinator.admin.reader.picture_of", None)
        reader.catch_up()
        assert reader.picture().fleet.stale
        assert "TypeError" in caplog.text
    reader.catch_up()
    assert not reader.picture().fleet.stale


def test_a_store_that_is_not_there_yet_does_not_end_it(
    new_reader: Callable[..., Reader], fleet: Fleet, tmp_path: Path
) -> None:
    """A network mount comes later than the admin: when it is there the fleet is shown, without a restart."""
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the store will be")
    reader = new_reader(store=blocked)
    with pytest.raises(GenlockError):
        reader.picture()
    blocked.unlink()
    blocked.symlink_to(fleet.store.root)
    end = time.monotonic() + 20
    while True:
        try:
            assert reader.picture().fleet.name == fleet.name
            return
        except GenlockError:
            assert time.monotonic() < end


def test_it_ends_however_it_is_asked(new_reader: Callable[..., Reader], wait_for: WaitFor) -> None:
    reader = new_reader()
    reader.picture()
    before = threading.active_count()
    reader.end()
    assert reader.changes(0, 20.0) is None
    wait_for(lambda: threading.active_count() == before - 1)
    assert reader.picture()
