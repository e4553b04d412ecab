"""worker/rqasig.py: one pair of signature and name is one model, whatever characters they have."""

import os

import pytest
from genlock.coordinator.errors import BadInput
from genlock.coordinator.manifest import NAME
from genlock.worker.rqasig import model_of, parts_of
from hypothesis import given
from hypothesis import strategies as st

#: What may stand in a path: any bytes but NUL and the slash.
PART = (
    st.binary(min_size=1, max_size=20)
    .filter(lambda text: not {0, 47} & set(text) and text not in (b".", b".."))
    .map(os.fsdecode)
)
#: Texts that would collide if one of the escapes was forgotten.
TRICKY = st.lists(st.sampled_from(["-", "--", "2d", "-2d", "=", "3d", ".", "a"]), min_size=1, max_size=6).map("".join)


@pytest.mark.parametrize(
    ("pair", "model"),
    [
        (("e3_t1_r0.1", "cnn"), "e3_t1_r0.1--cnn"),
        (("dim=3;norm=l2", "resnet-18"), "dim-3d3-3bnorm-3dl2--resnet-2d18"),
        (("-", "-"), "-2d---2d"),
        (("ε=0.1", "größe"), "-ce-b5-3d0.1--gr-c3-b6-c3-9fe"),
    ],
)
def test_what_people_use_can_be_read_in_the_name(pair: tuple[str, str], model: str) -> None:
    assert model_of(*pair) == model
    assert parts_of(model) == pair


@given(
    st.one_of(PART, TRICKY.filter(lambda text: text != ".")), st.one_of(PART, TRICKY.filter(lambda text: text != "."))
)
def test_every_pair_comes_back(rqa_sig: str, name: str) -> None:
    """Two signatures under one name would answer with each other's models."""
    if ".." in (rqa_sig, name):
        return
    model = model_of(rqa_sig, name)
    assert NAME.match(model)
    assert parts_of(model) == (rqa_sig, name)


@given(TRICKY)
def test_a_name_is_of_one_pair_or_of_none(model: str) -> None:
    """Any model of the fleet is looked at: what another program named like this by chance must be no second way to write a pair."""
    parts = parts_of(model)
    assert parts is None or model_of(*parts) == model


@pytest.mark.parametrize(
    "model", ["digits", "a--", "--a", "a-3D--b", "a--b--c", "a-41--b", "a-2f--b", "a--..", "a-00--b"]
)
def test_names_that_nobody_writes_like_this_are_of_no_signature(model: str) -> None:
    assert parts_of(model) is None


@pytest.mark.parametrize("wrong", ["", ".", "..", "../other", "a/b", "a\0b", "\ud800"])
def test_a_signature_leads_nowhere_else(wrong: str) -> None:
    """It comes with a request, and names a folder."""
    with pytest.raises(BadInput, match="rqa_sig"):
        model_of(wrong, "cnn")
    with pytest.raises(BadInput, match="name"):
        model_of("a", wrong)


def test_what_is_too_long_is_said_with_its_length() -> None:
    assert len(model_of("a" * 100, "b" * 26)) == 128
    with pytest.raises(BadInput, match="129 characters as a model's name; 128 are possible"):
        model_of("a" * 100, "b" * 27)
