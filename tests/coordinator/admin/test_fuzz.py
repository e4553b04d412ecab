"""Every route, asked with whatever its own description allows and with what it does not: nothing breaks, and nothing opens.

The programs that ask are made from /openapi.json as a client gets it, so a new route is asked, too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from flask import Flask
from genlock.coordinator.admin import deciding, looking, streams
from genlock.coordinator.admin.attempts import Attempts
from genlock.coordinator.admin.route import ROUTES
from genlock.coordinator.fleet import Fleet
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

assert looking  # it defines routes, as deciding does
#: Requests to each route of each kind, right and wrong ones.
EXAMPLES = 8
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
#: Token → what it is answered, by a route for operators.
ROLES = {None: 401, "looks-only": 403, "may-do-none": 401}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams end at once, decisions are waited for for a moment, and wrong tokens are not counted."""
    monkeypatch.setattr(streams, "LONGEST_S", 0.0)
    monkeypatch.setattr(deciding, "WAIT_S", 5.0)
    monkeypatch.setattr(Attempts, "failed", lambda *_: None)


@pytest.fixture
def schema(app: Flask, fleet: Fleet, tmp_path: Path) -> Any:
    """The description, of a fleet that has a model with a way back."""
    for content in ("1", "2"):
        path = tmp_path / "m.bin"
        path.write_text(content)
        fleet.publish("digits", path)
    return schemathesis.openapi.from_wsgi("/openapi.json", app)


#: Every route, and those that something can be wrong of: they read a parameter or a body.
NAMES = [route.name for route in ROUTES]
READING = [route.name for route in ROUTES if route.query or route.body or "{model}" in route.path]


def each(schema: Any, name: str, mode: GenerationMode) -> Any:
    """Requests to one route; half of those about a model are about the one that there is."""
    operation = schema.find_operation_by_id(name)
    known = st.booleans()

    def about(pair: tuple[Any, bool]) -> Any:
        case, is_known = pair
        if is_known and "model" in (case.path_parameters or {}):
            case.path_parameters["model"] = "digits"
        return case

    return st.tuples(operation.as_strategy(generation_mode=mode), known).map(about)


def try_all(cases: Any, check: Callable[[Any], None]) -> None:
    """`check` with EXAMPLES of them."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def run(case: Any) -> None:
        check(case)

    run()


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, GenerationMode.POSITIVE) for name in NAMES] + [(name, GenerationMode.NEGATIVE) for name in READING],
)
def test_an_operator_gets_what_is_described(schema: Any, impatient: None, name: str, mode: GenerationMode) -> None:
    """No 500, no status, type or field that the description does not have, whatever is sent."""

    def check(case: Any) -> None:
        case.call_and_validate(headers={"Authorization": "Bearer may-do-all"}, checks=CHECKS)

    try_all(each(schema, name, mode), check)


@pytest.mark.parametrize("name", [route.name for route in ROUTES if route.role])
def test_nobody_else_gets_anything(schema: Any, impatient: None, fleet: Fleet, name: str) -> None:
    """Whatever is sent, nothing is answered and nothing is changed without the role that the description names."""
    roles = [role for one in schema.find_operation_by_id(name).definition.raw["security"] for role in one["token"]]
    before = fleet.status()

    def check(case: Any) -> None:
        for token, status in ROLES.items():
            if token != "looks-only" or roles == ["operator"]:
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                assert case.call(headers=headers).status_code == status

    try_all(each(schema, name, GenerationMode.POSITIVE), check)
    assert fleet.status() == before
