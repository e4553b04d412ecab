"""The publish lock of a model: at most one trainer at a time, and none for ever (R8, R9)."""

from typing import Any

import pytest
from genlock.coordinator.calls import Lock


@pytest.fixture
def held(bench: Any) -> Any:
    """A fleet in which somebody holds the lock of digits."""
    assert bench.ask(Lock("digits", "take", "mine", '{"who":"me"}', 60_000)).verdict == "ok"
    return bench


def test_one_trainer_at_a_time(held: Any) -> None:
    """The second hears who has it; another model's lock is another lock."""
    for action in ("take", "extend", "free"):
        reply = held.ask(Lock("digits", action, "yours", '{"who":"you"}', 60_000))
        assert (reply.verdict, reply.holder) == ("held", '{"who":"me"}')
    assert held.ask(Lock("other", "take", "yours", "{}", 60_000)).verdict == "ok"


def test_r10_a_lock_taken_twice_is_held_since_the_first_time(held: Any) -> None:
    assert held.ask(Lock("digits", "take", "mine", '{"since":"later"}', 60_000)).verdict == "ok"
    assert held.ask(Lock("digits", "extend", "mine", '{"since":"later"}', 60_000)).verdict == "ok"
    assert held.ask(Lock("digits", "take", "yours", "", 60_000)).holder == '{"who":"me"}'


def test_a_lock_is_given_back(held: Any) -> None:
    assert held.ask(Lock("digits", "free", "mine", "", 60_000)).verdict == "ok"
    assert held.ask(Lock("digits", "free", "mine", "", 60_000)).verdict == "ok"
    assert held.ask(Lock("digits", "extend", "mine", "", 60_000)).verdict == "lost"
    assert held.ask(Lock("digits", "take", "yours", "{}", 60_000)).verdict == "ok"


def test_r8_a_lock_ends_by_itself(held: Any) -> None:
    """A trainer died: after the milliseconds that it asked for, the next one has its turn."""
    held.ask(Lock("digits", "extend", "mine", "", 1))
    if held.kind == "inprocess":
        held.client.server.now_s += 0.002
    held.until(lambda: held.ask(Lock("digits", "take", "yours", "{}", 60_000)).verdict == "ok")


def test_r8_a_lock_that_would_last_too_long_is_shortened(held: Any) -> None:
    """The server's clock was set back by a day: its holder died, and would have the lock for a day. Who wants it ends that."""
    key = "genlock:{t}:lock:digits"
    held.raw("PEXPIRE", key, 86_400_000)
    assert held.ask(Lock("digits", "take", "yours", "{}", 30_000)).verdict == "held"
    assert 20_000 < held.raw("PTTL", key) <= 30_000
    held.raw("PEXPIRE", key, 25_000)
    assert held.ask(Lock("digits", "take", "yours", "{}", 30_000)).verdict == "held"
    assert held.raw("PTTL", key) <= 25_000, "it is not made longer"


def test_a_lock_of_a_wrong_type_is_nobodys(held: Any) -> None:
    """Somebody wrote over it: whoever takes it next has it, and nobody is stuck."""
    key = "genlock:{t}:lock:digits"
    held.raw("DEL", key)
    held.raw("HSET", key, "a", "b")
    assert held.ask(held.proposal("v1", token="mine")).verdict == "lock"
    assert held.ask(Lock("digits", "take", "mine", "{}", 60_000)).verdict == "ok"
    assert held.ask(held.proposal("v1", token="mine")).verdict == "ok"
