"""A worker's place in the fleet, rule by rule: replies are values, time is a number."""

from typing import Any

import pytest
from genlock.coordinator.calls import Evict, Heartbeat, Hold, Join, Leave, Open, Settle
from genlock.coordinator.clock import patience_s, usable_s
from genlock.coordinator.reply import NO_EPOCH, Epoch, Reply
from genlock.worker.membership import BACKOFF_FROM_S, BACKOFF_TO_S, DESCRIBE_EVERY, Membership
from genlock.worker.orders import Expelled, Joined

LEASE_S = 3.0
EPOCH = Epoch(1, "n")


def reply(verdict: str = "ok", *, epoch: Epoch = EPOCH, open: bool = True, **more: Any) -> Reply:
    facts: dict[str, Any] = {"epoch": epoch.number, "nonce": epoch.nonce, "open": open, "lease": round(LEASE_S * 1000)}
    return Reply(verdict, **(facts | more))


def newcomer(*, open: bool = True) -> Membership:
    """It has met the epoch, and is no member yet."""
    found = Membership("h:1", lease_s=LEASE_S, chance=lambda: 0.5)
    assert found.meets(reply("epoch", open=open), 100.0) == []
    return found


def joins(membership: Membership, member: str = "1", *, sent: float = 100.0, open: bool = True) -> Join:
    """A membership begins, with a list to send."""
    call = membership.passage("")
    assert isinstance(call, Join)
    joined = membership.take_join(call, reply(id=member, open=open), sent, holds=True)
    assert joined == Joined(member, membership.epoch)
    return call


@pytest.fixture
def membership() -> Membership:
    """It began at 100 s; its list, of `m`, is acknowledged."""
    found = newcomer()
    joins(found)
    assert found.take_hold(sent_list(found), reply())
    return found


def sent_list(membership: Membership, *models: str) -> Hold:
    call = membership.hold(models or ("m",))
    assert call is not None
    return call


# --- R2: the lease -------------------------------------------------------------------------------------------------------


def test_a_lease_runs_from_the_sending_and_is_never_shortened(membership: Membership) -> None:
    """R2: a reply that was long under way grants what is left; an older one than the last takes nothing back."""
    membership.take_beat(reply(), 101.0, 102.5)
    assert membership.lease.deadline == 101.0 + usable_s(LEASE_S)
    membership.take_beat(reply(), 100.5, 103.0)
    assert membership.lease.deadline == 101.0 + usable_s(LEASE_S)


def test_the_fleets_lease_counts_and_not_the_one_it_began_with(membership: Membership) -> None:
    """R2, R6: a watcher goes on waiting for the longer of both: somebody may still have a lease of that length."""
    membership.meets(reply(lease=1000), 101.0)
    membership.take_beat(reply(lease=1000, watch={"8": "4"}), 110.0, 110.0)
    assert membership.lease_s == 1.0 and membership.lease.deadline == 110.0 + usable_s(1.0)
    assert membership.chore(110.0 + patience_s(1.0)) is None
    assert membership.chore(110.0 + patience_s(LEASE_S)) == Evict("8", "4", "h:1")


def test_a_closed_fleet_grants_nothing() -> None:
    """R6: neither to who joins nor to who beats."""
    membership = newcomer(open=False)
    joins(membership, open=False)
    membership.take_beat(reply(open=False), 101.0, 101.0)
    assert membership.is_closed and membership.lease.deadline == float("-inf") and not membership.lease.ended


# --- R5: watching the others ---------------------------------------------------------------------------------------------


def test_a_silent_member_is_evicted_with_the_beat_that_was_seen(membership: Membership) -> None:
    """R5: by this worker's own clock, after a whole lease; never this worker itself."""
    membership.take_beat(reply(watch={"1": "9", "8": "4"}), 101.0, 101.0)
    call = membership.beat(102.0, "")
    assert call is not None and call.watched == ("8",)
    assert membership.chore(101.0 + patience_s(LEASE_S) - 0.01) is None
    assert membership.chore(101.0 + patience_s(LEASE_S)) == Evict("8", "4", "h:1")
    membership.evicted("8")
    assert membership.chore(200.0) is None


def test_a_member_that_beats_is_not_evicted(membership: Membership) -> None:
    """R5."""
    for beat in range(9):
        now = 101.0 + beat * LEASE_S / 3
        membership.take_beat(reply(watch={"8": str(beat)}), now, now)
        assert membership.chore(now) is None


def test_what_is_overdue_is_settled_once(membership: Membership) -> None:
    """R8: nobody drives a candidate; whoever hears that a deadline has passed says so."""
    membership.take_beat(reply(due=True), 101.0, 101.0)
    assert membership.chore(101.0) == Settle()
    membership.settled()
    assert membership.chore(101.0) is None


