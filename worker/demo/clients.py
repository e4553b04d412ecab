"""The clients of the demo, as a process: keep-alive connections that send held-out digits all the while, and write down what they see.

An open loop: each connection has a request due every `interval_s`, whatever became of the one before; a request that had to wait because
the connection still waited for an answer counts from when it was due. So a service that stops for a second shows in the percentiles, not
as one slow request and a pause. When stdin ends, the connections stop after the answer that they wait for.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from .news import Connected, News, Request, encode

#: Seconds after which an answer is given up; a flip may not take a hundredth of it.
PATIENCE_S = 10.0
#: Seconds before a connection that broke is opened again.
AGAIN_S = 0.1
#: Seconds that a connection is opened again and again because its worker has its share of them already, and between two times. Which
#: worker accepts is chance; of 250 times all going to three of four workers the chance is 0.75^250.
SPREAD_S, SPREAD_PAUSE_S = 5.0, 0.02
#: Seconds between two batches of news.
BATCH_S = 0.1


class Load(msgspec.Struct, frozen=True):
    """What one process of clients shall do. `workers`: over how many the connections shall be spread."""

    port: int
    path: str
    held_out: str
    connections: int
    interval_s: float
    workers: int
    seed: int = 0


class HeldOut(msgspec.Struct, frozen=True):
    """The digits that are sent: pictures of 8 rows of 8, brightness from 0 to 1."""

    pictures: list[list[list[float]]]
    labels: list[int]


class Evaluated(msgspec.Struct, frozen=True):
    """The body of an answer."""

    outputs: list[list[float]]
    generation: int
    version: str
    worker: str
    stale: bool


def requests_of(load: Load, digits: HeldOut) -> list[tuple[bytes, int]]:
    """Each digit as a request, and what it shows; shuffled by chance that is the same for every process of a seed."""
    ready = []
    for picture, label in zip(digits.pictures, digits.labels, strict=True):
        body = msgspec.json.encode({"inputs": [picture]})
        head = (
            f"POST {load.path} HTTP/1.1\r\nHost: 127.0.0.1:{load.port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        ready.append((head.encode() + body, label))
    random.Random(load.seed).shuffle(ready)
    return ready


def length_of(head: bytes) -> tuple[int, int]:
    """Status and bytes of the body, of `HTTP/1.1 200 …` and the fields below. Raises ValueError for what is no such head."""
    first, *rest = head.decode("latin-1").split("\r\n")
    fields = dict(row.lower().split(":", 1) for row in rest if ":" in row)
    return int(first[9:12]), int(fields.get("content-length", "0"))


class Crowd:
    """All connections of one process, and what they have seen since the last batch."""

    def __init__(self, load: Load, digits: HeldOut) -> None:
        self.load = load
        self.stopped = asyncio.Event()
        self.seen: list[News] = []
        self.opened = 0  #: connections that have a worker
        self._requests = itertools.cycle(requests_of(load, digits))
        self._share = -(-load.connections // load.workers)
        self._by_worker: Counter[str] = Counter()

    async def run(self) -> None:
        """Until `stopped`."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.load.connections):
                group.create_task(self._connection(number))

    async def _connection(self, number: int) -> None:
        line = Line(self.load.port)
        await self._find_worker(line)
        for due in self._moments(number):
            late = due < time.monotonic()
            if await self._stopped_by(due):
                break
            if (await self._exchange(line, due, late=late)).error:
                await self._stopped_by(time.monotonic() + AGAIN_S)
        line.close()

    async def _find_worker(self, line: Line) -> None:
        """Opens the connection, again and again until its worker has no more than its share of all."""
        until = time.monotonic() + SPREAD_S
        while True:
            found = await self._exchange(line, time.monotonic(), late=False)
            if found.worker and (self._by_worker[found.worker] < self._share or time.monotonic() > until):
                break
            line.close()
            if await self._stopped_by(time.monotonic() + SPREAD_PAUSE_S):
                return
        self._by_worker[found.worker] += 1
        self.opened += 1
        if self.opened == self.load.connections:
            self.seen.append(Connected(self.opened))

    def _moments(self, number: int) -> Iterator[float]:
        """When requests are due; the connections take turns."""
        start = time.monotonic() + self.load.interval_s * number / self.load.connections
        return (start + self.load.interval_s * count for count in itertools.count(1))

    async def _stopped_by(self, moment: float) -> bool:
        """Waits for a moment, or until it shall stop; whether it shall."""
        left = moment - time.monotonic()
        if left > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopped.wait(), left)
        return self.stopped.is_set()

    async def _exchange(self, line: Line, due: float, *, late: bool) -> Request:
        """One request, written down."""
        data, label = next(self._requests)
        start = time.monotonic()
        since = due if late else start
        try:
            status, body = await asyncio.wait_for(line.exchange(data), PATIENCE_S)
            end = time.monotonic()
            found = _answered(status, body, label, start, end, end - since)
        except (OSError, EOFError, ValueError, TimeoutError, msgspec.MsgspecError) as error:
            line.close()
            end = time.monotonic()
            found = Request(start, end, end - since, error=f"{type(error).__name__}: {error}"[:200])
        self.seen.append(found)
        return found


def _answered(status: int, body: bytes, label: int, start: float, end: float, latency: float) -> Request:
    if status != 200:
        return Request(start, end, latency, error=f"HTTP {status}: {body[:150].decode(errors='replace')}")
    answer = msgspec.json.decode(body, type=Evaluated)
    (scores,) = answer.outputs
    correct = scores.index(max(scores)) == label
    return Request(start, end, latency, answer.generation, answer.version, answer.worker, answer.stale, correct)


class Line:
    """One keep-alive connection; opened when it is needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        status, length = length_of(await reader.readuntil(b"\r\n\r\n"))
        return status, await reader.readexactly(length)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _tell(crowd: Crowd) -> None:
    """Batches of what was seen, until everything has been told."""
    output = sys.stdout.buffer
    while not crowd.stopped.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(crowd.stopped.wait(), BATCH_S)
        batch, crowd.seen = crowd.seen, []
        output.write(b"".join(map(encode, batch)))
        output.flush()


async def _serve(load: Load) -> None:
    crowd = Crowd(load, msgspec.json.decode(Path(load.held_out).read_bytes(), type=HeldOut))
    source = sys.stdin.fileno()
    asyncio.get_running_loop().add_reader(source, crowd.stopped.set)
    await asyncio.gather(crowd.run(), _tell(crowd))
    sys.stdout.buffer.write(b"".join(map(encode, crowd.seen)))


def main() -> None:
    """`python -m genlock.worker.demo.clients LOAD`, a Load as JSON."""
    asyncio.run(_serve(msgspec.json.decode(sys.argv[1], type=Load)))


if __name__ == "__main__":
    main()
