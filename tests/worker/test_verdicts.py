"""worker/verdicts.py: the call that follows from the figures of all workers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from genlock.coordinator.calls import Abort, Promote, Rollback
from genlock.coordinator.canary import Both, Figures, Policy
from genlock.coordinator.reply import Active, Candidate, State, Watched
from genlock.coordinator.reply import Tried as Plan
from genlock.worker.trial import Trial, Tried
from genlock.worker.verdicts import TURN_S, decided

POLICY = Policy(errors=0.01, requests=100, seconds=5).encode()
GOOD, BAD_ = Figures(200, 0, slow={"9": 200}), Figures(200, 100, slow={"9": 200})
WELL, ILL, TOO_FEW = Both(GOOD, GOOD), Both(GOOD, BAD_), Both(GOOD, Figures(50, slow={"9": 50}))


def canary(share: int = 500, step: int = 1, steps: tuple[int, ...] = (500, 2500), length_s: int = 60) -> State:
    tried = Plan(list(steps), length_s * 1000, POLICY)
    candidate = Candidate(7, "v7", "q", phase="canary", canary=tried, share=share, step=step)
    return State(9, "canary", Active(6, "v6", 1), candidate, "ready")


def trial(generation: int = 7, step: int = 1, share: int = 500, policy: str | None = POLICY) -> Trial:
    return Trial("m", Tried((generation, step, share), policy), "1")


def says(both: Both, state: State | None = None, one: Trial | None = None, age_s: float = 6.0, by: str = "h:1") -> Any:
    return decided(state or canary(), one or trial(), both, age_s, by=by)


def test_a_step_that_is_passed_is_followed_by_the_next() -> None:
    call = says(WELL)
    assert call == Promote(
        "m", "policy-7-1-0", 6, "the policy (heard by h:1)", "errors 0 % against 0 %", gen=7, share=2500, step=1
    )


@pytest.mark.parametrize(
    ("share", "steps", "after"),
    [
        (500, (500, 2500, 5000), 2500),
        (2500, (500, 2500, 5000), 5000),
        (5000, (500, 2500, 5000), 0),
        (500, (500,), 0),
        (3000, (500, 2500, 5000), 5000),
        (9000, (500, 2500), 0),
    ],
)
def test_the_last_step_is_followed_by_all(share: int, steps: tuple[int, ...], after: int) -> None:
    """Also where a person went on to a share that is no step of it: a share never falls."""
    assert says(WELL, canary(share, 1, steps)).share == after


def test_a_step_that_fails_aborts_the_candidate() -> None:
    call = says(ILL, age_s=0.5)
    assert call == Abort(
        "m", "policy-7-1-0", 7, "the policy (heard by h:1)", "errors 50 % against 0 % after 200 requests"
    )


def test_what_is_not_known_yet_is_waited_for() -> None:
    assert says(TOO_FEW) is None
    assert says(WELL, age_s=4.9) is None


@pytest.mark.parametrize("policy", [None, "", "x", "{}x", '{"errors":5}'])
def test_without_a_policy_people_decide(policy: str | None) -> None:
    """Also where it cannot be read: nothing goes on by itself then, neither forward nor back."""
    assert says(ILL, one=trial(policy=policy)) is None
    assert says(WELL, one=trial(policy=policy)) is None


def test_without_anything_active_nothing_is_decided() -> None:
    assert says(WELL, State(9, "canary", None, canary().cand)) is None


# --- request ids -------------------------------------------------------------------------------------------------------


def test_all_workers_ask_for_the_same() -> None:
    """R10: it is done once, though a thousand of them come to it at once."""
    calls = {replace(says(WELL, by=f"h:{n}", age_s=6.0 + n / 10), by="") for n in range(30)}
    assert len(calls) == 1


def test_each_step_and_each_generation_has_requests_of_its_own() -> None:
    """Or the promotion from the second step would be told what became of the first one."""
    found = {
        says(WELL).request,
        says(WELL, canary(2500, 2), trial(step=2, share=2500)).request,
        says(WELL, one=trial(generation=8)).request,
    }
    assert len(found) == 3


def test_what_was_refused_is_tried_again_but_not_for_ever() -> None:
    """A worker was not ready; the refusal is remembered under its id. The fleet remembers 64 requests of a model: in a canary of a
    week, too, the publisher's own request is not forgotten for those of the policy."""
    assert says(WELL, age_s=TURN_S - 0.1).request != says(WELL, age_s=TURN_S).request
    assert says(WELL, age_s=TURN_S).request != says(WELL, age_s=2 * TURN_S).request
    week_s = 7 * 86400
    ids = [says(WELL, canary(length_s=week_s), age_s=float(age)).request for age in range(6, week_s, 97)]
    assert len(set(ids)) <= 20
    of_an_hour = [says(WELL, age_s=float(age)).request for age in range(6, 3600, 97)]
    assert 10 <= len(set(of_an_hour)) <= 24, "and in an hour it is tried often enough"
    assert ids == sorted(ids, key=lambda text: int(text.rpartition("-")[2])), "none comes again"


# --- the watch ---------------------------------------------------------------------------------------------------------


def watch(**more: Any) -> State:
    return State(9, "idle", Active(7, "v7", 1), watch=Watched(7, POLICY), **more)


def test_a_watched_generation_that_fails_is_rolled_back() -> None:
    """Without a pin: the next publish is not what was wrong."""
    call = says(ILL, watch(), trial(step=0, share=0))
    why = "after its canary: errors 50 % against 0 % after 200 requests"
    assert call == Rollback("m", "policy-7-0-0", 7, "the policy (heard by h:1)", why, to=0, pin=False, if_watched=True)


def test_a_watched_generation_that_does_well_stays() -> None:
    assert says(WELL, watch(), trial(step=0, share=0)) is None
    assert says(TOO_FEW, watch(), trial(step=0, share=0)) is None


def test_another_generation_is_not_rolled_back_for_it() -> None:
    assert says(ILL, watch(), trial(generation=6, step=0, share=0)) is None


def test_a_rollback_that_takes_long_is_not_begun_anew() -> None:
    """A large model loads for longer than a turn: asked again under another id, the rollback would stop the rollback, again and
    again, and the bad generation would answer all the while."""
    leaving = Candidate(8, "v6", "r", rollback="6")
    assert says(ILL, watch(cand=leaving), trial(step=0, share=0), 3 * TURN_S) is None
    other = Candidate(8, "v8", "q")
    assert says(ILL, watch(cand=other), trial(step=0, share=0), 3 * TURN_S) is not None, "the trainer's next save waits"
