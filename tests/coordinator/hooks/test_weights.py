"""Weights as one file, and back."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from genlock.coordinator.errors import BadInput
from genlock.coordinator.hooks.weights import agreed, is_module, is_sharded, rank, read_weights, state_of, write_weights
from genlock.worker.archive import FormatError
from genlock.worker.checkpoint import _state_dict
from safetensors.torch import load_file, save_file


class Tied(torch.nn.Module):
    """A decoder that shares its weights with the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight


def test_tied_weights_are_written_once_and_views_apart(tmp_path: Path) -> None:
    """safetensors refuses tensors that share memory: a tied pair stands there under its first name, two views of one buffer each."""
    both = torch.arange(8.0)
    write_weights(
        tmp_path / "w", {**Tied().state_dict(), "low": both[:4], "high": both[4:], "turned": both.view(2, 4).T}
    )
    found = load_file(tmp_path / "w")
    assert sorted(found) == ["decoder.bias", "encoder.bias", "encoder.weight", "high", "low", "turned"]
    assert found["high"].tolist() == [4.0, 5.0, 6.0, 7.0]
    assert found["turned"].tolist() == both.view(2, 4).T.tolist()


def test_dtypes_stay_as_they_are(tmp_path: Path) -> None:
    write_weights(tmp_path / "w", {"half": torch.ones(2, dtype=torch.bfloat16), "count": torch.tensor(3)})
    found = load_file(tmp_path / "w")
    assert (found["half"].dtype, found["count"].dtype) == (torch.bfloat16, torch.int64)


class Part:
    """As FSDP gives where each process has a part: a tensor that knows how to get the whole."""

    def full_tensor(self) -> None: ...


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({}, "nothing to publish"),
        ({"x": Part()}, "full state dict"),
        ({"x._extra_state": b"1"}, "is a bytes, not a tensor"),
    ],
)
def test_what_is_no_weight_is_refused_by_name(tmp_path: Path, state: dict[str, object], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        write_weights(tmp_path / "w", state)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict"])
def test_what_training_saved_is_read_back(tmp_path: Path, wrapper: str | None) -> None:
    state = {"weight": torch.ones(2)}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "a.pt")
    save_file({"bias": torch.zeros(2)}, tmp_path / "b.safetensors")
    found = read_weights([tmp_path / "a.pt", tmp_path / "b.safetensors"])
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"weight": [1.0, 1.0], "bias": [0.0, 0.0]}


@pytest.mark.parametrize(
    ("saved", "why"),
    [
        (
            {"state_dict": {"w": torch.ones(1)}, "model_state_dict": {"w": torch.zeros(1)}},
            "each of state_dict and model_state_dict",
        ),
        ([torch.ones(1)], "holds a list"),
    ],
)
def test_what_a_worker_would_refuse_is_refused_by_its_words(tmp_path: Path, saved: object, why: str) -> None:
    """Golden outputs were computed from the first of two state dicts, and every worker refused the file: seen at the end of a training."""
    torch.save(saved, tmp_path / "a.pt")
    with pytest.raises(BadInput, match=why) as caught:
        read_weights([tmp_path / "a.pt"])
    with pytest.raises(FormatError) as refused:
        _state_dict(tmp_path / "a.pt")
    assert str(refused.value) == caught.value.why


def test_golden_outputs_come_from_the_weights_that_are_served(tmp_path: Path) -> None:
    """A tensor stood beside `state_dict`: the rehearsal ran with what is below that key, and the workers with what is beside it."""
    torch.save({"state_dict": {"w": torch.ones(1)}, "ema": torch.zeros(1)}, tmp_path / "a.pt")
    assert sorted(read_weights([tmp_path / "a.pt"])) == ["ema", "state_dict"]


class Compiled(torch.nn.Module):
    """What torch.compile gives; to compile takes seconds."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self._orig_mod = module


def test_a_module_gives_its_own_names_whatever_is_around_it() -> None:
    """A worker's module is not wrapped: keys that begin with `module.` would fit nowhere."""
    net = torch.nn.Linear(2, 2)
    assert list(state_of(torch.nn.DataParallel(net))) == ["weight", "bias"]
    assert list(state_of(Compiled(net))) == ["weight", "bias"]
    assert is_module(net) and not is_module({"weight": 1}) and not is_sharded(net)


def test_the_first_of_several_processes_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may see another loss; to gather a sharded module all have to come, or none."""

    def broadcast(told: list[bool], src: int) -> None:
        told[src] = True

    several = {"is_available": lambda: True, "is_initialized": lambda: True, "get_rank": lambda: 1}
    monkeypatch.setitem(sys.modules, "torch.distributed", SimpleNamespace(broadcast_object_list=broadcast, **several))
    assert (rank(), agreed(False)) == (1, True)


def test_a_process_that_trains_alone_is_the_first() -> None:
    assert rank() == 0
    assert agreed(True) and not agreed(False)
