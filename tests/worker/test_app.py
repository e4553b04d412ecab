"""worker/app.py: the ready-made evaluator, as a client meets it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flask.testing import FlaskClient
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.problems import MEDIA_TYPE
from genlock.worker import app as room
from genlock.worker.app import create_app
from genlock.worker.cache import ModelCache
from safetensors.torch import save_file
from torch import nn

Publish = Callable[..., Any]
NewCache = Callable[..., ModelCache]


@pytest.fixture
def cache(publish: Publish, new_cache: NewCache) -> ModelCache:
    publish(3)
    return new_cache()


@pytest.fixture
def client(cache: ModelCache) -> FlaskClient:
    return create_app(cache).test_client()


def refused(answer: Any, status: int, *words: str) -> Any:
    assert answer.status_code == status, answer.text
    assert answer.content_type == MEDIA_TYPE
    assert "Traceback" not in answer.text
    for word in words:
        assert word in answer.json["detail"]
    return answer.json


def test_an_evaluation_says_what_and_from_where(client: FlaskClient, cache: ModelCache, publish: Publish) -> None:
    for generation, value in ((1, 3), (2, 4)):
        answer = client.post("/evaluate/m", json={"inputs": [[1, 2], [0.5, 0]]})
        assert answer.json == {
            "model": "m",
            "outputs": [[1 * value, 2 * value], [0.5 * value, 0]],
            "generation": generation,
            "version": cache.get("m").version,
            "worker": cache.worker,
            "stale": False,
        }
        assert answer.headers["X-Genlock-Generation"] == str(generation)
        assert answer.headers["X-Genlock-Version"] == cache.get("m").version
        assert answer.content_type == "application/json"
        publish(4)


def test_inputs_may_have_names_and_types(client: FlaskClient) -> None:
    answer = client.post("/evaluate/m", json={"inputs": {"input": [[1, 1]]}, "dtype": {"input": "float32"}})
    assert answer.json["outputs"] == [[3, 3]]
    assert client.post("/evaluate/m", json={"inputs": []}).status_code == 422


def test_a_self_contained_program_needs_no_code(fleet: Fleet, new_cache: NewCache, tmp_path: Path) -> None:
    class Twice(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x * 2, x.argmax(dim=1)

    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Twice(), (torch.ones(2, 3),), dynamic_shapes={"x": {0: batch}})
    torch.export.save(program, tmp_path / "twice.pt2")
    fleet.publish("twice", tmp_path / "twice.pt2")
    client = create_app(new_cache(settings={"models": "twice"}, loaders={})).test_client()
    answer = client.post("/evaluate/twice", json={"inputs": [[1, 2, 3]]})
    assert answer.json["outputs"] == [[[2.0, 4.0, 6.0]], [2]]
    refused(client.post("/evaluate/twice", json={"inputs": [[1, 2]]}), 422, "does not take them")


def test_a_model_that_says_nan_answers_null(publish: Publish, cache: ModelCache, client: FlaskClient) -> None:
    assert client.post("/evaluate/m", json={"inputs": [[3e38, -3e38]]}).json["outputs"] == [[None, None]]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, ["no JSON"]),
        (b"{", 400, ["no JSON"]),
        (b'{"inputs": [[1, NaN]]}', 400, ["no JSON"]),
        (b'{"inputs": [[1, 2], [3, "x"]]}', 422, ["inputs[1][1]: expected a number"]),
        (b'{"inputs": [[1, 2], [3]]}', 422, ["inputs[1]"]),
        (b'{"input": [[1, 2]]}', 422, ["`input`"]),
        (
            b'{"inputs": [[1, 2, 3]]}',
            422,
            ["model 'm' does not take them", "mat1 and mat2 shapes cannot be multiplied"],
        ),
        (b'{"inputs": {"x": [[1, 2]]}}', 422, ["unexpected keyword argument 'x'"]),
        (b'{"inputs": [[1, 2]], "dtype": "int64"}', 422, ["model 'm' does not take them"]),
    ],
)
def test_what_a_model_cannot_take_is_refused_with_where(
    client: FlaskClient, body: bytes, status: int, words: list[str]
) -> None:
    answer = client.post("/evaluate/m", data=body, content_type="application/json")
    found = refused(answer, status, *words)
    assert found["instance"] == "/evaluate/m"
    if status == 422:
        assert found["where"]


def test_json_nested_without_end_is_refused(client: FlaskClient) -> None:
    deep = b'{"inputs": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    answer = client.post("/evaluate/m", data=deep, content_type="application/json")
    assert answer.status_code in (400, 422)


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "APPLICATION/JSON"])
def test_a_content_type_may_have_parameters(client: FlaskClient, content_type: str) -> None:
    answer = client.post("/evaluate/m", data=b'{"inputs": [[1, 2]]}', content_type=content_type)
    assert answer.status_code == 200


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_another_content_type_is_refused(client: FlaskClient, content_type: str | None) -> None:
    """A form of a foreign page can send these without asking; JSON it cannot."""
    answer = client.post("/evaluate/m", data=b'{"inputs": [[1, 2]]}', content_type=content_type)
    refused(answer, 415, "application/json")


def test_a_body_too_large_is_refused(client: FlaskClient) -> None:
    client.application.config["MAX_CONTENT_LENGTH"] = 100
    answer = client.post("/evaluate/m", data=b"[" * 101, content_type="application/json")
    assert refused(answer, 413)["title"] == "Request Entity Too Large"
    assert room.MAX_BODY_BYTES == 16 * 2**20


def test_only_configured_models_are_served(client: FlaskClient, cache: ModelCache, publish: Publish) -> None:
    """Names come from anybody: a worker must not hold whatever is asked for."""
    publish(1, "other")
    refused(client.post("/evaluate/other", json={"inputs": [[1, 2]]}), 404, "does not serve 'other', but: m")
    assert cache.runtime is None


def test_a_configured_model_that_nobody_published_is_not_ready(new_cache: NewCache) -> None:
    """It will be there as soon as somebody publishes it: 404 would say that the client has the name wrong."""
    client = create_app(new_cache()).test_client()
    found = refused(client.post("/evaluate/m", json={"inputs": [[1, 2]]}), 503, "genlock publish m")
    assert found["type"] == "urn:genlock:problem:not-ready"
    refused(client.get("/readyz"), 503, "m: nothing is published yet: `genlock publish m PATH`")


def test_a_demand_is_refused_at_once(client: FlaskClient) -> None:
    headers = {"X-Genlock-Min-Generation": "2"}
    answer = client.post("/evaluate/m", json={"inputs": [[1, 2]]}, headers=headers)
    refused(answer, 503, "demands 2 or later")
    assert answer.headers["Retry-After"] == "1"


def test_a_fault_is_logged_under_the_id_that_the_client_gets(
    fleet: Fleet, new_cache: NewCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A loader whose payload cannot be called."""
    save_file({"w": torch.ones(1)}, tmp_path / "f")
    fleet.publish("m", tmp_path / "f")
    client = create_app(new_cache(loaders={"m": lambda checkpoint: checkpoint.state_dict()})).test_client()
    with caplog.at_level(logging.ERROR):
        found = refused(client.post("/evaluate/m", json={"inputs": [1]}), 500)
    assert found["id"] in caplog.text
    assert "nobody can call" in caplog.text
    assert "nobody can call" not in found["detail"]


