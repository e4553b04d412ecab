"""`genlock keys generate` and `genlock keys show`: the keys that sign manifests and order rollbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ..errors import BadInput
from ..settings import Settings
from .output import Table
from .session import Session

if TYPE_CHECKING:
    from ..signing import PublicKey

#: Where a new key goes when nobody says: the folder in which the command runs.
USUAL_FILE = Path("genlock.key")
#: What a pair of keys is for, below a new one.
_NEXT = (
    "sign with it:   set GENLOCK_SIGNING_KEY to the path of the file, where models are published",
    "ask for it:     put the public key into GENLOCK_VERIFY_KEYS of every worker (GENLOCK_OPERATOR_KEYS: to order rollbacks with it)",
)


class What(StrEnum):
    """What is to be done with keys."""

    generate = "generate"
    show = "show"


def read_what(text: str) -> What:
    """The word after `genlock keys`; raises typer.BadParameter."""
    try:
        return What(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither `generate` nor `show`") from None


class ShownKey(msgspec.Struct, frozen=True):
    """One key, without what is secret. `use`: sign, verify or operator; `file`: where it was read from or written to."""

    use: str
    id: str
    public: str
    file: str = ""


def keys(
    session: Session,
    what: Annotated[
        str,
        typer.Argument(
            metavar="generate|show", parser=read_what, help="Make a new pair of keys, or show what there is."
        ),
    ],
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="show: a file of a secret key, or of public ones.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help=f"generate: the new file; default: {USUAL_FILE}.")
    ] = None,
) -> None:
    """Make the keys that sign models, or show what there is.

    generate writes a secret key into a new file that only you may read, and prints its public key. show prints the public key and the id of
    a secret one, or the ids of a file's public ones; without FILE those of the settings. A secret is never printed.
    """
    if what is What.generate:
        if file is not None:
            raise BadInput("keys generate", f"say where with an option: --out {file}")
        made = _generated(out or USUAL_FILE)
        session.show([made], lambda: [*said_of_keys([made]), "", *_NEXT])
    elif out is not None:
        raise BadInput("keys show", "it writes nothing: leave --out away")
    else:
        found = _in_file(file) if file is not None else _of_settings(session.settings)
        session.show(found, lambda: said_of_keys(found))


def _generated(path: Path) -> ShownKey:
    from ..keyring import write_secret
    from ..signing import KeyPair

    key = KeyPair.generate()
    write_secret(path.expanduser().absolute(), key)
    return _shown("sign", key.public, path)


def _in_file(path: Path) -> list[ShownKey]:
    """Of a secret key in it, or else of its public ones."""
    from ..keyring import read_public, read_secret

    def public() -> list[ShownKey]:
        return [_shown("verify", key, path) for key in read_public(path)]

    def secret() -> list[ShownKey]:
        return [_shown("sign", read_secret(path).public, path)]

    return _first_of(path, secret if _is_secret(path) else public)


def _is_secret(path: Path) -> bool:
    from ..signing import SECRET

    try:
        with path.open("rb") as file:
            return any(line.strip().startswith(SECRET.encode()) for line in file.readlines(1 << 16))
    except OSError:
        return False


def _first_of(path: Path, read: Callable[[], list[ShownKey]]) -> list[ShownKey]:
    try:
        return read()
    except (OSError, ValueError) as error:
        why = str(error.strerror if isinstance(error, OSError) else error)
        raise BadInput(str(path), why) from None


def _of_settings(settings: Settings) -> list[ShownKey]:
    from ..keyring import public_keys, signing_key_of
    from ..signing import SECRET

    signer = signing_key_of(settings)
    given = settings.signing_key or ""
    found = [_shown("sign", signer.public, None if given.startswith(SECRET) else Path(given))] if signer else []
    found += [_shown("verify", key) for key in public_keys("GENLOCK_VERIFY_KEYS", settings.verify_keys)]
    return found + [_shown("operator", key) for key in public_keys("GENLOCK_OPERATOR_KEYS", settings.operator_keys)]


def _shown(use: str, key: PublicKey, path: Path | None = None) -> ShownKey:
    return ShownKey(use, key.id, key.text, str(path) if path is not None else "")


def said_of_keys(found: list[ShownKey]) -> Iterable[str | Table]:
    """A row for each key."""
    if not found:
        return ["no keys are set here; `genlock keys generate` makes a pair"]
    return [Table(("USE", "ID", "PUBLIC KEY", "FILE"), [(key.use, key.id, key.public, key.file) for key in found])]
