"""What becomes of a training job's saves, with a fleet, and without one."""

import logging
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from genlock.coordinator import Fleet
from genlock.coordinator.errors import (
    ArtifactError,
    BadInput,
    FlipRejected,
    InvalidName,
    RedisUnreachable,
    SettingsInvalid,
)
from genlock.coordinator.golden import read_golden
from genlock.coordinator.hooks import Publishing
from genlock.coordinator.manifest import decode
from safetensors.torch import load_file, save_file
from torch import nn


@pytest.fixture
def net() -> nn.Module:
    return nn.Linear(4, 2)


def drafts(fleet: Fleet) -> list[str]:
    """What lies about of saves that were not published."""
    folder = fleet.store.root / "drafts"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def object_of(fleet: Fleet, generation: int, name: str = "model") -> Path:
    (found,) = [one for one in fleet.history("digits") if one.generation == generation]
    (part,) = [one for one in found.artifacts if one.name == name]
    return fleet.store.path(part.digest)


def test_the_trainer_may_overwrite_its_file_as_soon_as_it_goes_on(fleet: Fleet, tmp_path: Path, net: nn.Module) -> None:
    """Most loops write one `last.pt` again and again, in place: what is published is what was in it when the line was reached."""
    path = tmp_path / "last.pt"
    with Publishing("digits", fleet, message="run 41") as publishing:
        torch.save(net.state_dict(), path)
        publishing.after_save(path, {"val_loss": 0.5}, epoch=1, step=10)
        path.write_bytes(b"the next save has begun")
    assert (publishing.published, publishing.failed, publishing.skipped) == (1, 0, 0)
    assert publishing.last is not None and publishing.last.generation == 1
    (found,) = fleet.history("digits")
    assert found.message == "run 41: epoch 1, step 10"
    assert found.metrics == {"val_loss": 0.5, "epoch": 1.0, "step": 10.0}
    published = torch.load(object_of(fleet, 1), weights_only=True)
    assert torch.equal(published["weight"], net.state_dict()["weight"])
    assert drafts(fleet) == []


def test_a_module_is_published_as_it_is_at_that_moment(fleet: Fleet, net: nn.Module) -> None:
    before = net.state_dict()["weight"].clone()
    with Publishing("digits", fleet) as publishing:
        publishing.after_save(net)
        with torch.no_grad():
            net.weight.add_(1)
    assert torch.equal(load_file(object_of(fleet, 1))["weight"], before)


@pytest.mark.parametrize("form", ["module", "file", "wrapped file", "files", "factory"])
def test_golden_outputs_are_those_of_the_saved_weights(fleet: Fleet, tmp_path: Path, net: nn.Module, form: str) -> None:
    inputs = torch.ones(3, 4)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    expected = net(inputs).detach()
    made = (lambda: nn.Linear(4, 2)) if form == "factory" else None
    with Publishing("digits", fleet, golden=lambda: inputs, factory=made, atol=0.5) as publishing:
        if form == "module":
            publishing.after_save(net)
        elif form == "files":
            paths = {name: tmp_path / name for name in state}
            for name, path in paths.items():
                save_file({name: state[name]}, path)
            publishing.after_save(paths, module=net)
        else:
            torch.save(state if form == "file" else {"state_dict": state}, tmp_path / "m.pt")
            publishing.after_save(tmp_path / "m.pt", module=None if made else net)
    assert publishing.last_error is None
    stored = fleet.registry.generations("digits", [1])[1][0]
    golden = decode(stored or b"").golden
    assert golden is not None and golden.atol == 0.5
    assert torch.equal(read_golden(fleet.store.path(golden.digest))[1], expected)


