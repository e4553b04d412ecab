"""The routes as an OpenAPI 3.1 document. Pure.

Schemas are those of msgspec, of the very types that requests are read into and answers written from. A security requirement names the role
that it takes, as OpenAPI 3.1 has it for schemes that are not OAuth.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec

from .. import problems
from .route import Route
from .wire import EVENTS, Problem

_REF = "#/components/schemas/{name}"
_JSON = "application/json"
#: What each status of an error means here.
MEANING = {
    400: "A name or header that cannot be used, or a body that is no JSON.",
    401: "No token, or none that is known.",
    403: "The token's role may not do this, or the file may not be published from there.",
    404: "There is no such model, generation or file.",
    409: "Decided against, or the model has changed meanwhile; `type` says which.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "JSON, a parameter or a file that makes no sense; `where` and `why` say what is wrong.",
    423: "Somebody else publishes this model.",
    429: "Too many wrong tokens from this address.",
    500: "What nobody expected; the log of the admin says more under `id`.",
    502: "Some worker failed to do it; `failed` says who and why.",
    503: "Redis does not answer, the fleet is closed, or too much is in work here.",
    504: "Some worker did not answer in time (`silent` says who), or it is not known whether it was done.",
    507: "The store is full.",
}
#: Headers of errors.
_RETRY = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The id of this change, of the client's choice: with one that was used before, its outcome is told.",
    "schema": {"type": "string", "pattern": '^"?[A-Za-z0-9._-]{1,128}"?$'},
}
_LAST = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "The last entry of the log that the client has had; with `follow`, what is behind it comes first.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,16}-[0-9]{1,16}$"},
}
_MODEL = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "The name of the model.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
}


#: What each event of a stream is.
_EVENT = {
    "description": "One event; lines that begin with a colon are comments.",
    "anyOf": [
        {
            "type": "object",
            "properties": {
                "event": {"const": event},
                "id": {"type": "string"},
                "data": {
                    "type": "string",
                    "contentMediaType": _JSON,
                    "contentSchema": {"$ref": _REF.format(name=kind.__name__)},
                },
            },
            "required": ["event", "data"],
        }
        for event, kind in EVENTS.items()
    ],
}
#: Media types of answers that have no type of ours.
_SCHEMAS: dict[str, Any] = {
    _JSON: {"type": "object"},
    "text/event-stream": _EVENT,
    "text/html": {"type": "string"},
    "text/plain": {"type": "string"},
}


def document_of(routes: Iterable[Route]) -> dict[str, Any]:
    """The description of these routes."""
    routes = tuple(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "genlock admin",
            "version": "1",
            "summary": "See and steer a fleet.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(routes),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A token of the role viewer or operator."}
            },
        },
    }


def _types(routes: Iterable[Route]) -> list[type[msgspec.Struct]]:
    found: dict[type[msgspec.Struct], None] = dict.fromkeys((Problem, *EVENTS.values()))
    for route in routes:
        found |= dict.fromkeys(kind for kind in (route.body, *route.answers.values()) if kind is not None)
    return list(found)


def _schemas(routes: Iterable[Route]) -> dict[str, Any]:
    _, components = msgspec.json.schema_components(_types(routes), ref_template=_REF)
    for schema in components.values():
        if "description" in schema:
            schema["description"] = " ".join(schema["description"].split())
    return components


def _operation(route: Route) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "description": route.description,
        "parameters": _parameters(route),
        "responses": {str(status): _answer(route, status) for status in route.answers}
        | {str(status): _problem(status) for status in sorted(route.problems)},
        "security": [] if route.role is None else [{"token": [route.role]}],
    }
    if route.body is not None:
        found["requestBody"] = {"required": False, "content": {_JSON: {"schema": _ref(route.body)}}}
    return found


def _parameters(route: Route) -> list[dict[str, Any]]:
    found = [_MODEL] if "{model}" in route.path else []
    if route.query is not None:
        found += _query(route.query)
    if route.text == "text/event-stream":
        found.append(_LAST)
    return [*found, _KEY] if route.body is not None else found


def _query(kind: type[msgspec.Struct]) -> list[dict[str, Any]]:
    _, components = msgspec.json.schema_components([kind], ref_template=_REF)
    properties = components[kind.__name__]["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": _plain(schema)}
        for name, schema in properties.items()
    ]


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that is not there is absent: there is no null in a URL."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"]
    return kinds[0] if kinds else schema


def _ref(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {"$ref": _REF.format(name=kind.__name__)}


def _answer(route: Route, status: int) -> dict[str, Any]:
    kind = route.answers[status]
    content = {} if kind is None else {_JSON: {"schema": _ref(kind)}}
    if route.text and status == HTTPStatus.OK:
        content[route.text] = {"schema": _SCHEMAS[route.text]}
    found: dict[str, Any] = {
        "description": "It goes on." if status == HTTPStatus.ACCEPTED else "Done.",
        "content": content,
    }
    if route.body is not None:
        found["headers"] = {"Idempotency-Key": {"description": "The id of this change.", "schema": {"type": "string"}}}
    return found


def _problem(status: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "description": MEANING[status],
        "content": {problems.MEDIA_TYPE: {"schema": _ref(Problem)}},
    }
    if status in (429, 503):
        found["headers"] = _RETRY
    if status == HTTPStatus.UNAUTHORIZED:
        found["headers"] = {"WWW-Authenticate": {"schema": {"const": "Bearer"}}}
    return found
