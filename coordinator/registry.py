"""The only room that speaks Redis: `send` for every script (one typed call each, see calls), one method per read, and the hint.

Driver errors end here. What a server cannot be used for (READONLY, LOADING, OOM, NOPERM, MASTERDOWN: R16) counts as "Redis gone" and
drops the connection. Every connection tells the server's run id by `attach` before its first call (R6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import redis

from .calls import KEYS, SCHEMA, Attach, Call, hint_of, keys_of
from .canary import Both, both_of
from .endpoint import Endpoint
from .errors import FleetMismatch, RedisRefused, RedisUnreachable, SchemaTooNew
from .identity import Identity
from .records import Event, Hint, Snapshot, as_number, as_object
from .reply import NO_EPOCH, Epoch, Reply, ReplyInvalid, decode
from .scripts import Caller, digest_of, source_of

#: Seconds that a call waits for its answer. Scripts take well under a millisecond; a busy or swapping server gets this long.
CALL_TIMEOUT_S = 0.5
#: What an entry of a candidate says (lua/_model.lua).
ENTRY_STATES = frozenset({"awaited", "late", "ready", "failed", "fenced"})
#: Characters of an answer that no Redis gives, for an error: a status line of HTTP, the banner of another server.
QUOTED = 80

_ALLOW = "Its user may not do that: allow genlock's keys, its channel and the commands of docs/redis.md"
_REMEDIES = {
    "READONLY": "It is a replica: point GENLOCK_REDIS_URL to the primary",
    "LOADING": "It is reading its data; try again in a moment",
    "OOM": "It has no memory left: raise maxmemory",
    "NOPERM": _ALLOW,
    # The same of a command inside a script, as Redis 7.0 says it, and as later ones and Valkey do.
    "The user executing the script": _ALLOW,
    "ACL failure in script:": _ALLOW,
    "NOAUTH": "It wants a user or password that it knows: put them into GENLOCK_REDIS_URL",
    "MASTERDOWN": "It is a replica without its primary: point GENLOCK_REDIS_URL to the primary",
    "NOREPLICAS": "It may not write without its replicas: mend them, or lower min-replicas-to-write",
    "MISCONF": "It cannot write to its disk: free space there",
    "CLUSTERDOWN": "Its cluster is down: mend it",
}


_REPORT = "Something else writes genlock's keys, or this is a fault of genlock: please report it"

Result = TypeVar("Result")


class Registry:
    """One fleet in one Redis, as one process sees it. Use it from one thread at a time; a fork begins new connections by itself."""

    def __init__(
        self, endpoint: Endpoint, fleet: str, identity: Identity, *, timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        self.endpoint, self.fleet = endpoint, fleet
        self.epoch: Epoch = NO_EPOCH  #: the epoch that this process knows; publishers adopt a newer one as they meet it
        self._caller = Caller(fleet, identity.fleet_id, round(identity.lease_s * 1000), not identity.had_member)
        self._timeout_s = timeout_s
        self._client = endpoint.client(on_connect=self._attach, timeout_s=timeout_s)

    # --- connecting --------------------------------------------------------------------------------------------------

    def _attach(self, connection: Any) -> None:
        """What a new connection does first: refuse a server that evicts, then tell its run id."""
        try:
            info = _info(connection, "server") | _info(connection, "memory")
            self._check_policy(info)
            self.set_run(info.get("run_id", ""))
            self._first_call(connection)
        except Exception:
            connection.disconnect()  # or the driver would take it for a good one
            raise

    def set_run(self, run: str) -> None:
        """The server's run id; a seam for a server that has no INFO."""
        caller = self._caller
        self._caller = Caller(caller.fleet, caller.fleet_id, caller.lease_ms, caller.virgin, run)

    def _check_policy(self, info: dict[str, str]) -> None:
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise RedisRefused(
                self.endpoint.where,
                f"it may throw away genlock's keys (maxmemory-policy {policy})",
                "Change it: CONFIG SET maxmemory-policy noeviction, and in its configuration file; or use another server",
            )

    def _connect(self) -> None:
        pool = self._client.connection_pool
        pool.release(pool.get_connection())

    def _first_call(self, connection: Any) -> None:
        call = Attach()
        keys, argv = self._caller.keys(call), self._caller.arguments(call, self.epoch)
        try:
            connection.send_command("EVALSHA", digest_of(call.script), len(keys), *keys, *argv)
            connection.read_response()
        except redis.exceptions.NoScriptError:
            connection.send_command("EVAL", source_of(call.script), len(keys), *keys, *argv)
            connection.read_response()

    def close(self) -> None:
        """Gives the connections back."""
        self._client.close()

    def drop_connections(self) -> None:
        """Before the next call a new connection is made, and attached."""
        self._client.connection_pool.disconnect()

    # --- calls -------------------------------------------------------------------------------------------------------

    def send(self, call: Call, epoch: Epoch | None = None) -> Reply:
        """Executes the script of `call` for a caller that knows `epoch` (default: the registry's), once, without a retry.

        Raises RedisUnreachable or RedisRefused; then the call may have been executed, or may be later.
        """
        return self._guarded(lambda: self._run(call, self.epoch if epoch is None else epoch))

    def ask(self, call: Call) -> Reply:
        """`send` for publishers and operators: adopts the fleet's epoch and sends again; another fleet or a newer schema raises."""
        for _ in range(4):
            reply = self.send(call)
            self.check(reply)
            if reply.verdict != "epoch":
                return reply
            self.epoch = reply.epoch_id if reply.epoch >= self.epoch.number else self.epoch
        raise RedisRefused(
            self.endpoint.where,
            "it begins one epoch after another",
            "Is more than one server behind that address? Use the primary only",
        )

    def check(self, reply: Reply) -> None:
        """Raises FleetMismatch or SchemaTooNew where the reply says so."""
        if reply.verdict == "foreign":
            raise FleetMismatch(self.fleet, self._caller.fleet_id, reply.found or "?")
        if reply.verdict == "schema":
            raise SchemaTooNew(self.fleet, as_number(reply.found), SCHEMA)

    def _run(self, call: Call, epoch: Epoch) -> Reply:
        if isinstance(call, Attach):
            self._connect()  # a run id that was not heard yet would look like a restart, and end the epoch
        keys, argv = self._caller.keys(call), self._caller.arguments(call, epoch)
        try:
            data = self._client.evalsha(digest_of(call.script, call.parts), len(keys), *keys, *argv)
        except redis.exceptions.NoScriptError:
            data = self._client.eval(source_of(call.script, call.parts), len(keys), *keys, *argv)
        return decode(data)

    def _guarded(self, action: Callable[[], Result]) -> Result:
        """`action`, with the driver's errors made ours."""
        try:
            return action()
        except ReplyInvalid as error:
            raise RedisRefused(self.endpoint.where, f"its answer makes no sense: {error}", _REPORT) from error
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError) as error:
            self._drop_quietly()
            refused = _refusal(self.endpoint.where, error)
            raise refused or RedisUnreachable(self.endpoint.where, said(error)) from error
        except redis.exceptions.InvalidResponse as error:
            self._drop_quietly()
            why = f"what listens there is no Redis ({str(error)[:QUOTED]})"
            raise RedisUnreachable(self.endpoint.where, why, "Point GENLOCK_REDIS_URL to one") from error
        except redis.exceptions.RedisError as error:
            self._drop_quietly()
            raise _refusal(self.endpoint.where, error) or RedisRefused(
                self.endpoint.where, str(error), _REPORT
            ) from error

    def _drop_quietly(self) -> None:
        try:
            self.drop_connections()
        except (redis.exceptions.RedisError, OSError):
            pass  # it is gone already

    # --- reads for people --------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The whole fleet at one instant: for people, never for a decision that others rest on."""

        def read() -> list[dict[bytes, bytes]]:
            with self._client.pipeline(transaction=True) as pipe:
                for name in ("fleet", "members", "holds", "models", "workers"):
                    pipe.hgetall(self._key(name))
                *found, workers = pipe.execute(raise_on_error=False)
            for one in found:
                if isinstance(one, Exception):
                    raise one
            # What workers say of themselves decides nothing: until it is written again, the rest is shown without it.
            return [*found, {} if isinstance(workers, Exception) else workers]

        return Snapshot.of(*self._guarded(read))

    def generations(self, model: str, numbers: list[int]) -> dict[int, tuple[bytes | None, bytes | None]]:
        """Generation → (manifest, outcome), as stored; what is too old or never was is left out."""
        if not numbers:
            return {}
        fields = [f"{model}\0{number}\0{part}" for number in numbers for part in "mo"]
        values: list[Any] = self._guarded(lambda: self._client.hmget(self._key("generations"), fields))
        found = zip(numbers, values[::2], values[1::2], strict=True)
        return {number: (manifest, outcome) for number, manifest, outcome in found if manifest or outcome}

    def manifests_at(self, model: str, numbers: Iterable[int]) -> list[bytes]:
        """The manifests of these generations, and of what waits as next, as stored; what is not there is left out."""
        fields = [f"{model}\0{place}\0m" for place in ("next", *numbers)]
        values: list[Any] = self._guarded(lambda: self._client.hmget(self._key("generations"), fields))
        return [data for data in values if data]

    def manifests_of(self, wanted: Mapping[str, int]) -> dict[str, bytes]:
        """Model → the manifest of its generation in `wanted`, as stored; what is not there is left out."""
        if not wanted:
            return {}
        fields = [f"{model}\0{generation}\0m" for model, generation in wanted.items()]
        values: list[Any] = self._guarded(lambda: self._client.hmget(self._key("generations"), fields))
        return {model: data for model, data in zip(wanted, values, strict=True) if data}

    def manifests(self) -> list[tuple[str, int, bytes]]:
        """(model, generation, manifest) of every stored generation; 0: of what waits as next."""

        def read() -> list[tuple[str, int, bytes]]:
            rows = self._client.hscan_iter(self._key("generations"), match="*\0m", count=1000)
            parts = [(*field.partition(b"\0")[::2], value) for field, value in rows]
            # The answer to a request that somebody called "m" is none.
            return [
                (name.decode("utf-8", "replace"), as_number(part.removesuffix(b"\0m")), value)
                for name, part, value in parts
                if not part.startswith(b"r\0")
            ]

        return self._guarded(read)

    def entries(self) -> dict[tuple[str, int], dict[str, tuple[str, dict[str, Any]]]]:
        """(Model, candidate's generation) → member → (awaited, late, ready, failed or fenced; what it said), of all candidates."""

        def read() -> dict[bytes, bytes]:
            return self._client.hgetall(self._key("waiting"))  # type: ignore[return-value]  # the type of the asynchronous client

        found: dict[tuple[str, int], dict[str, tuple[str, dict[str, Any]]]] = {}
        for field, value in self._guarded(read).items():
            name, generation, member = ([*field.decode("utf-8", "replace").split("\0"), "", ""])[:3]
            state, _, detail = value.decode("utf-8", "replace").partition(" ")
            if state in ENTRY_STATES and as_number(generation) and name != "#":
                found.setdefault((name, as_number(generation)), {})[member] = (state, as_object(detail))
        return found

    def task_answers(self, task: str) -> dict[str, tuple[str, dict[str, Any]]]:
        """Member → (awaited, done or failed; what it said), of one task."""
        prefix = f"#\0{task}\0"

        def read() -> dict[str, tuple[str, dict[str, Any]]]:
            found = {}
            for field, value in self._client.hscan_iter(self._key("waiting"), match=prefix + "*", count=1000):
                state, _, detail = value.decode("utf-8", "replace").partition(" ")
                found[field.decode("utf-8", "replace")[len(prefix) :]] = (state, as_object(detail))
            return found

        return self._guarded(read)

    def counted(self, wanted: Mapping[str, tuple[int, int]]) -> dict[str, Both]:
        """What all workers have counted of a canary or of a watched generation. `wanted`: model → (generation, step)."""
        if not wanted:
            return {}
        fields = [f"=\0{model}\0{generation}\0{step}" for model, (generation, step) in wanted.items()]
        values: list[Any] = self._guarded(lambda: self._client.hmget(self._key("waiting"), fields))
        found = zip(wanted, map(both_of, values), strict=True)
        return {model: both for model, both in found if both is not None}

    def memory(self) -> tuple[int, int]:
        """Bytes that the server uses, and the most that it may (maxmemory, 0: no limit)."""
        found: Any = self._guarded(lambda: self._client.info("memory"))
        return int(found.get("used_memory", 0)), int(found.get("maxmemory", 0))

    def log(self, *, after: str = "-", newest: int | None = None) -> list[Event]:
        """Entries of the audit log, oldest first: those behind the id `after`, or the `newest` ones."""

        def read() -> Any:
            if newest is not None:
                found: Any = self._client.xrevrange(self._key("log"), count=newest)
                return found[::-1]
            return self._client.xrange(self._key("log"), min=f"({after}" if after != "-" else "-", count=1000)

        return [Event.of(entry_id, fields) for entry_id, fields in self._guarded(read)]

    def _key(self, name: str) -> str:
        return keys_of(self.fleet)[KEYS.index(name)]

    # --- the hint ----------------------------------------------------------------------------------------------------

    def subscribe(self) -> Subscription:
        """A connection of its own that hears hints. Raises as `send` does."""
        return Subscription(self)


