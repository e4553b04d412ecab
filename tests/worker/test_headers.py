"""worker/headers.py: what an answer says of the generations that it came from, and what a request may demand."""

from __future__ import annotations

import re

import pytest
from genlock.coordinator.errors import HeaderInvalid, NotReady
from genlock.coordinator.manifest import NAME
from genlock.worker.headers import CANDIDATE, GENERATION, STALE, VERSION, Least, key_of, of_views
from genlock.worker.view import View
from hypothesis import given
from hypothesis import strategies as st

#: RFC 9651, section 3.1.2.
KEY = re.compile(r"[a-z*][a-z0-9_.*-]*\Z")
names = st.text("ABCxyz019._-", min_size=1, max_size=12)


def view(model: str, generation: int, *, stale: bool = False, candidate: int | None = None) -> View:
    version = f"{candidate or generation:02x}"
    return View(model=model, payload=None, generation=generation, version=version, stale=stale, candidate=candidate)


# --- names as keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("digits", "digits"),
        ("a-b_c.d1", "a-b_c.d1"),
        ("ResNet", "*res*net"),
        ("3d", "*3d"),
        ("_x", "*_x"),
        ("-", "*-"),
        ("GPT2", "*g*p*t2"),
    ],
)
def test_a_name_becomes_a_key(model: str, key: str) -> None:
    assert key_of(model) == key


@given(names, names)
def test_every_name_has_a_key_of_its_own(one: str, other: str) -> None:
    """`resnet` and `ResNet` are two models."""
    assert NAME.match(one)
    assert KEY.match(key_of(one))
    assert (key_of(one) == key_of(other)) == (one == other)


# --- answers ---------------------------------------------------------------------------------------------------------


def test_one_model_is_plain() -> None:
    assert of_views([view("m", 4)]) == [(GENERATION, "4"), (VERSION, "04")]
    assert of_views([view("m", 4, stale=True)]) == [(GENERATION, "4"), (VERSION, "04"), (STALE, "1")]


def test_an_answer_of_a_candidate_is_marked() -> None:
    """The generation is the active one, so that it never seems to go back when the canary is aborted."""
    assert of_views([view("m", 4, candidate=5)]) == [(GENERATION, "4"), (VERSION, "05"), (CANDIDATE, "5")]
    assert of_views([view("B", 2), view("a", 4, candidate=5)]) == [
        (GENERATION, "*b=2, a=4"),
        (VERSION, '*b="02", a="05"'),
        (CANDIDATE, "a=5"),
    ]


def test_an_answer_that_used_the_candidate_too_is_marked() -> None:
    """Two look-ups of one model in one request, the canary began between them: what the candidate touched is its answer."""
    both = [view("m", 4), view("m", 4, candidate=5)]
    for views in (both, both[::-1]):
        assert of_views(views) == [(GENERATION, "4"), (VERSION, "05"), (CANDIDATE, "5")]


def test_several_models_are_a_dictionary() -> None:
    """RFC 9651: versions are strings; only those that are stale are named so."""
    assert of_views([view("ranker", 9), view("Encoder", 4)]) == [
        (GENERATION, "*encoder=4, ranker=9"),
        (VERSION, '*encoder="04", ranker="09"'),
    ]
    assert of_views([view("b", 9, stale=True), view("a", 4)])[2] == (STALE, "b=1")


def test_of_a_model_that_was_used_twice_the_older_counts() -> None:
    """A flip between two uses of one request: the answer is not wholly of the newer one."""
    assert of_views([view("m", 4), view("m", 5)]) == [(GENERATION, "4"), (VERSION, "04")]
    assert of_views([view("m", 5), view("m", 4), view("n", 1)])[0] == (GENERATION, "m=4, n=1")
    assert of_views([view("m", 4), view("m", 4, stale=True)])[2] == (STALE, "1")


# --- demands ---------------------------------------------------------------------------------------------------------


def test_one_number_is_for_the_only_model() -> None:
    least = Least.of(" 7 ")
    least.check([view("m", 7), view("m", 8)])
    with pytest.raises(NotReady, match=r"generation 6 is active, the request demands 7 or later") as caught:
        least.check([view("m", 6)])
    assert caught.value.retry_after_s
    with pytest.raises(HeaderInvalid, match="name them"):
        least.check([view("m", 9), view("n", 9)])


def test_a_dictionary_is_for_the_models_that_it_names() -> None:
    least = Least.of("*res*net=4 ,\tranker=9,  ranker=10")
    least.check([view("ResNet", 4), view("ranker", 10), view("other", 1)])
    with pytest.raises(NotReady, match="'ranker'"):  # RFC 9651: of a key that stands twice the last counts
        least.check([view("ranker", 9)])
    with pytest.raises(NotReady, match="'ResNet'"):
        least.check([view("ResNet", 3)])


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "x",
        "-1",
        "1.5",
        "7,",
        "m=",
        "m=x",
        "m=-1",
        "M=1",
        "m=1;q=2",
        "=1",
        "1, 2",
        "m=1 n=2",
        "9" * 16,
        "٣",
        "m=\n1",
    ],
)
def test_a_demand_that_makes_no_sense_is_refused(text: str) -> None:
    """Taken for none, the client would believe in a guarantee that it does not have."""
    with pytest.raises(HeaderInvalid, match="X-Genlock-Min-Generation"):
        Least.of(text)
