"""Who may do what reaches the whole fleet: an operator with a token; without any token set, who sits at this machine. Pure."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from ipaddress import ip_address

from ..coordinator.errors import NotAllowed, Unauthorized

#: Request headers that say that somebody else stands behind the one who connects: a proxy, or a page in a browser.
RELAYED = ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Via", "Origin")


def check_operator(
    tokens: Iterable[tuple[str, str]], *, authorization: str | None, address: str | None, relayed: bool
) -> None:
    """Raises Unauthorized (no token that is known) or NotAllowed. `tokens`: (role, token); `relayed`: one of RELAYED came along.

    Without tokens only a connection over loopback counts. A proxy on this machine makes everybody's look like that, so nothing
    that was passed on is let in, whatever its headers claim.
    """
    tokens = tuple(tokens)
    if tokens:
        return _check_token(tokens, authorization)
    if relayed:
        raise NotAllowed(
            "this request was passed on for somebody else, and no tokens are set: set GENLOCK_ADMIN_TOKENS"
        )
    if not _is_loopback(address):
        raise NotAllowed("without tokens only this machine itself may do this: set GENLOCK_ADMIN_TOKENS")
    return None


def _check_token(tokens: tuple[tuple[str, str], ...], authorization: str | None) -> None:
    scheme, _, given = (authorization or "").partition(" ")
    role = None
    for known_role, known in tokens:  # all of them, whichever matches: the time says nothing
        if hmac.compare_digest(given.strip().encode(), known.encode()):
            role = known_role
    if scheme.lower() != "bearer" or role is None:
        raise Unauthorized("send an operator's token: Authorization: Bearer TOKEN")
    if role != "operator":
        raise NotAllowed(f"this takes the role operator, the token has the role {role}")


def _is_loopback(address: str | None) -> bool:
    try:
        found = ip_address(address or "")
    except ValueError:  # a unix socket has no address: whoever may open it may be a proxy
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback
