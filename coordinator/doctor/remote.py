"""Looks at an object store, and tries in it what genlock does there: with files of its own, which it removes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from ..errors import GenlockError
from ..remotefiles import RemoteFiles
from .facts import RemoteFacts


def look_at_remote(files: RemoteFiles) -> RemoteFacts:
    """What works in it."""
    key, failed = f"temp/doctor-{uuid.uuid4().hex}", dict[str, str]()
    try:
        files.look(key)  # the first call brings library, connection and credentials
        began = time.perf_counter()
        files.look(key)
        trip_s = time.perf_counter() - began
    except GenlockError as error:
        return RemoteFacts(url=files.url, error=str(error))
    exclusive = True
    if _step(failed, "write", lambda: files.create(key, b"genlock doctor")):
        exclusive = not files.create(key, b"another")
        _step(failed, "read", lambda: files.read(key, 0, 7))
        _step(failed, "list", lambda: files.list("temp"))
        _step(failed, "remove", lambda: files.remove(key))
    return RemoteFacts(url=files.url, failed=failed, trip_s=trip_s, exclusive=exclusive)


def _step(failed: dict[str, str], what: str, action: Callable[[], object]) -> bool:
    try:
        action()
    except GenlockError as error:
        failed[what] = str(error)
        return False
    return True
