"""The admin under gunicorn, as a library: one process, a thread for each request and each stream."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from ..logs import set_up
from ..settings import Settings
from .application import Admin, create_app

#: Threads that are not a stream's: for requests, of which some wait for a decision.
RESERVED = 16
#: Seconds that requests get to end when the server does: as long as one may wait for a decision.
GRACE_S = 30
#: Seconds after which the thread that reads the fleet lets another one run. With Python's 5 ms a request that comes while 1,000 workers are
#: being read waits that long at each of its few steps.
SWITCH_S = 0.0005
#: Where gunicorn's worker leaves its signs of life, if there is memory for that: it would wait for a disk that somebody flushes.
MEMORY = Path("/dev/shm")


def make_app() -> Flask:
    """The application of the environment's fleet, which ends its streams when this process is told to end."""
    return _ending(create_app())


def _ending(app: Flask) -> Flask:
    """gunicorn waits for requests that run, and a stream would run on: whoever ends the process ends them, too."""
    admin: Admin = app.extensions["genlock"]
    set_up(admin.settings.log)
    sys.setswitchinterval(SWITCH_S)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            _also(number, admin)
    return app


def _also(number: signal.Signals, admin: Admin) -> None:
    before = signal.getsignal(number)

    def end(received: int, frame: FrameType | None) -> None:
        admin.reader.end()
        if callable(before):
            before(received, frame)
        elif before == signal.SIG_DFL:
            signal.signal(received, signal.SIG_DFL)
            signal.raise_signal(received)

    signal.signal(number, end)


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """`genlock admin`; run() returns when somebody ends it."""

    def __init__(self, settings: Settings, *, bind: str, threads: int, token: str | None) -> None:
        """`token`: of an operator, for this run; None: those of the settings."""
        self._settings, self._token, self._threads = settings, token, threads
        self._options: dict[str, Any] = {
            "bind": bind,
            "worker_class": "gthread",
            "threads": threads,
            "graceful_timeout": GRACE_S,
            "loglevel": "warning",
            "proc_name": "genlock-admin",
            "worker_tmp_dir": str(MEMORY) if MEMORY.is_dir() else None,
            "control_socket_disable": True,  # of gunicorn's newer ones: a way in that nobody asked for, in the home of the user
        }
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Flask:
        """In the worker, after the fork."""
        return _ending(create_app(self._settings, token=self._token, streams=max(1, self._threads - RESERVED)))
