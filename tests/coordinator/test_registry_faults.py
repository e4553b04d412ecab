"""What a server does wrong, and what somebody did to its keys: nothing is half done (R15), nothing is granted by it (R16)."""

import json
import os
import signal
from typing import Any

import pytest
from genlock.coordinator.calls import (
    Ask,
    Call,
    Heartbeat,
    Hold,
    Join,
    Leave,
    Lock,
    Propose,
    Read,
    Say,
    StartTask,
    TaskDone,
)
from genlock.coordinator.endpoint import Endpoint
from genlock.coordinator.errors import RedisRefused, RedisUnreachable
from genlock.coordinator.identity import Identity
from genlock.coordinator.registry import Registry
from genlock.coordinator.reply import BAD, FENCED, READY, Reply
from genlock.coordinator.settings import Settings

# --- R15 -------------------------------------------------------------------------------------------------------------


def test_r15_a_log_of_a_wrong_type_loses_no_commit(bench: Any) -> None:
    """Something else writes under the name of the log: it is for people, and no reason to stop a flip half-way, or at all."""
    assert bench.epoch
    bench.spoil("log")
    (member,) = bench.holders(1)
    with bench.listening() as heard:
        gen = bench.flip("v1", member)
        assert len(heard()) == 3, "the hint comes all the same"
    assert bench.ask(Leave(member)).verdict == "ok"
    assert bench.outcome(gen)["outcome"] == "committed"
    assert bench.log()[-1] == "left", "nobody else would ever put it right"


def test_r15_workers_of_a_wrong_type_lose_no_commit(bench: Any) -> None:
    """The same of what people read of the members: status goes on without it, outcomes say ids instead of names, and the next who says
    anything of himself puts it right."""
    assert bench.epoch
    first, second = bench.holders(2)
    bench.spoil("workers")
    assert [member.about for member in bench.registry.snapshot().members] == [{}, {}]
    gen = bench.propose("v1", request="q").generation
    bench.ask(Say(first, "digits", gen, READY))
    bench.run_out()
    assert bench.answer("q").why.endswith(f"waited for {second} (awaited)")
    assert bench.ask(Heartbeat(first, 1, (), '{"worker":"h:1"}')).verdict == "ok"
    assert [member.about for member in bench.registry.snapshot().members] == [{"worker": "h:1"}, {}]
    bench.flip("v2", first, second)
    assert bench.ask(Leave(first)).verdict == "ok"


def test_r15_an_error_half_way_leaves_nothing(bench: Any) -> None:
    """A call that no version of this program sends makes the script fail after it has changed what it had read: no key has changed."""
    (member,) = bench.holders(1)
    gen = bench.propose("v1").generation
    before = bench.keys()
    with pytest.raises(RedisRefused, match="report it"):
        bench.ask(Say(member, "digits", gen, "nonsense"))
    with pytest.raises(RedisRefused):
        bench.ask(StartTask("t", "clear", "", "soon", "me"))  # type: ignore[arg-type]
    assert bench.keys() == before
    bench.say(member, gen, READY)
    bench.say(member, gen, FENCED)
    assert bench.state().active.gen == gen


@pytest.mark.parametrize(
    "waits",
    (
        "text",
        {"request": "q9"},
        {"request": "q9", "version": "v9"},
        {"request": "q9", "version": "v9", "length": "soon"},
    ),
)
def test_r15_a_proposal_that_is_none_does_not_wait(bench: Any, waits: Any) -> None:
    """Somebody edited the record: the commit that would begin it would fail, and with it every answer, for ever."""
    (member,) = bench.holders(1)
    gen = bench.propose("v1").generation
    bench.edit(lambda record: record.update(waits=waits))
    bench.say(member, gen, READY)
    bench.say(member, gen, FENCED)
    state = bench.state()
    assert (state.active.gen, state.phase, state.waits) == (gen, "idle", None)


