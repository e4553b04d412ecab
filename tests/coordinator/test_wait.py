"""What a waiting publisher does next, as values: no server, no thread, no clock but the numbers that are handed in."""

from typing import Any

import pytest
from genlock.coordinator.calls import Call, Evict, Open, Pin, Propose, Read, Settle
from genlock.coordinator.reply import Active, Answer, Candidate, Reply, State
from genlock.coordinator.wait import POLL_S, Wait, Watch

LEASE_S = 1.0  #: a watcher then waits 1.15 s
PROPOSE = Propose("m", "q", "token", "v1", "v1:", b"{}", 1.0, 5000, "me")


def reply(verdict: str = "ok", epoch: int = 7, nonce: str = "n", **more: Any) -> Reply:
    return Reply(verdict, epoch=epoch, nonce=nonce, lease=1000, **({"open": True} | more))


def new_watch() -> Watch:
    return Watch(LEASE_S, watcher="me", jitter=0.0)


def new_wait(change: Call = PROPOSE, **more: Any) -> Wait:
    usual = {"prepare_s": 5.0, "now": 100.0, "lease_s": LEASE_S, "watcher": "me", "jitter": 0.0}
    return Wait(change, "m", "q", **(usual | more))


def heard_as(state: str, generation: int | None = 3) -> Reply:
    """The reply to a proposal."""
    return reply(state=state, generation=generation, version="v1")


def read(answer: Answer | None, active: Active | None = None, **more: Any) -> Reply:
    return reply(states={"m": State(5, "preparing", active)}, answer=answer, **more)


# --- duties ----------------------------------------------------------------------------------------------------------


def test_r5_the_same_beat_for_a_whole_lease_is_evicted_and_no_other() -> None:
    watch = new_watch()
    watch.heard(reply(watch={"1": "10", "2": "11"}), 0.0)
    watch.heard(reply(watch={"1": "10", "2": "12"}), 1.0)
    assert watch.duties(1.14) == [] and watch.watched == ("1", "2")
    assert watch.duties(1.16) == [Evict("1", "10", "me")]
    assert watch.duties(1.17) == []


def test_r5_ids_and_beats_of_another_epoch_say_nothing() -> None:
    """Redis lost everything while the publisher was cut off: member 1 with beat 10 is another one now, and beats."""
    watch = new_watch()
    watch.heard(reply(watch={"1": "10"}), 0.0)
    watch.heard(reply(epoch=8, watch={"1": "10"}), 1.2)
    assert watch.duties(1.2) == []


def test_r5_silence_does_not_count_while_there_was_no_redis() -> None:
    """Nobody could beat: to evict them all in the moment when Redis is back would only make them join again."""
    watch = new_watch()
    watch.heard(reply(watch={"1": "10"}), 0.0)
    watch.lost()
    watch.heard(reply(watch={"1": "10"}), 9.0)
    assert watch.duties(9.0) == []
    assert watch.duties(10.15) == [Evict("1", "10", "me")]


def test_r6_a_closed_epoch_is_opened_when_it_was_watched_for_a_lease() -> None:
    watch = new_watch()
    watch.heard(reply(open=False), 5.0)
    assert (watch.is_open, watch.epoch) == (False, (7, "n"))
    assert watch.duties(6.14) == []
    assert watch.duties(6.15) == [Open("me")]


def test_r6_the_longer_of_two_leases_counts() -> None:
    """The fleet that is in Redis says 3 s, the store said 1: members may have leases of 3."""
    watch = new_watch()
    watch.heard(Reply("closed", epoch=7, nonce="n", lease=3000), 0.0)
    assert watch.duties(3.34) == []
    assert watch.duties(3.35) == [Open("me")]


def test_r8_a_deadline_that_has_passed_is_settled_once_for_each_time_it_is_told() -> None:
    watch = new_watch()
    watch.heard(reply(due=True), 0.0)
    assert watch.duties(0.0) == [Settle()]
    assert watch.duties(0.0) == []


def test_it_looks_again_when_something_is_to_be_done_or_a_hint_may_be_lost() -> None:
    watch = new_watch()
    assert watch.pause_s(0.0) == POLL_S
    watch.heard(reply(watch={"1": "10"}), 0.0)
    assert watch.pause_s(1.14) == pytest.approx(0.01)
    assert watch.pause_s(2.0) == 0.0


# --- one change ------------------------------------------------------------------------------------------------------


def test_it_sends_the_change_and_then_reads() -> None:
    wait = new_wait()
    assert wait.next_call() == PROPOSE
    wait.hears(PROPOSE, heard_as("candidate"), 100.5)
    assert (wait.is_decided, wait.answered_s) == (False, 0.5)
    call = wait.next_call()
    assert call == Read("m", "q")
    wait.hears(call, read(Answer(state="committed", generation=3, version="v1")), 101.0)
    assert wait.is_decided and wait.answer == Answer(state="committed", generation=3, version="v1")


def test_who_is_not_patient_is_content_with_any_answer() -> None:
    wait = new_wait(Pin("m", "q", 3, "me"), is_patient=False)
    wait.hears(wait.next_call(), heard_as("next", None), 100.0)
    assert wait.is_decided


