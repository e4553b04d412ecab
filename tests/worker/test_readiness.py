"""worker/readiness.py: what is wrong now, and why a model cannot be answered from."""

from __future__ import annotations

from genlock.coordinator.errors import DoesNotFit
from genlock.coordinator.reply import FAILED, Active, State
from genlock.worker.readiness import REDIS, Faults, why_not
from genlock.worker.slot import Slot
from genlock.worker.view import Lease, View


def slot_of(active: int | None = 1) -> Slot:
    """Of "m"; the fleet shows that generation active, and it is not loaded."""
    slot = Slot("m", None)
    slot.apply(State(1, "idle", Active(active, f"v{active}", 1) if active else None), 1, is_open=True)
    return slot


def view_of(*, until: float = 0.0, stale: bool = False) -> View:
    lease = Lease()
    lease.extend(until)
    return View(model="m", payload=None, generation=1, version="v1", lease=lease, stale=stale)


def why(
    view: View | None, slot: Slot | None, faults: Faults | None = None, *, gone: bool = False, stale: bool = True
) -> str | None:
    return why_not("m", view, slot, faults or Faults(), gone=gone, stale_wanted=stale, now=10.0)


def test_the_last_fault_is_told_and_each_until_it_is_mended() -> None:
    faults = Faults()
    assert (faults.last, faults.of("m"), faults.mended("m")) == ("", "", False)
    faults.met("m", "a typo")
    faults.met(REDIS, "it is away")
    assert (faults.last, faults.of("m"), faults.of("n")) == ("it is away", "a typo", "it is away")
    faults.met("m", "another typo")
    assert faults.last == "another typo"
    assert faults.mended("m") and faults.mended(REDIS)
    assert faults.last == faults.of("m") == ""


def test_what_could_not_be_loaded_is_said_first() -> None:
    slot = slot_of()
    slot.no_manifest(1, {"step": "check", "why": "NaN"}, 1.0, FAILED)
    assert why(view_of(until=20.0), slot) == "generation 1 could not be loaded at check: NaN"


def test_why_there_is_nothing() -> None:
    faults = Faults()
    faults.met("m", "a typo")
    assert why(None, None) == "nothing is loaded yet; last error: none"
    assert why(None, slot_of(), faults) == "nothing is loaded yet; last error: a typo"
    assert "genlock publish m" in str(why(None, slot_of(None)))
    assert why(None, slot_of(None), gone=True) == "nothing is loaded yet; last error: none", "that may have changed"
    faults.misfits["m"] = DoesNotFit("m", "9 bytes are too many")
    assert "9 bytes are too many" in str(why(None, slot_of(), faults))


def test_without_redis_it_depends_on_what_is_wanted() -> None:
    slot, faults = slot_of(), Faults()
    faults.met(REDIS, "it is away")
    assert why(view_of(until=20.0), slot, gone=True, stale=False) is None, "the lease runs"
    assert why(view_of(until=10.0), slot, gone=True) is None
    assert why(view_of(until=10.0, stale=True), slot, gone=True, stale=False) is None
    told = why(view_of(until=10.0), slot, faults, gone=True, stale=False)
    assert told == "Redis is gone, and stale answers are not wanted: it is away"


def test_another_generation_is_active() -> None:
    slot = slot_of(2)
    assert why(view_of(until=20.0), slot) == "generation 2 is active and not loaded yet"
    slot.shown = (2, "v2")
    assert why(view_of(), slot) is None
