"""Every kind of file that a trainer may have written, and what some would like us to believe it is."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from genlock.coordinator.errors import BadCheckpoint
from genlock.coordinator.manifest import Manifest
from genlock.coordinator.store import Store
from genlock.worker import checkpoint as room
from genlock.worker.checkpoint import Checkpoint, distinct, is_of_the_machine
from safetensors.torch import save_file

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.int64)}


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., Checkpoint]:
    """Files by name → a checkpoint of them in a store."""
    store = Store(tmp_path / "store")

    def publish(**files: Path) -> Checkpoint:
        artifacts = [store.stage(path, name=name) for name, path in files.items()]
        return Checkpoint("m", 1, Manifest.of("m", artifacts, created_at=0.0), store)

    return publish


@pytest.fixture
def saved(tmp_path: Path, publish: Callable[..., Checkpoint]) -> Callable[[Any], Checkpoint]:
    """What torch.save gets → a checkpoint of it."""

    def saved(value: Any) -> Checkpoint:
        torch.save(value, tmp_path / "file")
        return publish(file=tmp_path / "file")

    return saved


class Calls:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


def view(*, size: int, stride: int, offset: int = 0) -> Calls:
    """A tensor that claims `size` values in a storage of 4."""
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.zeros(4).untyped_storage(), dtype=torch.float32, _internal=True
    )
    return Calls(torch._utils._rebuild_tensor_v2, storage, offset, (size,), (stride,), False, None)


def refused(checkpoint: Checkpoint) -> str:
    with pytest.raises(BadCheckpoint) as caught:
        checkpoint.state_dict()
    assert (caught.value.model, caught.value.step) == ("m", "format")
    return caught.value.why


# --- good files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [save_file, torch.save])
def test_both_formats_come_back_as_they_were_saved(
    save: Callable[..., None], tmp_path: Path, publish: Callable[..., Checkpoint]
) -> None:
    tensors = {**WEIGHTS, "h": torch.ones(3, dtype=torch.bfloat16), "empty": torch.ones(0, 2)}
    save(tensors, tmp_path / "file")
    state = publish(file=tmp_path / "file").state_dict()
    assert state.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert state[name].dtype == tensor.dtype and torch.equal(state[name], tensor)


def test_artifacts_are_told_by_name(tmp_path: Path, publish: Callable[..., Checkpoint]) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "one")
    torch.save({"y": torch.zeros(1)}, tmp_path / "two")
    checkpoint = publish(cnn=tmp_path / "one", svm=tmp_path / "two")
    assert list(checkpoint.state_dict("cnn")) == ["x"]
    assert list(checkpoint.state_dict("svm")) == ["y"]
    assert checkpoint.path("cnn").read_bytes() == (tmp_path / "one").read_bytes()
    with pytest.raises(KeyError, match="cnn, svm"):
        checkpoint.path()


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict"])
def test_weights_inside_a_training_checkpoint_are_found(key: str, saved: Callable[[Any], Checkpoint]) -> None:
    state = saved({"epoch": 3, key: WEIGHTS, "optimizer": {"state": {0: torch.zeros(2)}}}).state_dict()
    assert state.keys() == WEIGHTS.keys()


def test_a_weight_called_state_dict_is_a_weight(saved: Callable[[Any], Checkpoint]) -> None:
    assert saved({"state_dict": torch.zeros(2)}).state_dict().keys() == {"state_dict"}


def test_extra_state_need_not_be_a_tensor(saved: Callable[[Any], Checkpoint]) -> None:
    assert saved({"a": torch.zeros(2), "layer._extra_state": {"scale": 3}}).state_dict().keys() == {
        "a",
        "layer._extra_state",
    }


def test_versions_of_layers_are_kept(saved: Callable[[Any], Checkpoint]) -> None:
    """BatchNorm reads a file without its version as one of torch 0.4."""
    state = saved(torch.nn.BatchNorm1d(2).state_dict()).state_dict()
    assert state._metadata[""]["version"] == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("save", [save_file, torch.save])
def test_a_mapping_outlives_its_file_and_is_its_own(
    save: Callable[..., None], tmp_path: Path, publish: Callable[..., Checkpoint]
) -> None:
    """`gc` removes an object while a request holds its generation; and a payload writes into a weight."""
    save({"a": torch.full((300_000,), 3.0)}, tmp_path / "file")
    checkpoint = publish(file=tmp_path / "file")
    before = checkpoint.path().read_bytes()
    tensor, other = checkpoint.state_dict()["a"], checkpoint.state_dict()["a"]
    tensor[:10] = 7.0
    assert checkpoint.path().read_bytes() == before
    assert other.unique().tolist() == [3.0]
    checkpoint.path().unlink()
    assert other[10:].unique().tolist() == [3.0]
    assert tensor.unique().tolist() == [3.0, 7.0]


@pytest.mark.parametrize("save", [save_file, torch.save])
def test_two_processes_share_the_pages(
    save: Callable[..., None], tmp_path: Path, publish: Callable[..., Checkpoint]
) -> None:
    """Four workers that hold 200 MB hold 200 MB, not 800: proportional memory of a file of 16 MB that two have mapped."""
    save({"a": torch.ones(4 * 2**20)}, tmp_path / "file")
    checkpoint = publish(file=tmp_path / "file")
    script = f"""
