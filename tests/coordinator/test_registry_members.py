"""Members: join, heartbeat, hold, leave, evict, and whom a reply names to be watched (R4, R5, R10, R16)."""

import json
from typing import Any

from genlock.coordinator.calls import Ask, Evict, Heartbeat, Hold, Join, Leave, Read, Say, StartTask, TaskDone
from genlock.coordinator.reply import FENCED, READY


def test_join_makes_a_member_that_people_can_read(bench: Any) -> None:
    member = bench.join("h:7")
    assert bench.field("members", member) is not None
    assert json.loads(bench.field("workers", member)) == {"worker": "h:7"}
    assert bench.log() == ["epoch", "joined"]


def test_r10_a_late_copy_of_join_makes_an_id_that_nobody_uses(bench: Any) -> None:
    """The client sent it again after a lost reply: two members, two ids; the one that nobody uses falls silent and is evicted.

    worker      join ─▶ member 1, the reply is lost
    worker      join ─▶ member 2, the reply comes
    a watcher   sees the same beat of 1 for a lease, evicts it
    """
    first, second = bench.ask(Join("{}")), bench.ask(Join("{}"))
    assert first.id != second.id and first.beat != second.beat
    assert bench.ask(Evict(first.id, first.beat)).verdict == "ok"
    assert bench.ask(Heartbeat(second.id, 0)).verdict == "ok"
    assert bench.ask(Join("{}")).id not in (first.id, second.id), "also the id of who is gone is not used again"


def test_r10_no_other_call_creates_a_member(bench: Any) -> None:
    """Somebody was evicted while it hung; whatever it had in its pipe does not bring it back."""
    member = bench.holders(1)[0]
    bench.propose("v1")
    bench.ask(Leave(member))
    for call in (
        Heartbeat(member, 1, (), "{}"),
        Ask(member, ("digits",)),
        Hold(member, 2, ("digits",)),
        Say(member, "digits", 1, READY),
    ):
        assert bench.ask(call).verdict == "unknown"
    bench.ask(TaskDone(member, "1", True))
    for key in ("members", "holds", "waiting"):
        assert list(bench.row(key)) == [b"@"]
    assert bench.row("workers") == {}


def test_a_heartbeat_tells_what_people_read(bench: Any) -> None:
    """Every tenth carries it; the others leave it as it is."""
    member = bench.join("h:1")
    bench.ask(Heartbeat(member, 0, (), '{"worker":"h:1","hits":3}'))
    bench.ask(Heartbeat(member, 0))
    assert json.loads(bench.field("workers", member)) == {"worker": "h:1", "hits": 3}


def test_r10_a_heartbeat_is_refused_when_the_servers_list_is_older(bench: Any) -> None:
    """The server lost the last hold: who goes on beating as if it were known would answer for a model that nobody asks it about."""
    member = bench.holders(1)[0]
    before = bench.keys()
    assert bench.ask(Heartbeat(member, 2)).verdict == "list"
    assert bench.keys() == before
    assert bench.ask(Heartbeat(member, 1)).verdict == "ok"
    assert bench.ask(Heartbeat(member, 0)).verdict == "ok", (
        "the server knows a later list than the caller: its reply is on the way"
    )


def test_r5_evict_compares_the_beat(bench: Any) -> None:
    """A watcher's eviction is late, the member was only slow.

    watcher     sees beat 1 for a lease ─▶ evict(id, 1) lies in a buffer
    member      heartbeat               ─▶ beat 2: it takes another lease
    the copy    evict(id, 1) arrives    ─▶ alive
    """
    reply = bench.ask(Join("{}"))
    late = Evict(reply.id, reply.beat, "w")
    bench.ask(Heartbeat(reply.id, 0))
    assert bench.ask(late).verdict == "alive"
    assert bench.ask(Heartbeat(reply.id, 0)).verdict == "ok"


def test_r5_evict_removes_the_member_and_all_that_is_its(bench: Any) -> None:
    """Twice, too: the second copy finds nothing to do, and does not say that somebody was evicted."""
    bench.flip("v1")
    member, other = bench.holders(2)
    bench.propose("v2")
    beat = bench.field("members", member).decode()
    assert bench.ask(Evict(member, beat, "h:9")).verdict == "ok"
    assert bench.ask(Evict(member, beat, "h:9")).verdict == "ok"
    assert bench.ask(Evict("77", "1")).verdict == "ok"
    for key in ("members", "holds", "workers"):
        assert member.encode() not in bench.row(key)
    assert bench.entries() == {other: "awaited"}
    events = [event for event in bench.registry.log(newest=100) if event.what == "evicted"]
    assert [event.facts for event in events] == [{"member": member, "by": "h:9"}]


def test_r5_a_beat_is_never_used_twice(bench: Any) -> None:
    """Were a beat used again after a rejoin, an old watcher could evict a member that lives.

    Whatever is called, and whoever comes and goes: no number is given to two heartbeats, in one epoch.
    """
    seen: list[int] = []
    for _ in range(3):
        reply = bench.ask(Join("{}"))
        seen.append(int(reply.beat))
        bench.hold(reply.id, "digits")
        bench.ask(Ask(reply.id, ("digits",)))
        seen += [int(bench.ask(Heartbeat(reply.id, 1)).beat) for _ in range(2)]
        bench.ask(Leave(reply.id))
    assert seen == sorted(set(seen))


