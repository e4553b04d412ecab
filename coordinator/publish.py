"""One publish from top to bottom: lock, stage, propose, wait. A Draft is what a trainer fills, a Flip what comes back.

::

    lock      one trainer at a time stages and proposes for a model
    stage     copied (or moved, out of a draft), digested, flushed; what can be seen to be broken is refused here
    propose   candidate, next, or committed at once; the lock is free again
    wait      until it is decided, evicting, opening and settling where that is due
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .calls import Abort, Call, Pin, Promote, Propose, Read, Rollback, Unpin
from .canary import Canary
from .clock import clock
from .errors import NoGeneration, Unavailable, UnknownModel
from .flip import Flip, Progress, check_is_of, error_of, phases_of, refusal_of, workers_of
from .link import Link, new_wait, pursue
from .lock import Lock
from .manifest import Manifest, check_name
from .records import as_object
from .reply import Answer, Reply, State
from .staging import Draft, Tell
from .status import KEPT_GENERATIONS, read_manifest, way_back_of
from .wait import AGAIN, Wait

if TYPE_CHECKING:
    from .registry import Registry
    from .signer import Signer
    from .store import AnyStore


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How a change is to be decided. `prepare_s`: longest time to get ready, and to wait for the lock. `request`: see PROTOCOL, R10."""

    agreement: float
    prepare_s: float
    lease_s: float
    author: str
    now: bool = False
    force: bool = False
    wait: bool = True
    canary: Canary | None = None
    request: str = field(default_factory=lambda: uuid.uuid4().hex)
    progress: Tell | None = None

    @property
    def tried_s(self) -> float | None:
        """Longest time of a canary that a policy decides: it is waited for; None: people decide, or there is none."""
        canary = self.canary
        return len(canary.steps) * canary.timeout_s if canary is not None and canary.policy is not None else None


