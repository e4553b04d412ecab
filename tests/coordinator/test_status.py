"""What people read, from what stands in Redis: also where that is damaged, or from another genlock."""

import json
from typing import Any

from genlock.coordinator.canary import Both, Figures, Policy
from genlock.coordinator.manifest import Artifact, Manifest
from genlock.coordinator.records import Member, Record, Snapshot, read_record
from genlock.coordinator.status import (
    KEPT_GENERATIONS,
    history_of,
    numbers_of,
    read_manifest,
    status_of_model,
    status_of_worker,
    tried_of,
    way_back_of,
)

MANIFEST = Manifest.of("m", [Artifact("a", 3, "0" * 64)], created_at=5.0, author="me", message="hello")


def record(**fields: Any) -> Record:
    found = read_record(json.dumps({"next": "9", "rev": "4"} | fields).encode())
    assert found is not None
    return found


def snapshot(of: Record, *members: Member) -> Snapshot:
    return Snapshot(7, True, 3.0, 4, members, {"m": of}, {})


def test_a_model_without_a_generation_has_nothing_to_show() -> None:
    found = status_of_model("m", snapshot(record()), None)
    assert (found.generation, found.version, found.committed_at, found.phase) == (None, None, None, "idle")
    assert (found.pin, found.waits, found.candidate, found.message) == (None, None, None, "")


def test_holders_and_poison_are_counted() -> None:
    members = (Member("1", 3, ("m", "x"), {}), Member("2", 4, ("x",), {}))
    found = status_of_model("m", snapshot(record(poison={"v:": {"why": "NaN"}}), *members), MANIFEST)
    assert (found.holders, found.poisoned, found.author, found.message) == (1, 1, "me", "hello")


def test_what_cannot_be_read_is_left_out() -> None:
    """History is for people: one unreadable row must not hide all others."""
    assert read_manifest(None) is None and read_manifest(b"{nonsense") is None
    [newer, older] = history_of(record(), {1: (MANIFEST.encode(), b"{nonsense"), 2: (None, b'{"outcome":"committed"}')})
    assert (newer.generation, newer.outcome, newer.version, newer.created_at) == (2, "committed", "", None)
    assert (older.outcome, older.version, older.author, older.created_at) == ("?", MANIFEST.version, "me", 5.0)


def test_a_worker_may_say_anything_of_itself() -> None:
    about = {"pid": "x", "started_at": "now", "generations": {"m": "two", "n": 2}, "more": 1}
    found = status_of_worker(Member("5", 3, ("n", "m"), about))
    assert (found.worker, found.pid, found.started_at, found.models) == ("5", None, None, ["m", "n"])
    assert (found.generations, found.about["more"]) == ({"n": 2}, 1)
    assert status_of_worker(Member("5", 3, (), {"generations": [1]})).generations == {}


def test_the_ways_back_are_looked_for_however_old_they_are() -> None:
    old = record(next="1000", committed={"3": {}, "x": {}}, active={"gen": "4", "version": "v", "epoch": "1"})
    numbers = numbers_of(old)
    assert numbers[:3] == [3, 4, 999 - KEPT_GENERATIONS] and numbers[-1] == 999
    assert numbers_of(record(next="1")) == []


def test_digits_that_are_none_are_left_out() -> None:
    """`"²".isdigit()`, 5,000 digits, and more than a float holds: each ended whoever looked, and with it the page of all models."""
    for digits in ("²", "9" * 5000, "9" * 400):
        of = record(pin={"by": "me", "at": digits}, committed={digits: {"version": "v"}, "3": {"version": "w"}})
        found = status_of_model("m", snapshot(of), None)
        assert found.pin is not None and found.pin.at is None
        assert numbers_of(of) == list(range(1, 9))
        row = json.dumps({"rollback": digits, "started": digits, "ended": digits}).encode()
        assert (history_of(of, {3: (None, row)})[0].rollback_of, history_of(of, {3: (None, row)})[0].seconds) == (
            None,
            {},
        )


def test_a_worker_that_began_at_no_time_that_there_is() -> None:
    assert status_of_worker(Member("1", 1, (), {"started_at": 10**400})).started_at is None


# --- canaries --------------------------------------------------------------------------------------------------------

ACTIVE = {"gen": "6", "version": "v6", "epoch": "1", "at": "5000"}
POLICY = Policy(errors=0.02)
BOTH = Both(Figures(40, 1), Figures(10, 2))


