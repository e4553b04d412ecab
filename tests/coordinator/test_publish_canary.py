"""A canary as the trainer and the operator call it, on a real server; the members are played by hand, the publisher runs in a thread."""

import json
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from genlock.coordinator.calls import Abort, Call, Promote, Report, Rollback
from genlock.coordinator.canary import Canary, Policy
from genlock.coordinator.errors import (
    BadInput,
    Conflict,
    FlipAborted,
    FlipRejected,
    NoGeneration,
    OutcomeUnknown,
    RedisUnreachable,
    RequestReused,
    UnknownModel,
)
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.flip import Flip
from genlock.coordinator.publish import Terms
from genlock.coordinator.registry import Registry
from genlock.coordinator.reply import Reply

Background = Callable[[Callable[[], Any]], "Future[Any]"]
WaitFor = Callable[..., Any]
Publishing = Callable[..., "Future[Flip]"]
POLICY = Policy(errors=0.02, requests=20, seconds=0)


@pytest.fixture
def publishing(
    fleet: Fleet, member: Any, background: Background, wait_for: WaitFor, tmp_path: Path
) -> tuple[Any, Publishing]:
    """A member that is ready for whatever comes, of a fleet where "a" is active; publishing(content, **how): a publish that runs, and
    for which it is ready."""
    put(fleet, tmp_path, "a")
    one = member()
    one.ready(1)

    def start(content: str = "b", **how: Any) -> "Future[Flip]":
        future = background(lambda: put(fleet, tmp_path, content, **how))
        gen = wait_for(lambda: future.done() or one.candidate(), description="the proposal")
        if not future.done():
            one.ready(gen)
        return future

    return one, start


def put(fleet: Fleet, folder: Path, content: str, **how: Any) -> Flip:
    path = folder / f"file of {content}"
    path.write_text(content)
    return fleet.publish("digits", path, **how)


def counted(one: Any, gen: int, step: int, errors: int = 0) -> Reply:
    """A report of 100 requests of each group, of which those of the candidate had that many errors."""
    group = {
        "requests": 100,
        "errors": 0,
        "seconds": 1.0,
        "scored": 2,
        "score": 1.0,
        "squares": 0.5,
        "slow": {"48": 100},
    }
    text = json.dumps({"active": group, "candidate": group | {"errors": errors}})
    reply = one.registry.ask(Report(one.id, "digits", gen, step, text))
    assert reply.figures is not None
    return reply  # type: ignore[no-any-return]


# --- people decide -----------------------------------------------------------------------------------------------------


def test_a_publish_returns_when_its_canary_begins(fleet: Fleet, publishing: Any) -> None:
    """What is active stays; the status tells who is tried on, and what was counted of it."""
    one, publish = publishing
    flip = publish(canary="5%,25%", canary_timeout=60).result(10)
    assert (flip.outcome, flip.generation, flip.unproven) == ("canary", 2, False)
    counted(one, 2, 1, errors=3)
    status = fleet.model("digits")
    assert (status.generation, status.phase, status.watch) == (1, "canary", None)
    candidate = status.candidate
    assert candidate is not None
    assert (candidate.generation, candidate.share, candidate.steps, candidate.policy) == (2, 0.05, [0.05, 0.25], None)
    figures = candidate.figures
    assert figures is not None
    assert (figures["active"]["errors"], figures["candidate"]["errors"]) == (0, 3)
    assert figures["candidate"]["score"] == 0.5 and figures["candidate"]["mean_s"] == pytest.approx(0.01)
    row = fleet.history("digits")[0]
    assert (row.generation, row.outcome) == (2, "candidate")


def test_a_publish_behind_a_canary_does_not_wait_for_it(fleet: Fleet, publishing: Any, tmp_path: Path) -> None:
    """People may take hours; it is known what it is, and no error: it waits as the next one."""
    _, publish = publishing
    publish(canary="5%").result(10)
    flip = put(fleet, tmp_path, "c", timeout=60)
    assert (flip.outcome, flip.generation) == ("next", None)
    assert fleet.abort("digits") == 2
    assert fleet.model("digits").candidate is not None


