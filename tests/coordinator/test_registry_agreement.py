"""Who has to agree, and by when: shares, deadlines, and who is gone (R8)."""

from typing import Any

import pytest
from genlock.coordinator.calls import Evict, Heartbeat, Leave, Settle
from genlock.coordinator.reply import FAILED, FENCED, READY

# --- agreement -------------------------------------------------------------------------------------------------------


def test_all_have_to_agree(bench: Any) -> None:
    """One of three failed: nothing is decided until the deadline, it may fetch again; then it is rejected, and says who."""
    first, second, third = bench.holders(3)
    gen = bench.propose("v1", request="q").generation
    bench.say(first, gen, READY)
    bench.say(second, gen, READY)
    bench.say(third, gen, FAILED, worker="h:3", why="no disk")
    assert bench.state().phase == "preparing"
    bench.run_out()
    answer = bench.answer("q")
    assert (answer.state, answer.step) == ("rejected", "preparing")
    assert answer.why == (
        "the deadline passed with 2 ready, 1 failed, 0 not heard of; waited for h:3 (failed: no disk)"
    )
    assert bench.state().active is None and bench.state().poison is None


def test_r13_a_hiccup_is_made_good(bench: Any) -> None:
    """A digest that differed, a disk that was full: fetched and tried again before the deadline, it counts as ready."""
    (member,) = bench.holders(1)
    gen = bench.propose("v1").generation
    bench.say(member, gen, FAILED, why="the digest differs")
    assert bench.state().cand.failed == 1
    assert bench.say(member, gen, READY).states["digits"].phase == "fencing"


def test_a_share_is_enough_when_nobody_is_awaited(bench: Any) -> None:
    """Half of four: 2 ready and 2 failed. The failed ones hold, and have leases: they are fenced like the others."""
    members = bench.holders(4)
    gen = bench.propose("v1", agreement=0.5).generation
    for member, said in zip(members, (READY, FAILED, FAILED, READY), strict=True):
        assert bench.state().phase == "preparing", "who is awaited is awaited, however many agree already"
        bench.say(member, gen, said)
    assert bench.state().phase == "fencing"
    for member in members:
        assert bench.state().phase == "fencing"
        bench.say(member, gen, FENCED)
    assert bench.state().active.gen == gen


def test_a_share_is_enough_at_the_deadline(bench: Any) -> None:
    """Two of three are ready, one has said nothing: at the deadline 2/3 is enough for 0.6, and the silent one has to fence, too."""
    first, second, third = bench.holders(3)
    gen = bench.propose("v1", agreement=0.6).generation
    bench.say(first, gen, READY)
    bench.say(second, gen, READY)
    bench.run_out()
    state = bench.state()
    assert (state.phase, state.cand.awaited, state.cand.ready) == ("fencing", 1, 2)
    for member in (first, second, third):
        bench.say(member, gen, FENCED)
    assert bench.state().active.gen == gen


@pytest.mark.parametrize(
    ("of", "agreement", "ready", "agreed"),
    [
        (3, 0.7, 2, False),
        (3, 0.3, 1, True),
        (3, 0.34, 1, False),
        (3, 1 / 3, 1, True),
        (25, 0.28, 7, True),
        (25, 0.28, 6, False),
    ],
)
def test_a_share_is_counted_exactly(bench: Any, of: int, agreement: float, ready: int, agreed: bool) -> None:
    """A third of three is one, and 28 % of 25 are 7, though 0.28 × 25 is 7.000000000000001 in floating point."""
    members = bench.holders(of)
    gen = bench.propose("v1", agreement=agreement, request="q").generation
    for member in members[:ready]:
        bench.say(member, gen, READY)
    bench.run_out()
    assert bench.state().phase == ("fencing" if agreed else "idle")


@pytest.mark.parametrize("share", (0.01, 1.0))
def test_nothing_is_committed_that_nobody_has_loaded(bench: Any, share: float) -> None:
    """All holders left while it prepared: with nobody ready it does not go on, and at the deadline it is rejected."""
    (member,) = bench.holders(1)
    bench.propose("v1", agreement=share, request="q")
    bench.ask(Leave(member))
    assert bench.state().phase == "preparing"
    bench.run_out()
    assert bench.ends("q") == ("ok", "rejected", 1)
    assert bench.state().active is None


def test_who_comes_late_can_carry_it(bench: Any) -> None:
    """All who were asked have left; one that came after is ready: it has been loaded, and nobody else holds."""
    (member,) = bench.holders(1)
    gen = bench.propose("v1").generation
    late = bench.join()
    bench.hold(late, "digits")
    bench.ask(Leave(member))
    bench.say(late, gen, READY)
    bench.say(late, gen, FENCED)
    assert bench.state().active.gen == gen


