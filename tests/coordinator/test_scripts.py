"""The Lua of each call: that it is Lua, keeps to what all servers have, and says in its header what it answers."""

import hashlib
import re
import struct
from collections.abc import Iterator
from importlib.resources import files

import pytest
from genlock.coordinator import calls
from genlock.coordinator.calls import Call, Join, Lock, Propose, Rollback
from genlock.coordinator.reply import NO_EPOCH, Epoch
from genlock.coordinator.scripts import SHARED, Caller, digest_of, source_of
from lupa import lua51


def kinds(base: type[Call] = Call) -> Iterator[type[Call]]:
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)


SCRIPTS = {kind.script: kind.parts for kind in kinds() if not kind.__name__.startswith("_")}
each_script = pytest.mark.parametrize("script", sorted(SCRIPTS))


def text_of(name: str) -> str:
    return (files(calls.__package__) / "lua" / f"{name}.lua").read_text("utf-8")


def header_of(script: str) -> str:
    """The comment on top, without the dashes."""
    lines = text_of(script).splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(line.removeprefix("--") for line in lines[:end])


def test_each_file_is_the_script_of_a_call() -> None:
    """Neither a call without a script nor a script that nobody calls."""
    found = {
        path.name.removesuffix(".lua")
        for path in (files(calls.__package__) / "lua").iterdir()
        if path.name.endswith(".lua")
    }
    parts = {part for each in SCRIPTS.values() for part in each}
    assert found == set(SCRIPTS) | parts | set(SHARED)


@each_script
def test_each_script_compiles(script: str) -> None:
    """Also within Lua's limits: 200 locals and 60 names from outside in one function."""
    runtime = lua51.LuaRuntime(encoding=None)
    compiles = runtime.eval(b"function(text) return assert(loadstring(text)) ~= nil end")
    assert compiles(source_of(script, SCRIPTS[script]).encode())


#: What every server gives to a script.
GIVEN = {
    *("KEYS", "ARGV", "redis", "cjson", "string", "table", "math", "type", "tonumber", "tostring"),
    *("pairs", "ipairs", "next", "select", "unpack", "pcall", "error"),
}


@each_script
def test_each_script_uses_no_other_global(script: str) -> None:
    """A server refuses a misspelt name only when it comes to it, on the branch that nobody tried; the compiler knows all branches."""
    runtime = lua51.LuaRuntime(encoding=None)
    dump = runtime.eval(b"function(text) return string.dump(loadstring(text)) end")
    read, written = Bytecode(dump(source_of(script, SCRIPTS[script]).encode())).globals()
    assert read <= GIVEN
    assert written == set()


class Bytecode:
    """As much of a Lua 5.1 chunk (lopcodes.h, lundump.c of its source) as tells which globals its functions read and write."""

    GETGLOBAL, SETGLOBAL = 5, 7

    def __init__(self, chunk: bytes) -> None:
        assert chunk[:5] == b"\x1bLua\x51" and chunk[6:12] == bytes([1, 4, 8, 4, 8, 0]), "another machine's form"
        self.chunk, self.at = chunk, 12

    def globals(self) -> tuple[set[str], set[str]]:
        """Of one function and those in it: names that are read, names that are set."""
        self.text(), self.skip(8 + 4)  # where it comes from; how many parameters and registers it has
        code = [self.whole() for _ in range(self.whole())]
        constants = [self.constant() for _ in range(self.whole())]
        found: tuple[set[str], set[str]] = set(), set()
        for word in code:
            if word & 63 in (self.GETGLOBAL, self.SETGLOBAL):
                found[word & 63 == self.SETGLOBAL].add(constants[word >> 14])
        for _ in range(self.whole()):
            for names, inner in zip(found, self.globals(), strict=True):
                names |= inner
        self.skip(4 * self.whole())  # lines
        for _ in range(self.whole()):
            self.text(), self.skip(8)  # names of locals, from where to where
        for _ in range(self.whole()):
            self.text()  # names from outside
        return found

    def constant(self) -> str:
        kind = self.chunk[self.at]
        self.at += 1
        if kind == 4:
            return self.text()
        self.skip({0: 0, 1: 1, 3: 8}[kind])
        return ""

    def text(self) -> str:
        (size,) = struct.unpack_from("<Q", self.chunk, self.at)
        self.skip(8 + size)
        return self.chunk[self.at - size : self.at - 1].decode("utf-8", "replace") if size else ""

    def whole(self) -> int:
        self.skip(4)
        return int(struct.unpack_from("<I", self.chunk, self.at - 4)[0])

    def skip(self, size: int) -> None:
        self.at += size