from pathlib import Path
from genlock.worker import checkpoint
state = checkpoint._state_dict(Path({str(checkpoint.path())!r}))
state["a"].sum()
print("ready", flush=True)
input()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline() == b"ready\n"
        mine = checkpoint.state_dict()
        mine["a"].sum()
        found = _mapped_kb(checkpoint.path().name)
        other.communicate(b"\n", 60)
    assert found["Rss"] >= 16 * 1024
    assert found["Pss"] <= found["Rss"] * 0.55
    assert found["Anonymous"] == 0


def _mapped_kb(name: str) -> dict[str, int]:
    """Sums of /proc/self/smaps over the mappings of the file."""
    found = {"Rss": 0, "Pss": 0, "Anonymous": 0}
    ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            ours = line.endswith(name)
        elif ours and first[:-1] in found:
            found[first[:-1]] += int(rest[0])
    return found


# --- files that are refused -------------------------------------------------------------------------------------------


def test_code_in_a_pickle_is_not_run(saved: Callable[[Any], Checkpoint], tmp_path: Path) -> None:
    """The oldest attack on model files. The reason names the function, and does not advise to allow it."""
    why = refused(saved({"a": Calls(os.mkdir, str(tmp_path / "owned"))}))
    assert "posix.mkdir" in why and "safe_globals" not in why
    assert not (tmp_path / "owned").exists()


def test_a_bare_pickle_is_refused(tmp_path: Path, publish: Callable[..., Checkpoint]) -> None:
    torch.save(WEIGHTS, tmp_path / "file", _use_new_zipfile_serialization=False)
    assert "bare pickle" in refused(publish(file=tmp_path / "file"))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([torch.zeros(2)], "holds a list"),
        (torch.zeros(2), "holds a Tensor"),
        ({}, "keys: none"),
        ({"epoch": 3}, "keys: 'epoch'"),
        ({"state_dict": {"epoch": 3}}, "without tensors"),
        ({"state_dict": WEIGHTS, "model_state_dict": WEIGHTS}, "each of state_dict and model_state_dict"),
        ({"a": torch.zeros(2), "epoch": 3}, "'epoch' is a int"),
        ({1: torch.zeros(2)}, "1 is a key"),
        ({"a": torch.zeros(2, device="meta")}, "device meta"),
        ({"a": Calls(bytearray, 100)}, "bytearray"),
        ({"a": view(size=10**12, stride=0)}, "values in 16 bytes"),
        ({"a": view(size=10**6, stride=1)}, "resize"),
        ({"a": view(size=2, stride=1, offset=-8)}, "offset"),
        ({"a": view(size=2, stride=1, offset=10**15)}, "resize"),
    ],
)
def test_what_is_no_state_dict_is_refused(value: Any, why: str, saved: Callable[[Any], Checkpoint]) -> None:
    assert why in refused(saved(value))


