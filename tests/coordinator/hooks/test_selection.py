"""Which saves count, and what is told about them."""

import math
from typing import Any

import pytest
from genlock.coordinator.errors import BadInput
from genlock.coordinator.hooks.selection import MAX_MESSAGE, Save, Selection
from genlock.coordinator.manifest import MAX_METRICS


def save(**metrics: float) -> Save:
    return Save.of(metrics, epoch=None, step=None)


def taken(selection: Selection, scores: list[float]) -> list[float]:
    """The scores that are taken, each of which is published at once."""
    found = []
    for score in scores:
        one = save(loss=score)
        if selection.takes(one):
            selection.ended(one, is_published=True)
            found.append(score)
    return found


def test_every_third_save_is_taken_and_the_first_is_one_of_them() -> None:
    assert taken(Selection(every=3), [1, 2, 3, 4, 5, 6, 7]) == [1, 4, 7]


@pytest.mark.parametrize(
    ("mode", "scores", "expected"),
    [
        ("min", [3, 2, 2, 2.5, 1], [3, 2, 1]),
        ("max", [3, 2, 3, 4, math.nan, 5], [3, 4, 5]),
        ("min", [math.nan, math.inf, 5, math.nan, 4], [5, 4]),
    ],
)
def test_only_what_is_better_is_taken(mode: str, scores: list[float], expected: list[float]) -> None:
    """A loss that became NaN is smaller than nothing: `nan < best` is false, and so is `nan > best`; it never replaces a good one."""
    assert taken(Selection(monitor="loss", mode=mode), scores) == expected


def test_of_every_second_save_those_that_are_better() -> None:
    assert taken(Selection(every=2, monitor="loss"), [5, 1, 4, 0, 4.5, 0, 3]) == [5, 4, 3]


def test_what_could_not_be_published_is_nothing_to_be_better_than() -> None:
    """Redis was away when the best save came: a later one that is nearly as good is better than what the fleet has."""
    selection = Selection(monitor="loss")
    best = save(loss=1.0)
    assert selection.takes(best)
    assert not selection.takes(save(loss=2.0)), "while the best one is on its way, it counts"
    selection.ended(best, is_published=False)
    assert selection.takes(save(loss=2.0))


def test_the_best_stays_the_best_whatever_ends_first() -> None:
    selection = Selection(monitor="loss")
    older, newer = save(loss=2.0), save(loss=1.0)
    assert selection.takes(older) and selection.takes(newer)
    selection.ended(newer, is_published=True)
    selection.ended(older, is_published=True)
    assert selection.best == 1.0


@pytest.mark.parametrize("wrong", [{"every": 0}, {"every": 1.5}, {"every": True}, {"mode": "lowest"}])
def test_wrong_arguments_are_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(wrong))):
        Selection(**wrong)


class OneNumber:
    """As a loss is: torch warns when it is made a number together with its history."""

    def detach(self) -> float:
        return 0.5

    def __float__(self) -> float:
        raise UserWarning("Converting a tensor with requires_grad=True to a scalar")


class Several:
    def __float__(self) -> float:
        raise RuntimeError("a Tensor with 4 elements cannot be converted to Scalar")


def test_metrics_are_the_finite_numbers_of_what_was_logged() -> None:
    """Libraries log tensors, text and NaN beside numbers; a manifest takes finite numbers under names of a reasonable length."""
    logged = {"loss": OneNumber(), "bad": math.nan, "confusion": Several(), "note": "1", "x" * 129: 1, "none": None}
    found = Save.of(logged, epoch=3, step=7)
    assert found.metrics == {"epoch": 3.0, "step": 7.0, "loss": 0.5}
    assert "bad" in found.logged


def test_epoch_and_step_are_numbers_whatever_they_come_as() -> None:
    """A loop counts in a tensor, or reads its step from a file's name: a message made of these raised in the thread that publishes."""
    found = Save.of({}, epoch=OneNumber(), step="120")
    assert (found.epoch, found.step, found.metrics) == (0.5, 120, {"epoch": 0.5, "step": 120})
    assert found.message("", None) == "epoch 0.5, step 120"
    assert Save.of(None, epoch=math.nan, step="last").message("run 41", None) == "run 41"


def test_metrics_under_no_names_are_refused() -> None:
    with pytest.raises(BadInput, match="not list"):
        Save.of([0.5])  # type: ignore[arg-type]


def test_what_an_earlier_run_has_published_has_to_be_beaten() -> None:
    """A job that was resumed knows of no earlier save: its first one, however bad, replaced the best one."""
    selection = Selection(monitor="loss")
    worse, better = save(loss=0.5), save(loss=0.1)
    assert selection.is_new and selection.takes(worse)
    selection.learn({"loss": 0.2})
    assert not selection.holds(worse) and not selection.holds(save(loss=0.2))
    selection.ended(worse, is_published=False)
    assert not selection.is_new
    assert not selection.takes(save(loss=0.3))
    assert selection.takes(better) and selection.holds(better)


def test_a_save_without_the_metric_is_none_of_the_n() -> None:
    """Lightning saves twice a step: before the validation and after it. With every=2 the one with the metric was always the other one."""
    selection = Selection(every=2, monitor="loss")
    assert [
        selection.takes(one) for one in (save(), save(loss=3.0), save(), save(loss=2.0), save(), save(loss=1.0))
    ] == [
        False,
        True,
        False,
        False,
        False,
        True,
    ]


def test_the_monitored_metric_has_a_place_among_too_many() -> None:
    logged = {f"m{n}": float(n) for n in range(100)}
    found = Save.of(logged, epoch=1, step=1, first="m99")
    assert len(found.metrics) == MAX_METRICS
    assert found.metrics["m99"] == 99.0


@pytest.mark.parametrize(
    ("text", "epoch", "step", "monitor", "expected"),
    [
        ("run 41", 3, 1234567, "loss", "run 41: epoch 3, step 1234567, loss 0.1235"),
        ("", 1.5, None, "other", "epoch 1.5"),
        ("run 41", None, None, None, "run 41"),
        ("y" * 9000, None, None, None, "y" * MAX_MESSAGE),
    ],
)
def test_the_message_says_where_training_was(
    text: str, epoch: float | None, step: int | None, monitor: str | None, expected: str
) -> None:
    assert Save.of({"loss": 0.123456}, epoch=epoch, step=step).message(text, monitor) == expected
