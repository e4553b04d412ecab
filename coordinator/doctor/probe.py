"""Asks a server about itself, on one connection of its own. Changes none of its keys.

What its user may do is tried inside a MULTI that is never executed: the server says at once of each command whether it would let it in,
and forgets all of them when the connection ends. A script of one line, which touches nothing, stays in its cache of scripts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import redis

from ..calls import KEYS, hint_of, keys_of
from ..endpoint import Endpoint
from ..errors import GenlockError, RedisUnreachable
from ..manifest import decode
from ..records import Snapshot, as_number
from ..registry import said
from .facts import RecordFacts, ServerFacts

#: Seconds that each question may take: a slow server is to be measured, not given up.
PATIENCE_S = 2.0
#: Round trips of each kind that are timed.
TRIPS, SCRIPTS = 50, 20
#: Sections of INFO that are judged; one at a time, because two in one command need Redis 7.
SECTIONS = ("server", "clients", "memory", "persistence", "replication", "cluster")
#: What is read of the configuration where the user may; the script limit has had two names.
CONFIGURED = ("appendfsync", "busy-reply-threshold", "lua-time-limit", "timeout")
SCRIPT = "return 1"

Answer = Any


class Line:
    """One connection; closed at the end of the block."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._client = endpoint.client(on_connect=None, timeout_s=PATIENCE_S)
        self._pool = self._client.connection_pool
        self._connection: Any = None

    def __enter__(self) -> Line:
        self._connection = cast(Any, self._pool).get_connection()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.disconnect()  # with it goes a MULTI that was not executed
        self._pool.release(self._connection)
        self._client.close()

    def ask(self, *words: str) -> Answer:
        """The answer to a command; raises what redis-py raises."""
        self._connection.send_command(*words)
        return self._connection.read_response()

    def asked(self, *words: str) -> Answer | None:
        """The same; None where the server refuses it, which is an answer, too."""
        try:
            return self.ask(*words)
        except redis.exceptions.ResponseError:
            return None

    def refusal(self, *words: str) -> redis.exceptions.ResponseError | None:
        """What the server says instead of doing a command; None where it does it."""
        try:
            self.ask(*words)
        except redis.exceptions.ResponseError as error:
            return error
        return None


def ask_server(endpoint: Endpoint, fleet: str) -> ServerFacts:
    """All that can be found out of it; genlock's own server is started where it does not run, as every command does."""
    try:
        started = endpoint.ensure()
    except RedisUnreachable as error:
        return ServerFacts(where=endpoint.where, silence=error.why, remedy=error.remedy)
    try:
        with Line(endpoint) as line:
            found = _of_server(line, endpoint.where)
        with Line(endpoint) as line:
            denied, refused = _permissions(line, fleet)
    except redis.exceptions.AuthenticationError as error:
        remedy = "Put a user and a password that it knows into GENLOCK_REDIS_URL"
        return ServerFacts(where=endpoint.where, silence=said(error), remedy=remedy)
    except (redis.exceptions.RedisError, OSError) as error:
        return ServerFacts(where=endpoint.where, silence=said(error), remedy=_remedy(error))
    return ServerFacts(**found, started=started, denied=denied, refused=refused)


def _remedy(error: Exception) -> str:
    if isinstance(error, redis.exceptions.BusyLoadingError):
        return "It is reading its data; try again in a moment"
    return RedisUnreachable.remedy


def _of_server(line: Line, where: str) -> dict[str, Any]:
    trips = tuple(_timed(lambda: line.asked("TIME")) for _ in range(TRIPS))
    refusal = line.refusal("EVAL", SCRIPT, "0")
    scripts = () if refusal else tuple(_timed(lambda: line.ask("EVAL", SCRIPT, "0")) for _ in range(SCRIPTS))
    return {
        "where": where,
        "info": {name: value for section in SECTIONS for name, value in _info(line, section)},
        "config": _config(line),
        "trips_s": trips,
        "scripts_s": scripts,
        "script_error": said(refusal) if refusal else "",
        "ahead_s": _ahead_s(line),
    }


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _info(line: Line, section: str) -> Iterable[tuple[str, str]]:
    text = _text(line.asked("INFO", section) or b"")
    return (tuple(row.strip().split(":", 1)) for row in text.splitlines() if ":" in row)  # type: ignore[misc]


def _config(line: Line) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in CONFIGURED:
        answer = line.asked("CONFIG", "GET", name)
        if isinstance(answer, list) and len(answer) == 2:
            found[_text(answer[0])] = _text(answer[1])
    return found


def _ahead_s(line: Line) -> float | None:
    """The server's clock against ours, in the middle of the call; wrong by half a round trip at most."""
    before = time.time()
    answer = line.asked("TIME")
    after = time.time()
    if not isinstance(answer, list) or len(answer) != 2:
        return None
    return as_number(answer[0]) + as_number(answer[1]) / 1e6 - (before + after) / 2


