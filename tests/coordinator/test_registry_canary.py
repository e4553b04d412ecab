"""A canary: from the proposal through its steps to the commit or its end; what members report of it; the watch after it."""

import json
from typing import Any

import pytest
from genlock.coordinator.calls import (
    Abort,
    Evict,
    Heal,
    Hold,
    Leave,
    Open,
    Pin,
    Promote,
    Report,
    Rollback,
    Settle,
    StartTask,
)
from genlock.coordinator.canary import Both, Canary, Figures, Policy
from genlock.coordinator.reply import BAD, FAILED, FENCED, READY, Reply

POLICY = Policy(errors=0.02, requests=20, seconds=0)
STEPS = Canary.of("20%,50%", timeout_s=60).encode()
WITH_POLICY = Canary.of("20%,50%", POLICY, 60).encode()


def canary(bench: Any, *members: str, version: str = "v2", plan: str = STEPS, **how: Any) -> int:
    """The generation of a canary at its first step, for which all these members are ready."""
    gen = bench.propose(version, canary=plan, **how).generation
    for member in members:
        bench.say(member, gen, READY)
    assert bench.state().phase == "canary"
    return int(gen)


def promote(bench: Any, gen: int, share: int = 0, *, request: str = "", seen: int = 1) -> Reply:
    bench.serial = getattr(bench, "serial", 0) + 1
    return bench.ask(Promote("digits", request or f"p{bench.serial}", seen, "me", "why", gen, share))  # type: ignore[no-any-return]


def group(requests: int, errors: int = 0, **more: Any) -> dict[str, Any]:
    usual = {"requests": requests, "errors": errors, "seconds": requests / 100, "slow": {"48": requests}}
    return usual | {"scored": 0, "score": 0.0, "squares": 0.0} | more


def report(bench: Any, member: str, gen: int, step: int, active: Any, candidate: Any) -> Reply:
    text = json.dumps({"active": active, "candidate": candidate})
    return bench.ask(Report(member, "digits", gen, step, text))  # type: ignore[no-any-return]


def sums(bench: Any) -> dict[str, Any]:
    """Fields of what was counted."""
    rows = {field.decode(): json.loads(text) for field, text in bench.row("waiting").items() if field[:1] == b"="}
    return {field.partition("\0")[2].replace("\0", " "): row for field, row in rows.items()}


@pytest.fixture
def two(bench: Any) -> Any:
    """v1 is active; two members hold it."""
    bench.flip("v1")
    bench.members = bench.holders(2)
    for member in bench.members:
        bench.say(member, 1, READY)
    return bench


# --- the ordinary way --------------------------------------------------------------------------------------------------


def test_a_canary(two: Any) -> None:
    """preparing → canary 20 % → canary 50 % → fencing → committed; what is active answers all the while."""
    first, second = two.members
    gen = two.propose("v2", request="q", canary=STEPS).generation
    assert (two.state().phase, two.state().cand.share) == ("preparing", 0)
    two.say(first, gen, READY)
    state = two.say(second, gen, READY).states["digits"]
    assert (state.phase, state.is_canary, state.is_fencing, state.mine) == ("canary", True, False, "ready")
    assert (state.cand.share, state.cand.step, state.cand.canary.steps) == (2000, 1, [2000, 5000])
    assert (state.active.gen, state.cand.canary.policy, state.cand.canary.length) == (1, None, 60_000)
    assert two.ends("q") == ("ok", "canary", gen)
    reply = promote(two, gen, 5000)
    assert (reply.verdict, reply.state, reply.generation, reply.version) == ("ok", "done", gen, "v2")
    state = two.state()
    assert (state.phase, state.cand.share, state.cand.step, state.active.gen) == ("canary", 5000, 2, 1)
    assert promote(two, gen).verdict == "ok"
    assert (two.state().phase, two.ends("q")) == ("fencing", ("ok", "candidate", gen))
    for member in two.members:
        two.say(member, gen, FENCED)
    state = two.state()
    assert (state.phase, state.active.gen, state.active.version, state.watch) == ("idle", gen, "v2", None)
    assert two.ends("q") == ("ok", "committed", gen)
    assert two.entries() == {} and sums(two) == {}
    assert two.log()[-7:] == ["candidate", "canary", "canary", "promoted", "fencing", "promoted", "committed"]
    shares = [event.facts["share"] for event in two.registry.log(newest=100) if event.what == "canary"]
    assert [float(share) for share in shares] == [0.2, 0.5]


