"""An open-loop client in a process of its own, on kept-alive connections to a unix socket.

Open loop: request i is due at `start + i / rate`, whatever became of those before it, and its latency counts from when it was
*due*. A client that waits for an answer before it asks again would send nothing while a server stands still, and see one slow
request instead of all that users would have had ("coordinated omission"). Closed loop (`rate` None) asks again at once: what a
server can do at most.

What is compared is asked in turns: one client carries out several plans, a short turn of each, back and forth. A machine is faster in
one ten seconds than in the next by more than what is measured; from one half second to the next it is not.

`python -m benchmarks.load` reads Work from stdin, says when it begins, and writes what was Done to stdout when stdin is closed or
the time is over. Times are of the machine's monotonic clock, which all its processes share.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import msgspec

#: Seconds after which a request that has no answer is an error, and its connection given up.
PATIENCE_S = 30.0
#: What the client is niced to where that is allowed: it stands for other machines, which would not wait for this one's cores.
NICENESS = -10
#: Seconds to find all workers, which may only be starting, and to spread the connections evenly over them.
CONNECT_S = 60.0
#: Connections too many to one worker that are kept open, so that the next one goes to another; then they are given back.
SPARE = 48
#: Bytes that are read at a time: more than an answer has.
PIECE_BYTES = 1 << 18


class Plan(msgspec.Struct, frozen=True):
    """What to ask, how often (requests a second; None: closed loop), how long at most, on how many connections to each of how many
    workers."""

    socket: str
    path: str
    body: str
    rate: float | None
    seconds: float
    workers: int = 4
    connections: int = 4


class Work(msgspec.Struct, frozen=True):
    """Plans, and the seconds of a turn of each; None: one turn."""

    plans: list[Plan]
    turn_s: float | None = None


class Answer(NamedTuple):
    """One request: when it was due, sent and answered (s); the status (0: none came), generation (0: not said), and whether it was
    marked stale."""

    due: float
    start: float
    end: float
    status: int
    generation: int
    stale: bool

    @property
    def ms(self) -> float:
        """From when it was due, in ms."""
        return (self.end - self.due) * 1000

    @property
    def is_error(self) -> bool:
        return self.status != 200


class Done(NamedTuple):
    """What came of a plan: the answers in their order, and the seconds of all its turns, each until its last answer."""

    answers: list[Answer]
    seconds: float


# --- pure ---------------------------------------------------------------------------------------------------------------


class Schedule:
    """When requests are due; one that could not be sent in time stays due since then."""

    def __init__(self, start: float, rate: float | None) -> None:
        self._start, self._rate, self._taken = start, rate, 0

    def due(self, now: float) -> float | None:
        """When the next one was due; None: it is not due yet."""
        at = self.next_at(now)
        if at > now:
            return None
        self._taken += 1
        return at

    def next_at(self, now: float) -> float:
        """When the next one will be due, or was."""
        return now if self._rate is None else self._start + self._taken / self._rate


class Response:
    """One HTTP/1.1 response with a Content-Length, in pieces as they come."""

    __slots__ = ("_body_at", "_data", "_end", "generation", "stale", "status")

    def __init__(self) -> None:
        self._data = bytearray()
        self._body_at = self._end = 0
        self.status = self.generation = 0
        self.stale = False

    def take(self, piece: bytes) -> bool:
        """Adds what was received; True once it is complete."""
        self._data += piece
        if not self._body_at:
            head = self._data.find(b"\r\n\r\n")
            if head < 0:
                return False
            self._body_at = head + 4
            self._read_head(bytes(self._data[:head]).lower())
        return len(self._data) >= self._end

    def _read_head(self, head: bytes) -> None:
        self.status = int(head[9:12])
        self._end = self._body_at + int(_value(head, b"content-length") or 0)
        self.generation = int(_value(head, b"x-genlock-generation") or 0)
        self.stale = _value(head, b"x-genlock-stale") == b"1"

    @property
    def body(self) -> bytes:
        return bytes(self._data[self._body_at : self._end])


def _value(head: bytes, name: bytes) -> bytes:
    _, found, rest = head.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip() if found else b""


def turns(work: Work) -> Iterator[tuple[int, float]]:
    """Which plan comes next, and for how many seconds: there and back again, so that what changes evenly meets all alike."""
    left = [plan.seconds for plan in work.plans]
    order = list(range(len(left)))
    while any(seconds > 0 for seconds in left):
        for n in order:
            seconds = left[n] if work.turn_s is None else min(left[n], work.turn_s)
            left[n] -= seconds
            yield n, seconds
        order.reverse()


# --- the client ---------------------------------------------------------------------------------------------------------


class Client:
    """Carries out a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        body = plan.body.encode()
        head = f"POST {plan.path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body
        self.done = Done([], 0.0)
        #: Connections that wait for nothing; the one that has waited longest is used next, so that workers get equal shares.
        self._idle: deque[socket.socket] = deque()
        #: Connection → when its request was due and sent, and what has come of the answer.
        self._busy: dict[socket.socket, tuple[float, float, Response]] = {}

    def connect(self) -> None:
        """Makes as many connections to every worker, by asking each who it is."""
        spare: list[socket.socket] = []
        counts = Counter[str]()
        deadline = time.monotonic() + CONNECT_S
        while len(self._idle) < self._plan.workers * self._plan.connections:
            connection = self._connection()
            worker = self._worker_of(connection)
            if counts[worker] < self._plan.connections:
                counts[worker] += 1
                self._idle.append(connection)
                continue
            spare.append(connection)
            if len(spare) == SPARE:
                _close(spare)
                time.sleep(0.05)
            if time.monotonic() > deadline:
                raise SystemExit(f"connections are not spread evenly over {self._plan.workers} workers: {dict(counts)}")
        _close(spare)

    def _connection(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE_S)
        connection.connect(self._plan.socket)
        return connection

    def _worker_of(self, connection: socket.socket) -> str:
        connection.sendall(self._request)
        response = Response()
        while not response.take(piece := connection.recv(PIECE_BYTES)):
            if not piece:
                raise SystemExit("the server closed a connection")
        if response.status != 200:
            raise SystemExit(f"the server answers {response.status}: {response.body[:500]!r}")
        return str(json.loads(response.body)["worker"])

    def run(self, start: float, seconds: float, stop: int) -> bool:
        """Asks from `start` on for so long, or until the descriptor `stop` can be read; then waits for what is under way. False: it
        was stopped."""
        schedule, end, stopped = Schedule(start, self._plan.rate), start + seconds, False
        while not stopped and (now := time.monotonic()) < end:
            while self._idle and (due := schedule.due(now)) is not None:
                self._send(due)
            wait = schedule.next_at(now) - now if self._idle else 0.1
            stopped = stop in self._receive(max(0.0, wait), stop)
        while self._busy:
            self._receive(0.1)
        self.done = self.done._replace(seconds=self.done.seconds + time.monotonic() - start)
        return not stopped

    def _send(self, due: float) -> None:
        connection = self._idle.popleft()
        sent = time.monotonic()
        try:
            connection.sendall(self._request)
        except OSError:
            self._lost(connection, due, sent)
        else:
            self._busy[connection] = (due, sent, Response())

    def _receive(self, wait_s: float, *others: int) -> list[int | socket.socket]:
        # select, because it waits to the microsecond: epoll counts in milliseconds.
        waiting: list[int | socket.socket] = [*self._busy, *others]
        ready = select.select(waiting, (), (), wait_s)[0]
        for connection in ready:
            if isinstance(connection, socket.socket):
                self._take(connection)
        now = time.monotonic()
        for connection, (due, sent, _) in list(self._busy.items()):
            if now - sent > PATIENCE_S:
                self._lost(connection, due, sent)
        return ready

    def _take(self, connection: socket.socket) -> None:
        due, sent, response = self._busy[connection]
        try:
            piece = connection.recv(PIECE_BYTES)
        except OSError:
            piece = b""
        if not piece:
            self._lost(connection, due, sent)
        elif response.take(piece):
            self._keep(Answer(due, sent, time.monotonic(), response.status, response.generation, response.stale))
            del self._busy[connection]
            self._idle.append(connection)

    def _lost(self, connection: socket.socket, due: float, sent: float) -> None:
        self._busy.pop(connection, None)
        connection.close()
        self._keep(Answer(due, sent, time.monotonic(), 0, 0, False))
        self._idle.append(self._connection())

    def _keep(self, answer: Answer) -> None:
        self.done.answers.append(answer)


