"""One publish from top to bottom: lock, stage, propose, wait. Draft is what a trainer fills, Flip what comes back.

::

    lock      one trainer at a time stages and proposes for a model
    stage     copied (or moved, out of a draft), digested, flushed; what can be seen to be broken is refused here
    propose   candidate, next, or committed at once; the lock is free again
    wait      until it is decided, evicting, opening and settling where that is due
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .calls import Abort, Answer, Call, Pin, Promote, Propose, Read, Reply, Rollback, State, Unpin
from .canary import Canary
from .clock import clock
from .container import check_container, read_header
from .disk import Check
from .errors import ArtifactRefused, NoGeneration, Unavailable, UnknownModel
from .flip import Flip, Progress, error_of, phases_of, refusal_of, workers_of
from .link import Link, new_wait, pursue
from .lock import Lock
from .manifest import Artifact, Golden, Manifest, Source, check_name
from .records import as_object
from .status import KEPT_GENERATIONS, read_manifest, way_back_of
from .wait import AGAIN, Wait

if TYPE_CHECKING:
    from .registry import Registry
    from .signer import Signer
    from .store import AnyStore

__all__ = ["Draft", "Flip", "Progress", "Publisher", "Terms"]

#: The name of the artifact of a model that is one file.
ONLY = "model"
#: The file of golden outputs in a draft; the space keeps it apart from every artifact.
GOLDEN = "golden outputs"
#: Why a copy is refused that is not what was read of the file before.
CHANGED = "it was changed after it had been read: publish it when it is completely written"

Tell = Callable[[Progress], None]


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


@dataclass(frozen=True)
class Part:
    """A file that is to be published. `is_ours`: it lies in the draft, and is moved; `digest`: the one that it has to have, if any."""

    path: Path
    is_ours: bool
    digest: str | None = None


class Draft:
    """The files of a publish, while they are being written."""

    def __init__(self, store: AnyStore, message: str = "") -> None:
        self.message = message  #: for people; may be changed in the block
        self.metrics: dict[str, float] = {}  #: what training measured, for people; may be filled in the block
        self.flip: Flip | None = None  #: set when the block has ended
        self._store = store
        self._folder: Path | None = None
        self._parts: dict[str, Part] = {}
        self._golden: Part | None = None
        self._tolerances = (1e-4, 1e-5)

    def path(self, name: str) -> Path:
        """Where the artifact `name` is to be written; on the file system of a store that is a folder, to be moved without a copy."""
        path = self._home() / check_name(name, "artifact")
        self._parts[name] = Part(path, is_ours=True)
        return path

    def copy(self, name: str, path: str | Path, *, digest: str | None = None) -> None:
        """Publishes a copy of the file at `path` as artifact `name`; with a `digest` (BLAKE3, 64 hex digits) only if it is that content."""
        self._parts[check_name(name, "artifact")] = Part(Path(path), is_ours=False, digest=digest)

    def golden(self, inputs: Any, outputs: Any, *, rtol: float = 1e-4, atol: float = 1e-5) -> None:
        """What every worker must reproduce before anyone flips; see write_golden for what `inputs` and `outputs` may be."""
        from .golden import write_golden

        self._golden = Part(write_golden(self._home() / GOLDEN, inputs, outputs), is_ours=True)
        self._tolerances = (rtol, atol)

    def copy_golden(self, path: str | Path, *, rtol: float = 1e-4, atol: float = 1e-5) -> None:
        """The same from a file that write_golden has written."""
        self._golden = Part(Path(path), is_ours=False)
        self._tolerances = (rtol, atol)

    def discard(self) -> None:
        """Removes what is left of it."""
        self._store.release()
        if self._folder is not None:
            self._store.discard(self._folder)

    def _home(self) -> Path:
        if self._folder is None:
            self._folder = self._store.draft()
        return self._folder

    # --- staging -----------------------------------------------------------------------------------------------------

    def stage(self, model: str, *, author: str, progress: Tell | None) -> Manifest:
        """Everything in the store, checked as far as a publisher can; raises ArtifactError."""
        sources = {name: Source(str(part.path.absolute()), _mtime_ns(part.path)) for name, part in self._copied()}
        meter = _Meter(progress, [part.path for part in self._all()])
        artifacts = [self._put(name, part, meter, check_container) for name, part in self._parts.items()]
        golden = None
        if self._golden is not None:
            found = self._put("golden", self._golden, meter, _check_golden)
            golden = Golden(found.digest, found.size, *self._tolerances)
        return Manifest.of(
            model,
            artifacts,
            created_at=time.time(),
            sources=sources,
            golden=golden,
            author=author,
            message=self.message,
            metrics=self.metrics,
        )

    def _copied(self) -> list[tuple[str, Part]]:
        """A part of the draft comes from nowhere that would still be there."""
        return [(name, part) for name, part in self._parts.items() if not part.is_ours]

    def _all(self) -> list[Part]:
        return [*self._parts.values(), *([self._golden] if self._golden else [])]

    def _put(self, name: str, part: Part, meter: _Meter, check: Check) -> Artifact:
        put = self._store.adopt if part.is_ours else self._store.stage
        artifact = put(part.path, name=name, progress=meter.of(name), check=check)
        if part.digest not in (None, artifact.digest):
            raise ArtifactRefused(str(part.path), CHANGED)
        return artifact


def _check_golden(file: IO[bytes], path: str) -> None:
    metadata = read_header(file, path).get("__metadata__")
    if not isinstance(metadata, dict) or "genlock" not in metadata:
        raise ArtifactRefused(path, "it holds no golden outputs: write it with write_golden")


def _mtime_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0  # staging finds out, and says it


class _Meter:
    """Bytes of several files as one number."""

    def __init__(self, tell: Tell | None, paths: list[Path]) -> None:
        self._tell, self._before = tell, 0
        self._total = 0
        for path in paths:
            with suppress(OSError):
                self._total += path.stat().st_size

    def of(self, name: str) -> Callable[[int, int], None] | None:
        """What the store tells of one file after the other."""
        tell = self._tell
        if tell is None:
            return None
        before = self._before

        def told(done: int, _size: int) -> None:
            self._before = before + done
            tell(Progress("staging", self._before, max(self._total, self._before), name))

        return told


# --- proposing, and waiting ------------------------------------------------------------------------------------------


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
        """What has become of an earlier call with this request id, waited for; None: Redis knows of none."""
        read = Read(model, terms.request)
        reply = self._link.ask(read)
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
        change = Rollback(model, terms.request, seen, terms.author, why, to or 0, pin, terms.agreement, prepare_ms)
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
        request = self._promoted(model, terms.request) or self._promote(model, terms, share, seen, why)
        return self._follow(Read(model, request), model, replace(terms, request=request), clock(), {})

    def _promoted(self, model: str, request: str) -> str:
        """The request of the candidate that an earlier call with this id has promoted, or nothing (R10)."""
        answer = self._link.ask(Read(check_name(model), request)).answer
        if answer is None or (answer.verdict, answer.state) != ("ok", "done"):
            return ""
        return str(self._stored(model, answer.generation)[1].get("request") or "")

    def _promote(self, model: str, terms: Terms, share: int, seen: int | None, why: str) -> str:
        """Decides; the request of the candidate, by which its outcome is known."""
        state = state_of(self._link, model)
        candidate, active = state.cand, state.active
        if candidate is None or active is None or not state.is_canary:
            raise NoGeneration(model, None, f"there is no canary to promote: it is {state.phase}")
        change = Promote(model, terms.request, active.gen, terms.author, why, seen or candidate.gen, share)
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
            raise refusal_of(wait.refusal, model, version=version, seen=seen, to=to)
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
        raise refusal_of(wait.refusal, change.model, seen=change.seen)
    return change.seen


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
