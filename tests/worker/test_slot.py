"""One model in one worker: what it was told, what it loads, what it owes, what may be answered from."""

from typing import Any

import pytest
from genlock.coordinator.calls import Say
from genlock.coordinator.reply import BAD, FAILED, FENCED, READY, REFUSED, Active, Candidate, State, Watched
from genlock.coordinator.reply import Tried as Plan
from genlock.worker.slot import RETRY_FROM_S, RETRY_TO_S, Job, Slot, Told

NOW = 100.0
SECONDS = {"seconds": 1.5}


def active(gen: int, version: str = "", **more: Any) -> Active:
    version = version or f"v{gen}"
    return Active(gen, version, more.pop("epoch", 1), poison=f"{version}:", **more)


def candidate(gen: int, version: str = "", **more: Any) -> Candidate:
    return Candidate(gen, version or f"v{gen}", f"q{gen}", **more)


def idle(rev: int, gen: int, version: str = "", **more: Any) -> State:
    return State(rev, "idle", active(gen, version), **more)


def preparing(rev: int, gen: int, to: int, mine: str | None = "awaited", **more: Any) -> State:
    return State(rev, "preparing", active(gen), candidate(to, **more), mine)


def fencing(rev: int, gen: int, to: int, mine: str | None = "ready") -> State:
    return State(rev, "fencing", active(gen), candidate(to), mine)


def load(slot: Slot, id: int, gen: int, version: str = "", purpose: str = "active") -> None:
    """A job that ends well."""
    key = (gen, version or f"v{gen}")
    slot.job = Job(id, slot.model, key, purpose, f"manifest of {key}")
    slot.loaded(slot.job, key, SECONDS)


@pytest.fixture
def slot() -> Slot:
    """Held, told that generation 1 is active, not loaded yet."""
    found = Slot("m", None)
    found.confirmed = True
    assert found.apply(idle(1, 1), epoch=1, is_open=True)
    return found


@pytest.fixture
def serving(slot: Slot) -> Slot:
    """The same, loaded: views show it."""
    load(slot, 1, 1)
    assert slot.is_free
    return slot


# --- what is told ----------------------------------------------------------------------------------------------------


def test_what_is_told_active_is_loaded_and_shown(slot: Slot) -> None:
    assert slot.wanted(NOW) == ((1, "v1"), "active") and not slot.is_free
    load(slot, 7, 1)
    assert slot.is_free and slot.shown == (1, "v1") and slot.handles == {(1, "v1"): 7}
    assert slot.wanted(NOW) is None


def test_nothing_is_loaded_before_the_list_was_acknowledged(slot: Slot) -> None:
    """R10: hold is sent before the load, and only what its reply names is installed."""
    slot.confirmed = False
    assert slot.wanted(NOW) is None and slot.target is None and slot.owes("1") is None
    load(slot, 7, 1)
    assert not slot.is_free


def test_an_older_state_changes_nothing(serving: Slot) -> None:
    """R3: replies may come out of order; an older one would bring an older generation back, or lift a fence."""
    serving.apply(fencing(5, 1, 2), epoch=1, is_open=True)
    assert not serving.apply(idle(4, 1), epoch=1, is_open=True)
    assert not serving.is_free and serving.applied == 5


def test_a_lower_generation_is_never_taken(serving: Slot) -> None:
    """R7: the fleet has lost what this worker was told; it must neither follow nor go on as if nothing had happened."""
    serving.apply(idle(2, 2), epoch=1, is_open=True)
    load(serving, 2, 2)
    serving.new_epoch()
    serving.confirmed = True
    assert not serving.apply(idle(1, 1), epoch=2, is_open=True)
    assert serving.behind and serving.told and serving.told.key == (2, "v2")
    assert (
        not serving.is_free and serving.shown == (2, "v2") and serving.wanted(NOW) is None and serving.owes("1") is None
    )


def test_another_content_under_the_same_number_is_never_taken(serving: Slot) -> None:
    """R7: identity is generation and version; after a loss the same number may have been given again."""
    assert not serving.apply(idle(2, 1, "other"), epoch=2, is_open=True)
    assert serving.behind and not serving.is_free


