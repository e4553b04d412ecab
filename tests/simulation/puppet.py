"""A fleet that does what a check says, step by step: the real scripts in this process, and a real agent whose loads take no time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from genlock.coordinator.calls import Attach, Call, Heartbeat, Hold, Join, Lock, Propose, Read
from genlock.coordinator.manifest import Artifact, Manifest
from genlock.coordinator.reply import NO_EPOCH, Epoch, Reply
from genlock.coordinator.scripts import Caller
from genlock.worker.agent import Agent
from genlock.worker.orders import Answered, Command, Load
from inprocess import ScriptError, Server
from machine import Machine

#: Seconds of a lease, in every check; milliseconds of it.
LEASE_S, LEASE_MS = 3.0, 3000


def manifest_of(content: int, model: str = "m") -> Manifest:
    """Bytes that are told apart by a number."""
    return Manifest.of(model, [Artifact("model", 1, f"{content:064x}")], created_at=0.0)


class Fleet:
    """One server, and whoever speaks to it by `say`. `now` moves the clocks of all."""

    def __init__(self, changes: Iterable[tuple[str, str]] = (), *, virgin: bool = True) -> None:
        """`changes`: see Machine."""
        self.server: Server = Machine(changes)
        assert isinstance(self.server, Machine)
        self.server.begin(0)
        self.caller = Caller("sim", "f" * 32, LEASE_MS, virgin, self.server.run_id)
        self.epoch: Epoch = Server.execute(self.server, Attach(), self.caller, NO_EPOCH).epoch_id
        self.now = 0.0

    def pass_time(self, seconds: float) -> None:
        """For everybody."""
        self.now += seconds
        self.server.now_s += seconds

    def say(self, call: Call, epoch: Epoch | None = None) -> Reply:
        """Executes it; ScriptError as the server says it."""
        reply = Server.execute(self.server, call, self.caller, self.epoch if epoch is None else epoch)
        self.epoch = max(self.epoch, reply.epoch_id)
        return reply

    def member(self, *models: str) -> str:
        """A member that holds them, and says nothing by itself."""
        member = self.say(Join("{}")).id
        assert member is not None
        self.say(Hold(member, 1, models))
        return member

    def propose(self, content: int, request: str = "", **how: Any) -> Reply:
        """With the lock of the model, which is free again afterwards."""
        token, made = f"token-{content}", manifest_of(content)
        self.say(Lock("m", "take", token, "{}", 30_000))
        facts = (request or f"request-{content}", token, made.version, made.poison, made.encode(), 1.0, 10_000, "check")
        reply = self.say(Propose("m", *facts, **how))
        self.say(Lock("m", "free", token, "{}", 30_000))
        return reply

    def became(self, request: str) -> str:
        """What has become of a request."""
        answer = self.say(Read("m", request)).answer
        return answer.state if answer else ""

    @property
    def active(self) -> tuple[int, str] | None:
        state = self.say(Read("m")).states["m"]
        return (state.active.gen, state.active.version) if state.active else None


class Puppet:
    """A worker: the real agent, which is run until it has nothing to say. `ends`: what its loads come to, "" or bad or failed."""

    def __init__(self, fleet: Fleet, name: str = "w1", *, models: tuple[str, ...] = ("m",)) -> None:
        self.fleet = fleet
        self.agent = Agent(name, lease_s=LEASE_S, chance=lambda: 0.5)
        self.ends = ""
        self.told: list[Command] = []  #: everything that it ordered
        self.loads = True  #: whether a load comes to its end
        self.agent.hold(models)
        self.agent.subscribed()

    def run(self, seconds: float = 0.0, *, silent: bool = False) -> Puppet:
        """Lets so much time pass, in steps of a tenth of a lease. `silent`: its calls do not arrive."""
        for _ in range(max(1, round(seconds / (LEASE_S / 10)))):
            self.fleet.pass_time(LEASE_S / 10 if seconds else 0.0)
            self._turns(silent=silent)
        return self

    def _turns(self, *, silent: bool) -> None:
        for _ in range(100):
            call = self.agent.next_call(self.fleet.now)
            if not self._carry_out() and call is None:
                return
            if call is not None:
                self._send(call, silent=silent)
        raise AssertionError(f"{self.agent.worker} does not come to rest")

    def _send(self, call: Call, *, silent: bool) -> None:
        now = self.fleet.now
        try:
            reply = None if silent else self.fleet.say(call, self.agent.epoch)
        except ScriptError:
            reply = None
        if reply is None:
            self.agent.unreachable(call, now)
        else:
            self.agent.heard(call, reply, now, now)

    def _carry_out(self) -> bool:
        commands = self.agent.commands()
        self.told += commands
        for command in commands:
            if isinstance(command, Load) and self.loads:
                self._load(command)
        return bool(commands)

    def _load(self, command: Load) -> None:
        job = command.job
        if self.ends or not job.key[0]:
            self.agent.load_failed(job, self.ends or "failed", {"step": "load", "why": "a check"}, self.fleet.now)
        else:
            self.agent.loaded(job, job.key, {})

    def beat(self) -> Reply:
        """Its heartbeat, as somebody else would see it: nothing of the reply is heard."""
        assert self.agent.member is not None
        return self.fleet.say(Heartbeat(self.agent.member, 0))

    def shows(self, model: str = "m") -> tuple[int, str] | None:
        """What it answers from memory, under its lease."""
        shown = self.agent.shown(self.fleet.now).get(model)
        if shown is None or shown.lease is None or self.fleet.now >= shown.lease.deadline:
            return None
        return shown.key

    def answers(self) -> list[Answered]:
        return [command for command in self.told if isinstance(command, Answered)]