def test_only_saves_in_which_the_metric_gets_better(
    fleet: Fleet, net: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    with Publishing("digits", fleet, monitor="acc", mode="max", every=1) as publishing, caplog.at_level(logging.INFO):
        for score in (0.5, 0.4, float("nan"), torch.tensor(0.75)):
            publishing.after_save(net, {"acc": score})
            publishing.wait()
        for _ in range(2):
            publishing.after_save(net, {"loss": 1.0})
    assert [one.metrics["acc"] for one in fleet.history("digits")] == [0.75, 0.5]
    assert (publishing.published, publishing.skipped, publishing.failed) == (2, 4, 0)
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == ["model 'digits': a save without the metric 'acc' is not published; logged was: loss"]


def test_training_goes_on_without_redis(tmp_path: Path, net: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    """A training job of a week must not die, nor wait, because the server of somebody else's service restarts."""
    gone = Fleet(f"unix://{tmp_path}/nobody", store=tmp_path / "store", state_dir=tmp_path / "state")
    with Publishing("digits", gone, monitor="loss") as publishing:
        publishing.after_save(net, {"loss": 1.0}, epoch=3)
        assert publishing.wait(20)
        publishing.after_save(net, {"loss": 2.0}, epoch=4)
    assert (publishing.published, publishing.failed, publishing.skipped) == (0, 2, 0)
    assert isinstance(publishing.last_error, RedisUnreachable)
    assert "the save of epoch 3, loss 1 was not published: no Redis answers at" in caplog.text
    assert [record.event for record in caplog.records] == ["not-published"] * 2  # type: ignore[attr-defined]
    assert drafts(gone) == []


def test_a_save_that_workers_reject_is_said_with_who_and_why(
    fleet: Fleet,
    member: Callable[..., Any],
    background: Callable[..., Any],
    net: nn.Module,
    wait_for: Callable[..., Any],
) -> None:
    worker = member()
    publishing = Publishing("digits", fleet)
    publishing.after_save(net)
    generation = wait_for(worker.candidate)
    worker.bad(generation, why="NaN in layer 1")
    assert publishing.wait(20)
    assert isinstance(publishing.last_error, FlipRejected)
    assert "NaN in layer 1" in str(publishing.last_error) and "h:1" in str(publishing.last_error)


def test_the_newest_save_replaces_one_that_waits(
    fleet: Fleet, member: Callable[..., Any], net: nn.Module, wait_for: Callable[..., Any]
) -> None:
    """Workers take longer than an epoch: training is not held up, and no queue of old weights builds up."""
    worker = member()
    publishing = Publishing("digits", fleet)
    for epoch in range(4):
        publishing.after_save(net, epoch=epoch)
        with torch.no_grad():
            net.weight.add_(1)
        wait_for(worker.candidate)
    assert not publishing.wait(0.01)
    for generation in (1, 2):
        wait_for(lambda expected=generation: worker.candidate() == expected)
        worker.ready(generation)
        wait_for(lambda: worker.state().phase == "fencing" or worker.state().active)
        worker.fenced(generation)
    assert publishing.wait(20)
    assert (publishing.published, publishing.skipped, publishing.failed) == (2, 2, 0)
    assert [one.message for one in fleet.history("digits")] == ["epoch 3", "epoch 0"]
    assert drafts(fleet) == []


def test_strict_raises_in_training_and_counts(fleet: Fleet, tmp_path: Path, net: nn.Module) -> None:
    publishing = Publishing("digits", fleet, strict=True)
    publishing.after_save(net)
    assert publishing.published == 1, "it is decided when the line is passed"
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(ArtifactError, match=r"torn\.safetensors"):
        publishing.after_save(tmp_path / "torn.safetensors")
    fleet.pin("digits")
    with pytest.raises(Exception, match="pinned"):
        publishing.after_save(net)
    assert (publishing.published, publishing.failed) == (1, 2)


@pytest.mark.parametrize(
    ("where", "metrics", "message"),
    [
        ({"epoch": torch.tensor(3), "step": torch.tensor(5)}, {"loss": 1}, "epoch 3, step 5"),
        ({"epoch": "3", "step": "last"}, None, "epoch 3"),
        ({"epoch": float("nan")}, {}, ""),
    ],
)
def test_epoch_and_step_may_be_tensors_or_text(
    fleet: Fleet, net: nn.Module, where: dict[str, Any], metrics: Any, message: str
) -> None:
    """The message could not be made of them: the thread died, wait() never returned, and no later save was published."""
    with Publishing("digits", fleet) as publishing:
        publishing.after_save(net, metrics, **where)
        assert publishing.wait(20)
        publishing.after_save(net, {"loss": 1.0}, epoch=4)
    assert (publishing.published, publishing.failed) == (2, 0)
    assert [one.message for one in fleet.history("digits")] == ["epoch 4", message]


def test_metrics_that_are_none_do_not_end_training(fleet: Fleet, net: nn.Module) -> None:
    """A list of losses where a dict belongs, and a tensor as a step beside golden inputs that raise: both were raised into training."""

    def missing() -> Any:
        raise FileNotFoundError("batch.pt")

    with Publishing("digits", fleet) as publishing:
        publishing.after_save(net, [0.5])  # type: ignore[arg-type]
        assert publishing.failed == 1 and "dict of numbers by name" in str(publishing.last_error)
        publishing.after_save(net, {"loss": 0.5})
    assert (publishing.published, publishing.failed) == (1, 1)
    Publishing("digits", fleet, golden=missing).after_save(net, {"loss": 0.5}, step=torch.tensor(5))
    with pytest.raises(BadInput, match="not list"):
        Publishing("digits", fleet, strict=True).after_save(net, [0.5])  # type: ignore[arg-type]
    assert drafts(fleet) == []


def test_a_process_that_may_have_no_further_thread_trains_on(
    fleet: Fleet, net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    publishing = Publishing("digits", fleet, monitor="loss")
    with monkeypatch.context() as full:
        full.setattr("threading.Thread.start", MagicMock(side_effect=RuntimeError("can't start new thread")))
        publishing.after_save(net, {"loss": 0.5})
    assert (publishing.failed, str(publishing.last_error), drafts(fleet)) == (1, "can't start new thread", [])
    publishing.after_save(net, {"loss": 0.6})
    assert publishing.wait(20) and publishing.published == 1


def test_a_job_that_is_resumed_does_not_replace_a_better_model(
    fleet: Fleet, net: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    """After a restart, or with `ckpt_path`, the first save counted as the best one so far, and replaced what the last run had published."""
    for run, scores in enumerate(((0.2,), (0.9, 0.3, 0.1))):
        with Publishing("digits", fleet, monitor="val_loss", message=f"run {run}") as publishing:
            for score in scores:
                publishing.after_save(net, {"val_loss": score}, epoch=1)
                publishing.wait()
    assert [one.metrics["val_loss"] for one in fleet.history("digits")] == [0.1, 0.2]
    assert (publishing.published, publishing.skipped, publishing.failed) == (1, 2, 0)
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == [
        "model 'digits': the save of epoch 1, val_loss 0.9 is not published: what is published already has val_loss 0.2"
    ]
    assert drafts(fleet) == []


def test_what_was_published_without_the_metric_is_nothing_to_be_better_than(fleet: Fleet, net: nn.Module) -> None:
    with Publishing("digits", fleet, strict=True) as publishing:
        publishing.after_save(net, {"acc": 0.1})
    with Publishing("digits", fleet, monitor="val_loss", strict=True) as publishing:
        publishing.after_save(net, {"val_loss": 7.0})
    assert publishing.published == 1


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("missing.pt", "missing.pt"),
        (".", "is a folder"),
        (7, "not int"),
        ({}, "nothing to publish"),
        ({"a/b": "x"}, "cannot be the name of a artifact"),
    ],
)
def test_what_cannot_be_published_is_counted(
    fleet: Fleet, what: Any, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Publishing("digits", fleet) as publishing:
        publishing.after_save(what)
    assert publishing.failed == 1
    assert why in str(publishing.last_error)
    assert drafts(fleet) == []


def test_a_fault_in_the_users_own_forward_does_not_end_training(
    fleet: Fleet, tmp_path: Path, net: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    """Golden inputs of another shape: without the proof that was asked for nothing is published, and the log has the place."""
    with Publishing("digits", fleet, golden=torch.ones(1, 99)) as publishing:
        publishing.after_save(net)
        save_file(net.state_dict(), tmp_path / "m.safetensors")
        publishing.after_save(tmp_path / "m.safetensors")
    assert publishing.failed == 2
    assert "RuntimeError: mat1 and mat2" in caplog.text and "Traceback" in caplog.text
    assert "module=net" in str(publishing.last_error)
    assert drafts(fleet) == []


def test_weights_are_published_when_another_thread_has_written_the_checkpoint(fleet: Fleet, net: nn.Module) -> None:
    written: Future[None] = Future()
    publishing = Publishing("digits", fleet)
    publishing.after_save(net, written=written)
    with torch.no_grad():
        net.weight.fill_(7)
    assert publishing.wait(0.05) and publishing.published == 0
    written.set_result(None)
    assert publishing.wait(20) and publishing.published == 1
    assert not load_file(object_of(fleet, 1))["weight"].eq(7).any()
    failing: Future[None] = Future()
    publishing.after_save(net, written=failing)
    failing.set_exception(OSError(28, "No space left on device"))
    assert publishing.wait(20)
    assert (publishing.published, publishing.failed) == (1, 1)
    assert drafts(fleet) == []


def test_strict_waits_for_the_checkpoint_too(fleet: Fleet, net: nn.Module, background: Callable[..., Any]) -> None:
    written: Future[None] = Future()
    publishing = Publishing("digits", fleet, strict=True)
    done = background(lambda: publishing.after_save(net, written=written))
    written.set_exception(OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space"):
        done.result(20)
    assert publishing.failed == 1
    assert drafts(fleet) == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"model": "a/b"}, InvalidName),
        ({"mode": "best"}, BadInput),
        ({"rtol": 2}, BadInput),
        ({"timeout": -1}, SettingsInvalid),
        ({"agreement": 2}, SettingsInvalid),
        ({"canary": "900%"}, BadInput),
        ({"policy": "errors=1%"}, BadInput),
        ({"wait": False}, TypeError),
    ],
)
def test_wrong_arguments_are_heard_before_training_begins(
    fleet: Fleet, arguments: dict[str, Any], error: type[Exception]
) -> None:
    """A spelling mistake must not be found out at the first save, hours later, in a log."""
    with pytest.raises(error):
        Publishing(**{"model": "digits", "fleet": fleet} | arguments)


def test_terms_are_those_of_publish(fleet: Fleet, net: nn.Module) -> None:
    with Publishing("digits", fleet, author="ada", timeout=5) as publishing:
        publishing.after_save(net)
    assert fleet.history("digits")[0].author == "ada"


def test_it_can_be_sent_to_another_process(fleet: Fleet, net: nn.Module) -> None:
    with pickle.loads(pickle.dumps(Publishing("digits", fleet))) as publishing:
        publishing.after_save(net)
    assert publishing.published == 1


def test_a_program_that_ends_at_once_has_published(fleet: Fleet, tmp_path: Path) -> None:
    """A loop without a block and without wait(): when its last line is done, nothing of the last save is published yet. Python ends thread
    pools before it waits for threads, so nothing on the way may need one."""
    program = f"""
import torch
from genlock.coordinator import Fleet
from genlock.coordinator.hooks import Publishing

net = torch.nn.Linear(4, 2)
place = {{"store": {str(fleet.store.root)!r}, "state_dir": {str(tmp_path)!r}, "lease": {fleet.settings.lease_s}}}
fleet = Fleet({fleet.settings.redis_url!r}, name="t", **place)
Publishing("digits", fleet, golden=torch.ones(1, 4)).after_save(net)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [one.outcome for one in fleet.history("digits")] == ["committed"]


@pytest.mark.parametrize(
    ("number", "takes", "gathers", "published"), [(0, True, 1, 1), (1, True, 1, 0), (1, False, 0, 0)]
)
def test_a_sharded_module_is_gathered_by_all_or_by_none(
    fleet: Fleet,
    net: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    takes: bool,
    gathers: int,
    published: int,
) -> None:
    """One process that gathers alone waits for ever for the others."""
    gathered: list[nn.Module] = []

    def state_of(module: nn.Module) -> dict[str, Any]:
        gathered.append(module)
        return module.state_dict() if number == 0 else {}

    for name, value in {
        "rank": lambda: number,
        "is_sharded": lambda _: True,
        "agreed": lambda _: takes,
        "state_of": state_of,
    }.items():
        monkeypatch.setattr(f"genlock.coordinator.hooks.publishing.{name}", value)
    with Publishing("digits", fleet) as publishing:
        publishing.after_save(net)
    assert (len(gathered), publishing.published, publishing.failed) == (gathers, published, 0)


def test_other_ranks_publish_nothing(fleet: Fleet, net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genlock.coordinator.hooks.publishing.rank", lambda: 1)
    with Publishing("digits", fleet) as publishing:
        publishing.after_save(net)
    assert (publishing.published, publishing.failed, publishing.skipped) == (0, 0, 0)
