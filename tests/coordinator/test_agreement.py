"""Whether all workers agree, and who does not: the first sentence that an operator reads."""

from typing import Any

import msgspec
import pytest
from genlock.coordinator.agreement import Agreement, agreement_of
from genlock.coordinator.records import Member, Record, Snapshot
from genlock.coordinator.status import FleetStatus, ModelStatus, WorkerStatus, status_of_model, status_of_worker

NOW = 1_700_000_000.0
LEASE_S = 3.0


def model(name: str = "digits", generation: int = 4, committed_at: float = NOW - 600) -> ModelStatus:
    place = {"gen": generation, "version": "v" * 32, "epoch": 1, "at": round(committed_at * 1000)}
    record = msgspec.convert({"next": generation + 1, "active": place if generation else None}, Record, strict=False)
    return status_of_model(name, Snapshot(1, True, LEASE_S, 1, (), {name: record}, {}), None)


def fleet(*models: ModelStatus, is_open: bool = True) -> FleetStatus:
    facts: dict[str, Any] = {"id": "i", "epoch": 1, "revision": 9, "redis": "r", "store": "s", "workers": 0}
    return FleetStatus(name="prod", open=is_open, lease_s=LEASE_S, models=list(models or [model()]), **facts)


def worker(name: str, *, stale: bool = False, holds: tuple[str, ...] = ("digits",), **shown: int) -> WorkerStatus:
    """As the heartbeat of a worker has it: holds these models, shows these generations."""
    models = {m: {"generation": g, "version": "v", "bytes": 1, "stale": stale} for m, g in shown.items()}
    about = {"worker": name, "host": name.partition(":")[0], "generations": shown, "models": models}
    return status_of_worker(Member(name.replace(":", ""), 1, holds, about))


def judged(*workers: WorkerStatus, models: tuple[ModelStatus, ...] = (), is_open: bool = True) -> Agreement:
    return agreement_of(fleet(*models, is_open=is_open), workers, now=NOW)


def test_all_agree() -> None:
    found = judged(worker("a:1", digits=4), worker("b:2", digits=4))
    assert (found.state, found.differences) == ("agree", [])
    assert found.sentence == "all 2 workers agree: what they hold is what is active"
    assert judged(worker("a:1", digits=4)).sentence.startswith("the only worker agrees")


def test_who_is_behind_is_named() -> None:
    """Somebody saw that not all agree and had to go through 40 rows for the one that did not."""
    found = judged(worker("a:1", digits=4), worker("b:2", digits=3))
    assert (found.state, found.differing) == ("disagree", 1)
    assert found.sentence == "1 of 2 workers does not agree: b:2: digits at 3, active is 4"
    assert [(one.host, one.kind, one.generation, one.active) for one in found.differences] == [("b", "behind", 3, 4)]


def test_who_answers_stale_does_not_agree() -> None:
    """It has the right generation, and cannot know that it is still the right one."""
    found = judged(worker("a:1", stale=True, digits=4))
    assert (found.state, found.differences[0].kind) == ("disagree", "stale")
    assert "a:1: digits at 4 stale" in found.sentence


def test_who_is_ahead_of_redis_is_no_agreement() -> None:
    """A Redis that was set back to an older dump: its workers know better."""
    found = judged(worker("a:1", digits=5))
    assert (found.state, found.differences[0].kind) == ("disagree", "ahead")


def test_a_commit_of_this_moment_is_no_disagreement() -> None:
    """Every flip flashed red for a second, because workers tell people with their next heartbeat."""
    young, old = model(committed_at=NOW - LEASE_S + 0.5), model(committed_at=NOW - LEASE_S - 0.5)
    found = judged(worker("a:1", digits=3), worker("b:2", digits=4), models=(young,))
    assert (found.state, found.differing) == ("changing", 0)
    assert found.sentence == "nobody disagrees: 1 of 2 workers yet to say that it has changed"
    assert judged(worker("a:1", digits=3), models=(old,)).state == "disagree"


def test_a_model_that_is_being_loaded_contradicts_nobody() -> None:
    found = judged(worker("a:1"), worker("b:2", digits=4))
    assert (found.state, found.differences[0].kind) == ("changing", "loading")
    assert found.sentence == "nobody disagrees: 1 of 2 workers loading"
    assert found.differences[0].sentence == "a:1: digits is not loaded yet"


REFUSED = "digits generation 4: signature: it is not signed"


def failing(name: str, error: Any = REFUSED) -> WorkerStatus:
    """Holds the model, has nothing of it loaded."""
    return msgspec.structs.replace(worker(name), last_error=error)


def test_who_cannot_load_what_is_active_is_not_said_to_be_loading() -> None:
    """Every request was 503 for a missing key, the worker had given up, and the first line was calm: `1 of 1 worker loading`."""
    found = judged(failing("a:1"))
    assert (found.state, found.differing, found.differences[0].kind) == ("cannot", 0, "cannot")
    assert found.sentence == f"1 of 1 worker cannot load what is active: a:1: {REFUSED}"


@pytest.mark.parametrize(
    "error", ["digits generation 3: build: x", "digit generation 4: x", "Redis does not answer", ["x"], None]
)
def test_an_error_about_something_else_is_no_reason_to_give_a_load_up(error: Any) -> None:
    """Of the generation before, of another model, of Redis, or garbled: what is active is on its way."""
    found = judged(failing("a:1", error))
    assert (found.state, found.sentence) == ("changing", "nobody disagrees: 1 of 1 worker loading")


def test_who_contradicts_is_told_before_who_cannot_load() -> None:
    found = judged(worker("c:3"), failing("a:1"), worker("b:2", digits=3))
    assert found.state == "disagree"
    assert found.sentence == (
        "1 of 3 workers does not agree: b:2: digits at 3, active is 4;"
        f" 1 of 3 workers cannot load what is active: a:1: {REFUSED}"
    )
    assert [one.kind for one in found.differences] == ["behind", "cannot", "loading"]


def test_what_the_fleet_does_not_know_cannot_differ() -> None:
    """Models without a generation, and models that nobody has published."""
    found = judged(worker("a:1", holds=("none", "new"), none=7), models=(model("new", 0),))
    assert found.state == "agree"


def test_many_are_counted_and_few_are_named() -> None:
    """Of a thousand workers the sentence stays one that can be read; one worker with two models is one worker."""
    models = (model("digits"), model("ranker"))
    many = [worker(f"h:{n}", holds=("digits", "ranker"), digits=3, ranker=3) for n in range(1000)]
    found = judged(worker("ok:1", digits=4), worker("new:1"), *many, models=models)
    assert (found.differing, len(found.differences)) == (1000, 2001)
    assert found.sentence.startswith("1000 of 1002 workers do not agree: h:0: digits at 3, active is 4; h:1: ")
    assert found.sentence.endswith("; and 997 more")
    assert found.differences[-1].kind == "loading", "those that contradict come first"


@pytest.mark.parametrize("about", ["text", ["x"], {"digits": "text"}, None])
def test_what_a_worker_says_of_itself_is_not_believed(about: Any) -> None:
    """Anybody may have written it into Redis: it is passed over, no reader of it fails."""
    member = Member("1", 1, ("digits",), {"worker": "a:1", "generations": {"digits": 4}, "models": about})
    assert judged(status_of_worker(member)).state == "agree"


def test_a_closed_fleet_and_an_empty_one_agree_on_nothing() -> None:
    assert judged(worker("a:1", digits=4), is_open=False).state == "closed"
    assert judged().sentence == "no worker is a member of this fleet now"
