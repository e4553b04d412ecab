"""Checks of the rules that are not, or not only, about order: each has an observable of its own and raises AssertionError.

Each is run on the real code, where it must pass, and with its rule switched off, where it must fail (see mutants). `changes`: what is
switched off in the scripts.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace

from endings import a_call_ends, a_lock_expires, a_waiting_publisher_gives_up, fencing_ends, preparing_ends
from genlock.coordinator.calls import (
    KEYS,
    Ask,
    Attach,
    Evict,
    Heal,
    Heartbeat,
    Hold,
    Join,
    Lock,
    Open,
    Propose,
    Say,
    keys_of,
)
from genlock.coordinator.reply import BAD, FENCED, READY
from genlock.worker.membership import Membership
from genlock.worker.orders import Resubscribe
from inprocess import ScriptError
from puppet import LEASE_S, Fleet, Puppet, manifest_of

Changes = Iterable[tuple[str, str]]

# --- R3, R7: what was read while closed, what is put back --------------------------------------------------------------


def a_state_read_while_closed_gives_no_right(changes: Changes = ()) -> None:
    """R3: a heal after the read changes what is active without any fence; the worker must read again after the opening."""
    fleet = Fleet(changes)
    worker = Puppet(fleet).run()
    fleet.propose(1)
    worker.run(LEASE_S)
    fleet.server.run_id = "run-2"  # it restarts
    fleet.caller = replace(fleet.caller, run="run-2")
    fleet.say(Attach())
    worker.run(LEASE_S / 2)
    before = worker.agent.slots["m"].told
    assert before is not None and worker.shows() is None
    other = manifest_of(2)
    fleet.say(
        Heal(
            "m", 2, other.version, fleet.epoch.number - 1, fleet.epoch.number - 1, other.encode().decode(), other.poison
        )
    )
    fleet.say(Open("check"))
    member = worker.agent.member
    assert member is not None
    worker.agent.heard(Heartbeat(member, 1), fleet.say(Heartbeat(member, 1)), fleet.now, fleet.now)
    assert worker.shows() in (None, fleet.active), f"it answers {worker.shows()}, active is {fleet.active}"


def an_older_reply_lifts_no_fence(changes: Changes = ()) -> None:
    """R3: the reply from before the fencing comes after it; the commit may have happened meanwhile."""
    fleet = Fleet(changes)
    worker = Puppet(fleet).run()
    fleet.propose(1)
    worker.run(LEASE_S)
    other = fleet.member("m")
    fleet.propose(2)
    member = worker.agent.member
    assert member is not None and worker.shows() is not None
    ask = Ask(member, ("m",))
    older = fleet.say(ask)
    worker.run(LEASE_S / 2)
    fleet.say(Say(other, "m", 2, READY))
    worker.run(LEASE_S / 2)
    assert worker.agent.slots["m"].state.is_fencing and worker.shows() is None
    worker.agent.heard(ask, older, fleet.now, fleet.now)
    assert worker.shows() is None, f"it answers {worker.shows()} again, though it has said fenced"


def newer_content_stays(changes: Changes = ()) -> None:
    """R7: a worker slept through a loss and a commit. Its generation is the higher number, and the older content."""
    fleet = Fleet(changes, virgin=False)
    lost, newer = manifest_of(1), manifest_of(2)
    fleet.say(Open("check"))
    before = fleet.epoch.number
    fleet.propose(2)
    fleet.server.run_id = "run-2"
    fleet.caller = replace(fleet.caller, run="run-2")
    fleet.say(Attach())
    fleet.say(Heal("m", 7, lost.version, before - 1, before - 1, lost.encode().decode(), lost.poison))
    assert fleet.active == (8, newer.version), (
        f"the heal made {fleet.active} active; {newer.version} was committed later"
    )


# --- R9: the lock fences -------------------------------------------------------------------------------------------------


def who_lost_the_lock_is_refused(changes: Changes = ()) -> None:
    """A trainer was paused while its lock ran out and another one published; it wakes up and proposes what it has."""
    fleet = Fleet(changes)
    fleet.say(Lock("m", "take", "slow", "{}", 1000))
    fleet.pass_time(2.0)
    fleet.propose(2)
    late = manifest_of(1)
    facts = ("late", "slow", late.version, late.poison, late.encode(), 1.0, 10_000, "check")
    assert fleet.say(Propose("m", *facts)).verdict == "lock"
    assert fleet.active == (1, manifest_of(2).version), "older bytes are active, of a trainer that had lost its lock"


# --- R10: twice, late, after others --------------------------------------------------------------------------------------


def a_late_list_changes_nothing(changes: Changes = ()) -> None:
    """The copy of an old list comes after the drop: the fleet must not wait for a holder that holds nothing."""
    fleet = Fleet(changes)
    member = fleet.member("m")
    fleet.say(Hold(member, 2, ()))
    fleet.say(Hold(member, 1, ("m",)))
    assert fleet.propose(1).state == "committed", "the fleet waits for who has dropped it"


def a_late_join_is_nobody(changes: Changes = ()) -> None:
    """The copy of a join makes an id; whoever hears it late must stay who it is."""
    fleet = Fleet(changes)
    worker = Puppet(fleet).run()
    member, lease = worker.agent.member, worker.agent.membership.lease
    again = fleet.say(Join("{}"))
    assert again.id != member
    worker.agent.heard(Join("{}", 0), again, fleet.now, fleet.now)
    assert worker.agent.member == member and worker.agent.membership.lease is lease, "a late copy took its place"


def the_reply_to_an_old_list_acknowledges_nothing(changes: Changes = ()) -> None:
    """The reply to the list without a model must not give the right to what the last list says."""
    fleet = Fleet(changes)
    membership = Membership("w1", lease_s=LEASE_S, chance=lambda: 0.5)
    joined = fleet.say(Join("{}"))
    membership.meets(joined, 0.0)
    membership.take_join(Join("{}", 0), joined, 0.0, holds=True)
    first = membership.hold(["a"])
    assert first is not None
    reply = fleet.say(first)
    membership.list_changed = True
    assert membership.hold(["a", "b"]) is not None
    assert not membership.take_hold(first, reply), "an old reply acknowledges the last list"
    assert membership.hold(["a", "b"]) is not None, "the last list is not sent again"


def a_proposal_twice_is_one(changes: Changes = ()) -> None:
    """A publisher that did not hear the answer sends the same again; and a copy of the first comes later still."""
    fleet = Fleet(changes)
    first = fleet.propose(1)
    second, third = fleet.propose(1), fleet.propose(2)
    late = fleet.propose(1)
    assert (first.generation, second.generation, late.generation) == (1, 1, 1), "the same proposal was made twice"
    assert fleet.active == (third.generation, manifest_of(2).version)


def an_evicted_worker_has_no_lease(changes: Changes = ()) -> None:
    """The lease of a membership ends with it: who was evicted and joins again begins with a new one."""
    fleet = Fleet(changes)
    worker = Puppet(fleet).run()
    before = worker.agent.membership.lease
    fleet.say(Evict(worker.agent.member or "", worker.beat().beat or ""))
    worker.run(LEASE_S / 2)
    assert worker.agent.membership.lease is not before and before.ended and before.deadline < 0


# --- R11: newest waits, not starves --------------------------------------------------------------------------------------


def the_last_proposal_is_active(changes: Changes = ()) -> None:
    """Five proposals while the first is being loaded: in the end the last is active, and those between were told."""
    fleet = Fleet(changes)
    worker = Puppet(fleet).run()
    worker.loads = False
    for content in range(1, 6):
        fleet.propose(content)
        worker.run(LEASE_S / 10)
    worker.loads = True
    job = worker.agent.slots["m"].job
    assert job is not None
    worker.agent.loaded(job, job.key, {})
    worker.run(2 * LEASE_S)
    assert fleet.active is not None and fleet.active[1] == manifest_of(5).version, f"active is {fleet.active}"
    assert [fleet.became(f"request-{n}") for n in (2, 3, 4)] == ["superseded"] * 3
    assert worker.shows() == fleet.active


def frequent_proposals_commit(changes: Changes = ()) -> None:
    """A trainer proposes three times while one load takes its time, again and again: still generations become active."""
    fleet = Fleet(changes)
    worker = Puppet(fleet).run()
    worker.loads = False
    for content in range(1, 31):
        fleet.propose(content)
        worker.run(LEASE_S / 10)
        job = worker.agent.slots["m"].job
        if content % 3 == 0 and job is not None and job.key[0] <= content - 2:
            worker.agent.loaded(job, job.key, {})
            worker.run(LEASE_S / 10)
    assert fleet.active is not None and fleet.active[0] >= 5, f"30 proposals, and active is {fleet.active}"


# --- R12: after the fork -------------------------------------------------------------------------------------------------

#: What the process does before it imports anything of genlock.
PRELUDE = ""
_FORKS = """
import os
from genlock.coordinator.fleet import Fleet
from genlock.worker import ModelCache
from genlock.worker.view import Lease, View, clock

