"""coordinator/errors/: every error says its facts, and what it means over HTTP and for a command."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields
from typing import Any

import pytest
from genlock.coordinator import errors
from genlock.coordinator.errors import GenlockError, Pinned, Poisoned, RedisRefused, UnknownModel

ALL: list[type[GenlockError]] = [
    one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, GenlockError)
]
#: The ones that are raised; the others are the branches of the tree.
LEAVES = [one for one in ALL if "__dataclass_fields__" in vars(one)]

#: Two values for each type of a field: an error that names its facts reads differently for each.
SAMPLES: dict[str, tuple[Any, Any]] = {
    "str": ("here", "there"),
    "int": (7, 8),
    "int | None": (7, None),
    "float": (1.0, 100_000.0),
    "bool": (True, False),
    "tuple[str, ...]": (("one",), ("one", "two")),
    "Any": (None, object()),
}
#: Facts that are for programs only: the sentence does not have them.
UNSAID = {"flip", "retry_after_s", "FlipRejected.version"}


def samples(error: type[GenlockError], which: int = 0) -> dict[str, Any]:
    return {one.name: SAMPLES[str(one.type)][which] for one in fields(error)}  # type: ignore[arg-type]


def test_there_are_errors_to_test() -> None:
    assert len(LEAVES) > 25
    assert GenlockError in ALL


@pytest.mark.parametrize("error", LEAVES)
def test_the_sentence_is_built_from_the_facts(error: type[GenlockError]) -> None:
    """A fact that is carried and never said is one that the person in front of the terminal misses."""
    facts = samples(error)
    said = str(error(**facts))
    assert len(said) > 5
    for name, other in samples(error, 1).items():
        if not {name, f"{error.__name__}.{name}"} & UNSAID:
            assert str(error(**facts | {name: other})) != said, f"{name} is not in the sentence"


@pytest.mark.parametrize("error", LEAVES)
def test_the_facts_are_carried(error: type[GenlockError]) -> None:
    facts = samples(error)
    raised = error(**facts)
    assert raised.facts == facts
    assert json.loads(json.dumps(raised.facts)) == {
        name: list(value) if isinstance(value, tuple) else value for name, value in facts.items()
    }


@pytest.mark.parametrize("error", LEAVES)
def test_defaults_make_a_whole_sentence(error: type[GenlockError]) -> None:
    """Optional facts that are not known must not leave a hole in it."""
    optional = {one.name for one in fields(error) if one.default is not MISSING}  # type: ignore[arg-type]
    said = str(error(**{name: value for name, value in samples(error).items() if name not in optional}))
    assert not re.search(r"None|  |\(\)|''", said), said
    assert said == said.strip()


@pytest.mark.parametrize("error", ALL)
def test_each_has_a_status_for_http_and_one_for_a_command(error: type[GenlockError]) -> None:
    assert 400 <= error.status < 600
    assert 1 <= error.exit_status <= 5, "0 is success"
    assert re.fullmatch(r"[a-z-]+", error.outcome)


def test_exit_statuses_mean_what_the_commands_promise() -> None:
    """Scripts of other people branch on these."""
    assert errors.Misuse.exit_status == 2
    assert {one.exit_status for one in (errors.FlipRejected, errors.Poisoned, errors.Pinned)} == {3}
    assert {one.exit_status for one in (errors.FlipSuperseded, errors.FlipAborted)} == {3}
    assert {one.exit_status for one in (errors.OutcomeUnknown, errors.FleetClosed, errors.LockHeld)} == {4}
    assert errors.RedisUnreachable.exit_status == 5
    assert {one.exit_status for one in ALL if issubclass(one, errors.ArtifactError)} == {1}


@pytest.mark.parametrize("error", ALL)
def test_the_tree_has_two_levels(error: type[GenlockError]) -> None:
    """Split by who has to act: a caller catches one of a handful of classes, or one error."""
    depth = error.__mro__.index(GenlockError)
    assert depth <= 2
    assert error in LEAVES or depth < 2


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    parent = ""
    for name in re.findall(r"\b[A-Z]\w+", str(errors.__doc__)):
        error = vars(errors).get(name)
        if error is not None and error is not GenlockError:
            parent = name if error.__base__ is GenlockError else parent
            drawn[name] = parent
    assert drawn == {
        one.__name__: (one if one.__base__ is GenlockError else one.__base__).__name__  # type: ignore[union-attr]
        for one in ALL
        if one is not GenlockError
    }


def test_a_branch_of_the_tree_has_no_facts() -> None:
    assert GenlockError("said").facts == {}
    assert str(GenlockError("said")) == "said"


def test_what_is_not_known_is_left_out() -> None:
    assert "known:" not in str(UnknownModel("digits"))
    assert "known: a, b" in str(UnknownModel("digits", ("a", "b")))
    assert "no reason given" in str(Pinned("digits", "ann", 1.0, "", 3))


def test_a_rollback_is_not_told_to_use_force() -> None:
    """`genlock rollback` has no --force: the remedy must be one that works there."""
    said = str(Poisoned("digits", "v", "NaN"))
    assert said.endswith("it is not tried again unless with force: `genlock publish digits FILE --force`")
    said = str(Poisoned("digits", "v", "NaN", 6))
    assert "unless with force" not in said and "generation 6" in said and "name another generation" in said


def test_a_servers_full_stop_is_not_said_twice() -> None:
    assert str(RedisRefused("here", "Authentication required.", "Log in")).endswith(
        "refuses: Authentication required. Log in"
    )
