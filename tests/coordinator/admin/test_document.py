"""coordinator/admin/document.py: the description is valid OpenAPI, and it is complete."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from genlock.coordinator.admin import wire
from genlock.coordinator.admin.document import MEANING
from genlock.coordinator.admin.route import ROUTES
from openapi_spec_validator import OpenAPIV31SpecValidator

PROBLEM = "#/components/schemas/Problem"


@pytest.fixture
def document(nobody: Any) -> Any:
    return nobody.get("/openapi.json").json


def operations(document: Any) -> list[Any]:
    return [one for item in document["paths"].values() for one in item.values()]


def test_it_is_valid(document: Any) -> None:
    """Somebody makes a client of it."""
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_every_operation_says_who_may_and_what_may_come_back(document: Any) -> None:
    names = [one["operationId"] for one in operations(document)]
    assert len(names) == len(set(names)) == len(ROUTES)
    for one in operations(document):
        assert one["summary"].endswith("."), one
        assert "500" in one["responses"]
        for status, answer in one["responses"].items():
            assert answer["description"]
            if int(status) >= 400:
                assert answer["content"]["application/problem+json"]["schema"]["$ref"] == PROBLEM
        if one["security"]:
            assert {"401", "429", "503"} <= set(one["responses"])


def test_every_change_takes_a_key_and_a_body_and_names_the_key(document: Any) -> None:
    changes = [item["post"] for item in document["paths"].values() if "post" in item]
    assert len(changes) == 8
    for one in changes:
        assert [p["name"] for p in one["parameters"] if p["in"] == "header"] == ["Idempotency-Key"]
        assert one["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert "Idempotency-Key" in one["responses"]["200"]["headers"]
        assert {"202", "400", "403", "409", "413", "415", "422", "504"} <= set(one["responses"])


def test_every_type_of_the_wire_is_described_and_none_else(document: Any) -> None:
    """A field that is written and not described would be found by accident only."""
    described = set(document["components"]["schemas"])
    written = {name for name, kind in vars(wire).items() if getattr(kind, "__module__", "").endswith("admin.wire")}
    assert (
        written - {"EventsQuery", "HistoryQuery", "_Body"} <= described
    )  # two are parameters of a URL, one is the base of others
    assert {"ModelStatus", "Flip", "TaskResult", "Generation", "WorkerStatus", "CandidateWorker"} <= described


def test_parameters_are_those_that_are_read(document: Any) -> None:
    events = document["paths"]["/api/v1/events"]["get"]["parameters"]
    assert {p["name"]: p["in"] for p in events} == {
        "limit": "query",
        "after": "query",
        "follow": "query",
        "state": "query",
        "Last-Event-ID": "header",
    }
    limit = next(p for p in events if p["name"] == "limit")
    assert limit["schema"] == {"type": "integer", "minimum": 0, "maximum": 1000, "default": 100}


def test_every_status_that_a_route_names_has_a_meaning(app: Flask) -> None:
    assert {status for route in ROUTES for status in route.problems} == set(MEANING)


def test_every_route_is_on_the_page() -> None:
    """docs/admin.md, with its role, and none that there is not."""
    page = (Path(__file__).parents[3] / "docs/admin.md").read_text()
    rows = [row.split("|")[1:3] for row in page.splitlines() if row.startswith(("| `GET", "| `POST"))]
    told = {(route, role.strip() or None) for names, role in rows for route in re.findall(r"`([^`]+)`", names)}
    assert told == {(f"{route.method} {route.path}", route.role) for route in ROUTES}
