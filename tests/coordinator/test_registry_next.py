"""What waits behind a candidate, and what stops one (R11)."""

from typing import Any

import pytest
from genlock.coordinator.calls import Abort, Evict, Leave, ManifestOf, Pin
from genlock.coordinator.reply import BAD, FENCED, READY


def test_r11_a_proposal_waits_behind_the_candidate(bench: Any) -> None:
    """It gets its number when it becomes the candidate, in the script that ended the one before."""
    (member,) = bench.holders(1)
    bench.propose("v1", request="q1")
    assert bench.propose("v2", request="q2", manifest=b"two").state == "next"
    assert bench.state().waits == "q2" and bench.ends("q2") == ("ok", "next", None)
    bench.say(member, 1, READY)
    state = bench.say(member, 1, FENCED).states["digits"]
    assert (state.active.gen, state.cand.gen, state.cand.request, state.mine) == (1, 2, "q2", "awaited")
    assert bench.ends("q2") == ("ok", "candidate", 2)
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
    assert bench.ends("q3") == ("ok", "candidate", 2)
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
    assert bench.ends("q2")[2] == gen + 1
    assert bench.outcome(gen)["outcome"] == ("aborted" if how == "aborted" else "rejected")


def test_r11_what_waits_commits_at_once_when_nobody_holds_any_more(bench: Any) -> None:
    """The candidate and the next one end in one script: the commit of the second begins where the first ended."""
    (member,) = bench.holders(1)
    gen = bench.propose("v1", request="q1").generation
    bench.propose("v2", request="q2")
    bench.say(member, gen, READY)
    bench.ask(Leave(member))
    assert bench.ends("q1") == ("ok", "committed", 1)
    assert bench.ends("q2") == ("ok", "committed", 2)
    assert bench.state().active.gen == 2


def test_r11_now_stops_the_candidate(bench: Any) -> None:
    """A fix must not wait for the load of what it mends; what waited is superseded, too."""
    (member,) = bench.holders(1)
    bench.propose("v1", request="q1")
    bench.propose("v2", request="q2")
    reply = bench.propose("v3", request="q3", now=True, by="me")
    assert (reply.state, reply.generation) == ("candidate", 2)
    assert bench.ends("q1") == ("ok", "aborted", 1)
    assert bench.answer("q1").why == "stopped by a proposal that asked for now, by me"
    assert bench.ends("q2") == ("ok", "superseded", None)
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