def test_a_fleet_that_shows_nothing_is_behind_what_was_told(serving: Slot) -> None:
    serving.new_epoch()
    serving.apply(State(0, "idle"), epoch=2, is_open=True)
    assert serving.behind
    assert not serving.apply(idle(1, 1), epoch=2, is_open=True), "healed: the same as before is no flip"
    assert not serving.behind


def test_nothing_active_is_not_behind_for_who_was_told_nothing() -> None:
    slot = Slot("m", None)
    slot.apply(State(0, "idle"), epoch=1, is_open=True)
    assert not slot.behind and not slot.is_free and slot.wanted(NOW) is None


def test_what_was_read_while_closed_gives_no_right_to_answer(slot: Slot) -> None:
    """R6, R7, seed 51 of the simulation: a heal changes what is active in a closed fleet and fences nobody. A worker that had read
    before it, and heard of the opening by a heartbeat, would answer from what the heal replaced."""
    load(slot, 1, 1)
    slot.new_epoch()
    slot.confirmed = True
    slot.apply(idle(1, 1), epoch=2, is_open=False)
    assert not slot.is_free
    slot.apply(idle(1, 1), epoch=2, is_open=True)
    assert slot.is_free
    slot.apply(idle(1, 1), epoch=2, is_open=False)
    assert slot.is_free, "an epoch that was heard open is not heard closed again (R3)"


def test_what_was_told_remembers_epochs_pin_and_poison(slot: Slot) -> None:
    """R7: a heal compares the epoch of the commit with the one in which the record was last heard."""
    slot.apply(idle(4, 1, pin={"by": "me"}, poison={"x:": {}}), epoch=3, is_open=True)
    assert slot.told == Told((1, "v1"), 1, 3, None, "v1:", {"by": "me"}, {"x:": {}})


# --- manifests -------------------------------------------------------------------------------------------------------


def test_a_manifest_of_another_content_under_the_same_number_is_refused(slot: Slot) -> None:
    """R7: kept under the number alone, it would be given back in a heal as that of what was lost, and loaded for ever in vain."""
    slot.found_manifest(1, "other", "manifest of other", NOW)
    assert slot.manifests == {} and slot.told and slot.told.manifest is None
    assert slot.wanted(NOW) is None and slot.wanted(NOW + RETRY_FROM_S) == ((1, "v1"), "active")
    slot.found_manifest(1, "v1", "manifest of v1", NOW)
    assert slot.manifests == {(1, "v1"): "manifest of v1"} and slot.told.manifest == "manifest of v1"
    slot.found_manifest(2, "v2", "manifest of nobody's", NOW)
    assert slot.manifests == {(1, "v1"): "manifest of v1"}


def test_who_never_heard_the_manifest_does_not_hold_up_an_empty_fleet(slot: Slot) -> None:
    """Seed 307 of the simulation: told of a generation that was lost with its manifest, a worker never said "fenced" again, and
    nothing could be committed."""
    slot.new_epoch()
    slot.confirmed = True
    slot.apply(State(3, "fencing", None, candidate(1, "other"), "awaited"), epoch=2, is_open=True)
    assert slot.behind and slot.is_forgotten and not slot.is_free
    assert slot.owes("1") == Say("1", "m", 1, FENCED)
    slot.apply(idle(4, 1, "other"), epoch=2, is_open=True)
    assert slot.behind and not slot.is_forgotten and slot.owes("1") is None, "now the fleet must raise its number"


# --- loads -----------------------------------------------------------------------------------------------------------


def test_a_candidate_is_loaded_beside_what_is_active(serving: Slot) -> None:
    serving.apply(preparing(2, 1, 2), epoch=1, is_open=True)
    assert serving.wanted(NOW) == ((2, "v2"), "candidate") and serving.is_free
    load(serving, 2, 2, purpose="candidate")
    assert serving.is_free and serving.shown == (1, "v1") and set(serving.handles.values()) == {1, 2}
    serving.apply(idle(3, 2), epoch=1, is_open=True)
    assert serving.is_free and serving.shown == (2, "v2") and serving.warm == (1, "v1")