def test_other_paths_and_methods_are_problems(client: FlaskClient) -> None:
    refused(client.get("/nowhere"), 404)
    answer = client.get("/evaluate/m")
    refused(answer, 405)
    assert "POST" in answer.headers["Allow"]
    refused(client.get("/static/app.py"), 404)


def test_the_routes_of_a_worker_are_there(client: FlaskClient, cache: ModelCache) -> None:
    cache.prewarm()
    assert (
        client.get("/readyz").status_code
        == client.get("/livez").status_code
        == client.get("/metrics").status_code
        == 200
    )


def test_an_evaluator_without_models_says_so(new_cache: NewCache, caplog: pytest.LogCaptureFixture) -> None:
    client = create_app(new_cache(loaders={})).test_client()
    assert "GENLOCK_MODELS is empty" in caplog.text
    refused(client.post("/evaluate/m", json={"inputs": [1]}), 404, "but: nothing")


FROM_ENV = """
import sys
from genlock.worker import app as room
assert "torch" not in sys.modules and "app" not in vars(room)
import flask, json
assert isinstance(room.app, flask.Flask) and room.app is room.app
cache = room.app.extensions["genlock"]
answer = room.app.test_client().post("/evaluate/m", json={"inputs": [[1, 2]]})
print(json.dumps([sorted(cache.configured), answer.json["outputs"]]))
"""


def test_the_app_of_the_environment_is_made_when_it_is_asked_for(
    publish: Publish, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `gunicorn genlock.worker.app:app` does."""
    publish(5)
    (tmp_path / "mine.py").write_text("import torch\ndef build():\n    return torch.nn.Linear(2, 2)\n")
    names = {"REDIS_URL": redis_url, "FLEET": "t", "STORE": tmp_path / "store", "STATE_DIR": tmp_path / "state"}
    for name, value in {**names, "MODELS": "m=mine:build"}.items():
        monkeypatch.setenv(f"GENLOCK_{name}", str(value))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", FROM_ENV], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["m"], [[5.0, 10.0]]]
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = room.other


def test_the_app_is_made_once(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLOCK_REDIS_URL", redis_url)
    monkeypatch.setenv("GENLOCK_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("GENLOCK_MODELS", "m")
    monkeypatch.delitem(vars(room), "app", raising=False)
    assert room.app is room.app
    assert room.app.extensions["genlock"].configured == {"m"}
    monkeypatch.delitem(vars(room), "app")
