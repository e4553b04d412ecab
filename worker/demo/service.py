"""The service of the demo: gunicorn with the ready-made evaluator, its address, and its memory."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress

import psutil

from .child import Child, DemoFailed
from .home import Home

#: The only address that it listens on.
HOST = "127.0.0.1"
#: Requests that one worker works on at the same time.
THREADS = 4
#: Seconds that a connection without a request is kept; far more than clients leave between two.
KEEP_ALIVE_S = 60
#: Seconds that workers have to answer what they have begun when the service ends.
GRACE_S = 3
#: Connections that wait to be accepted.
BACKLOG = 128


def listen(port: int) -> socket.socket:
    """The socket of the service; port 0: a free one. It is ours before gunicorn starts, so that nobody can take the port in between."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise DemoFailed(
            f"port {port} of {HOST} cannot be used ({error.strerror}): say --port with a free one, or 0"
        ) from None
    listener.listen(BACKLOG)
    return listener


def serve(home: Home, listener: socket.socket, workers: int) -> Child:
    """Starts gunicorn."""
    options = {
        "--config": "python:genlock.worker.hooks",
        "--bind": f"fd://{listener.fileno()}",
        "--worker-class": "gthread",  # keep-alive needs it
        "--workers": str(workers),
        "--threads": str(THREADS),
        "--keep-alive": str(KEEP_ALIVE_S),
        "--graceful-timeout": str(GRACE_S),
    }
    command = [sys.executable, "-m", "gunicorn", *(word for option in options.items() for word in option)]
    return Child(
        "gunicorn",
        [*command, "genlock.worker.app:app"],
        env=home.env,
        log=home.log("gunicorn"),
        pass_fds=[listener.fileno()],
    )


def memory_of(service: Child) -> int:
    """Bytes of memory of all workers: the sum of their proportional shares (PSS), in which a page that several map counts once."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        for worker in psutil.Process(service.pid).children():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                memory = worker.memory_full_info()
                total += getattr(memory, "pss", memory.uss)  # only Linux tells shares
    return total
