"""worker/unwritten.py: what became active is tried until it is written. With files and a lock it is tested with trust."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from genlock.coordinator.errors import SerialsUnreadable
from genlock.coordinator.serials import Claim
from genlock.worker import unwritten
from genlock.worker.unwritten import RETRY_FROM_S, RETRY_TO_S, Unwritten


def claim(serial: int) -> Claim:
    return Claim(serial, f"v{serial}")


@dataclass
class Disk:
    """What is written, and for which models it fails; with a clock that stands still."""

    now: float = 100.0
    fails: dict[str, Exception] = field(default_factory=dict)
    tried: list[str] = field(default_factory=list)
    written: list[tuple[str, int]] = field(default_factory=list)

    def write(self, model: str, claim: Claim) -> None:
        self.tried.append(model)
        if model in self.fails:
            raise self.fails[model]
        self.written.append((model, claim.serial))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(unwritten, "clock", lambda: made.now)
    return made


BUSY = SerialsUnreadable("lock", "another process of this host has held it", "End it")


def test_what_can_be_written_is_written_once_and_is_never_due(disk: Disk) -> None:
    owed = Unwritten(disk.write)
    owed.add("a", claim(1))
    assert owed and not owed.take_due(1e9), "it is being written"
    owed.write()
    owed.write()
    assert disk.written == [("a", 1)] and not owed and not owed.take_due(1e9)


def test_what_failed_is_tried_again_after_a_pause_that_grows(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    """It was tried once and forgotten. Each try takes seconds of the thread that loads."""
    owed, pauses = Unwritten(disk.write), list[float]()
    disk.fails["a"] = BUSY
    owed.add("a", claim(1))
    for _ in range(9):
        owed.write()
        began = disk.now
        while not owed.take_due(disk.now):
            disk.now += RETRY_FROM_S / 2
        pauses.append(disk.now - began)
        assert not owed.take_due(1e9), "who was told of it has begun"
    assert pauses[:3] == [RETRY_FROM_S, 2 * RETRY_FROM_S, 4 * RETRY_FROM_S] and pauses[-1] == RETRY_TO_S
    assert "model a: what became active is not written down" in caplog.text and "Traceback" not in caplog.text
    disk.fails.clear()
    owed.write()
    assert disk.written == [("a", 1)] and not owed
    disk.fails["a"] = ZeroDivisionError("a fault of ours")
    owed.add("a", claim(2))
    owed.write()
    assert owed.take_due(disk.now + RETRY_FROM_S), "the pause begins anew"
    assert "ZeroDivisionError: a fault of ours" in caplog.text


def test_the_highest_and_the_newest_are_kept(disk: Disk) -> None:
    """Gone back to a lower serial, the host has still seen the higher one: what was active between the two says nothing more."""
    owed = Unwritten(disk.write)
    for serial in (5, 7, 6, 5, 4):
        owed.add("a", claim(serial))
    owed.write()
    assert disk.written == [("a", 7), ("a", 4)]
    for serial in (6, 7, 8):
        owed.add("a", claim(serial))
    owed.write()
    assert disk.written[2:] == [("a", 8)]


def test_a_model_whose_file_is_damaged_keeps_no_other(disk: Disk) -> None:
    """Nor is each of the others tried, for seconds, in a round in which the lock is held."""
    owed = Unwritten(disk.write)
    disk.fails["a"] = BUSY
    for model in "ab":
        owed.add(model, claim(1))
    owed.write()
    assert disk.tried == ["b", "a"]
    owed.add("c", claim(1))
    owed.write()
    assert disk.written == [("b", 1), ("c", 1)]
    disk.fails |= {"d": BUSY}
    owed.add("d", claim(1))
    disk.tried.clear()
    for _ in range(3):
        owed.write()
    assert disk.tried == ["d", "a", "d"]


def test_what_becomes_active_while_it_is_written_is_written_too(disk: Disk) -> None:
    owed = Unwritten(lambda model, one: (disk.write(model, one), one.serial == 1 and owed.add("a", claim(2))))
    owed.add("a", claim(1))
    owed.write()
    assert disk.written == [("a", 1), ("a", 2)] and not owed
