"""Epochs (R6): when data was or may have been lost, a new one begins, closed; nobody of an older one is granted anything."""

import time
from typing import Any

import pytest
from genlock.coordinator.calls import (
    Abort,
    Ask,
    Attach,
    Call,
    Evict,
    Heal,
    Heartbeat,
    Hold,
    Join,
    Leave,
    Lock,
    ManifestOf,
    Open,
    Pin,
    Read,
    Reopen,
    Rollback,
    Say,
    Settle,
    StartTask,
    TaskDone,
    Unpin,
)
from genlock.coordinator.errors import FleetMismatch, SchemaTooNew
from genlock.coordinator.reply import FENCED, NO_EPOCH, READY, Epoch

STAMPED = ("members", "holds", "models", "waiting", "generations")

#: One of each call but propose (the bench makes those), as somebody who knows a busy fleet would send it.
CALLS: list[Call] = [
    Join("{}"),
    Heartbeat("1", 1, ("1",), "{}"),
    Read("digits", "q1"),
    Ask("1", ("digits",)),
    Hold("1", 9, ("other",)),
    ManifestOf("digits", 1),
    Leave("1", died=True),
    Evict("1", "1"),
    Heal("digits", 9, "v9", 1, 9, "{}", "v9:"),
    Reopen("digits", 9, "v9", 1, 9, "{}", "v9:"),
    Lock("digits", "take", "late", "{}", 1000),
    Say("1", "digits", 2, READY),
    Settle(),
    Abort("digits", "late", 2, "me"),
    Pin("digits", "late", 1, "me"),
    Unpin("digits", "late", 1, "me"),
    Rollback("digits", "late", 1, "me"),
    StartTask("late", "clear", "", 1000, "me"),
    TaskDone("1", "3", True),
    Open("me"),
]


def busy(bench: Any) -> None:
    """A fleet with something of everything: active, candidate, next, task, members."""
    bench.propose("v1", request="q1")
    bench.holders(2)
    bench.propose("v2", request="q2")
    bench.propose("v3", request="q3")
    bench.ask(StartTask("t1", "clear", "", 60_000, "me"))


def test_r6_a_brand_new_fleet_is_open_at_once(bench: Any) -> None:
    """The store says that there never was a member: nobody can be answering from memory, so nobody has to be waited for."""
    reply = bench.ask(Join("{}"))
    assert (reply.verdict, reply.open, reply.lease_s) == ("ok", True, 3.0)


def test_r6_a_fleet_that_had_members_begins_closed(bench: Any) -> None:
    """Redis was emptied while a worker, with a lease, hangs: who comes first must not find an open fleet."""
    bench.client.execute_command("FLUSHALL")
    peer = bench.peer(had_member=True, lease_s=7.0)
    reply = peer.ask(Join("{}"))
    assert (reply.verdict, reply.open, reply.lease_s) == ("ok", False, 7.0)


def test_r6_the_first_number_is_from_the_clock_of_the_server(bench: Any) -> None:
    """Nothing is left that could tell a higher number: unix seconds are above what any earlier life of the fleet had."""
    assert abs(bench.epoch.number - time.time()) < 100


def test_r6_a_lower_epoch_does_nothing(bench: Any) -> None:
    """A call was sent in epoch 5, lay in a buffer, and arrives in epoch 6: nothing of it is done, the answer is the epoch."""
    busy(bench)
    old = bench.epoch
    bench.lose("holds")
    bench.ask(Open())
    before = bench.keys()
    for call in CALLS:
        for late in (old, NO_EPOCH, Epoch(bench.epoch.number - 1, bench.epoch.nonce)):
            reply = bench.send(call, late)
            assert (reply.verdict, reply.epoch_id) == ("epoch", bench.epoch), call
    assert bench.keys() == before
    assert not bench.raw("GET", "genlock:{t}:lock:digits:late")


def test_r6_a_caller_with_a_higher_number_tells_of_a_loss(bench: Any) -> None:
    """Redis came back from an older copy of its data: the first caller from the lost epoch ends that, whatever it calls."""
    busy(bench)
    for call in CALLS:
        ahead = Epoch(bench.epoch.number + 40, "lost")
        reply = bench.send(call, ahead)
        assert (reply.verdict, reply.epoch, reply.open) == ("epoch", ahead.number + 1, False), call
        assert list(bench.row("members")) == [b"@"], call
        assert bench.ask(Open()).open
    record = bench.record()
    assert record["active"]["gen"] == "1" and "cand" not in record and "waits" not in record


