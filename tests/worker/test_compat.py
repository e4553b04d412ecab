"""worker/compat.py and worker/batches.py: the old evaluator's names do what they did, for the whole fleet.

Every row of the table in docs/migrating.md has a test in ROWS.
"""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from genlock.coordinator.errors import BadInput, DoesNotFit, NotReady, SettingsInvalid
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.task import TaskResult
from genlock.coordinator.watching.offer import Offered
from genlock.worker import compat
from genlock.worker.compat import ModelEvaluator
from genlock.worker.signatures import UnknownSignature
from torch import nn

ROOT = Path(__file__).parents[2]
SIG = "dim=3;tau=1"
Train = Callable[..., Path]
NewEvaluator = Callable[..., ModelEvaluator]
WaitFor = Callable[..., Any]
Background = Callable[[Callable[[], Any]], "Future[Any]"]


def build(name: str) -> nn.Module:
    """What the old evaluator was given, too."""
    if not name[0].isalpha():
        raise KeyError(name)
    return nn.Linear(2, 2)


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.eye(2) * value, "bias": torch.zeros(2)}


def answers(evaluator: ModelEvaluator, rqa_sig: str = SIG) -> dict[str, float]:
    """Name → what its model multiplies by."""
    return {name: found[0, 0].item() for name, found in evaluator.evaluate(rqa_sig, torch.ones(1, 2)).items()}


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as written long ago, and are looked at often; intake and watching test the times themselves."""
    monkeypatch.setattr("genlock.worker.intake._unchanged_s", lambda _path: 60.0)
    monkeypatch.setattr("genlock.coordinator.watching.watcher.SETTLED_S", 0.05)
    monkeypatch.setattr("genlock.coordinator.watching.watcher.POLL_S", 0.05)
    monkeypatch.setattr("genlock.worker.newcomers.LOOK_S", 0.05)


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """train("a", 2.0, rqa_sig=SIG): training overwrites the file of that name. Instead of what its model multiplies by: a state dict; a
    good file that a test overwrites with a bad one may have been published in between."""

    def write(name: str, value: float | dict[str, torch.Tensor], rqa_sig: str = SIG) -> Path:
        path = tmp_path / "models" / rqa_sig / f"{name}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(value if isinstance(value, dict) else weights(value), path)
        return path

    return write


@pytest.fixture
def new_evaluator(new_fleet: Callable[..., Fleet], tmp_path: Path) -> Iterator[NewEvaluator]:
    """new_evaluator(settings={…}, **config): a worker in this process; nothing looks at files unless the configuration says so."""
    made: list[ModelEvaluator] = []

    def make(settings: dict[str, Any] | None = None, **config: Any) -> ModelEvaluator:
        fleet = new_fleet()
        fleet.settings = fleet.settings.with_arguments(**{"max_wait_s": 20.0} | (settings or {}))
        usual = {"models_dir": tmp_path / "models", "build": build, "cache_check_mtime": False}
        made.append(ModelEvaluator(usual | config, fleet=fleet))
        return made[-1]

    yield make
    for evaluator in made:
        evaluator.close()


# --- the batch -------------------------------------------------------------------------------------------------------


def test_a_signature_is_loaded_as_a_batch(train: Train, new_evaluator: NewEvaluator, fleet: Fleet) -> None:
    train("b", 3)
    train("a-1", 2)
    train("a", 9, rqa_sig="other")
    evaluator = new_evaluator()
    models = evaluator.load_models(SIG)
    assert list(models) == ["a-1", "b"]
    assert all(isinstance(model, nn.Module) and not model.training for model in models.values())
    assert answers(evaluator) == {"a-1": 2, "b": 3}
    assert evaluator.get_model(SIG, "b") is models["b"]
    assert evaluator.load_models(SIG)["a-1"] is models["a-1"], "a hit"
    assert [model.model for model in fleet.status().models] == ["dim-3d3-3btau-3d1--a-2d1", "dim-3d3-3btau-3d1--b"]


def test_the_first_use_publishes_once_for_all_workers(
    train: Train, new_evaluator: NewEvaluator, fleet: Fleet, background: Background
) -> None:
    """Four workers and two threads of each meet a new signature at the same time."""
    train("a", 2)
    train("b", 3)
    evaluators = [new_evaluator() for _ in range(4)]
    found = [background(lambda one=one: answers(one)) for one in (*evaluators, *evaluators)]
    assert [one.result() for one in found] == [{"a": 2, "b": 3}] * 8
    assert [len(fleet.history(model.model)) for model in fleet.status().models] == [1, 1]


def test_a_host_without_the_files_takes_the_fleets(train: Train, new_evaluator: NewEvaluator, tmp_path: Path) -> None:
    train("a", 2)
    assert answers(new_evaluator()) == {"a": 2}
    elsewhere = new_evaluator(models_dir=tmp_path / "nowhere")
    assert answers(elsewhere) == {"a": 2}
    assert elsewhere.refresh(SIG).models == {"a": "refreshed"}
    with pytest.raises(UnknownSignature):
        elsewhere.refresh("nix")


def test_what_stands_for_nothing_is_named(train: Train, new_evaluator: NewEvaluator, tmp_path: Path) -> None:
    train("a", 2)
    evaluator = new_evaluator()
    with pytest.raises(
        UnknownSignature, match=f"'nix': no file of it in {tmp_path}/models/nix, and the fleet has no model"
    ):
        evaluator.load_models("nix")
    with pytest.raises(UnknownSignature, match="it has no model 'b', only: a"):
        evaluator.get_model(SIG, "b")
    with pytest.raises(BadInput):
        evaluator.load_models("../models")
    assert list(evaluator.cache_status()["signatures"]) == [SIG], "names come with requests: none is remembered"


def test_a_signature_that_nobody_has_costs_next_to_nothing(
    train: Train, new_evaluator: NewEvaluator, fleet: Fleet, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any name may come with a request: each opened a connection, and read the whole fleet."""
    monkeypatch.setattr("genlock.worker.batches.UNKNOWN_S", 3600.0)
    path = train("a", 2, rqa_sig="trained")
    evaluator = new_evaluator()
    snapshots: list[Fleet] = []
    snapshot = Fleet.snapshot
    monkeypatch.setattr(Fleet, "snapshot", lambda one: (snapshots.append(one), snapshot(one))[1])
    for number in range(50):
        with pytest.raises(UnknownSignature, match="the fleet has no model of it"):
            evaluator.load_models(f"none-{number % 7}")
    assert len(snapshots) == 1
    assert answers(evaluator, "trained") == {"a": 2}, "files of this host are seen at once"
    fleet.publish("elsewhere--a", path)
    with pytest.raises(UnknownSignature):
        evaluator.load_models("elsewhere")
    evaluator.cache.forget("elsewhere")
    assert answers(evaluator, "elsewhere") == {"a": 2}
    fleet.publish("later--a", path)
    with pytest.raises(UnknownSignature):
        evaluator.load_models("later")
    monkeypatch.setattr("genlock.worker.batches.UNKNOWN_S", 0.0)
    assert answers(evaluator, "later") == {"a": 2}, "that is forgotten after a moment"


