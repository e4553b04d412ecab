"""A candidate from the proposal to its commit: the ordinary way, the lock, calls twice and late, bounds (R9, R10)."""

import json
from typing import Any

import pytest
from genlock.coordinator.calls import Evict, Heartbeat, Lock, ManifestOf, Say
from genlock.coordinator.reply import BAD, FAILED, FENCED, READY

# --- the ordinary way --------------------------------------------------------------------------------------------------


def test_a_flip(bench: Any) -> None:
    """awaited → ready → FENCING → fenced → committed; the last answer of each phase moves it on, in its own reply."""
    first, second = bench.holders(2)
    gen = bench.propose("v1", request="q").generation
    assert bench.ends("q") == ("ok", "candidate", 1)
    state = bench.say(first, gen, READY).states["digits"]
    assert (state.phase, state.mine, state.cand.ready, state.cand.awaited) == ("preparing", "ready", 1, 1)
    assert state.active is None
    state = bench.say(second, gen, READY).states["digits"]
    assert (state.phase, state.is_fencing, state.cand.ready) == ("fencing", True, 2)
    state = bench.say(first, gen, FENCED).states["digits"]
    assert (state.cand.fenced, state.cand.ready, state.mine) == (1, 1, "fenced")
    state = bench.say(second, gen, FENCED).states["digits"]
    assert (state.phase, state.cand, state.mine) == ("idle", None, None)
    assert (state.active.gen, state.active.version, state.active.unproven) == (1, "v1", False)
    assert state.active.epoch == bench.epoch.number
    assert bench.ends("q") == ("ok", "committed", 1)
    assert bench.entries() == {}
    assert bench.log() == ["epoch", "joined", "joined", "candidate", "fencing", "committed"]


def test_each_change_is_a_revision_and_its_hint(bench: Any) -> None:
    """Candidate, phase, commit: three revisions, each with a hint from the script that made it; an answer that decides nothing has none."""
    first, second = bench.holders(2)
    start, epoch = bench.state().rev, bench.epoch.number
    with bench.listening() as heard:
        gen = bench.propose("v1").generation
        assert heard() == [f"{epoch} {start + 2} digits"]
        bench.say(first, gen, READY)
        assert heard() == []
        bench.say(second, gen, READY)
        assert heard() == [f"{epoch} {start + 3} digits"]
        bench.say(first, gen, FENCED)
        bench.say(second, gen, FENCED)
        assert heard() == [f"{epoch} {start + 4} digits"]
    assert bench.state().rev == start + 4


def test_an_outcome_says_who_was_waited_for(bench: Any) -> None:
    """Names as people know them, seconds of each, and when it began, fenced and ended."""
    bench.flip("v0")
    first, second = bench.holders(2)
    gen = bench.propose("v1", by="me").generation
    bench.say(first, gen, READY, worker="h:1", seconds=0.5)
    bench.say(second, gen, READY, worker="h:2")
    bench.say(first, gen, FENCED, worker="h:1", seconds=0.5)
    bench.say(second, gen, FENCED)
    row = bench.outcome(gen)
    assert row["outcome"] == "committed" and row["by"] == "me" and row["version"] == "v1"
    assert row["workers"] == {
        first: {"worker": "h:1", "seconds": 0.5, "state": "fenced"},
        second: {"worker": "h:2", "state": "fenced"},
    }
    assert int(row["started"]) <= int(row["fencing"]) <= int(row["ended"])


def test_without_holders_it_commits_at_once_and_is_unproven(bench: Any) -> None:
    """There is nobody to wait for; the first "ready" of a holder proves it, quietly."""
    reply = bench.propose("v1")
    assert (reply.verdict, reply.state, reply.generation) == ("ok", "committed", 1)
    assert bench.state().active.unproven
    stranger, holder = bench.join(), bench.holders(1)[0]
    bench.say(stranger, 1, READY)
    assert bench.state().active.unproven, "who does not hold it proves nothing"
    before = bench.state().rev
    bench.say(holder, 1, READY)
    assert not bench.state().active.unproven and bench.state().rev == before


def test_a_manifest_is_kept_as_it_was_proposed(bench: Any) -> None:
    """Opaque bytes: quotes, slashes, control characters and what is not ASCII come back as they went in."""
    manifest = '{"message":"a/b \\\\ \\" \\n é 漢 \U0001f600 \x7f"}'
    gen = bench.propose("v1", manifest=manifest.encode()).generation
    assert bench.ask(ManifestOf("digits", gen)).manifest == manifest
    assert bench.ask(ManifestOf("digits", gen + 1)).manifest is None


