"""What is read back from Redis, after somebody has written over it: every script answers, and the fleet gets over it.

A busy fleet on a real server: two members, one model with an active generation, ways back, poison, a pin or a candidate and what waits
behind it, a running task. Keys or fields of it are removed, replaced by other types, by bytes, or by JSON of nearly the right form.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import redis
import torch
from genlock.coordinator import calls
from genlock.coordinator.calls import (
    Attach,
    Call,
    Hold,
    Join,
    Lock,
    Open,
    Propose,
    Read,
    Reopen,
    Rollback,
    Say,
    StartTask,
    keys_of,
)
from genlock.coordinator.endpoint import Endpoint
from genlock.coordinator.errors import Misuse, NotCommitted, NotReady, OutcomeUnknown, Pinned, Unavailable
from genlock.coordinator.fleet import Fleet as RealFleet
from genlock.coordinator.identity import Identity
from genlock.coordinator.registry import Registry
from genlock.coordinator.reply import BAD, FENCED, READY, REFUSED, Reply
from genlock.coordinator.settings import Settings
from genlock.worker.cache import ModelCache
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

fuzz = settings.get_profile("fuzz")

FLEET, FLEET_ID = "t", "f" * 32
#: What a script may answer, by its header; `epoch` (R6) is the answer to whatever was lost.
VERDICTS = {
    *(
        "ok",
        "epoch",
        "foreign",
        "schema",
        "unknown",
        "list",
        "old",
        "open",
        "alive",
        "held",
        "lost",
        "closed",
        "lock",
        "pinned",
    ),
    *("poisoned", "plan", "name", "conflict", "unknown-model", "nowhere", "busy", "reused"),
}
CANARY = '{"steps": [500, 2500], "length": "1000", "policy": "x"}'
COUNTED = '{"active": {"requests": 5, "slow": {"3": 5}}, "candidate": {"requests": 1e99}}'
#: For every field of every call, what is tried; a call with a new field fails until it stands here.
FIELDS: dict[str, list[Any]] = {
    "member": ["1", "2", "9", "@", ""],
    "model": ["digits", "other", "tried", ""],
    "models": [("digits", "tried"), (), ("digits", "other")],
    "about": ['{"worker": "h:3"}', "{}", "nonsense"],
    "serial": [0],
    "tokens": [()],
    "counter": [0, 1, 2, 3, 2**40],
    "watched": [(), ("1", "2", "@")],
    "request": ["q1", "q2", "q3", "new"],
    "gen": [1, 2, 3, 4, 2**40],
    "died": [False, True],
    "beat": ["1", "6", "x"],
    "watcher": ["h:9"],
    "version": ["v1", "v3", "v9"],
    "committed": [1, 2**40],
    "heard": [1, 2**40],
    "manifest": ["", '{"of": "v9"}', '{"version": "v1"}'],
    "poison": ["v1:", "v0:", ""],
    "pin": [None, {"by": "me"}],
    "poisoned": [None, {"v0:": {"why": "NaN"}}],
    "action": ["take", "extend", "free"],
    "token": ["token", "another"],
    "ttl_ms": [1000],
    "agreement": [1.0, 0.1],
    "prepare_ms": [60_000, 1],
    "by": ["me"],
    "now": [False, True],
    "force": [False, True],
    "said": [READY, FENCED, BAD, "failed", REFUSED],
    "detail": [{}, {"worker": "h:1", "why": "NaN", "seconds": float("inf")}],
    "seen": [0, 1, 3, 4],
    "why": ["", "because"],
    "to": [0, 1, 2, 9],
    "asked": [0, 1, 2, 2**40],
    "rollback": [0, 1, 9],
    "kind": ["clear", "refresh"],
    "timeout_ms": [1000, 1],
    "task": ["1", "13"],
    "ok": [True, False],
    "canary": ["", CANARY, '{"steps": [3, 1], "length": 1}', "nonsense"],
    "share": [0, 1, 5000, 10**6],
    "step": [0, 1, 2],
    "if_watched": [False, True],
    "counted": ["", COUNTED, "[[]]"],
}


def all_calls() -> list[type[Call]]:
    found = [one for _, one in inspect.getmembers(calls, inspect.isclass) if issubclass(one, Call)]
    return [one for one in found if "script" in vars(one)]


CALLS = all_calls()


def test_every_script_is_tried() -> None:
    scripts = {path.stem for path in (Path(calls.__file__).parent / "lua").glob("[a-z]*.lua")}
    assert {one.script for one in CALLS} == scripts
    assert {field.name for one in CALLS for field in fields(one)} <= FIELDS.keys()


def every_call(seed: int) -> list[Call]:
    """One of each, in any order; from a seed, because to draw them one by one takes longer than to call them."""
    chance = random.Random(seed)
    made = [kind(**{field.name: chance.choice(FIELDS[field.name]) for field in fields(kind)}) for kind in CALLS]
    return chance.sample(made, len(made))


ROUND = st.integers(0, 2**32).map(every_call)


# --- a busy fleet ------------------------------------------------------------------------------------------------------


@dataclass
class Fleet:
    """The server with one fleet, which is put back as it was (`restore`) for each example."""

    client: redis.Redis
    endpoint: Endpoint
    image: dict[bytes, bytes]
    rows: dict[str, dict[bytes, bytes]]

    def restore(self) -> Registry:
        """A process that knows the fleet as it was."""
        with self.client.pipeline(transaction=False) as pipe:
            pipe.flushall()
            for key, dump in self.image.items():
                pipe.restore(key, 0, dump)
            pipe.execute()
        return self.caller()

    def caller(self) -> Registry:
        """Its server may be slow on a busy machine; a script that never ends fails the test all the same."""
        return Registry(self.endpoint, FLEET, Identity(FLEET_ID, 3.0, True), timeout_s=10.0)


def flip(registry: Registry, version: str, *members: str, model: str = "digits") -> int:
    gen = propose(registry, version, model=model).generation or 0
    for said in (READY, FENCED):
        for member in members:
            assert registry.ask(Say(member, model, gen, said, {"worker": f"h:{member}"})).verdict == "ok"
    state = registry.ask(Read(model)).states[model]
    assert state.active is not None and state.active.gen == gen, state
    return gen


def propose(registry: Registry, version: str, *, model: str = "digits", request: str = "", canary: str = "") -> Reply:
    assert registry.ask(Lock(model, "take", "token", "{}", 60_000)).verdict == "ok"
    manifest = b'{"of":"%b"}' % version.encode()
    return registry.ask(
        Propose(model, request or version, "token", version, f"{version}:", manifest, 1.0, 60_000, "me", canary=canary)
    )


def member_of(registry: Registry, worker: str, *models: str) -> str:
    found = registry.ask(Join(json.dumps({"worker": worker}))).id or ""
    assert registry.ask(Hold(found, 1, models)).verdict == "ok"
    return found


def build(registry: Registry) -> None:
    """Members 1 and 2; digits: v1, v2, v3 committed, v0 bad, v4 in FENCING, v5 waits; other: unproven, pinned; tried:
    in the first step of a canary, with figures; a task."""
    registry.ask(Attach())
    registry.ask(Open("me"))
    flip(registry, "w1", model="other")
    first, second = (member_of(registry, worker, "digits", "tried") for worker in ("h:1", "h:2"))
    for version in ("v1", "v2", "v3"):
        flip(registry, version, first, second)
    gen = propose(registry, "v0").generation or 0
    assert registry.ask(Say(first, "digits", gen, BAD, {"why": "NaN"})).verdict == "ok"
    assert registry.ask(Rollback("other", "q1", 1, "me")).verdict == "nowhere"
    assert registry.ask(calls.Pin("other", "q2", 1, "me", "why not")).verdict == "ok"
    gen = propose(registry, "v4").generation or 0
    for member in (first, second):
        registry.ask(Say(member, "digits", gen, READY, {}))
    registry.ask(Say(first, "digits", gen, FENCED, {}))
    assert propose(registry, "v5").state == "next"
    flip(registry, "t1", first, second, model="tried")
    assert propose(registry, "t2", model="tried", canary=CANARY).generation == 2
    for member in (first, second):
        registry.ask(Say(member, "tried", 2, READY, {}))
    assert registry.ask(calls.Report(first, "tried", 2, 1, COUNTED)).figures is not None
    assert registry.ask(StartTask("q9", "clear", "", 60_000, "me")).awaited == 2


@pytest.fixture(scope="module")
def busy(serving: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with (
        serving(tmp_path_factory.mktemp("state")) as url,
        redis.Redis.from_url(url) as client,
    ):
        endpoint = Endpoint.of(Settings(redis_url=url))
        fleet = Fleet(client, endpoint, {}, {})
        registry = fleet.caller()
        build(registry)
        registry.close()
        fleet.image = {key: client.dump(key) or b"" for key in client.keys()}  # noqa: SIM118
        fleet.rows = rows_of(client)
        yield fleet


def rows_of(client: redis.Redis) -> dict[str, dict[bytes, bytes]]:
    """The hashes of the fleet by name."""
    return {name: client.hgetall(key) for name, key in zip(calls.KEYS, keys_of(FLEET), strict=True) if name != "log"}


# --- what is done to it ------------------------------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, -1, 3, 4, 5, 10**6, 2**51, 2**53 + 2, 10**20, 0.5, 1e300])
    | st.sampled_from(
        ["", "0", "1", "-1", "4", "nan", "inf", "0x10", "1e999", "007", "99999999999999999999", "\0", "²", "text"]
    )
    | st.text(max_size=5)
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
#: JSON that cjson reads and Python does not write, or that nobody would write.
ODD = st.sampled_from(
    [b"", b"{", b"null", b"{}", b"[]", b'{"next":1e999}', b'{"next":"1","pin":NaN}', b'{"next":"9","x":' + b"[" * 900 + b"]" * 900 + b"}",
     b"[" * 5000, b'{"next":"9","poison":[null,null,null,null,null,null,null,null,null,null,null,null,null,1]}', b"nan", b"-0", b"1e400",
     b"\xff\xfe", b"99999999999999999999:x", b"1:2:3", b"awaited", b"awaited {", b"nonsense {}",
     b"bad {}", b"done {}", b"9 digits", b"nan digits", b"digits"]
)  # fmt: skip


@st.composite
def near(draw: st.DrawFn, value: bytes) -> bytes:
    """JSON with one or two places of it changed; other text cut, or with a word replaced."""
    start = max(value.find(b"{"), 0)
    head, text = value[:start], value[start:]
    try:
        document = json.loads(text)
    except ValueError:
        words = value.split(b" ")
        words[draw(st.integers(0, len(words) - 1))] = draw(ODD | st.binary(max_size=6))
        return b" ".join(words)
    for _ in range(draw(st.integers(1, 2))):
        document = draw(changed(document))
    return head + json.dumps(document).encode("utf-8", "surrogatepass")


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """The document with one value in it replaced, or taken out."""
    if not isinstance(document, dict) or not document or draw(st.integers(0, 9)) == 0:
        return draw(ANYTHING)
    key = draw(st.sampled_from(sorted(document)))
    copy = dict(document)
    if draw(st.booleans()):
        copy[key] = draw(changed(document[key]))
    elif draw(st.booleans()):
        del copy[key]
    else:
        copy[draw(st.sampled_from(["²", "0", "-1", "nan", "1e999", "new"]))] = copy.pop(key)
    return copy


#: One thing that is done to the keys: a name for people, and the commands (the name of a key stands second).
Damage = list[tuple[Any, ...]]


@st.composite
def damage(draw: st.DrawFn, rows: dict[str, dict[bytes, bytes]]) -> Damage:
    name = draw(st.sampled_from([*calls.KEYS, "lock:digits"]))
    if name not in rows or draw(st.integers(0, 4)) == 0:
        whole = [("DEL", name)]
        other = draw(st.sampled_from(OTHER_TYPES))
        return [*whole, (other[0], name, *other[1:])] if other else whole
    field = draw(st.sampled_from(sorted(rows[name])))
    how = draw(st.integers(0, 4))
    if how == 0:
        return [("HDEL", name, field)]
    if how == 1:
        return [("HDEL", name, field), ("HSET", name, draw(field_names(field)), rows[name][field])]
    return [("HSET", name, field, draw(near(rows[name][field]) if how < 4 else ODD | st.binary(max_size=20)))]


#: What may stand where a key was; nothing at all, too.
OTHER_TYPES: list[tuple[Any, ...]] = [
    (),
    ("SET", "spoiled"),
    ("SET", ""),
    ("RPUSH", "a", "b"),
    ("SADD", "a"),
    ("ZADD", 1, "a"),
    ("XADD", "*", "a", "b"),
    ("HSET", "a", "b"),
    ("HSET", "@", "@"),
]


def field_names(field: bytes) -> st.SearchStrategy[bytes]:
    parts = field.split(b"\0")
    mixed = st.permutations([*parts, b"", b"@", b"\xff"]).map(lambda some: b"\0".join(some[: len(parts)]))
    return mixed | st.sampled_from([b"@", b"", b"\0", b"\0\0", field + b"\0", field[:-1]]) | st.binary(max_size=8)


def do(client: redis.Redis, done: Damage) -> None:
    for command, name, *rest in done:
        with contextlib.suppress(redis.exceptions.ResponseError):  # something else was done to this key before
            client.execute_command(command, f"genlock:{{{FLEET}}}:{name}", *rest)


# --- and what has to be true -------------------------------------------------------------------------------------------


def check_recovery(registry: Registry, client: redis.Redis) -> None:
    """Whatever was lost: a fleet that is opened and healed by a worker that knows it flips on, and never back.

    What a garbled id or schema looks like is another fleet, or another program's: refused, as documented.
    """
    reply = attached(registry)
    if reply.verdict in ("foreign", "schema"):
        return
    if not reply.open:
        assert registry.ask(Open("me")).verdict == "ok"
    told = Reopen("digits", 3, "v3", 1, reply.epoch, '{"of":"v3"}', "v3:")
    if registry.send(told).verdict == "epoch":
        attached(registry)
        assert registry.ask(Open("me")).verdict == "ok"
    state = registry.ask(Read("digits")).states["digits"]
    assert state.active is not None and state.active.gen >= 3, state
    before = state.active.gen
    if state.pin is not None:
        assert registry.ask(calls.Unpin("digits", "last", before, "me")).verdict == "ok"
    if state.cand is not None:
        assert registry.ask(calls.Abort("digits", "last-1", state.cand.gen, "me")).verdict == "ok"
    state = registry.ask(Read("digits")).states["digits"]
    if state.cand is not None:  # the one that had waited
        assert registry.ask(calls.Abort("digits", "last-2", state.cand.gen, "me")).verdict == "ok"
    mine = registry.ask(Join("{}")).id or ""
    assert registry.ask(Hold(mine, 1, ("fresh", "digits"))).verdict == "ok"
    if registry.ask(Lock("digits", "take", "token", "{}", 60_000)).verdict == "held":
        lock = keys_of(FLEET, Lock("digits", "take", "", "", 0))[-1]
        assert 0 <= client.pttl(lock) <= 60_000, "whoever has it, it ends"
        client.delete(lock)
    reply = propose(registry, "v9", request="last-3")
    assert reply.verdict == "ok" and reply.generation and reply.generation > before, reply


def attached(registry: Registry) -> Reply:
    """The reply to a caller that knows the fleet's epoch; after damage one epoch may follow another, but not for ever."""
    for _ in range(4):
        reply = registry.send(Attach())
        if reply.verdict != "epoch":
            return reply
        registry.epoch = reply.epoch_id
    raise AssertionError("one epoch begins after another")


