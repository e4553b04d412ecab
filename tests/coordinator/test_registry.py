"""The room that speaks Redis: what people read of a fleet, the hint, and ten thousand workers. Its calls: test_registry_*.py."""

import json
import time
from typing import Any

import pytest
from genlock.coordinator.calls import (
    Abort,
    Evict,
    Heal,
    Heartbeat,
    Leave,
    Open,
    Pin,
    Rollback,
    StartTask,
    TaskDone,
    Unpin,
    hint_of,
)
from genlock.coordinator.errors import RedisUnreachable
from genlock.coordinator.records import Hint, Snapshot
from genlock.coordinator.reply import BAD, FENCED, READY

# --- what people read ------------------------------------------------------------------------------------------------


def test_a_snapshot_is_the_whole_fleet(bench: Any) -> None:
    """Members with what they hold and say of themselves, models with candidate and next, pins, tasks."""
    first, second = bench.holders(2)
    gen = bench.flip("v1", first, second)
    bench.flip("v1", model="other")
    bench.ask(Pin("other", "p", 1, "alice"))
    bench.propose("v2")
    bench.propose("v3")
    task = bench.ask(StartTask("t", "clear", "", 60_000, "me")).task
    bench.join("h:3")
    found = bench.registry.snapshot()
    assert (found.epoch, found.is_open, found.lease_s) == (bench.epoch.number, True, 3.0)
    assert found.revision == bench.ask(Heartbeat(first, 1)).revision
    assert [(m.id, m.holds, m.about["worker"]) for m in found.members] == [
        ("1", ("digits",), "h:1"),
        ("2", ("digits",), "h:2"),
        ("3", (), "h:3"),
    ]
    assert list(found.models) == ["digits", "other"]
    record = found.models["digits"]
    assert (record.active.gen, record.phase, record.cand.version, record.cand.awaited) == (gen, "preparing", "v2", 2)
    assert record.waits["version"] == "v3" and record.next == 3
    assert found.models["other"].pin["by"] == "alice" and found.models["other"].phase == "idle"
    assert found.tasks[task]["kind"] == "clear"


def test_a_snapshot_of_nothing(bench: Any) -> None:
    assert bench.epoch
    bench.client.execute_command("FLUSHALL")
    assert bench.registry.snapshot() == Snapshot(0, False, 0.0, 0, (), {}, {})


def test_generations_are_read_together(bench: Any) -> None:
    """Manifest and outcome as they are stored; what never was, or is too old, is left out."""
    bench.flip("v1")
    bench.holders(1)
    bench.propose("v2")
    found = bench.registry.generations("digits", [1, 2, 3])
    assert {gen: (manifest, json.loads(outcome)["outcome"]) for gen, (manifest, outcome) in found.items()} == {
        1: (b'{"of":"v1"}', "committed"),
        2: (b'{"of":"v2"}', "candidate"),
    }
    assert bench.registry.generations("digits", []) == {}


def test_manifests_of_many_models_are_read_together(bench: Any) -> None:
    bench.flip("v1")
    bench.flip("v2", model="other")
    assert bench.registry.manifests_of({"digits": 1, "other": 1, "nope": 1}) == {
        "digits": b'{"of":"v1"}',
        "other": b'{"of":"v2"}',
    }
    assert bench.registry.manifests_of({}) == {}


def test_what_each_worker_said_of_each_candidate(bench: Any) -> None:
    """And nothing of tasks, nor of what somebody else wrote there."""
    one, two = bench.holders(2)
    bench.propose("v1")
    bench.say(one, 1, "ready", worker="h:1")
    for field, text in (("digits\x001\x009", "odd"), ("a\x00b\x00c", "ready {}"), ("nobody", "ready")):
        bench.raw("HSET", "waiting", field, text)
    found = bench.registry.entries()
    assert list(found) == [("digits", 1)]
    assert {member: state for member, (state, _) in found["digits", 1].items()} == {one: "ready", two: "awaited"}
    assert found["digits", 1][one][1]["worker"] == "h:1"


