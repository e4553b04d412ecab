"""Errors as HTTP answers: RFC 9457 `application/problem+json`. Pure but for the log of faults; no web framework is needed.

A GenlockError becomes `urn:genlock:problem:` and its class in kebab case, its own status, its sentence as `detail`, its facts as further
members, and `Retry-After` where it says when to come again. A setting that cannot be used is 503: no client can mend it.
An error of HTTP itself is `about:blank`, as the RFC has it. Whatever nobody expected is 500 with an `id` that the log has too; neither
its type nor its text leaves the process.
"""

from __future__ import annotations

import logging
import math
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from .errors import GenlockError, SettingsInvalid

if TYPE_CHECKING:
    from .task import TaskResult

_log = logging.getLogger("genlock.http")

MEDIA_TYPE = "application/problem+json"
#: What types of genlock's own begin with; these names are promises.
URN = "urn:genlock:problem:"
#: Members that the RFC has defined, and what is said in a header: no fact stands under these names.
_NOT_FACTS = ("type", "title", "status", "detail", "instance", "retry_after_s")
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
#: Headers of an error that an answer keeps; all others describe a body that is not sent.
_KEPT = ("Allow", "Retry-After", "WWW-Authenticate")


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer: its status, what its body says, and its headers beside the content type."""

    status: int
    members: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The body."""
        return msgspec.json.encode(self.members, enc_hook=str)


def kind_of(error: type[GenlockError]) -> str:
    """The name of an error's problems: `NotReady` is `not-ready`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", error.__name__).lower()


def of_error(error: GenlockError, instance: str) -> Problem:
    """A GenlockError; `instance`: the path of the request."""
    status = HTTPStatus.SERVICE_UNAVAILABLE.value if isinstance(error, SettingsInvalid) else error.status
    return of_kind(kind_of(type(error)), status, str(error), instance, error.facts)


def of_kind(kind: str, status: int, detail: str, instance: str, facts: Mapping[str, Any]) -> Problem:
    """A problem of genlock's own, under its kebab-case name."""
    headers: dict[str, str] = {}
    if (after := facts.get("retry_after_s")) is not None:
        headers["Retry-After"] = str(max(1, math.ceil(after)))
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    more = {name: fact for name, fact in facts.items() if name not in _NOT_FACTS}
    title = kind.replace("-", " ").capitalize()
    return Problem(status, _members(URN + kind, title, status, detail, instance) | more, headers)


def of_http(status: int, detail: str, instance: str, headers: Mapping[str, str] | None = None) -> Problem:
    """An error of HTTP itself, such as 404 or 405; of its `headers` those are kept that a client acts on."""
    title = _PHRASES.get(status, "Error")
    kept = {name: value for name, value in (headers or {}).items() if name in _KEPT}
    return Problem(status, _members("about:blank", title, status, detail, instance), kept)


def of_task(result: TaskResult, instance: str, *, waited_s: float) -> Problem | None:
    """Who did not do, or did not answer, what all workers had to do; None where all did."""
    if result.ok:
        return None
    facts = msgspec.to_builtins(result)
    what = f"{result.kind} of {result.model or 'all models'}"
    if result.silent:
        why = f"{what}: no answer within {waited_s:g} s from {', '.join(result.silent)}; they may still do it"
        return of_kind("silent-workers", 504, why, instance, facts)
    why = f"{what}: " + "; ".join(f"{worker} failed: {reason}" for worker, reason in result.failed.items())
    return of_kind("failed-workers", 502, why, instance, facts)


def of_fault(error: BaseException, instance: str) -> Problem:
    """What nobody expected: logged under the id that the answer carries."""
    name = uuid.uuid4().hex
    _log.error("error %s while answering %s", name, instance, exc_info=error)
    detail = f"something failed that should not have; the log of this process says more under {name}"
    return of_kind("fault", 500, detail, instance, {"id": name})


def _members(kind: str, title: str, status: int, detail: str, instance: str) -> dict[str, Any]:
    return {"type": kind, "title": title, "status": status, "detail": detail, "instance": instance}
