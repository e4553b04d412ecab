"""A Redis in this process for the real scripts: keys, virtual time and cjson inside one Lua 5.1, no socket, no thread, no clock.

The scripts are the ones that a server runs; this is only what they stand on. The registry's contract suite runs against it as against
real servers, so that what a simulation finds here is true there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from hashlib import sha1
from pathlib import Path
from typing import Any

import redis
from genlock.coordinator.calls import Call
from genlock.coordinator.reply import Epoch, Reply, decode
from genlock.coordinator.scripts import Caller, source_of

try:  # the same language, a third faster; every schedule is the same on both, but not from one to the other
    from lupa import luajit20 as lua51
except ImportError:  # not built for every processor
    from lupa import lua51

#: Unix seconds at which the server's clock stands first: any moment will do, this one is easy to recognise.
START_S = 1_700_000_000.0


class ScriptError(Exception):
    """A script raised; what it had written before stays written, as in Redis."""


class Server:
    """One server. `now_s`: its clock, which only moves when it is set. `run_id`: another one after a restart.

    The same seed and the same calls give the same replies.
    """

    def __init__(self, *, seed: int = 0, now_s: float = START_S, run_id: str = "run-1") -> None:
        self.now_s, self.run_id = now_s, run_id
        self._hints: list[tuple[str, str]] = []
        self._random = random.Random(seed)
        self._chunks: dict[tuple[str, tuple[str, ...]], Any] = {}
        runtime = lua51.LuaRuntime(encoding=None, unpack_returned_tuples=True)
        source = Path(__file__).with_suffix(".lua").read_bytes()
        functions = runtime.execute(source)
        self._compile, self._run, self._command, self._snapshot, self._restore, self._set_seed = functions[:6]
        self._changes, self._set_read_only, self._take_published = functions[6:]
        self._names: dict[tuple[str, str], list[bytes]] = {}
        self.reseed(seed)

    def execute(self, call: Call, caller: Caller, epoch: Epoch) -> Reply:
        """The script of `call`, as a connection of `caller` would have it executed."""
        key = (call.script, call.parts)
        chunk = self._chunks.get(key)
        if chunk is None:
            chunk = self._chunks[key] = self.compile(source_of(*key))
        argv = caller.arguments(call, epoch)
        argv[3] = f"{self._random.getrandbits(64):016x}"  # the fresh nonce: from the seed, too
        return decode(self.run(chunk, self._keys(call, caller), argv))

    def _keys(self, call: Call, caller: Caller) -> list[bytes]:
        name = (caller.fleet, call.model if call.locks else "")  # type: ignore[attr-defined]
        if name not in self._names:
            self._names[name] = [key.encode() for key in caller.keys(call)]
        return self._names[name]

    def reseed(self, seed: int) -> None:
        """From here on, all that is drawn follows from this seed."""
        self._random.seed(seed)
        self._set_seed(seed)

    def compile(self, source: str | bytes) -> Any:
        """A script to be run; raises ScriptError where it is not Lua."""
        try:
            return self._compile(_bytes(source))
        except lua51.LuaError as error:
            raise ScriptError(str(error)) from None

    def run(self, chunk: Any, keys: Sequence[str | bytes], argv: Sequence[str | bytes]) -> bytes:
        """The reply of a compiled script; raises ScriptError."""
        words = [word.encode() if type(word) is str else word for word in (*keys, *argv)]
        done, reply = self._run(chunk, self._now_us, len(keys), *words)
        if not done:
            raise ScriptError(reply.decode())
        return reply  # type: ignore[no-any-return]

    def command(self, *words: str | bytes | int) -> Any:
        """One command, its reply as redis-py gives it; raises ScriptError."""
        reply = _python(self._command(self._now_us, *map(_bytes, words)))
        if isinstance(reply, dict) and b"err" in reply:
            raise ScriptError(reply[b"err"].decode())
        return reply[b"ok"] if isinstance(reply, dict) and b"ok" in reply else reply

    def snapshot(self) -> Any:
        """All keys as they are now; cheap: nothing is copied before the next write."""
        return self._snapshot()

    def restore(self, snapshot: Any) -> None:
        """Loses every write since; the clock, the run id and what was published stay. A snapshot may be restored more than once."""
        self._restore(snapshot)

    def flush(self) -> None:
        """Loses everything."""
        self._restore()

    def has_changed(self) -> bool:
        """Whether anything was written since this was asked, but for the beats that every call takes."""
        return self._changes()  # type: ignore[no-any-return]

    def refuse_writes(self, refused: bool) -> None:
        """From here on it reads only, as a server that was demoted; or not any more."""
        self._set_read_only(refused)

    @property
    def _now_us(self) -> int:
        return round(self.now_s * 1_000_000)

    @property
    def hints(self) -> list[tuple[str, str]]:
        """What was published: (channel, message); whoever has seen them takes them out."""
        if found := self._take_published():
            words = found.decode().split("\n")
            self._hints += zip(words[::2], words[1::2], strict=True)
        return self._hints


class Client:
    """As much of a redis-py client as the registry uses, without a connection."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.connection_pool = self
        self._known: dict[str, Any] = {}

    def evalsha(self, digest: str, n_keys: int, *words: Any) -> bytes:
        if digest not in self._known:
            raise redis.exceptions.NoScriptError("No matching script")
        return self._evaluate(self._known[digest], n_keys, words)

    def eval(self, source: str, n_keys: int, *words: Any) -> bytes:
        chunk = self.server.compile(source)
        self._known[sha1(source.encode()).hexdigest()] = chunk
        return self._evaluate(chunk, n_keys, words)

    def _evaluate(self, chunk: Any, n_keys: int, words: tuple[Any, ...]) -> bytes:
        try:
            return self.server.run(chunk, list(words[:n_keys]), list(words[n_keys:]))
        except ScriptError as error:
            raise redis.exceptions.ResponseError(str(error)) from error

    def execute_command(self, *words: Any) -> Any:
        if words == ("FLUSHALL",):
            return self.server.flush()
        return self.server.command(*words)

    def hgetall(self, name: str) -> dict[bytes, bytes]:
        row = self.server.command("HGETALL", name)
        return dict(zip(row[::2], row[1::2], strict=True))

    def hmget(self, name: str, fields: list[str]) -> list[bytes | None]:
        return self.server.command("HMGET", name, *fields)  # type: ignore[no-any-return]

    def hscan_iter(self, name: str, match: str, count: int) -> Iterator[tuple[bytes, bytes]]:
        rows = self.hgetall(name).items()
        return ((field, value) for field, value in rows if fnmatchcase(field.decode("latin-1"), match))

    def xrange(self, name: str, min: str, count: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
        rows = [(row[0], dict(zip(row[1][::2], row[1][1::2], strict=True))) for row in self._rows(name)]
        after = min.removeprefix("(")
        return [row for row in rows if after == "-" or _order(row[0]) > _order(after.encode())][:count]

    def xrevrange(self, name: str, count: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
        return self.xrange(name, "-", 10**9)[::-1][:count]

    def _rows(self, name: str) -> list[Any]:
        return self.server.command("XRANGE", name)  # type: ignore[no-any-return]

    def publish(self, channel: str, message: str) -> int:
        return self.server.command("PUBLISH", channel, message)  # type: ignore[no-any-return]

    @contextmanager
    def pipeline(self, transaction: bool) -> Iterator[_Pipeline]:
        yield _Pipeline(self)

    def get_connection(self) -> Client:
        return self

    def release(self, connection: Client) -> None:
        pass

    def disconnect(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Pipeline:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._found: list[Any] = []

    def hgetall(self, name: str) -> None:
        try:
            self._found.append(self._client.hgetall(name))
        except ScriptError as error:
            self._found.append(redis.exceptions.ResponseError(str(error)))

    def execute(self, raise_on_error: bool) -> list[Any]:
        return self._found


def _order(entry_id: bytes) -> tuple[int, ...]:
    return tuple(int(part) for part in entry_id.split(b"-"))


def _bytes(word: str | bytes | int) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()


def _python(value: Any) -> Any:
    """What Lua answered: a list, a plain value, an object with `ok` or `err`; false is None."""
    if value is False:
        return None
    if lua51.lua_type(value) != "table":
        return value
    named = {name: value[name] for name in (b"ok", b"err") if value[name] is not None}
    return named or [_python(value[i]) for i in range(1, len(value) + 1)]
