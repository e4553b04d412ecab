"""Faults put in on purpose, one rule each: the proof that a simulation can fail. Each names the rule that it breaks and what shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from genlock.coordinator import observer
from genlock.worker.agent import Agent
from genlock.worker.orders import Shown
from genlock.worker.slot import Slot
from genlock.worker.view import Lease

Patch = tuple[Any, str, Any]


@dataclass(frozen=True)
class Mutant:
    """`seed`: one that is known to catch it; `patches`: (object, attribute, what is put there); `lua`: (text, what stands instead)."""

    rule: str
    seed: int
    patches: tuple[Patch, ...] = ()
    lua: tuple[tuple[str, str], ...] = ()


def _free_while_fencing(slot: Slot) -> bool:
    if slot.state is None or slot.told is None or not slot.confirmed or slot.behind:
        return False
    return slot.shown == slot.told.key and slot.shown in slot.handles


def _free_without_entry(slot: Slot) -> bool:
    joiner = slot.state is not None and slot.state.mine is None
    return _free_while_fencing(slot) if joiner else _IS_FREE(slot)


def _shown_until_acknowledged(agent: Agent, now: float) -> dict[str, Shown]:
    """What was dropped goes on being shown until Redis has heard of it."""
    shown = _SHOWN(agent, now)
    if (agent.member is not None and agent._counter != agent._acked) or agent._list_changed:
        shown = {m: what for m, what in getattr(agent, "was_shown", {}).items() if m not in agent.slots} | shown
    agent.was_shown = shown  # type: ignore[attr-defined]
    return shown


def _keeps_its_lease(agent: Agent, why: str) -> None:
    lease, ended = agent.lease, Lease()
    agent.lease = ended
    _EXPEL(agent, why)
    agent.lease = lease


def _joins_with_its_old_lease(agent: Agent, call: Any, reply: Any, sent: float) -> None:
    lease = agent.lease
    _TAKE_JOIN(agent, call, reply, sent)
    if agent.lease is not lease:
        lease.ended = False
        lease.extend(agent.lease.deadline)
        agent.lease = lease


def _heard_now(agent: Agent, call: Any, reply: Any, sent: float, now: float) -> None:
    _HEARD(agent, call, reply, now, now)


def _believes_every_list(agent: Agent, call: Any, reply: Any) -> None:
    if reply.verdict == "ok":
        agent._acked = max(agent._acked, agent._counter)
        for slot in agent.slots.values():
            slot.confirmed = True
        agent._apply(reply)


def _believes_every_join(agent: Agent, call: Any, reply: Any, sent: float) -> None:
    agent._joins = call.serial
    _TAKE_JOIN(agent, call, reply, sent)


def _believes_a_lower_generation(slot: Slot, state: Any, epoch: int) -> bool:
    active = state.active
    if active is not None and slot.told is not None and active.gen < slot.told.key[0]:
        slot.told = None
    return _TAKE_ACTIVE(slot, state, epoch)


def _believes_the_number(slot: Slot, state: Any, epoch: int) -> bool:
    active = state.active
    if active is not None and slot.told is not None and active.gen == slot.told.key[0]:
        slot.behind = False
        return False
    return _TAKE_ACTIVE(slot, state, epoch)


_IS_FREE = Slot.is_free.fget  # type: ignore[attr-defined]
_TAKE_ACTIVE = Slot._take_active
_SHOWN, _EXPEL, _HEARD = Agent.shown, Agent._expel, Agent.heard
_TAKE_JOIN = Agent._take_join

MUTANTS = {
    "fence after the answer": Mutant("R1", 0, ((Slot, "is_free", property(_free_while_fencing)),)),
    "drop after the list": Mutant("R1", 0, ((Agent, "shown", _shown_until_acknowledged),)),
    "lease from the reply": Mutant("R2", 0, ((Agent, "heard", _heard_now),)),
    "replies in any order": Mutant("R3", 0, ((Slot, "applied", property(lambda slot: -2)),)),
    "joiner not fenced": Mutant("R4", 0, ((Slot, "is_free", property(_free_without_entry)),)),
    "impatient watcher": Mutant("R5", 0, ((observer, "patience_s", lambda lease_s: 0.5 * lease_s),)),
    "beat not compared": Mutant("R5", 0, lua=(("if beat and beat ~= seen then return reply('alive') end", ""),)),
    "epoch open at once": Mutant("R6", 0, lua=(("not old and caller.virgin and caller.epoch == 0", "true"),)),
    "restart not noticed": Mutant("R6", 0, lua=(("(attaching and caller.run ~= fleet.run)", "false"),)),
    "expelled, but not its lease": Mutant("R10", 0, ((Agent, "_expel", _keeps_its_lease),)),
    "the lease before goes on": Mutant("R10", 0, ((Agent, "_take_join", _joins_with_its_old_lease),)),
    "a lower generation": Mutant("R7", 0, ((Slot, "_take_active", _believes_a_lower_generation),)),
    "the number is enough": Mutant("R7", 0, ((Slot, "_take_active", _believes_the_number),)),
    "older over newer": Mutant("R7", 0, lua=(("(not active or tonumber(active.epoch) <= told.heard)", "true"),)),
    "late list": Mutant("R10", 0, lua=(("if counter < known then return reply('old') end", "known = counter - 1"),)),
    "any reply to a list": Mutant("R10", 0, ((Agent, "_take_hold", _believes_every_list),)),
    "any reply to a join": Mutant("R10", 0, ((Agent, "_take_join", _believes_every_join),)),
    "nobody ready": Mutant("R3 promise", 0, lua=(("c.ready > 0 and c.ready >=", "c.ready >="),)),
    "poison forgotten": Mutant("R13", 0, lua=(("if bad and not force then", "if false then"),)),
    "next forgotten": Mutant("R11", 0, lua=(("  changed(name)\n  take_next(name)\n", "  changed(name)\n"),)),
    "no deadline": Mutant("R8", 0, lua=(("return now >= tonumber(c.deadline)", "return false"),)),
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