def test_r15_records_without_a_poison_key(bench: Any) -> None:
    """An active generation or a candidate that does not say under which key it would be remembered as bad can be bad all the same."""
    bench.flip("v1")
    (member,) = bench.holders(1)
    bench.edit(lambda record: record["active"].pop("poison"))
    assert bench.say(member, 1, BAD, why="NaN").verdict == "ok"
    bench.propose("v2", request="q")
    bench.edit(lambda record: record["cand"].update(poison=None))
    assert bench.say(member, 2, BAD).states["digits"].phase == "idle"


def test_r15_a_candidate_in_no_known_phase_is_none(bench: Any) -> None:
    (member,) = bench.holders(1)
    bench.propose("v1")
    bench.edit(lambda record: record["cand"].update(phase="canary"))
    assert bench.state().phase == "idle"
    assert bench.flip("v2", member) == 2


# --- R16: a server that may not be written to --------------------------------------------------------------------------


def granting(member: str) -> list[Any]:
    """Every call that can grant a lease, a lock, a place, or the right to answer."""
    return [
        Join("{}"),
        Heartbeat(member, 1),
        Ask(member, ("digits",)),
        Hold(member, 1, ("digits",)),
        Say(member, "digits", 1, READY),
        TaskDone(member, "1", True),
        Lock("other", "take", "token", "{}", 1000),
        Propose("digits", "q", "token", "v", "v:", b"{}", 1.0, 1000, "me"),
        StartTask("t", "clear", "", 1000, "me"),
    ]


def connections(bench: Any) -> int:
    return int(bench.client.info("stats")["total_connections_received"])


def test_r16_a_demoted_server_grants_nothing(real: Any) -> None:
    """A failover made it a replica while workers are connected: it is refused by the server itself, and the connection is dropped.

    primary     becomes a replica of another
    worker      heartbeat ─▶ READONLY: no lease, RedisRefused, and the next call comes over a new connection, attached
    """
    (member,) = real.holders(1)
    real.lock()
    before = real.keys()
    real.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        for call in granting(member):
            known = connections(real)
            with pytest.raises(RedisRefused, match="read only replica") as raised:
                real.send(call)
            assert "point GENLOCK_REDIS_URL to the primary" in raised.value.remedy
            assert connections(real) <= known + 1
        assert real.send(Read("digits")).verdict == "ok", "a read grants nothing, and may come from a replica"
        assert real.keys() == before
    finally:
        real.client.execute_command("REPLICAOF", "NO", "ONE")
    known = connections(real)
    assert real.send(Heartbeat(member, 1)).verdict == "ok"
    real.registry.drop_connections()
    assert real.send(Heartbeat(member, 1)).verdict == "ok"
    assert connections(real) == known + 1


def test_r16_the_connection_is_dropped(real: Any) -> None:
    """Behind the same address the next connection may reach the new primary; the old one would be asked for ever."""
    (member,) = real.holders(1)
    real.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        known = connections(real)
        for n in range(3):
            with pytest.raises(RedisRefused):
                real.send(Heartbeat(member, 1))
            assert connections(real) == known + n, "the first goes over the connection that there was"
    finally:
        real.client.execute_command("REPLICAOF", "NO", "ONE")


def test_r16_a_replica_without_its_primary(real: Any) -> None:
    (member,) = real.holders(1)
    real.client.config_set("replica-serve-stale-data", "no")
    real.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        with pytest.raises(RedisRefused, match="MASTER is down") as raised:
            real.send(Heartbeat(member, 1))
        assert "without its primary" in raised.value.remedy
    finally:
        real.client.execute_command("REPLICAOF", "NO", "ONE")
        real.client.config_set("replica-serve-stale-data", "yes")
    assert real.send(Heartbeat(member, 1)).verdict == "ok"


def test_r16_too_few_replicas(real: Any) -> None:
    """The primary was cut off from its replicas, and is told to refuse then."""
    (member,) = real.holders(1)
    real.client.config_set("min-replicas-to-write", "1")
    try:
        with pytest.raises(RedisRefused, match="enough good replicas") as raised:
            real.send(Heartbeat(member, 1))
        assert "replica" in raised.value.remedy
    finally:
        real.client.config_set("min-replicas-to-write", "0")


