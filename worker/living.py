"""The caches of this process: who hears of their memberships, and what a fork and the end of the process mean for them."""

from __future__ import annotations

import atexit
import functools
import os
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ..coordinator.reply import Epoch

if TYPE_CHECKING:
    from .cache import ModelCache

    #: on_joined(cache, member, epoch): a membership of a cache began.
    OnJoined = Callable[[ModelCache, str, Epoch], object]

#: All of them, so that a child of this process begins anew.
_caches: weakref.WeakSet[ModelCache] = weakref.WeakSet()
#: What hears of every membership of this process; see on_joined.
_on_joined: list[OnJoined] = []


def add(cache: ModelCache) -> None:
    """It is one of this process; nobody keeps it alive for that."""
    _caches.add(cache)
    leaves_at_exit.cache_clear()


def caches() -> list[ModelCache]:
    """Every cache of this process."""
    return list(_caches)


def on_joined(callback: OnJoined) -> None:
    """Calls back when a membership of any cache of this process begins, on its runtime's thread and before the next call is sent: so
    before the first `hold`. It must neither raise nor take long. For what tells a parent process who its child is.
    """
    _on_joined.append(callback)


def joined(cache: ModelCache, member: str, epoch: Epoch) -> None:
    """A membership of `cache` began."""
    for callback in _on_joined:
        callback(cache, member, epoch)


@functools.cache
def leaves_at_exit() -> None:
    """A cache of this process has begun: it is closed when the process ends, if nobody has done it by then.

    Said when one begins and not at import, and anew where another was made since: what is registered last is called first, so a temporary
    folder that was made before a cache is still there when that leaves. Not each time that one begins again: a place is left behind where
    something was unregistered. A child inherits it.
    """
    atexit.unregister(_close_all)
    atexit.register(_close_all)


def _close_all() -> None:
    with ExitStack() as stack:  # one that cannot be closed does not keep the others from it
        for cache in caches():
            if cache.runtime is not None and cache._pid == os.getpid():
                stack.callback(cache.close)


def _begin_anew_in_child() -> None:
    for cache in caches():
        cache._begin_anew()


os.register_at_fork(after_in_child=_begin_anew_in_child)
