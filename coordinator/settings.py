"""Every setting: its variable, its meaning, its default. Arguments win over the environment, the environment over defaults.

`Settings.from_env()` is the only place that reads the environment. `TABLE` is what the configuration reference is made from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from . import notation
from .errors import SettingsInvalid
from .signing import without_secrets

#: The lease of a fleet that is made without one being asked for (docs/how-it-works.md, "Numbers").
LEASE_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What one process of a fleet runs with. Times are in seconds, sizes in bytes. Printed, it keeps to itself what may be a secret."""

    redis_url: str | None = field(default=None, repr=False)
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
    max_models: int = notation.MAX_HELD
    cache_ttl_s: float | None = None
    use_cache: bool = True
    force_reload: bool = False
    check_mtime: bool = False
    watch: tuple[str, ...] = ()
    loads_per_host: int = 1
    hit_rate_threshold: float | None = None
    log: str = "text"
    admin_tokens: tuple[tuple[str, str], ...] = field(default=(), repr=False)
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
            pairs = ([str(item)] if isinstance(item, str | Path) else item for item in value)
            return ",".join(between.join(part for part in pair if part) for pair in pairs)
        return str(value)


TABLE: tuple[Row, ...] = (
    Row(
        "redis_url",
        "GENLOCK_REDIS_URL",
        str,
        "Redis: redis://, rediss://, unix://, redis+sentinel://; unset: genlock's own",
    ),
    Row("fleet", "GENLOCK_FLEET", notation.fleet, "name of the fleet"),
    Row(
        "state_dir",
        "GENLOCK_STATE_DIR",
        notation.path,
        "what this host and user keep: embedded server, last good, verified files",
    ),
    Row(
        "store",
        "GENLOCK_STORE",
        notation.place,
        "folder of the artifacts, shared by all hosts, or a URL such as s3://bucket/prefix; default: STATE_DIR/store",
    ),
    Row(
        "host_cache",
        "GENLOCK_HOST_CACHE",
        notation.size,
        "bytes of artifacts that this host keeps of a store on a network; default: a fifth of the disk of STATE_DIR",
    ),
    Row(
        "lease_s",
        "GENLOCK_LEASE",
        notation.lease,
        "seconds a worker may answer without asking; set when the fleet is made",
    ),
    Row(
        "on_disconnect",
        "GENLOCK_ON_DISCONNECT",
        notation.choice("stale", "fail"),
        "without Redis: stale answers, or 503",
    ),
    Row("max_wait_s", "GENLOCK_MAX_WAIT", notation.positive, "longest time a request waits for a model"),
    Row("agreement", "GENLOCK_AGREEMENT", notation.share, "share of the workers that must be ready: all, 0.9, 90%"),
    Row(
        "prepare_timeout_s",
        "GENLOCK_PREPARE_TIMEOUT",
        notation.positive,
        "longest time a candidate may take to be loaded by all",
    ),
    Row(
        "max_bytes",
        "GENLOCK_MAX_BYTES",
        notation.size,
        "bytes of models that a worker holds; a held model counts twice in a flip",
    ),
    Row("max_models", "GENLOCK_MAX_MODELS", notation.held, "models that a worker holds"),
    Row(
        "cache_ttl_s",
        "GENLOCK_CACHE_TTL",
        notation.time_to_live,
        "an unused model is dropped after this; 0: never",
        ("M10D_CACHE_TTL",),
    ),
    Row("use_cache", "GENLOCK_USE_CACHE", notation.flag, "false: every use loads (debugging)", ("M10D_USE_CACHE",)),
    Row(
        "force_reload",
        "GENLOCK_FORCE_RELOAD",
        notation.flag,
        "true: every use checks the file (debugging)",
        ("M10D_FORCE_RELOAD",),
    ),
    Row(
        "check_mtime",
        "GENLOCK_CHECK_MTIME",
        notation.flag,
        "true: one worker of each host looks at the files that training overwrites, once in a second, and publishes what is new",
        ("M10D_CHECK_MTIME",),
    ),
    Row(
        "watch",
        "GENLOCK_WATCH",
        notation.watch,
        "what it looks at beside a cache's `sources`: folders and patterns as of `genlock watch`, with `:` between them",
    ),
    Row("loads_per_host", "GENLOCK_LOADS_PER_HOST", notation.count, "workers of one host that load at the same time"),
    Row("hit_rate_threshold", "GENLOCK_HIT_RATE_THRESHOLD", notation.ratio, "alarm when the hit rate falls below"),
    Row("log", "GENLOCK_LOG", notation.choice("text", "json"), "log lines as text, or one JSON object each"),
    Row(
        "admin_tokens",
        "GENLOCK_ADMIN_TOKENS",
        notation.tokens,
        "operator:TOKEN,viewer:TOKEN for the admin, and for a worker's routes that change something; operator/alice:TOKEN has a name",
    ),
    Row(
        "admin_tokens_file",
        "GENLOCK_ADMIN_TOKENS_FILE",
        notation.path,
        "file with more tokens, one in a line; others on this machine must not be able to read it",
    ),
    Row(
        "admin_sources",
        "GENLOCK_ADMIN_SOURCES",
        notation.folders,
        "folders that the admin publishes files from, with `:` between them; unset: any that it can read",
    ),
    Row(
        "admin_proxies",
        "GENLOCK_ADMIN_PROXIES",
        notation.proxies,
        "proxies before the admin whose X-Forwarded-For is believed",
    ),
    Row(
        "signing_key",
        "GENLOCK_SIGNING_KEY",
        notation.signing_key,
        "what this process signs manifests and rollback orders with: file of a secret key (`genlock keys generate`), or the key itself",
    ),
    Row(
        "verify_keys",
        "GENLOCK_VERIFY_KEYS",
        notation.verify_keys,
        "public keys of the trainers, and files with one a line, with `,` between them; set: nothing is loaded that none of them signed",
    ),
    Row(
        "operator_keys",
        "GENLOCK_OPERATOR_KEYS",
        notation.verify_keys,
        "public keys of who may order a rollback, written likewise; unset: whoever may write to Redis can go back to what was signed",
    ),
    Row("models", "GENLOCK_MODELS", notation.models, "models of the ready-made evaluator: name=module:loader,name"),
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