def test_r16_no_memory_left(real: Any) -> None:
    (member,) = real.holders(1)
    before = real.keys()
    real.client.config_set("maxmemory", "1")
    try:
        with pytest.raises(RedisRefused, match="maxmemory") as raised:
            real.send(Join("{}"))
        assert "raise maxmemory" in raised.value.remedy
    finally:
        real.client.config_set("maxmemory", "0")
    assert real.keys() == before
    assert real.send(Heartbeat(member, 1)).verdict == "ok"


def test_r16_a_user_that_may_not(real: Any) -> None:
    """A user for genlock that was given too little: said with what it lacks."""
    real.client.execute_command("ACL", "SETUSER", "few", "on", ">secret", "~genlock:*", "&*", "+info", "+ping")
    try:
        endpoint = Endpoint.of(Settings(redis_url=real.endpoint.where.replace("unix://", "unix://few:secret@")))
        registry = Registry(endpoint, "t", Identity("f" * 32, 3.0, False))
        with pytest.raises(RedisRefused, match="permission") as raised:
            registry.send(Join("{}"))
        assert "allow genlock's keys" in raised.value.remedy
        registry.close()
    finally:
        real.client.execute_command("ACL", "DELUSER", "few")


def test_a_wrong_password_or_none(real: Any) -> None:
    """Of a user that it does not know, and none at all where one is wanted; the password is in no message."""
    real.client.config_set("requirepass", "hidden")
    try:
        for who in ("nobody:secret@", ":secret@", ""):
            endpoint = Endpoint.of(Settings(redis_url=real.endpoint.where.replace("unix://", f"unix://{who}")))
            registry = Registry(endpoint, "t", Identity("f" * 32, 3.0, False))
            with pytest.raises(RedisRefused, match=r"password|Authentication") as raised:
                registry.send(Join("{}"))
            assert "put them into GENLOCK_REDIS_URL" in raised.value.remedy
            assert "secret" not in str(raised.value)
            registry.close()
    finally:
        real.client.config_set("requirepass", "")


@pytest.mark.parametrize("policy", ("allkeys-lru", "volatile-ttl"))
def test_a_server_that_evicts_is_refused(real: Any, policy: str) -> None:
    """It would throw away a fleet's keys, or a lock, when it is short of memory: said with how to change it, before anything is written."""
    real.client.config_set("maxmemory-policy", policy)
    try:
        peer = real.peer()
        for _ in range(2):
            with pytest.raises(RedisRefused, match=policy) as raised:
                peer.send(Join("{}"))
            assert "CONFIG SET maxmemory-policy noeviction" in str(raised.value)
        assert real.client.dbsize() == 0
        assert peer.fleet == "t"
    finally:
        real.client.config_set("maxmemory-policy", "noeviction")
    assert peer.ask(Join("{}")).verdict == "ok", "the same object goes on when it was changed"


# --- connections -----------------------------------------------------------------------------------------------------


def test_a_script_that_the_server_has_forgotten_is_sent_whole(bench: Any) -> None:
    """SCRIPT FLUSH, or a restart: also the first call of a connection."""
    if bench.kind == "inprocess":
        bench.registry = bench.peer()
    else:
        bench.client.script_flush()
    assert bench.ask(Join("{}")).verdict == "ok"
    if bench.kind != "inprocess":
        bench.client.script_flush()
        bench.registry.drop_connections()
    assert bench.ask(Join("{}")).verdict == "ok"


def test_nothing_listens(tmp_path: Any) -> None:
    registry = Registry(Endpoint.of(Settings(redis_url=f"unix://{tmp_path}/none")), "t", Identity("f" * 32, 3.0, False))
    with pytest.raises(RedisUnreachable, match="no Redis answers at unix:") as raised:
        registry.send(Join("{}"))
    assert "unset it to let genlock start its own" in str(raised.value)
    with pytest.raises(RedisUnreachable):
        registry.subscribe()
    with pytest.raises(RedisUnreachable):
        registry.snapshot()