def try_all(busy: Fleet, done: list[Damage], made: list[Call]) -> None:
    """Every call answers, before anybody has noticed what was done, and after it."""
    registry = busy.restore()
    try:
        registry.epoch = registry.send(Attach()).epoch_id
        for one in done:
            do(busy.client, one)
        for call in made:
            reply = registry.send(call)
            assert reply.verdict in VERDICTS, reply
            registry.epoch = reply.epoch_id if reply.epoch >= registry.epoch.number else registry.epoch
        check_recovery(registry, busy.client)
    finally:
        registry.close()


@fuzz
@given(st.data())
def test_every_script_answers_whatever_stands_there(busy: Fleet, data: st.DataObject) -> None:
    """One or two things are written over; then every script is called, in any order, by who knows the fleet as it was."""
    try_all(busy, data.draw(st.lists(damage(busy.rows), min_size=1, max_size=2)), data.draw(ROUND))


# --- a worker, and a trainer -------------------------------------------------------------------------------------------


@dataclass
class Living:
    """A real worker of a fleet with a short lease, and a trainer beside it; both go on from one example to the next."""

    client: redis.Redis
    fleet: RealFleet
    cache: ModelCache
    folder: Path
    rows: dict[str, dict[bytes, bytes]]
    value: int = 0

    def publish(self) -> int:
        """Another content becomes active, as soon as the fleet is open; a trainer would try again, too."""
        self.value += 1
        path = self.folder / "m.safetensors"
        save_file({"weight": torch.eye(2) * self.value, "bias": torch.zeros(2)}, path)
        end = time.monotonic() + 30
        while True:
            try:
                return self.fleet.publish("m", path, timeout=1).generation or 0
            except Pinned:  # a pin that was made up: an operator takes it away
                self.fleet.unpin("m")
            except (NotCommitted, Unavailable, OutcomeUnknown, Misuse) as error:
                assert time.monotonic() < end, error

    def look(self) -> None:
        """A request is answered, or told by a documented error that it is not ready yet; never otherwise, and never late."""
        began = time.monotonic()
        try:
            assert self.cache.get("m").payload is not None
        except NotReady:
            pass
        assert time.monotonic() - began < 10