# --- R6: epochs ------------------------------------------------------------------------------------------------------------


def test_a_new_epoch_voids_what_was_granted(membership: Membership) -> None:
    """R6: id and lease at once; the first epoch of a process is no news, and ends nothing."""
    before, other = membership.lease, Epoch(2, "o")
    assert membership.meets(reply("epoch", epoch=other, open=False), 101.0) == [Expelled("a new epoch began")]
    assert membership.epoch == other and membership.is_closed and membership.id is None and before.ended
    assert not membership.is_listed and isinstance(membership.passage(""), Join)
    fresh = Membership("h:2", lease_s=LEASE_S, chance=lambda: 0.5)
    assert fresh.epoch == NO_EPOCH and not fresh.is_closed


def test_an_epoch_with_the_same_number_and_another_nonce_is_another_one(membership: Membership) -> None:
    """R6."""
    assert membership.meets(reply("epoch", epoch=Epoch(1, "o")), 101.0) == [Expelled("a new epoch began")]


def test_an_epoch_that_was_heard_open_is_not_heard_closed_again(membership: Membership) -> None:
    """R3: the reply that says closed is the older one."""
    membership.meets(reply(open=False), 101.0)
    assert membership.is_open


def test_a_closed_epoch_is_opened_after_it_was_watched() -> None:
    """R6: patience of a lease, and this worker's share of a tenth more; not again when it is open."""
    membership = newcomer(open=False)
    joins(membership, open=False)
    at = 100.0 + patience_s(LEASE_S) + 0.5 * LEASE_S / 10
    assert membership.chore(at - 0.01) is None
    assert membership.chore(at) == Open("h:1")
    membership.meets(reply(), at)
    assert membership.is_open and membership.chore(at) is None


# --- R10: joins, lists -------------------------------------------------------------------------------------------------------


def test_only_the_reply_to_the_last_join_counts_and_once(membership: Membership) -> None:
    """R10: a second copy makes a member that nobody uses; its reply must not lengthen the lease of another membership."""
    first, lease = Join("", 0), membership.lease
    assert membership.take_join(first, reply(id="2"), 105.0, holds=True) is None
    assert membership.id == "1" and membership.lease is lease
    assert membership.expel("evicted") == [Expelled("evicted")]
    assert membership.take_join(first, reply(id="3"), 105.0, holds=True) is None
    second = membership.passage("")
    assert isinstance(second, Join) and second.serial > first.serial
    assert membership.take_join(second, reply(), 105.0, holds=True) is None, "no id: not what the script answers"
    assert membership.take_join(second, reply("foreign", id="4"), 105.0, holds=True) is None
    assert membership.id is None and lease.ended


def test_the_lease_before_never_runs_again(membership: Membership) -> None:
    """R10: a view that a request has read before refers to it."""
    before = membership.lease
    membership.expel("evicted")
    joins(membership, "2", sent=105.0)
    membership.take_beat(reply(), 106.0, 106.0)
    assert before.ended and before.deadline == float("-inf")
    assert membership.lease is not before and membership.lease.deadline == 106.0 + usable_s(LEASE_S)


def test_an_end_is_told_once(membership: Membership) -> None:
    """The reply to a leave is no news, and what was no membership cannot end."""
    assert membership.expel("") == []
    assert membership.expel("evicted") == []


def test_a_list_is_sent_until_it_is_acknowledged(membership: Membership) -> None:
    """R10: the same again under the same counter; what changed since goes under the next one."""
    assert membership.hold(["m"]) is None
    membership.list_changed = True
    first = sent_list(membership, "n", "m")
    assert first == Hold("1", 2, ("m", "n")) == membership.hold(["never looked at"])
    membership.list_changed = True
    second = sent_list(membership, "n")
    assert second == Hold("1", 3, ("n",))
    assert not membership.take_hold(first, reply()), "only the reply to the last one counts"
    assert membership.take_hold(second, reply()) and membership.hold([]) is None


@pytest.mark.parametrize("said_by", ["a beat", "the list"])
def test_a_list_that_the_server_lost_goes_again(membership: Membership, said_by: str) -> None:
    """R10: until a new one is acknowledged nothing counts as listed; a refused beat lengthens no lease."""
    deadline = membership.lease.deadline
    if said_by == "a beat":
        membership.take_beat(reply("list"), 101.0, 101.0)
    else:
        assert not membership.take_hold(Hold("1", 1, ("m",)), reply("old"))
    assert not membership.is_listed and membership.lease.deadline == deadline
    again = sent_list(membership)
    assert again == Hold("1", 2, ("m",))
    assert not membership.take_hold(again, reply("unknown")) and not membership.is_listed
    assert membership.take_hold(again, reply()) and membership.is_listed


