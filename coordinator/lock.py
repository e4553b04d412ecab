"""The publish lock of one model: at most one trainer stages and proposes at a time. It limits waste; the proposal checks it (R9)."""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .calls import Lock as LockCall
from .clock import clock
from .errors import GenlockError, LockHeld, Unavailable
from .link import Link
from .records import as_object
from .reply import Reply

if TYPE_CHECKING:
    from .registry import Registry

#: Seconds after which the lock of a trainer that died is free. Longer than a server's restart, shorter than a person's patience.
EXPIRY_S = 30.0
#: Seconds between two tries to take a lock that another one has.
RETRY_S = 0.1


class Lock:
    """The lock of `model` under a token of this object's own. A thread extends it while it is held."""

    def __init__(
        self, link: Link, model: str, *, who: str, make: Callable[[], Registry], expiry_s: float = EXPIRY_S
    ) -> None:
        """`who`: what others are told; `make`: a registry for the thread."""
        self.token = secrets.token_hex(16)
        self._link, self._model, self._make, self._expiry_s = link, model, make, expiry_s
        self._about = json.dumps({"who": f"{who} (pid {os.getpid()})", "since": time.time()})
        self._stop = threading.Event()
        self._keeper: threading.Thread | None = None

    def take(self, timeout_s: float) -> None:
        """Waits up to `timeout_s` for it; raises LockHeld with who holds it and since when, or what Registry.ask raises."""
        began = clock()
        while (reply := self._link.ask(self._call("take"))).verdict != "ok":
            if clock() - began >= timeout_s:
                raise self._held(reply, clock() - began)
            time.sleep(RETRY_S)
        self._keep()

    def free(self) -> None:
        """Gives it back; where Redis does not answer it runs out by itself. Not held: nothing to do."""
        if self._keeper is None:
            return
        self._stop.set()
        self._keeper.join()
        self._keeper = None
        try:
            self._link.ask(self._call("free"))
        except Unavailable:
            pass

    @property
    def is_held(self) -> bool:
        """Whether it was taken and not given back; it may be lost all the same."""
        return self._keeper is not None

    def _keep(self) -> None:
        if self._keeper is None:
            self._stop.clear()
            self._keeper = threading.Thread(target=self._extend, name="genlock-lock", daemon=True)
            self._keeper.start()

    def _extend(self) -> None:
        """The thread. A lock that is lost is not taken again: another trainer may have published meanwhile."""
        registry: Registry | None = None
        while not self._stop.wait(self._expiry_s / 3):
            try:
                registry = registry or self._make()
                if registry.ask(self._call("extend")).verdict != "ok":
                    break
            except GenlockError:
                continue  # until it runs out, the next try may succeed
        if registry is not None:
            registry.close()

    def _call(self, action: str) -> LockCall:
        return LockCall(self._model, action, self.token, self._about, round(self._expiry_s * 1000))

    def _held(self, reply: Reply, waited_s: float) -> LockHeld:
        holder = as_object(reply.holder)
        since = holder.get("since")
        return LockHeld(
            self._model, str(holder.get("who", "somebody")), since if isinstance(since, float) else 0.0, waited_s
        )