def test_r8_a_call_does_not_wait_for_a_server_that_hangs(real: Any) -> None:
    """Requests wait behind it: it is short, unretried, and its connection is dropped, or the next call would get its answer."""
    (member,) = real.holders(1)
    peer = Registry(real.endpoint, "t", Identity("f" * 32, 3.0, False), timeout_s=0.05)
    peer.epoch = real.epoch
    pid = real.client.info("server")["process_id"]

    def reply_to(call: Call) -> Reply | None:
        """None: not within 0.05 s, which a busy machine takes now and then."""
        try:
            return peer.send(call)
        except RedisUnreachable:
            return None

    real.until(lambda: reply_to(Heartbeat(member, 1)))
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(RedisUnreachable):
            peer.send(Join('{"worker":"lost"}'))
    finally:
        os.kill(pid, signal.SIGCONT)
    found: list[Reply | None] = []
    real.until(lambda: found.append(reply_to(Read("digits"))) or found[-1])
    assert found[-1] is not None and found[-1].states.keys() == {"digits"}
    peer.close()


def test_a_lost_connection_is_made_anew_at_the_next_call(real: Any) -> None:
    """Not within the call: it may have been executed, and only its caller knows whether it may be sent again."""
    (member,) = real.holders(1)
    real.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    failures = 0
    for _ in range(2):
        try:
            assert real.send(Heartbeat(member, 1)).verdict == "ok"
        except RedisUnreachable:
            failures += 1
    assert failures <= 1
    assert real.send(Heartbeat(member, 1)).verdict == "ok"


class Nonsense:
    """An endpoint whose client answers what it is told to."""

    where, embedded = "nowhere", None

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.connection_pool = self
        self.drops = 0

    def client(self, **_: Any) -> Any:
        return self

    def evalsha(self, *_: Any) -> bytes:
        return self.answers.pop(0)

    def disconnect(self) -> None:
        self.drops += 1
        raise OSError("it is gone already")


@pytest.mark.parametrize(
    "answer", (b"", b"[]", b'{"verdict":1}', b'{"verdict":"ok","epoch":-1}', b"\xff", b'{"verdict":"ok"')
)
def test_an_answer_that_makes_no_sense_is_refused(answer: bytes) -> None:
    """Something else answers there: not believed, and not a crash of whoever asked."""
    registry = Registry(Nonsense(answer), "t", Identity("f" * 32, 3.0, False))  # type: ignore[arg-type]
    with pytest.raises(RedisRefused, match="makes no sense"):
        registry.send(Join("{}"))


def test_an_error_while_dropping_a_connection_hides_nothing() -> None:
    class Dead(Nonsense):
        def evalsha(self, *_: Any) -> bytes:
            raise ConnectionResetError("reset by peer")

    endpoint = Dead()
    registry = Registry(endpoint, "t", Identity("f" * 32, 3.0, False))  # type: ignore[arg-type]
    with pytest.raises(RedisUnreachable, match="reset by peer"):
        registry.send(Join("{}"))
    assert endpoint.drops == 1


def test_r8_one_epoch_after_another_is_not_followed_for_ever() -> None:
    """A proxy sends calls to two primaries in turn: each finds that the other's epoch is not its own."""
    answers = [json.dumps({"verdict": "epoch", "epoch": n, "nonce": "x"}).encode() for n in range(1, 9)]
    registry = Registry(Nonsense(*answers), "t", Identity("f" * 32, 3.0, False))  # type: ignore[arg-type]
    with pytest.raises(RedisRefused, match="one epoch after another"):
        registry.ask(Join("{}"))


def test_r3_a_lower_epoch_counts_for_nothing() -> None:
    """A reply of the epoch before comes after that of the next: the caller does not go back to it."""
    answers = [json.dumps({"verdict": "epoch", "epoch": n, "nonce": "x"}).encode() for n in (7, 3)]
    answers.append(b'{"verdict":"ok","epoch":7,"nonce":"x","id":"1"}')
    registry = Registry(Nonsense(*answers), "t", Identity("f" * 32, 3.0, False))  # type: ignore[arg-type]
    assert registry.ask(Join("{}")).id == "1"
    assert registry.epoch == (7, "x")
