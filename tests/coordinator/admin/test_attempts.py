"""coordinator/admin/attempts.py: who is wrong too often waits, the others do not, and nothing grows."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from genlock.coordinator.admin.attempts import MOST, MOST_ADDRESSES, WINDOW_S, Attempts


class Clock:
    """Seconds that pass when a test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_address_waits_until_its_oldest_wrong_token_does_not_count() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    for _ in range(MOST):
        assert attempts.wait_s("203.0.113.9") == 0
        attempts.failed("203.0.113.9")
        clock.now += 1
    assert attempts.wait_s("203.0.113.9") == WINDOW_S - MOST
    assert attempts.wait_s("203.0.113.8") == 0
    clock.now += WINDOW_S - MOST
    assert attempts.wait_s("203.0.113.9") == 0


def test_who_comes_by_ipv4_to_a_socket_for_both_waits_alone() -> None:
    """All of IPv4 begins with the same 64 bits there: one that guesses would lock everybody out."""
    attempts = Attempts(Clock())
    for _ in range(MOST):
        attempts.failed("::ffff:203.0.113.9")
    assert attempts.wait_s("::ffff:203.0.113.9") == attempts.wait_s("203.0.113.9") > 0
    assert attempts.wait_s("::ffff:203.0.113.8") == attempts.wait_s("::1") == 0


def test_slow_mistakes_are_no_guesses() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    for _ in range(3 * MOST):
        attempts.failed("a")
        clock.now += WINDOW_S / MOST
        assert attempts.wait_s("a") == 0


@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("203.0.113.9", "203.0.113.8", False),
        ("", "", True),
    ],
)
def test_who_has_one_address_of_ipv6_has_many(one: str, other: str, are_same: bool) -> None:
    """Each guess would come from another one."""
    attempts = Attempts(Clock())
    for _ in range(MOST):
        attempts.failed(one)
    assert (attempts.wait_s(other) > 0) == are_same


def test_memory_has_an_end() -> None:
    """A million addresses guess once; what is forgotten are those that were wrong the longest time ago."""
    attempts = Attempts(Clock())
    for number in range(MOST_ADDRESSES + 10):
        attempts.failed(str(IPv4Address(number)))
    for _ in range(100):
        attempts.failed("0.0.0.20")
    assert len(attempts._wrong) == MOST_ADDRESSES
    assert str(IPv4Address(9)) not in attempts._wrong
    assert len(attempts._wrong["0.0.0.20"]) == MOST