def test_r6_an_equal_number_with_another_nonce_is_another_epoch(bench: Any) -> None:
    """Two servers began an epoch of the same number, each on its own: they have not the same memory."""
    busy(bench)
    for call in CALLS:
        here = bench.epoch
        reply = bench.send(call, Epoch(here.number, "elsewhere"))
        assert (reply.verdict, reply.epoch, reply.open) == ("epoch", here.number + 1, False), call
        assert reply.nonce not in ("", here.nonce, "elsewhere"), call


@pytest.mark.parametrize("key", ("fleet", *STAMPED))
def test_r6_a_key_of_a_wrong_type_is_deleted_and_ends_the_epoch(bench: Any, key: str) -> None:
    """Somebody wrote over a key: that is a loss like any other, not an error for ever, whatever is called next."""
    busy(bench)
    for call in CALLS[("fleet", *STAMPED).index(key) :: 6]:
        old = bench.epoch
        bench.spoil(key)
        reply = bench.send(call, old)
        assert (reply.verdict, reply.open) == ("epoch", False) and reply.epoch > old.number, call
        stamp = f"{reply.epoch}:{reply.nonce}".encode()
        assert all(bench.field(name, "@") == stamp for name in STAMPED), call
        assert bench.send(Join("{}"), reply.epoch_id).verdict == "ok"


@pytest.mark.parametrize("key", STAMPED)
@pytest.mark.parametrize("loss", ("missing", "spoiled", "unstamped", "other", "newer"))
def test_r6_each_key_carries_the_epoch(bench: Any, key: str, loss: str) -> None:
    """One key of five was lost, replaced, or comes from elsewhere: the others are whole, and still nothing is granted."""
    bench.holders(1)
    old = bench.epoch
    newer = old.number + 7
    if loss == "missing":
        bench.raw("DEL", key)
    elif loss == "spoiled":
        bench.spoil(key)
    elif loss == "unstamped":
        bench.raw("HDEL", key, "@")
    else:
        bench.raw("HSET", key, "@", f"{newer}:x" if loss == "newer" else f"{old.number}:x")
    reply = bench.send(Heartbeat("1", 0), old)
    assert (reply.verdict, reply.open) == ("epoch", False)
    assert reply.epoch == (newer if loss == "newer" else old.number) + 1
    assert bench.send(Heartbeat("1", 0), reply.epoch_id).verdict == "unknown"


@pytest.mark.parametrize("field", ("epoch", "nonce", "open", "lease", "revision", "beat", "ids", "deadline", "id"))
@pytest.mark.parametrize("how", ("missing", "wrong"))
def test_r6_each_field_of_the_fleets_record_is_needed(bench: Any, field: str, how: str) -> None:
    """Half a record is none: what could be read of it is not built upon."""
    bench.holders(1)
    old = bench.epoch
    if how == "missing":
        bench.raw("HDEL", "fleet", field)
    elif field in ("id", "nonce"):
        bench.raw("HSET", "fleet", field, "another")
    else:
        bench.raw("HSET", "fleet", field, "nonsense")
    reply = bench.send(Heartbeat("1", 0), old)
    if how == "wrong" and field == "id":
        assert reply.verdict == "foreign"
    else:
        assert reply.verdict == "epoch" and reply.epoch > old.number and not reply.open


def test_r6_all_is_lost(bench: Any) -> None:
    """FLUSHALL under a running fleet.

    worker      heartbeat in epoch 5                    ─▶ a new epoch, above 5 and closed, with the worker's lease
    trainer     (its store says: there was a member)    ─▶ meets the same epoch
    """
    busy(bench)
    old = bench.epoch
    bench.client.execute_command("FLUSHALL")
    reply = bench.send(Heartbeat("1", 0), old)
    assert (reply.verdict, reply.open, reply.lease_s) == ("epoch", False, 3.0)
    assert reply.epoch > old.number
    assert bench.epoch == reply.epoch_id
    assert bench.record() == {} and bench.log() == ["epoch"]


def test_r6_who_was_a_member_opens_nothing_by_a_virgin_store(bench: Any) -> None:
    """The store's folder was made anew and says "never had a member"; the caller comes from an epoch all the same."""
    assert bench.epoch.number
    bench.client.execute_command("FLUSHALL")
    reply = bench.send(Join("{}"), Epoch(5, "known"))
    assert (reply.verdict, reply.open) == ("epoch", False)


def test_r6_a_number_above_the_clock(bench: Any) -> None:
    """The server's clock is behind the epochs of before: the caller's number counts then."""
    bench.client.execute_command("FLUSHALL")
    assert bench.send(Join("{}"), Epoch(2**52, "known")).epoch == 2**52 + 1


