"""The simulation's server, where the registry's contract suite does not look: loss, time, chance, and JSON as Redis has it."""

import json
from typing import Any

import pytest
import redis
from genlock.coordinator.calls import Attach, Heartbeat, Join, Lock
from genlock.coordinator.reply import NO_EPOCH, Epoch
from genlock.coordinator.scripts import Caller, reached
from inprocess import START_S, Client, ScriptError, Server

CALLER = Caller("t", "id", 3000, True, "run-1")


@pytest.fixture
def server() -> Server:
    return Server(seed=7)


def epoch_of(server: Server) -> Epoch:
    return server.execute(Attach(), CALLER, NO_EPOCH).epoch_id


def test_what_was_written_since_a_snapshot_is_lost(server: Server) -> None:
    """The same snapshot can be restored twice: nothing that is written after it goes into it."""
    epoch = epoch_of(server)
    server.execute(Join("{}"), CALLER, epoch)
    server.command("SET", "text", "before")
    before = server.snapshot()
    kept = server.command("HGETALL", "genlock:{t}:members")
    for _ in range(2):
        assert server.execute(Join("{}"), CALLER, epoch).id == "2"
        server.command("HDEL", "genlock:{t}:members", "1")
        server.command("SET", "text", "after")
        server.restore(before)
        assert server.command("HGETALL", "genlock:{t}:members") == kept
        assert server.command("GET", "text") == b"before"
        assert len(server.command("XRANGE", "genlock:{t}:log")) == 2
    server.flush()
    assert server.command("TYPE", "genlock:{t}:members") == b"none"


def test_keys_expire_by_the_clock_that_is_set(server: Server) -> None:
    """At its last millisecond a key is gone, as in Redis; a snapshot does not stop its time."""
    epoch = epoch_of(server)
    server.execute(Lock("m", "take", "one", "{}", 5000), CALLER, epoch)
    assert server.command("PTTL", "genlock:{t}:lock:m") == 5000
    before = server.snapshot()
    server.now_s += 4.999
    assert server.execute(Lock("m", "take", "two", "{}", 5000), CALLER, epoch).verdict == "held"
    server.now_s += 0.001
    server.restore(before)
    assert server.execute(Lock("m", "take", "two", "{}", 5000), CALLER, epoch).verdict == "ok"


def test_the_clock_moves_only_when_it_is_set(server: Server) -> None:
    assert server.command("TIME") == [b"1700000000", b"0"] and server.now_s == START_S
    server.now_s += 1.5
    assert server.command("TIME") == [b"1700000001", b"500000"]


def test_the_log_goes_on_when_the_clock_is_set_back(server: Server) -> None:
    """Ids of a stream only grow."""
    ids = []
    for seconds in (1.0, -10.0, 0.0, 20.0):
        server.now_s += seconds
        ids.append(server.command("XADD", "s", "MAXLEN", "~", "10", "*", "a", "b"))
    assert ids == [b"1700000001000-0", b"1700000001000-1", b"1700000001000-2", b"1700000011000-0"]
    for _ in range(300):
        server.command("XADD", "s", "MAXLEN", "~", "10", "*", "a", "b")
    assert 10 <= len(server.command("XRANGE", "s")) < 110


def test_the_same_seed_gives_the_same_replies() -> None:
    """Nonces and draws too, also of a server that was seeded anew; another seed gives others."""

    def story(server: Server) -> list[Any]:
        epoch = epoch_of(server)
        for n in range(100):
            server.command("HSET", "h", f"f{n}", n)
        return [epoch, *[server.command("HRANDFIELD", "h", "5", "WITHVALUES") for _ in range(3)]]

    first = story(Server(seed=1))
    again = Server(seed=2)
    assert story(again) != first
    again.flush()
    again.reseed(1)
    assert story(again) == first
    assert len({bytes(row[0]) for row in first[1:]}) > 1


def test_hints_are_collected(server: Server) -> None:
    epoch = epoch_of(server)
    assert server.hints == [("genlock:{t}:hint", f"{epoch.number} 1 ")]
    server.hints.clear()
    assert server.hints == []


def test_a_script_that_fails_leaves_what_it_wrote(server: Server) -> None:
    """As a real one does: that nothing stays is the script's own work (R15)."""
    chunk = server.compile("redis.call('SET', KEYS[1], ARGV[1]) redis.call('HGET', KEYS[1], 'x')")
    with pytest.raises(ScriptError, match="WRONGTYPE"):
        server.run(chunk, ["k"], ["v"])
    assert server.command("GET", "k") == b"v"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("return nothing", "nonexistent global variable nothing"),
        ("made = 1", "nonexistent global variable made"),
        ("redis.call('SORT', 'k')", "unknown command SORT"),
        ("redis.call('GET', nil)", "arguments must be strings or integers"),
        ("redis.call('HSET', 'k', 'f', {})", "arguments must be strings or integers"),
        ("error('plain')", "plain"),
        ("return cjson.encode({1 / 0})", "NaN or Inf"),
        ("return cjson.encode({[{}] = 1})", "key must be"),
        ("return cjson.encode({[1] = 1, [99] = 1})", "sparse"),
        ("local t = {} t.t = t return cjson.encode(t)", "depth"),
        ("return cjson.encode(print)", "nonexistent global"),
        ("return cjson.encode({pairs})", "not supported"),
    ],
)
def test_what_a_server_refuses_is_refused(server: Server, source: str, error: str) -> None:
    with pytest.raises(ScriptError, match=error):
        server.run(server.compile(source), [], [])