def test_each_step_is_a_revision_and_its_hint(two: Any) -> None:
    """Workers count another step from then on: without the hint they learn it with a heartbeat, a third of a lease later."""
    first, second = two.members
    start, epoch = two.state().rev, two.epoch.number
    with two.listening() as heard:
        gen = two.propose("v2", canary=STEPS).generation
        two.say(first, gen, READY)
        assert heard() == [f"{epoch} {start + 1} digits"]
        two.say(second, gen, READY)
        assert heard() == [f"{epoch} {start + 2} digits"]
        report(two, first, gen, 1, group(1), group(1))
        assert heard() == [], "a report changes nothing that anybody waits for"
        promote(two, gen, 5000)
        assert heard() == [f"{epoch} {start + 3} digits"]
        promote(two, gen)
        assert heard() == [f"{epoch} {start + 4} digits"]
    assert two.state().rev == start + 4


def test_a_share_of_the_operators_own(two: Any) -> None:
    """Steps say what the policy does; a person may go elsewhere, and each is a step of its own."""
    gen = canary(two, *two.members)
    for step, share in ((2, 2001), (3, 9999)):
        assert promote(two, gen, share).verdict == "ok"
        assert (two.state().cand.share, two.state().cand.step) == (share, step)


def test_each_step_has_a_deadline_of_its_own(two: Any) -> None:
    gen = canary(two, *two.members)
    two.edit(lambda record: record["cand"].update(deadline="1"))
    promote(two, gen, 5000)
    two.ask(Settle())
    assert two.state().phase == "canary"


def test_a_canary_that_nobody_promotes_is_aborted(two: Any) -> None:
    """R8: whoever wanted to look at it has gone home."""
    two.propose("v2", request="q", canary=STEPS)
    for member in two.members:
        two.say(member, 2, READY)
    two.run_out()
    assert (two.state().phase, two.state().active.gen) == ("idle", 1)
    assert two.ends("q") == ("ok", "aborted", 2)
    answer = two.answer("q")
    assert (answer.step, answer.why) == ("canary", "nobody promoted it from 20 % within 60 s")
    assert two.outcome(2)["outcome"] == "aborted"


def test_without_anything_active_there_is_no_canary(bench: Any) -> None:
    """Nobody to compare with, and no request that would be answered otherwise."""
    (member,) = bench.holders(1)
    gen = bench.propose("v1", request="q", canary=STEPS).generation
    state = bench.say(member, gen, READY).states["digits"]
    assert (state.phase, bench.ends("q")) == ("fencing", ("ok", "candidate", 1))
    bench.say(member, gen, FENCED)
    assert bench.state().active.gen == 1 and "canary" not in bench.log()


def test_without_holders_it_is_committed_at_once(bench: Any) -> None:
    bench.flip("v1")
    reply = bench.propose("v2", canary=WITH_POLICY)
    assert (reply.state, reply.generation) == ("committed", 2)
    assert bench.state().watch is None and bench.state().active.unproven


def test_a_canary_that_waited_as_next(two: Any) -> None:
    """Its plan waits with it: without that it would have become a generation for everybody."""
    two.propose("v2")
    assert two.propose("v3", request="q", canary=WITH_POLICY).state == "next"
    two.ask(Abort("digits", "a", 2, "me"))
    for member in two.members:
        two.say(member, 3, READY)
    state = two.state()
    assert (state.phase, state.cand.gen, state.cand.share) == ("canary", 3, 2000)
    assert state.cand.canary.policy == POLICY.encode()


# --- who holds it ------------------------------------------------------------------------------------------------------


def test_who_begins_to_hold_during_a_canary_is_late(two: Any) -> None:
    """It loads the candidate too, and nobody waits for it; once it is ready it takes part like everybody."""
    gen = canary(two, *two.members)
    (third,) = two.holders(1)
    state = two.state()
    assert (state.phase, state.cand.late, state.cand.awaited, two.entries()[third]) == ("canary", 1, 0, "late")
    state = two.say(third, gen, READY).states["digits"]
    assert (state.mine, state.phase, state.cand.ready, state.cand.late) == ("ready", "canary", 3, 0)


def test_who_is_late_is_waited_for_when_it_is_fenced(two: Any) -> None:
    """R4: it holds the model, and may answer from the generation before."""
    gen = canary(two, *two.members)
    (third,) = two.holders(1)
    assert promote(two, gen).verdict == "ok", "not for its being ready"
    for member in two.members:
        two.say(member, gen, FENCED)
    assert two.state().phase == "fencing"
    two.say(third, gen, FENCED)
    assert two.state().active.gen == gen


def test_who_leaves_a_canary_is_not_counted_any_more(two: Any) -> None:
    """Drop, leave, eviction: its entry goes, the canary goes on; promoted with those who are left."""
    gen = canary(two, *two.members)
    first, second = two.members
    two.ask(Hold(first, 9, ()))
    assert (two.state().phase, two.entries(), two.state().cand.ready) == ("canary", {second: "ready"}, 1)
    two.ask(Hold(first, 10, ("digits",)))
    assert two.entries()[first] == "late"
    two.ask(Leave(first))
    assert two.entries() == {second: "ready"} and two.state().cand.late == 0
    assert promote(two, gen).verdict == "ok"
    two.say(second, gen, FENCED)
    assert two.state().active.gen == gen


