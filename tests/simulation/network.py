"""What lies between a process and the server: calls that are delayed, lost, doubled and executed late; replies likewise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from genlock.coordinator.calls import Attach, Call, Epoch, Reply
from genlock.coordinator.scripts import Caller

if TYPE_CHECKING:
    from world import World


class Connection:
    """To one run of the server, which it tells by `attach` before its first call; with that run it ends."""

    def __init__(self) -> None:
        self.run: str | None = None


class Flight:
    """One call on its way."""

    def __init__(
        self,
        network: Network,
        call: Call,
        epoch: Epoch,
        caller: Caller,
        connection: Connection,
        answered: Callable[[Reply], None],
        failed: Callable[[], None],
    ) -> None:
        self._network, self._call, self._epoch, self._caller = network, call, epoch, caller
        self._connection, self._answered, self._failed = connection, answered, failed

    def arrive(self) -> None:
        """At the server."""
        world = self._network.world
        machine = world.machine
        if not machine.is_up or self._connection.run not in (None, machine.run_id):
            world.at(world.latency(), self._failed)
            return
        if self._connection.run is None:
            self._connection.run = machine.run_id
            self._execute(Attach())
            if world.rng.random() < 0.3:
                world.at(world.latency(), self.arrive)
                return
        reply = self._execute(self._call)
        if not world.happens("loss"):
            world.at(world.latency(), lambda: self._answered(reply))

    def _execute(self, call: Call) -> Reply:
        world = self._network.world
        caller = Caller(*self._caller_facts(), run=world.machine.run_id)
        reply = world.machine.execute(call, caller, self._epoch)
        world.say(lambda: f"  the server executes {call.script} of {self._epoch}: {reply.verdict}")
        world.truth.observe(call, reply)
        world.executed()
        return reply

    def _caller_facts(self) -> tuple[str, str, int, bool]:
        return self._caller.fleet, self._caller.fleet_id, self._caller.lease_ms, self._caller.virgin


class Network:
    """See the module."""

    def __init__(self, world: World) -> None:
        self.world = world

    def send(
        self,
        call: Call,
        epoch: Epoch,
        caller: Caller,
        connection: Connection,
        *,
        timeout_s: float,
        replied: Callable[[Reply], None],
        failed: Callable[[], None],
        late: Callable[[Reply], None],
    ) -> None:
        """Calls exactly one of `replied` and `failed`, by the timeout at the latest; after that perhaps `late`."""
        world, waiting = self.world, [True]

        def answer(reply: Reply) -> None:
            if waiting:
                waiting.clear()
                replied(reply)
            elif world.happens("late"):
                late(reply)

        def fail() -> None:
            if waiting:
                waiting.clear()
                failed()

        def again(reply: Reply) -> None:
            """The reply to the second copy."""
            if world.happens("late"):
                late(reply)

        flight = Flight(self, call, epoch, caller, connection, answer, fail)
        if not world.happens("loss"):
            world.at(world.latency(), flight.arrive)
        if world.happens("doubled"):
            copy = Flight(self, call, epoch, caller, Connection(), again, lambda: None)
            world.at(world.long_latency(), copy.arrive)
        world.at(timeout_s, fail)