lease = Lease()
lease.extend(clock() + 60)
cache = ModelCache(Fleet("unix:///nowhere/redis.sock", name="sim", store="/nowhere", state_dir="/nowhere"))
cache._views = {"m": View(model="m", payload=None, generation=7, version="v", lease=lease)}
assert cache.get("m").generation == 7
child = os.fork()
if child == 0:
    view = cache._views.get("m")
    os._exit(3 if view is not None and clock() < view.lease.deadline else 0)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def no_child_answers_under_its_parents_lease(changes: Changes = ()) -> None:
    """gunicorn with preload: the parent has answered, and forks. Nobody lengthens, fences or ends the child's copy of the lease."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + _FORKS], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"the child answers under the lease of its parent ({done.returncode}) {done.stderr}"


# --- R13: bad is remembered, a hiccup is not -----------------------------------------------------------------------------


def a_hiccup_is_tried_again(changes: Changes = ()) -> None:
    """No memory for a moment: the candidate is loaded a second later, and the content is not poisoned."""
    fleet = Fleet(changes)
    worker = Puppet(fleet).run()
    worker.ends = "failed"
    fleet.propose(1)
    worker.run(LEASE_S / 5)
    worker.ends = ""
    worker.run(LEASE_S)
    assert fleet.active == (1, manifest_of(1).version) and worker.shows() == fleet.active, f"active is {fleet.active}"


def bad_bytes_are_refused(changes: Changes = ()) -> None:
    """What one worker found bad is rejected at once, and the same bytes are refused until somebody forces them."""
    fleet = Fleet(changes)
    member, _ = fleet.member("m"), fleet.member("m")
    fleet.propose(1)
    fleet.say(Say(member, "m", 1, BAD, {"why": "NaN"}))
    assert fleet.became("request-1") == "rejected", "the fleet goes on with what is bad"
    assert fleet.propose(1, "again").verdict == "poisoned"
    assert fleet.propose(1, "forced", force=True).state == "candidate"


# --- R14: the hint is only a hint ----------------------------------------------------------------------------------------


def a_lost_hint_delays_and_no_more(changes: Changes = ()) -> None:
    """No hint ever comes: each heartbeat carries the counter, and the flip is through within a lease."""
    fleet = Fleet(changes)
    worker = Puppet(fleet).run()
    fleet.propose(1)
    worker.run(LEASE_S)
    assert worker.shows() == (1, manifest_of(1).version) == fleet.active, f"it shows {worker.shows()}"


def a_dead_subscription_is_replaced(changes: Changes = ()) -> None:
    """Replies tell of revisions whose hints stay away: the link is dead, and does not say so."""
    fleet = Fleet(changes)
    worker = Puppet(fleet).run()
    worker.told.clear()
    fleet.propose(1)
    worker.run(2 * LEASE_S / 3 + max(1.0, LEASE_S / 3))
    assert any(isinstance(command, Resubscribe) for command in worker.told), "it goes on listening to nothing"


# --- R15: check, then write ----------------------------------------------------------------------------------------------


def a_wrong_typed_log_loses_no_commit(changes: Changes = ()) -> None:
    """Somebody has overwritten the log, which decides nothing: the last `fenced` commits all the same, with all that follows from it."""
    fleet = Fleet(changes)
    member = fleet.member("m")
    fleet.propose(1)
    fleet.say(Say(member, "m", 1, READY))
    fleet.server.command("SET", keys_of("sim")[KEYS.index("log")], "spoiled")
    try:
        fleet.say(Say(member, "m", 1, FENCED))
    except ScriptError as error:
        raise AssertionError(f"the script stopped half-way: {error}") from error
    assert fleet.active == (1, manifest_of(1).version) and fleet.became("request-1") == "committed"


def a_wrong_typed_key_stops_it_before_it_writes(changes: Changes = ()) -> None:
    """A key of the fleet has a wrong type: that is noticed before anything is written, and a new epoch begins."""
    for name in ("members", "holds", "models", "waiting", "generations"):
        fleet = Fleet(changes)
        member = fleet.member("m")
        fleet.propose(1)
        before = fleet.epoch.number
        key = keys_of("sim")[KEYS.index(name)]
        fleet.server.command("DEL", key)
        fleet.server.command("SET", key, "spoiled")
        try:
            reply = fleet.say(Say(member, "m", 1, READY))
        except ScriptError as error:
            raise AssertionError(f"{name} has a wrong type, and the script stopped half-way: {error}") from error
        assert reply.verdict == "epoch" and reply.epoch > before and not reply.open, f"{name}: {reply.verdict}"


# --- R16: the strict question writes -------------------------------------------------------------------------------------


def a_demoted_server_grants_nothing(changes: Changes = ()) -> None:
    """It does not know of what the new primary has committed, and refuses whatever would give a right to answer."""
    fleet = Fleet(changes)
    member = fleet.member("m")
    fleet.propose(1)
    fleet.server.refuse_writes(True)
    for call in (
        Join("{}"),
        Heartbeat(member, 1),
        Ask(member, ("m",)),
        Hold(member, 1, ("m",)),
        Say(member, "m", 1, READY),
    ):
        try:
            reply = fleet.say(call)
        except ScriptError as error:
            assert str(error).startswith("READONLY")
        else:
            raise AssertionError(f"a demoted server says {reply.verdict} to {call.script}")


def a_refusal_counts_as_gone(changes: Changes = ()) -> None:
    """READONLY and its like: the worker goes on as without Redis, and does not take the refusal for an answer."""
    fleet = Fleet(changes)
    worker = Puppet(fleet).run()
    fleet.propose(1)
    worker.run(LEASE_S)
    fleet.server.refuse_writes(True)
    worker.run(2 * LEASE_S)
    assert worker.agent.gone and worker.shows() is None, f"it still answers {worker.shows()} under a lease"


def a_dead_runtime_is_evicted(changes: Changes = ()) -> None:
    """The thread that beats has died, requests go on asking: they are no sign of life, or the fleet would wait for ever."""
    fleet = Fleet(changes)
    member = fleet.member("m")
    fleet.propose(1)
    beat = fleet.say(Heartbeat(member, 1)).beat or ""
    for _ in range(5):
        fleet.pass_time(LEASE_S / 4)
        fleet.say(Ask(member, ("m",)))
        fleet.say(Say(member, "m", 1, READY))
    assert fleet.say(Evict(member, beat)).verdict == "ok", "asking kept it alive"
    assert fleet.say(Heartbeat(member, 1)).verdict == "unknown"


CHECKS: dict[str, Callable[[Changes], None]] = {
    check.__name__: check
    for check in (
        *(a_state_read_while_closed_gives_no_right, an_older_reply_lifts_no_fence, newer_content_stays),
        *(preparing_ends, fencing_ends, a_lock_expires, a_call_ends, a_waiting_publisher_gives_up),
        who_lost_the_lock_is_refused,
        *(a_late_list_changes_nothing, a_late_join_is_nobody, the_reply_to_an_old_list_acknowledges_nothing),
        *(a_proposal_twice_is_one, an_evicted_worker_has_no_lease),
        *(the_last_proposal_is_active, frequent_proposals_commit),
        no_child_answers_under_its_parents_lease,
        *(a_hiccup_is_tried_again, bad_bytes_are_refused),
        *(a_lost_hint_delays_and_no_more, a_dead_subscription_is_replaced),
        *(a_wrong_typed_log_loses_no_commit, a_wrong_typed_key_stops_it_before_it_writes),
        *(a_demoted_server_grants_nothing, a_refusal_counts_as_gone, a_dead_runtime_is_evicted),
    )
}
