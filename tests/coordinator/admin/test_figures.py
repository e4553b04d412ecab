"""coordinator/admin/figures.py: the fleet as Prometheus sees it. prometheus_client reads the text back."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from genlock.coordinator.admin.figures import (
    EVENTS,
    FLIP_BUCKETS_S,
    MAX_MODELS,
    METRICS,
    OUTCOMES,
    Memory,
    Told,
    figures,
)
from genlock.coordinator.admin.picture import Picture, picture_of
from genlock.coordinator.admin.wire import LogEntry
from genlock.coordinator.records import Member, Record, Snapshot
from genlock.coordinator.status import status_of_model
from prometheus_client.parser import text_string_to_metric_families as read

VERSION = "ab" * 32
RECORD: dict[str, Any] = {
    "next": 6,
    "active": {"gen": 4, "version": VERSION, "epoch": 3, "at": 1_700_000_000_000},
    "pin": {"by": "alice", "gen": 4},
    "poison": {"p": {"version": VERSION}},
}
CANDIDATE: dict[str, Any] = {
    "gen": 5,
    "version": "cd" * 32,
    "request": "r",
    "started": 1_700_000_100_000,
    "deadline": 1_700_000_220_000,
    "awaited": 1,
    "ready": 2,
}


def says(generation: Any, *, stale: Any = False, **stats: Any) -> dict[str, Any]:
    return {"host": "a", "models": {"digits": {"generation": generation, "stale": stale}}, "stats": stats}


def picture(*abouts: dict[str, Any], record: dict[str, Any] | None = None, is_open: bool = True) -> Picture:
    members = tuple(Member(str(number), 1, ("digits",), about) for number, about in enumerate(abouts, 1))
    models = {"digits": msgspec.convert(record or RECORD, Record, strict=False)}
    snapshot = Snapshot(3, is_open, 3.0, 70, members, models, {})
    statuses = [status_of_model(name, snapshot, None) for name in models]
    return picture_of(
        snapshot, statuses, {}, name="prod", fleet_id="id", redis="redis://r", store="/store", as_of=1_700_000_150.5
    )


def entry(what: str, at: float, model: str = "digits", **facts: Any) -> LogEntry:
    return LogEntry(id=f"{round(at * 1000)}-0", at=at, what=what, model=model, facts=facts)


def flip(generation: int, at: float) -> list[LogEntry]:
    """Half a second of preparing, 20 ms of fencing."""
    steps = (("candidate", 0.0), ("fencing", 0.5), ("committed", 0.52))
    return [entry(what, at + later, generation=generation) for what, later in steps]


def values(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found = {}
    for family in read(text):
        assert family.documentation.endswith("."), family.name
        for sample in family.samples:
            assert sample.labels.pop("fleet") == "prod"
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def shown(picture: Picture, told: Told | None = None) -> Any:
    """shown(…)(name, **labels): the value, or None."""
    found = values(figures(picture, (told or Told()).heard()))
    return lambda name, **labels: found.get((f"genlock_{name}", frozenset(labels.items())))


def test_every_metric_is_exported() -> None:
    """A renamed figure silently empties its graph: each row of the table finds what it names, and nothing else is there."""
    told = Told()
    told.hears([], Memory(1, 2), is_new=False)
    told.hears(flip(5, 10.0), Memory(1, 2), is_new=True)
    canary = CANDIDATE | {"phase": "canary", "share": 50, "canary": {"steps": [50], "length": 1}}
    text = figures(picture(says(4, window_hit_rate=1.0, hits=5), record=RECORD | {"cand": canary}), told.heard())
    types = {line.split()[2]: line.split()[3] for line in text.splitlines() if line.startswith("# TYPE ")}
    assert types == {name: metric.kind for name, metric in METRICS.items()}
    values(text)


def test_names_keep_the_conventions() -> None:
    for name, metric in METRICS.items():
        assert name.endswith("_total") == (metric.kind == "counter"), name
        assert name.startswith(("genlock_fleet_", "genlock_model_")), name


def test_a_fleet_is_told_as_it_is() -> None:
    told = Told()
    told.hears([], Memory(700, 1000), is_new=True)
    value = shown(picture(says(4), says(4)), told)
    assert (value("fleet_open"), value("fleet_redis_up"), value("fleet_workers"), value("fleet_hosts")) == (1, 1, 2, 1)
    assert (value("fleet_epoch"), value("fleet_lease_seconds"), value("fleet_models")) == (3, 3, 1)
    assert (value("fleet_redis_memory_bytes"), value("fleet_redis_max_memory_bytes")) == (700, 1000)
    assert value("fleet_picture_timestamp_seconds") == 1_700_000_150.5


def test_what_is_wrong_shows() -> None:
    """Closed, without workers, and Redis does not answer any more: the picture stays, and says how old it is."""
    value = shown(picture(is_open=False).gone_stale("it ended"))
    assert (value("fleet_open"), value("fleet_redis_up"), value("fleet_workers")) == (0, 0, 0)
    assert value("fleet_hit_ratio") is None
    assert value("fleet_redis_memory_bytes") is None


def test_a_server_without_a_limit_has_none() -> None:
    """0 would be a server that is full without end."""
    told = Told()
    told.hears([], Memory(700, 0), is_new=True)
    assert shown(picture(), told)("fleet_redis_max_memory_bytes") is None


def test_a_model_is_told_as_it_is() -> None:
    value = shown(picture(says(4)))
    assert value("model_active_generation", model="digits") == 4
    assert value("model_committed_timestamp_seconds", model="digits") == 1_700_000_000
    assert (value("model_pinned", model="digits"), value("model_unproven", model="digits")) == (1, 0)
    assert (value("model_poisoned_versions", model="digits"), value("model_holders", model="digits")) == (1, 1)
    assert value("model_phase", model="digits", phase="idle") == 1
    assert value("model_phase", model="digits", phase="fencing") == 0
    assert value("model_candidate_generation", model="digits") is None


def test_a_candidate_is_told_while_there_is_one() -> None:
    value = shown(picture(says(4), record=RECORD | {"cand": CANDIDATE}))
    assert value("model_candidate_generation", model="digits") == 5
    assert value("model_candidate_started_timestamp_seconds", model="digits") == 1_700_000_100
    assert value("model_candidate_deadline_timestamp_seconds", model="digits") == 1_700_000_220
    assert value("model_candidate_workers", model="digits", state="ready") == 2
    assert value("model_candidate_workers", model="digits", state="failed") == 0
    assert value("model_phase", model="digits", phase="preparing") == 1
    assert value("model_canary_share", model="digits") is None


def test_who_does_not_agree_is_counted() -> None:
    """One look at the fleet: do all workers answer from what is active?"""
    odd: list[dict[str, Any]] = [{}, {"models": "x"}, {"models": {"digits": 4}}, says(None)]
    value = shown(picture(says(4), says(4), says(3), says(4, stale=True), *odd))
    standing = {
        state: value("model_workers", model="digits", state=state) for state in ("active", "other", "stale", "nothing")
    }
    assert standing == {"active": 2, "other": 1, "stale": 1, "nothing": 4}


def test_the_hit_ratio_is_that_of_all_uses() -> None:
    busy, quiet = says(4, window_hit_rate=0.5, hits=80, misses=10), says(4, window_hit_rate=1.0, hits=10, misses=0)
    broken = [says(4, window_hit_rate=bad, hits=7) for bad in ("1", None, -1, math.nan, [])]
    assert shown(picture(busy, quiet))("fleet_hit_ratio") == pytest.approx(0.55)
    value = shown(picture(busy, quiet, *broken))("fleet_hit_ratio")
    assert value == pytest.approx(0.55)


# --- what the log tells ----------------------------------------------------------------------------------------------


def test_counts_begin_at_nought_and_are_there_before_the_first_event() -> None:
    """Prometheus computes an increase between two scrapes: of a series that begins with 1 there is none, and nobody is woken."""
    told = Told()
    told.hears([*flip(4, 5.0), entry("rejected", 6.0, generation=3), entry("evicted", 7.0, "")], None, is_new=False)
    value = shown(picture(), told)
    assert {value("model_outcomes_total", model="digits", outcome=outcome) for outcome in OUTCOMES} == {0}
    assert {value("fleet_events_total", event=what) for what in EVENTS} == {0}
    told.hears(
        [entry("rejected", 8.0, generation=5), entry("evicted", 9.0, ""), entry("superseded", 9.0)], None, is_new=True
    )
    value = shown(picture(), told)
    assert value("model_outcomes_total", model="digits", outcome="rejected") == 1
    assert value("model_outcomes_total", model="digits", outcome="superseded") == 1
    assert value("fleet_events_total", event="evicted") == 1


def test_the_phases_of_the_last_flip_are_known_from_before() -> None:
    """An admin that has just begun shows the flip of this morning; its histogram is of what came since."""
    told = Told()
    told.hears(flip(4, 5.0), None, is_new=False)
    value = shown(picture(), told)
    assert value("model_last_flip_seconds", model="digits", phase="preparing") == pytest.approx(0.5)
    assert value("model_last_flip_seconds", model="digits", phase="fencing") == pytest.approx(0.02)
    assert value("model_flip_seconds_count", model="digits", phase="fencing") is None
    told.hears(flip(5, 15.0), None, is_new=True)
    value = shown(picture(), told)
    assert value("model_flip_seconds_count", model="digits", phase="fencing") == 1
    assert value("model_flip_seconds_sum", model="digits", phase="total") == pytest.approx(0.52)
    buckets = [
        value("model_flip_seconds_bucket", model="digits", phase="fencing", le=str(bound)) for bound in FLIP_BUCKETS_S
    ]
    assert buckets == [bound >= 0.021 for bound in FLIP_BUCKETS_S]


def test_a_rollback_to_what_is_warm_was_not_prepared_for_long() -> None:
    """Without a fencing of its own (nobody held the model) it was committed at once."""
    told = Told()
    told.hears([entry("candidate", 1.0, generation=5), entry("committed", 1.0, generation=5)], None, is_new=True)
    value = shown(picture(), told)
    assert value("model_last_flip_seconds", model="digits", phase="total") == 0
    assert value("model_last_flip_seconds", model="digits", phase="fencing") is None


@pytest.mark.parametrize("generation", [None, [], {"a": 1}, "x", 2**80, -1, 1.5])
def test_a_log_that_somebody_else_has_written_into_breaks_nothing(generation: Any) -> None:
    told = Told()
    told.hears(
        [entry(what, 1.0, generation=generation) for what in ("candidate", "fencing", "committed", "?")],
        None,
        is_new=True,
    )
    assert shown(picture(), told)("model_outcomes_total", model="digits", outcome="committed") == 1


def test_names_in_the_log_are_bounded() -> None:
    """Each would be four series for ever."""
    told = Told()
    for number in range(6 * MAX_MODELS):
        told.hears([entry("candidate", 1.0, f"m{number}"), entry("rejected", 1.0, f"x{number}")], None, is_new=True)
    heard = told.heard()
    assert len({model for model, _ in heard.outcomes}) <= 4 * MAX_MODELS
    assert len(told._begun) <= MAX_MODELS
