"""One connection through a Proxy: two sockets, the bytes between them, and which reply belongs to which command."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .frames import Frames, words_of

if TYPE_CHECKING:
    from .proxy import Proxy

#: Bytes under way on a slow link, each direction; beyond that its sender is not read.
LINK_BYTES = 64 * 1024
#: Closes with RST: on, after 0 s.
RESET = struct.pack("ii", 1, 0)
#: Behind these a stream is no longer one reply per command.
STREAMS = ("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "MONITOR", "PSYNC", "SYNC")


@dataclass(frozen=True)
class Pace:
    """How slow a link is, in each direction. Delay 0 and no rate: not at all."""

    delay_s: float = 0.0
    bytes_per_s: float | None = None


@dataclass(frozen=True)
class Command:
    """`name`: of genlock's script, its digest if it is another's, or the command in capitals; `frame`: what was sent."""

    name: str
    frame: bytes


class End(asyncio.Protocol):
    """One socket. It is read while there is no reason against it."""

    def __init__(self, heard: Callable[[bytes], None], lost: Callable[[], None]) -> None:
        self.other: End | None = None  #: where its bytes go
        self.is_over = False  #: it was closed, or will be as soon as it is there
        self._heard, self._lost = heard, lost
        self._transport: asyncio.Transport | None = None
        self._reasons: set[str] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self.is_over:
            transport.abort()
        else:
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        """Python 3.11.2 begins to read after connection_made whatever was said there, so it is said behind that."""
        if self._transport and self._reasons:
            self._transport.resume_reading()
            self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self._heard(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_over, self._transport = True, None
        self._lost()

    def pause_writing(self) -> None:
        """Who takes no more is not read for: the server then sees a slow reader, as it would without a proxy."""
        if self.other:
            self.other.hold("full")

    def resume_writing(self) -> None:
        if self.other:
            self.other.release("full")

    def hold(self, reason: str) -> None:
        """What comes stays in the system's buffers, then in the sender's."""
        self._reasons.add(reason)
        if self._transport:
            self._transport.pause_reading()

    def release(self, reason: str) -> None:
        self._reasons.discard(reason)
        if self._transport and not self._reasons:
            self._transport.resume_reading()

    @property
    def is_open(self) -> bool:
        """Whether there is a socket."""
        return self._transport is not None

    @property
    def has_left(self) -> bool:
        """Whether the other side closed it; known also while it is not read."""
        if self.is_over or not self._transport:
            return self.is_over
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def write(self, data: bytes) -> None:
        if self._transport and not self.is_over:
            self._transport.write(data)

    def close(self) -> None:
        """After what is written."""
        self.is_over = True
        if self._transport:
            self._transport.close()

    def reset(self) -> None:
        """Now, with RST."""
        self.is_over = True
        if self._transport:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._transport.abort()


class Lane:
    """One direction of a pipe: in order, and as late as the link is slow."""

    def __init__(self, source: End, target: End, pace: Callable[[], Pace]) -> None:
        self._source, self._target, self._pace = source, target, pace
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, bytes | None]] = deque()
        self._bytes = 0
        self._sent_at = 0.0  #: when the link has sent all that it was given

    def send(self, data: bytes) -> None:
        if not self._waiting and self._pace() == Pace():
            self._target.write(data)
        else:
            self._queue(data)

    def end(self) -> None:
        """Closes the target behind what is under way."""
        if self._waiting:
            self._queue(None)
        else:
            self._target.close()

    def _queue(self, data: bytes | None) -> None:
        pace, size = self._pace(), len(data or b"")
        self._sent_at = max(self._loop.time(), self._sent_at) + (size / pace.bytes_per_s if pace.bytes_per_s else 0)
        due = self._sent_at + pace.delay_s
        if self._waiting:
            due = max(due, self._waiting[-1][0])
        else:
            self._loop.call_at(due, self._deliver)
        self._waiting.append((due, data))
        self._bytes += size
        if self._bytes > LINK_BYTES:
            self._source.hold("link")

    def _deliver(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._loop.time():
            data = self._waiting.popleft()[1]
            self._bytes -= len(data or b"")
            if data is None:
                self._target.close()
            else:
                self._target.write(data)
        if self._bytes <= LINK_BYTES:
            self._source.release("link")
        if self._waiting:
            self._loop.call_at(self._waiting[0][0], self._deliver)


class Pipe:
    """A client's connection and its server's."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self.client = End(self._client_said, self._client_left)
        self.server = End(self._server_said, self._server_left)
        self.client.other, self.server.other = self.server, self.client
        self._to_server = Lane(self.client, self.server, proxy.pace)
        self._to_client = Lane(self.server, self.client, proxy.pace)
        self._requests, self._replies = Frames(), Frames()
        self._open: deque[Command] = deque()  #: sent and not answered
        self._is_stream = False
        self.is_subscribed = False
        self._is_mute = False  #: its client hears nothing any more
        self.is_deaf = False  #: neither side hears of the other any more, not even of its end

    @property
    def is_open(self) -> bool:
        return self.client.is_open or self.server.is_open

    def reset(self) -> None:
        self.client.reset()
        self.server.reset()

    # --- what is heard -----------------------------------------------------------------------------------------------

    def _client_said(self, data: bytes) -> None:
        if self.is_deaf:
            return
        if not self._is_stream:
            for frame in self._requests.feed(data):
                self._request(frame)
            data = self._requests.take_rest() if self._is_stream else b""
        if data:
            self._to_server.send(data)

    def _request(self, frame: bytes) -> None:
        command = Command(self._proxy.name_of(*words_of(frame, 2)), frame)
        if command.name in STREAMS:
            self._is_stream = True
            self.is_subscribed = command.name.endswith("SUBSCRIBE")
        else:
            self._open.append(command)
        self._proxy.called(command.name)
        self._to_server.send(frame)

    def _server_said(self, data: bytes) -> None:
        if self.is_deaf:
            return
        if self._is_stream and not self._open:
            # The end of the last reply may have come with the begin of the stream.
            self._to_client.send(self._replies.take_rest() + data)
            return
        for frame in self._replies.feed(data):
            self._reply(frame)

    def _reply(self, frame: bytes) -> None:
        is_push = frame.startswith(b">")
        command = self._open.popleft() if self._open and not is_push else None
        # An error is no execution: genlock's scripts raise none, and the server refuses before it begins.
        fate = self._proxy.executed(command) if command and not frame.startswith(b"-") else None
        if fate == "cut":
            self.reset()
        elif fate == "swallow":
            self._is_mute = True  # what follows may not overtake it
        if not self._is_mute:
            self._to_client.send(frame)

    def _client_left(self) -> None:
        self._to_server.end()
        self._proxy.left(self)

    def _server_left(self) -> None:
        if not self.is_deaf:
            self._to_client.end()
        self._proxy.left(self)
