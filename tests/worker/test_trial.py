"""worker/trial.py: what is counted of the requests with a key, and which of two generations answers them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from genlock.coordinator.canary import ALL, Both, both_of, bucket_of, place_of
from genlock.worker import trial as room
from genlock.worker.trial import Arms, Counted, Group, Trial, Tried
from genlock.worker.view import FOREVER, Lease, View

KEYS = [f"u{n}" for n in range(1000)]


def view(generation: int = 1, **facts: Any) -> View:
    lease = Lease()
    lease.extend(1000.0)
    usual = {"model": "m", "payload": object(), "version": f"v{generation}", "lease": lease, "bytes": 7}
    return View(generation=generation, **(usual | facts))


def new_trial(share: int = 2000, step: int = 1) -> Trial:
    return Trial("m", Tried((2, step, share), None), "1")


def reported(trial: Trial) -> Both:
    """What the fleet reads of it."""
    found = both_of(trial.counted())
    assert found is not None
    return found


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """at(seconds): the time from here on."""
    now = [100.0]
    monkeypatch.setattr(room, "clock", lambda: now[0])
    return lambda seconds: now.__setitem__(0, seconds)


# --- who answers -----------------------------------------------------------------------------------------------------


def test_a_share_of_the_keys_goes_to_the_candidate() -> None:
    """Sticky: by the key alone, so the same on every worker, in every request."""
    active, candidate = view(1), view(1, candidate=2, version="v2")
    for share in (500, 2000, 9999):
        arms = Arms(new_trial(share), candidate)
        found = {key: arms.pick(active, key) for key in KEYS}
        tried = {key for key, one in found.items() if one.candidate == 2}
        assert tried == {key for key in KEYS if place_of("m", 2, key) < share}
        assert all(found[key].payload is candidate.payload and found[key].version == "v2" for key in tried)
        assert all(found[key].payload is active.payload for key in KEYS if key not in tried)
        assert abs(len(tried) / len(KEYS) - share / ALL) < 0.05


def test_an_answer_says_all_that_its_view_does() -> None:
    """Under the lease of the view: who holds on to it for long sees when that ends."""
    active = view(4, stale=True, lease=FOREVER)
    found = Arms(new_trial(), None).pick(active, "u1")
    for name in ("model", "payload", "generation", "version", "lease", "stale", "candidate", "used_at", "bytes"):
        assert getattr(found, name) is getattr(active, name), name
    assert isinstance(found, View) and found.arms is None


def test_each_group_counts_its_own() -> None:
    trial = new_trial(5000)
    arms, active = Arms(trial, view(1, candidate=2)), view(1)
    tried = sum(arms.pick(active, key).candidate is not None for key in KEYS)
    assert (trial.candidate.requests, trial.active.requests) == (tried, len(KEYS) - tried)


def test_a_watched_generation_is_the_candidate_that_was() -> None:
    """All of its requests with a key count, against what the generation before has counted."""
    trial, active = new_trial(0, step=0), view(2)
    found = Arms(trial, None).pick(active, "u1")
    assert trial.is_watch and found.payload is active.payload and found.candidate is None
    assert (trial.candidate.requests, trial.active.requests) == (1, 0)


# --- what is counted ---------------------------------------------------------------------------------------------------


def test_a_block_is_timed_and_counted_when_it_ends(at: Callable[[float], None]) -> None:
    trial = new_trial(0)
    with Arms(trial, None).pick(view(), "u1") as held:
        assert reported(trial).active.requests == 1 and not reported(trial).active.slow
        at(100.25)
        held.score(0.5)
        held.score(-1)
    figures = reported(trial).active
    assert (figures.requests, figures.errors, figures.seconds) == (1, 0, 0.25)
    assert figures.slow == {str(bucket_of(0.25)): 1}
    assert (figures.scored, figures.score, figures.squares) == (2, -0.5, 1.25)


@pytest.mark.parametrize(
    ("error", "errors"), [(ValueError, 1), (KeyError, 1), (SystemExit, 0), (GeneratorExit, 0), (KeyboardInterrupt, 0)]
)
def test_an_exception_that_leaves_the_block_is_an_error(error: type[BaseException], errors: int) -> None:
    """What only ends the process, or a streamed answer that its client gave up, says nothing of the model."""
    trial = new_trial(0)
    with pytest.raises(error), Arms(trial, None).pick(view(), "u1"):
        raise error
    assert (trial.active.errors, sum(trial.active.slow)) == (errors, 1)


def test_a_request_ends_once() -> None:
    """Its block ends, then its answer is sent: the answer's 500 is somebody else's, and time would count twice."""
    trial = new_trial(0)
    with Arms(trial, None).pick(view(), "u1") as held:
        pass
    held.ended(failed=True)
    with held:
        pass
    assert (trial.active.requests, trial.active.errors, sum(trial.active.slow)) == (1, 0, 1)


def test_a_clock_that_goes_back_takes_no_time() -> None:
    group = Group()
    one = Counted(view(), group)
    one._began += 1e6
    one.ended(failed=False)
    assert (group.seconds, group.slow[0]) == (0.0, 1)


def test_what_nobody_tries_may_be_scored_and_ended_too() -> None:
    """The same code runs on every day without a canary."""
    plain = view()
    plain.score(1.0)
    plain.ended(failed=True)
    with plain as held:
        assert held is plain


def test_a_report_is_small_and_whole() -> None:
    """Only the buckets that have something; what was not counted is 0 in the sums."""
    trial = new_trial()
    trial.active.requests = 3
    trial.active.ended(0.001, failed=True)
    trial.active.ended(1e9, failed=False)
    found = json.loads(trial.counted())
    assert found["active"]["slow"] == {str(bucket_of(0.001)): 1, "149": 1}
    assert found["candidate"] == {
        "requests": 0, "errors": 0, "seconds": 0.0, "scored": 0, "score": 0.0, "squares": 0.0, "slow": {}
    }  # fmt: skip
    assert len(trial.counted()) < 400


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf"), 1e200, 1.1e40])
def test_a_score_that_is_no_number_spoils_nothing(score: float) -> None:
    """One of them in the sums, and they would never say anything again: neither those of this worker nor of the fleet."""
    trial = new_trial(0)
    held = Arms(trial, None).pick(view(), "u1")
    held.score(0.5)
    held.score(score)
    held.score(0.25)
    figures = reported(trial).active
    assert (figures.scored, figures.score, figures.squares) == (2, 0.75, 0.3125)
