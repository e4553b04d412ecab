"""The service's socket and its memory; the service itself is tested by the flow."""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from genlock.worker.demo.child import Child, DemoFailed
from genlock.worker.demo.service import HOST, listen, memory_of


def test_a_free_port_is_found_and_is_ours_at_once() -> None:
    with listen(0) as listener:
        port = listener.getsockname()[1]
        socket.create_connection((HOST, port), timeout=5).close()


def test_a_port_that_is_taken_is_told_with_what_to_do() -> None:
    with listen(0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(DemoFailed, match=f"port {port} of 127.0.0.1 cannot be used .*: say --port"):
            listen(port)


def test_memory_is_that_of_the_workers_and_not_of_the_arbiter(tmp_path: Path, wait_for: Callable[..., Any]) -> None:
    heard: list[bytes] = []
    worker = "b = bytearray(50_000_000); print(1, flush=True); input()"
    code = f"b = bytearray(200_000_000); import subprocess as s, sys; s.run([sys.executable, '-c', {worker!r}])"
    with Child("it", [sys.executable, "-c", code], env=os.environ, log=tmp_path / "log", heard=heard.append) as child:
        wait_for(lambda: heard, description="the worker has its memory")
        assert 50_000_000 < memory_of(child) < 150_000_000
    assert memory_of(child) == 0
