"""What operators decide: abort, pin, unpin, rollback (R10, R11)."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from genlock.coordinator.calls import Abort, Call, ManifestOf, Pin, Promote, Rollback, Unpin
from genlock.coordinator.canary import Canary
from genlock.coordinator.reply import BAD, FENCED, READY

DECISIONS = (Abort, Pin, Unpin, Rollback)
every_decision = pytest.mark.parametrize("decision", DECISIONS, ids=[each.__name__ for each in DECISIONS])


@pytest.fixture
def flipped(bench: Any) -> Any:
    """v1 and v2 were committed, in this order; one member holds the model; v3 is the candidate, v4 waits."""
    bench.flip("v1")
    bench.flip("v2")
    (bench.member,) = bench.holders(1)
    bench.propose("v3", request="q3")
    bench.propose("v4", request="q4")
    return bench


def seen(decision: type, gen: int = 2) -> int:
    """The generation that a decision names: abort the candidate's."""
    return gen + 1 if decision is Abort else gen


# --- R10 -------------------------------------------------------------------------------------------------------------


@every_decision
def test_r10_a_decision_sent_twice_is_one(flipped: Any, decision: Any) -> None:
    """The second copy answers what the first one did, also when that is true no more."""
    call: Call = decision("digits", "d", seen(decision), "me", "why")
    first = flipped.ask(call)
    assert first.verdict == "ok"
    before = flipped.keys()
    assert flipped.ask(call).as_answer == first.as_answer
    assert flipped.keys() == before


@every_decision
def test_r10_a_decision_on_another_state_is_refused(flipped: Any, decision: Any) -> None:
    """The operator looked at generation 1 (the candidate: 9), the fleet has moved on: what was meant for that is not done to this.

    A late copy is refused, too, when the state has come about that it names.
    """
    call: Call = decision("digits", "d", 9, "me", "why")
    reply = flipped.ask(call)
    assert (reply.verdict, reply.found) == ("conflict", str(seen(decision)))
    flipped.edit(lambda record: (record["active"].update(gen="9"), record["cand"].update(gen="9")))
    assert flipped.ask(call).verdict == "conflict"
    assert flipped.state().phase == "preparing" and flipped.state().pin is None


#: What every change of a model is sent as, under the request that it is given; the canary of `tried` is generation 3.
CHANGES: dict[str, Callable[[Any, str], Call]] = {
    "abort": lambda bench, request: Abort("digits", request, 3, "me", "why"),
    "pin": lambda bench, request: Pin("digits", request, 2, "me", "why"),
    "unpin": lambda bench, request: Unpin("digits", request, 2, "me", "why"),
    "promote": lambda bench, request: Promote("digits", request, 2, "me", "why", 3, 5000),
    "rollback": lambda bench, request: Rollback("digits", request, 2, "me", "why"),
    "propose": lambda bench, request: bench.proposal("v4", request=request),
}


@pytest.fixture
def tried(bench: Any) -> Any:
    """v1 and v2 were committed, v3 is a canary, and a trainer has the lock."""
    for version in ("v1", "v2"):
        bench.flip(version)
    (bench.member,) = bench.holders(1)
    bench.propose("v3", request="q3", canary=Canary.of("20%", timeout_s=60).encode())
    bench.say(bench.member, 3, READY)
    return bench


@pytest.mark.parametrize("first", CHANGES)
@pytest.mark.parametrize("second", CHANGES)
def test_r10_a_request_is_of_one_change(tried: Any, first: str, second: str) -> None:
    """`pin` and then `unpin` under one id, such as the number of an incident: the second one was told as done, and was not.

    The same change again is answered as it was before, whatever was tried under its id meanwhile.
    """
    call = CHANGES[first](tried, "incident-7")
    done = tried.ask(call)
    assert done.verdict == "ok"
    before = tried.keys()
    other = tried.ask(CHANGES[second](tried, "incident-7"))
    if second == first:
        assert other.as_answer == done.as_answer
    else:
        assert (other.verdict, other.found) == ("reused", first)
    assert tried.keys() == before
    assert tried.ask(call).as_answer == done.as_answer


