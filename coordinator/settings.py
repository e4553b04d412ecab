"""Every setting: its variable, its meaning, its default. Arguments win over the environment, the environment over defaults.

`Settings.from_env()` is the only place that reads the environment. `TABLE` is what the configuration reference is made from.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from .errors import SettingsInvalid
from .gate import ROLES
from .manifest import NAME
from .signing import PUBLIC, SECRET, KeyPair, PublicKey, without_secrets

#: Seconds; the longest lease that is allowed (docs/how-it-works.md, "Numbers"), and the shortest that a scheduler's hiccups let live.
MAX_LEASE_S, MIN_LEASE_S = 60.0, 0.1
#: The lease of a fleet that is made without one being asked for (docs/how-it-works.md, "Numbers").
LEASE_S = 3.0
#: Models that one worker may hold (docs/how-it-works.md, "Numbers").
MAX_HELD = 50


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What one process of a fleet runs with. Times are in seconds, sizes in bytes."""

    redis_url: str | None = None
    fleet: str = "default"
    state_dir: Path = Path("~/.local/state/genlock")
    store: Path | str | None = None
    host_cache: int | None = None
    lease_s: float | None = None
    on_disconnect: str = "stale"
    max_wait_s: float = 30.0
    agreement: float = 1.0
    prepare_timeout_s: float = 120.0
    max_bytes: int | None = None
    max_models: int = MAX_HELD
    cache_ttl_s: float | None = None
    use_cache: bool = True
    force_reload: bool = False
    check_mtime: bool = False
    watch: tuple[str, ...] = ()
    loads_per_host: int = 1
    hit_rate_threshold: float | None = None
    log: str = "text"
    admin_tokens: tuple[tuple[str, str], ...] = ()
    admin_tokens_file: Path | None = None
    admin_sources: tuple[Path, ...] = ()
    admin_proxies: int = 0
    signing_key: str | None = field(default=None, repr=False)
    verify_keys: tuple[str, ...] = ()
    operator_keys: tuple[str, ...] = ()
    models: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **arguments: Any) -> Settings:
        """The settings of `environ` (default: this process's), each overridden by an argument that is not None.

        Raises SettingsInvalid with the variable, the value and why.
        """
        environ = os.environ if environ is None else environ
        found: dict[str, Any] = {}
        for row in TABLE:
            for variable in (row.variable, *row.older):
                if environ.get(variable, "") != "":
                    found[row.field] = row.read(variable, environ[variable])
                    break
        if "state_dir" not in found and environ.get("XDG_STATE_HOME"):
            found["state_dir"] = Path(environ["XDG_STATE_HOME"]) / "genlock"
        return cls(**found).with_arguments(**arguments)

    def with_arguments(self, **arguments: Any) -> Settings:
        """A copy in which every argument that is not None counts; strings are read as the variable's would be."""
        known = {row.field: row for row in TABLE}
        changed: dict[str, Any] = {}
        for name, value in arguments.items():
            if value is None:
                continue
            if name not in known:
                raise TypeError(f"there is no setting {name!r}; settings are {', '.join(known)}")
            changed[name] = known[name].read(name, value if isinstance(value, str) else known[name].text(value))
        return replace(self, **changed)

    def __post_init__(self) -> None:
        for name in ("state_dir", "store"):
            if isinstance(folder := getattr(self, name), Path):
                object.__setattr__(self, name, folder.expanduser().absolute())

    @property
    def store_place(self) -> Path | str:
        """Where artifacts lie: a folder, or the URL of an object store; `store`, or the folder `store` of the state folder."""
        return self.state_dir / "store" if self.store is None else self.store

    def describe(self) -> dict[str, str]:
        """Variable → value as text, without what is secret."""
        values = {row.variable: getattr(self, row.field) for row in TABLE} | {"GENLOCK_STORE": self.store_place}
        values["GENLOCK_ADMIN_TOKENS"] = "…" if self.admin_tokens else ()
        values["GENLOCK_SIGNING_KEY"] = without_secrets(self.signing_key or "None")
        values["GENLOCK_REDIS_URL"] = re.sub(r"(?<=//)[^/@]*:[^/@]*(?=@)", "…", self.redis_url or "None")
        return {variable: str(value) for variable, value in values.items()}


