"""What a route is: one definition, from which the application takes how to answer and `document` how to describe it. Pure.

    @route("POST", "/api/v1/models/{model}/pin", role="operator", answers={200: Decided}, problems=DECIDING)
    def pin(asked: Asked, body: Why) -> Decided:
        '''Keep the model at its active generation.'''

The types of the parameters `query` and `body` are what a request is read into, the docstring is the description.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec

from ..gate import Caller

if TYPE_CHECKING:
    from .application import Admin

#: Status → what it has, None: no JSON that a type describes.
Answers = Mapping[int, type[msgspec.Struct] | None]

#: Where the routes of the API stand.
API = "/api/v1"
#: Statuses of a route that looks: no token, a role that may not, a question that makes no sense, too many wrong tokens, no Redis.
LOOKING = (401, 422, 429, 500, 503)
#: Of one that decides: also a name or header that cannot be used, no such model, another state, a body that is not JSON or too large.
DECIDING = (400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503, 504)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request, as a view sees it. `model`: of its path; `request`: its id (R10); `after`: the last entry that a stream has had."""

    admin: Admin
    caller: Caller
    address: str
    model: str
    request: str
    after: str | None

    @property
    def author(self) -> str:
        """Who it is for the audit log."""
        return f"{self.caller.name}@{self.address or 'socket'}"


@dataclass(frozen=True, kw_only=True)
class Route:
    """`path`: as OpenAPI writes it; `role`: who may, None: everybody; `answers`: status → type; `text`: another media type of 200;
    `problems`: statuses of errors; `query`, `body`: what the request is read into. With a body it takes a header Idempotency-Key."""

    method: str
    path: str
    role: str | None
    view: Callable[..., Any]
    answers: Answers
    text: str
    problems: tuple[int, ...]
    query: type[msgspec.Struct] | None
    body: type[msgspec.Struct] | None

    @property
    def name(self) -> str:
        """Of its operation."""
        return self.view.__name__

    @property
    def rule(self) -> str:
        """The path as Flask writes it."""
        return self.path.replace("{", "<").replace("}", ">")

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.view) or "").partition("\n")[0]

    @property
    def description(self) -> str:
        return " ".join((inspect.getdoc(self.view) or "").split())


#: All of them, in the order of their definition.
ROUTES: list[Route] = []


def route(
    method: str,
    path: str,
    *,
    role: str | None,
    answers: Answers,
    text: str = "",
    problems: tuple[int, ...] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Defines the route of the view below it; see Route."""

    def define(view: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(view)
        ROUTES.append(
            Route(
                method=method,
                path=path,
                role=role,
                view=view,
                answers=answers,
                text=text,
                problems=problems,
                query=hints.get("query"),
                body=hints.get("body"),
            )
        )
        return view

    return define