class Publisher:
    """Publishes and rolls back the models of one fleet."""

    def __init__(self, link: Link, store: AnyStore, make: Callable[[], Registry], signer: Signer) -> None:
        """`make`: a registry for the thread that extends a lock; `signer`: signs, where there is a key."""
        self._link, self._store, self._make, self._signer = link, store, make, signer

    @contextmanager
    def publishing(self, model: str, terms: Terms, message: str) -> Iterator[Draft]:
        """A draft that is published at the end of the block, under the lock of the model; an exception abandons it."""
        self._signer.check_key(model)  # better to hear of it before the work
        lock = Lock(self._link, model, who=terms.author, make=self._make)
        draft = Draft(self._store, message)
        try:
            lock.take(terms.prepare_s)
            yield draft
            began = clock()
            manifest = draft.stage(model, author=terms.author, progress=terms.progress)
            seconds = {"stage": clock() - began}
            manifest = self._signed(manifest)
            draft.flip = self._propose(manifest, terms, lock, began, seconds)
            if draft.flip.outcome == "committed":
                self._signer.committed(manifest)
        finally:
            lock.free()
            draft.discard()

    def _propose(self, manifest: Manifest, terms: Terms, lock: Lock, began: float, seconds: dict[str, float]) -> Flip:
        change = Propose(
            manifest.model,
            terms.request,
            lock.token,
            manifest.version,
            manifest.poison,
            manifest.encode(),
            terms.agreement,
            round(terms.prepare_s * 1000),
            terms.author,
            terms.now,
            terms.force,
            terms.canary.encode() if terms.canary is not None else "",
        )
        return self._follow(change, change.model, terms, began, seconds, send=self._under(lock))

    def _signed(self, manifest: Manifest) -> Manifest:
        """With a serial above those of what is and was active, and of what may become so before it."""
        if not self._signer.signs:
            return manifest
        try:
            state = self._link.ask(Read(manifest.model)).states.get(manifest.model)
        except Unavailable:
            state = None  # the proposal finds out; the time is a number that only grows, too
        active, candidate = (state.active, state.cand) if state else (None, None)
        before = self._stored(manifest.model, active.gen)[0] if active else None
        if before is not None and active is not None and before.version != active.version:
            before = None  # somebody has written another one in its place
        known = self._known(manifest.model, active.gen if active else 0, candidate.gen if candidate else 0)
        return self._signer.published(manifest, before, known)

    def _known(self, model: str, active: int, candidate: int = 0) -> list[Manifest | None]:
        """The manifests of what is and was active, and of what may become so, as far as Redis tells."""
        numbers = [candidate, *range(max(1, active - KEPT_GENERATIONS), active + 1)]
        try:
            return [
                read_manifest(data) for data in self._link.use(lambda registry: registry.manifests_at(model, numbers))
            ]
        except Unavailable:
            return []

    def _under(self, lock: Lock) -> Callable[[Call], Reply]:
        """Sends; a proposal only under the lock, which is free again when it has an answer. Where Redis lost both, both are made again."""

        def send(call: Call) -> Reply:
            if not isinstance(call, Propose):
                return self._link.ask(call)
            if not lock.is_held:
                lock.take(0)
            reply = self._link.ask(call)
            if reply.verdict not in AGAIN:
                lock.free()
            return reply

        return send

    def outcome_of(self, model: str, terms: Terms) -> Flip | None:
        """What has become of an earlier publish with this request id, waited for; None: Redis knows of none. Raises RequestReused."""
        read = Read(model, terms.request)
        reply = self._link.ask(read)
        check_is_of(Propose.script, reply.answer, terms.request)
        if reply.answer is None:
            return None
        if reply.answer.verdict != "ok":
            answer, pin = reply.answer, reply.states[model].pin
            raise refusal_of(Reply(answer.verdict, version=answer.version, why=answer.why, pin=pin), model)
        return self._follow(read, model, terms, clock(), {})

    def rollback(self, model: str, terms: Terms, *, to: int | None, pin: bool, why: str) -> Flip:
        """What was committed before becomes the candidate again; decided on what is active now."""
        seen = active_of(self._link, model, to)
        prepare_ms = round(terms.prepare_s * 1000)
        change = Rollback(
            model, terms.request, seen, terms.author, why, to or 0, pin, terms.agreement, prepare_ms, asked=to or 0
        )
        if self._signer.signs:
            change = self._ordered(change)
        return self._follow(change, model, terms, clock(), {}, seen=seen, to=to)

    def _ordered(self, change: Rollback) -> Rollback:
        """The same with this operator's order, for which it has to be said here where it goes; what is not there the script finds out."""
        record = self._link.use(lambda registry: registry.snapshot()).models.get(change.model)
        target = change.to or (way_back_of(record) if record is not None else None)
        manifest = self._stored(change.model, target)[0]
        if target is None or manifest is None:
            return change
        known = self._known(change.model, change.seen)
        brought = self._signer.goes_back(manifest, left=change.seen, known=known, author=change.by)
        return replace(change, to=target, manifest=brought.encode())

    def promote(self, model: str, terms: Terms, *, share: int, seen: int | None, why: str) -> Flip:
        """The canary answers `share` ten-thousandths of the requests, 0: all of them, for which it is committed."""
        request = self._promoted(model, terms.request, share, seen) or self._promote(model, terms, share, seen, why)
        return self._follow(Read(model, request), model, replace(terms, request=request), clock(), {})

    def _promoted(self, model: str, request: str, share: int, seen: int | None) -> str:
        """The request of the candidate that an earlier call with this id has promoted, or nothing (R10)."""
        generation = decided(self._link, Promote.script, model, request, generation=seen, share=share)
        return str(self._stored(model, generation)[1].get("request") or "") if generation is not None else ""

    def _promote(self, model: str, terms: Terms, share: int, seen: int | None, why: str) -> str:
        """Decides; the request of the candidate, by which its outcome is known."""
        state = state_of(self._link, model)
        candidate, active = state.cand, state.active
        if candidate is None or active is None or not state.is_canary:
            raise NoGeneration(model, None, f"there is no canary to promote: it is {state.phase}")
        gen = seen or candidate.gen
        change = Promote(model, terms.request, active.gen, terms.author, why, gen, share, asked=seen or 0)
        decide(self._link, change, lease_s=terms.lease_s)
        return candidate.request

    def _follow(
        self,
        change: Call,
        model: str,
        terms: Terms,
        began: float,
        seconds: dict[str, float],
        *,
        send: Callable[[Call], Reply] | None = None,
        seen: int = 0,
        to: int | None = None,
    ) -> Flip:
        """Sends `change` until it is answered and decided; the Flip, or the error of what was decided against it."""
        wait = new_wait(
            self._link,
            change,
            model,
            terms.request,
            prepare_s=terms.prepare_s,
            lease_s=terms.lease_s,
            is_patient=terms.wait,
            tried_s=terms.tried_s,
        )
        pursue(self._link, wait, send=send, told=_teller(terms.progress))
        if wait.refusal is not None:
            version = change.version if isinstance(change, Propose) else ""
            raise refusal_of(wait.refusal, model, request=terms.request, version=version, seen=seen, to=to)
        answer = wait.answer or Answer()
        seconds["propose"] = wait.answered_s
        if not isinstance(change, Read):  # who asks for what was begun before has not waited for all of it
            seconds["total"] = clock() - began
        flip = self._flip(model, terms.request, answer, seconds)
        had_active = wait.state is None or wait.state.active is not None
        pinned = _pinned_at(wait.state) if isinstance(change, Rollback) else None
        if (error := error_of(flip, answer, had_active=had_active, pinned=pinned)) is not None:
            raise error
        return flip

    def _flip(self, model: str, request: str, answer: Answer, seconds: dict[str, float]) -> Flip:
        manifest, row = self._stored(model, answer.generation)
        return Flip(
            model=model,
            generation=answer.generation,
            version=answer.version,
            outcome=answer.state,
            request=request,
            seconds=phases_of(row) | seconds,
            workers=workers_of(row),
            unproven=bool(row.get("unproven")),
            size=manifest.size if manifest else 0,
        )

    def _stored(self, model: str, generation: int | None) -> tuple[Manifest | None, dict[str, Any]]:
        """Manifest and outcome of a generation, as far as Redis tells; the decision is known without them."""
        try:
            found = self._link.use(lambda registry: registry.generations(model, [generation or 0]))
            manifest, row = found.get(generation or 0, (None, None))
            return (read_manifest(manifest), as_object(row))
        except Unavailable:
            return None, {}