class Row(NamedTuple):
    """One setting: the field, its variable, older names, a reader of text, what it means."""

    field: str
    variable: str
    reader: Callable[[str], Any]
    help: str
    older: tuple[str, ...] = ()

    def read(self, name: str, text: str) -> Any:
        try:
            return self.reader(text)
        except (ValueError, OverflowError) as error:
            shown = "…" if self.field == "admin_tokens" else without_secrets(text)
            raise SettingsInvalid(name, shown, str(error)) from error

    def text(self, value: Any) -> str:
        """A value given as an argument, written as the variable would have it, so that one reader checks both."""
        if isinstance(value, Mapping):
            return ",".join(f"{k}={v}" if v else str(k) for k, v in value.items())
        if self.field in ("admin_sources", "watch"):
            return os.pathsep.join(map(str, value))
        if isinstance(value, tuple | list):
            between = "=" if self.field == "models" else ":"
            pairs = ([item] if isinstance(item, str) else item for item in value)
            return ",".join(between.join(part for part in pair if part) for pair in pairs)
        return str(value)


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


def _lease(text: str) -> float:
    value = seconds(text)
    if not MIN_LEASE_S <= value <= MAX_LEASE_S:
        raise ValueError(f"a lease lasts {MIN_LEASE_S:g} to {MAX_LEASE_S:g} seconds")
    return value


def _positive(text: str) -> float:
    value = 0.0 if text.strip().startswith("-") else seconds(text)
    if value <= 0:
        raise ValueError("it must be more than 0 seconds")
    return value


def _time_to_live(text: str) -> float | None:
    if re.fullmatch(r"0+(\.0*)?", text.strip()):
        return None
    return _positive(text)


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ValueError("it must be a whole number") from None
    if value < 1:
        raise ValueError("it must be at least 1")
    return value


def _held(text: str) -> int:
    value = _count(text)
    if value > MAX_HELD:
        raise ValueError(f"a worker holds at most {MAX_HELD} models")
    return value


