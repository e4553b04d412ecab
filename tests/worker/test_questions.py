"""Questions of requests that may not answer from memory: each ends with one answer."""

import pytest
from genlock.coordinator.reply import Active, Candidate, State
from genlock.worker.orders import Answered
from genlock.worker.questions import Questions
from genlock.worker.slot import Job, Slot


def idle(rev: int, gen: int, version: str = "") -> State:
    return State(rev, "idle", Active(gen, version or f"v{gen}", 1))


def holding(model: str, gen: int, rev: int = 1) -> Slot:
    """A slot that serves this generation under handle 10 × gen."""
    slot = Slot(model, None)
    slot.confirmed = True
    slot.apply(idle(rev, gen), epoch=1, is_open=True)
    slot.loaded(Job(10 * gen, model, (gen, f"v{gen}"), "active", "manifest"), (gen, f"v{gen}"), {})
    return slot


class Desk:
    """Questions over slots a (generation 1) and b (generation 4), and what was answered."""

    def __init__(self, *, stale_allowed: bool = True) -> None:
        self.slots = {"a": holding("a", 1), "b": holding("b", 4)}
        self.answers: list[Answered] = []
        self.questions = Questions(self.slots, self.answers.append, stale_allowed=stale_allowed)

    def ask(self, *models: str) -> None:
        """Question 1 is on its way to Redis."""
        self.questions.add(1, models)
        assert self.questions.take_asked() == (1,)

    @property
    def is_asked_again(self) -> bool:
        return 1 in self.questions and self.questions.take_asked() == (1,)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_one_ask_is_for_all_that_had_come(desk: Desk) -> None:
    desk.questions.add(1, ("a",))
    desk.questions.add(2, ("a", "b"))
    assert desk.questions.to_ask == {"a", "b"}
    assert desk.questions.take_asked() == (1, 2) and desk.questions.take_asked() == ()
    assert desk.questions.to_ask == set() and desk.questions.of("b") == [2] and desk.questions.all == [1, 2]


def test_the_answer_is_what_the_reply_shows_active(desk: Desk) -> None:
    """All models of one question by one reply: one instant of the fleet."""
    desk.ask("b", "a")
    desk.questions.judge(1, {"a": idle(1, 1), "b": idle(1, 4)})
    assert desk.answers == [Answered(1, {"b": ((4, "v4"), 40, False), "a": ((1, "v1"), 10, False)})]
    assert 1 not in desk.questions


def test_a_question_is_answered_once(desk: Desk) -> None:
    desk.ask("a")
    for _ in range(2):
        desk.questions.judge(1, {"a": idle(1, 1)})
    assert len(desk.answers) == 1


def test_who_has_given_up_gets_no_answer(desk: Desk) -> None:
    desk.ask("a")
    desk.questions.given_up(1)
    desk.questions.again([1])
    desk.questions.judge(1, {"a": idle(1, 1)})
    assert desk.answers == [] and desk.questions.take_asked() == ()


def test_what_is_ready_may_be_answered_from_before_views_show_it(desk: Desk) -> None:
    """Active is what the worker holds, installed or ready: answer."""
    slot = desk.slots["a"]
    slot.apply(State(2, "preparing", Active(1, "v1", 1), Candidate(2, "v2", "q"), "awaited"), epoch=1, is_open=True)
    slot.loaded(Job(20, "a", (2, "v2"), "candidate", "manifest"), (2, "v2"), {})
    desk.ask("a")
    desk.questions.judge(1, {"a": idle(3, 2)})
    assert desk.answers == [Answered(1, {"a": ((2, "v2"), 20, False)})]


def test_a_reply_that_is_older_than_what_is_known_is_asked_again(desk: Desk) -> None:
    """R3: this worker has heard a newer state from another reply; the older one is no answer any more."""
    desk.slots["a"].apply(idle(7, 2), epoch=1, is_open=True)
    desk.ask("a")
    desk.questions.judge(1, {"a": idle(6, 1)})
    assert desk.answers == [] and desk.is_asked_again


def test_it_waits_for_a_load(desk: Desk) -> None:
    desk.slots["a"].apply(idle(2, 2), epoch=1, is_open=True)
    desk.ask("a")
    desk.questions.judge(1, {"a": idle(2, 2)})
    assert desk.answers == [] and 1 in desk.questions and not desk.is_asked_again


