"""What is refused as not finite, exactly; and what counts as the golden outputs reproduced."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from genlock.worker.proof import Held, answer, difference, not_finite, tensors_of, touch
from torch import nn

FLOATS = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
]
NAN, INF = math.nan, math.inf


def held(tensor: torch.Tensor, *, buffer: bool = False) -> Held:
    return Held("w", tensor, buffer)


def compared(got: Any, want: Any) -> str | None:
    return difference(got, want, rtol=1e-4, atol=1e-5)


# --- tensors of a payload ---------------------------------------------------------------------------------------------


def test_tensors_are_found_in_modules_and_containers() -> None:
    payload = {"net": nn.BatchNorm1d(2), "more": [torch.zeros(1), (torch.zeros(1),)], "other": object()}
    found = {one.name: one.is_buffer for one in tensors_of(payload)}
    assert found == {
        "net.weight": False,
        "net.bias": False,
        "net.running_mean": True,
        "net.running_var": True,
        "net.num_batches_tracked": True,
        "more.0": False,
        "more.1.0": False,
    }
    assert [one.name for one in tensors_of(torch.zeros(1))] == ["the tensor"]


def test_a_list_that_contains_itself_ends() -> None:
    endless: list[Any] = [torch.zeros(1)]
    endless.append(endless)
    assert 0 < len(list(tensors_of(endless))) < 20


# --- finite -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_is_found_in_every_type(dtype: torch.dtype) -> None:
    values = torch.ones(1000)
    values[357] = NAN
    why = not_finite(held(values.reshape(10, 100).to(dtype)))
    assert why and "1 of 1000 values" in why and "at 357" in why
    assert not_finite(held(torch.ones(1000).to(dtype))) is None


@pytest.mark.parametrize("value", [INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2])
def test_infinity_is_found(dtype: torch.dtype, value: float) -> None:
    assert not_finite(held(torch.tensor([1.0, value]).to(dtype)))


def test_both_infinities_do_not_cancel() -> None:
    assert not_finite(held(torch.tensor([INF, -INF])))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_sum_that_overflows_is_no_infinity(dtype: torch.dtype) -> None:
    """The largest numbers of a type are finite; their sum is not. Good half precision weights must not be poisoned."""
    values = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)
    assert not torch.isfinite(values.sum())
    assert not_finite(held(values)) is None


def test_a_mask_of_minus_infinity_is_a_good_buffer() -> None:
    """Attention masks are made of it; refusing them would refuse every transformer that saves its mask."""
    mask = torch.full((4, 4), -INF).triu(1)
    assert not_finite(held(mask, buffer=True)) is None
    assert not_finite(held(mask))
    assert not_finite(held(-mask, buffer=True))
    assert not_finite(held(torch.tensor([-INF, NAN]), buffer=True))


def test_tensors_without_nan_are_left_alone() -> None:
    for tensor in (
        torch.ones(3, dtype=torch.int8),
        torch.ones(3, dtype=torch.bool),
        torch.ones(0),
        torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
    ):
        assert not_finite(held(tensor)) is None


def test_a_tensor_without_values_is_refused() -> None:
    """A loader that builds on the meta device and forgets a buffer: the first request would fail on every worker."""
    why = not_finite(held(torch.ones(3, device="meta")))
    assert why and "meta" in why


@pytest.mark.filterwarnings("ignore:Sparse")
def test_stored_values_of_sparse_tensors_are_looked_at() -> None:
    bad = torch.tensor([[0.0, NAN], [1.0, 0.0]])
    for sparse in (bad.to_sparse(), bad.to_sparse_csr()):
        assert not_finite(held(sparse))
    assert not_finite(held(torch.eye(3).to_sparse())) is None


def test_weights_that_require_gradients_are_read_without() -> None:
    assert not_finite(held(nn.Parameter(torch.ones(3)))) is None


def test_touching_never_fails() -> None:
    """It is a courtesy to the first request; a type that cannot be added must not become "bad"."""
    for tensor in (
        torch.ones(5000, dtype=torch.int8),
        torch.ones(2, device="meta"),
        torch.ones(2),
        torch.zeros(8, dtype=torch.uint8).view(torch.uint4),
        torch.eye(3, dtype=torch.int64).to_sparse(),
    ):
        touch(tensor)


# --- golden -----------------------------------------------------------------------------------------------------------


def test_inputs_are_given_as_they_were_recorded() -> None:
    def payload(*args: Any, **named: Any) -> Any:
        return args, named, torch.is_grad_enabled()

    one = torch.ones(1)
    assert answer(payload, one) == ((one,), {}, False)
    assert answer(payload, [one, one]) == ((one, one), {}, False)
    assert answer(payload, {"x": one}) == ((), {"x": one}, False)


def test_what_a_module_keeps_of_the_first_call_can_be_changed_later() -> None:
    """A cache of positions made in inference mode raises in the first request that extends it outside of that mode."""
    kept: list[torch.Tensor] = []
    answer(lambda x: kept.append(x * 2), torch.ones(2))
    kept[0] += 1
    assert kept[0].tolist() == [3.0, 3.0]


def test_outputs_within_the_tolerances_are_the_golden_ones() -> None:
    want = torch.tensor([1.0, -1000.0, 0.0])
    assert compared(want + torch.tensor([1e-5, 0.05, 1e-6]), want) is None
    assert compared(want.clone(), want) is None
    assert compared((want, {"a": want}), [want, {"a": want}]) is None
    assert compared(torch.zeros(0), torch.zeros(0)) is None


def test_the_largest_difference_is_told_with_its_place() -> None:
    want = torch.zeros(2, 3)
    got = want.clone()
    got[1, 2], got[0, 1] = 0.5, 0.25
    why = compared({"logits": got}, {"logits": want})
    assert why and "'logits'" in why and "2 of 6" in why and "[1, 2]" in why and "0.5" in why


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_outputs_that_are_not_finite_differ(value: float) -> None:
    assert compared(torch.tensor([1.0, value]), torch.tensor([1.0, 1.0]))


def test_integers_booleans_and_complex_numbers_are_compared() -> None:
    assert compared(torch.tensor([1, 2]), torch.tensor([1, 3]))
    assert compared(torch.tensor([True]), torch.tensor([False]))
    assert compared(torch.tensor([1j]), torch.tensor([2j]))
    assert compared(torch.tensor([1, 2]), torch.tensor([1, 2])) is None


@pytest.mark.parametrize(
    ("got", "want", "why"),
    [
        (torch.zeros(2), torch.zeros(3), "shape (2,), golden: torch.float32 of shape (3,)"),
        (torch.zeros(2, dtype=torch.float64), torch.zeros(2), "float64"),
        (torch.zeros(1, 2), torch.zeros(2), "(1, 2)"),
        (3.0, torch.zeros(2), "a float"),
        ([torch.zeros(2)], torch.zeros(2), "1 items"),
        (torch.zeros(2), [torch.zeros(2)], "golden: 1 items"),
        ([torch.zeros(2)], [torch.zeros(2)] * 2, "1 items, golden: 2 items"),
        (torch.zeros(2), {"a": torch.zeros(2)}, "keys ['a']"),
        ({"b": torch.zeros(2)}, {"a": torch.zeros(2)}, "keys ['b']"),
    ],
)
def test_another_structure_or_type_differs(got: Any, want: Any, why: str) -> None:
    found = compared(got, want)
    assert found and why in found


def test_a_difference_imports_nothing() -> None:
    """Seen: the first rejection in each worker took two seconds, in which torch imported 487 modules and answers stood still."""
    program = (
        "import sys, torch\n"
        "from genlock.worker.proof import difference\n"
        "before = set(sys.modules)\n"
        "why = difference(torch.eye(3), torch.eye(3) + torch.tensor([0, 0, 1]), rtol=0, atol=0.5)\n"
        "assert 'most at [0, 2]' in why, why\n"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