def test_what_has_no_entry_is_no_target(serving: Slot) -> None:
    """R4: who starts to hold while the fleet is fencing gets no entry, and nothing to load."""
    serving.apply(fencing(2, 1, 2, mine=None), epoch=1, is_open=True)
    assert serving.target is None and serving.wanted(NOW) is None and serving.owes("1") is None


def test_the_active_one_goes_before_the_candidate(slot: Slot) -> None:
    slot.apply(preparing(2, 1, 2), epoch=1, is_open=True)
    assert slot.wanted(NOW) == ((1, "v1"), "active")


def test_the_way_back_stays_until_a_candidate_begins_to_load(serving: Slot) -> None:
    serving.apply(preparing(2, 1, 2), epoch=1, is_open=True)
    load(serving, 2, 2, purpose="candidate")
    serving.apply(idle(3, 2), epoch=1, is_open=True)
    assert set(serving.handles) == {(1, "v1"), (2, "v2")}
    serving.apply(preparing(4, 2, 3), epoch=1, is_open=True)
    serving.begin_target()
    assert set(serving.handles) == {(2, "v2")} and serving.warm is None


def test_a_rollback_to_the_way_back_is_ready_at_once(serving: Slot) -> None:
    serving.apply(preparing(2, 1, 2), epoch=1, is_open=True)
    load(serving, 2, 2, purpose="candidate")
    serving.apply(idle(3, 2), epoch=1, is_open=True)
    serving.apply(State(4, "preparing", active(2), candidate(3, "v1", rollback="1"), "awaited"), epoch=1, is_open=True)
    serving.begin_target()
    assert serving.wanted(NOW) is None and serving.handles[3, "v1"] == serving.handles[1, "v1"] == 1
    assert serving.owes("1") == Say("1", "m", 3, READY, {"warm": True}) and serving.detail_of((3, "v1")) == {
        "warm": True
    }
    serving.begin_target()
    serving.apply(idle(5, 3, "v1"), epoch=1, is_open=True)
    assert serving.is_free and serving.handles[serving.shown] == 1 and serving.told and serving.told.manifest


def test_the_same_bytes_published_anew_are_loaded_and_proven_anew(serving: Slot) -> None:
    """Its golden outputs or its loader's inputs may be others; only a rollback is known to be the same in all."""
    serving.apply(State(2, "preparing", active(1), candidate(2, "v1"), "awaited"), epoch=1, is_open=True)
    serving.begin_target()
    assert serving.wanted(NOW) == ((2, "v1"), "candidate")


def test_a_rollback_that_commits_before_it_was_seen_is_shown_at_once(serving: Slot) -> None:
    """The hint came late: the first that is heard of the rollback is that it is active, while the candidate is still in the state."""
    serving.apply(State(2, "preparing", active(2, "v1"), candidate(2, "v1", rollback="1"), None), epoch=1, is_open=True)
    assert serving.is_free and serving.shown == (2, "v1")


def test_a_failed_load_is_tried_again_ever_later(slot: Slot) -> None:
    """R13: a hiccup is not remembered for good."""
    waits = []
    now = NOW
    for id in range(8):
        slot.job = Job(id, "m", (1, "v1"), "active", "")
        slot.failed(slot.job, FAILED, {"step": "verify", "why": "short"}, now)
        assert slot.wanted(now) is None and slot.has_failed
        again = slot.retry_at(now)
        assert again is not None and slot.wanted(again) == ((1, "v1"), "active")
        waits.append(round(again - now, 6))
        now = again
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, RETRY_TO_S, RETRY_TO_S, RETRY_TO_S]
    load(slot, 9, 1)
    assert slot.is_free and slot.retry_at(now) is None and not slot.has_failed


def test_a_retry_that_is_past_is_not_waited_for(serving: Slot) -> None:
    """Seed 13 of the simulation: after a failed refresh nothing was wanted any more, and the thread span on a moment in the past."""
    serving.refreshes = ("t",)
    assert serving.wanted(NOW) == ((1, "v1"), "refresh")
    serving.job = Job(2, "m", (1, "v1"), "refresh", "")
    serving.failed(serving.job, FAILED, {}, NOW)
    serving.refreshes = ()
    assert serving.retry_at(NOW) == NOW + RETRY_FROM_S and serving.retry_at(NOW + RETRY_FROM_S) is None
    assert serving.is_free and serving.owes("1") is None, "a refresh that failed says nothing of what is shown"