@pytest.mark.parametrize("first", sorted(CHANGES.keys() - {"unpin", "propose"}))
def test_r10_a_request_that_was_refused_is_of_that_change(tried: Any, first: str) -> None:
    """A late copy of it is still to be refused: another change under its id would be answered with that."""
    tried.edit(lambda record: (record["active"].update(gen="9"), record.pop("cand"), record.update(next="10")))
    assert tried.ask(CHANGES[first](tried, "r")).verdict == "conflict"
    other = tried.ask(Unpin("digits", "r", 9, "me"))
    assert (other.verdict, other.found) == ("reused", first)


def test_r10_a_request_is_of_one_content(tried: Any) -> None:
    """Two files under one id: of the second it was told that it was committed. Whatever becomes of the first, it stays its own."""
    tried.ask(tried.proposal("v4", request="r"))
    for become in ("next", "superseded"):
        reply = tried.ask(tried.proposal("v5", request="r"))
        assert (reply.verdict, reply.found, reply.version) == ("reused", "propose", "v4")
        assert tried.answer("r").state == become
        tried.propose("v6", now=True)
    tried.ask(tried.proposal("v7", request="no", token="wrong"))
    assert tried.ask(tried.proposal("v8", request="no", token="wrong")).verdict == "reused"
    assert tried.ask(tried.proposal("v7", request="no", token="wrong")).verdict == "lock"


@pytest.mark.parametrize(
    ("change", "ends"), (("propose", "committed"), ("propose", "rejected"), ("rollback", "committed"))
)
def test_r10_a_request_is_of_its_change_whatever_has_become_of_it(bench: Any, change: str, ends: str) -> None:
    """Its answer is written again with each step."""
    for version in ("v1", "v2"):
        bench.flip(version)
    (member,) = bench.holders(1)
    bench.lock()
    assert bench.ask(CHANGES[change](bench, "r")).state == "candidate"
    other = Unpin("digits", "r", 2, "me")
    for said in (READY, FENCED) if ends == "committed" else (BAD,):
        assert (bench.ask(other).verdict, bench.ask(other).found) == ("reused", change)
        bench.say(member, 3, said)
    assert bench.answer("r").state == ends
    assert (bench.ask(other).verdict, bench.ask(other).found) == ("reused", change)


@pytest.mark.parametrize("change", ("propose", "rollback"))
def test_r10_a_request_is_of_its_change_in_a_new_epoch_too(bench: Any, change: str) -> None:
    """What was in work is aborted with its epoch."""
    for version in ("v1", "v2"):
        bench.flip(version)
    bench.holders(1)
    bench.lock()
    assert bench.ask(CHANGES[change](bench, "r")).state == "candidate"
    bench.lose()
    assert bench.answer("r").state == "aborted"
    assert bench.ask(Unpin("digits", "r", 2, "me")).found == change


#: A change, others that are not what it was asked for, and others that are answered as it was: they name nothing, or the same. With
#: signing keys the newest way back is named as `to`, and is another one by the time that the same call comes again.
ASKED: dict[str, tuple[Call, tuple[Call, ...], tuple[Call, ...]]] = {
    "rollback": (
        Rollback("digits", "r", 2, "me", to=1, asked=1),
        (Rollback("digits", "r", 2, "me", to=2, asked=2),),
        (Rollback("digits", "r", 2, "me"), Rollback("digits", "r", 2, "me", to=2)),
    ),
    "the way back": (
        Rollback("digits", "r", 2, "me", to=1),
        (Rollback("digits", "r", 2, "me", to=2, asked=2),),
        (Rollback("digits", "r", 2, "me", to=1, asked=1), Rollback("digits", "r", 3, "me", to=2)),
    ),
    "abort": (
        Abort("digits", "r", 3, "me", asked=3),
        (Abort("digits", "r", 4, "me", asked=4),),
        (Abort("digits", "r", 4, "me"),),
    ),
    "promote": (
        Promote("digits", "r", 2, "me", gen=3, share=5000, asked=3),
        (
            Promote("digits", "r", 2, "me", gen=3, share=6000),
            Promote("digits", "r", 2, "me", gen=3),
            Promote("digits", "r", 2, "me", gen=4, share=5000, asked=4),
        ),
        (Promote("digits", "r", 2, "me", gen=4, share=5000),),
    ),
    "promote to all": (
        Promote("digits", "r", 2, "me", gen=3),
        (Promote("digits", "r", 2, "me", gen=3, share=5000),),
        (Promote("digits", "r", 3, "me", gen=3, asked=3),),
    ),
}


