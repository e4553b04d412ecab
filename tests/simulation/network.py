"""What lies between a process and the server: calls that are delayed, lost, doubled and executed late; replies likewise."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from genlock.coordinator.calls import Attach, Call
from genlock.coordinator.reply import Epoch, Reply

if TYPE_CHECKING:
    from world import World

#: How often a new connection reaches a server that is no primary any more, while there is one.
TO_THE_OLD_ONE = 0.3


class Process(Protocol):
    """Who calls. `cut`: what does not reach it or leave it now ("to", "from", both); `chance`: its own stream."""

    cut: str
    chance: random.Random


class Connection:
    """To one run of the server, which it tells by `attach` before its first call; with that run it ends."""

    def __init__(self) -> None:
        self.run: str | None = None


class Flight:
    """One call on its way."""

    __slots__ = ("_answered", "_call", "_connection", "_epoch", "_failed", "_is_slow", "_process", "_world")

    def __init__(
        self,
        world: World,
        process: Process,
        call: Call,
        epoch: Epoch,
        connection: Connection,
        answered: Callable[[Reply], None],
        failed: Callable[[], None],
        *,
        is_slow: bool = False,
    ) -> None:
        """`is_slow`: its reply takes its time, and comes after others."""
        self._is_slow = is_slow
        self._world, self._process, self._call, self._epoch = world, process, call, epoch
        self._connection, self._answered, self._failed = connection, answered, failed

    def arrive(self) -> None:
        """At the server."""
        world, connection, chance = self._world, self._connection, self._process.chance
        machine = world.machine
        if connection.run is None and machine.ghost_run is not None and chance.random() < TO_THE_OLD_ONE:
            connection.run = machine.ghost_run
        if connection.run is not None and connection.run == machine.ghost_run:
            return self._ask_the_old_one()
        if not machine.is_up or connection.run not in (None, machine.run_id):
            world.at(world.latency(chance), self._failed)
            return None
        if connection.run is None:
            connection.run = machine.run_id
            self._execute(Attach())
            if chance.random() < 0.3:
                world.at(world.latency(chance), self.arrive)
                return None
        self._reply(self._execute(self._call))
        return None

    def _ask_the_old_one(self) -> None:
        """A server that was demoted reads, and refuses every write (R16)."""
        world = self._world
        reply = world.machine.execute_at_ghost(self._call, world.caller, self._epoch)
        world.say(lambda: f"  the old server executes {self._call.script}: {reply.verdict if reply else 'READONLY'}")
        if reply is None:
            world.at(world.latency(self._process.chance), self._failed)
        else:
            self._reply(reply)

    def _reply(self, reply: Reply) -> None:
        world, chance = self._world, self._process.chance
        if not world.happens("loss", chance):
            takes_s = world.long_latency(chance) if self._is_slow and not world.is_calm else world.latency(chance)
            world.at(takes_s, lambda: self._deliver(reply))

    def _deliver(self, reply: Reply) -> None:
        if "from" not in self._process.cut:
            self._answered(reply)

    def _execute(self, call: Call) -> Reply:
        world = self._world
        reply = world.machine.execute(call, world.caller, self._epoch)
        world.say(lambda: f"  the server executes {call.script} of {self._epoch}: {reply.verdict}")
        world.truth.observe(call, reply)
        world.executed()
        return reply


class Network:
    """See the module."""

    def __init__(self, world: World) -> None:
        self.world = world

    def send(
        self,
        process: Process,
        call: Call,
        epoch: Epoch,
        connection: Connection,
        *,
        timeout_s: float,
        replied: Callable[[Reply], None],
        failed: Callable[[], None],
        late: Callable[[Reply], None],
    ) -> None:
        """Calls exactly one of `replied` and `failed`, by the timeout at the latest; after that perhaps `late`."""
        world, chance, waiting = self.world, process.chance, [True]

        def answer(reply: Reply) -> None:
            if waiting:
                waiting.clear()
                replied(reply)
            elif world.happens("late", chance):
                late(reply)

        def fail() -> None:
            if waiting:
                waiting.clear()
                failed()

        def again(reply: Reply) -> None:
            """The reply to the second copy."""
            if world.happens("late", chance):
                late(reply)

        if "to" not in process.cut:
            if not world.happens("loss", chance):
                flight = Flight(world, process, call, epoch, connection, answer, fail)
                world.at(world.latency(chance), flight.arrive)
            if world.happens("doubled", chance):
                copy = Flight(world, process, call, epoch, Connection(), again, lambda: None, is_slow=True)
                late_s = world.long_latency(chance) if chance.random() < 0.5 else world.latency(chance)
                world.at(late_s, copy.arrive)
        world.at(timeout_s, fail)
