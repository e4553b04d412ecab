"""Looks at the machine and the environment of this process. Imports nothing that is large: torch's version is read, not asked."""

from __future__ import annotations

import os
import resource
import stat
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import GenlockError, SettingsInvalid
from ..identity import known
from ..keyring import Keyring
from ..settings import Settings
from ..signing import SECRET
from ..tokens import tokens_of
from .facts import HostFacts, IdentityFacts, KeyFacts

if TYPE_CHECKING:
    from ..store import AnyStore


def look_at_host(settings: Settings) -> HostFacts:
    """What a worker or a trainer that is started here would find."""
    roles, tokens_error = _roles(settings)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return HostFacts(
        python=sys.version_info[:3],
        torch=_version("torch"),
        open_files=None if soft == resource.RLIM_INFINITY else soft,
        user=os.getuid(),
        roles=roles,
        tokens_error=tokens_error,
        keys=_keys(settings),
    )


def _keys(settings: Settings) -> KeyFacts:
    try:
        found = Keyring.of(settings)
    except SettingsInvalid as error:
        return KeyFacts(error=str(error))
    given = settings.signing_key or ""
    is_text = given.startswith(SECRET)
    return KeyFacts(
        signer=found.signing.public.id if found.signing else "",
        verify=found.verify.ids,
        operators=found.operators.ids,
        in_environment=is_text,
        group_reads=bool(given) and not is_text and bool(Path(given).stat().st_mode & stat.S_IRGRP),
    )


def _roles(settings: Settings) -> tuple[tuple[str, ...], str]:
    """The roles of the tokens that are set, and why a file of tokens cannot be used."""
    try:
        return tuple(sorted({name.partition("/")[0] for name, _ in tokens_of(settings)})), ""
    except SettingsInvalid as error:
        return (), str(error)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def look_at_identity(store: AnyStore, settings: Settings) -> IdentityFacts:
    """What the store says of the fleet; nothing is made."""
    try:
        found = known(store, settings.fleet)
    except GenlockError as error:
        return IdentityFacts(error=str(error))
    if found is None:
        return IdentityFacts()
    return IdentityFacts(fleet_id=found.fleet_id, lease_s=found.lease_s, had_member=found.had_member)
