"""The files below a URL, as fsspec reaches them: read, listed, written whole, made by one of many.

fsspec is imported with the first call, and everything that it makes belongs to the process that made it: its thread and its connections
do not survive a fork, so a child begins anew. Nothing is remembered of a listing: others write there.

Who may come in, and where the service is, say the environment and the files that the library of that service reads by itself
(docs/file-systems.md): no such thing stands in the URL, which is shown.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from .errors import ArtifactMissing, ArtifactRefused, SettingsInvalid, StoreUnreachable, StoreUnusable

#: Bytes of one part of an upload. S3 takes 10,000 parts at most, so 16 MiB allow 160 GB; a part that is lost is sent again alone.
PART_BYTES = 16 * 2**20
#: Schemes whose objects appear whole and at once when an upload ends. Elsewhere a file is written beside and then renamed.
WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci"})
#: What S3 and Google Cloud Storage say where not even the bucket is there.
NO_BUCKET = "specified bucket does not exist"
#: Scheme → what brings it, where it is not fsspec alone.
EXTRAS = {"s3": "pip install 'genlock[s3]'", "s3a": "pip install 'genlock[s3]'", "gs": "pip install gcsfs"}


class RemoteFile(NamedTuple):
    """One file: its key below the URL, bytes, unix seconds of its last change on the clock of the store (0: not told)."""

    key: str
    size: int
    mtime: float


class RemoteFiles:
    """Keys are relative to the URL. Raises StoreUnreachable (try again), StoreUnusable, ArtifactRefused; SettingsInvalid: no library."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.scheme = url.partition("://")[0]
        self._pid, self._lock = os.getpid(), threading.Lock()  # of the process that made what follows
        self._made: Any = None
        self._parents: Any = None  # never closed here: that would wait for a thread which only the parent has
        self._base = ""

    def close(self) -> None:
        """Gives its connections back; the next call makes new ones."""
        self._made = None  # the last reference to it: its connections end with it

    @property
    def _fs(self) -> Any:
        if self._pid != os.getpid():  # forked; the lock may have been held
            self._pid, self._lock = os.getpid(), threading.Lock()
            self._parents, self._made = self._made, None
        with self._lock:
            if self._made is None:
                self._made, self._base = self._connect()
            return self._made

    def _connect(self) -> tuple[Any, str]:
        try:
            from fsspec.core import url_to_fs

            made, base = url_to_fs(self.url, use_listings_cache=False, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            known = EXTRAS.get(self.scheme, f"pip install fsspec, and the library that knows {self.scheme}://")
            raise SettingsInvalid("GENLOCK_STORE", self.url, f"{error}. Install it: {known}") from error
        return made, str(base).rstrip("/")

    def _path(self, key: str) -> str:
        return f"{self._base}/{key}"

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes from `start` up to, but not including, `end`. Raises ArtifactMissing."""
        with self.explained(key):
            return bytes(self._fs.cat_file(self._path(key), start=start, end=end))

    def look(self, key: str) -> RemoteFile | None:
        """The file as it is now; None: there is none."""
        try:
            with self.explained(key):
                return _file(key, self._fs.info(self._path(key)))
        except ArtifactMissing:
            return None

    def list(self, prefix: str) -> list[RemoteFile]:
        """Every file below `prefix`, sorted."""
        try:
            with self.explained(prefix):
                found = self._fs.find(self._path(prefix), detail=True)
        except ArtifactMissing:
            return []
        above = self._base.lstrip("/") + "/"  # some libraries put a slash before every path
        files = (_file(path.lstrip("/").removeprefix(above), about) for path, about in found.items())
        return sorted(file for file in files if file.key.startswith(f"{prefix}/"))

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, key: str, data: bytes) -> None:
        """A small file, whole; what was there is replaced."""
        with self.explained(key):
            self._prepare(key)
            self._fs.pipe_file(self._path(key), data)

    def create(self, key: str, data: bytes) -> bool:
        """A small file, unless there is one: whether this call made it.

        S3 and Google Cloud Storage decide that themselves, for all callers. Elsewhere the library looks and then writes: of two callers in
        the same instant both may be told that they made it, and the last one has.
        """
        with self.explained(key):
            self._prepare(key)
            try:
                self._fs.pipe_file(self._path(key), data, mode="create")
            except FileExistsError:
                return False
        return True

    def upload(self, key: str, pieces: Iterable[bytes | memoryview], *, beside: str) -> None:
        """A file of any size; it has its name when it is whole, and never before. `beside`: a key for what is not yet whole.

        An exception in `pieces` leaves nothing behind, and passes as it is: it says nothing of the store.
        """
        target = key if self.scheme in WHOLE else beside
        with self.explained(key):
            self._prepare(target)
            file = self._fs.open(
                self._path(target),
                "wb",
                block_size=PART_BYTES,
                **({"autocommit": False} if target == key else {}),
            )
        try:
            for piece in pieces:
                with self.explained(key):
                    file.write(piece)
            with self.explained(key):
                file.close()
                if target == key:
                    file.commit()
        except BaseException:
            self._give_up(file, target, key)
            raise
        if target != key:
            with self.explained(key):
                self._prepare(key)
                self._fs.mv(self._path(target), self._path(key))

    def _give_up(self, file: Any, target: str, key: str) -> None:
        """Leaves nothing of an upload. Closing the file like any other would make it look whole."""
        with contextlib.suppress(Exception):
            if target == key:
                file.discard()
                file.closed = True
            else:
                file.close()
                self._fs.rm_file(self._path(target))

    def move(self, key: str, to: str) -> None:
        """Another name for a file."""
        with self.explained(key):
            self._prepare(to)
            self._fs.mv(self._path(key), self._path(to))

    def remove(self, key: str) -> None:
        """Takes a file away; one that is gone already is no error."""
        with contextlib.suppress(ArtifactMissing), self.explained(key):
            self._fs.rm_file(self._path(key))

    def _prepare(self, key: str) -> None:
        """The folders above a file, where there are such things."""
        if self.scheme not in WHOLE:
            self._fs.makedirs(self._path(key).rpartition("/")[0], exist_ok=True)

    # --- errors ------------------------------------------------------------------------------------------------------

    @contextmanager
    def explained(self, key: str) -> Iterator[None]:
        """Turns what a library of a service raises into the error that it means."""
        where = f"{self.url}/{key}"
        try:
            yield
        except FileNotFoundError as error:
            if NO_BUCKET in str(error):
                raise StoreUnusable(self.url, _said(error), "make the bucket first, or mend GENLOCK_STORE") from error
            raise ArtifactMissing(where) from error
        except PermissionError as error:
            raise ArtifactRefused(where, f"the store refuses: {_said(error)}") from error
        except Exception as error:
            kind = type(error)
            if "Credentials" in kind.__name__ or "Auth" in kind.__name__:
                remedy = "set what lets this process in, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (docs/file-systems.md)"
                raise StoreUnusable(self.url, _said(error), remedy) from error
            if not isinstance(error, OSError) and kind.__module__.partition(".")[0] in ("builtins", "genlock"):
                raise  # ours
            raise StoreUnreachable(self.url, _said(error)) from error


def _file(key: str, about: dict[str, Any]) -> RemoteFile:
    return RemoteFile(key, int(about.get("size") or 0), _mtime(about))


def _mtime(about: dict[str, Any]) -> float:
    """When a file was changed last; each library calls that otherwise."""
    for name in ("LastModified", "mtime", "updated", "last_modified", "modified", "created"):
        found = about.get(name)
        if isinstance(found, datetime):
            return found.timestamp()
        if isinstance(found, int | float):
            return float(found)
        if isinstance(found, str):
            with contextlib.suppress(ValueError):
                return datetime.fromisoformat(found).timestamp()
    return 0.0


def _said(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().rstrip(".")