@pytest.mark.parametrize("stale_allowed", [True, False])
def test_a_load_that_failed_since_ends_the_wait(stale_allowed: bool) -> None:
    desk = Desk(stale_allowed=stale_allowed)
    slot = desk.slots["a"]
    slot.apply(idle(2, 2), epoch=1, is_open=True)
    slot.failed(Job(20, "a", (2, "v2"), "active", ""), "failed", {"step": "verify", "why": "no memory"}, 100.0)
    desk.ask("a")
    desk.questions.judge(1, {"a": idle(2, 2)})
    if stale_allowed:
        assert desk.answers == [Answered(1, {"a": ((1, "v1"), 10, True)})]
    else:
        (answer,) = desk.answers
        assert answer.model == "a" and "generation 2 could not be loaded here at verify: no memory" in answer.why


def test_nothing_is_active_yet(desk: Desk) -> None:
    desk.slots["c"] = Slot("c", None)
    desk.ask("a", "c")
    desk.questions.judge(1, {"a": idle(1, 1), "c": State(0, "idle")})
    assert desk.answers == [
        Answered(1, model="c", why="nothing is published yet: `genlock publish c PATH`", unknown=True)
    ]


def test_a_model_with_a_first_candidate_is_not_unknown(desk: Desk) -> None:
    desk.slots["c"] = Slot("c", None)
    desk.ask("c")
    desk.questions.judge(1, {"c": State(1, "preparing", None, Candidate(1, "v1", "q"))})
    assert desk.answers == [Answered(1, model="c", why="nothing is active yet")]


@pytest.mark.parametrize("stale_allowed", [True, False])
def test_a_fleet_that_is_behind_is_not_believed(stale_allowed: bool) -> None:
    """R7: what it shows active is older than what this worker was told."""
    desk = Desk(stale_allowed=stale_allowed)
    desk.slots["b"].apply(idle(2, 3), epoch=2, is_open=True)
    desk.ask("b")
    desk.questions.judge(1, {"b": idle(2, 3)})
    (answer,) = desk.answers
    if stale_allowed:
        assert answer.found == {"b": ((4, "v4"), 40, True)}
    else:
        assert "is being mended" in answer.why and not answer.unknown


def test_a_model_that_was_dropped_meanwhile(desk: Desk) -> None:
    desk.ask("a")
    del desk.slots["a"]
    desk.questions.judge(1, {"a": idle(1, 1)})
    assert [answer.model for answer in desk.answers] == ["a"] and "dropped" in desk.answers[0].why


# --- Redis is gone, or the fleet is closed -----------------------------------------------------------------------------


def test_stale_is_what_is_shown_and_marked(desk: Desk) -> None:
    desk.ask("a", "b")
    desk.questions.judge_stale(1, "gone", gone=True)
    assert desk.answers == [Answered(1, {"a": ((1, "v1"), 10, True), "b": ((4, "v4"), 40, True)})]


def test_a_fleet_may_refuse_instead() -> None:
    desk = Desk(stale_allowed=False)
    desk.ask("b", "a")
    desk.questions.judge_stale(1, "Redis is gone", gone=True)
    assert desk.answers == [Answered(1, model="b", why="Redis is gone")]


def test_without_redis_there_is_nothing_to_wait_for(desk: Desk) -> None:
    desk.slots["c"] = Slot("c", None)
    desk.slots["c"].fallback_tried = True
    desk.ask("a", "c")
    desk.questions.judge_stale(1, "Redis is gone", gone=True)
    assert [(answer.model, answer.found) for answer in desk.answers] == [("c", {})]
    assert "holds no generation" in desk.answers[0].why


@pytest.mark.parametrize("what", ["closed", "not looked for yet", "loading"])
def test_a_load_that_may_come_is_waited_for(desk: Desk, what: str) -> None:
    """Closed, or without Redis while the last good one may lie on this disk: the answer comes with the load."""
    desk.slots["c"] = Slot("c", None)
    if what == "loading":
        desk.slots["c"].job, desk.slots["c"].fallback_tried = Job(1, "c", (0, ""), "fallback", ""), True
    desk.ask("a", "c")
    desk.questions.judge_stale(1, "why", gone=what != "closed")
    assert desk.answers == [] and 1 in desk.questions


def test_refused(desk: Desk) -> None:
    desk.ask("a")
    desk.questions.refuse(1, "this worker is leaving")
    assert desk.answers == [Answered(1, model="a", why="this worker is leaving")] and desk.questions.all == []
