"""Healing forward (R7): what workers were told is active comes back after a loss; no older content goes over newer, no number back."""

from dataclasses import fields, replace
from typing import Any

import pytest
from genlock.coordinator.calls import Heal, ManifestOf, Open, Propose, Read, Reopen, Rollback
from genlock.coordinator.reply import READY, Epoch


@pytest.fixture
def lost(bench: Any) -> Any:
    """A fleet that knows nothing and is closed: Redis was emptied under its workers, who last heard epoch 100."""
    bench.client.execute_command("FLUSHALL")
    bench.registry = bench.peer(had_member=True)
    assert not bench.ask(Read("digits")).open
    return bench


def told(gen: int, version: str, *, committed: int = 100, heard: int = 100, **other: Any) -> Heal:
    return Heal("digits", gen, version, committed, heard, f"manifest of {version}", f"{version}:", **other)


def again(call: Heal) -> Reopen:
    return Reopen(**{field.name: getattr(call, field.name) for field in fields(call)})


def test_r7_a_heal_restores_whole(lost: Any) -> None:
    """Manifest, pin, poison, and the number behind which the next proposal goes on."""
    pin, poison = (
        {"by": "alice", "why": "incident", "at": "1", "gen": "7"},
        {"v6:": {"why": "nan", "by": "h", "at": "2"}},
    )
    with lost.listening() as heard:
        state = lost.ask(told(7, "v7", pin=pin, poisoned=poison)).states["digits"]
        assert heard() == [f"{lost.epoch.number} {state.rev} digits"]
    assert (state.active.gen, state.active.version, state.active.epoch, state.active.unproven) == (7, "v7", 100, False)
    assert (state.pin, state.poison) == (pin, poison)
    assert lost.ask(ManifestOf("digits", 7)).manifest == "manifest of v7"
    assert lost.outcome(7)["why"] == "restored from a worker"
    assert lost.log()[-1] == "healed"
    lost.ask(Open())
    lost.edit(lambda record: record.update(pin=None))
    assert lost.flip("v8") == 8
    assert lost.ask(Rollback("digits", "r", 8, "me")).target == 7, "what was restored is a way back like any other"


def test_r10_a_heal_sent_twice_is_one(lost: Any) -> None:
    first = lost.ask(told(7, "v7"))
    before = lost.keys()
    assert lost.ask(told(7, "v7")).states == first.states
    assert {**lost.keys(), "fleet": 0} == {**before, "fleet": 0}
    assert lost.log().count("healed") == 1


@pytest.mark.parametrize("order", ((5, 7), (7, 5)))
def test_r7_the_highest_that_anybody_was_told_wins(lost: Any, order: tuple[int, int]) -> None:
    """Two workers that hang differently far behind give back what each was told, in either order."""
    for gen in order:
        lost.ask(told(gen, f"v{gen}"))
    assert (lost.state().active.gen, lost.state().active.version) == (7, "v7")
    assert lost.record()["next"] == "8"


def test_r7_no_older_content_over_newer(bench: Any) -> None:
    """Redis came back from an old copy, was opened, and something new was committed: that stays, above what the worker has.

    epoch 100   v9 is active as generation 9; a worker holds it, and hangs
    Redis       comes back with generation 4; epoch 101 is opened; v5 is committed as generation 5, in epoch 101
    Redis       loses something else: epoch 102, closed
    worker      wakes: heal(9, heard in epoch 100)   ─▶ v5 stays, as generation 10
    """
    bench.flip("v5")
    bench.lose()
    state = bench.ask(told(9, "v9", committed=90, heard=100)).states["digits"]
    assert (state.active.gen, state.active.version) == (10, "v5")
    assert bench.ask(ManifestOf("digits", 10)).manifest == '{"of":"v5"}'
    assert bench.outcome(10)["why"] == "raised above 9"
    assert bench.ask(told(9, "v9", heard=100)).states["digits"].active.gen == 10, "again: nothing"
    bench.ask(Open())
    assert bench.flip("v6") == 11


def test_r7_what_the_worker_heard_later_counts_over_an_old_copy(bench: Any) -> None:
    """The same, but the worker heard its own active in the epoch of the fleet's record or later: the record is the old copy."""
    bench.flip("v5")
    epoch = bench.epoch.number
    bench.lose()
    state = bench.ask(told(9, "v9", committed=epoch, heard=epoch)).states["digits"]
    assert (state.active.gen, state.active.version, state.active.epoch) == (9, "v9", epoch)