def test_a_canary_whom_all_have_left_cannot_be_promoted(two: Any) -> None:
    """Nobody who holds it has proven that it loads there."""
    gen = canary(two, *two.members)
    for member in two.members:
        two.ask(Evict(member, two.field("members", member).decode(), "w"))
    reply = promote(two, gen)
    assert (reply.verdict, two.state().phase) == ("nowhere", "canary")
    assert reply.why.startswith("0 are ready, 0 failed, 0 were not heard of")


def test_two_that_die_of_it_reject_it(two: Any) -> None:
    """Who came during the canary and was killed while it loaded, twice: the candidate is what kills them."""
    canary(two, *two.members)
    for member in two.holders(2):
        two.ask(Evict(member, two.field("members", member).decode(), "w"))
    assert (two.state().phase, two.outcome(2)["outcome"]) == ("idle", "rejected")
    assert two.outcome(2)["why"] == "two members died before they had answered"


def test_the_agreement_is_tested_again_at_each_promotion(two: Any) -> None:
    """Half was enough to begin; who failed meanwhile is named."""
    first, second = two.members
    two.propose("v2", agreement=1.0, canary=STEPS)
    two.say(first, 2, READY)
    two.say(second, 2, READY)
    two.edit(lambda record: record["cand"].update(ready=1, failed=1))
    detail = json.dumps({"worker": "h:9", "why": "no memory"})
    two.raw("HSET", "waiting", f"digits\0002\0{second}", f"failed {detail}")
    for share in (5000, 0):
        reply = promote(two, 2, share)
        assert reply.verdict == "nowhere"
        assert reply.why == "1 are ready, 1 failed, 0 were not heard of; waits for h:9 (failed: no memory)"
    assert (two.state().phase, two.state().cand.share) == ("canary", 2000)
    two.say(second, 2, READY)
    assert promote(two, 2, 5000).verdict == "ok"


def test_an_agreement_of_half_begins_with_half(two: Any) -> None:
    """Who failed goes on trying, and takes part as soon as it is ready."""
    first, second = two.members
    two.propose("v2", agreement=0.5, canary=STEPS)
    two.say(first, 2, READY)
    two.say(second, 2, FAILED)
    assert (two.state().phase, two.state().cand.failed) == ("canary", 1)
    two.say(second, 2, READY)
    assert (two.state().cand.ready, two.state().cand.failed) == (2, 0)


def test_a_bad_answer_ends_a_canary(two: Any) -> None:
    """A worker that came later finds the golden outputs not reproduced on its machine: R13, for the whole fleet."""
    gen = canary(two, *two.members)
    (third,) = two.holders(1)
    two.say(third, gen, BAD, worker="h:3", step="golden", why="off by 3")
    assert (two.state().phase, two.state().active.gen) == ("idle", 1)
    assert (two.outcome(gen)["outcome"], two.outcome(gen)["why"]) == ("rejected", "off by 3")
    assert two.propose("v2", canary=STEPS).verdict == "poisoned"


# --- promotions --------------------------------------------------------------------------------------------------------


def test_a_share_that_does_not_grow_is_refused(two: Any) -> None:
    """Whom the candidate has answered would go back to the generation before, in the middle of a session."""
    gen = canary(two, *two.members)
    for share in (2000, 1999, 1, 10_000):
        reply = promote(two, gen, share)
        assert (reply.verdict, reply.why) == ("nowhere", "it has 20 % of the requests already")
    assert (two.state().cand.share, two.state().cand.step) == (2000, 1)


@pytest.mark.parametrize("share", (0, 5000))
def test_r10_a_promotion_sent_twice_is_one(two: Any, share: int) -> None:
    """Its reply was lost; or all workers come to the same, under one id: the step is taken once."""
    gen = canary(two, *two.members)
    first = promote(two, gen, share, request="p")
    assert first.verdict == "ok"
    before = two.keys()
    assert promote(two, gen, share, request="p").as_answer == first.as_answer
    assert two.keys() == before


def test_r10_a_promotion_refused_once_is_refused_for_ever(two: Any) -> None:
    """A late copy does not succeed where the first one failed."""
    gen = two.propose("v2", canary=STEPS).generation
    reply = promote(two, gen, 0, request="p")
    assert (reply.verdict, reply.why) == ("nowhere", "it is preparing, and no canary")
    for member in two.members:
        two.say(member, gen, READY)
    assert promote(two, gen, 0, request="p").verdict == "nowhere"
    assert two.state().phase == "canary"