def trying(**more: Any) -> dict[str, Any]:
    """The candidate of a canary at its second step."""
    plan = {"steps": [500, 2500], "length": "60000", "policy": POLICY.encode()}
    facts = {"gen": "7", "version": "v7", "request": "q", "phase": "canary", "deadline": "9000", "ready": 2}
    return facts | {"canary": plan, "share": 2500, "step": "2", "step_at": "8000"} | more


def watching(**more: Any) -> dict[str, Any]:
    base = '{"active":{"requests":400,"errors":4},"candidate":{"requests":80}}'
    return {"gen": "6", "deadline": "9000", "length": "600000", "policy": POLICY.encode(), "base": base} | more


def test_a_canary_shows_where_it_is() -> None:
    of = record(active=ACTIVE, cand=trying())
    found = status_of_model("m", snapshot(of), None, BOTH)
    candidate = found.candidate
    assert candidate is not None and found.watch is None
    assert (found.phase, candidate.share, candidate.steps, candidate.policy) == ("canary", 0.25, [0.05, 0.25], POLICY)
    assert candidate.figures == BOTH.shown() and candidate.deadline == 9.0
    assert tried_of(of) == (7, 2)
    nothing = status_of_model("m", snapshot(of), None).candidate
    assert nothing is not None and nothing.figures == Both().shown()


def test_before_and_after_its_steps_a_candidate_has_no_share() -> None:
    for phase in ("preparing", "fencing"):
        of = record(active=ACTIVE, cand=trying(phase=phase))
        candidate = status_of_model("m", snapshot(of), None, BOTH).candidate
        assert candidate is not None
        assert (candidate.share, candidate.figures, candidate.steps) == (None, None, [0.05, 0.25])
        assert tried_of(of) is None


def test_a_watch_shows_both_generations() -> None:
    """What the one before had counted in the last step of the canary, and what this one does since its commit."""
    of = record(active=ACTIVE, watch=watching())
    watch = status_of_model("m", snapshot(of), None, BOTH).watch
    assert watch is not None and (watch.generation, watch.until, watch.policy) == (6, 9.0, POLICY)
    assert watch.figures is not None
    assert (watch.figures["active"]["requests"], watch.figures["candidate"]["requests"]) == (400, 10)
    assert tried_of(of) == (6, 0)


def test_what_is_counted_during_a_canary_is_not_the_watchs() -> None:
    of = record(active=ACTIVE, cand=trying(), watch=watching())
    found = status_of_model("m", snapshot(of), None, BOTH)
    assert found.watch is not None and found.watch.figures is None
    assert found.candidate is not None and found.candidate.figures == BOTH.shown()


def test_a_canary_and_a_watch_that_somebody_wrote_over() -> None:
    """The policy is none that can be read: people decide. A base that is none counts as nothing; a watch of another one is none."""
    of = record(active=ACTIVE, cand=trying(canary={"steps": [500], "policy": "x"}))
    candidate = status_of_model("m", snapshot(of), None).candidate
    assert candidate is not None and candidate.policy is None
    for base in (None, "x", '{"active":5}'):
        watch = status_of_model("m", snapshot(record(active=ACTIVE, watch=watching(base=base))), None).watch
        assert watch is not None and watch.figures == Both().shown()
    other = record(active=ACTIVE, watch=watching(gen="5"))
    assert status_of_model("m", snapshot(other), None).watch is None
    assert status_of_model("m", snapshot(record(watch=watching())), None).watch is None


def test_the_way_back_is_where_a_rollback_goes() -> None:
    """R11: the newest below, of another version, that nobody has left and that is not poisoned."""
    committed = {
        "1": {"version": "v1"},
        "2": {"version": "v2"},
        "3": {"version": "v3", "left": 1},
        "4": {"version": "v4", "poison": "p4"},
        "5": {"version": "v6"},
        "6": {"version": "v6"},
        "9": {"version": "v9"},
    }
    of = record(active=ACTIVE, committed=committed, poison={"p4": {"why": "NaN"}})
    assert way_back_of(of) == 2 == status_of_model("m", snapshot(of), None).way_back
    assert way_back_of(record(committed=committed)) is None
    assert way_back_of(record(active=ACTIVE, committed=[])) is None
    assert way_back_of(record(active=ACTIVE, committed={"6": {"version": "v6"}})) is None