def decide(link: Link, change: Abort | Pin | Unpin | Promote, *, lease_s: float) -> int:
    """Sends an operator's decision until it has an answer, and returns the generation that it was made on.

    Raises what refused it, FleetClosed, OutcomeUnknown.
    """
    wait = new_wait(link, change, change.model, change.request, prepare_s=0.0, lease_s=lease_s, is_patient=False)
    pursue(link, wait)
    if wait.refusal is not None:
        raise refusal_of(wait.refusal, change.model, request=change.request, seen=change.seen)
    return change.seen


def decided(
    link: Link, verb: str, model: str, request: str, *, generation: int | None = None, share: int | None = None
) -> int | None:
    """The generation of an earlier decision with this request id: what it was made on may be gone by now (R10); None: none is known.

    `verb`: the script of the decision; `generation`, `share`: of the candidate that somebody named, and that it is to answer.
    Raises RequestReused.
    """
    answer = link.ask(Read(check_name(model), request)).answer
    check_is_of(verb, answer, request, generation=generation or None, share=share)
    return answer.generation if answer is not None and (answer.verdict, answer.state) == ("ok", "done") else None


def active_of(link: Link, model: str, wanted: int | None = None) -> int:
    """The active generation that a decision is made on; raises UnknownModel or NoGeneration."""
    active = state_of(link, model).active
    if active is None:
        raise NoGeneration(model, wanted, "nothing of it was committed yet")
    return active.gen


def state_of(link: Link, model: str) -> State:
    """The model's state; raises UnknownModel."""
    state = link.ask(Read(check_name(model))).states.get(model)
    if state is None or not state.rev:
        raise UnknownModel(model, tuple(link.use(lambda registry: registry.snapshot()).models))
    return state


def _pinned_at(state: State | None) -> int | None:
    """Where the model is pinned."""
    return state.active.gen if state is not None and state.pin and state.active is not None else None


def _teller(tell: Tell | None) -> Callable[[Wait], None] | None:
    """Tells how many of the workers that are waited for are ready."""
    if tell is None:
        return None

    def told(wait: Wait) -> None:
        candidate = wait.state.cand if wait.state else None
        if candidate is not None and wait.state is not None:
            done = candidate.ready + candidate.fenced
            tell(Progress("waiting", done, done + candidate.awaited + candidate.failed, wait.state.phase))

    return told