class Subscription:
    """Hints as they come: (epoch, revision, model). Loses messages silently, as pub/sub does (R14): look at the state after `__init__`."""

    def __init__(self, registry: Registry) -> None:
        self._guarded = registry._guarded
        # Its own client: no read timeout of a call may break a blocking read.
        self._client = registry.endpoint.client(on_connect=None, timeout_s=None)
        self._pubsub: Any = self._client.pubsub(  # type: ignore[no-untyped-call]
            ignore_subscribe_messages=False
        )
        self._channel = hint_of(registry.fleet)
        self._guarded(lambda: self._pubsub.subscribe(self._channel))
        self._guarded(lambda: self._pubsub.get_message(timeout=2.0))  # its confirmation: from here on nothing is missed

    def wait(self, timeout_s: float) -> Hint | None:
        """The next hint, or None after `timeout_s`. Raises RedisUnreachable when the connection is lost."""
        message = self._guarded(lambda: self._pubsub.get_message(ignore_subscribe_messages=True, timeout=timeout_s))
        return Hint.of(message["data"]) if message and message["type"] == "message" else None

    def close(self) -> None:
        """Ends it; by the thread that waits."""
        try:
            self._pubsub.close()
            self._client.close()
        except (redis.exceptions.RedisError, OSError, ValueError):
            pass


