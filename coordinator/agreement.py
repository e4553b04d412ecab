"""Whether all workers answer from what the fleet has active, and which do not: what people are told first. Pure.

A worker differs in a model that it holds when it shows another generation than the active one, or shows it stale. What has nothing
loaded yet answers nothing, so it does not contradict the others; it is listed as loading, or, where its last error is about the active
generation, as one that cannot load it: every request that it gets is refused.

What a worker shows is what it said last: a change of its views travels with its next heartbeat, a third of a lease later. Within a
lease of a commit the generation before is therefore news on its way and no contradiction: nobody answered from both, the fence saw to that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any, Literal

import msgspec

from .status import FleetStatus, ModelStatus, WorkerStatus

#: `behind`, `ahead`: another generation than the active one. `changing`: behind a commit that is younger than a lease.
#: `cannot`: nothing loaded, and the active one failed to load; `loading`: nothing loaded yet.
Kind = Literal["behind", "ahead", "stale", "cannot", "changing", "loading"]
#: In words: all agree; they do but for news on its way; somebody contradicts; nobody does, but somebody cannot load what is active; the
#: fleet is closed; there is nobody to agree.
State = Literal["agree", "changing", "disagree", "cannot", "closed", "nobody"]
#: Kinds that make a fleet disagree, whatever else there is.
CONTRADICTS = frozenset({"behind", "ahead", "stale"})
#: The worst first: so the differences are listed.
ORDER: tuple[frozenset[str], ...] = (CONTRADICTS, frozenset({"cannot"}), frozenset({"changing", "loading"}))
#: Workers that a sentence names; the list has all.
NAMED = 3


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One model in one worker. `generation`: what it shows, None: nothing; `active`: the fleet's; `why` it cannot."""

    worker: str
    member: str
    host: str
    model: str
    generation: int | None
    active: int
    kind: Kind
    why: str = ""

    @property
    def sentence(self) -> str:
        """Who shows what."""
        if self.kind == "cannot":
            return f"{self.worker}: {self.why}"
        what = f"{self.worker}: {self.model}"
        if self.kind == "loading":
            return f"{what} is not loaded yet"
        stale = " stale" if self.kind == "stale" else ""
        return f"{what} at {self.generation}{stale}, active is {self.active}"


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """`workers`: how many live; `differing`: how many of them contradict the fleet; `differences`: those first that contradict it, then
    those that cannot load what is active."""

    state: State
    workers: int
    differing: int
    differences: list[Difference]
    sentence: str


def agreement_of(fleet: FleetStatus, workers: Sequence[WorkerStatus], *, now: float) -> Agreement:
    """Of a fleet and its workers, at the unix time `now`.

    Where the two were read one after the other, `workers` has to be the older: a flip in between then counts as on its way.
    """
    active = {model.model: model for model in fleet.models if model.generation is not None}
    fresh_since = now - fleet.lease_s
    found = [one for worker in workers for one in _differences(worker, active, fresh_since)]
    found.sort(key=lambda one: [one.kind in kinds for kinds in ORDER].index(True))
    differing = len({one.member for one in found if one.kind in CONTRADICTS})
    state = _state(fleet, workers, found)
    return Agreement(
        state=state,
        workers=len(workers),
        differing=differing,
        differences=found,
        sentence=_sentence(state, len(workers), differing, found),
    )


def _differences(worker: WorkerStatus, active: dict[str, ModelStatus], fresh_since: float) -> Iterator[Difference]:
    for name in worker.models:
        model = active.get(name)
        kind = _kind(worker, model, fresh_since) if model is not None else None
        if model is not None and model.generation is not None and kind is not None:
            yield Difference(
                worker=worker.worker,
                member=worker.member,
                host=worker.host,
                model=name,
                generation=worker.generations.get(name),
                active=model.generation,
                kind=kind,
                why=error_about(worker, model) if kind == "cannot" else "",
            )


def _kind(worker: WorkerStatus, model: ModelStatus, fresh_since: float) -> Kind | None:
    shown, active = worker.generations.get(model.model), model.generation or 0
    if shown is None:
        return "cannot" if error_about(worker, model) else "loading"
    if shown < active:
        return "changing" if (model.committed_at or 0.0) >= fresh_since else "behind"
    if shown > active:
        return "ahead"
    return "stale" if is_stale(worker, model.model) else None


def error_about(worker: WorkerStatus, model: ModelStatus) -> str:
    """The worker's last error, if it is about the active generation of this model; or nothing.

    Whatever a worker could not load, its last error begins with the model and the generation.
    """
    error = worker.last_error
    return (
        error if isinstance(error, str) and error.startswith(f"{model.model} generation {model.generation}: ") else ""
    )


def is_stale(worker: WorkerStatus, model: str) -> bool:
    """Whether the worker says that it answers this model marked stale."""
    models: Any = worker.about.get("models")
    shown = models.get(model) if isinstance(models, dict) else None
    return isinstance(shown, dict) and shown.get("stale") is True


def _state(fleet: FleetStatus, workers: Sequence[WorkerStatus], found: Sequence[Difference]) -> State:
    if not fleet.open:
        return "closed"
    if not workers:
        return "nobody"
    if any(one.kind in CONTRADICTS for one in found):
        return "disagree"
    if any(one.kind == "cannot" for one in found):
        return "cannot"
    return "changing" if found else "agree"


def _sentence(state: State, workers: int, differing: int, found: Sequence[Difference]) -> str:
    if state == "closed":
        return "the fleet is closed: Redis lost or may have lost data; answers are marked stale until it has been watched for a lease"
    if state == "nobody":
        return "no worker is a member of this fleet now"
    if state == "agree" and workers == 1:
        return "the only worker agrees: what it holds is what is active"
    if state == "agree":
        return f"all {workers} workers agree: what they hold is what is active"
    if state in ("disagree", "cannot"):
        verb = "does" if differing == 1 else "do"
        unable = _members(found, "cannot")
        told = (
            [f"{differing} of {_counted(workers)} {verb} not agree: {_named(found, CONTRADICTS)}"] if differing else []
        )
        told += (
            [f"{unable} of {_counted(workers)} cannot load what is active: {_named(found, {'cannot'})}"]
            if unable
            else []
        )
        return "; ".join(told)
    coming = _members(found, "changing")
    loading = _members(found, "loading")
    told = [f"{coming} of {_counted(workers)} yet to say that it has changed"] if coming else []
    told += [f"{loading} of {_counted(workers)} loading"] if loading else []
    return f"nobody disagrees: {', '.join(told)}"


def _members(found: Sequence[Difference], kind: Kind) -> int:
    return len({one.member for one in found if one.kind == kind})


def _named(found: Sequence[Difference], kinds: Set[str]) -> str:
    """The first of them, one for each worker."""
    first = {one.member: one.sentence for one in reversed(found) if one.kind in kinds}
    told = list(first.values())[::-1]
    more = len(told) - NAMED
    return "; ".join(told[:NAMED]) + (f"; and {more} more" if more > 0 else "")


def _counted(workers: int) -> str:
    return f"{workers} worker{'' if workers == 1 else 's'}"