@pytest.mark.parametrize("change", ASKED)
def test_r10_a_request_is_of_what_was_asked_for(tried: Any, change: str) -> None:
    """A rollback to 1 and then to 2 under one id, such as the number of an incident: the second one was told as done, and was not."""
    first, others, same = ASKED[change]
    done = tried.ask(first)
    assert done.verdict == "ok"
    before = tried.keys()
    for call in others:
        reply = tried.ask(call)
        assert (reply.verdict, reply.found) == ("reused", first.script), call
        assert (reply.target, reply.generation) == (done.target, done.generation)
        assert reply.share == getattr(first, "share", None), "0 is all of them"
    for call in (first, *same):
        assert tried.ask(call).as_answer == done.as_answer, call
    assert tried.keys() == before


@pytest.mark.parametrize(
    ("first", "verdict", "other"),
    (
        (Rollback("digits", "r", 2, "me", to=9, asked=9), "nowhere", Rollback("digits", "r", 2, "me", to=1, asked=1)),
        (Rollback("digits", "r", 9, "me", to=1, asked=1), "conflict", Rollback("digits", "r", 2, "me", to=2, asked=2)),
        (Abort("digits", "r", 9, "me", asked=9), "conflict", Abort("digits", "r", 3, "me", asked=3)),
        (Promote("digits", "r", 2, "me", gen=3, share=1000), "nowhere", Promote("digits", "r", 2, "me", gen=3)),
        (
            Promote("digits", "r", 2, "me", gen=9, share=5000, asked=9),
            "conflict",
            Promote("digits", "r", 2, "me", gen=3, share=5000, asked=3),
        ),
    ),
)
def test_r10_what_was_refused_is_of_what_was_asked_for_too(tried: Any, first: Any, verdict: str, other: Any) -> None:
    assert tried.ask(first).verdict == verdict
    assert (tried.ask(other).verdict, tried.ask(other).found) == ("reused", first.script)
    assert tried.ask(first).verdict == verdict
    assert tried.state().is_canary and tried.state().cand.share == 2000


@pytest.mark.parametrize("ends", ("committed", "rejected", "aborted"))
def test_r10_a_rollback_keeps_its_target_whatever_has_become_of_it(bench: Any, ends: str) -> None:
    """The way back from what it has made is another one than its own: the same call is not asked that."""
    for version in ("v1", "v2", "v3"):
        bench.flip(version)
    (member,) = bench.holders(1)
    other = Rollback("digits", "r", 3, "me", to=1, asked=1)
    assert bench.ask(Rollback("digits", "r", 3, "me", pin=False)).target == 2
    for said in {"committed": (READY, FENCED), "rejected": (BAD,), "aborted": ()}[ends]:
        assert bench.ask(other).verdict == "reused"
        bench.say(member, 4, said)
    if ends == "aborted":
        bench.lose()
    again = bench.ask(Rollback("digits", "r", 4, "me"))
    assert (again.verdict, again.state, again.target) == ("ok", ends, 2)
    assert (bench.ask(other).verdict, bench.ask(other).target) == ("reused", 2)


@pytest.mark.parametrize(("change", "missing"), (("rollback", "target"), ("abort", "generation"), ("promote", "share")))
def test_r10_an_answer_that_does_not_say_what_was_asked_for_is_given(tried: Any, change: str, missing: str) -> None:
    """An older program wrote it, or somebody has."""
    first, (other, *_), _ = ASKED[change]
    tried.ask(first)
    answer = json.loads(tried.field("generations", "digits\0r\0r"))
    assert answer.pop(missing)
    tried.raw("HSET", "generations", "digits\0r\0r", json.dumps(answer))
    assert tried.ask(other).verdict == "ok"