@each_script
def test_each_script_runs_on_all_servers(script: str) -> None:
    """From Redis 6.2 to 8, Valkey, a cluster, and fakeredis: no shebang, no key that was not declared, no search for keys, no cmsgpack."""
    source = source_of(script, SCRIPTS[script])
    assert not source.startswith("#!")
    commands = set(re.findall(r"(?:redis\.p?call|write|note|write_many)\('([A-Z]+)'", source))
    assert commands <= {
        *("TIME", "TYPE", "DEL", "GET", "SET", "PTTL", "PEXPIRE", "XADD", "PUBLISH"),
        *("HGET", "HMGET", "HGETALL", "HKEYS", "HLEN", "HSET", "HSETNX", "HDEL", "HRANDFIELD"),
    }
    assert "cmsgpack" not in source and "redis.sha1hex" not in source and "genlock:" not in source


@each_script
def test_each_header_says_what_is_answered(script: str) -> None:
    """Sentence, ARGV where there are some, and every verdict that stands in its code, of its parts, too."""
    header = header_of(script)
    assert header.strip().startswith(f"{script}:")
    bodies = [text_of(name) for name in (*SCRIPTS[script], script)]
    verdicts = {word for body in bodies for word in re.findall(r"\b(?:reply|answer_with|refuse)\('([a-z-]+)'", body)}
    assert verdicts, "it answers something"
    said = header[header.index("Verdicts") :]
    missing = {verdict for verdict in verdicts if not re.search(rf"(?<![\w-]){verdict}(?![\w-])", said)}
    assert not missing
    takes = max((int(n) for n in re.findall(r"ARGV\[(\d+)\]", text_of(script))), default=0)
    if takes and not SCRIPTS[script]:
        assert "ARGV" in header and str(takes) in header[header.index("ARGV") : header.index("Verdicts")]


def test_every_script_is_told_the_same_first() -> None:
    """Eight words before its own, in the order of _fleet.lua; the nonce of an epoch that it may begin is fresh each time."""
    caller = Caller("prod", "id", 3000, True, "run")
    one, two = (caller.arguments(Join("{}"), Epoch(7, "n")) for _ in range(2))
    assert one[:3] == ["id", "7", "n"] and one[4:] == ["3000", "1", "genlock:{prod}:hint", "run", "{}"]
    assert len(str(one[3])) == 16 and one[3] != two[3]
    assert Caller("prod", "id", 3000).arguments(Join("{}"), NO_EPOCH)[1:3] == ["0", ""]
    assert Caller("prod", "id", 3000).arguments(Join("{}"), NO_EPOCH)[5] == "0"


def test_keys_are_of_the_callers_fleet() -> None:
    assert Caller("prod", "id", 3000).keys(Lock("m", "take", "t", "", 1))[-1] == "genlock:{prod}:lock:m"
    assert len(Caller("prod", "id", 3000).keys(Join("{}"))) == 8


def test_the_digest_is_of_the_whole_text() -> None:
    """What all share, the parts, the script itself, in this order: EVALSHA must mean what EVAL would send."""
    source = source_of("rollback", Rollback.parts)
    assert digest_of("rollback", Rollback.parts) == hashlib.sha1(source.encode()).hexdigest()
    order = [source.index(text_of(name)[:60]) for name in ("_fleet", "_model", "_operator", "rollback")]
    assert order == sorted(order)
    assert len({digest_of(script, parts) for script, parts in SCRIPTS.items()}) == len(SCRIPTS)
    assert Propose.locks and Lock.locks and not Join.locks
