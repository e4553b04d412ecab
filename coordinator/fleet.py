"""Fleet: the front door. What trainers and operators do, as verbs; the work is done in publish, task, status and upkeep.

Importing this costs no Redis client; making a Fleet does. Nothing is connected or written before a verb needs it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import reading
from .calls import Abort, Attach, Pin, Unpin
from .canary import ALL, Policy, Share, canary_of, hundredths, share_of
from .disk import make_private, open_source
from .errors import BadInput, NoGeneration
from .flip import Flip, Progress
from .identity import Identity, check_lease
from .identity import identity as identity_of
from .keyring import Keyring
from .link import Ear, Link, me
from .manifest import check_metrics, check_name
from .publish import Publisher, Terms, active_of, decide, decided, state_of
from .records import Event, Snapshot
from .settings import Settings
from .signer import Signer
from .staging import ONLY, Draft, GoldenGiven, give_golden
from .status import FleetStatus, Generation, ModelStatus, WorkerStatus, status_of_worker
from .store import StoredObject, open_store
from .task import TaskResult, run_task
from .upkeep import LEAST_KEPT, SPARED_S, Damage, gc, needed_by, verify

if TYPE_CHECKING:
    from .endpoint import Endpoint
    from .registry import Registry

__all__ = [
    "Damage",
    "Draft",
    "Fleet",
    "FleetStatus",
    "Flip",
    "Generation",
    "ModelStatus",
    "Progress",
    "TaskResult",
    "WorkerStatus",
]

Tell = Callable[[Progress], None]


class Fleet:
    """One fleet, as a trainer or an operator uses it, from one thread at a time; another thread makes its own, which costs little. A block
    `with Fleet(…) as fleet:` closes it at its end.

    Raises, whatever is called: RedisUnreachable, RedisRefused, FleetMismatch, SchemaTooNew, and what its store raises.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        name: str | None = None,
        store: str | Path | None = None,
        state_dir: str | Path | None = None,
        lease: float | None = None,
        settings: Settings | None = None,
    ) -> None:
        """What is not given comes from `settings`, and without those is the default; the environment is not looked at (from_env does)."""
        chosen = (settings or Settings()).with_arguments(
            redis_url=url, fleet=name, store=store, state_dir=state_dir, lease_s=lease
        )
        self.settings = chosen
        self.name = check_name(chosen.fleet, "fleet")
        self.store = open_store(chosen)
        self._endpoint: Endpoint | None = None
        self._made_link: Link | None = None

    @classmethod
    def from_env(cls, **overrides: Any) -> Fleet:
        """The fleet of the environment's settings; `overrides` by the names of Settings."""
        return cls(settings=Settings.from_env(**overrides))

    def close(self) -> None:
        """Gives the connections back; the next use makes new ones."""
        if self._made_link is not None:
            self._made_link.close()
        self.store.close()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- what it stands on -------------------------------------------------------------------------------------------

    @property
    def endpoint(self) -> Endpoint:
        """Where its Redis is."""
        if self._endpoint is None:
            from .endpoint import Endpoint

            self._endpoint = Endpoint.of(self.settings)
        return self._endpoint

    @property
    def identity(self) -> Identity:
        """Its id and lease, as its store says now; made where there is none. SettingsInvalid: another lease was asked for."""
        make_private(self.settings.state_dir)  # before anybody makes something in it, such as the usual store
        found = identity_of(self.store, self.name, lease_s=self.settings.lease_s)
        check_lease(found, self.settings.lease_s)
        return found

    @property
    def registry(self) -> Registry:
        """The registry of this object's thread; the embedded server is started where it has to be."""
        return self._link.registry

    def new_registry(self, *, timeout_s: float | None = None) -> Registry:
        """Another one, for another thread; it connects when it is first used. The caller closes it."""
        from .registry import CALL_TIMEOUT_S, Registry

        return Registry(self.endpoint, self.name, self.identity, timeout_s=timeout_s or CALL_TIMEOUT_S)

    @property
    def started_server(self) -> bool:
        """Whether this object had to start the embedded server."""
        return self._made_link is not None and self._made_link.started_server

    @property
    def _link(self) -> Link:
        if self._made_link is None:
            self._made_link = Link(self.endpoint, self.new_registry, fleet=self.name, who=me())
        return self._made_link

    # --- publishing --------------------------------------------------------------------------------------------------

    def publish(
        self,
        model: str,
        what: str | Path | Mapping[str, str | Path],
        *,
        agreement: float | str | None = None,
        timeout: float | None = None,
        message: str = "",
        metrics: Mapping[str, float] | None = None,
        author: str | None = None,
        golden: GoldenGiven | None = None,
        rtol: float = 1e-4,
        atol: float = 1e-5,
        wait: bool = True,
        now: bool = False,
        force: bool = False,
        canary: Share | None = None,
        policy: Policy | str | None = None,
        canary_timeout: float | None = None,
        request: str | None = None,
        progress: Tell | None = None,
    ) -> Flip:
        """Copies a file (artifact "model"), or several by name, into the store and makes them the model's next generation.

        `agreement`: share of the workers that must be ready; `timeout`: seconds to get ready, and to wait for the publish lock;
        `metrics`: finite numbers by name, for people (`history`, the page);
        `golden`: a golden file or (inputs, outputs) that every worker must reproduce within `rtol` and `atol`; `wait=False`: return
        when it is proposed; `now`: stop the candidate in work; `force`: try a poisoned version again; `request`: the id of an earlier
        call whose outcome was unknown: it is asked for, whatever the files are by now, and nothing is done twice.

        `canary`: it first answers this share of the requests with a key, or these growing shares ("5%", "5%,25%"), each for at most
        `canary_timeout` seconds. With a `policy` it goes on by itself, and this waits; without one this returns when the canary
        begins (outcome "canary"), and `promote` or `abort` decides.

        Raises FlipRejected, FlipSuperseded, FlipAborted, Pinned, Poisoned, LockHeld, LockLost, FleetClosed, OutcomeUnknown, ArtifactError,
        RequestReused (`request` is the id of another change).
        """
        parts = dict(what) if isinstance(what, Mapping) else {ONLY: what}
        tried = canary_of(canary, policy, canary_timeout)
        more = {"now": now, "force": force, "wait": wait, "canary": tried, "progress": progress}
        terms = self._terms(agreement, timeout, author, request, **more)
        if request is not None and (flip := self._publisher(model).outcome_of(model, terms)) is not None:
            return flip
        for path in parts.values():
            os.close(open_source(path))  # better to hear of a wrong path before waiting for a lock
        with self._publishing(model, terms, message, metrics, golden, rtol, atol) as draft:
            for name, path in parts.items():
                draft.copy(name, path)
        assert draft.flip is not None
        return draft.flip

    def publishing(
        self,
        model: str,
        *,
        agreement: float | str | None = None,
        timeout: float | None = None,
        message: str = "",
        metrics: Mapping[str, float] | None = None,
        author: str | None = None,
        golden: GoldenGiven | None = None,
        rtol: float = 1e-4,
        atol: float = 1e-5,
        wait: bool = True,
        now: bool = False,
        force: bool = False,
        canary: Share | None = None,
        policy: Policy | str | None = None,
        canary_timeout: float | None = None,
        request: str | None = None,
        progress: Tell | None = None,
    ) -> AbstractContextManager[Draft]:
        """A block that writes what is published at its end, under the publish lock; an exception abandons it. See publish."""
        tried = canary_of(canary, policy, canary_timeout)
        more = {"now": now, "force": force, "wait": wait, "canary": tried, "progress": progress}
        terms = self._terms(agreement, timeout, author, request, **more)
        return self._publishing(model, terms, message, metrics, golden, rtol, atol)

    @contextmanager
    def _publishing(
        self,
        model: str,
        terms: Terms,
        message: str,
        metrics: Mapping[str, float] | None,
        golden: GoldenGiven | None,
        rtol: float,
        atol: float,
    ) -> Iterator[Draft]:
        check_metrics(metrics or {})  # better to hear of what is wrong before waiting for a lock
        if isinstance(golden, str | Path):
            os.close(open_source(golden))
        with self._publisher(model).publishing(model, terms, message) as draft:
            draft.metrics.update(metrics or {})
            give_golden(draft, golden, rtol, atol)
            yield draft

    def rollback(
        self,
        model: str,
        to: int | None = None,
        *,
        pin: bool = True,
        why: str = "",
        wait: bool = True,
        timeout: float | None = None,
        author: str | None = None,
        request: str | None = None,
        progress: Tell | None = None,
    ) -> Flip:
        """Makes what generation `to` was (default: the newest way back) the next generation, and pins the model there.

        Raises UnknownModel, NoGeneration, Conflict (another generation became active meanwhile), and what publish raises.
        """
        terms = self._terms(None, timeout, author, request, wait=wait, progress=progress)
        return self._publisher(model).rollback(model, terms, to=to, pin=pin, why=why)

    def promote(
        self,
        model: str,
        share: str | float | None = None,
        *,
        generation: int | None = None,
        why: str = "",
        wait: bool = True,
        timeout: float | None = None,
        author: str | None = None,
        request: str | None = None,
        progress: Tell | None = None,
    ) -> Flip:
        """Gives a canary a greater share of the requests; without `share` all of them: it is committed, which is waited for.

        `generation`: of the canary that the decision was made on (default: the one in work).
        Raises UnknownModel, NoGeneration (no canary, not enough workers are ready, that share already), Conflict, and what publish raises.
        """
        wanted = share_of(share) if share is not None else 1.0
        terms = self._terms(None, timeout, author, request, wait=wait, progress=progress)
        parts = hundredths(wanted) % ALL  # 0: all
        return self._publisher(model).promote(model, terms, share=parts, seen=generation, why=why)

    def _publisher(self, model: str) -> Publisher:
        check_name(model)
        return Publisher(self._link, self.store, self.new_registry, self._signer)

    @property
    def _signer(self) -> Signer:
        """What this process's keys are for; the files of keys are read each time, so what changes in them counts at once."""
        return Signer(Keyring.of(self.settings), self.identity.fleet_id, self.settings.state_dir)

    def _terms(
        self, agreement: float | str | None, timeout: float | None, author: str | None, request: str | None, **more: Any
    ) -> Terms:
        chosen = self.settings.with_arguments(agreement=agreement, prepare_timeout_s=timeout)
        return Terms(
            agreement=chosen.agreement,
            prepare_s=chosen.prepare_timeout_s,
            lease_s=self.identity.lease_s,
            author=author or me(),
            request=_request(request),
            **more,
        )

    # --- an operator's decisions ---------------------------------------------------------------------------------------

    def abort(
        self,
        model: str,
        *,
        generation: int | None = None,
        why: str = "",
        author: str | None = None,
        request: str | None = None,
    ) -> int:
        """Stops the candidate (default: the one in work); returns its generation.

        Raises NoGeneration where there is none, Conflict, RequestReused.
        """
        if request is not None and (done := self._decided(Abort, model, request, generation)) is not None:
            return done
        state = state_of(self._link, model)
        seen = generation or (state.cand.gen if state.cand else None)
        if seen is None:
            raise NoGeneration(model, None, "no candidate is in work, there is nothing to abort")
        return self._decide(Abort(model, _request(request), seen, author or me(), why, asked=generation or 0))

    def pin(self, model: str, *, why: str = "", author: str | None = None, request: str | None = None) -> int:
        """Keeps the model at its active generation, which is returned: proposals are refused.

        Raises NoGeneration, Conflict, RequestReused.
        """
        if request is not None and (done := self._decided(Pin, model, request)) is not None:
            return done
        return self._decide(Pin(model, _request(request), active_of(self._link, model), author or me(), why))

    def unpin(self, model: str, *, why: str = "", author: str | None = None, request: str | None = None) -> int:
        """Lets proposals in again; returns the active generation. Raises NoGeneration, Conflict, RequestReused."""
        if request is not None and (done := self._decided(Unpin, model, request)) is not None:
            return done
        return self._decide(Unpin(model, _request(request), active_of(self._link, model), author or me(), why))

    def _decided(
        self, kind: type[Abort | Pin | Unpin], model: str, request: str, generation: int | None = None
    ) -> int | None:
        return decided(self._link, kind.script, model, _request(request), generation=generation)

    def _decide(self, change: Abort | Pin | Unpin) -> int:
        return decide(self._link, change, lease_s=self.identity.lease_s)

    def clear(
        self,
        model: str | None = None,
        *,
        why: str = "",
        timeout: float | None = None,
        author: str | None = None,
        request: str | None = None,
    ) -> TaskResult:
        """Every worker drops the model (default: all), and loads it again when it is used; waits for them, at most `timeout` seconds."""
        return self._task("clear", model, why, timeout, author, request)

    def refresh(
        self,
        model: str,
        *,
        why: str = "",
        timeout: float | None = None,
        author: str | None = None,
        request: str | None = None,
    ) -> TaskResult:
        """Every holder loads the active generation afresh beside the old copy, and changes to it; waits as clear does."""
        return self._task("refresh", model, why, timeout, author, request)

    def _task(
        self, kind: str, model: str | None, why: str, timeout: float | None, author: str | None, request: str | None
    ) -> TaskResult:
        if model is not None:
            state_of(self._link, model)
        timeout_s = self.settings.with_arguments(prepare_timeout_s=timeout).prepare_timeout_s
        terms = {"timeout_s": timeout_s, "lease_s": self.identity.lease_s}
        return run_task(self._link, kind, model, _request(request), by=author or me(), why=why, **terms)

    # --- looking -----------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """All that stands in Redis of the fleet, at one instant; for who makes more of it than `status` and `workers` do."""
        return reading.snapshot(self._link)

    def status(self) -> FleetStatus:
        """The fleet and its models now."""
        snapshot, identity = self.snapshot(), self.identity
        return FleetStatus(
            name=self.name,
            id=identity.fleet_id,
            epoch=snapshot.epoch,
            open=snapshot.is_open,
            lease_s=snapshot.lease_s or identity.lease_s,
            revision=snapshot.revision,
            redis=self.endpoint.where,
            store=str(self.store.root),
            workers=len(snapshot.members),
            models=self.statuses(snapshot),
        )

    def model(self, name: str) -> ModelStatus:
        """One model now; raises UnknownModel."""
        return self.statuses(reading.knowing(self._link, name), name)[0]

    def statuses(self, snapshot: Snapshot, *only: str) -> list[ModelStatus]:
        """The models of a snapshot, or those that are named."""
        return reading.statuses(self._link, snapshot, *only)

    def history(self, model: str, *, limit: int = 50) -> list[Generation]:
        """The newest `limit` generations, the newest first; raises UnknownModel."""
        return reading.history(self._link, model, limit)

    def workers(self) -> list[WorkerStatus]:
        """The live workers, in the order in which they joined."""
        return [status_of_worker(member) for member in self.snapshot().members]

    def events(
        self,
        *,
        follow: bool = False,
        newest: int = 100,
        after: str | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Iterator[Event]:
        """The audit log, oldest first: the `newest` entries, or those behind the id `after`.

        With `follow` it goes on, also over a restart of Redis, until `stop` is true; that is looked at twice a second.
        """
        return reading.events(self._link, follow=follow, newest=newest, after=after, stop=stop)

    def ear(self) -> Ear:
        """A context manager that hears when something has changed, as far as hints come (R14)."""
        return Ear(self._link, None)

    # --- the store -----------------------------------------------------------------------------------------------------

    def verify(self, *, set_aside: bool = False, progress: Tell | None = None) -> list[Damage]:
        """Reads the whole store against its digests. `set_aside`: moves what is damaged away, so that a publish writes it again.

        Of older generations than the way back nothing has to be there: `gc` may have been told to keep fewer.
        """
        needed = self._link.use(lambda registry: needed_by(registry, LEAST_KEPT))
        return verify(self.store, needed, set_aside=set_aside, progress=progress)

    def gc(
        self, *, older_than_s: float = SPARED_S, dry_run: bool = False, keep: int | None = None
    ) -> list[StoredObject]:
        """Removes what no stored generation of any fleet of this store needs, and returns it; see upkeep.gc.

        `keep`: of each model only the last `keep` committed generations (2 or more), and what is active, in work or next. Only what was
        last used `older_than_s` ago: longer than any publish takes from its staging to its proposal.
        """
        if keep is not None and keep < LEAST_KEPT:
            raise BadInput("keep", f"{LEAST_KEPT} at least: what is active, and the way back")
        self._link.ask(Attach())
        with ExitStack() as stack:
            fleets = {self.name: self._link}
            for name in self.store.fleets():
                if name != self.name:
                    fleets[name] = self._link_of(name)
                    stack.callback(fleets[name].close)
            return gc(self.store, fleets, older_than_s=older_than_s, dry_run=dry_run, keep_last=keep)

    def _link_of(self, fleet: str) -> Link:
        """To another fleet of this store, which may have another lease."""

        def make() -> Registry:
            from .registry import Registry

            return Registry(self.endpoint, fleet, identity_of(self.store, fleet, lease_s=None))

        return Link(self.endpoint, make, fleet=fleet, who=me())


def _request(given: str | None) -> str:
    """A request id of 32 characters, or the one that was given, if it can be one."""
    return uuid.uuid4().hex if given is None else check_name(given, "request")
