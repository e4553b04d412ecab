"""The tokens of the admin and of the worker's routes for operators: those of the settings, and those of a file."""

from __future__ import annotations

from pathlib import Path

from .errors import SettingsInvalid
from .notation import token
from .secretfile import read_file
from .settings import Settings

_FILE = "GENLOCK_ADMIN_TOKENS_FILE"
#: Bytes of a file of tokens: thousands of them. What is larger is another file.
MAX_FILE_BYTES = 1 << 20


def tokens_of(settings: Settings) -> tuple[tuple[str, str], ...]:
    """(role or role/name, token) of all that are known now: the file is read each time, so what changes in it counts at once.

    Raises SettingsInvalid where the file cannot be read, everybody on this machine may read it, others may change it, or it is not of its
    form.
    """
    path = settings.admin_tokens_file
    return settings.admin_tokens if path is None else (*settings.admin_tokens, *_of_file(path))


def _of_file(path: Path) -> list[tuple[str, str]]:
    try:
        lines = read_file(path, what="tokens", most=MAX_FILE_BYTES).decode().splitlines()
        return [token(line) for line in map(str.strip, lines) if line and not line.startswith("#")]
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise SettingsInvalid(_FILE, str(path), f"{why}") from None  # the cause may show a token