def test_every_manifest_that_is_stored(bench: Any) -> None:
    """Of all generations of all models, and of what waits: what the store keeps files for. An answer to a request "m" is none."""
    bench.flip("v1", request="m")
    bench.flip("v2")
    bench.flip("v1", model="other")
    bench.holders(1)
    bench.propose("v3")
    bench.propose("v4")
    assert sorted(bench.registry.manifests()) == [
        ("digits", 0, b'{"of":"v4"}'),
        *(("digits", n, b'{"of":"v%d"}' % n) for n in (1, 2, 3)),
        ("other", 1, b'{"of":"v1"}'),
    ]
    bench.client.execute_command("FLUSHALL")
    assert bench.registry.manifests() == []


def test_the_log_says_who_and_why(bench: Any) -> None:
    """Oldest first; the newest ones, or those behind one that was read; times are of the server's clock."""
    bench.flip("v1", by="trainer 7")
    events = bench.registry.log(newest=2)
    assert [event.what for event in events] == ["candidate", "committed"]
    committed = events[-1]
    assert committed.model == "digits" and committed.facts["by"] == "trainer 7" and committed.facts["version"] == "v1"
    assert abs(committed.at - time.time()) < 100
    assert bench.registry.log(after=events[-1].id) == []
    assert bench.registry.log(after=events[-2].id) == [committed]
    assert bench.registry.log()[-2:] == events


def test_every_change_is_in_the_log(bench: Any) -> None:
    """Whatever somebody may ask about later: "who did that, when, and why?" """
    bench.flip("v0")
    first, second, third = bench.holders(3)
    bench.flip("v1", first, second, third)
    bench.propose("v2", by="a")
    bench.propose("v3", by="b")
    bench.propose("v4", by="c")
    bench.ask(Abort("digits", "a", 3, "op", "wrong"))
    bench.say(first, 4, BAD, worker="h:1", step="check", why="NaN")
    bench.ask(Rollback("digits", "r", 2, "op", "slow"))
    bench.ask(Unpin("digits", "u", 2, "op"))
    bench.ask(Pin("digits", "p", 2, "op"))
    bench.say(first, 2, BAD, worker="h:1", why="NaN")
    task = bench.ask(StartTask("t", "clear", "", 60_000, "op")).task
    for member in (first, second, third):
        bench.ask(TaskDone(member, task, True))
    bench.ask(Leave(second, died=True))
    bench.ask(Evict(third, bench.field("members", third).decode(), "h:1"))
    bench.lose()
    bench.ask(Heal("digits", 9, "v9", 1, 10**12, "{}", "v9:"))
    bench.ask(Open("h:1"))
    events = bench.registry.log(newest=1000)
    assert [event.what for event in events] == [
        *("epoch", "candidate", "committed", "joined", "joined", "joined", "candidate", "fencing", "committed"),
        *(
            "candidate",
            "next",
            "superseded",
            "next",
            "aborted",
            "candidate",
            "rejected",
            "pinned",
            "candidate",
            "unpinned",
        ),
        *("aborted", "pinned", "alarm", "task-started", "task", "left", "evicted", "epoch", "healed", "open"),
    ]
    assert next(event.facts for event in events if event.what == "pinned") == {
        "generation": "5",
        "by": "op",
        "why": "slow",
    }
    said = {event.what: event for event in events}
    assert said["superseded"].facts["by"] == "b" and said["superseded"].facts["why"] == "by c"
    assert said["rejected"].facts["why"] == "NaN" and said["rejected"].facts["worker"] == "h:1"
    assert said["alarm"].facts["generation"] == "2" and said["pinned"].facts["by"] == "op"
    assert said["left"].facts == {"member": second, "died": 1}
    assert said["healed"].facts == {"how": "restored", "generation": "9", "version": "v9"}
    assert said["open"].facts["by"] == "h:1" and said["epoch"].facts["lost"] == "part"
    assert [event.model for event in events if event.model not in ("", "digits")] == []


# --- the hint --------------------------------------------------------------------------------------------------------


