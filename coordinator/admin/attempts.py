"""How often an address may send a token that is not known. Pure: the clock is handed in.

An address that was wrong too often is not listened to for a while, with any token; other addresses are. It is not a matter of security
alone (tokens are too long to be guessed): a program with an old token would fill the log.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

#: Wrong tokens that an address may send within WINDOW_S: a person who has mixed some up needs fewer.
MOST = 10
#: Seconds for which a wrong token counts.
WINDOW_S = 60.0
#: Addresses that are remembered, a few hundred bytes each; of more the ones are forgotten that were wrong the longest time ago.
MOST_ADDRESSES = 4096


class Attempts:
    """The wrong tokens of the last minute. Whoever uses it from several threads holds a lock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()  # network → when

    def wait_s(self, address: str) -> float:
        """Seconds until this address is listened to again; 0: now."""
        times = self._wrong.get(_network(address))
        if times is None or len(times) < MOST:
            return 0.0
        return max(0.0, times[0] + WINDOW_S - self._clock())

    def failed(self, address: str) -> None:
        """A wrong token came from there."""
        network = _network(address)
        self._wrong.setdefault(network, deque(maxlen=MOST)).append(self._clock())
        self._wrong.move_to_end(network)
        while len(self._wrong) > MOST_ADDRESSES:
            self._wrong.popitem(last=False)


def _network(address: str) -> str:
    """Who has one address of IPv6 has the 2^64 beside it, too."""
    try:
        found = ip_address(address)
    except ValueError:  # a unix socket has none
        return address
    found = getattr(found, "ipv4_mapped", None) or found  # how a socket for both names who comes by IPv4
    return str(found) if found.version == 4 else str(IPv6Address(int(found) >> 64 << 64))
