"""coordinator/gate.py: who has which token, and who may do what reaches the whole fleet."""

from __future__ import annotations

import pytest
from genlock.coordinator.errors import NotAllowed, Unauthorized
from genlock.coordinator.gate import Caller, caller_of, check_operator

TOKENS = (("viewer", "looks-only"), ("operator", "may-do-all"), ("operator", "may-do-all-too"))


def check(
    authorization: str | None = None,
    *,
    tokens: tuple[tuple[str, str], ...] = TOKENS,
    address: str | None = "127.0.0.1",
    relayed: bool = False,
) -> None:
    check_operator(tokens, authorization=authorization, address=address, relayed=relayed)


@pytest.mark.parametrize("token", ["may-do-all", "may-do-all-too"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
def test_an_operators_token_opens(scheme: str, token: str) -> None:
    check(f"{scheme} {token}", address="203.0.113.9", relayed=True)


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic may-do-all", "may-do-all", "Bearer may-do-al", "Bearer ü"],
)
def test_without_a_token_that_is_known_nobody_gets_in(authorization: str | None) -> None:
    """With tokens set, sitting at this machine is not enough."""
    with pytest.raises(Unauthorized):
        check(authorization)


def test_a_viewers_token_is_known_and_not_enough() -> None:
    with pytest.raises(NotAllowed, match="the token has the role viewer"):
        check("Bearer looks-only")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_without_tokens_this_machine_itself_gets_in(address: str) -> None:
    check(tokens=(), address=address)


@pytest.mark.parametrize("address", ["203.0.113.9", "10.0.0.1", "::ffff:203.0.113.9", "", None, "localhost", "unix:"])
def test_without_tokens_nobody_else_does(address: str | None) -> None:
    """A unix socket has no address: who speaks there is mostly a proxy."""
    with pytest.raises(NotAllowed, match="GENLOCK_ADMIN_TOKENS"):
        check(tokens=(), address=address)


def test_what_a_proxy_on_this_machine_passes_on_is_not_this_machine() -> None:
    """Behind nginx everybody comes from 127.0.0.1, and X-Forwarded-For may say whatever a client wrote into it."""
    with pytest.raises(NotAllowed, match="passed on"):
        check(tokens=(), relayed=True)


def test_a_token_has_a_role_and_may_have_a_name() -> None:
    tokens = (("operator/alice", "may-do-all"), ("viewer", "looks-only"))
    assert caller_of(tokens, "Bearer may-do-all") == Caller("operator", "alice")
    assert caller_of(tokens, "Bearer looks-only") == Caller("viewer", "viewer")


def test_an_operator_may_look_and_a_viewer_may_not_change() -> None:
    Caller("operator", "alice").check("viewer")
    Caller("viewer", "bob").check("viewer")
    with pytest.raises(NotAllowed, match="takes the role operator"):
        Caller("viewer", "bob").check("operator")