def test_bad_is_never_tried_again(slot: Slot) -> None:
    """R13: bytes that were verified and are bad do not get better."""
    slot.job = Job(1, "m", (1, "v1"), "active", "")
    slot.failed(slot.job, BAD, {"step": "check"}, NOW)
    assert slot.wanted(NOW + 1000) is None and slot.retry_at(NOW) is None and slot.has_failed


def test_a_refresh_loads_the_active_one_beside_itself(serving: Slot) -> None:
    serving.refreshes = ("t",)
    assert serving.wanted(NOW) == ((1, "v1"), "refresh")
    load(serving, 2, 1, purpose="refresh")
    assert serving.is_free and serving.handles == {(1, "v1"): 2}


def test_the_last_good_one_is_shown_but_never_with_a_right_to_answer() -> None:
    slot = Slot("m", None)
    slot.job = Job(1, "m", (0, ""), "fallback", "")
    slot.failed(slot.job, FAILED, {}, NOW)
    assert slot.job is None and slot.retry_at(NOW) is None
    slot.job = Job(2, "m", (0, ""), "fallback", "")
    slot.loaded(slot.job, (4, "v4"), {})
    assert slot.shown == (4, "v4") and not slot.is_free and slot.told is None
    slot.confirmed = True
    slot.apply(idle(1, 4), epoch=1, is_open=True)
    assert slot.is_free, "what turns out to be active needs no second load"


def test_what_is_not_needed_any_more_is_let_go(serving: Slot) -> None:
    serving.apply(preparing(2, 1, 2), epoch=1, is_open=True)
    load(serving, 2, 2, purpose="candidate")
    serving.apply(idle(3, 1), epoch=1, is_open=True)
    assert (
        set(serving.handles) == {(1, "v1")} and (2, "v2") not in serving.verdicts and (2, "v2") not in serving.manifests
    )


# --- what it says ----------------------------------------------------------------------------------------------------


def test_what_is_awaited_is_said_until_the_state_shows_it(serving: Slot) -> None:
    """R10: the reply, or the call, may be lost; what counts is what Redis shows."""
    serving.apply(preparing(2, 1, 2), epoch=1, is_open=True)
    assert serving.owes("1") is None
    load(serving, 2, 2, purpose="candidate")
    say = Say("1", "m", 2, READY, SECONDS)
    assert serving.owes("1") == say and serving.owes("1") == say
    serving.apply(preparing(2, 1, 2, mine=READY), epoch=1, is_open=True)
    assert serving.owes("1") is None


@pytest.mark.parametrize(("mine", "said"), [("awaited", FAILED), ("late", None)])
def test_a_failed_load_is_said_by_who_is_waited_for(serving: Slot, mine: str, said: str | None) -> None:
    serving.apply(preparing(2, 1, 2, mine=mine), epoch=1, is_open=True)
    serving.job = Job(2, "m", (2, "v2"), "candidate", "")
    serving.failed(serving.job, FAILED, {"why": "no memory"}, NOW)
    owed = serving.owes("1")
    assert (owed.said if owed else None) == said


def test_bad_is_said_whoever_waits(serving: Slot) -> None:
    serving.apply(preparing(2, 1, 2, mine="late"), epoch=1, is_open=True)
    serving.job = Job(2, "m", (2, "v2"), "candidate", "")
    serving.failed(serving.job, BAD, {"why": "NaN"}, NOW)
    assert serving.owes("1") == Say("1", "m", 2, BAD, {"why": "NaN"})