def test_a_promotion_of_another_candidate_is_a_conflict(two: Any) -> None:
    """The operator looked at 2, which was aborted; 3 is another one."""
    gen = canary(two, *two.members)
    two.ask(Abort("digits", "a", gen, "me"))
    reply = promote(two, gen)
    assert (reply.verdict, reply.found) == ("conflict", "0")
    third = canary(two, *two.members, version="v3")
    reply = promote(two, gen)
    assert (reply.verdict, reply.found) == ("conflict", str(third))
    assert two.state().phase == "canary"


def test_r11_a_promotion_over_another_active_generation_is_a_conflict(two: Any) -> None:
    gen = canary(two, *two.members)
    reply = promote(two, gen, seen=7)
    assert (reply.verdict, reply.found, two.state().phase) == ("conflict", "1", "canary")


def test_what_is_fenced_for_cannot_be_promoted(two: Any) -> None:
    gen = canary(two, *two.members)
    promote(two, gen)
    for share in (0, 5000):
        reply = promote(two, gen, share)
        assert (reply.verdict, reply.why) == ("nowhere", "it is fencing, and no canary")


def test_a_promotion_that_nobody_answers_is_rejected(two: Any) -> None:
    """R8: fencing has its own three leases, whatever the canary's deadline was."""
    gen = canary(two, *two.members)
    promote(two, gen)
    assert int(two.record()["cand"]["length"]) == 9000
    two.run_out()
    assert two.outcome(gen)["outcome"] == "rejected" and two.state().active.gen == 1


# --- what stops it -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decision", "why"),
    (
        (lambda gen: Abort("digits", "d", gen, "me", "worse"), "worse"),
        (lambda gen: Rollback("digits", "d", 1, "me", "worse", to=1), "rolled back by me"),
        (lambda gen: Pin("digits", "d", 1, "me"), "pinned by me"),
    ),
    ids=("abort", "rollback", "pin"),
)
def test_an_operator_stops_a_canary(two: Any, decision: Any, why: str) -> None:
    """Nothing was taken from anybody: what was active answers all requests again."""
    gen = canary(two, *two.members)
    report(two, two.members[0], gen, 1, group(5), group(5))
    assert sums(two)
    assert two.ask(decision(gen)).verdict == "ok"
    assert (two.outcome(gen)["outcome"], two.outcome(gen)["why"]) == ("aborted", why)
    assert two.state().active.gen == 1 and not two.state().is_canary
    assert sums(two) == {} and not any(state == "ready" for state in two.entries().values())


def test_a_publish_waits_behind_a_canary_or_stops_it(two: Any) -> None:
    gen = canary(two, *two.members)
    assert two.propose("v3").state == "next" and two.state().is_canary
    assert two.propose("v4", now=True).generation == gen + 1
    assert two.outcome(gen)["outcome"] == "aborted" and two.state().cand.version == "v4"


def test_r6_a_new_epoch_ends_canary_and_watch(two: Any) -> None:
    """What was counted is lost with the rest; the candidate's generation is aborted, not forgotten."""
    watched(two)
    canary(two, *two.members, version="v3")
    two.lose()
    record = two.record()
    assert "cand" not in record and "watch" not in record
    two.ask(Heal("digits", 2, "v2", two.epoch.number - 1, two.epoch.number - 1, "{}", "v2:"))
    two.ask(Open())
    assert (two.state().phase, two.state().watch, sums(two)) == ("idle", None, {})
    assert two.outcome(3)["outcome"] == "aborted"


# --- reports -----------------------------------------------------------------------------------------------------------


def test_reports_are_summed(two: Any) -> None:
    """Each is all that a worker has counted since the step began; the reply has the sums of all, and for how long it is on."""
    first, second = two.members
    gen = canary(two, first, second)
    reply = report(two, first, gen, 1, group(10, 1, scored=2, score=1.5, squares=1.25), group(4))
    assert reply.verdict == "ok" and reply.states["digits"].cand.gen == gen
    one = Figures(10, 1, 0.1, 2, 1.5, 1.25, {"48": 10})
    assert reply.figures == Both(one, Figures(4, seconds=0.04, slow={"48": 4}))
    reply = report(two, second, gen, 1, group(5, slow={"48": 3, "50": 2}), group(6, 2))
    assert reply.figures.active == Figures(15, 1, pytest.approx(0.15), 2, 1.5, 1.25, {"48": 13, "50": 2})
    assert reply.figures.candidate == Figures(10, 2, pytest.approx(0.1), slow={"48": 10})
    reply = report(two, first, gen, 1, group(20, 1, scored=2, score=1.5, squares=1.25), group(4))
    assert (reply.figures.active.requests, reply.figures.candidate.requests) == (25, 10)
    assert reply.figures.active.slow == {"48": 23, "50": 2}
    assert two.registry.counted({"digits": (gen, 1)}) == {"digits": reply.figures}
    assert 0 <= reply.age < 60_000


