"""A process of the demo: started, listened to, watched, and ended by its id.

Each leads a process group of its own: a Ctrl-C on the terminal reaches only the director, which then ends them in order; and what a
child has started goes with its group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ...coordinator.commands.output import printable
from ...coordinator.errors import GenlockError

#: Seconds that a child has to end after it was asked to, before it is killed.
PATIENCE_S = 5.0
#: Bytes of a log that an error quotes: about ten lines.
TAIL_BYTES = 1500


class DemoFailed(GenlockError):
    """The demo could not be shown; what it wanted to show was neither kept nor broken."""


class Child:
    """Ended, and everything that it started, when its block ends."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        heard: Callable[[bytes], None] | None = None,
        pass_fds: Sequence[int] = (),
        may_end: bool = False,
    ) -> None:
        """`log`: where stderr goes; `heard`: called with each line of stdout, by a thread; without it stdout goes to the log too.
        `may_end`: it is done some day, and only an end with an error is one."""
        self.name = name
        self._log, self._may_end = log, may_end
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=dict(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if heard else output,
                stderr=output,
                pass_fds=pass_fds,
                process_group=0,
            )
        self.pid = self._process.pid
        self._listener = threading.Thread(target=self._listen, args=(heard,), name=f"demo-{name}", daemon=True)
        self._listener.start()

    def _listen(self, heard: Callable[[bytes], None] | None) -> None:
        if heard is not None and self._process.stdout is not None:
            for line in self._process.stdout:
                heard(line)

    def tell(self, line: bytes) -> None:
        """Writes to its stdin."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; `check` says so
            self._process.stdin.write(line)
            self._process.stdin.flush()

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def check(self) -> None:
        """Raises DemoFailed, with its last words, if it has ended and should not have."""
        status = self._process.poll()
        if status or (status == 0 and not self._may_end):
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            raise DemoFailed(f"{self.name} {how}. Its last words:\n{self.last_words}")

    @property
    def last_words(self) -> str:
        """The end of its log."""
        return printable(self._log.read_bytes()[-TAIL_BYTES:].decode(errors="replace")).strip()

    def finish(self) -> None:
        """Closes its stdin, and waits until it has ended by itself and all its lines were heard."""
        with suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE_S)
        self._listener.join(PATIENCE_S)

    def end(self) -> None:
        """Asks it to end, waits, and kills what is left of its group; harmless twice."""
        if not self.has_ended:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE_S)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._listener.join(PATIENCE_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
