"""The keys of this process: where the settings say that they are, read from files and from the settings themselves."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .disk import explained, make_folder, sync_folder
from .errors import ArtifactRefused, SettingsInvalid
from .secretfile import read_file
from .signing import PUBLIC, SECRET, KeyPair, PublicKey, VerifyKeys

if TYPE_CHECKING:
    from .settings import Settings

_T = TypeVar("_T")

#: Bytes of a file of keys: thousands of them. What is larger is another file.
MAX_FILE_BYTES = 1 << 16
#: Nobody but its owner may read or write a file with a secret key.
SECRET_MODE = 0o600


@dataclass(frozen=True)
class Keyring:
    """`signing`: what this process signs with; `verify`: whose manifests it believes; `operators`: whose orders."""

    signing: KeyPair | None = field(default=None, repr=False)
    verify: VerifyKeys = field(default_factory=VerifyKeys)
    operators: VerifyKeys = field(default_factory=VerifyKeys)

    @classmethod
    def of(cls, settings: Settings) -> Keyring:
        """What the settings name; raises SettingsInvalid with the file, the line and why, and never with a secret."""
        return cls(
            signing_key_of(settings),
            VerifyKeys(public_keys("GENLOCK_VERIFY_KEYS", settings.verify_keys)),
            VerifyKeys(public_keys("GENLOCK_OPERATOR_KEYS", settings.operator_keys)),
        )


def signing_key_of(settings: Settings) -> KeyPair | None:
    """The secret key that the settings name, None where they name none. Raises SettingsInvalid."""
    given = settings.signing_key
    if given is None:
        return None
    if given.startswith(SECRET):
        return _explained("GENLOCK_SIGNING_KEY", f"{SECRET}…", lambda: KeyPair.of(given))
    return _explained("GENLOCK_SIGNING_KEY", given, lambda: read_secret(Path(given)))


def public_keys(variable: str, given: tuple[str, ...]) -> list[PublicKey]:
    """The keys, and those of the files, that a setting names; raises SettingsInvalid."""
    found: list[PublicKey] = []
    for one in given:
        if one.startswith(PUBLIC):
            found.append(_explained(variable, one, partial(PublicKey.of, one)))
        else:
            found += _explained(variable, one, partial(read_public, Path(one)))
    return found


def _explained(variable: str, path: str, read: Callable[[], _T]) -> _T:
    try:
        return read()
    except (OSError, ValueError) as error:
        why = str(error.strerror if isinstance(error, OSError) else error)
        raise SettingsInvalid(variable, path, why) from None  # the cause may show what stands in the file


def read_secret(path: Path) -> KeyPair:
    """The one secret key in a file. Raises OSError, or ValueError with what is wrong."""
    lines = _lines(path, is_secret=True)
    if len(lines) != 1:
        raise ValueError(f"a file of a secret key has one line that is no comment, this one has {len(lines)}")
    return KeyPair.of(lines[0][1])


def read_public(path: Path) -> list[PublicKey]:
    """The public keys in a file, one a line. Raises OSError, or ValueError with what is wrong."""
    found = []
    for number, line in _lines(path, is_secret=False):
        try:
            found.append(PublicKey.of(line))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    if not found:
        raise ValueError("there is no key in it")
    return found


def _lines(path: Path, *, is_secret: bool) -> list[tuple[int, str]]:
    """The lines with something in them, `#` begins a comment, with their numbers."""
    text = read_file(path, what="keys", most=MAX_FILE_BYTES, is_secret=is_secret).decode("utf-8", "replace")
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return [(number, line) for number, line in enumerate(lines, 1) if line]


def write_secret(path: Path, key: KeyPair) -> None:
    """A new file for a secret key, which only its owner may read; flushed. Raises ArtifactRefused where something has that name."""
    text = f"# genlock: a secret key, id {key.public.id}. Its public key is\n# {key.public.text}\n{key.text}\n"
    with explained(path):
        make_folder(path.parent)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, SECRET_MODE)
        except FileExistsError:
            raise ArtifactRefused(str(path), "it is there already, and a key is never overwritten") from None
        try:
            with os.fdopen(descriptor, "w") as file:
                os.fchmod(descriptor, SECRET_MODE)
                file.write(text)
                file.flush()
                os.fsync(descriptor)
        except BaseException:
            with suppress(OSError):
                path.unlink()
            raise
        sync_folder(path.parent)
