"""What stands in Redis and is not of its form counts as lost (R6, R7): no script ends in an error of Lua for it, on any server.

Such an error came back with every call that read the same place, for as long as it stood there.
"""

import json
from typing import Any

import pytest
from genlock.coordinator.calls import (
    Abort,
    Attach,
    Evict,
    Heartbeat,
    Hold,
    Join,
    Leave,
    ManifestOf,
    Read,
    Rollback,
    Settle,
    StartTask,
)
from genlock.coordinator.reply import BAD, FENCED, NO_EPOCH, READY, Epoch


def test_r6_an_epoch_that_no_fleet_counts_to_is_none(bench: Any) -> None:
    """A number beyond 2^53 at one key would have become the fleet's epoch, which no worker could read any more."""
    old = bench.epoch
    bench.raw("HSET", "holds", "@", "99999999999999999999:x")
    assert bench.send(Attach(), old).verdict == "epoch"
    assert old.number < bench.epoch.number < 2**53


@pytest.mark.parametrize(
    ("field", "text"),
    (
        ("epoch", "nan"),
        ("epoch", "1e300"),
        ("lease", "0"),
        ("lease", "1e15"),
        ("revision", "-1"),
        ("beat", "inf"),
        ("ids", "0.5"),
        ("schema", "x"),
    ),
)
def test_r6_a_field_of_the_fleet_that_is_no_number_of_its_kind_is_lost(bench: Any, field: str, text: str) -> None:
    old = bench.epoch
    bench.raw("HSET", "fleet", field, text)
    reply = bench.send(Attach(), old)
    assert (reply.verdict, reply.open, reply.lease) == ("epoch", False, 3000)
    assert bench.epoch.number > old.number


def test_r6_no_id_is_given_twice(bench: Any) -> None:
    """The sequence was set back: the next member would have had the id of a live one, and each would have answered for the other."""
    first = bench.join()
    old = bench.epoch
    bench.raw("HSET", "fleet", "ids", int(first) - 1)
    assert bench.send(Join("{}"), old).verdict == "epoch"
    assert bench.epoch.number > old.number


@pytest.mark.parametrize(
    "tasks",
    ('{"7":5}', "[1,2]", '{"7":{}}', '{"7":{"kind":"clear","model":"","awaited":"x"}}', '{"7":null}', "9", "[1e999]"),
)
def test_r15_what_is_no_task_is_forgotten(bench: Any, tasks: str) -> None:
    """Every reply names the tasks that run: every call failed."""
    (member,) = bench.holders(1)
    bench.raw("HSET", "fleet", "tasks", tasks)
    assert bench.ask(Heartbeat(member, 1)).tasks == {}
    assert bench.ask(Settle()).verdict == "ok"
    assert bench.ask(StartTask("t", "clear", "", 1000, "me")).awaited == 1


@pytest.mark.parametrize(
    "change",
    (
        {"pin": [1]},
        {"pin": {"by": 5, "at": {}}},
        {"poison": [None] * 20 + [1]},
        {"poison": {"v2:": 5, "v3:": {"why": {}}}},
        {"committed": {"nan": {"version": "v"}, "1": 5, "²": []}},
        {"requests": {"a": 1}},
        {"rev": "x"},
        {"active": {"gen": 1, "version": "v1", "epoch": "1", "at": [], "unproven": "x"}},
        {"active": {"gen": "0", "version": "v1", "epoch": "1"}},
        {"cand": {"gen": "1e300"}},
        {
            "waits": {
                "request": "q",
                "version": "v",
                "agreement": "1",
                "length": "1",
                "by": [],
                "poison": 5,
                "rollback": "x",
            }
        },
        {"more": None},
    ),
)
def test_r15_a_record_is_worked_with_as_far_as_it_is_one(bench: Any, change: dict[str, Any]) -> None:
    """One place of it was written over; the next generation commits all the same, above all that were seen."""
    (member,) = bench.holders(1)
    bench.flip("v1", member)
    bench.edit(lambda record: record.update(change))
    assert bench.ask(Hold(member, 9, ("digits", "other"))).verdict == "ok"
    bench.ask(Settle())
    state = bench.state()
    if state.pin is not None:
        assert bench.propose("v2").verdict == "pinned", "a pin without a reason is one"
        bench.edit(lambda record: record.pop("pin"))
    bench.flip("v2", member)
    assert bench.state().active.gen >= 2