def test_r7_the_same_number_with_another_version_is_raised(bench: Any) -> None:
    """Identity is generation and version: two contents under one number are the worst, whoever is right."""
    bench.flip("v1")
    bench.lose()
    state = bench.ask(told(1, "other", heard=10**12)).states["digits"]
    assert (state.active.gen, state.active.version) == (2, "v1")


def test_r7_what_is_equal_or_lower_changes_no_content(bench: Any) -> None:
    """Who was told the same gives the manifest back if that was lost; who was told an older one gives nothing."""
    bench.flip("v1")
    bench.flip("v2")
    bench.lose()
    bench.raw("HDEL", "generations", "digits\x002\0m")
    before = bench.state()
    assert bench.ask(told(1, "v1", heard=10**12)).states["digits"] == before
    assert bench.ask(told(2, "v2", heard=10**12)).states["digits"] == before
    assert bench.ask(ManifestOf("digits", 2)).manifest == "manifest of v2"
    assert "healed" not in bench.log()
    bench.ask(Open())
    assert bench.flip("v3") == 3


def test_r7_the_next_number_is_above_the_record_and_the_worker(bench: Any) -> None:
    """The fleet has given number 8 to a candidate that was rejected: nobody gives it again."""
    bench.flip("v1")
    bench.edit(lambda record: record.update(next="9"))
    bench.lose()
    bench.ask(told(3, "v3", heard=10**12))
    bench.ask(Open())
    assert bench.flip("v4") == 9


def test_r7_a_heal_counts_only_while_closed(bench: Any) -> None:
    """Open, others answer from what is active: a heal would take it from under them."""
    bench.flip("v1")
    before = bench.keys()
    assert bench.ask(told(9, "v9", heard=10**12)).verdict == "open"
    assert bench.keys() == before


def test_r7_a_fleet_behind_a_worker_is_reopened(bench: Any) -> None:
    """It was opened before this worker could heal it: a new epoch and the heal in one script, closed for a lease.

    worker      hangs, holds generation 9
    others      notice the loss, watch, open; the fleet is at generation 1
    worker      wakes, finds the fleet behind: reopen   ─▶ epoch + 1, closed, generation 9 is active
    a member    heartbeat of the epoch before           ─▶ epoch: it stops answering from memory
    """
    bench.flip("v1")
    (member,) = bench.holders(1)
    old = bench.epoch
    with bench.listening() as heard:
        reply = bench.send(again(told(9, "v9", heard=old.number)), old)
        assert heard() == [f"{old.number + 1} 1 ", f"{old.number + 1} 2 digits"]
    assert (reply.verdict, reply.epoch, reply.open) == ("epoch", old.number + 1, False)
    assert bench.say(member, 1, READY).verdict == "unknown"
    assert (bench.state().active.gen, bench.state().active.version) == (9, "v9")
    before = bench.keys()
    assert bench.send(again(told(9, "v9", heard=old.number)), old).verdict == "epoch", (
        "a late copy is of the epoch before"
    )
    assert bench.keys() == before


def test_r7_reopen_for_a_model_that_the_fleet_does_not_know(bench: Any) -> None:
    old = bench.epoch
    assert bench.send(again(told(9, "v9")), old).epoch == old.number + 1
    assert bench.state().active.gen == 9


def test_r7_reopen_with_another_version_under_the_same_number(bench: Any) -> None:
    bench.flip("v1")
    old = bench.epoch
    assert bench.send(again(told(1, "other", heard=1)), old).epoch == old.number + 1
    assert (bench.state().active.gen, bench.state().active.version) == (2, "v1")


def test_r7_reopen_by_who_is_not_ahead_does_nothing(bench: Any) -> None:
    """Somebody else has healed meanwhile."""
    bench.flip("v1")
    bench.flip("v2")
    before, epoch = bench.keys(), bench.epoch
    for call in (told(2, "v2"), told(1, "v1")):
        reply = bench.send(again(call), epoch)
        assert (reply.verdict, reply.open, reply.states["digits"].active.gen) == ("ok", True, 2)
    assert bench.keys() == before


