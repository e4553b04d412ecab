"""Simulated workers over a real server: so many real agents (worker/agent.py) in one process, with what happens around them left out.

Each has two connections of its own, as a worker has: one for its calls, which it sends one after the other as the runtime does, and one
that hears hints. Loads are done at once, and nothing is in memory: what is left is what a fleet costs its server, and the agents' own
time. A model that is cleared is held again at once, as requests that go on would have it.

`python -m benchmarks.herd` reads Work from stdin, writes a line when every worker holds its models, and ends when stdin is closed.
"""

from __future__ import annotations

import heapq
import os
import random
import re
import selectors
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import redis
from genlock.coordinator.calls import Call, hint_of
from genlock.coordinator.clock import clock
from genlock.coordinator.records import Hint
from genlock.coordinator.reply import decode
from genlock.coordinator.scripts import Caller, digest_of, source_of
from genlock.worker.about import about
from genlock.worker.agent import Agent
from genlock.worker.orders import Clear, Load
from genlock.worker.view import View

#: Seconds until all workers hold their models: a thousand of them join in some two.
START_S = 60.0
#: Seconds that the process gets to end.
STOP_S = 10.0
#: Bytes that are read at a time: more than an answer has.
PIECE_BYTES = 1 << 16
#: Workers of one host, in what they say of themselves.
OF_A_HOST = 10

_BULK = re.compile(rb"\$(-?[0-9]+)\r\n")
_MESSAGE = re.compile(rb"\*3\r\n\$7\r\nmessage\r\n\$[0-9]+\r\n[^\r]+\r\n\$[0-9]+\r\n([^\r]*)\r\n")


class Work(msgspec.Struct, frozen=True):
    """A server's socket, a fleet's name, id and lease (s), and how many workers hold which model."""

    socket: str
    fleet: str
    fleet_id: str
    lease_s: float
    workers: int
    model: str


class Worker:
    """One of them."""

    def __init__(self, number: int, work: Work, run: str) -> None:
        self._work = work
        self._caller = Caller(work.fleet, work.fleet_id, round(work.lease_s * 1000), False, run)
        name = f"host-{number // OF_A_HOST}:{1000 + number % OF_A_HOST}"
        self.agent = Agent(name, lease_s=work.lease_s, chance=random.random)
        self.agent.about = _about(name, work.model)
        self.agent.hold([work.model])
        self.calls = _connected(work.socket)
        self.hints = _connected(work.socket)
        self.hints.sendall(_packed("SUBSCRIBE", hint_of(work.fleet)))
        self._sent: tuple[Call, float] | None = None
        self._answer, self._heard = b"", b""

    @property
    def is_ready(self) -> bool:
        """Whether it answers its model from memory."""
        shown = self.agent.shown(clock()).get(self._work.model)
        return shown is not None and shown.mode == "lease"

    def step(self) -> float:
        """What a turn of the runtime does; when the next one is due (inf: with an answer or a hint)."""
        if self._sent is not None:
            return float("inf")
        call = self.agent.next_call(clock())
        while self._carry_out():
            call = call or self.agent.next_call(clock())
        self.agent.shown(clock())
        if call is None:
            return self.agent.wake_at(clock())
        self._send(call, "EVALSHA", digest_of(call.script, call.parts))
        return float("inf")

    def _carry_out(self) -> bool:
        """Loads are done at once, what was cleared is held again; whether there was anything."""
        commands = self.agent.commands()
        for command in commands:
            if isinstance(command, Load) and command.job.purpose != "fallback":
                self.agent.loaded(command.job, command.job.key, {"seconds": {"load": 0.0}})
            elif isinstance(command, Clear):
                self.agent.hold([self._work.model])
        return bool(commands)

    def _send(self, call: Call, how: str, script: str) -> None:
        keys, argv = self._caller.keys(call), self._caller.arguments(call, self.agent.epoch)
        self._sent = call, clock()
        self.calls.sendall(_packed(how, script, str(len(keys)), *keys, *argv))

    def answered(self) -> bool:
        """Reads what the server says to a call; whether the call has its answer."""
        self._answer += self.calls.recv(PIECE_BYTES)
        assert self._sent is not None
        call, sent = self._sent
        if self._answer.startswith(b"-NOSCRIPT") and self._answer.endswith(b"\r\n"):
            self._answer = b""
            self._send(call, "EVAL", source_of(call.script, call.parts))
            return False
        length = _BULK.match(self._answer)
        if length is None:
            assert not self._answer.startswith(b"-"), self._answer
            return False
        begin, end = length.end(), length.end() + int(length[1])
        if len(self._answer) < end + 2:
            return False
        data, self._answer, self._sent = self._answer[begin:end], self._answer[end + 2 :], None
        self.agent.heard(call, decode(data), sent, clock())
        return True

    def heard(self) -> None:
        """Reads hints."""
        self._heard += self.hints.recv(PIECE_BYTES)
        if b"subscribe\r\n" in self._heard:
            self.agent.subscribed()
        for message in _MESSAGE.finditer(self._heard):
            if hint := Hint.of(message[1]):
                self.agent.hinted(hint.epoch, hint.revision, hint.model, clock())
        self._heard = self._heard[self._heard.rfind(b"\r\n*3\r\n") + 2 :] if not self._heard.endswith(b"\r\n") else b""