def test_sparse_tensors_are_refused(tmp_path: Path, publish: Callable[..., Checkpoint]) -> None:
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "file")
    assert refused(publish(file=tmp_path / "file"))


def test_overlapping_tensors_are_counted(tmp_path: Path, publish: Callable[..., Checkpoint]) -> None:
    """A thousand views of one MB, each a few bytes further: a check that looks at every value would look at a GB."""
    base = torch.zeros(250_000)
    torch.save({str(n): base[n:] for n in range(100)}, tmp_path / "file")
    assert "overlap" in refused(publish(file=tmp_path / "file"))


def test_tied_weights_are_no_overlap(saved: Callable[[Any], Checkpoint]) -> None:
    weight = torch.ones(1000)
    state = saved({str(n): weight for n in range(20)}).state_dict()
    assert len(state) == 20
    assert sum(distinct(state.values()).values()) == 4000


@pytest.mark.parametrize("save", [save_file, torch.save])
def test_a_file_cut_anywhere_is_refused(
    save: Callable[..., None], tmp_path: Path, publish: Callable[..., Checkpoint]
) -> None:
    """A trainer that was killed while saving: the digest is right, the bytes are not enough."""
    save(WEIGHTS, tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    for length in [1, 7, 8, 9, 20, 100, len(data) // 2, len(data) - 30, len(data) - 1]:
        (tmp_path / "file").write_bytes(data[:length])
        assert refused(publish(file=tmp_path / "file"))


def test_rubbish_in_the_header_is_refused(tmp_path: Path, publish: Callable[..., Checkpoint]) -> None:
    for header in (
        b"{]",
        b'{"a":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4000000]}}',
        b'{"a":' * 500,
    ):
        (tmp_path / "file").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 16)
        assert refused(publish(file=tmp_path / "file"))


def test_too_many_tensors_are_refused(
    tmp_path: Path, publish: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MAX_TENSORS", 1)
    save_file(WEIGHTS, tmp_path / "file")
    assert "2 tensors" in refused(publish(file=tmp_path / "file"))


@pytest.mark.parametrize(
    ("entry", "why"),
    [("constants.pkl", "TorchScript"), ("models/model.json", "exported program"), ("other", "no data.pkl")],
)
def test_other_archives_are_named(entry: str, why: str, tmp_path: Path, publish: Callable[..., Checkpoint]) -> None:
    with zipfile.ZipFile(tmp_path / "file", "w") as archive:
        archive.writestr(f"m/{entry}", b"")
    assert why in refused(publish(file=tmp_path / "file"))


# --- whose fault ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [save_file, torch.save])
def test_a_file_that_went_away_is_not_bad(
    save: Callable[..., None], tmp_path: Path, publish: Callable[..., Checkpoint]
) -> None:
    save(WEIGHTS, tmp_path / "file")
    checkpoint = publish(file=tmp_path / "file")
    checkpoint.path().unlink()
    with pytest.raises(FileNotFoundError):
        checkpoint.state_dict()


def test_no_memory_is_not_bad(saved: Callable[[Any], Checkpoint], monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says "no memory" with a RuntimeError; as "bad" it would poison a good version for the whole fleet (R13)."""

    def no_memory(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    checkpoint = saved(WEIGHTS)
    monkeypatch.setattr(torch, "load", no_memory)
    with pytest.raises(RuntimeError, match="can't allocate"):
        checkpoint.state_dict()


@pytest.mark.parametrize(
    ("error", "machine"),
    [
        (OSError(28, "No space left on device"), True),
        (MemoryError(), True),
        (ImportError("no module"), True),
        (RuntimeError("unable to mmap 100 bytes"), True),
        (RuntimeError("size mismatch"), False),
        (KeyError("a"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_the_machine(error: Exception, machine: bool) -> None:
    assert is_of_the_machine(error) is machine


def test_an_error_without_text_says_its_type(
    saved: Callable[[Any], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise EOFError

    checkpoint = saved(WEIGHTS)
    monkeypatch.setattr(torch, "load", fails)
    assert "EOFError" in refused(checkpoint)
