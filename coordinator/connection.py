"""What every connection to a Redis is like, whoever makes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

#: Seconds to reach a Redis and to greet it; a handshake across a continent takes a tenth of it.
CONNECT_TIMEOUT_S = 2.0

OnConnect = Callable[[redis.connection.Connection], None]


def manners(on_connect: OnConnect | None, timeout_s: float | None) -> dict[str, Any]:
    """The options of every connection, all explicit because redis-py's defaults differ between versions.

    Protocol 2 needs no HELLO: with neither password nor database nothing at all is sent before `on_connect`.
    """
    return {
        "protocol": 2,
        "decode_responses": False,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "health_check_interval": 0,
        "redis_connect_func": _greeting(on_connect),
    }


def _greeting(on_connect: OnConnect | None) -> OnConnect:
    """What a new connection does first; redis-py calls it instead of the connection's own `on_connect`."""

    def greet(connection: Any) -> None:
        # redis-py would introduce itself in two round trips; the attribute differs between its versions.
        for introduction in ("driver_info", "lib_name", "lib_version"):
            setattr(connection, introduction, None)
        sock = connection._sock
        try:
            if connection.socket_timeout is None:
                sock.settimeout(CONNECT_TIMEOUT_S)
            connection.on_connect()
            if on_connect is not None:
                on_connect(connection)
            sock.settimeout(connection.socket_timeout)
        except BaseException:
            # redis-py closes it only after its own errors; it would go back into the pool ungreeted.
            connection.disconnect()
            raise

    return greet