@pytest.mark.parametrize("mine", ["awaited", "late", "failed", "ready"])
def test_fenced_is_said_loaded_or_not(serving: Slot, mine: str) -> None:
    """Who has nothing loaded answers at once: the fleet waits for the promise, not for the load."""
    serving.apply(fencing(2, 1, 2, mine=mine), epoch=1, is_open=True)
    assert not serving.is_free, "R1: it does not use its lease before it says so"
    assert serving.owes("1") == Say("1", "m", 2, FENCED)
    serving.apply(fencing(2, 1, 2, mine=FENCED), epoch=1, is_open=True)
    assert serving.owes("1") is None and not serving.is_free


def test_only_a_newer_state_lifts_the_fence(serving: Slot) -> None:
    """R3: after "fenced" a reply of the same revision, whatever it was the answer to, shows FENCING and lifts nothing."""
    serving.apply(fencing(5, 1, 2), epoch=1, is_open=True)
    serving.apply(fencing(5, 1, 2, mine="awaited"), epoch=1, is_open=True)
    assert not serving.is_free
    serving.apply(idle(6, 1), epoch=1, is_open=True)
    assert serving.is_free


def test_the_proof_of_an_unproven_generation(slot: Slot) -> None:
    """Committed without any holder: the first worker that has loaded it says so."""
    slot.apply(State(2, "idle", active(2, unproven=True)), epoch=1, is_open=True)
    assert slot.owes("1") is None
    load(slot, 1, 2)
    assert slot.owes("1") == Say("1", "m", 2, READY, SECONDS)
    slot.apply(idle(2, 2), epoch=1, is_open=True)
    assert slot.owes("1") is None


def test_the_alarm_about_an_active_generation(slot: Slot) -> None:
    slot.job = Job(1, "m", (1, "v1"), "active", "")
    slot.failed(slot.job, BAD, {"why": "NaN"}, NOW)
    assert slot.owes("1") == Say("1", "m", 1, BAD, {"why": "NaN"})
    slot.apply(idle(2, 1, poison={"v1:": {}}), epoch=1, is_open=True)
    assert slot.owes("1") is None


def test_nothing_active_owes_nothing() -> None:
    slot = Slot("m", None)
    slot.confirmed = True
    assert slot.owes("1") is None
    slot.apply(State(0, "idle"), epoch=1, is_open=True)
    assert slot.owes("1") is None and slot.detail_of((1, "v1")) == {}


# --- canaries --------------------------------------------------------------------------------------------------------


def canary(rev: int, step: int = 1, share: int = 500, mine: str | None = "ready") -> State:
    plan = Plan([500, 2500], 60_000, "the policy")
    return State(rev, "canary", active(1), candidate(2, canary=plan, step=step, share=share), mine)


def test_a_canary_leaves_the_lease_and_what_is_shown(serving: Slot) -> None:
    """Nobody is fenced for it: what is active answers everybody else, and the candidate is kept beside it."""
    serving.apply(preparing(2, 1, 2), epoch=1, is_open=True)
    load(serving, 2, 2, purpose="candidate")
    serving.apply(canary(3), epoch=1, is_open=True)
    assert serving.is_free and serving.shown == (1, "v1") and serving.target == (2, "v2")
    assert serving.handles == {(1, "v1"): 1, (2, "v2"): 2} and serving.owes("1") is None


def test_who_comes_late_to_a_canary_gets_ready_for_it(serving: Slot) -> None:
    serving.apply(canary(3, mine="late"), epoch=1, is_open=True)
    assert serving.wanted(NOW) == ((2, "v2"), "candidate")
    load(serving, 2, 2, purpose="candidate")
    assert serving.owes("1") == Say("1", "m", 2, READY, SECONDS)


def test_a_trial_goes_on_while_it_counts_the_same(serving: Slot) -> None:
    """What was reported is counted on; another step, or another membership, begins at 0."""
    serving.apply(canary(3), epoch=1, is_open=True)
    first = serving.trial("1", None)
    assert first is not None and (first.key, first.policy, first.is_watch) == ((2, 1, 500), "the policy", False)
    assert serving.trial("1", first) is first
    serving.apply(canary(4), epoch=1, is_open=True)
    assert serving.trial("1", first) is first, "a newer state of the same step"
    assert serving.trial("2", first) is not first
    serving.apply(canary(5, step=2, share=2500), epoch=1, is_open=True)
    second = serving.trial("1", first)
    assert second is not None and second is not first and second.key == (2, 2, 2500)