def test_large_scores_are_summed(two: Any) -> None:
    """Rewards of some millions: without their squares the scores would seem to have no noise, and a canary as good as the other fail."""
    gen = canary(two, *two.members)
    large = group(9, scored=9, score=9e7, squares=9e15)
    for member, times in zip(two.members, (1, 2), strict=True):
        reply = report(two, member, gen, 1, large, group(1, scored=1, score=-1e40, squares=1e80))
        assert (reply.figures.active.score, reply.figures.active.squares) == (9e7 * times, 9e15 * times)
        assert (reply.figures.candidate.score, reply.figures.candidate.squares) == (-1e40 * times, 1e80 * times)


def test_the_age_is_that_of_the_step(two: Any) -> None:
    gen = canary(two, *two.members)
    two.edit(lambda record: record["cand"].update(step_at=str(int(record["cand"]["step_at"]) - 5000)))
    assert 5000 <= report(two, two.members[0], gen, 1, group(1), group(1)).age < 60_000
    promote(two, gen, 5000)
    assert report(two, two.members[0], gen, 2, group(1), group(1)).age < 5000


def test_r10_a_report_sent_twice_counts_once(two: Any) -> None:
    gen = canary(two, *two.members)
    first = report(two, two.members[0], gen, 1, group(10), group(4))
    before = two.keys()
    assert report(two, two.members[0], gen, 1, group(10), group(4)).figures == first.figures
    assert two.keys()["waiting"] == before["waiting"]


def test_r10_a_late_copy_of_a_report_counts_nothing(two: Any) -> None:
    """The first was delayed on its way and comes behind the second: the sums would fall."""
    gen = canary(two, *two.members)
    report(two, two.members[0], gen, 1, group(10, 2), group(4))
    before = two.keys()["waiting"]
    late = report(two, two.members[0], gen, 1, group(7, 1), group(4))
    assert (late.figures.active.requests, late.figures.active.errors) == (10, 2)
    assert two.keys()["waiting"] == before


def test_a_report_of_another_step_counts_nothing(two: Any) -> None:
    """It was sent before the worker had heard of the promotion; figures of two shares are not to be mixed."""
    gen = canary(two, *two.members)
    promote(two, gen, 5000)
    for other, step in ((gen, 1), (gen, 3), (gen, 0), (gen + 1, 2), (1, 0)):
        reply = report(two, two.members[0], other, step, group(10), group(4))
        assert (reply.verdict, reply.figures, reply.age) == ("ok", None, 0)
        assert reply.states["digits"].cand.step == 2, "but it hears what is on"
    assert sums(two) == {}


def test_each_step_counts_anew(two: Any) -> None:
    gen = canary(two, *two.members)
    report(two, two.members[0], gen, 1, group(10), group(4))
    promote(two, gen, 5000)
    assert report(two, two.members[0], gen, 2, group(1), group(1)).figures.active.requests == 1


def test_a_report_while_it_prepares_or_is_fenced_for_counts_nothing(two: Any) -> None:
    gen = two.propose("v2", canary=STEPS).generation
    assert report(two, two.members[0], gen, 1, group(1), group(1)).figures is None
    for member in two.members:
        two.say(member, gen, READY)
    promote(two, gen)
    assert report(two, two.members[0], gen, 1, group(1), group(1)).figures is None
    assert sums(two) == {}


def test_a_report_of_nobody(two: Any) -> None:
    """Who was evicted joins again, and counts from 0; of a model that nobody has published there is nothing to count."""
    gen = canary(two, *two.members)
    before = two.keys()
    assert report(two, "99", gen, 1, group(1), group(1)).verdict == "unknown"
    assert report(two, "@", gen, 1, group(1), group(1)).verdict == "unknown"
    assert two.keys() == before
    reply = two.ask(Report(two.members[0], "unheard", 1, 1, "{}"))
    assert (reply.verdict, reply.figures, two.record("unheard")) == ("ok", None, {})


def test_what_a_member_has_counted_stays_when_it_goes(two: Any) -> None:
    gen = canary(two, *two.members)
    report(two, two.members[0], gen, 1, group(10), group(4))
    two.ask(Leave(two.members[0]))
    assert report(two, two.members[1], gen, 1, group(1), group(1)).figures.active.requests == 11