def test_r10_without_a_reply_the_same_change_is_sent_again() -> None:
    wait = new_wait()
    wait.loses("the connection broke")
    assert wait.next_call() is PROPOSE
    assert wait.found == "the connection broke" and not wait.never_let_in


def test_r6_while_closed_it_is_sent_again_and_was_never_let_in() -> None:
    wait = new_wait()
    wait.hears(PROPOSE, reply("closed", open=False), 100.0)
    assert wait.next_call() is PROPOSE and wait.never_let_in
    wait.loses("the connection broke")  # executed, perhaps, just when it was opened
    assert not wait.never_let_in


def test_a_refusal_decides() -> None:
    wait = new_wait()
    wait.hears(PROPOSE, reply("pinned"), 100.0)
    assert wait.is_decided and wait.refusal is not None and wait.answer is None


def test_r8_the_time_to_prepare_begins_when_it_becomes_the_candidate() -> None:
    """It waited as next for as long as the one before it took; its own deadline was set only then."""
    wait = new_wait()
    limit = 5.0 + 3 * LEASE_S + 1.15 + 1.0
    wait.hears(PROPOSE, heard_as("next", None), 100.0)
    assert wait.until == pytest.approx(100.0 + limit)
    wait.hears(wait.next_call(), read(Answer(state="candidate", generation=4, version="v1")), 104.0)
    assert wait.until == pytest.approx(104.0 + limit)
    wait.hears(wait.next_call(), read(Answer(state="candidate", generation=4, version="v1")), 108.0)
    assert wait.until == pytest.approx(104.0 + limit)
    assert wait.found == "it is still candidate, phase preparing"


def test_r10_an_answer_that_redis_lost_is_not_asked_for_by_a_proposal_before_the_fleet_is_healed() -> None:
    """Proposed again in the closed epoch, it would become a second generation of what a worker is just about to bring back."""
    wait = new_wait()
    wait.hears(PROPOSE, heard_as("candidate"), 100.0)
    wait.hears(wait.next_call(), read(None, epoch=8, open=False), 101.0)
    assert isinstance(wait.next_call(), Read) and not wait.is_decided
    wait.hears(wait.next_call(), read(None, epoch=8), 103.0)
    assert wait.next_call() is PROPOSE


def test_r7_what_a_worker_brought_back_is_committed() -> None:
    wait = new_wait()
    wait.hears(PROPOSE, heard_as("candidate"), 100.0)
    wait.hears(wait.next_call(), read(None, epoch=8, open=False), 101.0)
    wait.hears(wait.next_call(), read(None, Active(3, "v1", 7), epoch=8, open=False), 102.0)
    assert wait.answer == Answer(state="committed", generation=3, version="v1") and wait.is_decided


@pytest.mark.parametrize("active", [Active(3, "v2", 7), Active(4, "v1", 7)])
def test_r7_the_number_alone_and_the_version_alone_are_not_it(active: Active) -> None:
    wait = new_wait()
    wait.hears(PROPOSE, heard_as("candidate"), 100.0)
    wait.hears(wait.next_call(), read(None, active, epoch=8), 102.0)
    assert not wait.is_decided


def test_before_the_first_reply_nothing_is_known() -> None:
    assert new_wait().found == "it is still not heard of, phase unknown"


def test_a_candidate_is_counted_as_it_was_read() -> None:
    wait = new_wait()
    wait.hears(PROPOSE, heard_as("candidate"), 100.0)
    candidate = Candidate(3, "v1", "q", awaited=1, ready=1)
    found = reply(states={"m": State(5, "preparing", cand=candidate)}, answer=Answer(state="candidate", generation=3))
    wait.hears(wait.next_call(), found, 101.0)
    assert wait.state is not None and wait.state.cand == candidate


# --- canaries --------------------------------------------------------------------------------------------------------


def test_where_people_decide_the_wait_ends_with_the_beginning_of_the_canary() -> None:
    """The trainer's process must not hang for the night because nobody has promoted its model."""
    wait = new_wait()
    wait.hears(PROPOSE, heard_as("candidate"), 101.0)
    assert not wait.is_decided
    wait.hears(wait.next_call(), read(Answer(state="canary", generation=3, version="v1")), 102.0)
    assert wait.is_decided


def test_where_a_policy_decides_the_canary_is_waited_for() -> None:
    """All of its steps, beside the time to prepare and to fence; and then no longer (R8)."""
    wait = new_wait(tried_s=120.0)
    assert wait.until == new_wait().until + 120.0
    wait.hears(PROPOSE, heard_as("candidate"), 100.0)
    for state in ("canary", "candidate"):
        wait.hears(wait.next_call(), read(Answer(state=state, generation=3, version="v1")), 130.0)
        assert not wait.is_decided
    wait.hears(wait.next_call(), read(Answer(state="committed", generation=3, version="v1")), 140.0)
    assert wait.is_decided


def test_who_is_not_patient_does_not_wait_for_a_canary_either() -> None:
    wait = new_wait(is_patient=False, tried_s=120.0)
    wait.hears(PROPOSE, heard_as("canary"), 101.0)
    assert wait.is_decided