def test_a_canary_is_promoted_by_shares_and_then_to_all(
    fleet: Fleet, publishing: Any, background: Background, wait_for: WaitFor
) -> None:
    """The last one is waited for like a publish: it comes back when the fleet has changed over."""
    one, publish = publishing
    publish(canary="5%").result(10)
    flip = fleet.promote("digits", "25%", why="looks well", author="me")
    assert (flip.outcome, flip.generation) == ("canary", 2)
    candidate = fleet.model("digits").candidate
    assert candidate is not None and candidate.share == 0.25
    facts = [event.facts for event in fleet.events(newest=20) if event.what == "promoted"][-1]
    assert (facts["by"], facts["why"], float(facts["share"])) == ("me", "looks well", 0.25)
    flying = background(lambda: fleet.promote("digits"))
    wait_for(lambda: one.state().is_fencing, description="the fence")
    assert not flying.done()
    one.fenced(2)
    flip = flying.result(10)
    assert (flip.outcome, flip.generation, flip.workers["h:1"]["state"]) == ("committed", 2, "fenced")
    assert fleet.model("digits").generation == 2 and fleet.model("digits").way_back == 1


def test_who_does_not_wait_is_told_that_it_is_the_candidate(fleet: Fleet, publishing: Any) -> None:
    one, publish = publishing
    assert publish(canary="5%", wait=False).result(10).outcome == "candidate"
    one.ready(2)
    assert fleet.promote("digits", wait=False).outcome == "candidate"
    assert one.state().is_fencing


def test_all_of_them_is_written_in_three_ways(fleet: Fleet, publishing: Any) -> None:
    one, publish = publishing
    for content, share in (("b", None), ("c", 1), ("d", "100%")):
        flip = publish(content, canary="5%").result(10)
        assert fleet.promote("digits", share, wait=False).generation == flip.generation
        assert one.state().is_fencing
        fleet.abort("digits")


def test_without_anything_active_there_is_no_canary(fleet: Fleet, tmp_path: Path) -> None:
    assert put(fleet, tmp_path, "a", canary="5%").outcome == "committed"


def test_an_abort_ends_a_canary_and_what_is_active_stays(fleet: Fleet, publishing: Any) -> None:
    _, publish = publishing
    publish(canary="5%", request="q").result(10)
    assert fleet.abort("digits", why="slower") == 2
    with pytest.raises(FlipAborted) as caught:
        fleet.publish("digits", "gone", request="q")
    assert (caught.value.generation, caught.value.why) == (2, "slower")
    assert fleet.model("digits").generation == 1


def test_the_same_request_finds_its_canary(fleet: Fleet, publishing: Any) -> None:
    """OutcomeUnknown: asked again, nothing is tried twice, whatever has become of the file."""
    _, publish = publishing
    first = publish(canary="5%", request="q").result(10)
    again = fleet.publish("digits", "gone", canary="5%", request="q")
    assert (again.outcome, again.generation, again.version) == ("canary", 2, first.version)


def losing(monkeypatch: pytest.MonkeyPatch, kind: type[Call], replies: int) -> list[Call]:
    """The next replies to calls of that kind are lost; the list of what was sent."""
    send, sent = Registry.send, []

    def lost(self: Registry, call: Call, *rest: Any) -> Reply:
        reply = send(self, call, *rest)
        if isinstance(call, kind):
            sent.append(call)
            if len(sent) <= replies:
                raise RedisUnreachable("there", "the reply was lost")
        return reply

    monkeypatch.setattr(Registry, "send", lost)
    return sent


