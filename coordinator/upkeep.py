"""Whether every stored byte is still what its name says, and what nobody needs any more: verify and gc, over a store and its fleets."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from .calls import Read
from .clock import clock
from .errors import (
    ArtifactDamaged,
    ArtifactError,
    ArtifactMissing,
    ArtifactRefused,
    FleetClosed,
    StoreUnreachable,
    StoreUnusable,
)
from .flip import Progress
from .identity import identity
from .link import Link, wait_until_open
from .manifest import Artifact, Golden, decode
from .records import as_number

if TYPE_CHECKING:
    from .records import Record
    from .registry import Registry
    from .reply import Epoch
    from .store import AnyStore, StoredObject

#: Seconds that gc spares what is not needed yet: longer than any publish takes from its staging to its proposal.
SPARED_S = 3600.0
#: Committed generations of a model without which it is not well: the active one, and the way back.
LEAST_KEPT = 2
#: Times that gc asks what is needed, before it gives up on fleets that lose data each time.
MOST_ROUNDS = 3


class Use(msgspec.Struct, frozen=True, order=True):
    """A generation that needs an object; 0: what waits as next."""

    model: str
    generation: int
    active: bool = False


class Needed(msgspec.Struct):
    """What manifests say of one object."""

    size: int
    uses: set[Use]


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """An object that is not what it should be. `path`: or its URL; `generations`: those that need it, of `models`; `missing`: there is
    none; `aside`: where it was moved to."""

    digest: str
    path: str
    why: str
    models: tuple[str, ...] = ()
    generations: tuple[Use, ...] = ()
    missing: bool = False
    aside: str | None = None


def needed_by(registry: Registry, keep: int | None = None) -> dict[str, Needed]:
    """Digest → what the stored manifests of a fleet need of it. Raises ManifestInvalid: who cannot read one must not throw away.

    `keep`: of each model only what is active, in work or next, and the last `keep` that were committed; None: all that Redis keeps, which
    are the last 256, and 64 committed ones.
    """
    records = {} if keep is None else registry.snapshot().models  # before the manifests: see _is_kept
    found: dict[str, Needed] = {}
    for model, generation, data in registry.manifests():
        manifest = decode(data)
        if keep is not None and not _is_kept(generation, records.get(model), keep):
            continue
        parts: list[Artifact | Golden] = [*manifest.artifacts]
        if manifest.golden is not None:
            parts.append(manifest.golden)
        for part in parts:
            use = Use(model, generation, _is_active(generation, records.get(model)))
            found.setdefault(part.digest, Needed(part.size, set())).uses.add(use)
    return found


def _is_active(generation: int, record: Record | None) -> bool:
    return record is not None and record.active is not None and record.active.gen == generation


def _is_kept(generation: int, record: Record | None, keep: int) -> bool:
    """What the record does not know yet is kept: it began after the record was read."""
    if record is None or generation == 0 or generation >= record.next:
        return True
    in_use = {place.gen for place in (record.active, record.cand, record.watch) if place is not None}
    committed = sorted(as_number(text) for text in record.committed)
    return generation in in_use or generation in committed[-keep:]


def verify(
    store: AnyStore, needed: dict[str, Needed], *, set_aside: bool, progress: Callable[[Progress], None] | None
) -> list[Damage]:
    """Reads every object again; what is damaged, and what is needed and missing. Raises StoreUnreachable and StoreUnusable: they say
    nothing of an object."""
    objects = {found.digest: found.size for found in store.objects()}
    sizes = objects | {digest: need.size for digest, need in needed.items()}
    total, done, damages = sum(sizes.values()), 0, []
    for digest, size in sorted(sizes.items()):
        try:
            store.verify(digest, size)
        except (StoreUnreachable, StoreUnusable):
            raise
        except ArtifactError as error:
            if isinstance(error, ArtifactMissing) and digest not in needed:
                continue  # taken away meanwhile
            aside = store.set_aside(digest) if set_aside else None
            damages.append(_damage(store, digest, error, needed, str(aside) if aside else None))
        done += size
        if progress is not None:
            progress(Progress("verifying", done, total, digest[:12]))
    return damages


def _damage(store: AnyStore, digest: str, error: ArtifactError, needed: dict[str, Needed], aside: str | None) -> Damage:
    why = str(error)
    if isinstance(error, ArtifactMissing):
        why = "it is missing: publish the checkpoint again"
    elif isinstance(error, ArtifactDamaged):
        why = f"expected {error.expected}, found {error.found}: publish the checkpoint again"
    uses = tuple(sorted(needed[digest].uses)) if digest in needed else ()
    return Damage(
        digest=digest,
        path=str(store.path(digest)),
        why=why,
        models=tuple(dict.fromkeys(use.model for use in uses)),
        generations=uses,
        missing=isinstance(error, ArtifactMissing),
        aside=aside,
    )


def gc(
    store: AnyStore, fleets: dict[str, Link], *, older_than_s: float, dry_run: bool, keep_last: int | None = None
) -> list[StoredObject]:
    """Removes the objects that no stored manifest of any of `fleets` needs, and leftovers; returns them. `keep_last`: see needed_by.

    A fleet that is closed does not know yet what it needs: its opening is waited for (FleetClosed). Where this Redis knows nothing of
    a fleet, objects stay: it may have lost that, or be another fleet's. With `dry_run` nothing is removed.
    """
    keep: set[str] = set()
    for name, needed in _needs(store, fleets, keep_last).items():
        if not needed and len(fleets) > 1:
            raise _unknown_needs(store, name)
        keep |= needed.keys()
    if not keep:
        keep = {found.digest for found in store.objects()}
    return store.collect(keep, older_than_s=older_than_s, now=time.time(), dry_run=dry_run)


def _needs(store: AnyStore, fleets: dict[str, Link], keep_last: int | None) -> dict[str, dict[str, Needed]]:
    """What each fleet needs. Raises FleetClosed.

    Read after every wait, because fleets go on while another one is waited for. One of them may also have lost data meanwhile: what it says
    then, until its workers have healed it, lacks what they answer from. So each is asked once more after all was read: one that is open,
    in the epoch that was waited for, had lost nothing. Otherwise all begins again.
    """
    since = clock()
    for _ in range(MOST_ROUNDS):
        epochs = {
            name: wait_until_open(link, lease_s=identity(store, name, lease_s=None).lease_s)
            for name, link in fleets.items()
        }
        needs = {name: link.use(lambda registry: needed_by(registry, keep_last)) for name, link in fleets.items()}
        lost = [name for name, link in fleets.items() if not _is_still_open(link, epochs[name])]
        if not lost:
            return needs
    raise FleetClosed(lost[0], clock() - since)


def _is_still_open(link: Link, epoch: Epoch) -> bool:
    reply = link.ask(Read(""))
    return reply.open and reply.epoch_id == epoch


def _unknown_needs(store: AnyStore, fleet: str) -> ArtifactRefused:
    why = (
        f"fleet {fleet!r} keeps its artifacts there too, and this Redis does not say which. Give every fleet a store of its own,"
        f" or remove {store.root}/fleets/{fleet}.json if there is no such fleet (a mistyped name is enough to make one)"
    )
    return ArtifactRefused(str(store.root), why)