def test_more_models_than_a_worker_holds_are_refused_before_anything_is_published(
    train: Train, new_evaluator: NewEvaluator, fleet: Fleet
) -> None:
    for name in "abc":
        train(name, 1)
    evaluator = new_evaluator({"max_models": 2})
    with pytest.raises(
        DoesNotFit, match=r"has 3 models, a worker holds at most 2 \(GENLOCK_MAX_MODELS, up to 50\): divide"
    ):
        evaluator.load_models(SIG)
    assert fleet.status().models == []


def test_a_file_that_comes_later_joins_when_it_is_loaded(
    train: Train, new_evaluator: NewEvaluator, fleet: Fleet, wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    """And one that cannot be loaded does not take the batch along: the others go on answering."""
    train("a", 2)
    evaluator = new_evaluator(cache_check_mtime=True)
    assert answers(evaluator) == {"a": 2}
    bad = train("b", {"wrong": torch.zeros(1)})
    wait_for(lambda: "b is left out of its batch, because generation 1 could not be loaded here" in caplog.text)
    assert answers(evaluator) == {"a": 2}
    train("b", 4)
    assert wait_for(lambda: answers(evaluator).get("b")) == 4
    bad.unlink()
    assert answers(evaluator) == {"a": 2, "b": 4}, "training may be about to write it again"


def test_a_bad_new_file_keeps_no_worker_from_answering(
    train: Train, new_evaluator: NewEvaluator, tmp_path: Path, wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    """Training leaves a torn file, one of other shapes and one with a name too long beside the good ones. Workers that ran went on without
    them; every one that was started after that answered 422 or 503 for the whole signature."""
    train("a", 2)
    running = new_evaluator(cache_check_mtime=True)
    assert answers(running) == {"a": 2}
    whole = train("other", 3, rqa_sig="other").read_bytes()
    (tmp_path / "models" / SIG / "torn.pt").write_bytes(whole[:700])
    train("wrong", {"weight": torch.zeros(7, 7), "bias": torch.zeros(7)})
    train("ä" * 40, 5)
    wait_for(lambda: "wrong is left out of its batch, because generation 1" in caplog.text)
    assert answers(running) == {"a": 2}
    caplog.clear()
    started = new_evaluator(cache_check_mtime=True)
    assert answers(started) == {"a": 2}
    assert answers(started) == {"a": 2}
    for name, why in (("torn", "truncated"), ("wrong", "generation 1 could not be loaded here"), ("ä" * 40, "128 are")):
        (said,) = {text for text in caplog.messages if "left out of its batch" in text and why in text}
        assert name in said or SIG.replace("=", "-3d").replace(";", "-3b") in said
        assert caplog.messages.count(said) == 1, "it is looked every second, and said once"
    train("torn", 6)
    train("wrong", 7)
    wait_for(lambda: answers(started) == {"a": 2, "torn": 6, "wrong": 7}, 20)


def test_where_no_file_is_good_the_error_says_why(train: Train, new_evaluator: NewEvaluator) -> None:
    torch.save({"weight": torch.zeros(7, 7)}, train("a", 2))
    torch.save({"weight": torch.zeros(7, 7)}, train("b", 3))
    evaluator = new_evaluator()
    for _ in range(2):
        with pytest.raises(NotReady, match="generation 1 could not be loaded here"):
            evaluator.load_models(SIG)
    train("c", 4).write_bytes(b"PK torn")
    done = evaluator.refresh(SIG)
    assert (done.models["c"], list(done.models)) == ("failed", ["a", "b", "c"])
    assert set(done.result.failed) >= {"dim-3d3-3btau-3d1--c"}


def test_a_new_file_that_training_still_writes_makes_nobody_wait(
    train: Train, new_evaluator: NewEvaluator, fleet: Fleet, wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker is restarted while training writes a further model: its requests waited for that one, and then answered 503."""
    train("a", 2)
    assert answers(new_evaluator()) == {"a": 2}
    whole = train("b", 3).read_bytes()
    started = new_evaluator({"max_wait_s": 15.0}, cache_check_mtime=True)
    with train("b", 3).open("wb") as file:
        file.write(whole[:700])
        file.flush()
        began = time.monotonic()
        assert answers(started) == {"a": 2}
        assert time.monotonic() - began < 10
        assert "it joins when it is whole" in caplog.text
        file.write(whole[700:])
    wait_for(lambda: answers(started) == {"a": 2, "b": 3}, 20)


def test_a_file_that_is_written_all_the_time_is_not_published(train: Train, new_evaluator: NewEvaluator) -> None:
    with train("a", 2).open("ab"), pytest.raises(NotReady, match="was written to all the time"):
        new_evaluator({"max_wait_s": 0.1}).load_models(SIG)


def test_a_file_too_many_is_said_once_and_the_others_go_on(
    train: Train, new_evaluator: NewEvaluator, fleet: Fleet, wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    train("a", 2)
    evaluator = new_evaluator({"max_models": 1}, cache_check_mtime=True)
    assert answers(evaluator) == {"a": 2}
    train("b", 3)
    looks: list[str] = []
    names = evaluator.cache.files.names
    evaluator.cache.files.names = lambda rqa_sig: (looks.append(rqa_sig), names(rqa_sig))[1]  # type: ignore[method-assign]
    wait_for(lambda: "a worker holds at most 1" in caplog.text)
    count = len(looks)
    wait_for(lambda: len(looks) > count + 2)
    assert caplog.text.count("a worker holds at most 1") == 1
    assert answers(evaluator) == {"a": 2}


def test_a_new_redis_gets_the_files_again(train: Train, new_evaluator: NewEvaluator, fleet: Fleet) -> None:
    """A batch is known here, and the fleet has no model of it: somebody has removed them all."""
    train("a", 2)
    evaluator = new_evaluator()
    assert answers(evaluator) == {"a": 2}
    evaluator.cache.signatures.replace(SIG, {"a": "gone--a"})
    assert answers(evaluator) == {"a": 2}


def test_without_redis_a_worker_that_starts_uses_what_its_host_has_kept(
    train: Train, new_evaluator: NewEvaluator, new_fleet: Callable[..., Fleet], tmp_path: Path, wait_for: WaitFor
) -> None:
    train("a", 2)
    evaluator = new_evaluator()
    assert answers(evaluator) == {"a": 2}
    wait_for(lambda: any((tmp_path / "state").rglob(f"*{evaluator.cache.batches[SIG]['a']}*")))
    gone = new_fleet(url=f"unix://{tmp_path}/nobody")
    gone.settings = gone.settings.with_arguments(max_wait_s=5.0)
    config = {"models_dir": tmp_path / "models", "build": build, "cache_check_mtime": False}
    alone = ModelEvaluator(config, fleet=gone)
    try:
        assert answers(alone) == {"a": 2}
        assert alone.cache.batches == {}, "asked again as soon as there is a Redis"
        with pytest.raises(Exception, match="nobody"):
            alone.load_models("nix")
    finally:
        alone.close()


# --- what the files hold ---------------------------------------------------------------------------------------------


def test_loaders_by_name_and_programs(train: Train, new_evaluator: NewEvaluator) -> None:
    train("a", 2)
    program = train("b", 0)
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), program.with_suffix(".pt2"))
    program.with_suffix(".pt2").rename(program)
    evaluator = new_evaluator(build={"a": lambda: nn.Linear(2, 2)})
    assert answers(evaluator).keys() == {"a", "b"}


def test_weights_without_build_say_what_is_missing(train: Train, new_evaluator: NewEvaluator) -> None:
    train("a", 2)
    with pytest.raises(
        NotReady, match=r'EVALUATION_CONFIG\["build"\] = build, a function that makes the module of a name'
    ):
        new_evaluator(build=None).load_models(SIG)


def test_a_whole_pickled_module_says_what_to_do(train: Train, new_evaluator: NewEvaluator) -> None:
    """The old evaluator unpickled whatever lay there: that is code which anybody who can write the file can have executed."""
    torch.save(nn.Linear(2, 2), train("a", 2))
    evaluator = new_evaluator()
    with pytest.raises(NotReady, match=r"asks for torch.nn.modules.linear.Linear, which is code: save the state dict"):
        evaluator.load_models(SIG)
    train("a", 4)
    assert evaluator.refresh(SIG).models == {"a": "published"}
    assert answers(evaluator) == {"a": 4}


# --- what becomes of it ----------------------------------------------------------------------------------------------


def test_a_changed_file_changes_all_workers(
    train: Train, new_evaluator: NewEvaluator, wait_for: WaitFor, fleet: Fleet
) -> None:
    path = train("a", 2)
    train("b", 3)
    evaluators = [new_evaluator(cache_check_mtime=True) for _ in range(2)]
    before = [answers(one) for one in evaluators]
    assert before == [{"a": 2, "b": 3}] * 2
    train("a", 5)
    wait_for(lambda: [answers(one)["a"] for one in evaluators] == [5, 5])
    assert [len(fleet.history(model.model)) for model in fleet.status().models] == [2, 1], "published once"
    assert evaluators[1].timestamps[SIG]["a"] == path.stat().st_mtime


def test_without_check_mtime_only_a_refresh_publishes(train: Train, new_evaluator: NewEvaluator, fleet: Fleet) -> None:
    path = train("a", 2)
    train("b", 3)
    evaluator, other = new_evaluator(), new_evaluator()
    assert answers(evaluator) == answers(other) == {"a": 2, "b": 3}
    train("a", 5)
    train("c", 7)
    assert answers(evaluator) == {"a": 2, "b": 3}
    done = evaluator.refresh(SIG)
    assert done.models == {"a": "published", "b": "refreshed", "c": "published"}
    assert (done.result.ok, done.result.asked) == (True, 2)
    assert answers(evaluator) == {"a": 5, "b": 3, "c": 7}
    path.write_bytes(b"PK\x03\x04 torn")
    done = evaluator.refresh(SIG)
    assert done.models["a"] == "failed"
    assert "truncated" in done.result.failed[evaluator.cache.batches[SIG]["a"]]
    assert answers(evaluator)["a"] == answers(other)["a"] == 5, "what was active stays active"


def test_a_refresh_does_not_say_refreshed_of_a_file_that_is_not_served(
    train: Train, new_evaluator: NewEvaluator, fleet: Fleet
) -> None:
    """Whoever asks for a refresh of what the fleet went back from, or has refused, believes otherwise that the file is served now."""
    train("a", 2)
    evaluator = new_evaluator()
    assert answers(evaluator) == {"a": 2}
    train("a", 5)
    assert evaluator.refresh(SIG).models == {"a": "published"}
    fleet.rollback(evaluator.cache.batches[SIG]["a"], pin=False)
    assert evaluator.refresh(SIG).models == {"a": "kept"}
    assert answers(evaluator) == {"a": 2}


class Clock:
    """Time passes where a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_refresh_keeps_its_time_however_many_models_there_are(
    train: Train, new_evaluator: NewEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve files were being written: a refresh for 3 s took 9, and one of fifty models longer than gunicorn lets a worker be busy."""
    for name in "abcd":
        train(name, 2)
    evaluator, clock = new_evaluator(), Clock()
    assert set(answers(evaluator)) == set("abcd")
    waited: dict[str, float] = {}

    def published(fleet: Fleet, model: str, path: Path, *, note: str, timeout_s: float, is_all: bool) -> Offered:
        assert is_all, "the fleet has no more time for it than that"
        waited[path.stem] = timeout_s
        clock.now += {"a": 1.0, "b": 0.5}.get(path.stem, timeout_s)
        if path.stem == "c":
            raise NotReady(model, "it was written to all the time")
        return Offered(model=model, outcome="committed")

    monkeypatch.setattr(compat, "clock", clock)
    monkeypatch.setattr(compat, "publish_file", published)
    done = evaluator.refresh(SIG, timeout=3.0)
    assert clock.now == 103.0
    assert waited == {"a": 3.0, "b": 2.0, "c": 1.5}, "each what the others have left"
    assert done.models == {"a": "published", "b": "published", "c": "failed", "d": "failed"}
    why = done.result.failed[evaluator.cache.batches[SIG]["d"]]
    assert "the time was over before its turn came: ask again" in why


def test_the_workers_get_what_publishing_has_left_of_the_time(
    train: Train, new_evaluator: NewEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it takes to find that a file is no other one was spent twice."""
    train("a", 2)
    train("b", 3)
    evaluator, clock = new_evaluator(), Clock()
    assert answers(evaluator) == {"a": 2, "b": 3}
    waited: list[float] = []

    def unchanged(fleet: Fleet, model: str, path: Path, **_: Any) -> Offered:
        clock.now += 2.0
        return Offered(model=model, outcome="unchanged", version=fleet.model(model).version)

    def refresh(_fleet: Fleet, model: str, *, timeout: float) -> TaskResult:
        waited.append(timeout)
        clock.now += 0.5
        return TaskResult(kind="refresh", model=model, asked=0, done={}, failed={}, silent=())

    monkeypatch.setattr(compat, "clock", clock)
    monkeypatch.setattr(compat, "publish_file", unchanged)
    monkeypatch.setattr(Fleet, "refresh", refresh)
    assert evaluator.refresh(SIG, timeout=4.5).models == {"a": "refreshed", "b": "failed"}
    assert waited == [2.5], "for the second one nothing was left after its file was read"


def test_one_entry_and_one_signature_and_all_are_dropped_here(
    train: Train, new_evaluator: NewEvaluator, caplog: pytest.LogCaptureFixture
) -> None:
    train("a", 2)
    train("b", 3)
    evaluator, other = new_evaluator(), new_evaluator()
    assert answers(evaluator) == answers(other)
    caplog.set_level(logging.INFO, "genlock.worker.compat")
    kept = evaluator.load_models(SIG)["b"]
    evaluator.invalidate(SIG, "a")
    assert evaluator.cache_status()["signatures"][SIG]["loaded"] is False
    assert evaluator.load_models(SIG)["b"] is kept
    evaluator.invalidate(SIG)
    assert evaluator.cache.get_warmed_models() == []
    assert answers(evaluator) == {"a": 2, "b": 3}
    evaluator.clear_cache()
    evaluator.invalidate("never used")
    assert evaluator.cache_status()["signatures"] == {}
    assert other.cache_status()["signatures"][SIG]["loaded"] is True, "in this process only"
    assert f"invalidated: {SIG}/a, generation 1: invalidated" in caplog.text
    assert f"reloaded: {SIG}/a, generation 1: invalidated" in caplog.text
    assert f"invalidated: {SIG}/b, generation 1: cleared" in caplog.text


def test_a_clear_of_the_fleet_looks_up_the_batch_again(
    train: Train, new_evaluator: NewEvaluator, fleet: Fleet, wait_for: WaitFor
) -> None:
    train("a", 2)
    evaluator = new_evaluator()
    assert answers(evaluator) == {"a": 2}
    train("b", 3)
    assert fleet.clear().ok
    wait_for(lambda: not evaluator.cache.batches)
    assert answers(evaluator) == {"a": 2, "b": 3}


# --- the configuration -----------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_config(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """EVALUATION_CONFIG as a new process reads it."""
    for name in ("USE_CACHE", "FORCE_RELOAD", "CHECK_MTIME", "CACHE_TTL"):
        monkeypatch.delenv(f"M10D_{name}", raising=False)
        monkeypatch.delenv(f"GENLOCK_{name}", raising=False)
    before = vars(compat).pop("EVALUATION_CONFIG", None)
    yield
    vars(compat).pop("EVALUATION_CONFIG", None)
    if before is not None:
        vars(compat)["EVALUATION_CONFIG"] = before


@pytest.mark.usefixtures("fresh_config")
def test_the_configuration_is_what_it_was() -> None:
    assert compat.EVALUATION_CONFIG == {
        "models_dir": "models",
        "build": None,
        "use_cache": True,
        "cache_check_mtime": True,
        "cache_ttl": None,
        "force_reload": False,
    }
    assert compat.EVALUATION_CONFIG is importlib.import_module("genlock.worker.compat").EVALUATION_CONFIG
    with pytest.raises(AttributeError, match="NOTHING"):
        compat.NOTHING  # noqa: B018


@pytest.mark.usefixtures("fresh_config")
def test_the_older_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M10D_USE_CACHE", "false")
    monkeypatch.setenv("M10D_FORCE_RELOAD", "yes")
    monkeypatch.setenv("M10D_CHECK_MTIME", "0")
    monkeypatch.setenv("M10D_CACHE_TTL", "90")
    config = compat.EVALUATION_CONFIG
    assert (config["use_cache"], config["force_reload"]) == (False, True)
    assert (config["cache_check_mtime"], config["cache_ttl"]) == (False, 90)
    vars(compat).pop("EVALUATION_CONFIG")
    monkeypatch.setenv("GENLOCK_CHECK_MTIME", "true")
    assert compat.EVALUATION_CONFIG["cache_check_mtime"] is True, "the newer name counts before the older"


@pytest.mark.usefixtures("fresh_config")
def test_a_time_to_live_of_0_is_none_in_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old deployments say M10D_CACHE_TTL=0, and their workers did not start."""
    monkeypatch.setenv("M10D_CACHE_TTL", "0")
    assert compat.EVALUATION_CONFIG["cache_ttl"] is None


def test_the_status_says_the_configuration_that_counts(new_evaluator: NewEvaluator) -> None:
    """A configuration from a file of text: "false" worked as false, and was shown as text, which is true."""
    found = new_evaluator(use_cache="false", cache_check_mtime="no", cache_ttl="5m", force_reload="1").cache_status()
    config = {"use_cache": False, "cache_check_mtime": False, "cache_ttl": 300.0, "force_reload": True}
    assert found["config"] == config


@pytest.mark.usefixtures("fresh_config")
def test_the_dictionary_becomes_the_settings(new_evaluator: NewEvaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = new_evaluator(
        use_cache=False, cache_check_mtime=True, cache_ttl=90, force_reload=True, device="cpu"
    ).cache.settings
    assert (settings.use_cache, settings.check_mtime, settings.force_reload) == (False, True, True)
    assert settings.cache_ttl_s == 90
    for none in (0, None, "0", 0.0):
        assert new_evaluator({"cache_ttl_s": 5.0}, cache_ttl=none).cache.settings.cache_ttl_s is None
    with pytest.raises(SettingsInvalid, match="cache_ttl_s"):
        new_evaluator(cache_ttl="soon")
    monkeypatch.setenv("GENLOCK_FLEET", "of-the-environment")
    evaluator = ModelEvaluator()
    assert (evaluator.cache.fleet.name, evaluator.config) == ("of-the-environment", compat.EVALUATION_CONFIG)
    evaluator.close()


def test_use_cache_false_loads_every_time(
    train: Train, new_evaluator: NewEvaluator, caplog: pytest.LogCaptureFixture
) -> None:
    train("a", 2)
    caplog.set_level(logging.DEBUG, "genlock.worker.compat")
    evaluator = new_evaluator(use_cache=False)
    assert evaluator.load_models(SIG)["a"] is not evaluator.load_models(SIG)["a"]
    assert caplog.text.count(f"reloaded: {SIG}/a, generation 1: forced") == 2
    assert "hit:" not in caplog.text


def test_force_reload_loads_what_is_not_the_same_file(train: Train, new_evaluator: NewEvaluator, fleet: Fleet) -> None:
    train("a", 2)
    evaluator = new_evaluator(force_reload=True)
    before = evaluator.load_models(SIG)["a"]
    assert evaluator.load_models(SIG)["a"] is before
    (stored,) = [found.path for found in fleet.store.objects()]
    stored.rename(stored.with_name("aside"))
    stored.with_name("aside").rename(stored)
    stored.touch()
    assert evaluator.load_models(SIG)["a"] is not before


def test_the_time_to_live_drops_what_nobody_uses(
    train: Train, new_evaluator: NewEvaluator, wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    train("a", 2)
    caplog.set_level(logging.INFO, "genlock.worker.compat")
    evaluator = new_evaluator(cache_ttl=0.1)
    assert answers(evaluator) == {"a": 2}
    wait_for(lambda: not evaluator.cache.views)
    assert answers(evaluator) == {"a": 2}
    assert f"invalidated: {SIG}/a, generation 1: ttl" in caplog.text
    assert f"reloaded: {SIG}/a, generation 1: ttl" in caplog.text


# --- what people see -------------------------------------------------------------------------------------------------


def test_the_status_tells_each_signature(train: Train, new_evaluator: NewEvaluator) -> None:
    a, b = train("a", 2), train("b", 3)
    evaluator = new_evaluator()
    for _ in range(3):
        evaluator.load_models(SIG)
    found = evaluator.cache_status()
    assert found["config"] == {"use_cache": True, "cache_check_mtime": False, "cache_ttl": None, "force_reload": False}
    assert (found["hits"], found["misses"], found["worker"]) == (4, 2, evaluator.cache.worker)
    status = found["signatures"][SIG]
    assert (status["models"], status["loaded"], status["hits"], status["misses"]) == (["a", "b"], True, 4, 2)
    assert status["timestamps"] == {"a": a.stat().st_mtime, "b": b.stat().st_mtime} == evaluator.timestamps[SIG]
    assert (status["generations"], status["stale"]) == ({"a": 1, "b": 1}, [])


def test_the_time_of_what_came_from_elsewhere_is_when_it_was_published(
    train: Train, new_evaluator: NewEvaluator, fleet: Fleet
) -> None:
    train("a", 2)
    evaluator = new_evaluator()
    evaluator.load_models(SIG)
    with fleet.publishing(evaluator.cache.batches[SIG]["a"]) as draft:
        torch.save(weights(4), draft.path("model"))
    assert answers(evaluator) == {"a": 4}
    assert evaluator.timestamps[SIG]["a"] == pytest.approx(
        fleet.history(evaluator.cache.batches[SIG]["a"])[0].created_at
    )


def test_hits_and_reloads_are_logged_with_their_reason(
    train: Train, new_evaluator: NewEvaluator, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    train("a", 2)
    caplog.set_level(logging.DEBUG, "genlock.worker.compat")
    evaluator = new_evaluator()
    evaluator.load_models(SIG)
    evaluator.load_models(SIG)
    train("a", 3)
    evaluator.refresh(SIG)
    evaluator.refresh(SIG)
    fleet.rollback(evaluator.cache.batches[SIG]["a"])
    evaluator.load_models(SIG)
    said = [record.getMessage() for record in caplog.records if record.name == "genlock.worker.compat"]
    assert said == [
        f"reloaded: {SIG}/a, generation 1: first use",
        f"hit: {SIG}/a, generation 1",
        f"reloaded: {SIG}/a, generation 2: file changed",
        f"reloaded: {SIG}/a, generation 2: refreshed",
        f"reloaded: {SIG}/a, generation 3: rolled back",
        f"hit: {SIG}/a, generation 3",
    ]


def test_closing_ends_its_thread(train: Train, new_evaluator: NewEvaluator) -> None:
    train("a", 2)
    evaluator = new_evaluator()
    evaluator.load_models(SIG)
    assert "genlock-batches" in [thread.name for thread in threading.enumerate()]
    evaluator.close()
    evaluator.close()
    assert "genlock-batches" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(NotReady, match="closed"):
        evaluator.load_models(SIG)


def test_a_batch_answers_where_its_thread_cannot_begin(train: Train, new_evaluator: NewEvaluator) -> None:
    """The user may have no more threads just now. The batch is complete; a later use begins the thread."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "genlock-batches":
            raise RuntimeError("can't start new thread")
        start(thread)

    train("a", 2)
    evaluator = new_evaluator()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert answers(evaluator) == {"a": 2}
        evaluator.refresh(SIG)
        assert answers(evaluator) == {"a": 2}
    assert "genlock-batches" not in [thread.name for thread in threading.enumerate()]
    assert answers(evaluator) == {"a": 2}
    assert "genlock-batches" in [thread.name for thread in threading.enumerate()]


def test_a_model_of_no_signature_is_any_model_of_the_fleet(
    train: Train, new_evaluator: NewEvaluator, fleet: Fleet
) -> None:
    fleet.publish("digits", train("a", 2))
    evaluator = new_evaluator({"models": "digits=torch.nn:Identity"})
    assert evaluator.cache.loader_of("digits") is evaluator.cache.loader_of("digits")
    with pytest.raises(NotReady, match="unexpected: '"):
        evaluator.cache.get("digits")


#: What the first words of each row of the table in docs/migrating.md promise → the test of it.
ROWS = {
    "`load_models(rqa_sig)`": "test_compat::test_a_signature_is_loaded_as_a_batch",
    "the first request": "test_compat::test_the_first_use_publishes_once_for_all_workers",
    "`get_model(rqa_sig, name)`": "test_compat::test_a_signature_is_loaded_as_a_batch",
    "the time of each file": "test_compat::test_a_changed_file_changes_all_workers",
    "a changed file": "../flow/test_m10d::test_before_and_after_answer_the_same_but_for_what_went_wrong",
    "a file that is half written": "../flow/test_m10d::test_before_and_after_answer_the_same_but_for_what_went_wrong",
    "a new file belongs": "test_compat::test_a_file_that_comes_later_joins_when_it_is_loaded",
    "a new file that is no good": "test_compat::test_a_bad_new_file_keeps_no_worker_from_answering",
    "a file that is removed": "test_compat::test_a_file_that_comes_later_joins_when_it_is_loaded",
    "`invalidate(rqa_sig)`": "test_compat::test_one_entry_and_one_signature_and_all_are_dropped_here",
    "`POST /cache/clear`": "test_evaluation::test_a_clear_reaches_every_worker",
    "`POST /cache/refresh/<rqa_sig>`": "test_evaluation::test_a_refresh_publishes_what_changed_for_every_worker",
    "`GET /cache/status`": "../flow/test_m10d::test_before_and_after_answer_the_same_but_for_what_went_wrong",
    "time stamps": "test_compat::test_the_status_tells_each_signature",
    "`use_cache=False`": "test_compat::test_use_cache_false_loads_every_time",
    "`force_reload=True`": "test_compat::test_force_reload_loads_what_is_not_the_same_file",
    "`cache_ttl`": "test_compat::test_the_time_to_live_drops_what_nobody_uses",
    "hits, invalidations and reloads": "test_compat::test_hits_and_reloads_are_logged_with_their_reason",
    "`EVALUATION_CONFIG`": "test_compat::test_the_older_variables_are_read",
    "as many models": "test_compat::test_more_models_than_a_worker_holds_are_refused_before_anything_is_published",
    "`torch.load` of whole modules": "test_compat::test_a_whole_pickled_module_says_what_to_do",
    "errors are status 500": "test_evaluation::test_errors_are_problems_wherever_the_view_function_is",
}


def test_every_row_of_the_page_has_a_test() -> None:
    """Somebody decides by that table whether to come over."""
    table = (ROOT / "docs/migrating.md").read_text().partition("| then | now |\n")[2].partition("\n\n")[0]
    rows = [line.removeprefix("| ") for line in table.splitlines()[1:]]
    assert [[key for key in ROWS if row.startswith(key)] for row in rows] == [[key] for key in ROWS]
    for where in ROWS.values():
        file, _, name = where.partition("::")
        assert f"\ndef {name}(" in (Path(__file__).parent / f"{file}.py").read_text(), where
