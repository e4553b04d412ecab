"""Looks at an object store, and tries in it what genlock does there: with files of its own, which it removes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from ..errors import GenlockError, StoreUnreachable, StoreUnusable
from ..remotefiles import RemoteFiles
from .facts import RemoteFacts

#: What to look at where a service does not answer.
_OTHER = "Is it running, and does this host reach it?"
_S3 = f"{_OTHER} Is AWS_ENDPOINT_URL right, or unset for AWS itself?"
_SILENT = {"s3": _S3, "s3a": _S3}
#: Where it does, and lets this process do nothing.
_REFUSED = "Allow it for the key that this process has; docs/file-systems.md lists what workers and trainers need"


def look_at_remote(files: RemoteFiles) -> RemoteFacts:
    """What works in it."""
    key, failed = f"temp/doctor-{uuid.uuid4().hex}", dict[str, str]()
    try:
        files.look(key)  # the first call brings library, connection and credentials
        began = time.perf_counter()
        files.look(key)
        trip_s = time.perf_counter() - began
    except StoreUnreachable as error:
        return RemoteFacts(
            url=files.url, error=f"it does not answer: {error.why}", remedy=_SILENT.get(files.scheme, _OTHER)
        )
    except StoreUnusable as error:
        return RemoteFacts(url=files.url, error=error.why, remedy=f"{error.remedy[:1].upper()}{error.remedy[1:]}")
    except GenlockError as error:
        return RemoteFacts(url=files.url, error=str(error), remedy=_REFUSED)
    second: list[bool] = []  # whether who came second has made it, too
    if _step(failed, "write", lambda: files.create(key, b"genlock doctor")):
        try:
            _step(failed, "second write", lambda: second.append(files.create(key, b"another")))
            _step(failed, "read", lambda: files.read(key, 0, 7))
            _step(failed, "list", lambda: files.list("temp"))
        finally:
            _step(failed, "remove", lambda: files.remove(key))
    return RemoteFacts(url=files.url, failed=failed, trip_s=trip_s, exclusive=not any(second))


def _step(failed: dict[str, str], what: str, action: Callable[[], object]) -> bool:
    try:
        action()
    except GenlockError as error:
        failed[what] = str(error)
        return False
    return True
