"""A candidate from the proposal to its end: agreement, deadlines, what waits behind it, what is bad (R8, R9, R10, R11, R13)."""

import json
from typing import Any

import pytest
from genlock.coordinator.calls import (
    BAD,
    FAILED,
    FENCED,
    READY,
    Abort,
    Evict,
    Heartbeat,
    Leave,
    Lock,
    ManifestOf,
    Pin,
    Say,
    Settle,
)


def ends(bench: Any, request: str) -> tuple[str, str, int | None]:
    """What has become of a request."""
    answer = bench.answer(request)
    return answer.verdict, answer.state, answer.generation


# --- the ordinary way --------------------------------------------------------------------------------------------------


def test_a_flip(bench: Any) -> None:
    """awaited → ready → FENCING → fenced → committed; the last answer of each phase moves it on, in its own reply."""
    first, second = bench.holders(2)
    gen = bench.propose("v1", request="q").generation
    assert ends(bench, "q") == ("ok", "candidate", 1)
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
    assert ends(bench, "q") == ("ok", "committed", 1)
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
    ("agreement", "ready", "agreed"), [(0.7, 2, False), (0.3, 1, True), (0.34, 1, False), (1 / 3, 1, True)]
)
def test_a_share_is_counted_exactly(bench: Any, agreement: float, ready: int, agreed: bool) -> None:
    """Of three that were asked; a third is a third, whatever floating point makes of it."""
    members = bench.holders(3)
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
    assert ends(bench, "q") == ("ok", "rejected", 1)
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
    assert int(cand["deadline"]) - int(cand["fenced_at"]) in (9000, 9001) and cand["length"] == "9000"
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
    assert ends(bench, "q") == ("ok", "rejected", gen)


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


# --- R11: what waits -------------------------------------------------------------------------------------------------


def test_r11_a_proposal_waits_behind_the_candidate(bench: Any) -> None:
    """It gets its number when it becomes the candidate, in the script that ended the one before."""
    (member,) = bench.holders(1)
    bench.propose("v1", request="q1")
    assert bench.propose("v2", request="q2", manifest=b"two").state == "next"
    assert bench.state().waits == "q2" and ends(bench, "q2") == ("ok", "next", None)
    bench.say(member, 1, READY)
    state = bench.say(member, 1, FENCED).states["digits"]
    assert (state.active.gen, state.cand.gen, state.cand.request, state.mine) == (1, 2, "q2", "awaited")
    assert ends(bench, "q2") == ("ok", "candidate", 2)
    assert bench.ask(ManifestOf("digits", 2)).manifest == "two"
    assert state.waits is None and bench.field("generations", "digits\0next\0m") is None


def test_r11_the_newest_waits(bench: Any) -> None:
    """A trainer that saves faster than workers load: each save replaces the one that waited, and says so to its publisher."""
    bench.holders(1)
    bench.propose("v1", request="q1")
    bench.propose("v2", request="q2", by="slow")
    bench.propose("v3", request="q3", by="fast", manifest=b"three")
    answer = bench.answer("q2")
    assert (answer.state, answer.version, answer.why) == ("superseded", "v2", "by fast")
    bench.run_out()
    assert ends(bench, "q3") == ("ok", "candidate", 2)
    assert bench.ask(ManifestOf("digits", 2)).manifest == "three"


@pytest.mark.parametrize("how", ("rejected", "aborted", "out of time", "evicted"))
def test_r11_whatever_ends_a_candidate_makes_the_next_one(bench: Any, how: str) -> None:
    first, second = bench.holders(2)
    gen = bench.propose("v1").generation
    bench.propose("v2", request="q2")
    if how == "rejected":
        bench.say(first, gen, BAD)
    elif how == "aborted":
        bench.ask(Abort("digits", "a", gen, "me"))
    elif how == "out of time":
        bench.run_out()
    else:
        for member in (first, second):
            bench.ask(Evict(member, bench.field("members", member).decode()))
    assert ends(bench, "q2")[2] == gen + 1
    assert bench.outcome(gen)["outcome"] == ("aborted" if how == "aborted" else "rejected")


def test_r11_what_waits_commits_at_once_when_nobody_holds_any_more(bench: Any) -> None:
    """The candidate and the next one end in one script: the commit of the second begins where the first ended."""
    (member,) = bench.holders(1)
    gen = bench.propose("v1", request="q1").generation
    bench.propose("v2", request="q2")
    bench.say(member, gen, READY)
    bench.ask(Leave(member))
    assert ends(bench, "q1") == ("ok", "committed", 1)
    assert ends(bench, "q2") == ("ok", "committed", 2)
    assert bench.state().active.gen == 2


def test_r11_now_stops_the_candidate(bench: Any) -> None:
    """A fix must not wait for the load of what it mends; what waited is superseded, too."""
    (member,) = bench.holders(1)
    bench.propose("v1", request="q1")
    bench.propose("v2", request="q2")
    reply = bench.propose("v3", request="q3", now=True, by="me")
    assert (reply.state, reply.generation) == ("candidate", 2)
    assert ends(bench, "q1") == ("ok", "aborted", 1)
    assert bench.answer("q1").why == "stopped by a proposal that asked for now, by me"
    assert ends(bench, "q2") == ("ok", "superseded", None)
    assert bench.entries() == {member: "awaited"}


def test_r11_now_with_nothing_in_work(bench: Any) -> None:
    assert bench.propose("v1", now=True).state == "committed"


def test_r11_what_waits_without_its_manifest_is_aborted(bench: Any) -> None:
    """Somebody removed it from Redis: nothing of a proposal without a manifest can be loaded."""
    (member,) = bench.holders(1)
    gen = bench.propose("v1").generation
    bench.propose("v2", request="q2")
    bench.raw("HDEL", "generations", "digits\0next\0m")
    bench.say(member, gen, BAD)
    answer = bench.answer("q2")
    assert (answer.state, answer.why) == ("aborted", "Redis lost its manifest")
    assert bench.state().phase == "idle"


def test_r11_a_pinned_model_refuses_proposals(bench: Any) -> None:
    """With who, why and since when; also with force or now."""
    gen = bench.flip("v1")
    bench.ask(Pin("digits", "p", gen, "alice", "incident 7"))
    for how in ({}, {"now": True}, {"force": True}):
        reply = bench.propose("v2", **how)
        assert (reply.verdict, reply.generation) == ("pinned", gen)
        assert reply.pin["by"] == "alice" and reply.pin["why"] == "incident 7" and int(reply.pin["at"]) > 0
    assert bench.record()["next"] == "2"


# --- R13: bad is remembered ------------------------------------------------------------------------------------------


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
    assert ends(bench, "bad-2") == ("ok", "committed", 3)
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
    assert ends(bench, bench.state().waits or f"q{4}") == ("ok", "committed", start + 2)


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
    assert ends(bench, "q1") == ("ok", "rejected", gen)
    bench.propose("v2", request="q2")
    bench.ask(Say(third, "digits", gen + 1, BAD, odd))
    assert ends(bench, "q2") == ("ok", "rejected", gen + 1)
    assert bench.propose("v2").verdict == "poisoned"
    assert json.dumps(bench.outcome(gen))
