"""Faults put in on purpose, one rule each: the proof that a simulation can fail. Each names the rule that it breaks and what shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from genlock.coordinator import observer
from genlock.worker.agent import Agent
from genlock.worker.membership import Membership
from genlock.worker.orders import Shown
from genlock.worker.slot import Slot

Patch = tuple[Any, str, Any]


@dataclass(frozen=True)
class Mutant:
    """`seed`: one that is known to catch it; `patches`: (object, attribute, what is put there); `lua`: (text, what stands instead);
    `faults`: those of the worlds in which it shows soon."""

    rule: str
    seed: int
    patches: tuple[Patch, ...] = ()
    lua: tuple[tuple[str, str], ...] = ()
    faults: frozenset[str] | None = None


def _free_while_fencing(slot: Slot) -> bool:
    if slot.state is None or slot.told is None or not (slot.confirmed and slot.read_open) or slot.behind:
        return False
    return slot.shown == slot.told.key and slot.shown in slot.handles


def _free_without_entry(slot: Slot) -> bool:
    joiner = slot.state is not None and slot.state.mine is None
    return _free_while_fencing(slot) if joiner else _IS_FREE(slot)


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
_TAKE_JOIN = Membership.take_join

#: The server forgets commits, and those who have heard of them are not there to tell.
LOSSES = frozenset({"relapse", "pause", "late", "doubled"})
#: Calls and replies take long, and come after others.
DELAYS = frozenset({"slow", "pause", "late", "doubled"})

MUTANTS = {
    "fence after the answer": Mutant("R1", 0, ((Slot, "is_free", property(_free_while_fencing)),)),
    "drop after the list": Mutant("R1", 1, ((Agent, "shown", _shown_until_acknowledged),)),
    "lease from the reply": Mutant("R2", 34, ((Agent, "heard", _heard_now),), faults=DELAYS),
    "replies in any order": Mutant("R3", 44, ((Slot, "applied", property(lambda slot: -2)),), faults=DELAYS),
    "joiner not fenced": Mutant("R4", 4, ((Slot, "is_free", property(_free_without_entry)),)),
    "impatient watcher": Mutant("R5", 39, ((observer, "patience_s", lambda lease_s: 0.5 * lease_s),)),
    "beat not compared": Mutant(
        "R5", 10, lua=(("if beat and beat ~= seen then return reply('alive') end", ""),), faults=DELAYS
    ),
    "epoch open at once": Mutant("R6", 8, lua=(("not old and caller.virgin and caller.epoch == 0", "true"),)),
    "restart not noticed": Mutant("R6", 6, lua=(("(attaching and caller.run ~= fleet.run)", "false"),)),
    "read while closed": Mutant("R7", 88, ((Slot, "apply", _applied_as_if_open),), faults=LOSSES),
    "a lower generation": Mutant("R7", 1, ((Slot, "_take_active", _believes_a_lower_generation),), faults=LOSSES),
    "the lease before goes on": Mutant("R10", 8, ((Membership, "take_join", _joins_with_its_old_lease),)),
    "nobody ready": Mutant("promise 3", 11, lua=(("c.ready > 0 and c.ready >=", "c.ready >="),)),
    "next forgotten": Mutant("R11", 0, lua=(("  changed(name)\n  take_next(name)\n", "  changed(name)\n"),)),
    "poison forgotten": Mutant("R13", 18, lua=(("if bad and not force then", "if false then"),)),
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
