"""The routes that show something."""

from __future__ import annotations

from typing import Any

from flask import Response

from ..errors import UnknownModel
from ..fleet import Fleet
from ..metrics import CONTENT_TYPE
from ..status import ModelStatus
from . import wire
from .figures import figures
from .reader import entry_of
from .route import API, LOOKING, Asked, route
from .wire import EventsQuery, HistoryQuery


@route("GET", f"{API}/whoami", role="viewer", answers={200: wire.Whoami}, problems=LOOKING)
def whoami(asked: Asked) -> wire.Whoami:
    """Show whom the token belongs to."""
    return wire.Whoami(role=asked.caller.role, name=asked.caller.name)


@route("GET", f"{API}/fleet", role="viewer", answers={200: wire.FleetNow}, problems=LOOKING)
def fleet(asked: Asked) -> bytes:
    """Show the fleet: how many models and workers it has, and how old what is shown is."""
    return asked.admin.reader.picture().fleet_json


@route("GET", f"{API}/models", role="viewer", answers={200: wire.Models}, problems=LOOKING)
def models(asked: Asked) -> bytes:
    """Show all models."""
    return asked.admin.reader.picture().models_json


@route("GET", f"{API}/models/{{model}}", role="viewer", answers={200: ModelStatus}, problems=(400, 404, *LOOKING))
def model(asked: Asked) -> Any:
    """Show one model, and how far each worker is with its candidate."""
    picture = asked.admin.reader.picture()
    found = picture.model(asked.model)
    if found is None:
        raise UnknownModel(asked.model, tuple(picture.models))
    return found


@route(
    "GET", f"{API}/models/{{model}}/history", role="viewer", answers={200: wire.History}, problems=(400, 404, *LOOKING)
)
def history(asked: Asked, query: HistoryQuery) -> wire.History:
    """Show the generations of a model, the newest first, and the artifacts of each."""
    with Fleet(settings=asked.admin.settings) as found:
        return wire.History(generations=found.history(asked.model, limit=query.limit))


@route("GET", f"{API}/workers", role="viewer", answers={200: wire.Workers}, problems=LOOKING)
def workers(asked: Asked) -> bytes:
    """Show the live workers, as each describes itself, in the order in which they joined."""
    return asked.admin.reader.picture().workers_json


@route("GET", f"{API}/stats", role="viewer", answers={200: wire.Stats}, problems=LOOKING)
def stats(asked: Asked) -> wire.Stats:
    """Show the figures of all workers together."""
    return asked.admin.reader.picture().stats


@route(
    "GET",
    f"{API}/events",
    role="viewer",
    answers={200: wire.Events},
    text="text/event-stream",
    problems=LOOKING,
)
def events(asked: Asked, query: EventsQuery) -> Any:
    """Show the audit log, the newest entries or those behind one; with `follow` as server-sent events that go on.

    A stream has events `log` (an entry, with its id) and with `state` also `fleet`, `models`, `workers` and `candidate`, of which the first
    ones tell everything and later ones what has changed.
    """
    if query.follow:
        return asked.admin.streams.answer(query, asked.after)
    found = asked.admin.reader.events(limit=query.limit, after=query.after)
    if found is None:  # older than what is at hand
        with Fleet(settings=asked.admin.settings) as old:
            found = [entry_of(event) for event in old.registry.log(after=query.after or "-")][: query.limit]
    return wire.Events(events=found)


# --- open to everybody -----------------------------------------------------------------------------------------------


@route("GET", "/livez", role=None, answers={200: wire.Alive}, problems=(500,))
def livez(asked: Asked) -> wire.Alive:
    """200 as long as restarting this process would not help."""
    return wire.Alive(alive=True)


@route("GET", "/readyz", role=None, answers={200: wire.Ready}, problems=(500, 503))
def readyz(asked: Asked) -> Any:
    """200 if Redis answers, 503 if what is shown is old."""
    return asked.admin.readiness()


@route("GET", "/metrics", role=None, answers={200: None}, text="text/plain", problems=(500, 503))
def metrics(asked: Asked) -> Response:
    """The figures of the fleet as Prometheus reads them."""
    reader = asked.admin.reader
    return Response(figures(reader.picture(), reader.told.heard()), 200, {"Content-Type": CONTENT_TYPE})


@route("GET", "/openapi.json", role=None, answers={200: None}, text="application/json", problems=(500,))
def openapi(asked: Asked) -> bytes:
    """This description, as OpenAPI 3.1."""
    return asked.admin.document


@route("GET", "/", role=None, answers={200: None}, text="text/html", problems=(404, 500))
def page(asked: Asked) -> Response:
    """The dashboard."""
    return asked.admin.file("index.html")
