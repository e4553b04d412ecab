"""How people write a size, a time, a share, a token, a key: text in, value out, or a ValueError that says how it is written."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path

from .gate import ROLES
from .manifest import is_name
from .signing import PUBLIC, SECRET, KeyPair, PublicKey

#: Seconds; the longest lease that is allowed (docs/how-it-works.md, "Numbers"), and the shortest that a scheduler's hiccups let live.
MAX_LEASE_S, MIN_LEASE_S = 60.0, 0.1
#: Models that one worker may hold (docs/how-it-works.md, "Numbers").
MAX_HELD = 50

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_WORDS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def size(text: str) -> int:
    """Bytes: `4GiB`, `500MB`, `1000000`."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if not match or match[2].lower() not in _UNITS:
        raise ValueError("a size is a number and a unit, such as 4GiB, 500MB or 1000000")
    value = int(float(match[1]) * _UNITS[match[2].lower()])
    if value < 1:
        raise ValueError("a size is at least 1 byte")
    return value


def path(text: str) -> Path:
    """A path; `~` and `~user` are expanded."""
    if "\0" in text:
        raise ValueError("no path has a NUL in it")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~ of a user that is not there
        raise ValueError(str(error)) from error


def place(text: str) -> Path | str:
    """A folder, or the URL of an object store: `/mnt/models`, `s3://bucket/prefix`. `file:///mnt/models` is the folder."""
    scheme, between, rest = text.partition("://")
    if not between:
        return path(text)
    if scheme == "file":
        return path(rest)
    if scheme == "memory":
        raise ValueError("no other process would see what is in memory")
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) or not rest.strip("/"):
        raise ValueError("write a folder, or a URL such as s3://bucket/prefix")
    if "@" in rest.partition("/")[0]:
        raise ValueError(
            "no user and password belong into this URL, which is shown; the environment has them (docs/file-systems.md)"
        )
    return text.rstrip("/")


def seconds(text: str) -> float:
    """Seconds: `2.5`, `3s`, `300ms`, `2m`."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|)\s*", text)
    if not match:
        raise ValueError("a time is a number of seconds, or has a unit: 300ms, 3s, 2m, 1h")
    return float(match[1]) * {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}[match[2]]


def share(text: str) -> float:
    """A share of workers: `all`, `0.9` or `90%`; above 0, up to 1."""
    text = text.strip().lower()
    try:
        value = 1.0 if text == "all" else float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise ValueError("an agreement is `all`, a share such as 0.9, or 90%") from None
    if not 0 < value <= 1:
        raise ValueError("an agreement is more than 0 and at most 1")
    return value


def flag(text: str) -> bool:
    """true or false, in the usual spellings."""
    word = text.strip().lower()
    if word not in _WORDS:
        raise ValueError("say true or false")
    return _WORDS[word]


def lease(text: str) -> float:
    value = seconds(text)
    if not MIN_LEASE_S <= value <= MAX_LEASE_S:
        raise ValueError(f"a lease lasts {MIN_LEASE_S:g} to {MAX_LEASE_S:g} seconds")
    return value


def positive(text: str) -> float:
    value = 0.0 if text.strip().startswith("-") else seconds(text)
    if value <= 0:
        raise ValueError("it must be more than 0 seconds")
    return value


def time_to_live(text: str) -> float | None:
    if re.fullmatch(r"0+(\.0*)?", text.strip()):
        return None
    return positive(text)


def count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ValueError("it must be a whole number") from None
    if value < 1:
        raise ValueError("it must be at least 1")
    return value


def held(text: str) -> int:
    value = count(text)
    if value > MAX_HELD:
        raise ValueError(f"a worker holds at most {MAX_HELD} models")
    return value


def ratio(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError("it must be a share between 0 and 1")
    return value


def choice(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.strip().lower() not in words:
            raise ValueError(f"say one of {', '.join(words)}")
        return text.strip().lower()

    return read


def fleet(text: str) -> str:
    if not is_name(text):
        raise ValueError("a fleet's name has 1 to 128 of A-Z a-z 0-9 . _ -")
    return text


def tokens(text: str) -> tuple[tuple[str, str], ...]:
    """`operator:TOKEN,viewer/alice:TOKEN` → ((role or role/name, token), …)."""
    return tuple(token(item.strip()) for item in text.split(",") if item.strip())


def token(text: str) -> tuple[str, str]:
    """`operator:TOKEN` or `operator/alice:TOKEN` → (role or role/name, token)."""
    who, _, secret = text.partition(":")
    role, slash, name = who.partition("/")
    if role not in ROLES or len(secret) < 8 or (slash and not is_name(name)):
        raise ValueError(
            "write operator:TOKEN, viewer:TOKEN or operator/alice:TOKEN, with tokens of 8 characters or more"
        )
    return who, secret


def folders(text: str) -> tuple[Path, ...]:
    found = tuple(path(item) for item in text.split(os.pathsep) if item)
    for folder in found:
        if not folder.is_absolute():
            raise ValueError(f"{folder} is no absolute path")
    return found


def watch(text: str) -> tuple[str, ...]:
    """Apart at each separator that is not within braces: {artifact:encoder,head} has one."""
    return tuple(re.findall(rf"(?:\{{[^{{}}]*\}}|[^{os.pathsep}])+", text))


def proxies(text: str) -> int:
    if not re.fullmatch(r"[0-9]", text.strip()):
        raise ValueError("it is a number from 0 to 9")
    return int(text)


def models(text: str) -> tuple[tuple[str, str], ...]:
    """`digits=mypkg.models:build,other` → ((model, loader or ''), …)."""
    pairs = [item.strip().partition("=") for item in text.split(",") if item.strip()]
    for name, _, loader in pairs:
        if not is_name(name):
            raise ValueError(f"{name!r} is not a model's name")
        if loader and not re.fullmatch(r"[\w.]+:[\w.]+", loader):
            raise ValueError(f"the loader {loader!r} of {name!r} is not written module:name")
    return tuple((name, loader) for name, _, loader in pairs)


def signing_key(text: str) -> str:
    """A secret key (`genlock-secret-…`), or the absolute path of a file with one."""
    if text.strip().startswith((SECRET, PUBLIC)):
        return KeyPair.of(text.strip()).text
    return str(path(text).absolute())


def verify_keys(text: str) -> tuple[str, ...]:
    """Public keys (`genlock-public-…`), and absolute paths of files with one a line."""
    return tuple(_verify_key(item.strip()) for item in text.split(",") if item.strip())


def _verify_key(text: str) -> str:
    if text.startswith((SECRET, PUBLIC)):
        return PublicKey.of(text).text
    found = path(text)
    if not found.is_absolute() or str(found).strip() != str(found):
        raise ValueError(f"{text!r} is neither a public key ({PUBLIC}…) nor the absolute path of a file with some")
    return str(found)
