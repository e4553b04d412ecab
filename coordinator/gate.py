"""Who may do what over HTTP: bearer tokens of two roles. Pure: `tokens` reads them.

An operator may do all that a viewer may. A token stands beside who has it: a role, or `role/name`.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from ipaddress import ip_address
from typing import NamedTuple

from .errors import NotAllowed, Unauthorized

#: Each role may do all that those before it may.
ROLES = ("viewer", "operator")
#: Request headers that say that somebody else stands behind the one who connects: a proxy, or a page in a browser.
RELAYED = ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Via", "Origin")


class Caller(NamedTuple):
    """Who asks. `name`: for people and the audit log; that of the token, or the role of one that has none."""

    role: str
    name: str

    def check(self, role: str) -> None:
        """Raises NotAllowed unless this caller may do what takes `role`."""
        if ROLES.index(self.role) < ROLES.index(role):
            raise NotAllowed(f"this takes the role {role}, the token has the role {self.role}")


def caller_of(tokens: Iterable[tuple[str, str]], authorization: str | None) -> Caller:
    """Who sent `Authorization: Bearer TOKEN`; raises Unauthorized. `tokens`: (role or role/name, token)."""
    scheme, _, given = (authorization or "").partition(" ")
    found = None
    for who, known in tokens:  # all of them, whichever matches: the time says nothing
        if hmac.compare_digest(given.strip().encode("utf-8", "replace"), known.encode()):
            found = who
    if scheme.lower() != "bearer" or found is None:
        raise Unauthorized("send one in the header Authorization: Bearer TOKEN")
    role, _, name = found.partition("/")
    return Caller(role, name or role)


def check_operator(
    tokens: Iterable[tuple[str, str]], *, authorization: str | None, address: str | None, relayed: bool
) -> None:
    """Raises Unauthorized (no token that is known) or NotAllowed. `tokens`: as above; `relayed`: one of RELAYED came along.

    Without tokens only a connection over loopback counts. A proxy on this machine makes everybody's look like that, so nothing
    that was passed on is let in, whatever its headers claim.
    """
    tokens = tuple(tokens)
    if tokens:
        return caller_of(tokens, authorization).check("operator")
    if relayed:
        raise NotAllowed(
            "this request was passed on for somebody else, and no tokens are set: set GENLOCK_ADMIN_TOKENS"
        )
    if not is_loopback(address):
        raise NotAllowed("without tokens only this machine itself may do this: set GENLOCK_ADMIN_TOKENS")
    return None


def is_loopback(address: str | None) -> bool:
    """Whether only this machine itself has that address; a name is none."""
    try:
        found = ip_address(address or "")
    except ValueError:  # a unix socket has no address: whoever may open it may be a proxy
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback
