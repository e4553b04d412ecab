"""Where this process's Redis is: the embedded server, or any URL, and clients for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

import redis
from redis.connection import ConnectionPool, UnixDomainSocketConnection, parse_url
from redis.sentinel import Sentinel

from .connection import CONNECT_TIMEOUT_S, OnConnect, manners
from .errors import SettingsInvalid
from .server import EmbeddedServer
from .settings import Settings

#: The port of a sentinel that names none (redis.io/docs, "High availability with Redis Sentinel").
SENTINEL_PORT = 26379
_SENTINELS = "redis+sentinel://"

# redis-py has types for these only in part.
_UnixConnection: Any = UnixDomainSocketConnection
_Sentinel: Any = Sentinel
_parse_url: Any = parse_url


@dataclass(frozen=True)
class Endpoint:
    """Where this process's Redis is. Holds no connection: it may be made before a fork and used after it."""

    where: str  #: for people and errors; without user and password
    embedded: EmbeddedServer | None
    _options: Mapping[str, Any] = field(repr=False)
    _sentinels: tuple[tuple[str, int], ...] = field(default=(), repr=False)
    _service: str = field(default="", repr=False)

    @classmethod
    def of(cls, settings: Settings) -> Endpoint:
        """The Redis of the settings; the embedded server when they name no URL. Connects to nothing.

        Raises SettingsInvalid for a URL that no client can be made of.
        """
        if not settings.redis_url:
            server = EmbeddedServer(settings.state_dir)
            path = {"connection_class": UnixDomainSocketConnection, "path": str(server.socket)}
            return cls(server.where, server, path)
        try:
            endpoint = cls._of_url(settings.redis_url)
            # redis-py looks at options only when it makes a connection; better to hear of a wrong one now.
            endpoint.client(on_connect=None, timeout_s=None).connection_pool.make_connection()
        except (ValueError, TypeError, redis.RedisError) as error:
            raise _bad_url(settings.redis_url, error) from None
        return endpoint

    @classmethod
    def _of_url(cls, url: str) -> Endpoint:
        if url.startswith(_SENTINELS):
            return cls._of_sentinels(url)
        parts = urlsplit(url)
        place = parts.netloc.rpartition("@")[2]
        _port(parts)
        options = _options_of(url)
        if parts.scheme == "unix":
            if place or not parts.path:
                raise ValueError("a socket's path begins with /")
            return cls(f"unix://{options['path']}", None, options)
        if not re.fullmatch(r"(/[0-9]*)?", parts.path):
            raise ValueError("what follows the host is the number of a database, such as /0")
        return cls(f"{parts.scheme}://{place or 'localhost'}/{options.get('db', 0)}", None, options)

    @classmethod
    def _of_sentinels(cls, url: str) -> Endpoint:
        """`[[user]:password@]host[:port],…/service[/db][?options]`; user and password are the Redis's."""
        authority, _, rest = url.removeprefix(_SENTINELS).partition("/")
        parts = urlsplit(f"//sentinels/{rest}")  # newer Pythons take no authority that has an IPv6 address among others
        secret, at, hosts = authority.rpartition("@")
        found = re.fullmatch(r"/([^/]+)(?:/([0-9]*))?", parts.path)
        names = [urlsplit(f"//{host}") for host in hosts.split(",")]
        if not found or not all(name.hostname for name in names):
            raise ValueError("it needs the sentinels, and the name of the service that they watch")
        sentinels = tuple((name.hostname or "", _port(name) or SENTINEL_PORT) for name in names)
        service, db = found[1], found[2] or "0"
        options = _options_of(f"redis://{secret}{at}localhost/{db}?{parts.query}")
        del options["host"]  # the sentinels know it
        return cls(f"redis+sentinel://{hosts}/{service}/{options['db']}", None, options, sentinels, service)

    def client(self, *, on_connect: OnConnect | None, timeout_s: float | None) -> redis.Redis:
        """A client with its own pool that sends nothing twice and waits `timeout_s` seconds for an answer.

        `timeout_s=None` is for subscribers: they wait for ever, but not while connecting. `on_connect` is
        called with each new connection, authenticated and in its database, before anything else is sent on
        it. What it raises, the caller of the command gets, and the connection is closed.
        """
        options = {**self._options, **manners(on_connect, timeout_s)}
        if options.get("connection_class") is not UnixDomainSocketConnection:
            options["socket_keepalive"] = True
        if not self._service:
            return redis.Redis.from_pool(ConnectionPool(**options))
        sentinels = _Sentinel(self._sentinels, sentinel_kwargs=manners(None, CONNECT_TIMEOUT_S))
        client: redis.Redis = sentinels.master_for(self._service, **options)
        return client

    def ensure(self) -> bool:
        """Starts the embedded server if none answers; True when it had to. Raises RedisUnreachable.

        The server of a URL is somebody else's: nothing is done.
        """
        return self.embedded.ensure() if self.embedded else False


def _options_of(url: str) -> dict[str, Any]:
    """What redis-py reads from a URL; refuses what genlock's calls would break under."""
    options: dict[str, Any] = _parse_url(url)
    taken = sorted(options.keys() & manners(None, None).keys())
    if taken:
        raise ValueError(f"genlock sets {', '.join(taken)} by itself; leave it out")
    return options


def _port(parts: SplitResult) -> int | None:
    """The port, or an error that does not quote it: without a host, a password stands in its place."""
    try:
        return parts.port
    except ValueError:
        raise ValueError("the port is not a number") from None


def _bad_url(url: str, error: Exception) -> SettingsInvalid:
    """Quotes nothing but the scheme: a password may stand anywhere in a URL that is written wrongly."""
    scheme = re.match(r"([a-z+]+://)?", url)
    why = (
        f"{error}. Write redis://[user:password@]host:port/db, rediss:// likewise, unix:///path/of/socket,"
        " or redis+sentinel://host:port,host:port/service"
    )
    return SettingsInvalid("GENLOCK_REDIS_URL", f"{scheme[0] if scheme else ''}…", why)
