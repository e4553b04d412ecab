"""Bad is remembered, a hiccup is not (R13)."""

from typing import Any

import pytest
from genlock.coordinator.calls import Abort, Evict, Leave, ManifestOf
from genlock.coordinator.reply import BAD, FAILED, FENCED, READY, REFUSED


@pytest.mark.parametrize("entry", ("awaited", "late", "failed", "in FENCING"))
def test_r13_one_bad_rejects_at_once(bench: Any, entry: str) -> None:
    """Said of verified bytes it is true everywhere: nobody else needs to finish loading, and nothing that was active changes."""
    bench.flip("v1")
    first, second = bench.holders(2)
    gen = bench.propose("v2", request="q", agreement=0.1).generation
    who = first
    if entry == "late":
        who = bench.join()
        bench.hold(who, "digits")
    elif entry == "failed":
        bench.say(first, gen, FAILED)
    elif entry == "in FENCING":
        bench.say(first, gen, READY)
        bench.say(second, gen, READY)
    state = bench.say(who, gen, BAD, worker="h:1", step="golden", why="0.3 off").states["digits"]
    assert (state.phase, state.active.version) == ("idle", "v1")
    assert set(state.poison) == {"v2:"} and state.poison["v2:"]["by"] == "h:1"
    answer = bench.answer("q")
    assert (answer.state, answer.worker, answer.step, answer.why) == ("rejected", "h:1", "golden", "0.3 off")
    assert bench.outcome(gen)["workers"][who]["state"] == "bad"


def test_r13_a_poisoned_version_is_refused_until_force(bench: Any) -> None:
    """The trainer publishes the same bytes again: refused at once, with why; force loads them again, and forgets the poison."""
    (member,) = bench.holders(1)
    gen = bench.propose("v1").generation
    bench.say(member, gen, BAD, why="NaN")
    reply = bench.propose("v1", request="again")
    assert (reply.verdict, reply.why) == ("poisoned", "NaN")
    assert bench.answer("again").verdict == "poisoned"
    assert bench.propose("v1", poison="v1:golden").state == "candidate", "other golden outputs are another question"
    bench.ask(Abort("digits", "a", gen + 1, "me"))
    assert bench.propose("v1", force=True).generation == gen + 2
    assert bench.state().poison is None
    bench.say(member, gen + 2, READY)
    bench.say(member, gen + 2, FENCED)
    assert bench.propose("v1").state == "candidate"


def test_r13_two_that_died_before_they_answered_count_as_bad(bench: Any) -> None:
    """A checkpoint that kills its worker by a signal leaves nobody to say "bad"; one death may be anything.

    No poison: nothing is proven.
    """
    members = bench.holders(4)
    gen = bench.propose("v1", request="q").generation
    bench.ask(Leave(members[0], died=True))
    bench.ask(Leave(members[1]))
    assert bench.state().phase == "preparing", "who leaves by itself did not die of it"
    bench.ask(Evict(members[2], bench.field("members", members[2]).decode()))
    answer = bench.answer("q")
    assert (answer.state, answer.step, answer.why) == ("rejected", "load", "two members died before they had answered")
    assert bench.state().poison is None
    assert bench.propose("v1").generation == gen + 1


def test_r13_who_died_after_its_answer_did_not_die_of_it(bench: Any) -> None:
    members = bench.holders(4)
    gen = bench.propose("v1", agreement=0.1).generation
    for member, said in zip(members, (READY, READY, FAILED), strict=False):
        bench.say(member, gen, said)
    for member in members[:3]:
        bench.ask(Leave(member, died=True))
    assert (bench.state().phase, bench.state().cand.awaited) == ("preparing", 1)


def test_r13_two_deaths_in_fencing_are_not_of_the_load(bench: Any) -> None:
    members = bench.holders(3)
    gen = bench.propose("v1").generation
    for member in members:
        bench.say(member, gen, READY)
    for member in members[:2]:
        bench.ask(Leave(member, died=True))
    bench.say(members[2], gen, FENCED)
    assert bench.state().active.gen == gen


