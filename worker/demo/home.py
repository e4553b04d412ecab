"""Where the demo lives: a folder, a fleet and a Redis server of its own, so that it touches nobody else's. All of it goes when it ends."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import redis

from ...coordinator.calls import keys_of
from ...coordinator.errors import GenlockError
from ...coordinator.fleet import Fleet
from ...coordinator.settings import Settings
from .news import MODEL

#: What the workers load it with.
LOADER = "genlock.worker.demo.digits:DigitsNet"
#: Seconds that the server has to end.
STOP_S = 5.0
#: Variables of genlock, which are about somebody else's fleet.
OURS = ("GENLOCK_", "M10D_")


class Home:
    """A folder below GENLOCK_STATE_DIR where that is set, else a temporary one; the Redis of GENLOCK_REDIS_URL, else one in the folder."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """Raises what Fleet raises: RedisUnreachable, RedisRefused, …, and SettingsInvalid."""
        chosen = Settings.from_env(environ)
        base = chosen.state_dir if environ.get("GENLOCK_STATE_DIR") else None
        if base is not None:
            base.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="genlock-demo-", dir=base))
        name = f"demo-{uuid.uuid4().hex[:8]}"
        self.env = {key: value for key, value in environ.items() if not key.startswith(OURS)} | {
            "GENLOCK_STATE_DIR": str(self.folder),
            "GENLOCK_FLEET": name,
            "GENLOCK_MODELS": f"{MODEL}={LOADER}",
            # Workers share the cores of this machine with trainer and clients; a digit is too little work to be shared out.
            "OMP_NUM_THREADS": "1",
        }
        if chosen.redis_url:
            self.env["GENLOCK_REDIS_URL"] = chosen.redis_url
        self.fleet = Fleet(settings=Settings.from_env(self.env))
        try:
            self.fleet.status()
        except BaseException:
            self.remove()
            raise

    def log(self, name: str) -> Path:
        """Where a process's complaints go."""
        return self.folder / f"{name}.log"

    def remove(self) -> None:
        """Server, keys and folder; when all that use them have ended."""
        self.fleet.close()
        embedded = self.fleet.endpoint.embedded
        if embedded is None:
            self._delete_keys()
        else:
            pid = embedded.pid()
            try:
                embedded.stop(STOP_S)
            except GenlockError:
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(embedded.socket.parent, ignore_errors=True)  # elsewhere when the folder's name is long
        shutil.rmtree(self.folder, ignore_errors=True)

    def _delete_keys(self) -> None:
        client = self.fleet.endpoint.client(on_connect=None, timeout_s=STOP_S)
        with suppress(redis.RedisError):  # gone: it took the keys along, or somebody will wonder
            client.delete(*keys_of(self.fleet.name))
        client.close()

    def __enter__(self) -> Home:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
