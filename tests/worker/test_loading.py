"""A whole load: each step, whose fault each failure is, and that nothing goes on for somebody who no longer wants it."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from genlock.coordinator.errors import BadCheckpoint, LoadFailed
from genlock.coordinator.golden import write_golden
from genlock.coordinator.manifest import Golden, Manifest
from genlock.coordinator.store import Store
from genlock.worker.loading import (
    Cancelled,
    Checkpoint,
    HostWork,
    Loaded,
    Loader,
    exported_program,
    load,
    state_dict_into,
)
from safetensors.torch import save_file
from torch import nn

STEPS = ["wait", "verify", "build", "check", "warm", "golden"]
X = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


def linear() -> nn.Module:
    return nn.Linear(2, 2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def host(tmp_path: Path) -> HostWork:
    return HostWork(tmp_path / "state", loads_per_host=1)


Publish = Callable[..., Manifest]
Load = Callable[..., Loaded]


@pytest.fixture
def publish(tmp_path: Path, store: Store) -> Publish:
    """A state dict, or a file, and golden (inputs, outputs) or a file of them → the manifest of what is in the store."""

    def publish(content: Any, *, golden: tuple[Any, Any] | Path | None = None, **tolerances: float) -> Manifest:
        path = content
        if isinstance(content, dict):
            path = tmp_path / "file"
            torch.save(content, path)
        artifact, proof = store.stage(path, name="model"), None
        if golden:
            file = golden if isinstance(golden, Path) else write_golden(tmp_path, *golden)
            staged = store.stage(file, name="golden")
            proof = Golden(staged.digest, staged.size, **tolerances)
        return Manifest.of("m", [artifact], created_at=0.0, golden=proof)

    return publish


@pytest.fixture
def run(store: Store, host: HostWork) -> Load:
    def run(manifest: Manifest, loader: Loader | None = None, cancelled: Callable[[], bool] = lambda: False) -> Loaded:
        loader = loader or state_dict_into(linear)
        return load(manifest, 7, store=store, loader=loader, host=host, cancelled=cancelled)

    return run


def bad(run: Load, *arguments: Any) -> BadCheckpoint:
    with pytest.raises(BadCheckpoint) as caught:
        run(*arguments)
    assert caught.value.model == "m"
    return caught.value


def failed(run: Load, *arguments: Any) -> LoadFailed:
    with pytest.raises(LoadFailed) as caught:
        run(*arguments)
    assert caught.value.model == "m"
    return caught.value


# --- good -------------------------------------------------------------------------------------------------------------


def test_a_load_gives_the_payload_its_bytes_and_its_times(publish: Publish, run: Load) -> None:
    net = nn.Linear(2, 2)
    loaded = run(publish(net.state_dict()))
    assert torch.equal(loaded.payload(X), net(X))
    assert loaded.bytes == 4 * 4 + 2 * 4
    assert list(loaded.seconds) == STEPS and min(loaded.seconds.values()) >= 0


def test_golden_outputs_that_are_reproduced(publish: Publish, run: Load) -> None:
    net = nn.Linear(2, 2)
    loaded = run(publish(net.state_dict(), golden=(X, net(X).detach() + 1e-7)))
    assert torch.equal(loaded.payload(X), net(X))


@pytest.mark.parametrize("inputs", [[X, X + 1], {"x": X, "y": X + 1}])
def test_golden_inputs_of_several_tensors(inputs: Any, publish: Publish, run: Load) -> None:
    """They are given as positional or named arguments, and outputs may be a dict or a tuple."""

    def loader(checkpoint: Checkpoint) -> Any:
        weight = checkpoint.state_dict()["weight"]
        return lambda x, y: {"sum": (x + y) @ weight}

    weight = torch.eye(2)
    loaded = run(publish({"weight": weight}, golden=(inputs, {"sum": 2 * X + 1})), loader)
    assert loaded.seconds["golden"] > 0


def test_a_loader_of_ones_own_gets_the_checkpoint(publish: Publish, run: Load) -> None:
    """Whatever it returns is what requests hold; without tensors in it, its files say how much it takes."""
    manifest = publish({"a": torch.zeros(3)})
    loaded = run(manifest, lambda checkpoint: (checkpoint.model, checkpoint.generation, checkpoint.manifest))
    assert loaded.payload == ("m", 7, manifest)
    assert loaded.bytes == manifest.size


def test_an_exported_program_from_end_to_end(publish: Publish, run: Load, tmp_path: Path) -> None:
    net = nn.Linear(2, 2).eval()
    torch.export.save(torch.export.export(net, (X,)), tmp_path / "p.pt2")
    manifest = publish(tmp_path / "p.pt2", golden=(X, net(X).detach()))
    loaded = run(manifest, exported_program())
    assert torch.equal(loaded.payload(X), net(X)) and loaded.bytes == 24


def test_two_workers_verify_once(publish: Publish, run: Load, store: Store, monkeypatch: Any) -> None:
    manifest = publish(nn.Linear(2, 2).state_dict(), golden=(X, X))
    read: list[str] = []
    verify = Store.verify

    def counting(self: Store, digest: str, size: int, **rest: Any) -> None:
        read.append(digest)
        verify(self, digest, size, **rest)

    monkeypatch.setattr(Store, "verify", counting)
    for _ in range(2):
        with pytest.raises(BadCheckpoint):
            run(manifest)
    assert sorted(read) == sorted(manifest.digests)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_precision_is_checked_and_reproduced(dtype: torch.dtype, publish: Publish, run: Load) -> None:
    net = nn.Linear(2, 2).to(dtype)
    manifest = publish(net.state_dict(), golden=(X.to(dtype), net(X.to(dtype)).detach()))
    assert run(manifest).bytes == 6 * dtype.itemsize


# --- bad: verified bytes that are no good -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_diverged_training_run_is_refused(value: float, dtype: torch.dtype, publish: Publish, run: Load) -> None:
    state = nn.Linear(2, 2).to(dtype).state_dict()
    state["weight"][1, 1] = value
    error = bad(run, publish(state))
    assert error.step == "check" and "'weight' has 1 of 4 values" in error.why


def test_nan_in_a_dict_of_tensors_is_refused(publish: Publish, run: Load) -> None:
    state = {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")]), "c": torch.arange(3)}
    assert "'b'" in bad(run, publish(state), lambda checkpoint: checkpoint.state_dict()).why


def test_shared_and_sparse_tensors_are_looked_at_once(publish: Publish, run: Load) -> None:
    def loader(checkpoint: Checkpoint) -> Any:
        weight = checkpoint.state_dict()["a"]
        return {"a": weight, "again": weight.view(2, 5), "same": weight, "sparse": weight.to_sparse()}

    assert run(publish({"a": torch.ones(10)}), loader).bytes == 40


@pytest.mark.parametrize(
    ("golden", "why"),
    [
        (torch.zeros(2, 2), "differs in"),
        (torch.zeros(2, 3), "golden: torch.float32 of shape (2, 3)"),
        (torch.zeros(2, 2, dtype=torch.float64), "golden: torch.float64"),
        ([torch.zeros(2, 2)], "golden: 1 items"),
    ],
)
def test_other_outputs_than_the_golden_ones(golden: Any, why: str, publish: Publish, run: Load) -> None:
    state = {"weight": torch.eye(2), "bias": torch.ones(2)}
    error = bad(run, publish(state, golden=(X, golden)))
    assert error.step == "golden" and why in error.why


def test_tolerances_are_those_of_the_manifest(publish: Publish, run: Load) -> None:
    state = {"weight": torch.eye(2), "bias": torch.zeros(2)}
    near = X + 0.5
    assert run(publish(state, golden=(X, near), atol=0.6)).payload
    assert bad(run, publish(state, golden=(X, near), atol=0.4)).step == "golden"


def test_a_payload_that_cannot_answer_the_golden_inputs(publish: Publish, run: Load) -> None:
    error = bad(run, publish(nn.Linear(2, 2).state_dict(), golden=(torch.ones(1, 3), X)))
    assert error.step == "warm" and "RuntimeError" in error.why


def test_a_golden_file_that_is_none(publish: Publish, run: Load, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "golden")
    error = bad(run, publish(nn.Linear(2, 2).state_dict(), golden=tmp_path / "golden"))
    assert error.step == "golden"
    (tmp_path / "bomb").write_bytes(b"\xff" * 8 + b"{}")
    error = bad(run, publish(nn.Linear(2, 2).state_dict(), golden=tmp_path / "bomb"))
    assert error.step == "golden" and "truncated" in error.why


def test_a_truncated_checkpoint_whose_digest_is_right(publish: Publish, run: Load, tmp_path: Path) -> None:
    """Published as it was: half a file. Every worker would find the same, so once is enough."""
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "whole")
    (tmp_path / "half").write_bytes((tmp_path / "whole").read_bytes()[:700])
    assert bad(run, publish(tmp_path / "half")).step == "format"


def test_a_loader_may_say_that_the_bytes_are_bad(publish: Publish, run: Load) -> None:
    def loader(checkpoint: Checkpoint) -> Any:
        raise BadCheckpoint(checkpoint.model, "vocabulary", "it has no words")

    error = bad(run, publish({"a": torch.zeros(1)}), loader)
    assert (error.step, error.why) == ("vocabulary", "it has no words")


def test_an_own_loader_that_finds_other_shapes_says_so(publish: Publish, run: Load) -> None:
    """The usual loader calls load_state_dict; a checkpoint of another net is refused at once, not tried again until the deadline."""

    def loader(checkpoint: Checkpoint) -> Any:
        net = torch.nn.Linear(2, 2)
        net.load_state_dict(checkpoint.state_dict())
        return net

    error = bad(run, publish({"weight": torch.zeros(3, 3)}), loader)
    assert error.step == "shapes" and "size mismatch for weight" in error.why


# --- failed: this machine, now ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ZeroDivisionError("a typo"), AttributeError("no such layer"), KeyError("not there")])
def test_a_fault_in_the_users_loader_is_not_the_files(error: Exception, publish: Publish, run: Load) -> None:
    """R13: one worker with a broken program poisoned a good version for the whole fleet."""

    def loader(checkpoint: Checkpoint) -> Any:
        raise error

    found = failed(run, publish({"a": torch.zeros(1)}), loader)
    assert (found.step, found.why) == ("build", f"{type(error).__name__}: {error}")


def test_a_reason_has_an_end(publish: Publish, run: Load) -> None:
    def loader(checkpoint: Checkpoint) -> Any:
        raise ValueError("x" * 100_000)

    assert len(failed(run, publish({"a": torch.zeros(1)}), loader).why) <= 1000


def test_a_flipped_bit_is_a_failure_not_a_verdict(publish: Publish, run: Load, store: Store) -> None:
    """R13. The disk lies, the checkpoint is good: nothing is poisoned, and the object makes room for a good copy."""
    manifest = publish(nn.Linear(2, 2).state_dict())
    path = store.path(manifest.artifacts[0].digest)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert failed(run, manifest).step == "verify" and not path.exists()
    assert "Missing" in failed(run, manifest).why


@pytest.mark.parametrize("what", ["short", "link", "folder", "fifo"])
def test_an_object_that_is_none_is_a_failure(what: str, publish: Publish, run: Load, store: Store) -> None:
    manifest = publish(nn.Linear(2, 2).state_dict())
    path = store.path(manifest.artifacts[0].digest)
    copy = path.with_name("copy")
    path.rename(copy)
    if what == "short":
        path.write_bytes(copy.read_bytes()[:-1])
    elif what == "link":
        path.symlink_to(copy)
    elif what == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    assert failed(run, manifest).step == "verify"


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error"),
        MemoryError(),
        ImportError("no module named tokenizers"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
@pytest.mark.parametrize("step", ["build", "warm"])
def test_trouble_of_the_machine_is_a_failure(step: str, error: Exception, publish: Publish, run: Load) -> None:
    def trouble(*_: Any) -> Any:
        raise error

    manifest = publish({"a": torch.zeros(1)}, golden=(X, X))
    loader = trouble if step == "build" else lambda checkpoint: trouble
    assert failed(run, manifest, loader).step == step


def test_a_golden_file_that_went_away_is_a_failure(publish: Publish, run: Load, store: Store) -> None:
    manifest = publish({"a": torch.zeros(1)}, golden=(X, X))
    golden = manifest.golden
    assert golden

    def loader(checkpoint: Checkpoint) -> Any:
        store.path(golden.digest).unlink()
        return lambda x: x

    assert failed(run, manifest, loader).step == "warm"


def test_a_state_folder_that_cannot_be_written_is_a_failure(publish: Publish, store: Store, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    host = HostWork(tmp_path / "state", loads_per_host=1)
    manifest = publish(nn.Linear(2, 2).state_dict())
    with pytest.raises(LoadFailed) as caught:
        load(manifest, 1, store=store, loader=dict, host=host, cancelled=lambda: False)
    assert caught.value.step == "wait"


# --- cancelled --------------------------------------------------------------------------------------------------------


def test_a_load_stops_between_any_two_steps(publish: Publish, store: Store, host: HostWork) -> None:
    """Another worker said "bad": nobody needs this candidate, and its memory is needed for the next one."""
    manifest = publish(nn.Linear(2, 2).state_dict(), golden=(X, X))
    asked = [0]
    for stop_at in range(1, 6):
        asked[0] = 0

        def cancelled(stop_at: int = stop_at) -> bool:
            asked[0] += 1
            return asked[0] >= stop_at

        with pytest.raises(Cancelled):
            load(
                manifest,
                1,
                store=store,
                loader=lambda checkpoint: lambda x: x,
                host=host,
                cancelled=cancelled,
            )
        assert asked[0] == stop_at
    # Nothing is left locked by those that stopped.
    loaded = load(manifest, 1, store=store, loader=lambda c: lambda x: x, host=host, cancelled=lambda: False)
    assert list(loaded.seconds) == STEPS


def test_a_loader_may_stop_by_itself(publish: Publish, run: Load) -> None:
    def loader(checkpoint: Checkpoint) -> Any:
        raise Cancelled

    with pytest.raises(Cancelled):
        run(publish({"a": torch.zeros(1)}), loader)


def test_one_worker_of_a_host_loads_at_a_time(publish: Publish, run: Load, wait_for: Callable[..., Any]) -> None:
    """Two loads side by side take the cores that answer requests twice over."""
    inside, most, lock = [0], [0], threading.Lock()
    looks: Counter[int] = Counter()  # of each thread: it is asked again and again while it waits

    def cancelled() -> bool:
        looks[threading.get_ident()] += 1
        return False

    def loader(checkpoint: Checkpoint) -> Any:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        me = threading.get_ident()
        wait_for(lambda: any(count > 2 for one, count in list(looks.items()) if one != me), description="another waits")
        threading.Event().wait(0.02)
        with lock:
            inside[0] -= 1
        return checkpoint.state_dict()

    manifest = publish({"a": torch.ones(1)})
    results: list[Loaded] = []
    threads = [threading.Thread(target=lambda: results.append(run(manifest, loader, cancelled))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 3 and most == [1]
    assert max(one.seconds["wait"] for one in results) >= 0.02