def test_models_do_not_know_each_other(bench: Any) -> None:
    """One counter of generations each, one candidate each; a flip of one is nothing to the others."""
    member = bench.join()
    bench.hold(member, "a", "b")
    for model in ("a", "b"):
        assert bench.propose("v1", model=model).generation == 1
    bench.say(member, 1, READY, model="a")
    assert (bench.state("a").phase, bench.state("b").phase) == ("fencing", "preparing")


@pytest.mark.parametrize("name", ("", "a b", "a/b", "a\0b", "@", "#", "é", "x" * 129))
def test_what_cannot_be_the_name_of_a_model_is_refused(bench: Any, name: str) -> None:
    """Names are parts of fields: one with a NUL could be an entry of another model."""
    assert bench.epoch.number
    before = bench.row("models")
    assert bench.ask(bench.proposal("v1", model=name)).verdict == "name"
    assert bench.row("models") == before


# --- R9: the lock ----------------------------------------------------------------------------------------------------


def test_r9_a_trainer_that_lost_its_lock_cannot_propose(bench: Any) -> None:
    """It was paused for longer than its lock lasts.

    trainer 1   takes the lock, stages, is paused
    trainer 2   takes the lock, which has run out
    trainer 1   wakes, proposes                     ─▶ lock: trainer 2 has it
    the copy    of that proposal arrives again when nobody has the lock, or trainer 1 again  ─▶ the same answer
    """
    bench.lock(token="two")
    call = bench.proposal("v1", token="one", request="late")
    reply = bench.ask(call)
    assert (reply.verdict, reply.holder) == ("lock", '{"who":"me"}')
    bench.ask(Lock("digits", "free", "two", "", 1000))
    assert bench.ask(bench.proposal("v1", token="one")).verdict == "lock"
    bench.lock(token="one")
    assert bench.ask(call).verdict == "lock", "a refusal is remembered: what was told as failed does not succeed later"
    assert bench.ask(bench.proposal("v1", token="one")).verdict == "ok"
    assert bench.state().active.gen == 1


# --- R10: twice, late, after others ----------------------------------------------------------------------------------


def test_r10_a_proposal_sent_twice_is_one(bench: Any) -> None:
    """The reply was lost and the publisher sent the same again: whatever has become of it by then is the answer."""
    (member,) = bench.holders(1)
    bench.lock()
    call = bench.proposal("v1", request="q")
    first = bench.ask(call)
    assert bench.ask(call).as_answer == first.as_answer
    bench.ask(Lock("digits", "free", "token", "", 1000))
    bench.say(member, 1, READY)
    bench.say(member, 1, FENCED)
    again = bench.ask(call)
    assert (again.verdict, again.state, again.generation) == ("ok", "committed", 1)
    assert bench.record()["next"] == "2"


def test_r10_the_last_64_requests_are_known(bench: Any) -> None:
    """Bounded, and the oldest goes first."""
    bench.lock()
    for n in range(65):
        bench.ask(bench.proposal("v1", request=f"r{n}", token="wrong"))
    assert bench.answer("r0") is None
    assert bench.answer("r1").verdict == "lock" and bench.answer("r64").verdict == "lock"
    assert len(bench.record()["requests"].split()) == 64


def test_r10_an_answer_counts_once(bench: Any) -> None:
    """A copy of "ready" is not a second member that is ready."""
    first, _ = bench.holders(2)
    gen = bench.propose("v1").generation
    states = [bench.say(first, gen, READY).states["digits"] for _ in range(3)]
    assert [state.cand.ready for state in states] == [1, 1, 1]
    assert states[-1].phase == "preparing"


def test_r10_late_answers_change_nothing(bench: Any) -> None:
    """Answers of a phase, a generation, or a candidate that is over."""
    first, second = bench.holders(2)
    gen = bench.propose("v1").generation
    bench.say(first, gen, FENCED)
    assert bench.entries()[first] == "awaited", "fenced counts in FENCING only: in PREPARING it is of another life"
    bench.say(first, gen + 1, READY)
    bench.say(first, gen - 1, BAD)
    assert bench.entries()[first] == "awaited"
    bench.say(first, gen, READY)
    bench.say(second, gen, READY)
    bench.say(first, gen, FENCED)
    bench.say(first, gen, READY)
    bench.say(second, gen, FAILED)
    state = bench.state()
    assert (state.cand.fenced, state.cand.ready, state.cand.failed) == (1, 1, 0), "a late copy takes no fence back"
    bench.say(second, gen, FENCED)
    before = bench.keys()
    for said in (READY, FENCED, FAILED):
        assert bench.say(first, gen, said).states["digits"].active.gen == gen
    after = bench.keys()
    assert {**before, "fleet": 0} == {**after, "fleet": 0}