def test_the_last_silent_member_moves_it_on_by_its_eviction(bench: Any) -> None:
    """Nobody drives a flip: who was evicted, in either phase, was the last word that was missing."""
    first, second, third = bench.holders(3)
    gen = bench.propose("v1").generation
    bench.say(first, gen, READY)
    bench.say(second, gen, READY)
    bench.ask(Evict(third, bench.field("members", third).decode()))
    assert bench.state().phase == "fencing"
    bench.say(first, gen, FENCED)
    bench.ask(Leave(second, died=True))
    assert bench.state().active.gen == gen


# --- R8: deadlines ---------------------------------------------------------------------------------------------------


def test_r8_preparing_has_a_deadline(bench: Any) -> None:
    """A worker hangs in a load and beats on: the deadline ends it, names who was waited for, and keeps what was active."""
    bench.flip("v1")
    first, second = bench.holders(2)
    gen = bench.propose("v2", request="q", prepare_ms=60_000).generation
    bench.say(first, gen, READY)
    assert bench.ask(Settle()).verdict == "ok"
    assert bench.state().phase == "preparing", "it has not passed yet"
    bench.run_out()
    answer = bench.answer("q")
    assert answer.state == "rejected" and answer.why.endswith(
        "1 ready, 0 failed, 1 not heard of; waited for h:2 (awaited)"
    )
    assert bench.state().active.version == "v1" and bench.entries() == {}
    assert bench.outcome(gen)["workers"][second] == {"worker": "h:2", "state": "awaited"}


def test_r8_fencing_has_a_deadline_of_three_leases(bench: Any) -> None:
    """It beats and does not fence: promise 1 forbids to go on without it, so the candidate is rejected."""
    first, second = bench.holders(2)
    gen = bench.propose("v1", request="q").generation
    bench.say(first, gen, READY)
    bench.say(second, gen, READY)
    cand = bench.record()["cand"]
    between = int(cand["deadline"]) - int(
        cand["fenced_at"]
    )  # two looks at the clock in one script: a busy machine may pause there
    assert 9000 <= between < 10_000 and cand["length"] == "9000"
    bench.say(first, gen, FENCED)
    bench.run_out()
    answer = bench.answer("q")
    assert (answer.state, answer.step) == ("rejected", "fencing")
    assert answer.why == "fencing took longer than 3 leases; waited for h:2 (ready)"
    assert bench.state().active is None


def test_r8_a_deadline_is_settled_by_whoever_acts(bench: Any) -> None:
    """An answer that comes after it finds it passed, and ends it in its own script."""
    first, _ = bench.holders(2)
    gen = bench.propose("v1", request="q").generation
    bench.edit(lambda record: record["cand"].update(deadline="1"))
    bench.say(first, gen, READY)
    assert bench.ends("q") == ("ok", "rejected", gen)


def test_r8_the_servers_clock_was_set_back(bench: Any) -> None:
    """By a day: what had 60 s to prepare would have a day and 60 s. It begins again with its own length instead.

    propose     deadline = now + 60 s
    the clock   a day back
    heartbeat   sees a deadline further away than the longest one ─▶ due ─▶ settle: deadline = now + 60 s
    """
    (member,) = bench.holders(1)
    bench.propose("v1", prepare_ms=60_000)
    far = int(bench.record()["cand"]["deadline"]) + 86_400_000
    bench.edit(lambda record: record["cand"].update(deadline=str(far)))
    bench.raw("HSET", "fleet", "deadline", str(far))
    assert bench.ask(Heartbeat(member, 1)).due
    bench.ask(Settle())
    state = bench.state()
    assert state.phase == "preparing" and far - 86_401_000 < state.cand.deadline < far - 86_000_000
    assert not bench.ask(Heartbeat(member, 1)).due


def test_r8_settle_finds_the_earliest_deadline(bench: Any) -> None:
    """Of two candidates; when both are over there is none."""
    member = bench.join()
    bench.hold(member, "a", "b")
    bench.propose("v1", model="a", prepare_ms=50_000)
    bench.propose("v1", model="b", prepare_ms=40_000)
    first, second = (bench.record(model)["cand"]["deadline"].encode() for model in "ba")
    assert bench.field("fleet", "deadline") == first
    bench.run_out("b")
    assert bench.field("fleet", "deadline") == second
    bench.run_out("a")
    assert (bench.field("fleet", "deadline"), bench.field("fleet", "longest")) == (b"0", b"0")