def test_r16_what_can_grant_anything_writes_but_is_no_beat(bench: Any) -> None:
    """A worker whose runtime died is evicted however much its requests ask; a demoted server refuses every such question."""
    member = bench.holders(1)[0]
    gen = bench.propose("v1").generation
    shown = bench.field("members", member)
    for call in (
        Ask(member, ("digits",)),
        Hold(member, 1, ("digits",)),
        Say(member, "digits", gen, READY),
        TaskDone(member, "9", True),
    ):
        before = int(bench.field("fleet", "beat"))
        assert bench.ask(call).verdict == "ok"
        assert int(bench.field("fleet", "beat")) == before + 1
    assert bench.field("members", member) == shown
    assert bench.ask(Evict(member, shown.decode())).verdict == "ok"


def test_a_read_writes_nothing(bench: Any) -> None:
    """It grants nothing, so a replica may answer it."""
    bench.holders(1)
    bench.propose("v1", request="q")
    before = bench.keys()
    bench.ask(Read("digits", "q", ("1",)))
    assert bench.keys() == before


def test_hold_answers_with_the_states_of_the_list(bench: Any) -> None:
    """Only what the reply names may be installed; a model that the fleet does not know is idle and has nothing."""
    gen = bench.flip("v1")
    member = bench.join()
    states = bench.hold(member, "digits", "unheard").states
    assert states["digits"].active.gen == gen and states["digits"].phase == "idle"
    assert states["unheard"].active is None and states["unheard"].rev == 0
    asked = bench.ask(Ask(member, ("digits", "unheard"))).states
    assert asked == states


def test_r10_a_late_copy_of_hold_changes_nothing(bench: Any) -> None:
    """The reply was lost, the client sent it again, and meanwhile the worker dropped the model.

    worker      hold(1: digits)            executed, its reply is lost
    worker      hold(2: )                  executed: it holds nothing
    the copy    hold(1: digits) arrives    ─▶ old: it must not make a holder of somebody who does not answer
    """
    member = bench.join()
    first = Hold(member, 1, ("digits",))
    assert bench.ask(first).verdict == "ok"
    assert bench.ask(Hold(member, 2, ())).verdict == "ok"
    before = bench.row("holds")
    assert bench.ask(first).verdict == "old"
    assert bench.row("holds") == before


def test_r10_the_same_hold_again_answers_again(bench: Any) -> None:
    """Its reply was lost: the copy's reply counts, and the entry that it made is not made twice."""
    gen = bench.flip("v1")
    bench.holders(1)
    bench.propose("v2")
    member = bench.join()
    call = Hold(member, 1, ("digits",))
    first, second = bench.ask(call), bench.ask(call)
    assert first.states == second.states and second.states["digits"].active.gen == gen
    assert second.states["digits"].cand.late == 1


def test_r4_who_holds_while_fencing_gets_no_entry(bench: Any) -> None:
    """It came after the fence was asked for, so nobody waits for it, and it may not use its lease until that is decided.

    worker 1    ready ─▶ FENCING
    worker 2    hold: the reply shows FENCING, and no entry of its own
    worker 1    fenced ─▶ committed, without a word of worker 2
    """
    old = bench.flip("v1")
    (first,) = bench.holders(1)
    gen = bench.propose("v2").generation
    bench.say(first, gen, READY)
    second = bench.join()
    state = bench.hold(second, "digits").states["digits"]
    assert (state.phase, state.mine, state.active.gen) == ("fencing", None, old)
    assert bench.say(second, gen, READY).states["digits"].mine is None, "its answer makes no entry, either"
    assert bench.say(first, gen, FENCED).states["digits"].active.gen == gen


def test_r4_who_drops_and_holds_again_while_fencing_gets_no_entry(bench: Any) -> None:
    """By the drop it promised not to use its lease for the model; it is as late as anybody."""
    bench.flip("v1")
    first, second = bench.holders(2)
    gen = bench.propose("v2").generation
    bench.say(first, gen, READY)
    bench.say(second, gen, READY)
    bench.hold(second)
    assert bench.hold(second, "digits").states["digits"].mine is None
    bench.say(first, gen, FENCED)
    assert bench.state().active.gen == gen


def test_who_starts_to_hold_while_preparing_is_late(bench: Any) -> None:
    """It loads the candidate and its "ready" counts, but nobody waits for it; then it is fenced like all others."""
    bench.flip("v1")
    (first,) = bench.holders(1)
    gen = bench.propose("v2").generation
    late, later = bench.join(), bench.join()
    state = bench.hold(late, "digits").states["digits"]
    assert (state.mine, state.cand.late, state.cand.awaited) == ("late", 1, 1)
    bench.hold(later, "digits")
    bench.say(late, gen, READY)
    assert bench.state().phase == "preparing"
    bench.say(first, gen, READY)
    assert bench.state().phase == "fencing", "the one that is still late is not waited for"
    bench.say(late, gen, FENCED)
    bench.say(first, gen, FENCED)
    assert bench.state().phase == "fencing", "who held before the fence has a lease: it is waited for, late or not"
    bench.say(later, gen, FENCED)
    assert bench.state().active.gen == gen


