"""coordinator/statedict.py: where the weights stand in what a training program has saved."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from genlock.coordinator.statedict import WRAPPERS, weights_in

WEIGHTS = {"w": torch.ones(1)}


@pytest.mark.parametrize("key", WRAPPERS)
def test_they_are_found_below_the_keys_of_training_programs(key: str) -> None:
    assert weights_in({"epoch": 3, key: WEIGHTS, "optimizer": {"state": {0: torch.zeros(2)}}}) is WEIGHTS


def test_what_has_a_tensor_is_the_state_dict_whatever_its_keys_are_called() -> None:
    for found in (WEIGHTS, {"state_dict": torch.zeros(2)}, {"state_dict": WEIGHTS, "ema": torch.zeros(1)}):
        assert weights_in(found) is found


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ([torch.zeros(2)], "holds a list"),
        (torch.zeros(2), "holds a Tensor"),
        ({}, "keys: none"),
        ({"epoch": 3}, "keys: 'epoch'"),
        ({"state_dict": {"epoch": 3}}, "without tensors"),
        ({"state_dict": WEIGHTS, "model_state_dict": WEIGHTS}, "each of state_dict and model_state_dict: save the one"),
    ],
)
def test_what_has_none_or_two_is_refused(found: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        weights_in(found)