def _about(worker: str, model: str) -> str:
    """As long as that of a worker with one model."""
    shown = View(model=model, payload=None, generation=1, version="0" * 64, bytes=200_000_000)
    figures = ("uptime_s", "lease_s", "held", "bytes", "hits", "misses", "hit_rate", "window_s", "asks", "loads")
    stats = dict.fromkeys(figures, 1234567.5)
    return about(worker, {model: shown}, pid=1, started_at=1.5, last_error="", stats=stats, loading={})


def _connected(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.connect(path)
    return made


def _packed(*words: str | bytes) -> bytes:
    """A command as it goes over the wire (redis.io/docs, "Redis serialization protocol")."""
    told = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(told) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in told)


class Herd:
    """All of them, and who has something to do."""

    def __init__(self, work: Work) -> None:
        with redis.Redis(unix_socket_path=work.socket) as client:
            run = str(client.info("server")["run_id"])
        self._workers = [Worker(number, work, run) for number in range(work.workers)]
        self._due = [(0.0, number) for number in range(work.workers)]
        self._due_at = [0.0] * work.workers
        self._selector = selectors.DefaultSelector()
        for number, worker in enumerate(self._workers):
            self._selector.register(worker.calls, selectors.EVENT_READ, (number, worker.answered))
            self._selector.register(worker.hints, selectors.EVENT_READ, (number, worker.heard))
        self._selector.register(sys.stdin, selectors.EVENT_READ, None)

    def run(self) -> None:
        """Until stdin is closed; a line when all are ready."""
        is_told = False
        while self._turn():
            if not is_told and all(worker.is_ready for worker in self._workers):
                is_told = True
                print("ready", flush=True)

    def _turn(self) -> bool:
        now = clock()
        while self._due and self._due[0][0] <= now:
            at, number = heapq.heappop(self._due)
            if at == self._due_at[number]:
                self._step(number)
        timeout = max(0.0, self._due[0][0] - now) if self._due else 1.0
        for key, _ in self._selector.select(min(timeout, 1.0)):
            if key.data is None:
                return False
            number, take = key.data
            take()
            self._step(number)
        return True

    def _step(self, number: int) -> None:
        self._due_at[number] = at = self._workers[number].step()
        if at != float("inf"):
            heapq.heappush(self._due, (at, number))


@contextmanager
def herd(work: Work) -> Iterator[None]:
    """The workers in a process of their own, all of them with a lease and their model."""
    process: Any = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.herd"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ
    )
    try:
        process.stdin.write(msgspec.json.encode(work) + b"\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(START_S) or process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"not all of {work.workers} workers are ready")
        yield
    finally:
        process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


if __name__ == "__main__":
    Herd(msgspec.json.decode(sys.stdin.buffer.readline(), type=Work)).run()