HOSTILE = (
    "",
    "{",
    "5",
    "null",
    "[]",
    "[1,2]",
    '{"active":5,"candidate":[1]}',
    '{"active":{"requests":"9","errors":true,"slow":5}}',
    '{"active":{"requests":NaN,"errors":Infinity,"seconds":-Infinity}}',
    '{"active":{"requests":1e300,"errors":1e17,"slow":{"1":1e300}}}',
    '{"active":{"requests":-5,"errors":-5}}',
    '{"active":{"slow":{"x":1,"-1":1,"1e300":1,"3":-4,"4":"x","5":null,"6":{}}}}',
    '{"active":{"slow":[1,2,3]},"candidate":{"slow":{"":1}}}',
    '{"active":' + "[" * 900 + "]" * 900 + "}",
    json.dumps({"active": {"slow": {str(n): 1 for n in range(5000)}}}),
)


def test_r15_a_report_may_be_anything(two: Any) -> None:
    """What is no number of its kind counts as 0; the next report of another member counts as ever."""
    gen = canary(two, *two.members)
    for step, text in enumerate(HOSTILE, 1):
        reply = two.ask(Report(two.members[0], "digits", gen, step, text))
        assert reply.verdict == "ok", text
        figures = reply.figures
        assert min(figures.active.requests, figures.active.errors, figures.candidate.requests) >= 0, text
        assert len(figures.active.slow) <= 200, text
        reply = report(two, two.members[1], gen, step, group(10), group(4))
        assert (reply.figures.active.requests, reply.figures.candidate.requests) == (10, 4), text
        promote(two, gen, 2000 + step)


def test_r15_sums_that_somebody_wrote_over(two: Any) -> None:
    """The sums, and what a member reported before: nothing in a reply is of a wrong type, no call ends in an error of Lua."""
    gen = canary(two, *two.members)
    for step, text in enumerate(HOSTILE, 1):
        report(two, two.members[0], gen, step, group(1), group(1))
        for field in (f"=\0digits\0{gen}\0{step}", f"=\0digits\0{gen}\0{step}\0{two.members[0]}"):
            two.raw("HSET", "waiting", field, text)
            assert report(two, two.members[0], gen, step, group(10), group(4)).figures is not None, text
            two.registry.counted({"digits": (gen, step)})
        promote(two, gen, 2000 + step)
    assert promote(two, gen).verdict == "ok"


def test_reports_are_no_answers(two: Any) -> None:
    """They stand where the entries do: nobody is waited for because of them, and a new task does not count them."""
    gen = canary(two, *two.members)
    for member in two.members:
        report(two, member, gen, 1, group(1), group(1))
    assert two.entries() == dict.fromkeys(two.members, "ready")
    assert [said for said, _ in two.registry.entries()["digits", gen].values()] == ["ready", "ready"]
    assert two.ask(StartTask("t", "clear", "", 1000, "me")).awaited == 2


# --- the watch ---------------------------------------------------------------------------------------------------------


def watched(bench: Any) -> int:
    """v2 was committed by its policy, after 40 requests of which none failed, and is watched."""
    gen = canary(bench, *bench.members, plan=WITH_POLICY)
    report(bench, bench.members[0], gen, 1, group(30), group(10))
    promote(bench, gen, 5000)
    report(bench, bench.members[0], gen, 2, group(40, 1), group(38, 3))
    promote(bench, gen)
    for member in bench.members:
        bench.say(member, gen, FENCED)
    assert bench.state().active.gen == gen
    return gen


def test_after_a_policy_the_generation_is_watched(two: Any) -> None:
    """Compared with what the generation before counted in the last step; what is counted begins anew."""
    gen = watched(two)
    state = two.state()
    assert (state.watch.gen, state.watch.policy) == (gen, POLICY.encode())
    assert sums(two) == {}
    reply = report(two, two.members[0], gen, 0, group(0), group(7, 2))
    assert (reply.figures.active.requests, reply.figures.active.errors) == (40, 1)
    assert (reply.figures.candidate.requests, reply.figures.candidate.errors) == (7, 2)
    reply = report(two, two.members[1], gen, 0, group(9), group(1))
    assert (reply.figures.active.requests, reply.figures.candidate.requests) == (40, 8)
    assert int(two.record()["watch"]["length"]) == 600_000


def back(bench: Any, seen: int, request: str, *, if_watched: bool = True) -> Reply:
    return bench.ask(Rollback("digits", request, seen, "me", "why", pin=False, if_watched=if_watched))  # type: ignore[no-any-return]


def test_what_a_person_has_pinned_no_policy_takes_back(two: Any) -> None:
    """A worker has heard that it fails; before it says so somebody pins it."""
    gen = watched(two)
    two.ask(Pin("digits", "pin", gen, "me", "stays"))
    assert two.state().watch is None
    assert (back(two, gen, "late").verdict, two.state().active.gen, two.state().phase) == ("conflict", gen, "idle")