def _info(connection: Any, section: str) -> dict[str, str]:
    """INFO of one section: two sections in one command need Redis 7."""
    connection.send_command("INFO", section)
    answer = connection.read_response()
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer)
    return dict(line.strip().split(":", 1) for line in text.splitlines() if ":" in line)


def said(error: BaseException) -> str:
    """What the driver says, without its objects, which it writes out behind " : " for each sentinel."""
    return str(error).partition(" : <")[0] or type(error).__name__


def _refusal(where: str, error: BaseException) -> RedisRefused | None:
    """The error of a server that answers and cannot be used, with what to do about it."""
    kinds = {
        redis.exceptions.ReadOnlyError: "READONLY",
        redis.exceptions.BusyLoadingError: "LOADING",
        redis.exceptions.OutOfMemoryError: "OOM",
        redis.exceptions.NoPermissionError: "NOPERM",
        redis.exceptions.AuthenticationError: "NOAUTH",
        redis.exceptions.MasterDownError: "MASTERDOWN",
    }
    text = str(error)
    for kind, word in kinds.items():
        if isinstance(error, kind):
            return RedisRefused(where, text, _REMEDIES[word])
    for word, remedy in _REMEDIES.items():
        if text.startswith(word) or f"{word} " in text:
            return RedisRefused(where, text, remedy)
    return None