def test_r6_another_run_id_counts_in_attach_only(bench: Any) -> None:
    """A connection that is older than the restart cannot have survived it, so only who connects compares.

    server      restarts with all its data                      (run id of before: in the fleet's record)
    worker      a call that is still on its way                 ─▶ is executed in the old epoch
    worker      connects, attach                                ─▶ the run id is another: new epoch
    """
    member = bench.join()
    old = bench.epoch
    bench.raw("HSET", "fleet", "run", "the run before")
    assert bench.send(Heartbeat(member, 0), old).verdict == "ok"
    reply = bench.send(Attach(), old)
    assert (reply.verdict, reply.epoch, reply.open) == ("epoch", old.number + 1, False)
    assert bench.send(Attach(), reply.epoch_id).verdict == "ok"


def test_r6_attach_of_a_caller_without_an_epoch(bench: Any) -> None:
    """It notices a restart, too; without one it changes nothing."""
    old = bench.epoch
    before = bench.keys()
    assert bench.send(Attach(), NO_EPOCH).epoch_id == old
    assert bench.keys() == before
    bench.raw("HSET", "fleet", "run", "the run before")
    assert bench.send(Attach(), NO_EPOCH).epoch == old.number + 1


def test_r6_closed_means_no_lease_and_no_change(bench: Any) -> None:
    """Members beat and hold, so that the fleet is there when it opens; nothing is granted, decided or committed before."""
    gen = bench.flip("v1")
    bench.lose()
    member = bench.holders(1)[0]
    assert not bench.ask(Heartbeat(member, 1)).open
    assert bench.propose("v2", request="p").verdict == "closed"
    assert bench.ask(Rollback("digits", "r", gen, "me")).verdict == "closed"
    assert bench.ask(Pin("digits", "p2", gen, "me")).verdict == "closed"
    assert bench.ask(Unpin("digits", "u", gen, "me")).verdict == "closed"
    assert bench.ask(Abort("digits", "a", gen, "me")).verdict == "closed"
    assert bench.ask(StartTask("t", "clear", "", 1000, "me")).verdict == "closed"
    assert bench.ask(Settle()).verdict == "ok"
    assert bench.answer("p") is None, "a refusal as closed is not remembered: the same proposal is sent again"
    bench.ask(Open())
    assert bench.propose("v2", request="p").verdict == "ok"


def test_r6_nothing_is_committed_while_closed(bench: Any) -> None:
    """A candidate that somehow stands in a closed fleet waits, however often its last member answers or leaves."""
    member = bench.holders(1)[0]
    gen = bench.propose("v1").generation
    bench.raw("HSET", "fleet", "open", "0")
    bench.say(member, gen, READY)
    assert bench.state().phase == "preparing"
    bench.run_out()
    assert bench.state().phase == "preparing"


def test_r6_open_names_its_epoch(bench: Any) -> None:
    """An open that was sent in one epoch comes late, into the next, whose members have not been watched.

    watcher     epoch 6 watched for a lease, open(6) ─▶ lies in a buffer
    Redis       loses data again: epoch 7, closed
    the copy    open(6) arrives                      ─▶ nothing
    """
    six = bench.lose()
    seven = bench.lose()
    assert bench.send(Open(), six).verdict == "epoch"
    assert not bench.ask(Join("{}")).open
    assert bench.send(Open("w"), seven).open
    assert bench.send(Open("w"), seven).verdict == "ok"
    assert bench.log().count("open") == 1


def test_r6_opening_is_a_new_revision_and_hinted(bench: Any) -> None:
    epoch = bench.lose()
    before = bench.ask(Read("digits")).revision
    with bench.listening() as heard:
        assert bench.ask(Open()).revision == before + 1
        assert heard() == [f"{epoch.number} {before + 1} "]


def test_r6_a_new_epoch_is_hinted(bench: Any) -> None:
    old = bench.epoch
    with bench.listening() as heard:
        epoch = bench.lose()
        assert heard() == [f"{epoch.number} 1 "]
    assert epoch.number == old.number + 1


def test_r6_what_was_in_work_is_aborted(bench: Any) -> None:
    """Who proposed hears what became of it; a worker that still loads it hears that it is gone."""
    busy(bench)
    bench.lose()
    for request, gen in (("q2", 2), ("q3", None)):
        answer = bench.answer(request)
        assert answer and (answer.state, answer.generation, answer.why) == ("aborted", gen, "a new epoch began")
    assert bench.outcome(2)["outcome"] == "aborted"
    state = bench.state()
    assert (state.phase, state.cand, state.waits) == ("idle", None, None)
    assert bench.entries() == {} and bench.ask(Join("{}")).tasks == {}
    bench.ask(Open())
    assert bench.propose("v4").generation == 3, "no number is given twice"