def test_r7_reopen_of_a_closed_fleet_heals_it(lost: Any) -> None:
    epoch = lost.epoch
    reply = lost.send(again(told(9, "v9")), epoch)
    assert (reply.verdict, reply.epoch_id, reply.states["digits"].active.gen) == ("ok", epoch, 9)


def test_r7_reopen_aborts_what_is_in_work(bench: Any) -> None:
    """The candidate was to replace something that was never to be active again."""
    bench.flip("v1")
    bench.holders(1)
    bench.propose("v2", request="q2")
    bench.send(again(told(9, "v9", heard=10**12)), bench.epoch)
    answer = bench.answer("q2")
    assert (answer.state, answer.generation) == ("aborted", 2)
    assert bench.state().active.version == "v9" and bench.record()["next"] == "10"


def test_r7_the_ways_back_of_before_are_kept(bench: Any) -> None:
    """A restored record keeps what is known of generations below it."""
    bench.flip("v1")
    bench.lose()
    bench.ask(told(5, "v5", heard=10**12))
    bench.ask(Open())
    assert bench.ask(Rollback("digits", "r", 5, "me")).target == 1


def test_r7_a_worker_without_the_manifest_gives_back_the_number(lost: Any) -> None:
    """It was told what is active, and had not heard its manifest yet: nobody could load it; but no number goes back."""
    nothing = replace(told(7, "v7"), manifest="")
    assert lost.ask(nothing).states["digits"].active is None
    assert lost.record()["next"] == "8"
    lost.ask(Open())
    before = lost.epoch
    assert lost.send(again(nothing), before).verdict == "ok", "there is nothing to go behind: no new epoch"
    assert lost.flip("v8") == 8


def test_r7_what_stays_is_raised_above_a_worker_without_the_manifest(bench: Any) -> None:
    """The fleet has something, if older: that is all that can be loaded, and it goes above what the worker was told."""
    bench.flip("v1")
    bench.lose()
    state = bench.ask(replace(told(7, "v7", heard=10**12), manifest="")).states["digits"]
    assert (state.active.gen, state.active.version) == (8, "v1")
    bench.raw("HDEL", "generations", "digits\x008\0m")
    bench.ask(replace(told(8, "v1", heard=10**12), manifest=""))
    assert bench.ask(ManifestOf("digits", 8)).manifest is None, "an empty one is none"


def test_r7_numbers_near_2_53_heal(lost: Any) -> None:
    gen = 2**53 - 10
    state = lost.ask(told(gen, "v", committed=2**52, heard=2**52 + 1)).states["digits"]
    assert (state.active.gen, state.active.epoch) == (gen, 2**52)
    state = lost.ask(told(gen, "other", heard=1)).states["digits"]
    assert (state.active.gen, state.active.version) == (gen + 1, "v")


def test_r6_an_epoch_that_never_was_heals_nothing(lost: Any) -> None:
    """Heal is of an epoch, like everything: one that comes late, into the next, is not executed."""
    here = lost.epoch
    assert lost.send(told(9, "v9"), Epoch(here.number - 1, "before")).verdict == "epoch"
    assert lost.state().active is None


def test_r7_a_proposal_meets_the_healed_fleet(lost: Any) -> None:
    """The trainer's save of during the loss goes in behind what was healed."""
    lost.ask(told(4, "v4"))
    lost.lock()
    call: Propose = lost.proposal("v5", request="q")
    assert lost.ask(call).verdict == "closed"
    lost.ask(Open())
    assert (lost.ask(call).generation, lost.state().active.version) == (5, "v5")


def test_r7_what_was_gone_back_to_is_healed_as_a_rollback(lost: Any) -> None:
    """Healed as anything else, workers that have seen a higher serial would have refused it. Raised above another number it stays one."""
    lost.ask(told(7, "v7", rollback=5))
    assert lost.ask(ManifestOf("digits", 7)).target == 5
    assert lost.outcome(7)["rollback"] == "5"
    lost.ask(told(8, "v6", heard=1))
    assert (lost.state().active.gen, lost.state().active.version) == (9, "v7")
    assert lost.ask(ManifestOf("digits", 9)).target == 5
    lost.ask(told(9, "v7"))
    assert lost.ask(ManifestOf("digits", 9)).target == 5