def test_r10_an_answer_that_does_not_say_of_what_it_is_is_given(flipped: Any) -> None:
    """An older program wrote it, before answers said so."""
    flipped.ask(Pin("digits", "p", 2, "me"))
    answer = json.loads(flipped.field("generations", "digits\0r\0p"))
    assert answer.pop("verb") == "pin"
    flipped.raw("HSET", "generations", "digits\0r\0p", json.dumps(answer))
    assert flipped.ask(Unpin("digits", "p", 2, "me")).verdict == "ok"
    assert flipped.ask(flipped.proposal("v9", request="p")).verdict == "ok"


@every_decision
def test_a_decision_on_a_model_that_nobody_published(bench: Any, decision: Any) -> None:
    assert bench.ask(decision("unheard", "d", 0, "me")).verdict == "unknown-model"
    assert b"unheard" not in bench.row("models")


# --- abort -----------------------------------------------------------------------------------------------------------


def test_r11_abort_stops_the_candidate_only(flipped: Any) -> None:
    """What waits takes its place, in the same script; who proposed it hears who stopped it and why."""
    reply = flipped.ask(Abort("digits", "a", 3, "bob", "wrong data"))
    assert (reply.verdict, reply.generation, reply.version) == ("ok", 3, "v3")
    answer = flipped.answer("q3")
    assert (answer.state, answer.generation, answer.why, answer.worker) == ("aborted", 3, "wrong data", "bob")
    state = flipped.state()
    assert (state.cand.gen, state.cand.version, state.waits, state.active.gen) == (4, "v4", None, 2)
    assert flipped.ask(Abort("digits", "a2", 4, "bob")).verdict == "ok"
    assert flipped.answer("q4").why == "no reason given"
    assert flipped.ask(Abort("digits", "a3", 4, "bob")).found == "0", "there is none any more"


def test_abort_while_fencing(flipped: Any) -> None:
    """Workers that have fenced hear at the next reply that it is over, and unfence; their late answers change nothing."""
    flipped.say(flipped.member, 3, READY)
    assert flipped.state().phase == "fencing"
    flipped.ask(Abort("digits", "a", 3, "bob"))
    state = flipped.say(flipped.member, 3, FENCED).states["digits"]
    assert (state.phase, state.active.gen, state.cand.gen) == ("preparing", 2, 4)


# --- pin, unpin ------------------------------------------------------------------------------------------------------


def test_r11_a_pin_stops_the_candidate_and_what_waits(flipped: Any) -> None:
    """Pinned means: it stays at this one. What is in work would take it away."""
    assert flipped.ask(Pin("digits", "p", 2, "alice", "incident 7")).generation == 2
    state = flipped.state()
    assert (state.phase, state.waits, state.active.gen) == ("idle", None, 2)
    assert (state.pin["by"], state.pin["why"], state.pin["gen"]) == ("alice", "incident 7", "2")
    assert flipped.answer("q3").state == "aborted" and flipped.answer("q3").why == "pinned by alice"
    assert flipped.answer("q4").state == "superseded"
    assert flipped.propose("v5").verdict == "pinned"
    assert flipped.log()[-1] == "pinned"


def test_unpin_lets_proposals_in_again(flipped: Any) -> None:
    """Unpinning what is not pinned is done already."""
    flipped.ask(Pin("digits", "p", 2, "alice"))
    revision = flipped.state().rev
    assert flipped.ask(Unpin("digits", "u", 2, "alice", "over")).generation == 2
    assert flipped.state().pin is None and flipped.state().rev == revision + 1
    assert flipped.ask(Unpin("digits", "u2", 2, "alice")).verdict == "ok"
    assert flipped.state().rev == revision + 1
    assert flipped.propose("v5").verdict == "ok"


def test_a_pin_of_nothing_active(bench: Any) -> None:
    """A model whose first proposal was rejected has nothing to stay at, and can be kept so."""
    (member,) = bench.holders(1)
    bench.propose("v1")
    bench.say(member, 1, BAD)
    assert bench.ask(Pin("digits", "p", 0, "alice")).verdict == "ok"
    reply = bench.propose("v2")
    assert (reply.verdict, reply.generation) == ("pinned", None)


# --- rollback --------------------------------------------------------------------------------------------------------