def test_a_subscription_hears_hints(real: Any) -> None:
    """Whatever else is said on the channel is not one."""
    assert real.epoch
    subscription = real.registry.subscribe()
    assert subscription.wait(0.01) is None
    real.client.publish(hint_of(real.registry.fleet), "hello")
    reply = real.propose("v1")
    heard = [subscription.wait(5) for _ in range(3)]
    assert heard == [None, Hint(reply.epoch, reply.revision - 1, "digits"), Hint(reply.epoch, reply.revision, "digits")]
    subscription.close()
    subscription.close()


def test_r14_a_subscription_tells_when_its_connection_is_lost(real: Any) -> None:
    """That it was lost it can tell; that messages were, it cannot: its owner makes a new one and reads the state."""
    subscription = real.registry.subscribe()
    real.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    with pytest.raises(RedisUnreachable):
        for _ in range(3):
            subscription.wait(1)
    subscription.close()
    again = real.registry.subscribe()
    real.client.publish(hint_of("t"), "1 2 digits")
    assert again.wait(5) == (1, 2, "digits")
    again.close()


# --- ten thousand workers --------------------------------------------------------------------------------------------

WORKERS = 10_000


def members_by_hand(bench: Any, n: int) -> list[str]:
    """As if `n` had joined and held digits."""
    assert bench.epoch
    members = [str(i + 1) for i in range(n)]
    for start in range(0, n, 2000):
        part = members[start : start + 2000]
        bench.raw("HSET", "members", *[word for member in part for word in (member, member)])
        bench.raw("HSET", "holds", *[word for member in part for word in (member, "1 digits other")])
    bench.raw("HSET", "fleet", "beat", str(n), "ids", str(n))
    return members


def answer_by_hand(bench: Any, gen: int, members: list[str], said: str) -> None:
    """As if all of them had said so."""
    for start in range(0, len(members), 2000):
        part = members[start : start + 2000]
        bench.raw("HSET", "waiting", *[word for m in part for word in (f"digits\0{gen}\0{m}", f"{said} {{}}")])

    def change(record: dict[str, Any]) -> None:
        cand = record["cand"]
        before = "awaited" if said == READY else READY
        cand[said], cand[before] = cand[said] + len(members), cand[before] - len(members)

    bench.edit(change)


def test_ten_thousand_workers_flip(bench: Any) -> None:
    """Lists longer than what Lua's unpack takes are written in pieces, and no script that a heartbeat or an answer needs grows with them.

    All but one answer by hand; the last one's answer moves it on.
    """
    members = members_by_hand(bench, WORKERS)
    bench.lock()
    reply = bench.propose("v1", request="q")
    assert reply.state == "candidate" and bench.state().cand.awaited == WORKERS
    assert len(bench.row("waiting")) == WORKERS + 1
    assert len(bench.ask(Heartbeat("5", 1)).watch) == 8
    answer_by_hand(bench, 1, members[:-1], READY)
    assert bench.say(members[-1], 1, READY).states["digits"].phase == "fencing"
    answer_by_hand(bench, 1, members[:-1], FENCED)
    state = bench.say(members[-1], 1, FENCED).states["digits"]
    assert (state.active.gen, state.phase) == (1, "idle")
    assert bench.answer("q").state == "committed"
    assert list(bench.row("waiting")) == [b"@"]
    assert len(bench.outcome(1)["workers"]) == 1000, "an outcome lists so many of them"


def test_ten_thousand_workers_lose_their_redis(bench: Any) -> None:
    """A deadline, an eviction and a new epoch with as many entries."""
    members = members_by_hand(bench, WORKERS)
    bench.propose("v1", request="q", agreement=0.5)
    answer_by_hand(bench, 1, members[: WORKERS // 2], READY)
    assert bench.ask(Evict("7", "7")).verdict == "ok"
    bench.run_out()
    assert bench.answer("q").why.startswith(
        "the deadline passed with 4999 ready, 0 failed, 5000 not heard of; waited for 5001 ("
    )
    bench.propose("v2", request="q2")
    task = bench.ask(StartTask("t", "clear", "", 60_000, "me"))
    assert task.awaited == WORKERS - 1
    bench.lose("holds")
    assert bench.answer("q2").state == "aborted" and list(bench.row("waiting")) == [b"@"]