def test_an_answer_of_a_model_nobody_knows(bench: Any) -> None:
    member = bench.join()
    state = bench.say(member, 1, READY, model="unheard").states["unheard"]
    assert (state.active, state.cand) == (None, None)
    assert b"unheard" not in bench.row("models")


def test_r10_a_member_evicted_by_mistake_says_nothing_more(bench: Any) -> None:
    """Its "ready" was on the way when it was evicted: it has no lease, so it is nobody's ready."""
    first, second = bench.holders(2)
    gen = bench.propose("v1").generation
    bench.ask(Evict(second, bench.field("members", second).decode()))
    assert bench.say(second, gen, READY).verdict == "unknown"
    assert bench.entries() == {first: "awaited"}


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_old_generations_go(bench: Any) -> None:
    """256 are kept, and beyond them only the ways back."""
    bench.flip("v1")
    (member,) = bench.holders(1)
    bench.propose("v2")
    bench.say(member, 2, BAD)
    bench.flip("v3", member)
    bench.edit(lambda record: record.update(next="257"))
    bench.flip("v4", member)
    bench.flip("v5", member)
    assert bench.outcome(1)["outcome"] == "committed" and bench.ask(ManifestOf("digits", 1)).manifest
    assert bench.outcome(2) == {} and bench.ask(ManifestOf("digits", 2)).manifest is None


def test_the_ways_back_are_bounded(bench: Any) -> None:
    """64 of them; the oldest goes, with what was kept of it only as a way back."""
    bench.flip("v1")
    bench.edit(
        lambda record: record.update(
            next="300", committed={"1": {"version": "v1"}} | {str(n): {"version": f"v{n}"} for n in range(200, 263)}
        )
    )
    gen = bench.flip("v300")
    committed = bench.record()["committed"]
    assert len(committed) == 64 and "1" not in committed and str(gen) in committed
    assert bench.outcome(1) == {}


def test_the_poison_is_bounded(bench: Any) -> None:
    """64 versions; the one that was found longest ago goes."""
    (member,) = bench.holders(1)
    bench.propose("v1")
    bench.edit(lambda record: record.update(poison={f"p{n}": {"why": "", "at": str(n + 1)} for n in range(64)}))
    bench.say(member, 1, BAD)
    poison = bench.record()["poison"]
    assert len(poison) == 64 and "p0" not in poison and "v1:" in poison


@pytest.mark.parametrize("start", (2**31 - 1, 2**32, 10**14, 2**53 - 8))
def test_generations_are_whole_numbers_up_to_2_53(bench: Any, start: int) -> None:
    """Lua and cjson write numbers with 14 digits: 2^53 - 7 would come back as 9.007e15, and the generation after as the same one."""
    (member,) = bench.holders(1)
    bench.flip("v0", member)
    bench.edit(lambda record: record.update(next=str(start)))
    gens = [bench.flip(f"v{n}", member) for n in range(1, 4)]
    assert gens == [start, start + 1, start + 2]
    assert bench.state().active.gen == start + 2
    assert bench.outcome(start + 1)["outcome"] == "committed"
    assert bench.ends(bench.state().waits or f"q{4}") == ("ok", "committed", start + 2)


def test_a_revision_and_a_beat_near_2_53(bench: Any) -> None:
    assert bench.epoch.number
    for field in ("revision", "beat", "ids"):
        bench.raw("HSET", "fleet", field, str(2**53 - 20))
    member = bench.join()
    assert member == str(2**53 - 19)
    assert bench.ask(Heartbeat(member, 0)).beat == str(2**53 - 18)
    assert bench.propose("v1").revision == 2**53 - 18


def test_what_workers_say_is_believed_in_nothing(bench: Any) -> None:
    """A detail with null, a number or a list where a text is meant, or no object at all: no script fails, and no publisher chokes on it."""
    first, second, third = bench.holders(3)
    odd = {"worker": None, "why": ["a"], "step": 3, "seconds": {}}
    gen = bench.propose("v1", request="q1").generation
    bench.ask(Say(first, "digits", gen, FAILED, odd))
    bench.ask(Say(second, "digits", gen, FAILED, [1]))  # type: ignore[arg-type]
    bench.run_out()
    assert bench.ends("q1") == ("ok", "rejected", gen)
    bench.propose("v2", request="q2")
    bench.ask(Say(third, "digits", gen + 1, BAD, odd))
    assert bench.ends("q2") == ("ok", "rejected", gen + 1)
    assert bench.propose("v2").verdict == "poisoned"
    assert json.dumps(bench.outcome(gen))
