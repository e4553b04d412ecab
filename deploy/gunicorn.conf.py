"""gunicorn for evaluators: `gunicorn -c deploy/gunicorn.conf.py genlock.worker.app:app`, or an app of your own with a `ModelCache`.

The hooks load the models before a worker takes requests, leave the fleet at exit, and report a dead worker at once. From the environment:
WEB_CONCURRENCY (workers), BIND, MAX_REQUESTS, GENLOCK_LOG (text or json), and all settings of genlock; GUNICORN_CMD_ARGS overrides what
stands below.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from genlock.coordinator.logs import formatter_of
from genlock.coordinator.settings import Settings
from genlock.worker.hooks import *  # noqa: F403
from gunicorn.glogging import Logger

_settings = Settings.from_env()
#: Asked every few seconds by whatever looks after the workers: their lines would hide the others.
_QUIET = ("/livez", "/readyz", "/metrics")

bind = os.environ.get("BIND", "0.0.0.0:8000")
workers = int(os.environ.get("WEB_CONCURRENCY", "4"))
# Threads, because keep-alive needs them and a request may wait: for a cold model, or for milliseconds while a model changes.
worker_class = "gthread"
threads = 4
# Workers share the cores of the machine, and a request is small: one thread of torch in each.
raw_env = [f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '1')}"]

# Every worker imports the app itself. Imported once in the master (preload_app), torch could hang each worker's first parallel operation
# after the fork, and a model used there would make the master a member that serves nobody (rule R12). It would save little: what is large
# are the weights, and workers map the same file already.
preload_app = False

# Seconds without a sign of life until a worker is killed; loading does not count, the hooks show it.
timeout = 60
# Seconds that requests have to end when a worker does: the longest that one may wait for its model, and the evaluation itself. What stops
# this process has to wait longer (stop_grace_period, TimeoutStopSec), and a proxy not as long for an answer.
graceful_timeout = int(_settings.max_wait_s) + 15
# Seconds that a connection without a request stays open: longer than nginx keeps it, or it would send requests into closed ones.
keepalive = 75

# A worker that has answered so many requests ends, and another takes its place: what a loader leaks goes with it. The share by chance keeps
# them from all doing so at once, since one that begins anew has to load its models first. 0: never.
max_requests = int(os.environ.get("MAX_REQUESTS", "100000"))
max_requests_jitter = max_requests // 2

# Workers touch a file in it all the while, and would wait for a disk that somebody flushes.
worker_tmp_dir = "/dev/shm"
# Nobody steers these workers through a socket in a home directory, which a container or a unit may not have.
control_socket_disable = True

accesslog = "-"


class _Lines(Logger):  # type: ignore[misc]
    """gunicorn's lines in the form of genlock's (GENLOCK_LOG), and none for health checks."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        if _settings.log == "json":
            for handler in (*self.error_log.handlers, *self.access_log.handlers):
                handler.setFormatter(formatter_of("json"))

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        path = environ.get("PATH_INFO", "")
        if path in _QUIET:
            return
        if _settings.log != "json":
            super().access(resp, req, environ, request_time)
            return
        headers = {name.lower(): value for name, value in resp.headers}
        facts = {
            "event": "request",
            "method": environ.get("REQUEST_METHOD"),
            "path": path,
            "status": int(str(resp.status).split(None, 1)[0]),
            "seconds": round(request_time.total_seconds(), 6),
            "bytes": getattr(resp, "sent", None),
            "client": environ.get("HTTP_X_FORWARDED_FOR") or environ.get("REMOTE_ADDR"),
            "request": environ.get("HTTP_X_REQUEST_ID"),
            "generation": headers.get("x-genlock-generation"),
            "stale": headers.get("x-genlock-stale"),
            "pid": os.getpid(),
        }
        told = {name: fact for name, fact in facts.items() if fact is not None}
        self.access_log.info("%s %s", facts["method"], path, extra=told)


logger_class = _Lines
