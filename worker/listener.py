"""The thread that hears hints, on a connection of its own; a lost or silent subscription is replaced (R14)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..coordinator.errors import Unavailable
from ..coordinator.records import Hint

if TYPE_CHECKING:
    from ..coordinator.registry import Registry

#: Seconds between two looks at whether the subscription shall end; hints wake it at once.
LISTEN_S = 0.1
#: Seconds until a subscription that could not begin is tried again.
AGAIN_S = 0.2


class Listener:
    """`subscribed` is called with each subscription that begins, `hinted` with each hint, both on this thread."""

    def __init__(
        self,
        new_registry: Callable[[], Registry],
        *,
        subscribed: Callable[[], object],
        hinted: Callable[[Hint], object],
    ) -> None:
        self._new_registry, self._subscribed, self._hinted = new_registry, subscribed, hinted
        self._closing, self._again = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="genlock-hints", daemon=True)

    def start(self) -> None:
        """Begins to listen."""
        self._thread.start()

    def resubscribe(self) -> None:
        """Replaces the subscription: nobody knows whether it still hears anything."""
        self._again.set()

    def close(self, timeout_s: float) -> None:
        """Ends it, or leaves it alone (it is a daemon) when that takes longer."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        with contextlib.closing(self._new_registry()) as registry:
            while not self._closing.is_set():
                self._again.clear()
                try:
                    self._listen(registry)
                except Unavailable:
                    self._closing.wait(AGAIN_S)

    def _listen(self, registry: Registry) -> None:
        with contextlib.closing(registry.subscribe()) as subscription:
            self._subscribed()
            while not (self._again.is_set() or self._closing.is_set()):
                hint = subscription.wait(LISTEN_S)
                if hint is not None:
                    self._hinted(hint)