def test_what_is_not_lua_is_refused(server: Server) -> None:
    with pytest.raises(ScriptError, match="near"):
        server.compile("if")
    with pytest.raises(ScriptError, match="unknown command"):
        server.command("KEYS", "*")


ECHO = "return cjson.encode(cjson.decode(ARGV[1]))"

TEXTS = [
    "1",
    "-1.5e-7",
    "12345678901234",
    '"a/b \\" \\\\ \\n \\u0000 \\u00e9 \\u6f22 \\ud83d\\ude00"',
    '"é漢😀 \x7f"',
    '[1,2,[3,"x",null,true,false]]',
    ' { "a" : { "b" : [ ] } , "c" : [ { } ] } ',
    '{"":1}',
    '{"a":[[[[[[1]]]]]]}',
]
NO_TEXTS = [
    "",
    "{",
    "[1,]",
    "{1:2}",
    '{"a"}',
    '{"a":1,}',
    '"open',
    '"\\x"',
    '"\\ud83d"',
    "nul",
    "1 2",
    "[1",
    "+",
    "[" * 2000,
]


@pytest.mark.parametrize("text", TEXTS)
def test_json_is_what_it_was(server: Server, text: str) -> None:
    """But that Lua has one kind of table: an empty list comes back as an empty object, as in Redis."""
    value = json.loads(server.run(server.compile(ECHO), [], [text]))
    expected = json.loads(text.replace("[ ]", "{}"))
    assert value == expected
    assert json.loads(server.run(server.compile(ECHO), [], [text])) == expected, "from what was parsed before, too"


@pytest.mark.parametrize("text", NO_TEXTS)
def test_what_is_no_json_is_refused(server: Server, text: str) -> None:
    with pytest.raises(ScriptError):
        server.run(server.compile(ECHO), [], [text])


def test_numbers_have_14_digits(server: Server) -> None:
    """Redis's cjson rounds; what has to be exact goes as text (whole() in _fleet.lua)."""
    assert server.run(server.compile(ECHO), [], ["9007199254740991"]) == b"9.007199254741e+15"
    assert server.run(server.compile("return cjson.encode({a = 3, [5] = 4})"), [], []) in (
        b'{"a":3,"5":4}',
        b'{"5":4,"a":3}',
    )


def test_what_was_parsed_is_not_shared(server: Server) -> None:
    """A script changes what it has decoded; the next one, with the same text, must not see that."""
    change = server.compile("local t = cjson.decode(ARGV[1]) t.a.b = 2 return cjson.encode(cjson.decode(ARGV[1]))")
    for _ in range(2):
        assert server.run(change, [], ['{"a":{"b":1}}']) == b'{"a":{"b":1}}'


def test_what_a_script_never_calls_is_left_out(server: Server) -> None:
    """And nothing else: also what is called from further above, or by what is called."""
    source = """local later -- further below
local function one(x) return x end -- of one line: unused()
local function unused()
  return one(2)
end
local function two()
  return later(one(3))
end
local record = {found = ')'}
function later(x)
  return 'unused(' .. tostring(x) .. record.found
end
record.unused = 1
return two()"""
    kept = reached(source)
    assert "local function unused" not in kept and kept.count("function") == 3
    assert server.run(server.compile(kept), [], []) == b"unused(3)"


def test_a_client_knows_the_scripts_that_it_has_sent(server: Server) -> None:
    """EVALSHA of an unknown one fails as a server's does; a script's error is a driver's error."""
    client = Client(server)
    with pytest.raises(redis.exceptions.NoScriptError):
        client.evalsha("0" * 40, 0)
    assert client.eval("return ARGV[1]", 0, "x") == b"x"
    with pytest.raises(redis.exceptions.ResponseError, match="oops"):
        client.eval("error('oops')", 0)


def test_what_was_changed_is_known_and_a_beat_is_no_change(server: Server) -> None:
    """Who looks at all keys after every call would look in vain most of the time."""
    epoch = epoch_of(server)
    member = server.execute(Join("{}"), CALLER, epoch).id
    assert member is not None and server.has_changed() and not server.has_changed()
    server.execute(Heartbeat(member, 0), CALLER, epoch)
    assert not server.has_changed()
    server.command("SET", "k", "v")
    assert server.has_changed()


def test_a_replica_reads_and_refuses_every_write(server: Server) -> None:
    for command in (["SET", "k", "v"], ["HSET", "h", "f", "v"]):
        server.command(*command)
    server.refuse_writes(True)
    assert server.command("GET", "k") == b"v"
    for command in (
        *(["SET", "k", "w"], ["DEL", "k"], ["PEXPIRE", "k", 5], ["HSET", "h", "f", "w"], ["HSETNX", "h", "g", "w"]),
        *(["HDEL", "h", "f"], ["XADD", "s", "MAXLEN", "~", "10", "*", "a", "b"]),
    ):
        with pytest.raises(ScriptError, match="READONLY"):
            server.command(*command)
    server.refuse_writes(False)
    assert server.command("GET", "k") == b"v" and server.command("HGETALL", "h") == [b"f", b"v"]


def test_a_heartbeat_of_nobody(server: Server) -> None:
    assert server.execute(Heartbeat("9", 0), CALLER, epoch_of(server)).verdict == "unknown"