def test_a_persons_rollback_is_not_stopped_by_a_policys(two: Any) -> None:
    two.flip("v0", *two.members)
    gen = canary(two, *two.members, plan=WITH_POLICY)
    report(two, two.members[0], gen, 1, group(30), group(30))
    promote(two, gen, seen=2)
    for member in two.members:
        two.say(member, gen, FENCED)
    assert two.ask(Rollback("digits", "person", gen, "me", "to the first", to=1)).verdict == "ok"
    assert back(two, gen, "late").verdict == "conflict"
    assert two.state().cand.rollback == "1"


def test_a_promotion_is_of_the_step_that_was_looked_at(two: Any) -> None:
    """Two workers have heard enough of the first step; the second one's promotion comes when the fleet is in the next step."""
    gen = canary(two, *two.members, plan=WITH_POLICY)
    first = Promote("digits", "a", 1, "me", "why", gen, 5000, 1)
    assert (two.ask(first).verdict, two.state().cand.step) == ("ok", 2)
    assert two.ask(Promote("digits", "b", 1, "me", "why", gen, 0, 1)).verdict == "conflict"
    assert (two.state().phase, two.state().cand.share) == ("canary", 5000)
    assert two.ask(Promote("digits", "c", 1, "me", "why", gen, 0, 2)).verdict == "ok"


def test_the_figures_of_a_step_go_with_it(two: Any) -> None:
    """Of ten thousand workers they are megabytes, which a commit would have to read."""
    gen = canary(two, *two.members)
    report(two, two.members[0], gen, 1, group(30), group(10))
    assert sums(two)
    promote(two, gen, 5000)
    assert sums(two) == {}


def test_without_a_policy_nothing_is_watched(two: Any) -> None:
    gen = canary(two, *two.members)
    report(two, two.members[0], gen, 1, group(30), group(10))
    promote(two, gen)
    for member in two.members:
        two.say(member, gen, FENCED)
    assert two.state().active.gen == gen and two.state().watch is None


def test_a_watch_has_an_end(two: Any) -> None:
    """R8: somebody settles; what shows after ten minutes is no matter of the change."""
    gen = watched(two)
    report(two, two.members[0], gen, 0, group(0), group(7))
    before = two.state().rev
    two.ask(Settle())
    assert two.state().watch is not None and two.state().rev == before
    two.edit(lambda record: record["watch"].update(deadline="1"))
    two.raw("HSET", "fleet", "deadline", "1")
    with two.listening() as heard:
        two.ask(Settle())
        assert len(heard()) == 1
    assert (two.state().watch, sums(two)) == (None, {})
    assert two.field("fleet", "deadline") == b"0"
    assert report(two, two.members[0], gen, 0, group(0), group(7)).figures is None


def test_settling_something_else_leaves_a_watch_its_deadline(two: Any) -> None:
    """The earliest one stands in the fleet's record: forgotten there, the watch would have no end."""
    watched(two)
    two.propose("v3")
    two.run_out()
    assert two.field("fleet", "deadline").decode() == two.record()["watch"]["deadline"]


@pytest.mark.parametrize("how", ("commit", "rollback"))
def test_another_commit_ends_a_watch(two: Any, how: str) -> None:
    gen = watched(two)
    report(two, two.members[0], gen, 0, group(0), group(7, 7))
    if how == "commit":
        new = two.flip("v3", *two.members)
    else:
        new = two.ask(Rollback("digits", "r", gen, "the policy", "worse", pin=False)).generation
        assert two.state().watch is not None, "until that is committed it is what answers"
        for said in (READY, FENCED):
            for member in two.members:
                two.say(member, new, said)
    state = two.state()
    assert (state.active.gen, state.watch, state.pin, sums(two)) == (new, None, None, {})


def test_a_canary_over_a_watched_generation_begins_the_watch_anew(two: Any) -> None:
    """Workers count one thing at a time. The canary ends, and each begins to count the watch at 0 again: against what it had reported
    before that would be an old report, and nobody would notice what happens in those minutes.

    worker    reports of the watch    300 requests, 0 errors
    canary    begins; is aborted
    worker    reports of the watch    200 requests, 150 errors    ─▶ they count
    """
    gen = watched(two)
    report(two, two.members[0], gen, 0, group(0), group(300))
    third = canary(two, *two.members, version="v3")
    assert report(two, two.members[1], gen, 0, group(0), group(5)).figures is None
    two.ask(Abort("digits", "a", third, "me"))
    assert two.state().watch.gen == gen
    reply = report(two, two.members[0], gen, 0, group(0), group(200, 150))
    assert (reply.figures.candidate.requests, reply.figures.candidate.errors) == (200, 150)


def test_r7_a_reopened_fleet_watches_nothing(two: Any) -> None:
    """A worker that the fleet is behind of gives back what it was told: a generation without its canary's figures."""
    watched(two)
    two.lose("members")
    assert two.record().get("watch") is None
    two.ask(Heal("digits", 9, "v9", two.epoch.number, two.epoch.number, "{}", "v9:"))
    two.ask(Open())
    assert (two.state().active.version, two.state().watch) == ("v9", None)


