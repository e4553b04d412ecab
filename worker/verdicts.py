"""What follows from the figures of all workers: the call that a policy makes, or none. Pure.

Every worker may come to it at once, and all of them send the same: under one request id, on the generations that they have seen (R10,
R11). A refusal is remembered under its id, too; so the id has the time in it, in turns, and a promotion that some worker was not ready
for is tried again. Turns become longer: the fleet remembers 64 requests of a model, and must not forget the publisher's.
"""

from __future__ import annotations

from ..coordinator.calls import Abort, Call, Promote, Rollback
from ..coordinator.canary import Both, judge, policy_of
from ..coordinator.reply import State
from .trial import Trial

#: Seconds of the first turn, in which a decision has the same request id; each of the first ones is as long as all before it.
TURN_S = 30
DOUBLED, LONGEST_TURN_S = 5, 300


def decided(state: State, trial: Trial, both: Both, age_s: float, *, by: str) -> Call | None:
    """The call that the policy of a trial makes now; None: wait, or people decide."""
    policy, active = policy_of(trial.policy), state.active
    if policy is None or active is None:
        return None
    word, why = judge(policy, both, age_s, is_watch=trial.is_watch)
    request = f"policy-{trial.generation}-{trial.step}-{_turn(age_s, state)}"
    who = f"the policy (heard by {by})"
    if trial.is_watch:
        # A rollback may take longer than a turn to load: asked for again it would be stopped, and begin anew.
        is_leaving = state.cand is not None and state.cand.rollback is not None
        if word != "fail" or trial.generation != active.gen or is_leaving:
            return None
        return Rollback(trial.model, request, active.gen, who, f"after its canary: {why}", pin=False, if_watched=True)
    if word == "fail":
        return Abort(trial.model, request, trial.generation, who, why)
    if word == "pass":
        return Promote(trial.model, request, active.gen, who, why, trial.generation, _next_share(state), trial.step)
    return None


def _turn(age_s: float, state: State) -> int:
    """The number of the turn that a decision is made in: ever longer ones, up to a length that makes some ten of them in a step."""
    turn = int(age_s // TURN_S).bit_length()
    tried = state.cand.canary if state.cand else None
    longest_s = max(LONGEST_TURN_S, tried.length / 8000 if tried else 0.0)
    return turn if turn <= DOUBLED else DOUBLED + int(age_s // longest_s)


def _next_share(state: State) -> int:
    """The step that follows, 0: all of the requests."""
    tried = state.cand.canary if state.cand else None
    share = state.cand.share if state.cand else 0
    return min((step for step in tried.steps if step > share), default=0) if tried else 0