def test_a_promotion_whose_reply_was_lost_is_made_once(
    fleet: Fleet, publishing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Executed, and the connection broke: under another id it would be refused, because it has that share already."""
    _, publish = publishing
    publish(canary="5%").result(10)
    sent = losing(monkeypatch, Promote, 2)
    assert fleet.promote("digits", "25%", request="p").outcome == "canary"
    assert len(sent) == 3 and fleet.promote("digits", "25%", request="p").outcome == "canary"
    assert [event.what for event in fleet.events(newest=50)].count("promoted") == 1


def test_a_request_is_of_one_share(fleet: Fleet, publishing: Any) -> None:
    """25 % and then all of them under one id: the second was told as done, and the candidate was not committed."""
    _, publish = publishing
    publish(canary="5%").result(10)
    fleet.promote("digits", "25%", request="p")
    for share in ("50%", None):
        with pytest.raises(RequestReused, match="earlier promote to 25 %: nothing was done"):
            fleet.promote("digits", share, request="p")
    with pytest.raises(RequestReused, match="earlier promote to 25 %"):
        fleet.promote("digits", "25%", generation=9, request="p")
    candidate = fleet.model("digits").candidate
    assert candidate is not None and candidate.share == 0.25
    assert fleet.promote("digits", 0.25, generation=2, request="p").outcome == "canary"


def test_a_promotion_that_gets_no_answer_is_unknown(
    fleet: Fleet, publishing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, publish = publishing
    publish(canary="5%").result(10)
    losing(monkeypatch, Promote, 10**6)
    monkeypatch.setattr("genlock.coordinator.wait.FENCING_LEASES", 0)
    monkeypatch.setattr("genlock.coordinator.wait.SLACK_S", -1.0)
    with pytest.raises(OutcomeUnknown, match="request='p1'"):
        fleet.promote("digits", "25%", request="p1")


# --- what cannot be ----------------------------------------------------------------------------------------------------


def test_a_promotion_needs_a_canary(fleet: Fleet, publishing: Any) -> None:
    one, publish = publishing
    with pytest.raises(UnknownModel):
        fleet.promote("unheard")
    with pytest.raises(NoGeneration) as caught:
        fleet.promote("digits")
    assert str(caught.value) == "model 'digits': there is no canary to promote: it is idle"
    publish(wait=False).result(10)
    with pytest.raises(
        NoGeneration, match=r"^model 'digits': there is no canary to promote: it is (preparing|fencing)$"
    ):
        fleet.promote("digits")
    one.fenced(2)


def test_a_promotion_that_is_refused_says_why(fleet: Fleet, publishing: Any, member: Any) -> None:
    """Not the share that it has; nor over a worker that cannot load it, which is named."""
    one, publish = publishing
    publish(canary="5%,25%").result(10)
    with pytest.raises(NoGeneration) as caught:
        fleet.promote("digits", "5%")
    assert caught.value.why == "it has 5 % of the requests already"
    one.leave()
    with pytest.raises(NoGeneration) as caught:
        fleet.promote("digits")
    assert caught.value.why.startswith("0 are ready, 0 failed, 0 were not heard of")
    assert fleet.model("digits").phase == "canary"


def test_a_promotion_decided_on_another_candidate_is_a_conflict(fleet: Fleet, publishing: Any) -> None:
    """The page of the operator still shows generation 2, which was aborted; 3 is another one."""
    _, publish = publishing
    publish("b", canary="5%").result(10)
    fleet.abort("digits", generation=2)
    publish("c", canary="5%").result(10)
    with pytest.raises(Conflict) as caught:
        fleet.promote("digits", generation=2)
    assert caught.value.found == "generation 3"
    assert fleet.model("digits").phase == "canary"
    assert fleet.promote("digits", "25%", generation=3).outcome == "canary"


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"canary": "5"}, "share: '5' is no share of the requests: write it as 5% or 0.05"),
        (
            {"canary": "25%,5%"},
            "canary: its steps are 25 %, 5 %: write 1 to 16 growing shares below 100 %, such as 5%,25%",
        ),
        ({"canary": "100%"}, "canary: its steps are 100 %: write 1 to 16 growing shares below 100 %, such as 5%,25%"),
        ({"canary": "5%", "canary_timeout": 0}, "canary_timeout: it is 0 s: more than 0, a week at most"),
        ({"canary": "5%", "policy": "errors=2"}, "policy: errors is 2.0: it goes from 0 to 1"),
        (
            {"policy": "errors=1%"},
            "canary: a policy and a timeout are those of a canary: say its share too, as in canary='5%'",
        ),
        (
            {"canary_timeout": 5},
            "canary: a policy and a timeout are those of a canary: say its share too, as in canary='5%'",
        ),
    ],
    ids=repr,
)
def test_a_canary_that_is_none_is_refused_before_anything(
    fleet: Fleet, tmp_path: Path, how: dict[str, Any], sentence: str
) -> None:
    """Not after a gigabyte was copied: the file is not even looked at. The same for a draft."""
    for attempt in (
        lambda: fleet.publish("digits", tmp_path / "gone", **how),
        lambda: fleet.publishing("digits", **how),
    ):
        with pytest.raises(BadInput) as caught:
            attempt()
        assert str(caught.value) == sentence
    assert fleet.status().models == []


def test_a_share_to_promote_to_is_one(fleet: Fleet) -> None:
    with pytest.raises(BadInput, match="'25' is no share of the requests"):
        fleet.promote("digits", "25")


def test_a_draft_may_have_a_canary(fleet: Fleet, publishing: Any, background: Background, wait_for: WaitFor) -> None:
    one, _ = publishing

    def write() -> Any:
        with fleet.publishing("digits", canary=0.05, policy=POLICY, wait=False) as draft:
            draft.path("model").write_text("b")
        return draft.flip

    assert background(write).result(10).outcome == "candidate"
    one.ready(2)
    candidate = fleet.model("digits").candidate
    assert candidate is not None and (candidate.share, candidate.policy) == (0.05, POLICY)


# --- a policy decides --------------------------------------------------------------------------------------------------


def test_with_a_policy_a_publish_waits_for_the_end(fleet: Fleet, publishing: Any, wait_for: WaitFor) -> None:
    """Through its steps to the commit; then it is watched, against what the generation before it counted in the last of them."""
    one, publish = publishing
    flying = publish(canary="5%,25%", policy=POLICY)
    wait_for(lambda: one.state().is_canary, description="the canary")
    counted(one, 2, 1)
    assert one.registry.ask(Promote("digits", "policy-1", 1, "w", "", 2, 2500)).verdict == "ok"
    counted(one, 2, 2, errors=1)
    assert one.registry.ask(Promote("digits", "policy-2", 1, "w", "", 2)).verdict == "ok"
    assert not flying.done()
    one.fenced(2)
    assert flying.result(10).outcome == "committed"
    counted(one, 2, 0, errors=7)
    watch = fleet.model("digits").watch
    assert watch is not None and (watch.generation, watch.policy) == (2, POLICY)
    assert watch.figures is not None
    assert [watch.figures[group]["errors"] for group in ("active", "candidate")] == [0, 7]


def test_a_policy_that_aborts_reaches_the_publisher(fleet: Fleet, publishing: Any, wait_for: WaitFor) -> None:
    one, publish = publishing
    flying = publish(canary="5%", policy="errors=2%,requests=20,seconds=0")
    wait_for(lambda: one.state().is_canary, description="the canary")
    why = "errors 50 % against 0 % after 100 requests"
    one.registry.ask(Abort("digits", "policy-2-1-0", 2, "the policy (heard by h:1)", why))
    with pytest.raises(FlipAborted) as caught:
        flying.result(10)
    assert (caught.value.generation, caught.value.why) == (2, why)
    assert why in str(caught.value) and "generation 2" in str(caught.value)


def test_a_canary_that_a_worker_finds_bad_is_rejected(fleet: Fleet, publishing: Any, wait_for: WaitFor) -> None:
    one, publish = publishing
    flying = publish(canary="5%", policy=POLICY)
    wait_for(lambda: one.state().is_canary, description="the canary")
    one.bad(2, why="off by 3", step="golden")
    with pytest.raises(FlipRejected, match="off by 3"):
        flying.result(10)


def test_the_publisher_ends_a_canary_that_came_to_no_judgement(
    fleet: Fleet, publishing: Any, wait_for: WaitFor
) -> None:
    """Nobody sends requests with a key: after its time it is aborted, by whoever settles (R8)."""
    _, publish = publishing
    flying = publish(canary="5%", policy=POLICY, canary_timeout=0.3)
    with pytest.raises(FlipAborted, match=r"nobody promoted it from 5 % within 0\.3 s"):
        flying.result(10)


def test_a_rollback_by_the_policy_leaves_no_pin(fleet: Fleet, publishing: Any, tmp_path: Path) -> None:
    """What was wrong is that generation; the trainer's next one is welcome."""
    one, publish = publishing
    publish(canary="5%").result(10)
    fleet.promote("digits", wait=False)
    one.fenced(2)
    reply = one.registry.ask(Rollback("digits", "policy-2-0-0", 2, "the policy (heard by h:1)", "worse", pin=False))
    assert reply.target == 1
    one.ready(3)
    one.fenced(3)
    assert fleet.model("digits").pin is None
    assert put(fleet, tmp_path, "c", wait=False).generation == 4


def test_the_longest_canary_is_all_of_its_steps() -> None:
    """So long a publisher with a policy waits; who leaves it to people does not wait for them."""
    usual: dict[str, Any] = {"agreement": 1.0, "prepare_s": 5.0, "author": "me", "lease_s": 1.0}
    assert Terms(**usual).tried_s is None
    assert Terms(**usual, canary=Canary.of("5%,25%", timeout_s=60)).tried_s is None
    assert Terms(**usual, canary=Canary.of("5%,25%", POLICY, 60)).tried_s == 120