def back(bench: Any, *members: str, **how: Any) -> int:
    """A rollback of what is active, through to its commit: the generation that it went to."""
    serial = bench.state().rev
    reply = bench.ask(Rollback("digits", f"back-{serial}", bench.state().active.gen, "me", **how))
    assert reply.verdict == "ok", reply
    for said in (READY, FENCED):
        for member in members:
            bench.say(member, reply.generation, said)
    assert bench.state().active.gen == reply.generation
    return int(reply.target)


def test_r11_a_rollback_is_a_new_generation_of_an_old_version(flipped: Any) -> None:
    """It needs no lock, stops what is in work, loads like any other, and pins: the trainer's next save would undo it."""
    reply = flipped.ask(Rollback("digits", "r", 2, "bob", "accuracy fell"))
    assert (reply.verdict, reply.state, reply.generation, reply.version, reply.target) == (
        "ok",
        "candidate",
        4,
        "v1",
        1,
    )
    assert flipped.answer("q3").why == "rolled back by bob"
    assert flipped.answer("q4").state == "superseded"
    state = flipped.state()
    assert (state.cand.rollback, state.cand.by, state.pin["gen"], state.pin["why"]) == (
        "1",
        "bob",
        "4",
        "accuracy fell",
    )
    assert flipped.ask(ManifestOf("digits", 4)).manifest == '{"of":"v1"}'
    flipped.say(flipped.member, 4, READY)
    flipped.say(flipped.member, 4, FENCED)
    active = flipped.state().active
    assert (active.gen, active.version) == (4, "v1")
    answer = flipped.answer("r")
    assert (answer.state, answer.generation) == ("committed", 4)
    assert flipped.outcome(4)["rollback"] == "1"
    assert flipped.propose("v5").verdict == "pinned"


def test_r11_a_rollback_without_a_pin(flipped: Any) -> None:
    flipped.ask(Rollback("digits", "r", 2, "bob", pin=False))
    assert flipped.state().pin is None
    assert flipped.propose("v5").state == "next"


def test_r11_a_pinned_model_can_be_rolled_back(flipped: Any) -> None:
    """The pin moves along, with the newest reason."""
    flipped.ask(Pin("digits", "p", 2, "alice", "look"))
    assert back(flipped, flipped.member) == 1
    assert flipped.state().pin["why"] == "rollback to 1"
    assert flipped.state().pin["gen"] == str(flipped.state().active.gen)


def test_r11_rollbacks_do_not_play_ping_pong(bench: Any) -> None:
    """v1, v2, v3; twice "back": to v2, and then to v1, not to v3, which was left for a reason; then there is nowhere to go.

    With one more publish there is something to leave again: the way back from v4 is v1, which was active before it.
    """
    (member,) = bench.holders(1)
    for version in ("v1", "v2", "v3"):
        bench.flip(version, member)
    assert back(bench, member, pin=False) == 2
    assert back(bench, member, pin=False) == 1
    reply = bench.ask(Rollback("digits", "r", bench.state().active.gen, "me"))
    assert reply.verdict == "nowhere" and "nothing else was committed before it" in reply.why
    assert bench.state().pin is None and bench.state().phase == "idle"
    fifth = bench.state().active.gen
    bench.flip("v4", member)
    assert back(bench, member, pin=False) == fifth
    assert bench.state().active.version == "v1"


def test_r11_a_version_that_is_published_again_is_not_left_any_more(bench: Any) -> None:
    """Rolled back from v2 by mistake, published it again, and v3 after it: back from v3 is v2."""
    bench.flip("v1")
    bench.flip("v2")
    back(bench, pin=False)
    again = bench.flip("v2")
    bench.flip("v3")
    assert back(bench, pin=False) == again


def test_r11_the_way_back_is_of_another_version(bench: Any) -> None:
    """The same bytes were published three times: back means other bytes, not the generation before."""
    bench.flip("v1")
    for _ in range(3):
        bench.flip("v2")
    assert back(bench, pin=False) == 1