def test_r13_an_unproven_generation_that_is_bad_is_rolled_back(bench: Any) -> None:
    """It was committed while nobody held the model; the first worker that loads it finds it bad.

    propose     v2 with no holders   ─▶ committed, unproven
    worker      hold, load, "bad"    ─▶ poisoned, alarm, v1 becomes the candidate, without a pin
    worker      "ready", "fenced"    ─▶ v1 is active under a new number
    """
    bench.flip("v1")
    bench.flip("v2")
    (member,) = bench.holders(1)
    state = bench.say(member, 2, BAD, worker="h:1", step="check", why="NaN").states["digits"]
    assert (state.cand.gen, state.cand.version, state.cand.rollback, state.pin) == (3, "v1", "1", None)
    assert "v2:" in state.poison
    bench.say(member, 2, BAD)
    assert bench.state().cand.gen == 3, "said twice it is one rollback"
    bench.say(member, 3, READY)
    bench.say(member, 3, FENCED)
    active = bench.state().active
    assert (active.gen, active.version, active.unproven) == (3, "v1", False)
    assert bench.log().count("alarm") == 1
    assert bench.ends("bad-2") == ("ok", "committed", 3)
    assert bench.ask(ManifestOf("digits", 3)).manifest == '{"of":"v1"}'


def test_r13_an_unproven_generation_with_nothing_before_it_stays(bench: Any) -> None:
    """There is no way back: poison and alarm, and no second alarm for the next worker that says so."""
    bench.flip("v1")
    first, second = bench.holders(2)
    state = bench.say(first, 1, BAD, why="NaN").states["digits"]
    assert (state.active.gen, state.active.unproven, state.phase) == (1, False, "idle")
    bench.say(second, 1, BAD, why="NaN")
    assert bench.log().count("alarm") == 1


def test_r13_a_proven_generation_that_is_bad_raises_the_alarm_only(bench: Any) -> None:
    """The fleet answers from it: a worker that cannot is its own problem, and an operator's, who can roll back."""
    bench.flip("v1")
    (member,) = bench.holders(1)
    gen = bench.flip("v2", member)
    late = bench.join()
    assert bench.say(late, gen, BAD).states["digits"].poison is None, "who does not hold it has no say"
    bench.hold(late, "digits")
    before = bench.state().rev
    state = bench.say(late, gen, BAD, why="NaN").states["digits"]
    assert (state.active.gen, state.phase, state.rev) == (gen, "idle", before + 1)
    assert "v2:" in state.poison and bench.log()[-1] == "alarm"
    assert bench.say(late, gen, FAILED).states["digits"] == state


@pytest.mark.parametrize("phase", ("preparing", "canary", "fencing"))
def test_r13_a_refused_candidate_is_rejected_at_once_and_leaves_no_poison(bench: Any, phase: str) -> None:
    """Nobody whose key counts vouches for it. Anybody may have proposed good bytes so: poisoned, nobody could publish them any more."""
    bench.flip("v1")
    first, second = bench.holders(2)
    canary = '{"steps": [500], "length": 60000, "policy": null}' if phase == "canary" else ""
    gen = bench.propose("v2", request="q", canary=canary).generation
    if phase != "preparing":
        bench.say(first, gen, READY)
        bench.say(second, gen, READY)
    assert bench.state().phase == phase
    state = bench.say(first, gen, REFUSED, worker="h:1", step="signature", why="not signed").states["digits"]
    assert (state.phase, state.active.version, state.poison) == ("idle", "v1", None)
    answer = bench.answer("q")
    assert (answer.state, answer.worker, answer.step, answer.why) == ("rejected", "h:1", "signature", "not signed")
    assert bench.outcome(gen)["workers"][first]["state"] == "refused"
    assert bench.propose("v2", request="again").state == "candidate"


def test_a_refused_active_generation_changes_nothing(bench: Any) -> None:
    """Who wrote it there could write again: a worker that refuses it says so where people look, and goes on with what it verified."""
    bench.flip("v1")
    bench.flip("v2")
    (member,) = bench.holders(1)
    before = bench.keys()
    state = bench.say(member, 2, REFUSED, why="not signed").states["digits"]
    assert (state.active.gen, state.phase, state.poison) == (2, "idle", None)
    assert {**bench.keys(), "fleet": 0} == {**before, "fleet": 0}
