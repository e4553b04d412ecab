"""worker/answers.py: what is owed is said, and again only after a while. What a slot owes is tested with the slot."""

from __future__ import annotations

from genlock.coordinator.calls import ManifestOf, Say
from genlock.coordinator.reply import FENCED, READY, Active, Candidate, State
from genlock.worker.answers import Answers
from genlock.worker.slot import Found, Job, Slot

LEASE_S = 3.0


def slot_of(model: str, phase: str) -> Slot:
    """Generation 2 is the candidate, and loaded."""
    slot = Slot(model, None)
    slot.confirmed = True
    slot.apply(State(1, phase, Active(1, "v1", 1), Candidate(2, "v2", "q2"), "awaited"), 1, is_open=True)
    slot.loaded(Job(1, model, (1, "v1"), "active", "text"), (1, "v1"), {})
    slot.loaded(Job(2, model, (2, "v2"), "candidate", "text"), (2, "v2"), {})
    return slot


def test_what_is_asked_to_fence_goes_before_the_others() -> None:
    answers, slots = Answers(), [slot_of("a", "preparing"), slot_of("b", "fencing")]
    said = answers.fence(slots, "1", 10.0, LEASE_S)
    assert said == Say("1", "b", 2, FENCED, {})
    assert answers.fence(slots[:1], "1", 10.0, LEASE_S) is None
    said = answers.due(slots, "1", 10.0, LEASE_S)
    assert isinstance(said, Say) and (said.model, said.said) == ("a", READY)


def test_the_same_is_said_again_only_after_a_while() -> None:
    """The reply has not shown it: it was lost, or is late."""
    answers, slots = Answers(), [slot_of("a", "preparing")]
    assert answers.wake_at(10.0, LEASE_S) == []
    said = answers.due(slots, "1", 10.0, LEASE_S)
    assert answers.due(slots, "1", 10.0 + LEASE_S / 20, LEASE_S) is None
    (at,) = answers.wake_at(10.0, LEASE_S)
    assert answers.due(slots, "1", at, LEASE_S) == said
    assert answers.wake_at(at + LEASE_S, LEASE_S) == []


def test_a_manifest_that_is_not_there_is_asked_for() -> None:
    slot = Slot("m", None)
    slot.confirmed = True
    slot.apply(State(1, "idle", Active(1, "v1", 1)), 1, is_open=True)
    answers = Answers()
    assert answers.due([slot], "1", 10.0, LEASE_S) == ManifestOf("m", 1)
    slot.found_manifest(1, "v1", "text", 10.0)
    assert answers.due([slot], "1", 10.0, LEASE_S) is None


def test_a_manifest_that_is_being_examined_is_not_asked_for_again() -> None:
    """An answer about another number than is wanted now keeps nobody from asking for that one."""
    slot = Slot("m", None)
    slot.confirmed = True
    slot.apply(State(1, "idle", Active(2, "v2", 1)), 1, is_open=True)
    answers = Answers()
    slot.examining = Found("m", 2, "v2", "text", 0)
    assert answers.due([slot], "1", 10.0, LEASE_S) is None
    slot.examining = Found("m", 1, "v1", "text", 0)
    assert answers.due([slot], "1", 10.0, LEASE_S) == ManifestOf("m", 2)
    slot.examining = None
    assert answers.due([slot], "1", 10.0, LEASE_S) == ManifestOf("m", 2)