def test_a_hold_of_more_models_keeps_the_entries(bench: Any) -> None:
    """A list is whole each time: what was on it before is neither late nor dropped."""
    (member,) = bench.holders(1)
    bench.propose("v1")
    bench.propose("v1", model="other")
    states = bench.hold(member, "digits", "other", "third").states
    assert states["digits"].mine == "awaited"
    assert states["other"].active.gen == 1, "nobody held it: it was committed at once"


def test_r1_who_drops_a_model_is_not_waited_for(bench: Any) -> None:
    """Memory was short while the others were ready: the drop was the last word that was missing."""
    first, second = bench.holders(2)
    gen = bench.propose("v1").generation
    bench.say(first, gen, READY)
    bench.hold(second, "another")
    assert bench.state().phase == "fencing"
    assert bench.entries() == {first: "ready"}


def test_leave_removes_and_moves_on(bench: Any) -> None:
    """A worker goes while it is waited for; its late copy finds nothing."""
    first, second = bench.holders(2)
    gen = bench.propose("v1").generation
    bench.say(first, gen, READY)
    assert bench.ask(Leave(second)).verdict == "ok"
    assert bench.state().phase == "fencing"
    assert bench.ask(Leave(second)).verdict == "ok"
    assert bench.log().count("left") == 1
    assert second.encode() not in bench.row("members")


def test_a_name_is_not_a_part_of_another(bench: Any) -> None:
    """Who holds "a" and "a.b" holds neither "b" nor "a-b", and a candidate of "a" is nothing to the holder of "a.b"."""
    one, two = bench.join(), bench.join()
    bench.hold(one, "a.b", "b-a")
    bench.hold(two, "a")
    bench.propose("v1", model="a")
    assert bench.entries() == {two: "awaited"}
    assert bench.ask(Ask(two, ("a",))).states["a"].cand.awaited == 1


# --- whom a reply names (R5) -----------------------------------------------------------------------------------------


def test_r5_only_who_is_waited_for_is_named(bench: Any) -> None:
    """In PREPARING the awaited ones, in FENCING all that have not fenced; after it nobody."""
    first, second, third = bench.holders(3)
    assert bench.ask(Heartbeat(first, 1)).watch == {}
    gen = bench.propose("v1").generation
    bench.say(first, gen, READY)
    named = bench.ask(Heartbeat(first, 1)).watch
    assert set(named) == {second, third}
    assert all(bench.field("members", member).decode() == beat for member, beat in named.items())
    bench.say(second, gen, READY)
    bench.say(third, gen, READY)
    bench.say(third, gen, FENCED)
    assert set(bench.ask(Read("digits")).watch) == {first, second}
    bench.say(first, gen, FENCED)
    bench.say(second, gen, FENCED)
    assert bench.ask(Heartbeat(first, 1)).watch == {}


def test_r5_who_is_waited_for_by_a_task_is_named(bench: Any) -> None:
    first, second = bench.holders(2)
    task = bench.ask(StartTask("t", "clear", "", 60_000, "me")).task
    bench.ask(TaskDone(first, task, True))
    assert set(bench.ask(Heartbeat(first, 1, (second, first))).watch) == {second}
    bench.ask(TaskDone(second, task, True))
    assert bench.ask(Heartbeat(first, 1, (second,))).watch == {}


def test_r5_at_most_eight_are_named_and_those_watched_already_first(bench: Any) -> None:
    """Were each reply a new draw, nobody would watch anybody for a whole lease."""
    members = bench.holders(20)
    bench.propose("v1")
    watched = tuple(members[3:9])
    for _ in range(3):
        named = bench.ask(Heartbeat(members[0], 1, watched)).watch
        assert len(named) == 8 and set(watched) <= set(named)
    assert len(bench.ask(Heartbeat(members[0], 1, tuple(members))).watch) == 8
    assert "99" not in bench.ask(Read("digits", "", ("99", *watched))).watch


def test_r5_all_are_named_in_time(bench: Any) -> None:
    """The watchers share the work: of many draws each member is in one."""
    members = bench.holders(20)
    bench.propose("v1")
    named: set[str] = set()
    for _ in range(60):
        named |= set(bench.ask(Heartbeat(members[0], 1)).watch)
    assert named == set(members)


def test_r8_a_reply_says_that_a_deadline_has_passed(bench: Any) -> None:
    """It says so to whoever beats or reads, until somebody settles."""
    (member,) = bench.holders(1)
    bench.propose("v1")
    assert not bench.ask(Heartbeat(member, 1)).due and not bench.ask(Read("digits")).due
    bench.raw("HSET", "fleet", "deadline", "1")
    assert bench.ask(Heartbeat(member, 1)).due and bench.ask(Read("digits")).due
    bench.run_out()
    assert not bench.ask(Heartbeat(member, 1)).due
