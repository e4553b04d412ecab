"""A network between genlock and its server that does what networks do: it loses, repeats, delays, divides.

A thread of its own carries the bytes. It reads RESP, so it knows of which script a reply is. All methods may be called by any
thread; what they do has happened when they return.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import suppress
from hashlib import sha1
from typing import Any, Literal, TypeVar

from genlock.coordinator.calls import Call
from genlock.coordinator.scripts import digest_of

from .frames import Frames
from .pipe import Command, Pace, Pipe
from .ports import Port

How = Literal["cut", "swallow"]
Act = Callable[[], object]
Result = TypeVar("Result")

#: Seconds that the copy of a call may take, which then is given up.
COPY_S = 5.0
#: Bytes of a reply to a copy that are read at once.
READ_BYTES = 64 * 1024
#: Connections that may wait to be taken: those of a fleet of 200 that comes back at once.
BACKLOG = 1024


class ProxyFailed(Exception):
    """A fault of the proxy or of a hook, not one that it was asked for: what was seen through it proves nothing."""


class Proxy:
    """A context manager. `upstream`: host and port of the server."""

    def __init__(self, upstream: tuple[str, int], *, host: str = "127.0.0.1") -> None:
        """`host`: an address of this machine, where its clients connect."""
        self.host = host
        self._kept = Port()
        self.port = self._kept.number
        # All of these: only the proxy's thread changes them.
        self._upstream = upstream
        self._pace = Pace()
        self._held: set[Literal["client", "server"]] = set()  #: whose words do not get through
        self._pipes: set[Pipe] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._counts: dict[str, int] = {}
        self._dropped: dict[str, int] = {}
        self._copied: dict[str, int] = {}
        self._drops: dict[str, deque[How]] = {}
        self._copies: dict[str, deque[float]] = {}
        self._hooks: dict[tuple[str, bool], list[tuple[Act | None, threading.Event]]] = {}
        self._listening: socket.socket | None = None
        self._failures: list[str] = []
        self._passable = asyncio.Event()  #: whether a connection can begin
        self._passable.set()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _, about: self._failures.append(repr(about)))
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy on {self.port}", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self.refuse(False)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._kept.close()
        if self._failures:
            raise ProxyFailed("\n".join(self._failures))

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    # --- what passes -------------------------------------------------------------------------------------------------

    @property
    def counts(self) -> dict[str, int]:
        """How many calls of each script, and of each command, were executed; without those that the server answered by an error."""
        return dict(self._counts)

    @property
    def dropped(self) -> dict[str, int]:
        """How many replies of each have been dropped."""
        return dict(self._dropped)

    @property
    def duplicated(self) -> dict[str, int]:
        """How many copies of each have been executed."""
        return dict(self._copied)

    def on_call(self, script: str, act: Act | None = None, *, executed: bool = False) -> threading.Event:
        """At the next call of `script`, once: `act`, done by the proxy's thread, then the event.

        At that moment the server has not got the call yet; or (`executed`) it has executed it, and the client has no reply yet.
        Meanwhile nothing else passes: `act` has to be short.
        """
        event = threading.Event()
        self._do(lambda: self._hooks.setdefault((script, executed), []).append((act, event)))
        return event

    def wait_for_call(self, script: str, timeout: float) -> bool:
        """Until another call of `script` has been executed; False after `timeout` seconds. A call before this one is missed: then
        take `on_call` first."""
        return self.on_call(script, executed=True).wait(timeout)

    # --- faults of calls ---------------------------------------------------------------------------------------------

    def drop_replies(self, script: str, count: int = 1, *, how: How = "cut") -> None:
        """The replies to the next `count` calls of `script` that the server executes never reach their clients.

        "cut": the connection is reset; "swallow": it stays, and its client hears nothing more on it.
        """
        self._do(lambda: self._drops.setdefault(script, deque()).extend([how] * count))

    def duplicate(self, script: str, count: int = 1, *, late_s: float = 0.0) -> None:
        """The next `count` calls of `script` that the server executes are sent once more, `late_s` later, on a connection of
        their own; their clients see the first reply."""
        self._do(lambda: self._copies.setdefault(script, deque()).extend([late_s] * count))

    def disarm(self) -> None:
        """What `drop_replies`, `duplicate` and `on_call` still wait for will not happen."""

        def forget() -> None:
            for armed in (self._drops, self._copies, self._hooks):
                armed.clear()

        self._do(forget)

    # --- faults of the network ---------------------------------------------------------------------------------------

    def point_to(self, host: str, port: int) -> None:
        """New connections go there; those that live stay where they are."""

        def point() -> None:
            self._upstream = (host, port)

        self._do(point)

    def block(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """A partition, in place of one before: nothing gets through in these directions, no connection ends, and none begins,
        though it seems to: its client is not answered."""

        def block() -> None:
            self._held = {side for side, is_held in (("client", to_server), ("server", to_client)) if is_held}
            self._after_block()

        self._do(block)

    def unblock(self, *, late: bool = True) -> None:
        """What was held arrives now; or all connections end without it."""

        def unblock() -> None:
            self._held = set()
            if not late:
                self._reset_all()
            self._after_block()

        self._do(unblock)

    def deafen(self) -> int:
        """Who is subscribed now hears nothing more, not even the end of the server, and thinks that it is; returns how many."""

        def deafen() -> int:
            found = [pipe for pipe in self._pipes if pipe.is_subscribed and not pipe.is_deaf]
            for pipe in found:
                pipe.is_deaf = True
            return len(found)

        return self._do(deafen)

    def slow(self, delay_s: float, bytes_per_s: float | None = None) -> None:
        """Each way takes `delay_s` longer, and each connection carries so many bytes a second each way; 0: at once."""

        def slow() -> None:
            self._pace = Pace(delay_s, bytes_per_s)

        self._do(slow)

    def cut(self) -> int:
        """Resets all connections; returns how many."""
        return self._do(self._reset_all)

    def refuse(self, refuses: bool = True) -> None:
        """New connections are refused, as by a machine on which nothing listens."""
        self._do(self._deny if refuses else self._listen)

    # --- the proxy's thread ------------------------------------------------------------------------------------------

    def _do(self, action: Callable[[], Result]) -> Result:
        """`action`, done by the proxy's thread; also from a hook."""
        if threading.current_thread() is self._thread:
            return action()
        future: Future[Result] = Future()

        def run() -> None:
            try:
                # Behind what the action has left to the loop: sockets that it closes are closed.
                self._loop.call_soon(future.set_result, action())
            except BaseException as error:
                future.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return future.result()

    def _after_block(self) -> None:
        (self._passable.clear if self._held else self._passable.set)()
        for pipe in self._pipes:
            self._hold(pipe)

    def _hold(self, pipe: Pipe) -> None:
        for name, end in (("client", pipe.client), ("server", pipe.server)):
            (end.hold if name in self._held else end.release)("partition")

    def _reset_all(self) -> int:
        pipes = list(self._pipes)
        for pipe in pipes:
            pipe.reset()
        return len(pipes)

    def _listen(self) -> None:
        """By hand: asyncio's server, when it is closed, loses whom it is just accepting."""
        if self._listening is None:
            self._listening = socket.create_server((self.host, self.port), backlog=BACKLOG)
            self._listening.setblocking(False)
            self._loop.add_reader(self._listening, self._accept)

    def _deny(self) -> None:
        if self._listening is not None:
            self._loop.remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    def _accept(self) -> None:
        assert self._listening is not None
        with suppress(BlockingIOError, ConnectionAbortedError):  # it left before it was accepted
            self._begin(self._carry(self._listening.accept()[0]))

    def _begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, sock: socket.socket) -> None:
        pipe = Pipe(self)
        pipe.client.hold("connecting")
        self._hold(pipe)
        self._pipes.add(pipe)
        await self._loop.connect_accepted_socket(lambda: pipe.client, sock)
        await self._connect(pipe)

    async def _connect(self, pipe: Pipe) -> None:
        """Who gives up meanwhile has said nothing, as if it had never been connected."""
        try:
            await asyncio.sleep(2 * self._pace.delay_s)
            await self._passable.wait()
            if pipe.client.has_left:
                raise ConnectionAbortedError
            await self._loop.create_connection(lambda: pipe.server, *self._upstream)
        except OSError:
            pipe.reset()
        pipe.client.release("connecting")

    async def _end(self) -> None:
        self._deny()
        await asyncio.sleep(0)  # each task has begun, and closes what it was given
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._pipes:
            self._reset_all()
            await asyncio.sleep(0)

    # --- what a pipe tells -------------------------------------------------------------------------------------------

    def pace(self) -> Pace:
        return self._pace

    def left(self, pipe: Pipe) -> None:
        if not pipe.is_open:
            self._pipes.discard(pipe)

    @staticmethod
    def name_of(command: bytes = b"", first: bytes = b"") -> str:
        """Of the script that a command calls, or of the command."""
        word = command.upper()
        if word == b"EVALSHA":
            return SCRIPTS.get(first.lower(), first.decode("ascii", "replace"))
        if word == b"EVAL":
            digest = sha1(first, usedforsecurity=False).hexdigest()
            return SCRIPTS.get(digest.encode(), digest)
        return word.decode("ascii", "replace")

    def called(self, name: str) -> None:
        self._fire(name, False)

    def executed(self, command: Command) -> How | None:
        """Returns what becomes of the reply."""
        name = command.name
        self._counts[name] = self._counts.get(name, 0) + 1
        if self._copies.get(name):
            self._begin(self._copy(command, self._copies[name].popleft()))
        fate = None
        if self._drops.get(name):
            fate = self._drops[name].popleft()
            self._dropped[name] = self._dropped.get(name, 0) + 1
        self._fire(name, True)
        return fate

    def _fire(self, name: str, executed: bool) -> None:
        for act, event in self._hooks.pop((name, executed), ()):
            try:
                if act is not None:
                    act()
            finally:
                event.set()

    async def _copy(self, command: Command, late_s: float) -> None:
        await asyncio.sleep(late_s)
        try:
            async with asyncio.timeout(COPY_S):
                reader, writer = await asyncio.open_connection(*self._upstream)
                try:
                    writer.write(command.frame)
                    replies = Frames()
                    while not (found := replies.feed(data := await reader.read(READ_BYTES))) and data:
                        pass
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return
        if found and not found[0].startswith(b"-"):
            self._copied[command.name] = self._copied.get(command.name, 0) + 1


def _scripts(base: type[Call] = Call) -> Iterator[tuple[bytes, str]]:
    for kind in base.__subclasses__():
        yield from _scripts(kind)
        if not kind.__name__.startswith("_"):
            yield digest_of(kind.script, kind.parts).encode(), kind.script


#: Digest of the source → name of the script.
SCRIPTS = dict(_scripts())
