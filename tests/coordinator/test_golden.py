"""coordinator/golden.py: what a publisher gives as inputs and outputs is what every worker compares with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from genlock.coordinator.errors import ArtifactMissing, ArtifactRefused, BadInput
from genlock.coordinator.golden import FILE, flatten, read_golden, unflatten, write_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

ONE = np.arange(6, dtype=np.float32).reshape(2, 3)

#: What is given, and what a reader gets as numpy arrays.
STRUCTURES: dict[str, tuple[Any, Any]] = {
    "array": (ONE, ONE),
    "list": ([ONE, ONE[0]], [ONE, ONE[0]]),
    "tuple": ((ONE,), [ONE]),
    "more than ten": ([ONE[0] + i for i in range(12)], [ONE[0] + i for i in range(12)]),
    "dict": ({"x": ONE, "a.b": ONE[0], "0": ONE[1], "": ONE}, {"x": ONE, "a.b": ONE[0], "0": ONE[1], "": ONE}),
    "floats": ([[1.0, 2], [3, 4]], np.array([[1, 2], [3, 4]], dtype=np.float32)),
    "integers": ((1, 2), np.array([1, 2], dtype=np.int64)),
    "flags": ([True, False], np.array([True, False])),
    "number": (1.5, np.array(1.5, dtype=np.float32)),
    "mixed": ([ONE, [1, 2]], [ONE, np.array([1, 2], dtype=np.int64)]),
    "dict of numbers": ({"x": [1.0]}, {"x": np.array([1.0], dtype=np.float32)}),
    "strided": (ONE.T[::2], ONE.T[::2].copy()),
    "big endian": (ONE.astype(">f4"), ONE),
    "numpy number": (np.float64(2), np.array(2.0)),
}


def same(found: Any, wanted: Any) -> bool:
    """Structure, type, shape and values."""
    if isinstance(wanted, dict):
        return set(found) == set(wanted) and all(same(found[name], wanted[name]) for name in wanted)
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(same, found, wanted))
    return found.dtype == wanted.dtype and found.shape == wanted.shape and bool((found == wanted).all())


def as_torch(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: as_torch(item) for name, item in value.items()}
    return [as_torch(item) for item in value] if isinstance(value, list) else torch.from_numpy(value)


@pytest.mark.parametrize("inputs", STRUCTURES)
@pytest.mark.parametrize("outputs", ["array", "dict", "more than ten"])
def test_what_was_written_is_read(tmp_path: Path, inputs: str, outputs: str) -> None:
    path = write_golden(tmp_path / "g", STRUCTURES[inputs][0], STRUCTURES[outputs][0])
    wanted = [STRUCTURES[inputs][1], STRUCTURES[outputs][1]]
    assert same(list(read_golden(path, "numpy")), wanted)
    assert same(list(read_golden(path)), as_torch(wanted))


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(6.0).reshape(2, 3).T,
        torch.nn.Parameter(torch.ones(2)),
        torch.ones(2, dtype=torch.bfloat16),
        torch.ones(2).to(torch.float8_e4m3fn),
        torch.tensor([1 + 2j]).conj(),
        torch.tensor(3),
        [torch.ones(2), torch.arange(3), np.ones(2), [1, 2]],
        {"x": torch.ones(2), "y": np.float32(1)},
    ],
)
def test_tensors_of_torch_keep_their_type(tmp_path: Path, value: Any) -> None:
    found, _ = read_golden(write_golden(tmp_path / "g", value, torch.ones(1)))
    if isinstance(value, torch.Tensor):
        assert found.dtype == value.dtype
        assert torch.equal(found.to(torch.complex128), value.detach().to(torch.complex128))
    else:
        assert all(isinstance(one, torch.Tensor) for one in (found.values() if isinstance(found, dict) else found))


def test_tensors_may_share_memory(tmp_path: Path) -> None:
    """Of an identity, or a model that returns a view of its input; safetensors itself refuses that."""
    x = torch.arange(6.0)
    inputs, outputs = read_golden(write_golden(tmp_path / "g", x, [x, x[2:4], x.view(2, 3)]))
    assert torch.equal(inputs, x)
    assert torch.equal(outputs[1], x[2:4])
    assert torch.equal(outputs[2], x.view(2, 3))


def test_the_names_and_the_metadata_are_those_that_the_top_of_the_module_promises(tmp_path: Path) -> None:
    path = write_golden(tmp_path / "g", {"a": ONE}, [ONE, ONE])
    with safe_open(path, framework="np") as file:
        assert set(file.keys()) == {"input.a", "output.0", "output.1"}
        assert file.metadata() == {"genlock": "golden 1", "input": "dict", "output": "list"}


def test_a_folder_gets_a_file_of_a_known_name(tmp_path: Path) -> None:
    assert write_golden(tmp_path, 1, 2) == tmp_path / FILE
    assert read_golden(tmp_path / FILE, "numpy") == (1, 2)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({}, "at least one"),
        ({1: ONE}, "a string as the name"),
        ({"\ud800": ONE}, "surrogates"),
        ("text", "not str"),
        (None, "not NoneType"),
        ([[1], [1, 2]], "inhomogeneous"),
        ([2**70], "type object"),
        ([torch.ones(1), [torch.ones(1)]], "not list"),
        (np.array(["a"]), "type <U1"),
        (np.ones(1, dtype=np.longdouble), "safetensors cannot hold"),
        (torch.ones(2).to_sparse(), "dense"),
        (torch.ones(2, device="meta"), "has values"),
        ([float("nan")], "NaN or Inf"),
        ([torch.ones(1), torch.tensor([1.0, float("inf")])], "NaN or Inf"),
        (np.array([1, np.inf]), "NaN or Inf"),
        (torch.tensor([float("nan")], dtype=torch.bfloat16), "NaN or Inf"),
        (torch.ones(0), "has elements"),
        ([], "has elements"),
    ],
)
def test_outputs_that_nobody_could_reproduce_are_refused(tmp_path: Path, value: Any, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        write_golden(tmp_path, ONE, value)
    assert list(tmp_path.iterdir()) == []


def test_inputs_may_have_nan(tmp_path: Path) -> None:
    """A missing value is a value for some models."""
    inputs, _ = read_golden(write_golden(tmp_path, [1.0, float("nan")], 1), "numpy")
    assert np.isnan(inputs[1])


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing):
        write_golden(tmp_path / "nothing" / "g", 1, 1)


def test_what_is_no_golden_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "g"
    with pytest.raises(ArtifactMissing):
        read_golden(path)
    write_golden(path, ONE, ONE)
    whole = path.read_bytes()
    for data in (b"", b"text", whole[:-1], whole[:20], b"\0" * 100):
        path.write_bytes(data)
        with pytest.raises(ArtifactRefused, match="safetensors"):
            read_golden(path)
    with pytest.raises(ArtifactRefused, match="directory"):
        read_golden(tmp_path)


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        (None, "'genlock' is missing"),
        ({"genlock": "golden 2"}, "form is 'golden 2'"),
        ({"genlock": "golden 1", "input": "dict"}, "'output' is missing"),
        ({"genlock": "golden 1", "input": "list", "output": "one"}, "'input.1' is missing"),
        ({"genlock": "golden 1", "input": "one", "output": "one"}, "'input' is missing"),
        ({"genlock": "golden 1", "input": "set", "output": "one"}, "'input' is missing"),
    ],
)
def test_a_file_with_other_names_is_refused(tmp_path: Path, metadata: dict[str, str] | None, why: str) -> None:
    save_file({"output": ONE, "input.0": ONE, "input.2": ONE}, tmp_path / "g", metadata)
    with pytest.raises(ArtifactRefused, match=why):
        read_golden(tmp_path / "g", "numpy")


def test_a_type_that_numpy_does_not_have_is_said(tmp_path: Path) -> None:
    path = write_golden(tmp_path, torch.ones(1, dtype=torch.bfloat16), 1)
    with pytest.raises(ArtifactRefused, match="bfloat16"):
        read_golden(path, "numpy")


NAMES = st.text(max_size=5)
STRUCTURED = st.one_of(
    st.just(ONE), st.lists(st.just(ONE), min_size=1, max_size=12), st.dictionaries(NAMES, st.just(ONE), min_size=1)
)


@settings(deadline=None)
@given(STRUCTURED, STRUCTURED)
def test_names_lead_back_to_the_structure(inputs: Any, outputs: Any) -> None:
    """Whatever the names in a dict are, dots and digits too."""
    first, named = flatten("input", inputs)
    second, more = flatten("output", outputs)
    assert not set(named) & set(more)
    assert same(unflatten("input", first, named | more), inputs)
    assert same(unflatten("output", second, named | more), outputs)


WITHOUT_TORCH = """
import sys
from pathlib import Path

sys.modules["torch"] = None
from genlock.coordinator.golden import read_golden, write_golden

assert "numpy" not in sys.modules
write_golden(Path(sys.argv[1]), [[1.0, 2.0]], {"y": [3]})
print(read_golden(Path(sys.argv[1]) / "golden.safetensors", "numpy"))
"""


def test_a_publisher_needs_no_torch(tmp_path: Path) -> None:
    """The training side may use another library; the module itself loads neither numpy nor torch."""
    command = [sys.executable, "-c", WITHOUT_TORCH, os.fspath(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "(array([[1., 2.]], dtype=float32), {'y': array([3])})"


def test_the_same_golden_values_are_the_same_bytes(tmp_path: Path) -> None:
    """A bad version that is published again with the same golden outputs has to be recognised: its poison key holds the file's digest."""
    inputs, outputs = {"a": np.zeros((2, 3), np.float32), "b": np.ones(4)}, [np.ones(3), np.zeros(5)]
    files = {write_golden(tmp_path / f"{n}.safetensors", inputs, outputs).read_bytes() for n in range(8)}
    assert len(files) == 1