def test_r11_the_way_back_is_not_poisoned(bench: Any) -> None:
    """v2 was found bad after it was committed: neither by default nor by name does anybody go there."""
    for version in ("v1", "v2", "v3"):
        bench.flip(version)
    bench.edit(lambda record: record.update(poison={"v2:": {"why": "NaN", "by": "h", "at": "1"}}))
    reply = bench.ask(Rollback("digits", "r2", 3, "me", to=2))
    assert (reply.verdict, reply.why, reply.version) == ("poisoned", "NaN", "v2")
    assert back(bench, pin=False) == 1


def test_r11_a_rollback_by_number(flipped: Any) -> None:
    """Also to the version that is active, under a new number, and to one that was left."""
    assert back(flipped, flipped.member, to=1) == 1
    assert back(flipped, flipped.member, to=2) == 2
    assert back(flipped, flipped.member, to=2) == 2
    assert flipped.state().active.version == "v2"


@pytest.mark.parametrize("to", (3, 99))
def test_a_rollback_to_what_was_never_committed(flipped: Any, to: int) -> None:
    """Candidates do not count: nobody has answered from them."""
    reply = flipped.ask(Rollback("digits", "r", 2, "me", to=to))
    assert reply.verdict == "nowhere" and "never committed" in reply.why
    assert flipped.state().cand.gen == 3, "and nothing was stopped for it"


def test_a_rollback_to_what_has_no_manifest(flipped: Any) -> None:
    flipped.raw("HDEL", "generations", "digits\x001\0m")
    reply = flipped.ask(Rollback("digits", "r", 2, "me"))
    assert (reply.verdict, reply.why) == ("nowhere", "its manifest is lost")


def test_a_rollback_can_be_rejected(flipped: Any) -> None:
    """The old bytes were damaged meanwhile, or do not load with the new code: what is active stays."""
    gen = flipped.ask(Rollback("digits", "r", 2, "me")).generation
    flipped.say(flipped.member, gen, BAD, why="shape")
    assert flipped.state().active.gen == 2
    assert flipped.answer("r").state == "rejected"
    assert flipped.record()["committed"]["2"].get("left") is None, "it was not left"


def test_a_rollback_without_holders(bench: Any) -> None:
    bench.flip("v1")
    bench.flip("v2")
    reply = bench.ask(Rollback("digits", "r", 2, "me"))
    assert (reply.state, reply.generation, reply.target) == ("committed", 3, 1)


def test_a_rollback_has_its_own_agreement_and_time(bench: Any) -> None:
    bench.flip("v1")
    bench.flip("v2")
    first, _ = bench.holders(2)
    gen = bench.ask(Rollback("digits", "r", 2, "me", agreement=0.5, prepare_ms=7000)).generation
    cand = bench.record()["cand"]
    assert (cand["length"], cand["agreement"]) == ("7000", "0.5")
    bench.say(first, gen, READY)
    bench.run_out()
    assert bench.state().phase == "fencing"


def test_a_rollback_brings_the_manifest_with_its_order_along(flipped: Any) -> None:
    """An operator's signature stands in the manifest of the new generation; that of the old one stays as it was."""
    before = flipped.ask(ManifestOf("digits", 1))
    brought = b'{"version": "v1", "order": "signed"}'
    gen = flipped.ask(Rollback("digits", "r", 2, "me", to=1, manifest=brought)).generation
    found = flipped.ask(ManifestOf("digits", gen))
    assert (found.manifest, found.target) == (brought.decode(), 1), "and Redis says that it is a rollback"
    assert flipped.ask(ManifestOf("digits", 1)).manifest == before.manifest and before.target is None
    flipped.say(flipped.member, gen, READY)
    flipped.say(flipped.member, gen, FENCED)
    assert flipped.ask(ManifestOf("digits", gen)).target == 1, "also when it has become active"


@pytest.mark.parametrize("brought", (b'{"version": "v2"}', b"{}", b"nonsense", b"[]", b'{"version": ["v1"]}', b"\xff"))
def test_a_rollback_with_the_manifest_of_something_else_goes_nowhere(flipped: Any, brought: bytes) -> None:
    reply = flipped.ask(Rollback("digits", "r", 2, "me", to=1, manifest=brought))
    assert (reply.verdict, reply.why) == ("nowhere", "the manifest that was brought along is of another version")
    assert (flipped.state().phase, flipped.state().pin) == ("preparing", None)