def _close(connections: list[socket.socket]) -> None:
    while connections:
        connections.pop().close()


class Load:
    """A client at work, seen from the process that started it."""

    def __init__(self, *plans: Plan, turn_s: float | None = None) -> None:
        command = [sys.executable, "-m", "benchmarks.load"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(Work(list(plans), turn_s)) + b"\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        if not said:
            raise RuntimeError(f"the client ended with status {self._process.wait()}")
        #: When the first request was due, on the monotonic clock.
        self.start = float(said)

    def finish(self) -> list[Done]:
        """Waits until its time is over; what came of each plan."""
        assert self._process.stdout is not None
        found = self._process.stdout.read()
        self._process.wait()
        self._close()
        return msgspec.msgpack.decode(found, type=list[Done])

    def stop(self) -> list[Done]:
        """Ends it now; what came of each plan."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.finish()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays behind when a measurement fails."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._close()

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def main() -> None:
    """What the process does: see the module."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    work = msgspec.json.decode(sys.stdin.buffer.readline(), type=Work)
    clients = [Client(plan) for plan in work.plans]
    for client in clients:
        client.connect()
    start = time.monotonic()
    print(start, flush=True)
    for n, seconds in turns(work):
        if not clients[n].run(start, seconds, sys.stdin.fileno()):
            break
        start = time.monotonic()
    sys.stdout.buffer.write(msgspec.msgpack.encode([client.done for client in clients]))


if __name__ == "__main__":
    main()