def test_r15_numbers_that_json_cannot_write_again(bench: Any) -> None:
    """cjson reads 1e999 and NaN, and raises when it writes them: the start of the next epoch failed, and with it every call, for ever."""
    old = bench.epoch
    bench.flip("v1")
    record = json.dumps(bench.record())
    bench.raw("HSET", "models", "digits", record[:-1] + ',"x":1e999,"y":[1e999,2]}')
    assert bench.flip("v2") == 2
    bench.raw("HSET", "models", "digits", record[:-1] + ',"x":1e999}')
    bench.raw("HDEL", "holds", "@")
    assert bench.send(Attach(), old).verdict == "epoch"
    assert bench.state().active.version == "v1"


@pytest.mark.parametrize(
    "counts", ({"awaited": "1"}, {"ready": "x"}, {"had": None}, {"deadline": "nan"}, {"rollback": "x"})
)
def test_r15_a_candidate_whose_counts_are_none(bench: Any, counts: dict[str, Any]) -> None:
    """A text was compared with a number; as a number it counts, and what is none is no candidate."""
    (member,) = bench.holders(1)
    gen = bench.propose("v1").generation
    bench.edit(lambda record: record["cand"].update(counts))
    bench.say(member, gen, READY)
    bench.say(member, gen, FENCED)
    assert bench.state().phase == "idle"
    bench.flip("v2", member)
    assert bench.state().active.version == "v2"


@pytest.mark.parametrize("text", ("", "nonsense {}", "awaited{", "ready", "\x00"))
def test_r8_an_entry_that_is_none_is_waited_for_no_longer_than_the_deadline(bench: Any, text: str) -> None:
    (member,) = bench.holders(1)
    gen = bench.propose("v1", request="q").generation
    bench.raw("HSET", "waiting", f"digits\0{gen}\0{member}", text)
    bench.say(member, gen, READY)
    bench.run_out()
    assert bench.state().phase in ("idle", "fencing")
    if bench.state().phase == "fencing":
        bench.say(member, gen, FENCED)
        bench.run_out()
    assert bench.answer("q").state in ("rejected", "committed")


@pytest.mark.parametrize("field", ("digits\0{gen}\0", "digits\0{gen}\0@", "\0\0", "#\0\0", "digits\0{gen}\0nobody\0x"))
def test_r5_a_field_that_names_nobody_is_not_watched(bench: Any, field: str) -> None:
    """Every heartbeat looked for the member of no name, and failed: nobody had a lease."""
    (member,) = bench.holders(1)
    gen = bench.propose("v1").generation
    bench.raw("HSET", "waiting", field.format(gen=gen), "awaited ")
    for _ in range(5):
        reply = bench.ask(Heartbeat(member, 1))
        assert reply.verdict == "ok" and set(reply.watch) <= {member}
    assert bench.ask(Evict("@", "1")).verdict == "ok"
    assert bench.ask(Heartbeat(member, 1)).verdict == "ok", "the stamp of a key is no member"


def test_r15_a_way_back_without_its_manifest_is_none(bench: Any) -> None:
    """The automatic rollback wrote a manifest that was not there: the script raised after its first writes."""
    bench.flip("v1")
    bench.flip("v2")
    bench.raw("HDEL", "generations", "digits\x001\x00m")
    (member,) = bench.holders(1)
    before = bench.state().rev
    reply = bench.say(member, 2, BAD, why="NaN")
    assert (reply.verdict, reply.states["digits"].phase) == ("ok", "idle")
    assert reply.states["digits"].poison and reply.states["digits"].rev > before
    assert bench.ask(Rollback("digits", "r", 2, "me")).verdict == "nowhere"


def test_r15_nothing_to_go_back_from(bench: Any) -> None:
    """What was active is lost, the ways back are not."""
    bench.flip("v1")
    bench.edit(lambda record: record.pop("active"))
    assert bench.ask(Rollback("digits", "r", 0, "me")).verdict == "nowhere"


def test_r10_nothing_to_abort(bench: Any) -> None:
    """Decided on generation 0, which is how "no candidate" is written."""
    bench.flip("v1")
    reply = bench.ask(Abort("digits", "a", 0, "me"))
    assert (reply.verdict, reply.found) == ("conflict", "0")


@pytest.mark.parametrize(
    "text",
    (
        "null",
        "5",
        "{}",
        '{"verdict":7}',
        '{"verdict":"ok","state":{},"generation":"x","target":-1,"pin":[],"verb":{}}',
        "\xff",
    ),
)
def test_r10_an_answer_that_is_none_is_not_given(bench: Any, text: str) -> None:
    bench.propose("v1", request="q")
    bench.raw("HSET", "generations", "digits\0r\0q", text)
    answer = bench.answer("q")
    assert answer is None or (answer.verdict, answer.state, answer.generation) == ("ok", "", None)


