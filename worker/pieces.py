"""Calls that may hang, several at the same time, and what they give in order.

In daemon threads: an interpreter that ends waits for those of an executor, and a worker whose store hangs would not end.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from itertools import islice
from queue import SimpleQueue
from typing import TypeAlias

from ..coordinator.priority import low_priority

#: Seconds between two looks at whether what is waited for is still wanted.
LOOK_S = 0.1

Get: TypeAlias = Callable[[int], bytes]
_Tasks: TypeAlias = "SimpleQueue[tuple[int, Future[bytes]] | None]"


def in_order(
    get: Get,
    offsets: Sequence[int],
    *,
    together: int,
    waiting: Callable[[], object],
    running: set[Future[bytes]] | None = None,
) -> Iterator[bytes]:
    """`get` of each offset, in their order; at most `together` of these calls at the same time.

    `waiting`: called between two looks, and before each piece; what it raises ends this, as what `get` raises does. Calls that have not
    begun are not made then; those that have are waited for by nobody. `running`: has the calls that have begun and not ended, also after
    this; adding to it and taking away are atomic, so several of these may share it.
    """
    tasks: _Tasks = SimpleQueue()
    running = set() if running is None else running
    left, coming = iter(offsets), deque[Future[bytes]]()
    threads = min(together, len(offsets))
    try:
        for _ in range(threads):
            threading.Thread(target=_work, args=(get, tasks, running), name="genlock-fetch", daemon=True).start()
        while True:
            for offset in islice(left, together - len(coming)):
                coming.append(Future())
                tasks.put((offset, coming[-1]))
            if not coming:
                return
            while not wait([coming[0]], timeout=LOOK_S).done:
                waiting()
            waiting()
            yield coming.popleft().result()
    finally:
        for piece in coming:
            piece.cancel()
        for _ in range(threads):
            tasks.put(None)


def _work(get: Get, tasks: _Tasks, running: set[Future[bytes]]) -> None:
    low_priority()
    while (task := tasks.get()) is not None:
        offset, piece = task
        if piece.set_running_or_notify_cancel():
            running.add(piece)
            try:
                found = get(offset)
            except BaseException as error:
                running.discard(piece)  # before anybody can hear that it has ended
                piece.set_exception(error)
            else:
                running.discard(piece)
                piece.set_result(found)
