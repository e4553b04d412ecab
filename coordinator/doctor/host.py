"""Looks at the machine and the environment of this process. Imports nothing that is large: torch's version is read, not asked."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from ..errors import GenlockError, SettingsInvalid
from ..identity import known
from ..settings import NOT_YET, Settings
from ..store import Store
from ..tokens import tokens_of
from .facts import HostFacts, IdentityFacts


def look_at_host(settings: Settings, environ: Mapping[str, str] | None = None) -> HostFacts:
    """What a worker or a trainer that is started here would find."""
    environ = os.environ if environ is None else environ
    roles, tokens_error = _roles(settings)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return HostFacts(
        python=sys.version_info[:3],
        torch=_version("torch"),
        open_files=None if soft == resource.RLIM_INFINITY else soft,
        user=os.getuid(),
        roles=roles,
        tokens_error=tokens_error,
        signing=tuple(name for name in NOT_YET if environ.get(name)),
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


def look_at_identity(settings: Settings) -> IdentityFacts:
    """What the store says of the fleet; nothing is made."""
    try:
        found = known(Store(settings.store_dir), settings.fleet)
    except GenlockError as error:
        return IdentityFacts(error=str(error))
    if found is None:
        return IdentityFacts()
    return IdentityFacts(fleet_id=found.fleet_id, lease_s=found.lease_s, had_member=found.had_member)