def test_a_watch_is_a_trial_of_what_is_active(serving: Slot) -> None:
    serving.apply(idle(2, 1, watch=Watched(1, "the policy")), epoch=1, is_open=True)
    found = serving.trial("1", None)
    assert found is not None and (found.key, found.policy, found.is_watch) == ((1, 0, 0), "the policy", True)
    serving.apply(idle(3, 1, watch=Watched(9, "the policy")), epoch=1, is_open=True)
    assert serving.trial("1", found) is None


def test_a_canary_goes_before_the_watch_that_it_interrupts(serving: Slot) -> None:
    """Workers count one thing at a time."""
    state = canary(3)
    serving.apply(State(3, "canary", state.active, state.cand, "ready", watch=Watched(1, "p")), epoch=1, is_open=True)
    found = serving.trial("1", None)
    assert found is not None and found.key == (2, 1, 500)


def test_without_a_state_or_anything_active_there_is_no_trial(slot: Slot) -> None:
    assert Slot("m", None).trial("1", None) is None
    assert slot.trial("1", None) is None
    slot.apply(preparing(2, 1, 2), epoch=1, is_open=True)
    assert slot.trial("1", None) is None
    slot.apply(canary(3), epoch=1, is_open=True)
    slot.new_epoch()
    assert slot.trial("1", None) is None


def test_where_all_manifests_are_looked_at_a_warm_rollback_waits_for_its_own() -> None:
    """The bytes are known, the order to go back to them is not: it was ready before anybody had looked for one."""
    slot = Slot("m", None, asks_all=True)
    slot.confirmed = True
    slot.apply(idle(1, 1), epoch=1, is_open=True)
    slot.found_manifest(1, "v1", "{}", NOW)
    load(slot, 1, 1)
    slot.apply(preparing(2, 1, 2), epoch=1, is_open=True)
    slot.found_manifest(2, "v2", "{}", NOW)
    load(slot, 2, 2, purpose="candidate")
    slot.apply(idle(3, 2), epoch=1, is_open=True)
    slot.apply(State(4, "preparing", active(2), candidate(3, "v1", rollback="1"), "awaited"), epoch=1, is_open=True)
    slot.begin_target()
    assert slot.wanted(NOW) == ((3, "v1"), "candidate") and slot.owes("1") is None and slot.warm == (1, "v1")
    slot.found_manifest(3, "v1", "{ordered}", NOW, rollback=1)
    slot.begin_target()
    assert slot.wanted(NOW) is None and slot.owes("1") == Say("1", "m", 3, READY, {"warm": True})
    slot.apply(idle(5, 3, "v1"), epoch=1, is_open=True)
    assert slot.is_free and slot.told and (slot.told.manifest, slot.told.rollback) == ("{ordered}", 1)


@pytest.mark.parametrize("phase", ("preparing", "fencing"))
def test_a_refused_candidate_is_said_at_once(serving: Slot, phase: str) -> None:
    """Instead of "fenced", too: the last one of those would commit it."""
    serving.apply(State(2, phase, active(1), candidate(2, "v2"), "awaited"), epoch=1, is_open=True)
    serving.no_manifest(2, {"step": "signature", "why": "unsigned"}, NOW, REFUSED)
    assert serving.owes("1") == Say("1", "m", 2, REFUSED, {"step": "signature", "why": "unsigned"})


def test_a_refused_active_one_is_tried_again_and_never_said(serving: Slot) -> None:
    """What is active is not decided by saying that it is refused; what stands in Redis may be mended."""
    serving.apply(idle(2, 5, "v5"), epoch=1, is_open=True)
    serving.no_manifest(5, {"step": "signature", "why": "unsigned"}, NOW, REFUSED)
    assert serving.owes("1") is None and serving.has_failed and serving.shown == (1, "v1")
    again = serving.retry_at(NOW)
    assert again is not None and serving.wanted(NOW) is None and serving.wanted(again) == ((5, "v5"), "active")
    serving.found_manifest(5, "v5", "{}", again)
    assert not serving.has_failed