def test_r6_what_is_decided_outlives_the_epoch(bench: Any) -> None:
    """Active, pin, poison and the ways back are not less true because members have to join again."""
    first, second = bench.flip("v1"), bench.flip("v2")
    bench.ask(Pin("digits", "p", second, "me", "because"))
    bench.edit(lambda record: record.update(poison={"v9:": {"why": "nan"}}))
    before = bench.record()
    bench.lose("members")
    after = bench.record()
    assert after["rev"] == "1"
    assert {k: v for k, v in after.items() if k != "rev"} == {k: v for k, v in before.items() if k != "rev"}
    assert bench.ask(ManifestOf("digits", first)).manifest == '{"of":"v1"}'
    bench.ask(Open())
    assert bench.ask(Rollback("digits", "r", second, "me")).target == first


def test_r6_an_unreadable_record_is_left_behind(bench: Any) -> None:
    """It counts as missing, and heals; the records beside it are kept."""
    bench.flip("v1")
    bench.flip("v1", model="other")
    bench.raw("HSET", "models", "digits", "{half a rec")
    assert bench.state().active is None
    bench.lose()
    assert set(bench.row("models")) == {b"@", b"other"}


@pytest.mark.parametrize(
    "spoiled",
    (
        {"active": {"gen": "x", "version": 3}, "cand": [1], "waits": 7, "pin": "no", "poison": 3, "committed": None},
        {"active": None, "cand": {"gen": "2"}, "waits": None, "pin": None, "poison": None},
        {"active": [], "cand": None},
    ),
)
def test_r6_a_record_with_parts_of_a_wrong_form_is_used_without_them(bench: Any, spoiled: dict[str, Any]) -> None:
    """Somebody edited a record by hand: no call of anybody fails for it, and the next flip goes through."""
    member = bench.holders(1)[0]
    bench.flip("v1", member)
    bench.edit(lambda record: record.update(spoiled))
    state = bench.state()
    assert (state.active, state.phase, state.pin, state.poison) == (None, "idle", None, None)
    assert bench.flip("v2", member) == 2
    bench.lose()
    assert bench.state().active.gen == 2


def test_r6_the_lease_is_the_fleets(bench: Any) -> None:
    """A caller whose store says otherwise is told the fleet's, and it outlives an epoch."""
    bench.ask(Attach())
    peer = bench.peer(lease_s=50.0)
    assert peer.ask(Join("{}")).lease_s == 3.0
    epoch = peer.epoch
    bench.raw("DEL", "waiting")
    assert peer.send(Join("{}"), epoch).lease_s == 3.0


def test_r6_members_of_before_are_unknown(bench: Any) -> None:
    """A worker that took a lease in the epoch before gets nothing under its id of then, and no other call makes it a member."""
    member = bench.holders(1)[0]
    bench.lose()
    bench.ask(Open())
    assert bench.ask(Heartbeat(member, 1)).verdict == "unknown"
    assert bench.ask(Ask(member, ("digits",))).verdict == "unknown"
    assert bench.ask(Hold(member, 5, ("digits",))).verdict == "unknown"
    assert bench.say(member, 1, FENCED).verdict == "unknown"
    assert list(bench.row("members")) == [b"@"]
    assert bench.row("workers") == {}, "what people read of a member goes with it"


def test_another_fleet_under_the_same_name_is_refused(bench: Any) -> None:
    """Two stores, one name, one Redis: neither may touch what the other has."""
    bench.flip("v1")
    before = bench.keys()
    peer = bench.peer(fleet_id="0" * 32)
    with pytest.raises(FleetMismatch, match=r"two fleets share one name, or GENLOCK_STORE is not the folder") as raised:
        peer.ask(Join("{}"))
    assert (raised.value.expected, raised.value.found) == ("0" * 32, "f" * 32)
    assert peer.send(Open(), bench.epoch).verdict == "foreign"
    assert bench.keys() == before


@pytest.mark.parametrize("rest", ("as known", "unknown"))
def test_a_newer_schema_is_refused(bench: Any, rest: str) -> None:
    """An older program meets what a newer one wrote: it says so and changes nothing, even if it understands nothing else."""
    bench.flip("v1")
    if rest == "unknown":
        bench.raw("DEL", "fleet")
    bench.raw("HSET", "fleet", "schema", "2")
    before = bench.keys()
    with pytest.raises(SchemaTooNew, match="has schema 2 in Redis, this genlock knows up to 1"):
        bench.ask(Join("{}"))
    assert bench.keys() == before