@pytest.fixture(scope="module")
def living(serving: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Living]:
    folder = tmp_path_factory.mktemp("living")
    with serving(folder) as url, redis.Redis.from_url(url) as client:
        fleets = [
            RealFleet(url=url, name="t", store=folder / "store", state_dir=folder / "state", lease=0.3)
            for _ in range(2)
        ]
        fleets[1].settings = fleets[1].settings.with_arguments(max_wait_s=5.0)
        cache = ModelCache(fleets[1], loaders={"m": lambda: torch.nn.Linear(2, 2)})
        found = Living(client, fleets[0], cache, folder, {})
        try:
            found.publish()
            assert cache.get("m").generation == 1
            found.publish()
            found.rows = rows_of(client)
            # Another id or schema is another fleet's: refused, until somebody mends it.
            found.rows["fleet"] = {
                field: text for field, text in found.rows["fleet"].items() if field not in (b"id", b"schema")
            }
            yield found
        finally:
            cache.close()
            for fleet in fleets:
                fleet.close()


@settings(fuzz, max_examples=fuzz.max_examples // 15, phases=[Phase.generate])
@given(st.data())
def test_a_worker_gets_over_whatever_stands_there(
    living: Living, wait_for: Callable[..., Any], data: st.DataObject
) -> None:
    """It answers all the while, never from a lower generation, and a publish after that reaches it. What is drawn may be of an earlier
    example by then, as a field that somebody puts back."""
    before = living.cache.get("m").generation
    for one in data.draw(st.lists(damage(living.rows), min_size=1, max_size=2)):
        do(living.client, one)
    living.look()
    generation = living.publish()
    living.look()
    assert generation > before

    def shown() -> bool:
        living.look()
        view = living.cache.views.get("m")
        return view is not None and view.generation >= generation and not view.stale

    wait_for(shown, description=f"generation {generation} is active in the worker: {living.cache.why_not_ready()}")
    assert torch.equal(living.cache.get("m").payload.weight, torch.eye(2) * living.value)
    assert living.cache.runtime is not None and living.cache.runtime.failure == ""