# --- what is garbled ---------------------------------------------------------------------------------------------------


PLANS = (
    "x",
    "{}",
    "[]",
    "5",
    "null",
    '{"steps":[],"length":"1"}',
    '{"steps":5,"length":"1"}',
    '{"steps":{"a":5},"length":"1"}',
    '{"steps":["x"],"length":"1"}',
    '{"steps":[0],"length":"1"}',
    '{"steps":[-5],"length":"1"}',
    '{"steps":[0.5],"length":"1"}',
    '{"steps":[500,500],"length":"1"}',
    '{"steps":[500,null,600],"length":"1"}',
    '{"steps":[10000],"length":"1"}',
    '{"steps":[500],"length":"-1"}',
    '{"steps":[500]}',
    json.dumps({"steps": [*range(1, 18)], "length": "1"}),
)


def test_a_plan_that_is_none_is_refused(two: Any) -> None:
    """Never a candidate for everybody where a few were meant to try it."""
    before = two.record()
    for plan in PLANS:
        assert two.propose("v2", canary=plan).verdict == "plan", plan
    assert two.record() == before


GARBLED = (
    {"canary": 5},
    {"canary": {}},
    {"canary": {"steps": [], "length": "1"}},
    {"canary": {"steps": [500, 100], "length": "1"}},
    {"canary": {"steps": [500], "length": "x"}},
    {"canary": {"steps": [500], "length": "60000", "policy": {"a": 1}}},
    {"canary": None},
    {"share": 0},
    {"share": 10_000},
    {"share": "x"},
    {"share": -1},
    {"share": 0.5},
    {"step": "x"},
    {"step": None},
    {"step": {}},
    {"step_at": "x"},
    {"step_at": None},
    {"step_at": []},
    {"phase": "canary "},
    {"phase": 5},
    {"agreement": "x"},
)


@pytest.mark.parametrize("active", (True, False), ids=("something active", "nothing active"))
def test_r15_a_canary_that_somebody_wrote_over(two: Any, active: bool) -> None:
    """One field of it: it goes on as a canary, or it is lost. It never becomes a commit that nobody has promoted, no script ends in an
    error of Lua, and the next proposal goes its way."""
    for change in GARBLED if active else (row for row in GARBLED if "step_at" in row or "share" in row):
        gen = canary(two, *two.members, plan=WITH_POLICY)
        known = two.record()["active"]
        two.edit(lambda record, change=change: record["cand"].update(change))
        if not active:
            two.edit(lambda record: record.pop("active"))
        assert report(two, two.members[0], gen, 1, group(1), group(1)).verdict == "ok", change
        assert two.ask(Settle()).verdict == "ok", change
        assert two.hold(two.members[1], "digits", "other").verdict == "ok", change
        two.say(two.members[0], gen, FENCED)
        two.say(two.members[1], gen, FENCED)
        state = two.state()
        assert state.phase in ("idle", "canary"), change
        assert (state.active.gen if state.active else None) == (1 if active else None), change
        promote(two, gen, 5000)
        two.ask(Abort("digits", f"a{gen}", gen, "me"))
        assert two.state().cand is None, change
        two.edit(lambda record, known=known: record.update(active=known))
    assert two.flip("v3", *two.members) == gen + 1


UNWATCHED = (
    5,
    [],
    {"gen": "x"},
    {"gen": "1"},
    {"gen": None},
    {"policy": None},
    {"policy": 5},
    {"deadline": "x"},
    {"length": []},
    {"base": 5},
    {"base": "x"},
    {"base": '{"active":5}'},
    {"base": None},
)


def test_r15_a_watch_that_somebody_wrote_over(two: Any) -> None:
    """It goes on, or it is lost: nothing else depends on it."""
    gen = watched(two)
    watch = two.record()["watch"]
    for change in UNWATCHED:
        broken = watch | change if isinstance(change, dict) else change
        two.edit(lambda record, broken=broken: record.update(watch=broken))
        assert report(two, two.members[0], gen, 0, group(0), group(1)).verdict == "ok", change
        assert two.ask(Settle()).verdict == "ok", change
        assert two.state().active.gen == gen, change
        two.registry.snapshot()
    two.edit(lambda record: record.update(watch=watch | {"base": 5}))
    assert two.flip("v3", *two.members) == gen + 1
    assert two.state().watch is None


def test_r15_an_active_generation_without_its_moment(two: Any) -> None:
    """The age of a watch counts from its commit."""
    gen = watched(two)
    for at in ("x", None, {}):
        two.edit(lambda record, at=at: record["active"].update(at=at))
        assert report(two, two.members[0], gen, 0, group(0), group(1)).verdict == "ok"
