"""One process's link to its fleet: the registry, made when it is needed; the embedded server, started when nobody answers; the hint."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from .calls import Call, Read
from .clock import clock
from .errors import FleetClosed, OutcomeUnknown, RedisRefused, RedisUnreachable
from .reply import NO_EPOCH, Epoch, Reply
from .wait import SLACK_S, Wait, Watch

if TYPE_CHECKING:
    from .endpoint import Endpoint
    from .registry import Registry, Subscription

Result = TypeVar("Result")

#: What may be over in a moment, where something is waited for anyway.
GONE = (RedisUnreachable, RedisRefused)


class Link:
    """Use it from one thread at a time."""

    def __init__(self, endpoint: Endpoint, make: Callable[[], Registry], *, fleet: str, who: str) -> None:
        """`make`: a new registry; `who`: this process, for the audit log."""
        self.endpoint, self.fleet, self.who = endpoint, fleet, who
        self.started_server = False  #: whether the embedded server had to be started
        self._make = make
        self._registry: Registry | None = None

    @property
    def registry(self) -> Registry:
        """The registry of this process; the embedded server answers when it is first asked for."""
        if self._registry is None:
            self._ensure()
            self._registry = self._make()
        return self._registry

    def use(self, action: Callable[[Registry], Result]) -> Result:
        """`action` with the registry; once more when the embedded server had gone and is started again."""
        try:
            return action(self.registry)
        except RedisUnreachable:
            self._lose()
            if self.endpoint.embedded is None:
                raise
            self._ensure()
            return action(self.registry)

    def ask(self, call: Call) -> Reply:
        """Registry.ask; raises what it raises."""
        return self.use(lambda registry: registry.ask(call))

    def send_quietly(self, call: Call, epoch: Epoch) -> None:
        """A duty: for this epoch only (an id or a beat means another member in the next one), and nobody waits for its success."""
        try:
            self.registry.send(call, epoch)
        except GONE:
            self._lose()

    def _ensure(self) -> None:
        self.started_server = self.endpoint.ensure() or self.started_server

    def _lose(self) -> None:
        """A registry that knows no epoch says whether the fleet has had a member: that has to be read anew."""
        if self._registry is not None and self._registry.epoch == NO_EPOCH:
            self.close()

    def close(self) -> None:
        """Gives the connections back; the next use makes new ones."""
        registry, self._registry = self._registry, None
        if registry is not None:
            registry.close()


class Ear:
    """Hears the hints of one model (None: of all), as far as they come (R14). A context manager; connects when it is first waited for."""

    def __init__(self, link: Link, model: str | None) -> None:
        self._link, self._model = link, model
        self._subscription: Subscription | None = None

    def __enter__(self) -> Ear:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def wait(self, seconds: float) -> bool:
        """Until a hint of the model comes, or `seconds` have passed; whether something may have changed. A new subscription returns at
        once: it may have missed something.
        """
        end = clock() + seconds
        try:
            if self._subscription is None:
                self._subscription = self._link.registry.subscribe()
                return True
            while (left := end - clock()) > 0:
                hint = self._subscription.wait(left)
                if hint is not None and (self._model is None or hint.model in ("", self._model)):
                    return True
        except GONE:
            self.close()
            time.sleep(max(0.0, end - clock()))
        return False

    def close(self) -> None:
        """Gives its connection back."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close()


def new_wait(
    link: Link,
    change: Call,
    model: str,
    request: str,
    *,
    prepare_s: float,
    lease_s: float,
    is_patient: bool,
    tried_s: float | None = None,
) -> Wait:
    """A Wait that begins now. `lease_s`: as far as this process knows."""
    return Wait(
        change,
        model,
        request,
        prepare_s=prepare_s,
        now=clock(),
        lease_s=lease_s,
        watcher=link.who,
        jitter=random.random(),
        is_patient=is_patient,
        tried_s=tried_s,
    )


def wait_until_open(link: Link, *, lease_s: float) -> Epoch:
    """Watches a fleet that is closed and opens it, as everybody who waits does (R6): all of its workers may be gone.

    `lease_s`: as far as this process knows. Returns the epoch that is open. Raises FleetClosed after two leases, and what Link.ask raises.
    """
    watch, since = Watch(lease_s, watcher=link.who, jitter=random.random()), clock()
    with Ear(link, None) as ear:
        while True:
            watch.heard(link.ask(Read("")), clock())
            if watch.is_open:
                return watch.epoch
            if clock() > since + 2 * watch.lease_s + SLACK_S:
                raise FleetClosed(link.fleet, clock() - since)
            for duty in watch.duties(clock()):
                link.send_quietly(duty, watch.epoch)
            ear.wait(watch.pause_s(clock()))


def pursue(
    link: Link,
    wait: Wait,
    *,
    send: Callable[[Call], Reply] | None = None,
    told: Callable[[Wait], None] | None = None,
) -> None:
    """Sends what `wait` wants, does its duties, until it is decided; `told` hears of every reply.

    Raises FleetClosed (nothing was changed) or OutcomeUnknown when its time is over.
    """
    with Ear(link, wait.model) as ear:
        while True:
            _turn(link, wait, send or link.ask)
            if told is not None:
                told(wait)
            if wait.is_decided:
                return
            if clock() > wait.until:
                raise _out_of_time(link, wait)
            ear.wait(wait.pause_s(clock()))


def _turn(link: Link, wait: Wait, send: Callable[[Call], Reply]) -> None:
    call = wait.next_call()
    try:
        reply = send(call)
    except GONE as error:
        return wait.loses(str(error))
    wait.hears(call, reply, clock())
    for duty in wait.duties(clock()):
        link.send_quietly(duty, wait.epoch)
    return None


def _out_of_time(link: Link, wait: Wait) -> FleetClosed | OutcomeUnknown:
    if wait.never_let_in:
        return FleetClosed(link.fleet, clock() - wait.since)
    return OutcomeUnknown(wait.model, wait.request, wait.found)


def me() -> str:
    """user@host: who does it, where nobody said."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
