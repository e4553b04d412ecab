"""What stands in Redis of one fleet, read over its link and made into what people and programs are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from .calls import Attach
from .errors import UnknownModel
from .link import GONE, Ear, Link
from .manifest import check_name
from .records import Event, Snapshot
from .status import Generation, ModelStatus, history_of, numbers_of, read_manifest, status_of_model, tried_of

#: Seconds between two looks at the log by who follows it: not every entry has a hint.
FOLLOW_S = 0.5
#: Entries of the log that come at once; behind so many there may be more.
LOG_PIECE = 1000


def snapshot(link: Link) -> Snapshot:
    """All of the fleet, at one instant."""
    link.ask(Attach())  # refuses another fleet's keys, and a newer schema
    found = link.use(lambda registry: registry.snapshot())
    # A proposal that was refused leaves a record without any generation: nobody would call that a model.
    return replace(found, models={name: record for name, record in found.models.items() if record.next > 1})


def knowing(link: Link, model: str) -> Snapshot:
    """The fleet at one instant, which knows the model; raises UnknownModel."""
    found = snapshot(link)
    if check_name(model) not in found.models:
        raise UnknownModel(model, tuple(found.models))
    return found


def statuses(link: Link, found: Snapshot, *only: str) -> list[ModelStatus]:
    """The models of a snapshot, or those that are named."""
    records = {name: found.models[name] for name in only or found.models}
    tried = {name: place for name, record in records.items() if (place := tried_of(record))}
    active = {name: record.active.gen for name, record in records.items() if record.active}
    counted = link.use(lambda registry: registry.counted(tried))
    stored = link.use(lambda registry: registry.manifests_of(active))
    manifests = {name: read_manifest(data) for name, data in stored.items()}
    return [status_of_model(name, found, manifests.get(name), counted.get(name)) for name in records]


def history(link: Link, model: str, limit: int) -> list[Generation]:
    """The newest `limit` generations, the newest first; raises UnknownModel."""
    record = knowing(link, model).models[model]
    numbers = numbers_of(record)[-limit:]
    return history_of(record, link.use(lambda registry: registry.generations(model, numbers)))


def events(
    link: Link, *, follow: bool, newest: int, after: str | None, stop: Callable[[], bool] | None
) -> Iterator[Event]:
    """The audit log: the `newest` entries or those behind `after`, and with `follow` what comes until `stop` is true."""
    last = after or "-"
    found = link.use(lambda registry: registry.log(after=last) if after else registry.log(newest=newest))
    with Ear(link, None) as ear:
        while True:
            yield from found
            last = found[-1].id if found else last
            if not follow or (stop is not None and stop()):
                return
            if len(found) < LOG_PIECE:
                ear.wait(FOLLOW_S)
            found = _behind(link, last)


def _behind(link: Link, last: str) -> list[Event]:
    try:
        return link.use(lambda registry: registry.log(after=last))
    except GONE:
        return []
