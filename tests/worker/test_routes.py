"""worker/routes.py: what holds of the routes whatever carries them. What each says is tested through Flask and FastAPI."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from genlock.coordinator.errors import NotReady
from genlock.coordinator.problems import MEDIA_TYPE
from genlock.worker.routes import ROUTES, Asked, Route


def test_the_routes_are_these() -> None:
    """Probes, scrapers and scripts of operators know them. The probe of liveness waits for nothing, so that an event loop may ask it."""
    assert [(route.method, route.path, route.waits) for route in ROUTES] == [
        ("GET", "/livez", False),
        ("GET", "/readyz", True),
        ("GET", "/metrics", True),
        ("GET", "/cache/stats", False),
        ("GET", "/cache/status", False),
        ("POST", "/cache/clear", True),
        ("POST", "/cache/refresh/{model}", True),
    ]


@pytest.mark.parametrize(
    ("error", "status", "kind"), [(NotReady("m", "made up"), 503, "not-ready"), (ZeroDivisionError(), 500, "fault")]
)
def test_an_answer_is_never_an_exception(
    error: Exception, status: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each framework would make another page of it."""

    def tell(cache: Any, asked: Any) -> Any:
        raise error

    with caplog.at_level(logging.ERROR):
        answer = Route("GET", "/x", tell).answer(None, Asked("/x"))  # type: ignore[arg-type]
    found = json.loads(answer.body)
    assert (answer.status, answer.headers["Content-Type"]) == (status, MEDIA_TYPE)
    assert (found["type"], found["instance"]) == (f"urn:genlock:problem:{kind}", "/x")
