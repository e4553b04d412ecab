"""Whether an object store is fit for a fleet, in words. Pure."""

from __future__ import annotations

from .facts import RemoteFacts
from .finding import Finding, span

#: Seconds of a small call from which on an upload or a fetch of a small model is noticeably slow: it takes some six of them.
SLOW_TRIP_S = 0.5


def judge_remote(store: RemoteFacts, *, is_redis_shared: bool = True) -> list[Finding]:
    """Of an object store. `is_redis_shared`: a URL says where Redis is, so that other hosts may mean the same one."""
    if store.error:
        return [Finding("store", "url", "wrong", f"{store.url}: {store.error}", store.remedy)]
    found = [Finding("store", "url", "ok", store.url), *_shared(is_redis_shared), _rights(store), _trip(store)]
    cached = "workers of each host fetch an artifact once, into their cache on that host (GENLOCK_HOST_CACHE)"
    return [*found, Finding("store", "workers", "ok", cached)]


def _shared(is_redis_shared: bool) -> list[Finding]:
    if is_redis_shared:
        return []
    found = "any host may use this store, and GENLOCK_REDIS_URL is unset: each host and user has a Redis of its own"
    advice = "If more than this host is to serve or train: set GENLOCK_REDIS_URL to the same Redis on all of them"
    return [Finding("store", "redis", "warning", found, advice)]


def _rights(store: RemoteFacts) -> Finding:
    if store.failed:
        what = "; ".join(f"a {step} does not work: {why}" for step, why in store.failed.items())
        advice = "Allow it for who publishes and collects; workers need to read and to list, and to make the files of fleets/"
        return Finding("store", "files", "warning" if set(store.failed) == {"remove"} else "wrong", what, advice)
    if not store.exclusive:
        what = "of two that make the same file both are told that they made it"
        return Finding(
            "store", "files", "warning", what, "Make a new fleet from one process first, such as `genlock status`"
        )
    return Finding("store", "files", "ok", "files can be written, made by one of many, read, listed and removed")


def _trip(store: RemoteFacts) -> Finding:
    found = f"a small call takes {span(store.trip_s)}"
    if store.trip_s >= SLOW_TRIP_S:
        return Finding("store", "calls", "warning", found, "Use a store that is nearer, if publishing takes too long")
    return Finding("store", "calls", "ok", found)
