"""The clients of a run, a process of their own: connections that ask all the while, and write down what they are answered.

Each connection asks again `pause_s` after its last answer. What is recorded is appended to a file of MessagePack, which the director
reads while it grows: each record behind its length, four bytes, big-endian.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from genlock.worker.demo.clients import length_of

from .history import TORN, Answer

#: Seconds after which an answer is given up: gunicorn keeps connections waiting while all of its workers start again.
PATIENCE_S = 30.0
#: Seconds before a connection that broke is opened again; and between two batches that are written.
AGAIN_S, BATCH_S = 0.02, 0.05


class Target(msgspec.Struct, frozen=True):
    """Where a service listens, and how many connections ask it. `keeps`: a connection is used again."""

    service: str
    host: str
    port: int
    connections: int
    keeps: bool


class Work(msgspec.Struct, frozen=True):
    """What a process of clients shall do, and the file that it writes."""

    targets: list[Target]
    pause_s: float
    path: str


class Evaluated(msgspec.Struct, frozen=True):
    """The body of an answer."""

    outputs: list[float]
    generation: int
    version: str
    worker: str
    stale: bool


_body = msgspec.json.Decoder(Evaluated)
_lines = msgspec.msgpack.Encoder()


def request_of(target: Target) -> bytes:
    """What every connection sends."""
    body = b'{"inputs": [0.0]}'
    fields = {"Host": target.host, "Content-Type": "application/json", "Content-Length": str(len(body))}
    if not target.keeps:
        fields["Connection"] = "close"
    lines = ["POST /evaluate/m HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def content_of(outputs: list[float]) -> int:
    """The one checkpoint that all numbers are of, or TORN."""
    return int(outputs[0]) if outputs and len(set(outputs)) == 1 and outputs[0].is_integer() else TORN


def framed(answer: Answer) -> bytes:
    """As it stands in the file."""
    data = _lines.encode(answer)
    return len(data).to_bytes(4, "big") + data


class Line:
    """One connection; opened when it is needed."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._request = request_of(target)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self) -> Answer:
        """One request, and what became of it."""
        start = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S):
                status, body = await self._exchange()
            return self._read(status, body, start, time.monotonic())
        except (OSError, EOFError, ValueError, TimeoutError, msgspec.MsgspecError) as error:
            self.close()
            why = f"{type(error).__name__}: {error}"[:200]
            return Answer(start, time.monotonic(), self._target.service, error=why)

    async def _exchange(self) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._target.host, self._target.port)
        reader, writer = self._streams
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        status, length = length_of(head)
        body = await reader.readexactly(length)
        if not self._target.keeps or b"connection: close" in head.lower():
            self.close()
        return status, body

    def _read(self, status: int, body: bytes, start: float, end: float) -> Answer:
        service = self._target.service
        if status != 200:
            return Answer(start, end, service, error=f"HTTP {status}: {body[:300].decode(errors='replace')}")
        said = _body.decode(body)
        worker, version = sys.intern(said.worker), sys.intern(said.version)
        return Answer(start, end, service, worker, said.generation, version, content_of(said.outputs), said.stale)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Crowd:
    """All connections of a process, and what they have seen since the last batch."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._seen: list[bytes] = []
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        """Until `stopped`; then everything has been written."""
        with Path(self._work.path).open("ab") as file:
            async with asyncio.TaskGroup() as group:
                for target in self._work.targets:
                    for number in range(target.connections):
                        group.create_task(self._connection(target, number / target.connections))
                group.create_task(self._write(file))
            self._flush(file)

    async def _connection(self, target: Target, phase: float) -> None:
        line = Line(target)
        await asyncio.sleep(phase * self._work.pause_s)
        while not self.stopped.is_set():
            answer = await line.ask()
            self._seen.append(framed(answer))
            await asyncio.sleep(AGAIN_S if answer.error else self._work.pause_s)
        line.close()

    async def _write(self, file: Any) -> None:
        while not self.stopped.is_set():
            await asyncio.sleep(BATCH_S)
            self._flush(file)

    def _flush(self, file: Any) -> None:
        seen, self._seen = self._seen, []
        file.write(b"".join(seen))
        file.flush()


async def _serve(work: Work) -> None:
    crowd = Crowd(work)
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), crowd.stopped.set)
    await crowd.run()


def main() -> None:
    """`python -m chaos.clients WORK`, a Work as JSON; until stdin ends."""
    asyncio.run(_serve(msgspec.json.decode(sys.argv[1], type=Work)))


if __name__ == "__main__":
    main()
