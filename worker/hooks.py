"""gunicorn: `gunicorn -c python:genlock.worker.hooks mypkg:app`; in a configuration of your own, `from genlock.worker.hooks import *`.

It works without, and better with them: a worker takes requests when its models are loaded (or GENLOCK_MAX_WAIT is over: then it comes up
unready, see /readyz), leaves the fleet when it ends, and the arbiter says at once when one has died, so that no flip waits for its
lease. Where the app sets up no logging, genlock's lines go to gunicorn's error log, at its level, and not bare to stderr; with
GENLOCK_LOG=json that log has one JSON object a line, unless gunicorn was given a logging configuration. For every worker
class, with or without `preload_app`; the caches are those of the process, whatever the app is. A configuration that has hooks of its own
calls ours in them::

    from genlock.worker import hooks
    from genlock.worker.hooks import *

    def post_worker_init(worker):
        hooks.post_worker_init(worker)
        …
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import Any

from ..coordinator.errors import GenlockError
from ..coordinator.logs import JsonFormatter
from ..coordinator.reply import Epoch
from ..coordinator.settings import Settings
from .badge import Badge, Membership, report_dead
from .cache import ModelCache
from .living import caches, on_joined

__all__ = ["child_exit", "post_fork", "post_worker_init", "pre_fork", "worker_exit"]

#: Seconds between two signs of life of a worker that is still loading; gunicorn kills it after 30 s without one.
SIGN_S = 0.5
#: Seconds that the arbiter is kept from its other work by a dead child.
REPORT_S = 0.3

#: What this process has been warned of; once is enough, however many workers it starts.
_warned: set[str] = set()
#: The parent of all loggers of genlock.
_ours = logging.getLogger("genlock")


def pre_fork(server: Any, worker: Any) -> None:
    """In the arbiter, before each worker: gives it a badge, and warns of what a fork would break (R12)."""
    worker.genlock_badge = Badge()
    _write_json(server)
    if "torch" in sys.modules:
        _warn(
            server,
            "torch is imported in the gunicorn master (preload_app?). That is harmless only as long as nothing is computed there:"
            " after one torch operation in the master the first parallel one of every worker hangs. Import torch inside your"
            " loaders and view functions, or unset preload_app",
        )
    if any(cache.runtime is not None for cache in caches()):
        _warn(
            server,
            "a model was used in the gunicorn master (preload_app?): the master is a member of the fleet now, holds the model in vain,"
            " and keeps flips waiting. Use models in workers only; make the ModelCache at import, these hooks prewarm it",
        )


def _write_json(server: Any) -> None:
    """gunicorn's own lines, in the arbiter and in its workers, are JSON too where that is wanted: what collects them reads one stream."""
    cfg, handlers = server.cfg, server.log.error_log.handlers
    if _is_json() and not (cfg.logconfig or cfg.logconfig_dict or cfg.logconfig_json):
        for handler in handlers:
            if not isinstance(handler.formatter, JsonFormatter):
                handler.setFormatter(JsonFormatter())


def _is_json() -> bool:
    try:
        return Settings.from_env().log == "json"
    except GenlockError:  # the app says what is wrong with the settings
        return False


def _warn(server: Any, text: str) -> None:
    if text not in _warned:
        _warned.add(text)
        server.log.warning("genlock: %s", text)


def post_fork(server: Any, worker: Any) -> None:
    """In the worker, before the app is imported: from here on the arbiter knows which member it is."""
    _lend_log(worker.log.error_log)
    badge: Badge = worker.genlock_badge
    on_joined(lambda cache, member, epoch: badge.show(id(cache), _membership(cache, member, epoch)))


def _lend_log(log: logging.Logger) -> None:
    """gunicorn's log takes our lines, unless somebody has said where they go."""
    if not _ours.handlers and not logging.getLogger().handlers:
        _ours.handlers[:] = log.handlers
        _ours.setLevel(log.level)


def _give_log_back(log: logging.Logger) -> None:
    """The app has set up logging when it was imported: each line once, and as it says."""
    if logging.getLogger().handlers and _ours.handlers == log.handlers:
        _ours.handlers.clear()
        _ours.setLevel(logging.NOTSET)


def _membership(cache: ModelCache, member: str, epoch: Epoch) -> Membership:
    settings, identity = cache.settings, cache.fleet.identity
    return Membership(
        redis_url=settings.redis_url,
        state_dir=str(settings.state_dir),
        fleet=cache.fleet.name,
        fleet_id=identity.fleet_id,
        lease_s=identity.lease_s,
        member=member,
        epoch=epoch.number,
        nonce=epoch.nonce,
    )


def post_worker_init(worker: Any) -> None:
    """In the worker, when the app is imported and before it takes requests: loads its models."""
    _give_log_back(worker.log.error_log)
    for cache in caches():
        began = time.monotonic()
        thread = threading.Thread(target=_prewarm, args=(cache, worker.log), name="genlock-prewarm", daemon=True)
        thread.start()
        while thread.is_alive() and worker.alive:
            worker.notify()
            thread.join(SIGN_S)
        warm = len(cache.get_warmed_models())
        log = worker.log.info if cache.is_warmed_up() else worker.log.warning
        log("genlock: %d of %d models are loaded after %.2f s", warm, len(cache.configured), time.monotonic() - began)


def _prewarm(cache: ModelCache, log: Any) -> None:
    try:
        cache.prewarm()
    except GenlockError as error:
        log.error("genlock: the worker comes up unready: %s", error)


def worker_exit(server: Any, worker: Any) -> None:
    """In the worker, when it ends by itself: leaves the fleet."""
    if worker.pid != os.getpid():  # gunicorn calls it in the arbiter too, for a worker that it finds to be gone
        child_exit(server, worker)
        return
    for cache in caches():
        cache.close()
    badge: Badge | None = getattr(worker, "genlock_badge", None)
    if badge is not None:
        badge.clear()


def child_exit(server: Any, worker: Any) -> None:
    """In the arbiter, when a worker is dead: tells its fleet, if it could not leave. Never raises, and never takes long."""
    badge: Badge | None = getattr(worker, "genlock_badge", None)
    dead = badge.read() if badge is not None else []
    if not dead:
        return
    # A thread, because looking up the name of a host has no limit of its own.
    thread = threading.Thread(target=_report, args=(dead, server.log), name="genlock-report", daemon=True)
    thread.start()
    thread.join(REPORT_S)


def _report(dead: list[Membership], log: Any) -> None:
    for membership in dead:
        try:
            report_dead(membership)
        except Exception as error:  # whatever it is: others will notice the silence, and the arbiter has to go on
            log.warning("genlock: the fleet %s could not be told that a worker died: %s", membership.fleet, error)
        else:
            log.info("genlock: told the fleet %s that member %s died", membership.fleet, membership.member)