def test_r3_a_counter_that_was_set_back_hides_no_change(bench: Any) -> None:
    """A worker that had applied revision 9 would have passed over what is active as of revision 3."""
    (member,) = bench.holders(1)
    for version in ("v1", "v2"):
        bench.flip(version, member)
    before = bench.state().rev
    bench.raw("HSET", "fleet", "revision", 1)
    bench.flip("v3", member)
    assert bench.state().rev > before


@pytest.mark.parametrize("following", ("0", "1", "2"))
def test_r7_no_generation_is_given_below_the_active_one(bench: Any, following: str) -> None:
    """The next number was set back: the next generation would have been one that no worker goes to."""
    for version in ("v1", "v2", "v3"):
        bench.flip(version)
    bench.edit(lambda record: record.update(next=following))
    assert bench.flip("v4") == 4


@pytest.mark.parametrize("text", ("nan digits", "x digits", "-5 digits", "1e999 digits"))
def test_r10_a_list_without_a_counter_is_sent_again(bench: Any, text: str) -> None:
    """Nothing is greater than what is no number: the member's list could not be replaced any more."""
    (member,) = bench.holders(1)
    bench.raw("HSET", "holds", member, text)
    assert bench.ask(Heartbeat(member, 1)).verdict == "list"
    assert set(bench.hold(member, "other").states) == {"other"}
    assert bench.field("holds", member) == b"2 other"


def test_r5_a_list_whose_member_was_lost_is_not_waited_for(bench: Any) -> None:
    """The worker had joined again, under another id; the list under the old one had no beat to be watched, and no proposal committed."""
    lost, (member,) = *bench.holders(1), bench.holders(1)
    bench.raw("HDEL", "members", lost)
    bench.flip("v1", member)
    assert bench.state().active.version == "v1"
    assert bench.ask(StartTask("t", "refresh", "digits", 1000, "me")).awaited == 1


def test_r8_a_lock_that_never_expires_does(bench: Any) -> None:
    """Something else wrote a text there, without an end: nobody could publish that model again."""
    assert bench.epoch
    bench.raw("SET", "genlock:{t}:lock:digits", "spoiled")
    assert bench.lock(ttl_ms=60_000).verdict == "held"
    assert bench.lock(ttl_ms=1).verdict == "held"
    if bench.kind == "inprocess":
        bench.client.server.now_s += 1
    bench.until(lambda: bench.lock().verdict == "ok")


def test_a_manifest_that_is_no_text_is_one_that_is_bad(real: Any) -> None:
    """The reply was not UTF-8: it looked like a Redis that is gone, to a worker that asked for the same manifest again and again."""
    real.flip("v1")
    real.raw("HSET", "generations", "digits\x001\x00m", b'{"of":"\xff\xed\xa0\x80"}')
    assert real.ask(ManifestOf("digits", 1)).manifest.startswith('{"of":"�')


def test_a_first_caller_meets_what_is_garbled(bench: Any) -> None:
    """A process that knows no epoch hears the fleet's, whatever else stands there."""
    assert bench.epoch != NO_EPOCH
    bench.raw("HSET", "models", "digits", "[" * 2000)
    assert isinstance(bench.send(Read("digits"), Epoch(0, "")).epoch, int)
    assert bench.state().active is None


def test_r15_an_entry_that_no_candidate_counts(bench: Any) -> None:
    """Somebody wrote "bad" where a member is waited for: who took that member off the list raised, until the deadline."""
    _, second = bench.holders(2)
    gen = bench.propose("v1").generation
    bench.raw("HSET", "waiting", f"digits\0{gen}\0{second}", "bad {}")
    assert bench.ask(Leave(second)).verdict == "ok"


def test_r15_tasks_whose_ids_are_no_numbers(bench: Any) -> None:
    """The oldest of them is looked for by its number."""
    bench.holders(1)
    task = {
        "kind": "clear",
        "model": "",
        "deadline": "1",
        "length": "1",
        "ended": "1",
        "asked": 1,
        "awaited": 0,
        "done": 1,
        "failed": 0,
    }
    bench.raw("HSET", "fleet", "tasks", json.dumps({"x": task, "y": task}))
    assert bench.ask(StartTask("t", "clear", "", 1000, "me")).verdict == "ok"
