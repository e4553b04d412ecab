"""worker/jobs.py: what begins and what is given up. What a slot wants is tested with the slot."""

from __future__ import annotations

from genlock.coordinator.reply import Active, Candidate, State
from genlock.worker.jobs import Jobs
from genlock.worker.orders import Cancel, Load
from genlock.worker.slot import Job, Slot


def slot_of(model: str, state: State | None = None) -> Slot:
    slot = Slot(model, None)
    slot.confirmed = True
    if state is not None:
        slot.apply(state, 1, is_open=True)
    return slot


def idle(gen: int) -> State:
    return State(gen, "idle", Active(gen, f"v{gen}", 1))


def test_a_load_begins_when_its_manifest_is_there() -> None:
    jobs, slot = Jobs(), slot_of("m", idle(1))
    assert jobs.planned([slot], 1.0, gone=False) == []
    slot.found_manifest(1, "v1", "text", 1.0)
    assert jobs.planned([slot], 1.0, gone=False) == [Load(Job(1, "m", (1, "v1"), "active", "text"))]
    assert jobs.planned([slot], 1.0, gone=False) == [], "one at a time"


def test_what_is_not_wanted_any_more_makes_room_for_what_is() -> None:
    jobs, slot = Jobs(), slot_of("m")
    slot.apply(State(1, "preparing", None, Candidate(1, "v1", "q1"), "awaited"), 1, is_open=True)
    slot.found_manifest(1, "v1", "text", 1.0)
    (load,) = jobs.planned([slot], 1.0, gone=False)
    slot.apply(State(2, "preparing", None, Candidate(2, "v2", "q2"), "awaited"), 1, is_open=True)
    slot.found_manifest(2, "v2", "other", 1.0)
    assert jobs.planned([slot], 1.0, gone=False) == [
        Cancel(load.job),
        Load(Job(2, "m", (2, "v2"), "candidate", "other")),
    ]


def test_without_redis_the_last_good_one_is_looked_for_once() -> None:
    """Of each model, and it goes on when Redis is back: it may be all that there is for a while."""
    jobs, slots = Jobs(), [slot_of("a"), slot_of("b")]
    orders = jobs.planned(slots, 1.0, gone=True)
    assert orders == [Load(Job(1, "a", (0, ""), "fallback", "")), Load(Job(2, "b", (0, ""), "fallback", ""))]
    assert jobs.planned(slots, 1.0, gone=False) == []
    slots[0].failed(orders[0].job, "failed", {}, 1.0)
    assert jobs.planned(slots, 1.0, gone=True) == []
