"""worker/evaluation.py: the routes of the old evaluator, for the whole fleet."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flask import Blueprint, Flask, jsonify, request
from flask.testing import FlaskClient
from genlock.coordinator.fleet import Fleet
from genlock.worker import compat, evaluation
from genlock.worker.blueprint import init_app
from genlock.worker.compat import ModelEvaluator, evaluation_bp
from torch import nn

Train = Callable[[str, float], Path]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """train("a", 2.0): training overwrites a file of the signature "s", as if that had been long ago."""
    monkeypatch.setattr("genlock.worker.intake._unchanged_s", lambda _path: 60.0)

    def write(name: str, value: float) -> Path:
        path = tmp_path / "models" / "s" / f"{name}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"weight": torch.eye(2) * value, "bias": torch.zeros(2)}, path)
        return path

    return write


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return {"models_dir": tmp_path / "models", "build": lambda name: nn.Linear(2, 2), "cache_check_mtime": False}


@pytest.fixture
def new_evaluator(config: dict[str, Any], new_fleet: Callable[..., Fleet]) -> Iterator[Callable[[], ModelEvaluator]]:
    made: list[ModelEvaluator] = []

    def make() -> ModelEvaluator:
        made.append(ModelEvaluator(config, fleet=new_fleet()))
        return made[-1]

    yield make
    for evaluator in made:
        evaluator.close()


def new_app(evaluator: ModelEvaluator, **options: Any) -> Flask:
    """An app as the old one was: the blueprint, and a view function of its own."""
    app, views = Flask("old"), Blueprint("views", __name__)

    @views.post("/evaluate/<rqa_sig>")
    def evaluate(rqa_sig: str) -> Any:
        found = evaluator.evaluate(rqa_sig, torch.tensor(request.get_json()))
        return jsonify({name: scores.tolist() for name, scores in found.items()})

    app.register_blueprint(evaluation_bp, **options)
    app.register_blueprint(views)
    return app


@pytest.fixture
def evaluator(new_evaluator: Callable[[], ModelEvaluator]) -> ModelEvaluator:
    return new_evaluator()


@pytest.fixture
def client(evaluator: ModelEvaluator) -> FlaskClient:
    return new_app(evaluator).test_client()


def ask(client: FlaskClient, **headers: str) -> Any:
    return client.post("/evaluate/s", json=[[1.0, 1.0]], headers=headers)


def test_an_answer_names_the_generations_that_it_came_from(client: FlaskClient, train: Train) -> None:
    train("a", 2)
    train("b", 3)
    found = ask(client)
    assert found.get_json() == {"a": [[2, 2]], "b": [[3, 3]]}
    assert found.headers.getlist("X-Genlock-Generation") == ["s--a=1, s--b=1"]
    found = ask(client, **{"X-Genlock-Min-Generation": "s--b=2"})
    assert (found.status_code, found.mimetype) == (503, "application/problem+json")


def test_errors_are_problems_wherever_the_view_function_is(client: FlaskClient, train: Train) -> None:
    found = client.post("/evaluate/nix", json=[[1.0]])
    assert (found.status_code, found.get_json()["type"]) == (404, "urn:genlock:problem:unknown-signature")
    train("a", 2)
    found = client.post("/evaluate/s", json=[[1.0]])
    assert (found.status_code, "shapes cannot be multiplied" in found.get_json()["why"]) == (422, True)
    assert client.post("/evaluate/s", data="{").status_code == 415, "an error of the app is the app's"


def test_the_status_is_of_the_evaluator(client: FlaskClient, evaluator: ModelEvaluator, train: Train) -> None:
    train("a", 2)
    ask(client)
    assert client.get("/cache/status").get_json() == evaluator.cache_status()
    assert evaluator.cache_status()["signatures"]["s"]["models"] == ["a"]


def test_a_clear_reaches_every_worker(
    client: FlaskClient, evaluator: ModelEvaluator, new_evaluator: Callable[[], ModelEvaluator], train: Train
) -> None:
    train("a", 2)
    other = new_evaluator()
    other.load_models("s")
    ask(client)
    found = client.post("/cache/clear")
    assert (found.status_code, found.get_json()["status"], found.get_json()["asked"]) == (200, "cleared", 2)
    assert evaluator.cache.get_warmed_models() == other.cache.get_warmed_models() == []
    assert ask(client).get_json() == {"a": [[2, 2]]}


def test_a_refresh_publishes_what_changed_for_every_worker(
    client: FlaskClient, new_evaluator: Callable[[], ModelEvaluator], train: Train
) -> None:
    path = train("a", 2)
    train("b", 3)
    other = new_evaluator()
    other.load_models("s")
    ask(client)
    train("a", 5)
    found = client.post("/cache/refresh/s")
    told = found.get_json()
    assert (found.status_code, told["status"], told["rqa_sig"]) == (200, "refreshed", "s")
    assert told["models"] == {"a": "published", "b": "refreshed"}
    assert ask(client).get_json() == {"a": [[5, 5]], "b": [[3, 3]]}
    assert other.get_model("s", "a").weight[0, 0].item() == 5
    path.write_bytes(b"PK\x03\x04 torn")
    found = client.post("/cache/refresh/s")
    assert (found.status_code, found.get_json()["type"]) == (502, "urn:genlock:problem:failed-workers")
    assert "truncated" in found.get_json()["failed"]["s--a"]
    assert ask(client).get_json()["a"] == [[5, 5]]
    assert client.post("/cache/refresh/nix").status_code == 404


def test_only_operators_change_something(client: FlaskClient, train: Train) -> None:
    """Without a token only this machine may: these routes reach every worker of every host."""
    train("a", 2)
    ask(client)
    for path in ("/cache/clear", "/cache/refresh/s"):
        found = client.post(path, environ_base={"REMOTE_ADDR": "10.1.2.3"})
        assert found.status_code == 403
        assert client.post(path, headers={"X-Forwarded-For": "10.1.2.3"}).status_code == 403
    assert client.get("/cache/status", environ_base={"REMOTE_ADDR": "10.1.2.3"}).status_code == 200


def test_a_prefix_and_the_routes_of_a_worker_go_along(evaluator: ModelEvaluator, train: Train) -> None:
    """Headers are told once, however many of our blueprints an app has."""
    train("a", 2)
    app = new_app(evaluator, url_prefix="/api/evaluation")
    init_app(app, evaluator.cache)
    client = app.test_client()
    assert ask(client).headers.getlist("X-Genlock-Generation") == ["1"]
    assert set(client.get("/api/evaluation/cache/status").get_json()["signatures"]) == {"s"}
    assert set(client.get("/cache/status").get_json()["models"]) == {"s--a"}
    assert client.get("/readyz").status_code == 200


def test_the_blueprints_routes_come_first_where_both_have_them(evaluator: ModelEvaluator, train: Train) -> None:
    train("a", 2)
    app = new_app(evaluator)
    init_app(app, evaluator.cache)
    assert ask(app.test_client()).status_code == 200
    assert set(app.test_client().get("/cache/status").get_json()["signatures"]) == {"s"}


def test_old_code_may_add_routes_of_its_own(evaluator: ModelEvaluator) -> None:
    """On the blueprint itself, under names that ours must not have taken."""
    app = new_app(evaluator)
    ours = {rule.endpoint for rule in app.url_map.iter_rules() if rule.endpoint.startswith("evaluation.")}
    assert ours == {"evaluation.cache_status", "evaluation.clear_cache", "evaluation.refresh_cache"}


def test_an_app_speaks_for_its_own_evaluator(
    evaluator: ModelEvaluator, new_evaluator: Callable[[], ModelEvaluator], train: Train
) -> None:
    train("a", 2)
    evaluator.load_models("s")
    newest = new_evaluator()
    mine, other = new_app(evaluator), new_app(newest)
    mine.extensions["model_evaluator"] = evaluator
    assert set(mine.test_client().get("/cache/status").get_json()["signatures"]) == {"s"}
    assert other.test_client().get("/cache/status").get_json()["signatures"] == {}


def test_an_app_without_an_evaluator_gets_one(monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]) -> None:
    """Old code may only have registered the blueprint."""
    monkeypatch.setattr(evaluation, "_evaluators", ())
    monkeypatch.setattr(compat, "EVALUATION_CONFIG", {**compat.EVALUATION_CONFIG, **config}, raising=False)
    app = Flask("old")
    app.register_blueprint(evaluation_bp)
    assert app.test_client().get("/cache/status").get_json()["config"]["cache_check_mtime"] is False
    gc.collect()
    (evaluator,) = evaluation.evaluators()
    with app.app_context():
        assert evaluation.evaluator_of_app() is evaluator, "the app has it"
    evaluator.close()
    assert evaluation.evaluators() == []


def test_an_evaluator_lives_as_long_as_its_cache(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], new_fleet: Callable[..., Fleet]
) -> None:
    """An app factory has made it and returned, and the app has its cache: the routes spoke for another one, with the default folder."""
    monkeypatch.setattr(evaluation, "_evaluators", ())

    def create_app() -> Flask:
        evaluator = ModelEvaluator(config, fleet=new_fleet())
        app = Flask("old")
        app.register_blueprint(evaluation_bp)
        init_app(app, evaluator.cache)
        return app

    app = create_app()
    gc.collect()
    assert app.test_client().get("/cache/status").get_json()["config"]["cache_check_mtime"] is False
    assert [one.config["models_dir"] for one in evaluation.evaluators()] == [config["models_dir"]]
    del app
    gc.collect()
    assert evaluation.evaluators() == [], "nobody has the cache any more"


def test_an_evaluator_that_nobody_has_is_gone(
    config: dict[str, Any], new_fleet: Callable[..., Fleet], evaluator: ModelEvaluator
) -> None:
    """Routes may speak for it, and kept it, its models and its memory for as long as the process ran."""
    later = ModelEvaluator(config, fleet=new_fleet())
    gone = weakref.ref(later)
    with new_app(evaluator).app_context():
        assert evaluation.evaluator_of_app() is later
        del later
        gc.collect()
        assert gone() is None
        assert evaluation.evaluator_of_app() is evaluator