def test_a_beat_names_the_acknowledged_list_and_not_the_last(membership: Membership) -> None:
    """R10: the server refuses it if it has an older one, and cannot have one that it has not acknowledged."""
    membership.list_changed = True
    sent_list(membership)
    assert membership.beat(102.0, "") == Heartbeat("1", 1)


def test_who_holds_nothing_has_no_list_to_send() -> None:
    membership = newcomer()
    call = membership.passage("")
    assert isinstance(call, Join)
    membership.take_join(call, reply(id="1"), 100.0, holds=False)
    assert membership.hold([]) is None


# --- R16: beats ----------------------------------------------------------------------------------------------------------------


def test_one_beat_per_third_of_a_lease_and_only_beats_count(membership: Membership) -> None:
    """R16: a list that is acknowledged puts no beat off. The first one comes at a random moment."""
    first = 100.0 + 0.5 * LEASE_S / 3
    assert membership.beat(first - 0.01, "") is None and membership.wake_at(100.0, []) == first
    membership.take_hold(Hold("1", 1, ("m",)), reply())
    assert membership.beat(first, "") == Heartbeat("1", 1)
    membership.take_beat(reply(), first, first + 0.5)
    assert membership.wake_at(first + 0.5, []) == first + LEASE_S / 3
    membership.hurry(first + 0.6)
    assert membership.beat(first + 0.6, "") is not None
    membership.hurry(first + 0.9)
    assert membership.wake_at(first + 0.9, []) == first + 0.6, "hurry never puts one off"


def test_what_people_see_goes_with_every_nth_beat_and_with_the_next_when_it_is_news(membership: Membership) -> None:
    membership.describes = True
    told = [beat.about for _ in range(DESCRIBE_EVERY) if (beat := membership.beat(200.0, "{}"))]
    assert told == ["{}"] + [""] * (DESCRIBE_EVERY - 2) + ["{}"]


# --- when Redis is gone, and the way out --------------------------------------------------------------------------------------


def test_it_is_tried_again_ever_later(membership: Membership) -> None:
    """Promise 5: the lease runs on meanwhile; the first reply ends it."""
    now, waits, deadline = 101.0, [], membership.lease.deadline
    for _ in range(9):
        membership.unreachable(now)
        assert membership.gone and not membership.may_call(membership.retry_at - 0.001)
        waits.append(membership.retry_at - now)
        now = membership.retry_at
        assert membership.may_call(now)
    assert waits[:3] == pytest.approx([BACKOFF_FROM_S, 0.04, 0.08]) and waits[-1] == pytest.approx(LEASE_S / 6)
    assert membership.lease.deadline == deadline
    membership.reached()
    assert not membership.gone and membership.may_call(0.0)
    membership.unreachable(now)
    assert membership.retry_at - now == pytest.approx(BACKOFF_FROM_S)


def test_it_wakes_when_its_lease_runs_out_without_redis(membership: Membership) -> None:
    """Views are stale from then on, which somebody has to publish, however late the next try may be."""
    deadline = membership.lease.deadline
    membership.unreachable(101.0)
    assert membership.wake_at(101.0, [500.0]) == membership.retry_at
    membership.refuse("foreign", deadline - 0.1)
    assert membership.wake_at(deadline - 0.1, []) == deadline
    assert membership.wake_at(deadline, []) == membership.retry_at == deadline - 0.1 + BACKOFF_TO_S


def test_another_fleet_is_looked_at_slowly(membership: Membership) -> None:
    """R6: another fleet's id, or keys that a newer program wrote."""
    membership.unreachable(101.0)
    membership.refuse("schema", 101.0)
    assert membership.refused == "schema" and membership.retry_at == 101.0 + BACKOFF_TO_S
    membership.reached()
    assert membership.refused == ""


@pytest.mark.parametrize("heard", [True, False])
def test_leaving_ends_the_lease_before_redis_is_told(membership: Membership, heard: bool) -> None:
    """R1; without Redis it is over all the same: the watchers will see to it."""
    membership.leave()
    assert membership.lease.ended and not membership.left and membership.passage("") == Leave("1")
    if heard:
        membership.expel("")
    else:
        membership.unreachable(101.0)
    assert membership.left and not membership.may_call(200.0)


def test_who_leaves_does_not_join_any_more() -> None:
    membership = newcomer()
    membership.leave()
    assert membership.left and membership.passage("") is None


def test_a_newcomer_has_something_to_say_at_once() -> None:
    assert newcomer().wake_at(100.0, []) == 100.0
