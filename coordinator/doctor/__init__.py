"""What is well with a fleet's Redis, its record, its store and this host, and what to do about the rest.

Facts are gathered by probe (the server), folder and host; they are judged by three pure rooms. Nothing is changed at the server, and
nothing is made for the fleet; in a store and a state folder that exist, files of its own are written and removed again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ..endpoint import Endpoint
from ..settings import LEASE_S, Settings
from ..store import Store, open_store
from .facts import HostFacts, RecordFacts
from .finding import Finding, Level, worst_of
from .fleet_verdicts import judge_agreement, judge_fleet
from .folder import look_at
from .host import look_at_host, look_at_identity
from .host_verdicts import judge_host, judge_state, judge_store
from .probe import ask_record, ask_server
from .remote import look_at_remote
from .remote_verdicts import judge_remote
from .server_verdicts import judge_server

if TYPE_CHECKING:
    from ..store import AnyStore

__all__ = ["Checkup", "Finding", "Level", "examine"]


class Checkup(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was looked at. `outcome`: the worst of the findings, or `unreachable`."""

    outcome: Level | str
    fleet: str
    redis: str
    store: str
    findings: list[Finding]


def examine(settings: Settings, endpoint: Endpoint) -> Checkup:
    """Looks at everything; what cannot be looked at is a finding. `endpoint`: of the settings."""
    server = ask_server(endpoint, settings.fleet)
    store, host = open_store(settings), look_at_host(settings)
    identity = look_at_identity(store, settings)
    record = RecordFacts(fleet=settings.fleet) if server.silence else ask_record(endpoint, settings.fleet)
    lease_s = record.snapshot.lease_s if record.snapshot else identity.lease_s or settings.lease_s or LEASE_S
    findings = [
        *judge_server(server, lease_s),
        *([] if server.silence else [*judge_fleet(record, identity), *judge_agreement(record)]),
        *_of_store(store, host, record, settings),
        *judge_state(look_at(settings.state_dir), host),
        *judge_host(host),
    ]
    store.close()
    return Checkup(
        outcome="unreachable" if server.silence else worst_of(findings),
        fleet=settings.fleet,
        redis=endpoint.where,
        store=str(settings.store_place),
        findings=findings,
    )


def _of_store(store: AnyStore, host: HostFacts, record: RecordFacts, settings: Settings) -> list[Finding]:
    if isinstance(store, Store):
        return judge_store(look_at(store.root), host, record.largest)
    return judge_remote(look_at_remote(store.files), is_redis_shared=bool(settings.redis_url))
