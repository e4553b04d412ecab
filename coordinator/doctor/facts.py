"""What was found, before anybody judges it: of the server, the fleet's record in it, a folder, this host. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..records import Snapshot


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """One Redis, as this user sees it.

    `silence`: why nothing of it is known, with `remedy`; `started`: it is genlock's own, and did not run; `info`: INFO; `config`: as much
    of CONFIG GET as may be read; `trips_s`, `scripts_s`: seconds of round trips; `ahead_s`: its clock against ours; `denied`: what its user
    may not do; `refused`: why it takes no write now.
    """

    where: str
    silence: str = ""
    remedy: str = ""
    started: bool = False
    info: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    trips_s: tuple[float, ...] = ()
    scripts_s: tuple[float, ...] = ()
    script_error: str = ""
    ahead_s: float | None = None
    denied: tuple[str, ...] = ()
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class RecordFacts:
    """A fleet as it stands in Redis. `snapshot`: None where nothing can be read (`error`), or nothing stands there.

    `fleet_id`, `schema`: of its record; `server_now`: unix s of the server's clock; `largest`: model and bytes of the largest active one.
    """

    fleet: str
    snapshot: Snapshot | None = None
    error: str = ""
    fleet_id: str = ""
    schema: int = 0
    server_now: float = 0.0
    largest: tuple[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class IdentityFacts:
    """What a store says of the fleet: `fleet_id` is empty where it says nothing yet; `error`: why it cannot be read."""

    fleet_id: str = ""
    lease_s: float | None = None
    had_member: bool = False
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class FolderFacts:
    """One folder. `error`: why it cannot be looked at; `exists`: else nothing below is known.

    `filesystem`: as the kernel calls it, "" where that is not known; `is_local`: its files may be mapped; `failed`: step of a trial in it
    → why; `sync_s`: seconds until 4 KiB are on the disk, several times.
    """

    path: str
    error: str = ""
    exists: bool = False
    filesystem: str = ""
    is_local: bool = True
    mounted_at: str = ""
    free_bytes: int = 0
    total_bytes: int = 0
    free_files: int | None = None
    mode: int = 0
    owner: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    sync_s: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RemoteFacts:
    """A store below a URL. `error`: why nothing of it is known; `remedy`: what to do about that; `failed`: step of a trial in it → why;
    `trip_s`: seconds of a small call; `exclusive`: of two who make a file, one is told that there is one already."""

    url: str
    error: str = ""
    remedy: str = ""
    failed: Mapping[str, str] = field(default_factory=dict)
    trip_s: float = 0.0
    exclusive: bool = True


@dataclass(frozen=True, kw_only=True)
class KeyFacts:
    """The keys that the settings name, by their ids. `error`: why they cannot be used; `in_environment`: the secret key is given itself,
    and not its file; `group_reads`: its file may be read by its group."""

    signer: str = ""
    verify: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    error: str = ""
    in_environment: bool = False
    group_reads: bool = False


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """This process's machine. `torch`: its version, None: not installed; `open_files`: the soft limit, None: without end; `user`: uid.

    `roles`: of the tokens that are set; `tokens_error`: why their file cannot be used.
    """

    python: tuple[int, int, int]
    torch: str | None = None
    open_files: int | None = None
    user: int = 0
    roles: tuple[str, ...] = ()
    tokens_error: str = ""
    keys: KeyFacts = KeyFacts()
