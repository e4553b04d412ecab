"""Faults put in on purpose, one rule each: the proof that a simulation can fail. Each names the rule that it breaks and what shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import observables
from genlock.coordinator import endpoint, observer
from genlock.coordinator.connection import manners
from genlock.coordinator.reply import BAD
from genlock.coordinator.wait import Wait
from genlock.worker.agent import Agent
from genlock.worker.hints import Hints
from genlock.worker.membership import Membership
from genlock.worker.orders import Shown
from genlock.worker.slot import Slot
from genlock.worker.trial import Tried
from genlock.worker.view import Lease

Patch = tuple[Any, str, Any]


@dataclass(frozen=True)
class Mutant:
    """`words`: what is switched off; `patches`: (object, attribute, what is put there); `lua`: (text, what stands instead); `faults`: those
    of the schedules in which it shows soon, None: as each seed chooses; `check`: the observable that shows it, empty: the simulation."""

    rule: str
    words: str
    patches: tuple[Patch, ...] = ()
    lua: tuple[tuple[str, str], ...] = ()
    faults: frozenset[str] | None = None
    check: str = ""


def _free_while_fencing(slot: Slot) -> bool:
    if slot.state is None or slot.told is None or not (slot.confirmed and slot.read_open) or slot.behind:
        return False
    return slot.shown == slot.told.key and slot.shown in slot.handles


def _free_without_entry(slot: Slot) -> bool:
    joiner = slot.state is not None and slot.state.mine is None
    return _free_while_fencing(slot) if joiner else _IS_FREE(slot)


def _tried_at_once(slot: Slot) -> Tried | None:
    c = slot.state.cand if slot.state else None
    is_loaded = c is not None and slot.told is not None and slot.target in slot.handles
    return Tried((c.gen, c.step or 1, c.share or 5_000), None) if is_loaded and c is not None else None


def _shown_until_acknowledged(agent: Agent, now: float) -> dict[str, Shown]:
    """What was dropped goes on being shown until Redis has heard of it."""
    shown = _SHOWN(agent, now)
    membership = agent.membership
    if (membership.id is not None and membership._counter != membership._acked) or membership.list_changed:
        shown = {m: what for m, what in getattr(agent, "was_shown", {}).items() if m not in agent.slots} | shown
    agent.was_shown = shown  # type: ignore[attr-defined]
    return shown


def _joins_with_its_old_lease(membership: Membership, call: Any, reply: Any, sent: float, *, holds: bool) -> Any:
    lease = membership.lease
    joined = _TAKE_JOIN(membership, call, reply, sent, holds=holds)
    if membership.lease is not lease:
        lease.ended = False
        lease.extend(membership.lease.deadline)
        membership.lease = lease
    return joined


def _takes_any_hold(membership: Membership, call: Any, reply: Any) -> bool:
    membership._counter = call.counter
    return _TAKE_HOLD(membership, call, reply)


def _takes_any_join(membership: Membership, call: Any, reply: Any, sent: float, *, holds: bool) -> Any:
    membership.id = None
    return _TAKE_JOIN(membership, replace(call, serial=membership._joins), reply, sent, holds=holds)


def _heard_now(agent: Agent, call: Any, reply: Any, sent: float, now: float) -> None:
    _HEARD(agent, call, reply, now, now)


def _believes_a_lower_generation(slot: Slot, state: Any, epoch: int) -> bool:
    active = state.active
    if active is not None and slot.told is not None and active.gen < slot.told.key[0]:
        slot.told = None
    return _TAKE_ACTIVE(slot, state, epoch)


def _applied_as_if_open(slot: Slot, state: Any, epoch: int, *, is_open: bool) -> bool:
    return _APPLY(slot, state, epoch, is_open=True)


_IS_FREE = Slot.is_free.fget  # type: ignore[attr-defined]
_APPLY, _TAKE_ACTIVE = Slot.apply, Slot._take_active
_SHOWN, _HEARD = Agent.shown, Agent.heard
_TAKE_JOIN, _TAKE_HOLD = Membership.take_join, Membership.take_hold

_FAILED = Slot.failed

#: What ask.lua does with the beat.
_ASKS = "take_beat()\nlocal found = states(names, id)\nflush()"
#: The server forgets commits, and those who have heard of them are not there to tell.
LOSSES = frozenset({"relapse", "pause", "late", "doubled"})
#: Calls and replies take long, and come after others.
DELAYS = frozenset({"slow", "pause", "late", "doubled"})
#: The same, but that nothing is said twice.
SLOWNESS = frozenset({"slow", "pause"})
#: Workers come and go, and change what they hold.
CHANGES = frozenset({"drop", "birth", "leave", "slow", "late", "doubled"})

MUTANTS = {
    "fence after the answer": Mutant(
        "R1",
        "a fenced model is answered under the lease until the flip",
        ((Slot, "is_free", property(_free_while_fencing)),),
    ),
    "drop after the list": Mutant(
        "R1",
        "what is dropped is answered from until Redis has heard of it",
        ((Agent, "shown", _shown_until_acknowledged),),
        faults=CHANGES,
    ),
    "lease from the reply": Mutant(
        "R2", "a lease counts from when the reply came", ((Agent, "heard", _heard_now),), faults=DELAYS
    ),
    "replies in any order": Mutant(
        "R3",
        "an older state is applied over a newer one",
        ((Slot, "applied", property(lambda slot: -2)),),
        faults=DELAYS,
    ),
    "an older reply unfences": Mutant(
        "R3",
        "an older state is applied over a newer one",
        ((Slot, "applied", property(lambda slot: -2)),),
        check="an_older_reply_lifts_no_fence",
    ),
    "read while closed": Mutant(
        "R3",
        "what was read while the fleet was closed gives a right to answer",
        ((Slot, "apply", _applied_as_if_open),),
        check="a_state_read_while_closed_gives_no_right",
    ),
    "joiner not fenced": Mutant(
        "R4",
        "who begins to hold a model while it is fencing answers from it",
        ((Slot, "is_free", property(_free_without_entry)),),
        faults=CHANGES,
    ),
    "impatient watcher": Mutant(
        "R5",
        "a watcher waits half a lease instead of more than one",
        ((observer, "patience_s", lambda lease_s: 0.5 * lease_s),),
    ),
    "beat not compared": Mutant(
        "R5",
        "evict does not compare the beat",
        lua=(("if beat and beat ~= seen then return reply('alive') end", ""),),
        faults=SLOWNESS,
    ),
    "epoch open at once": Mutant(
        "R6",
        "a new epoch is open from its beginning",
        lua=(("not old and caller.virgin and caller.epoch == 0", "true"),),
    ),
    "restart not noticed": Mutant(
        "R6",
        "attach does not compare the run of the server",
        lua=(("(attaching and caller.run ~= fleet.run)", "false"),),
        faults=LOSSES,
    ),
    "a lower generation": Mutant(
        "R7",
        "a worker takes a lower generation than it was told",
        ((Slot, "_take_active", _believes_a_lower_generation),),
        faults=LOSSES,
    ),
    "older over newer": Mutant(
        "R7",
        "a heal puts back whatever has the higher number",
        lua=(("and (not active or tonumber(active.epoch) <= told.heard)", ""),),
        check="newer_content_stays",
    ),
    "no deadline": Mutant(
        "R8",
        "no deadline ever passes",
        lua=(("local late = expired(c)\n  if c.phase", "local late = false\n  if c.phase"),),
        check="preparing_ends",
    ),
    "fencing without end": Mutant(
        "R8",
        "fencing has no deadline",
        lua=(("arm(c, FENCING_LEASES * fleet.lease)", "arm(c, 1e12)"),),
        check="fencing_ends",
    ),
    "a lock for ever": Mutant(
        "R8",
        "the publish lock does not expire",
        lua=(("(owner and holder or about), 'PX', ttl)", "(owner and holder or about))"),),
        check="a_lock_expires",
    ),
    "a call without end": Mutant(
        "R8",
        "a call waits for its answer as long as it takes",
        ((endpoint, "manners", lambda on_connect, timeout_s: manners(on_connect, 60.0)),),
        check="a_call_ends",
    ),
    "a publisher without end": Mutant(
        "R8",
        "who waits for a decision does not give up",
        ((Wait, "until", float("inf")),),
        check="a_waiting_publisher_gives_up",
    ),
    "lock not compared": Mutant(
        "R9",
        "a proposal is taken whoever has the lock",
        lua=(("if owner ~= token then return refuse", "if false then return refuse"),),
        check="who_lost_the_lock_is_refused",
    ),
    "the lease before goes on": Mutant(
        "R10",
        "a membership takes over the lease of the one before",
        ((Membership, "take_join", _joins_with_its_old_lease),),
        faults=frozenset({"pause", "cut", "slow"}),
    ),
    "a late list": Mutant(
        "R10",
        "an older list replaces a newer one",
        lua=(
            ("if counter < known then return reply('old') end", ""),
            ("if counter > known then", "if counter ~= known then"),
        ),
        check="a_late_list_changes_nothing",
    ),
    "a late join": Mutant(
        "R10",
        "the reply to any join makes a membership",
        ((Membership, "take_join", _takes_any_join),),
        check="a_late_join_is_nobody",
    ),
    "any reply to a list": Mutant(
        "R10",
        "the reply to any list counts as the reply to the last one",
        ((Membership, "take_hold", _takes_any_hold),),
        check="the_reply_to_an_old_list_acknowledges_nothing",
    ),
    "requests not known": Mutant(
        "R10",
        "a proposal that was made before is made again",
        lua=(
            (
                "local known = answered(name, request, 'propose', {version = version})\nif known",
                "local known = nil\nif known",
            ),
        ),
        check="a_proposal_twice_is_one",
    ),
    "a lease that never ends": Mutant(
        "R10",
        "the end of a membership leaves its lease running",
        ((Lease, "end", lambda lease: None),),
        check="an_evicted_worker_has_no_lease",
    ),
    "the first one waits": Mutant(
        "R11",
        "a proposal is turned away while another one waits",
        lua=(
            (
                "supersede(name, 'by ' .. by)\n",
                "if record.waits then save() return reply('ok', {state = 'next'}) end\n",
            ),
        ),
        check="the_last_proposal_is_active",
    ),
    "starved": Mutant(
        "R11",
        "every proposal stops what is being loaded",
        lua=(("if record.cand and not now then", "if false then"),),
        check="frequent_proposals_commit",
    ),
    "a child with its parent's views": Mutant(
        "R12",
        "nothing takes the views away from a child",
        ((observables, "PRELUDE", "import os\nos.register_at_fork = lambda **_: None\n"),),
        check="no_child_answers_under_its_parents_lease",
    ),
    "a hiccup is bad": Mutant(
        "R13",
        "a load that failed for want of memory or disk counts as bad",
        ((Slot, "failed", lambda slot, job, said, detail, now: _FAILED(slot, job, BAD, detail, now)),),
        check="a_hiccup_is_tried_again",
    ),
    "bad rejects nothing": Mutant(
        "R13",
        "a candidate goes on though somebody found it bad",
        lua=(("    reject(name, about)\n", ""),),
        check="bad_bytes_are_refused",
    ),
    "hints are believed in": Mutant(
        "R14",
        "the counter that a reply carries is not looked at",
        ((Hints, "told", lambda hints, revision, now: None),),
        check="a_lost_hint_delays_and_no_more",
    ),
    "a dead subscription stays": Mutant(
        "R14",
        "a subscription whose hints stay away is kept",
        ((Hints, "overdue_at", lambda hints, lease_s: None),),
        check="a_dead_subscription_is_replaced",
    ),
    "the log decides": Mutant(
        "R15",
        "an entry of the log that cannot be written stops the script",
        lua=(("local done = redis.pcall(unpack(command))", "local done = redis.call(unpack(command))"),),
        check="a_wrong_typed_log_loses_no_commit",
    ),
    "types not looked at": Mutant(
        "R15",
        "a script writes without having looked at the types of the keys",
        lua=(("for _, key in ipairs(STAMPED) do lost = lost or stamp(key) ~= stamp_of(fleet) end", ""),),
        check="a_wrong_typed_key_stops_it_before_it_writes",
    ),
    "ask writes nothing": Mutant(
        "R16",
        "the question of what is active takes no number of the beats",
        lua=((_ASKS, "local found = states(names, id)\nflush()"),),
        check="a_demoted_server_grants_nothing",
    ),
    "a refusal is passed over": Mutant(
        "R16",
        "a call that Redis refuses is not taken for a Redis that is gone",
        ((Agent, "unreachable", lambda agent, call, now: None),),
        check="a_refusal_counts_as_gone",
    ),
    "to ask is to live": Mutant(
        "R16",
        "every question counts as a beat",
        lua=((_ASKS, f"write('HSET', members_key, id, whole(fleet.beat + 1))\n{_ASKS}"),),
        check="a_dead_runtime_is_evicted",
    ),
    "no canary": Mutant(
        "canary",
        "a candidate is committed without the canary that was asked for",
        lua=(("if c.canary and record.active then return begin_canary(name) end", ""),),
        faults=frozenset({"canary"}),
    ),
    "a canary without end": Mutant(
        "R8",
        "the deadline of a canary ends nothing",
        lua=(
            (
                "  elseif c.phase == 'canary' then\n    if late then",
                "  elseif c.phase == 'canary' then\n    if false then",
            ),
        ),
        faults=frozenset({"canary"}),
    ),
    "a share of what is prepared": Mutant(
        "canary",
        "a candidate answers as soon as it is loaded",
        ((Slot, "_tried", _tried_at_once),),
        faults=frozenset({"canary", "slow"}),
    ),
    "next forgotten": Mutant(
        "R11",
        "what waits as next does not become the candidate",
        lua=(("  changed(name)\n  take_next(name)\n", "  changed(name)\n"),),
    ),
    "nobody ready": Mutant(
        "R13",
        "a candidate that nobody has loaded is agreed on",
        lua=(("c.ready > 0 and c.ready >=", "c.ready >="),),
        faults=frozenset({"drop", "leave", "slow", "failed"}),
    ),
    "poison forgotten": Mutant(
        "R13",
        "what was found bad is tried again",
        lua=(("if bad and not force then", "if false then"),),
        faults=frozenset({"bad"}),
    ),
    "log by call": Mutant(
        "R15",
        "an entry of the log that cannot be written stops the script",
        lua=(("local done = redis.pcall(unpack(command))", "local done = redis.call(unpack(command))"),),
        faults=frozenset({"log"}),
    ),
}


@contextmanager
def put_in(mutant: Mutant) -> Iterator[None]:
    """The patches, as long as the block runs."""
    before = [(thing, name, _own(thing, name)) for thing, name, _ in mutant.patches]
    try:
        for thing, name, new in mutant.patches:
            setattr(thing, name, new)
        yield
    finally:
        for thing, name, old in before:
            setattr(thing, name, old)


def _own(thing: Any, name: str) -> Callable[..., Any]:
    return vars(thing)[name]  # type: ignore[no-any-return]