def _text(answer: bytes | str) -> str:
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer)


# --- what its user may do ------------------------------------------------------------------------------------------


def needed(fleet: str) -> list[tuple[str, ...]]:
    """Every command that genlock sends, or calls in its scripts, with arguments as they are; docs/redis.md has the same."""
    key, lock = keys_of(fleet)[0], f"genlock:{{{fleet}}}:lock:m"
    channel = hint_of(fleet)
    commands = {
        "EVAL": (SCRIPT, "1", key),
        "EVALSHA": ("0" * 40, "1", key),
        "INFO": ("server",),
        "TIME": (),
        **dict.fromkeys(("HMGET", "HGET", "HDEL"), (key, "a")),
        **dict.fromkeys(("HGETALL", "HKEYS", "HLEN", "HRANDFIELD", "DEL", "TYPE"), (key,)),
        **dict.fromkeys(("HSET", "HSETNX"), (key, "a", "1")),
        "HSCAN": (key, "0"),
        "GET": (lock,),
        "SET": (lock, "1"),
        "PTTL": (lock,),
        "PEXPIRE": (lock, "1"),
        "XADD": (key, "*", "a", "1"),
        "XRANGE": (key, "-", "+"),
        "XREVRANGE": (key, "+", "-"),
        "PUBLISH": (channel, ""),
        "SUBSCRIBE": (channel,),
    }
    return [(name, *arguments) for name, arguments in commands.items()]


def _permissions(line: Line, fleet: str) -> tuple[tuple[str, ...], str]:
    """What the user may not do, and why the server takes no write now."""
    denied, refused = [], ""
    if _is_denied(line.refusal("EXEC")):  # without a MULTI it does nothing
        denied.append("the command EXEC")
    if _is_denied(line.refusal("MULTI")):
        return (*denied, "the command MULTI, without which the others cannot be tried"), ""
    for words in [*needed(fleet), *_keys(fleet)]:
        refusal = line.refusal(*words)
        if _is_denied(refusal):
            denied.append(_what(str(refusal), words))
        elif refusal is not None:
            refused = refused or said(refusal)
    return tuple(dict.fromkeys(denied)), refused


def _keys(fleet: str) -> list[tuple[str, ...]]:
    return [("TYPE", key) for key in keys_of(fleet)]


def _is_denied(refusal: Exception | None) -> bool:
    """A refused EXEC has the reason inside."""
    return isinstance(refusal, redis.exceptions.NoPermissionError) or "permissions" in str(refusal)


def _what(why: str, words: Sequence[str]) -> str:
    """Which of the three an ACL knows: commands, keys, channels."""
    if "channel" in why:
        return f"the channel {words[1]}"
    if " key" in why:
        return "a key: " + next(word for word in words if word.startswith("genlock:"))
    return f"the command {words[0]}"


# --- the fleet's record --------------------------------------------------------------------------------------------


def ask_record(endpoint: Endpoint, fleet: str) -> RecordFacts:
    """The fleet at one instant, by reads alone: nothing is begun, nobody is evicted."""
    keys = dict(zip(KEYS, keys_of(fleet), strict=True))
    try:
        with endpoint.client(on_connect=None, timeout_s=PATIENCE_S) as client:
            with client.pipeline(transaction=True) as pipe:
                for name in ("fleet", "members", "holds", "models", "workers"):
                    pipe.hgetall(keys[name])
                cast(Any, pipe).time()
                *rows, now = pipe.execute()
            if not rows[0]:
                return RecordFacts(fleet=fleet, server_now=now[0] + now[1] / 1e6)
            snapshot = Snapshot.of(*rows)
            largest = _largest(client, keys["generations"], snapshot)
    except (redis.exceptions.RedisError, OSError) as error:
        return RecordFacts(fleet=fleet, error=said(error))
    return RecordFacts(
        fleet=fleet,
        snapshot=snapshot,
        fleet_id=_text(rows[0].get(b"id", b"")),
        schema=as_number(rows[0].get(b"schema", b"")),
        server_now=now[0] + now[1] / 1e6,
        largest=largest,
    )


def _largest(client: redis.Redis, key: str, snapshot: Snapshot) -> tuple[str, int] | None:
    """The largest model that is active."""
    active = {name: record.active.gen for name, record in snapshot.models.items() if record.active}
    if not active:
        return None
    fields = [f"{name}\0{number}\0m" for name, number in active.items()]
    values = cast("list[bytes | None]", client.hmget(key, fields))
    sizes = [(_size(data), name) for name, data in zip(active, values, strict=True) if data]
    size, name = max(sizes, default=(0, ""))
    return (name, size) if size else None


def _size(manifest: bytes) -> int:
    try:
        return decode(manifest).size
    except GenlockError:
        return 0