def _ratio(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError("it must be a share between 0 and 1")
    return value


def _choice(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.strip().lower() not in words:
            raise ValueError(f"say one of {', '.join(words)}")
        return text.strip().lower()

    return read


def _fleet(text: str) -> str:
    if not NAME.match(text) or text in (".", ".."):
        raise ValueError("a fleet's name has 1 to 128 of A-Z a-z 0-9 . _ -")
    return text


def tokens(text: str) -> tuple[tuple[str, str], ...]:
    """`operator:TOKEN,viewer/alice:TOKEN` → ((role or role/name, token), …)."""
    return tuple(token(item.strip()) for item in text.split(",") if item.strip())


def token(text: str) -> tuple[str, str]:
    """`operator:TOKEN` or `operator/alice:TOKEN` → (role or role/name, token)."""
    who, _, secret = text.partition(":")
    role, slash, name = who.partition("/")
    if role not in ROLES or len(secret) < 8 or (slash and not NAME.match(name)):
        raise ValueError(
            "write operator:TOKEN, viewer:TOKEN or operator/alice:TOKEN, with tokens of 8 characters or more"
        )
    return who, secret


def _folders(text: str) -> tuple[Path, ...]:
    found = tuple(path(item) for item in text.split(os.pathsep) if item)
    for folder in found:
        if not folder.is_absolute():
            raise ValueError(f"{folder} is no absolute path")
    return found


def _watch(text: str) -> tuple[str, ...]:
    """Apart at each separator that is not within braces: {artifact:encoder,head} has one."""
    return tuple(re.findall(rf"(?:\{{[^{{}}]*\}}|[^{os.pathsep}])+", text))


def _proxies(text: str) -> int:
    if not re.fullmatch(r"[0-9]", text.strip()):
        raise ValueError("it is a number from 0 to 9")
    return int(text)


def models(text: str) -> tuple[tuple[str, str], ...]:
    """`digits=mypkg.models:build,other` → ((model, loader or ''), …)."""
    pairs = [item.strip().partition("=") for item in text.split(",") if item.strip()]
    for name, _, loader in pairs:
        if not NAME.match(name) or name in (".", ".."):
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


TABLE: tuple[Row, ...] = (
    Row(
        "redis_url",
        "GENLOCK_REDIS_URL",
        str,
        "Redis: redis://, rediss://, unix://, redis+sentinel://; unset: genlock's own",
    ),
    Row("fleet", "GENLOCK_FLEET", _fleet, "name of the fleet"),
    Row(
        "state_dir",
        "GENLOCK_STATE_DIR",
        path,
        "what this host and user keep: embedded server, last good, verified files",
    ),
    Row(
        "store",
        "GENLOCK_STORE",
        place,
        "folder of the artifacts, shared by all hosts, or a URL such as s3://bucket/prefix; default: STATE_DIR/store",
    ),
    Row(
        "host_cache",
        "GENLOCK_HOST_CACHE",
        size,
        "bytes of artifacts that this host keeps of a store on a network; default: a fifth of the disk of STATE_DIR",
    ),
    Row(
        "lease_s",
        "GENLOCK_LEASE",
        _lease,
        "seconds a worker may answer without asking; set when the fleet is made",
    ),
    Row(
        "on_disconnect",
        "GENLOCK_ON_DISCONNECT",
        _choice("stale", "fail"),
        "without Redis: stale answers, or 503",
    ),
    Row("max_wait_s", "GENLOCK_MAX_WAIT", _positive, "longest time a request waits for a model"),
    Row("agreement", "GENLOCK_AGREEMENT", share, "share of the workers that must be ready: all, 0.9, 90%"),
    Row(
        "prepare_timeout_s",
        "GENLOCK_PREPARE_TIMEOUT",
        _positive,
        "longest time a candidate may take to be loaded by all",
    ),
    Row(
        "max_bytes",
        "GENLOCK_MAX_BYTES",
        size,
        "bytes of models that a worker holds; a held model counts twice in a flip",
    ),
    Row("max_models", "GENLOCK_MAX_MODELS", _held, "models that a worker holds"),
    Row(
        "cache_ttl_s",
        "GENLOCK_CACHE_TTL",
        _time_to_live,
        "an unused model is dropped after this; 0: never",
        ("M10D_CACHE_TTL",),
    ),
    Row("use_cache", "GENLOCK_USE_CACHE", flag, "false: every use loads (debugging)", ("M10D_USE_CACHE",)),
    Row(
        "force_reload",
        "GENLOCK_FORCE_RELOAD",
        flag,
        "true: every use checks the file (debugging)",
        ("M10D_FORCE_RELOAD",),
    ),
    Row(
        "check_mtime",
        "GENLOCK_CHECK_MTIME",
        flag,
        "true: one worker of each host looks at the files that training overwrites, once in a second, and publishes what is new",
        ("M10D_CHECK_MTIME",),
    ),
    Row(
        "watch",
        "GENLOCK_WATCH",
        _watch,
        "what it looks at beside a cache's `sources`: folders and patterns as of `genlock watch`, with `:` between them",
    ),
    Row("loads_per_host", "GENLOCK_LOADS_PER_HOST", _count, "workers of one host that load at the same time"),
    Row("hit_rate_threshold", "GENLOCK_HIT_RATE_THRESHOLD", _ratio, "alarm when the hit rate falls below"),
    Row("log", "GENLOCK_LOG", _choice("text", "json"), "log lines as text, or one JSON object each"),
    Row(
        "admin_tokens",
        "GENLOCK_ADMIN_TOKENS",
        tokens,
        "operator:TOKEN,viewer:TOKEN for the admin, and for a worker's routes that change something; operator/alice:TOKEN has a name",
    ),
    Row(
        "admin_tokens_file",
        "GENLOCK_ADMIN_TOKENS_FILE",
        path,
        "file with more tokens, one in a line; others on this machine must not be able to read it",
    ),
    Row(
        "admin_sources",
        "GENLOCK_ADMIN_SOURCES",
        _folders,
        "folders that the admin publishes files from, with `:` between them; unset: any that it can read",
    ),
    Row(
        "admin_proxies", "GENLOCK_ADMIN_PROXIES", _proxies, "proxies before the admin whose X-Forwarded-For is believed"
    ),
    Row(
        "signing_key",
        "GENLOCK_SIGNING_KEY",
        signing_key,
        "what this process signs manifests and rollback orders with: file of a secret key (`genlock keys generate`), or the key itself",
    ),
    Row(
        "verify_keys",
        "GENLOCK_VERIFY_KEYS",
        verify_keys,
        "public keys of the trainers, and files with one a line, with `,` between them; set: nothing is loaded that none of them signed",
    ),
    Row(
        "operator_keys",
        "GENLOCK_OPERATOR_KEYS",
        verify_keys,
        "public keys of who may order a rollback, written likewise; unset: whoever may write to Redis can go back to what was signed",
    ),
    Row("models", "GENLOCK_MODELS", models, "models of the ready-made evaluator: name=module:loader,name"),
)

assert {row.field for row in TABLE} == {f.name for f in fields(Settings)}


#: Defaults that are not a value of their field: a path of this user, what is made with a fleet.
USUAL = {"state_dir": "`~/.local/state/genlock`", "lease_s": f"`{LEASE_S}`"}


def reference() -> str:
    """The configuration reference, Markdown: one row per setting."""
    default = Settings()
    rows = ["| variable | default | what it is |", "| --- | --- | --- |"]
    for row in TABLE:
        value = USUAL.get(row.field) or _shown(getattr(default, row.field), row.field)
        older = f" Older name: `{row.older[0]}`." if row.older else ""
        rows.append(f"| `{row.variable}` | {value} | {row.help}.{older} |")
    return "\n".join(rows) + "\n"


def _shown(value: Any, field: str) -> str:
    if field == "store" or value in (None, (), ""):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
