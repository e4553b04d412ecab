"""A publish from top to bottom on a real server; the members are played by hand, the publisher runs in a thread."""

import json
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy
import pytest
import redis
from genlock.coordinator.calls import Call, Lock, Propose, Read, Rollback
from genlock.coordinator.errors import (
    ArtifactMissing,
    ArtifactRefused,
    Conflict,
    FleetClosed,
    FlipAborted,
    FlipRejected,
    FlipSuperseded,
    InvalidName,
    LockHeld,
    LockLost,
    ManifestInvalid,
    NoGeneration,
    OutcomeUnknown,
    Pinned,
    Poisoned,
    RedisUnreachable,
    RequestReused,
    SettingsInvalid,
    UnknownModel,
)
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.flip import Flip, Progress
from genlock.coordinator.golden import read_golden, write_golden
from genlock.coordinator.identity import mark_had_member
from genlock.coordinator.manifest import decode
from genlock.coordinator.registry import Registry
from genlock.coordinator.reply import Reply
from genlock.coordinator.settings import Settings
from genlock.coordinator.signing import KeyPair
from safetensors.numpy import save

Background = Callable[[Callable[[], Any]], "Future[Any]"]
WaitFor = Callable[..., Any]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """checkpoint(value): a whole safetensors file; another value is another version."""

    def make(value: float = 1.0, name: str = "m.safetensors") -> Path:
        path = tmp_path / name
        path.write_bytes(save({"w": numpy.full(16, value, dtype=numpy.float32)}))
        return path

    return make


@pytest.fixture
def publishing(
    fleet: Fleet, background: Background, checkpoint: Callable[..., Path], wait_for: WaitFor
) -> Callable[..., "Future[Flip]"]:
    """publishing(member, value, **how): a publish that runs; returns when the member sees its candidate."""

    def start(one: Any, value: float = 1.0, *, at: Fleet = fleet, **how: Any) -> "Future[Flip]":
        before = one.state()
        future = background(lambda: at.publish("digits", checkpoint(value, f"{value}.safetensors"), **how))
        wait_for(lambda: future.done() or one.state().rev != before.rev, description="the proposal")
        return future

    return start


def flip_all(gen: int, *members: Any) -> None:
    for one in members:
        one.ready(gen)
    for one in members:
        one.fenced(gen)


# --- committed -------------------------------------------------------------------------------------------------------


def test_without_holders_the_candidate_commits_at_once_and_is_unproven(fleet: Fleet, checkpoint: Any) -> None:
    flip = fleet.publish("digits", checkpoint(), message="run 41", author="me")
    assert (flip.model, flip.generation, flip.outcome, flip.unproven) == ("digits", 1, "committed", True)
    assert flip.size == checkpoint().stat().st_size
    assert {"stage", "propose", "prepare", "total"} <= flip.seconds.keys()
    assert flip.seconds["total"] >= flip.seconds["stage"] > 0
    status = fleet.model("digits")
    assert (status.generation, status.version, status.unproven) == (1, flip.version, True)
    assert (status.message, status.author) == ("run 41", "me")


def test_two_members_flip_together(fleet: Fleet, member: Any, publishing: Any) -> None:
    """The publisher comes back when the last of them is fenced, not before, and says how long each took."""
    one, two = member("h:1"), member("h:2")
    flying = publishing(one)
    one.ready(1)
    two.ready(1)
    one.fenced(1)
    assert one.state().is_fencing and not flying.done()
    two.fenced(1)
    flip = flying.result(10)
    assert (flip.generation, flip.outcome, flip.unproven) == (1, "committed", False)
    assert flip.workers == {
        "h:1": {"worker": "h:1", "state": "fenced", "seconds": 0.5},
        "h:2": {"worker": "h:2", "state": "fenced", "seconds": 0.5},
    }
    assert flip.seconds["fence"] >= 0 and flip.seconds["total"] >= flip.seconds["propose"]


def test_who_does_not_wait_gets_the_candidate(fleet: Fleet, member: Any, checkpoint: Any) -> None:
    member()
    first = fleet.publish("digits", checkpoint(1), wait=False)
    second = fleet.publish("digits", checkpoint(2), wait=False)
    assert (first.outcome, first.generation) == ("candidate", 1)
    assert (second.outcome, second.generation) == ("next", None)


def test_half_of_the_workers_is_enough_if_that_was_agreed(fleet: Fleet, member: Any, publishing: Any) -> None:
    one, two = member("h:1"), member("h:2")
    flying = publishing(one, agreement=0.5)
    one.ready(1)
    two.failed(1)
    flip_all(1, one, two)
    assert flying.result(10).outcome == "committed"


def test_an_agreement_and_a_timeout_are_checked_as_their_settings_are(fleet: Fleet, checkpoint: Any) -> None:
    with pytest.raises(SettingsInvalid, match="agreement"):
        fleet.publish("digits", checkpoint(), agreement="half")
    with pytest.raises(SettingsInvalid, match="prepare_timeout_s"):
        fleet.publish("digits", checkpoint(), timeout=0)


def test_several_artifacts_are_one_version(fleet: Fleet, checkpoint: Any) -> None:
    paths = {"cnn": checkpoint(1, "a"), "svm": checkpoint(2, "b")}
    fleet.publish("fusion", paths)
    manifest = decode(fleet.registry.generations("fusion", [1])[1][0] or b"")
    assert [artifact.name for artifact in manifest.artifacts] == ["cnn", "svm"]
    assert manifest.sources["svm"].path == str(paths["svm"])
    assert manifest.sources["svm"].mtime_ns == paths["svm"].stat().st_mtime_ns


def test_overwriting_the_file_afterwards_changes_nothing(fleet: Fleet, checkpoint: Any) -> None:
    """A trainer that saves in place would change, or truncate, what workers have mapped (promise 6)."""
    path = checkpoint()
    before = path.read_bytes()
    fleet.publish("digits", path)
    path.write_bytes(b"something else")
    [found] = fleet.store.objects()
    assert found.path.read_bytes() == before


def test_progress_tells_of_bytes_and_then_of_workers(fleet: Fleet, member: Any, publishing: Any, wait_for: Any) -> None:
    told: list[Progress] = []
    one, two = member("h:1"), member("h:2")
    flying = publishing(one, progress=told.append)
    one.ready(1)
    wait_for(lambda: any((p.stage, p.done, p.total) == ("waiting", 1, 2) for p in told), description="one of two")
    flip_all(1, one, two)
    flying.result(10)
    staged = [p for p in told if p.stage == "staging"]
    assert staged[-1].done == staged[-1].total > 0 and staged[-1].text == "model"
    assert next(p.text for p in told if p.stage == "waiting") == "preparing"


# --- decided against -------------------------------------------------------------------------------------------------


def test_bad_says_who_at_which_step_and_why(fleet: Fleet, member: Any, publishing: Any) -> None:
    """One worker's proof is enough: nobody needs to wait for the others to find the same NaN."""
    one, _two = member("h:1"), member("h:2")
    flying = publishing(one)
    one.bad(1, why="NaN in layer 1", step="check")
    with pytest.raises(FlipRejected) as caught:
        flying.result(10)
    error = caught.value
    assert (error.generation, error.worker, error.step, error.why) == (1, "h:1", "check", "NaN in layer 1")
    assert (error.flip.outcome, error.flip.workers["h:1"]["state"]) == ("rejected", "bad")
    assert fleet.model("digits").generation is None and "active" not in str(error), (
        "there is nothing that could stay active"
    )


def test_a_poisoned_version_is_tried_again_only_with_force(
    fleet: Fleet, member: Any, publishing: Any, checkpoint: Any
) -> None:
    one = member()
    flying = publishing(one)
    one.bad(1)
    with pytest.raises(FlipRejected):
        flying.result(10)
    with pytest.raises(Poisoned, match="NaN in layer 1") as caught:
        fleet.publish("digits", checkpoint(1))
    assert len(caught.value.version) == 64
    again = publishing(one, force=True)
    flip_all(2, one)
    assert again.result(10).generation == 2


def test_failed_until_the_deadline_counts_against_it(
    fleet: Fleet, member: Any, publishing: Any, redis_url: str
) -> None:
    """A hiccup gets the whole time to prepare; the waiting publisher settles the deadline, though no worker does (R8)."""
    one = member()
    flying = publishing(one, timeout=60)
    one.failed(1)
    assert not flying.done()
    with redis.Redis.from_url(redis_url) as client:
        record = json.loads(client.hget("genlock:{t}:models", "digits") or "")
        assert record["cand"]["length"] == "60000"
        record["cand"]["deadline"] = "1"  # it passes
        client.hset("genlock:{t}:models", "digits", json.dumps(record))
        client.hset("genlock:{t}:fleet", "deadline", "1")
    with pytest.raises(FlipRejected, match="no memory"):
        flying.result(10)
    assert fleet.history("digits")[0].step == "preparing"


def test_a_newer_proposal_supersedes_the_one_that_waits(
    fleet: Fleet, new_fleet: Any, member: Any, publishing: Any
) -> None:
    """Three checkpoints while one is loading: the one in the middle is not worth a load (R11)."""
    one = member()
    first = publishing(one, 1)
    second = publishing(one, 2, at=new_fleet())
    third = publishing(one, 3, at=new_fleet())
    with pytest.raises(FlipSuperseded) as caught:
        second.result(10)
    assert caught.value.flip.generation is None
    flip_all(1, one)
    assert first.result(10).generation == 1
    flip_all(2, one)
    assert third.result(10).generation == 2


def test_now_stops_what_is_in_work(fleet: Fleet, new_fleet: Any, member: Any, publishing: Any) -> None:
    one = member()
    first = publishing(one, 1)
    second = publishing(one, 2, at=new_fleet(), now=True)
    with pytest.raises(FlipAborted, match="asked for now") as caught:
        first.result(10)
    assert caught.value.generation == 1
    flip_all(2, one)
    assert second.result(10).generation == 2


def test_a_pinned_model_refuses_and_says_who_pinned_it(fleet: Fleet, checkpoint: Any) -> None:
    fleet.publish("digits", checkpoint(1))
    fleet.pin("digits", why="audit")
    with pytest.raises(Pinned, match="audit") as caught:
        fleet.publish("digits", checkpoint(2))
    assert caught.value.generation == 1 and "@" in caught.value.by and caught.value.at > 1e9
    fleet.unpin("digits")
    assert fleet.publish("digits", checkpoint(2)).generation == 2


def test_an_abort_reaches_the_publisher(fleet: Fleet, new_fleet: Any, member: Any, publishing: Any) -> None:
    one = member()
    flying = publishing(one)
    assert new_fleet().abort("digits", why="wrong data") == 1
    with pytest.raises(FlipAborted, match="wrong data"):
        flying.result(10)


def test_what_cannot_be_a_name_is_refused_before_anything(fleet: Fleet, checkpoint: Any) -> None:
    with pytest.raises(InvalidName):
        fleet.publish("no such/name", checkpoint())
    with pytest.raises(InvalidName, match="artifact"):
        fleet.publish("digits", {"a b": checkpoint()})
    with pytest.raises(InvalidName, match="request"):
        fleet.publish("digits", checkpoint(), request="a b")


# --- the lock --------------------------------------------------------------------------------------------------------


def hold_lock(fleet: Fleet, token: str = "other", ttl_ms: int = 60_000) -> None:
    about = '{"who":"eve@far (pid 3)","since":1700000000.5}'
    assert fleet.registry.ask(Lock("digits", "take", token, about, ttl_ms)).verdict == "ok"


def test_a_second_publisher_waits_and_then_says_who_holds_the_lock(fleet: Fleet, checkpoint: Any) -> None:
    hold_lock(fleet)
    with pytest.raises(LockHeld) as caught:
        fleet.publish("digits", checkpoint(), timeout=0.25)
    error = caught.value
    assert (error.by, error.since) == ("eve@far (pid 3)", 1700000000.5) and error.waited_s >= 0.25


def test_a_second_publisher_goes_on_when_the_lock_is_free(
    fleet: Fleet, new_fleet: Any, background: Background, checkpoint: Any
) -> None:
    hold_lock(fleet)
    path = checkpoint()
    flying = background(lambda: new_fleet().publish("digits", path, timeout=10))
    assert fleet.registry.ask(Lock("digits", "free", "other", "", 1)).verdict == "ok"
    assert flying.result(10).generation == 1


def test_a_trainer_that_lost_its_lock_cannot_publish(fleet: Fleet, checkpoint: Any, redis_url: str) -> None:
    """Its machine slept; the lock ran out; another one took it: two checkpoints would race for one generation (R9)."""
    with (
        pytest.raises(LockLost, match="eve"),
        fleet.publishing("digits") as draft,
        redis.Redis.from_url(redis_url) as client,
    ):
        draft.path("m").write_bytes(checkpoint().read_bytes())
        client.delete("genlock:{t}:lock:digits")
        hold_lock(fleet)
    assert fleet.status().models == []


def test_the_lock_is_free_while_the_publisher_waits(fleet: Fleet, member: Any, publishing: Any, wait_for: Any) -> None:
    one = member()
    flying = publishing(one)
    wait_for(lambda: one.registry.ask(Lock("digits", "take", "x", "{}", 1000)).verdict == "ok", description="the lock")
    flip_all(1, one)
    assert flying.result(10).outcome == "committed"


# --- drafts ----------------------------------------------------------------------------------------------------------


def test_a_draft_is_moved_into_the_store(fleet: Fleet, checkpoint: Any) -> None:
    inputs, outputs = numpy.ones((2, 3), numpy.float32), numpy.zeros(2, numpy.float32)
    with fleet.publishing("digits", message="a") as draft:
        path = draft.path("model.safetensors")
        path.write_bytes(checkpoint().read_bytes())
        draft.golden(inputs, outputs, rtol=0.5)
        draft.message = "run 7"
        assert draft.flip is None
    assert draft.flip is not None and draft.flip.generation == 1
    manifest = decode(fleet.registry.generations("digits", [1])[1][0] or b"")
    assert [artifact.name for artifact in manifest.artifacts] == ["model.safetensors"]
    assert (manifest.message, manifest.sources) == ("run 7", {})
    assert manifest.golden is not None and (manifest.golden.rtol, manifest.golden.atol) == (0.5, 1e-5)
    assert not path.parent.exists()
    assert {found.digest for found in fleet.store.objects()} == manifest.digests


def test_an_exception_abandons_the_draft_and_frees_the_lock(fleet: Fleet, checkpoint: Any) -> None:
    """A training run that dies in its block must neither publish half a checkpoint nor keep the next run waiting."""
    with pytest.raises(ZeroDivisionError), fleet.publishing("digits") as draft:
        path = draft.path("m")
        path.write_bytes(checkpoint().read_bytes())
        1 / 0  # noqa: B018
    assert not path.parent.exists() and list(fleet.store.objects()) == []
    assert fleet.publish("digits", checkpoint(), timeout=0.1).generation == 1


def test_a_draft_that_was_never_written_is_missing(fleet: Fleet) -> None:
    with pytest.raises(ArtifactMissing), fleet.publishing("digits") as draft:
        draft.path("m")


def test_golden_outputs_come_from_a_file_or_from_values(fleet: Fleet, checkpoint: Any, tmp_path: Path) -> None:
    golden = write_golden(tmp_path / "g.safetensors", [[1.0]], [[2.0]])
    from_file = fleet.publish("a", checkpoint(), golden=golden, atol=0.25)
    from_values = fleet.publish("b", checkpoint(), golden=([[1.0]], [[2.0]]))
    stored = [fleet.registry.generations(m, [1])[1][0] or b"" for m in ("a", "b")]
    first, second = (decode(data).golden for data in stored)
    assert first is not None and second is not None
    assert (first.size, first.atol, second.atol) == (golden.stat().st_size, 0.25, 1e-5)
    assert from_file.version == from_values.version
    for digest in (first.digest, second.digest):
        assert read_golden(fleet.store.path(digest), "numpy")[1].tolist() == [[2.0]]


def test_a_checkpoint_is_no_golden_file(fleet: Fleet, checkpoint: Any) -> None:
    with pytest.raises(ArtifactRefused, match="holds no golden outputs"):
        fleet.publish("digits", checkpoint(1), golden=checkpoint(2, "g"))


def test_a_truncated_file_is_refused_before_anybody_hears_of_it(fleet: Fleet, checkpoint: Any) -> None:
    path = checkpoint()
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ArtifactRefused, match="truncated"):
        fleet.publish("digits", path)
    assert fleet.status().models == []


def test_a_missing_file_is_said_before_the_lock_is_waited_for(fleet: Fleet, tmp_path: Path) -> None:
    hold_lock(fleet)
    with pytest.raises(ArtifactMissing):
        fleet.publish("digits", tmp_path / "nothing")


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"golden": "nothing"}, ArtifactMissing), ({"metrics": {"loss": float("nan")}}, ManifestInvalid)],
)
def test_what_else_is_wrong_is_said_before_the_lock_is_waited_for(
    fleet: Fleet, checkpoint: Any, tmp_path: Path, wrong: dict[str, Any], error: type[Exception]
) -> None:
    """40 GB were copied after an hour behind the lock, and then there was no such file of golden outputs."""
    hold_lock(fleet)
    wrong = {name: tmp_path / value if name == "golden" else value for name, value in wrong.items()}
    with pytest.raises(error):
        fleet.publish("digits", checkpoint(), **wrong)
    with pytest.raises(error), fleet.publishing("digits", **wrong):
        raise AssertionError("the block has begun")


# --- rollback --------------------------------------------------------------------------------------------------------


def test_a_rollback_goes_to_the_newest_way_back_and_pins(fleet: Fleet, checkpoint: Any) -> None:
    versions = [fleet.publish("digits", checkpoint(value)).version for value in (1, 2, 3)]
    flip = fleet.rollback("digits", why="worse")
    assert (flip.generation, flip.version, flip.outcome) == (4, versions[1], "committed")
    pin = fleet.model("digits").pin
    assert pin is not None and pin.why == "worse"
    again = fleet.rollback("digits", pin=False)
    assert (again.generation, again.version) == (5, versions[0])
    newest = fleet.history("digits")[0]
    assert (newest.generation, newest.active, newest.rollback_of) == (5, True, 1)


def test_a_rollback_to_a_generation_without_a_pin_lets_the_next_one_in(fleet: Fleet, checkpoint: Any) -> None:
    versions = [fleet.publish("digits", checkpoint(value)).version for value in (1, 2, 3)]
    assert fleet.rollback("digits", 1, pin=False).version == versions[0]
    assert fleet.publish("digits", checkpoint(4)).generation == 5


def test_a_rollback_is_waited_for_like_a_publish(
    fleet: Fleet, member: Any, checkpoint: Any, background: Any, wait_for: Any
) -> None:
    fleet.publish("digits", checkpoint(1))
    fleet.publish("digits", checkpoint(2))
    one = member()
    flying = background(lambda: fleet.rollback("digits"))
    gen = wait_for(one.candidate, description="the rollback's candidate")
    one.bad(gen, why="cannot be loaded any more")
    with pytest.raises(FlipRejected, match=r"any more\. What was active stays active"):
        flying.result(10)


def test_a_rollback_that_comes_to_nothing_says_that_the_pin_stays(
    fleet: Fleet, member: Any, checkpoint: Any, background: Any, wait_for: Any
) -> None:
    """It was rejected, "what was active stays active"; the next publish was refused for a pin that nobody had been told of."""
    for value in (1, 2):
        fleet.publish("digits", checkpoint(value))
    one = member()

    def going_back(**how: Any) -> Any:
        flying = background(lambda: fleet.rollback("digits", **how))
        gen = wait_for(one.candidate, description="the rollback's candidate")
        return flying, gen

    flying, _ = going_back(pin=False)
    fleet.abort("digits")
    with pytest.raises(FlipAborted, match="was aborted") as aborted:
        flying.result(10)
    assert "pinned" not in str(aborted.value)

    still = r"digits stays pinned at generation 2; `genlock unpin digits` lets proposals in$"
    flying, _ = going_back()
    fleet.abort("digits")
    with pytest.raises(FlipAborted, match=still):
        flying.result(10)
    flying, gen = going_back()
    one.bad(gen, why="cannot be loaded any more")
    with pytest.raises(FlipRejected, match=still) as rejected:
        flying.result(10)
    assert rejected.value.facts["pinned"] == 2


def test_a_rollback_to_what_is_poisoned_names_a_remedy_that_it_has(fleet: Fleet, member: Any, checkpoint: Any) -> None:
    """It was told to use force, which a rollback has not."""
    fleet.publish("digits", checkpoint(1))
    fleet.publish("digits", checkpoint(2))
    member().bad(2)
    with pytest.raises(Poisoned, match="no way back to generation 2; name another generation"):
        fleet.rollback("digits", 2)


def test_a_rollback_that_has_nowhere_to_go_says_so(fleet: Fleet, checkpoint: Any) -> None:
    with pytest.raises(UnknownModel):
        fleet.rollback("digits")
    fleet.publish("digits", checkpoint(1))
    with pytest.raises(NoGeneration, match="nothing else was committed"):
        fleet.rollback("digits")
    with pytest.raises(NoGeneration, match="no generation 9: it was never committed") as caught:
        fleet.rollback("digits", 9)
    assert caught.value.wanted == 9


def test_a_rollback_before_the_first_commit_has_nothing_to_leave(fleet: Fleet, member: Any, checkpoint: Any) -> None:
    member()
    fleet.publish("digits", checkpoint(), wait=False)
    with pytest.raises(NoGeneration, match="nothing of it was committed yet"):
        fleet.rollback("digits")


def test_a_rollback_is_not_decided_again_on_another_generation(
    fleet: Fleet, new_fleet: Any, checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator saw 2 and went back; meanwhile 3, the fix, became active: going back from it is not what was asked for (R10)."""
    for value in (1, 2):
        fleet.publish("digits", checkpoint(value))
    other, send = new_fleet(), Registry.send

    def late(self: Registry, call: Call, *rest: Any) -> Reply:
        if isinstance(call, Rollback) and not fleet_has(3):
            other.publish("digits", checkpoint(3))
        return send(self, call, *rest)

    def fleet_has(gen: int) -> bool:
        return bool(other.registry.generations("digits", [gen]))

    monkeypatch.setattr(Registry, "send", late)
    with pytest.raises(Conflict) as caught:
        fleet.rollback("digits")
    assert (caught.value.expected, caught.value.found) == ("generation 2", "generation 3")


# --- what goes wrong on the way (R10) --------------------------------------------------------------------------------


def lose_replies(monkeypatch: pytest.MonkeyPatch, kind: type[Call], times: int) -> list[Call]:
    """The next `times` calls of that kind are executed, and their reply is lost; the list of those that were sent."""
    send, sent = Registry.send, []

    def losing(self: Registry, call: Call, *rest: Any) -> Reply:
        reply = send(self, call, *rest)
        if isinstance(call, kind):
            sent.append(call)
            if reply.verdict != "epoch" and len(sent) <= times:
                raise RedisUnreachable("there", "the reply was lost")
        return reply

    monkeypatch.setattr(Registry, "send", losing)
    return sent


def test_a_lost_reply_does_not_make_a_second_generation(
    fleet: Fleet, checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Executed, and the connection broke before the answer: the same proposal again finds what has become of the first."""
    fleet.status()
    sent = lose_replies(monkeypatch, Propose, 2)
    flip = fleet.publish("digits", checkpoint())
    assert (flip.generation, flip.outcome) == (1, "committed")
    assert len(sent) == 3 and len({call.request for call in sent if isinstance(call, Propose)}) == 1
    assert [row.generation for row in fleet.history("digits")] == [1]


def test_a_lost_read_is_asked_again(
    fleet: Fleet, member: Any, publishing: Any, monkeypatch: pytest.MonkeyPatch, wait_for: Any
) -> None:
    one = member()
    sent = lose_replies(monkeypatch, Read, 3)
    flying = publishing(one)
    wait_for(lambda: len(sent) > 3, description="reads after the lost ones")
    flip_all(1, one)
    assert flying.result(10).outcome == "committed"


def test_a_rollback_whose_reply_was_lost_happens_once(
    fleet: Fleet, checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (1, 2):
        fleet.publish("digits", checkpoint(value))
    lose_replies(monkeypatch, Rollback, 1)
    assert fleet.rollback("digits", request="r1").generation == 3
    assert fleet.rollback("digits", request="r1").generation == 3


def test_with_keys_the_same_rollback_is_the_same_request(new_fleet: Any, checkpoint: Any) -> None:
    """Its order names the newest way back, and that is another one when the call comes again."""
    fleet = new_fleet(settings=Settings(signing_key=KeyPair.generate().text))
    for value in (1, 2, 3):
        fleet.publish("digits", checkpoint(value))
    first = fleet.rollback("digits", request="r1", pin=False)
    again = fleet.rollback("digits", request="r1", pin=False)
    assert (again.generation, again.version) == (first.generation, first.version)
    assert fleet.rollback("digits", 2, request="r1").generation == 4, "what it went to may be named"
    with pytest.raises(RequestReused, match="earlier rollback to generation 2"):
        fleet.rollback("digits", 1, request="r1")


def test_the_outcome_is_unknown_when_redis_does_not_come_back(
    new_fleet: Any,
    serving: Any,
    tmp_path: Path,
    checkpoint: Any,
    member: Any,
    background: Background,
    wait_for: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was proposed, and Redis went away for good: nobody can say whether it was committed, and the error says how to ask."""
    (tmp_path / "own").mkdir()
    with serving(tmp_path / "own") as url:
        there = new_fleet(url=url, name="u")
        there.status()  # begins its epoch, open: it never had a member
        told: list[Progress] = []
        one = type(member())(there, "h:9", "digits")
        try:
            flying = background(
                lambda: there.publish("digits", checkpoint(), timeout=60, request="q1", progress=told.append)
            )
            wait_for(lambda: any(p.stage == "waiting" for p in told), description="the candidate")
            with redis.Redis.from_url(url) as client, suppress(redis.ConnectionError):
                client.execute_command("SHUTDOWN", "NOSAVE")
            before = len(told)
            wait_for(lambda: flying.done() or len(told) > before + 3, description="it goes on asking")
            assert not flying.done()
            monkeypatch.setattr("genlock.coordinator.wait.SLACK_S", -120.0)  # its time is over
            with pytest.raises(OutcomeUnknown, match="request='q1'"):
                flying.result(20)
        finally:
            one.end()


def test_the_same_request_asks_for_the_outcome_and_does_nothing_twice(
    fleet: Fleet, checkpoint: Any, tmp_path: Path
) -> None:
    """The file may be gone by then: what was published is known by the request alone."""
    path = checkpoint()
    first = fleet.publish("digits", path, request="q1")
    path.unlink()
    again = fleet.publish("digits", path, request="q1")
    assert (again.generation, again.version, again.outcome) == (1, first.version, "committed")
    assert again.request == "q1" and again.size == first.size


def test_the_same_request_is_refused_for_the_same_reason(fleet: Fleet, checkpoint: Any) -> None:
    fleet.publish("digits", checkpoint(1))
    fleet.pin("digits", why="audit")
    for _ in range(2):
        with pytest.raises(Pinned, match="audit"):
            fleet.publish("digits", checkpoint(2), request="q2")


# --- what the waiting publisher does for the fleet -------------------------------------------------------------------


def test_a_silent_member_is_evicted_by_the_waiting_publisher(fleet: Fleet, member: Any, publishing: Any) -> None:
    """A worker was killed while it was loading, and the fleet has no other that could notice (R5)."""
    one, two = member("h:1"), member("h:2")
    flying = publishing(one)
    two.fall_silent()
    one.ready(1)
    flip_all(1, one)
    flip = publisher_result(flying, one)
    assert flip.outcome == "committed" and set(flip.workers) == {"h:1"}
    assert [member.worker for member in fleet.workers()] == ["h:1"]
    evicted = [event.facts for event in fleet.events() if event.what == "evicted"]
    assert [facts["member"] for facts in evicted] == [two.id]


def publisher_result(flying: "Future[Flip]", one: Any) -> Flip:
    """The flip, while `one` says "fenced" as a worker does that reads the state after a hint."""
    while not flying.done():
        if one.state().is_fencing:
            one.fenced(1)
    return flying.result(10)


def test_a_closed_fleet_is_opened_by_the_publisher_that_waits_alone(
    fleet: Fleet, new_fleet: Any, checkpoint: Any, redis_url: str
) -> None:
    """Redis lost everything, and no worker lives: without this, nobody could publish ever again (R6)."""
    fleet.publish("digits", checkpoint(1))
    mark_had_member(fleet.store, fleet.name)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    assert not fleet.status().open
    flip = fleet.publish("digits", checkpoint(2))
    assert flip.outcome == "committed" and flip.seconds["propose"] >= 1.15
    assert fleet.status().open


def test_a_fleet_that_is_closed_all_the_time_is_said_to_be_so(
    fleet: Fleet, checkpoint: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark_had_member(fleet.store, fleet.name)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    monkeypatch.setattr("genlock.coordinator.observer.Observer.may_open", lambda self, now: False)
    monkeypatch.setattr("genlock.coordinator.wait.FENCING_LEASES", 0)
    monkeypatch.setattr("genlock.coordinator.wait.SLACK_S", 0.0)
    with pytest.raises(FleetClosed):
        fleet.publish("digits", checkpoint(), timeout=0.1)


def test_what_redis_lost_while_it_was_in_work_is_proposed_again(
    fleet: Fleet, member: Any, publishing: Any, redis_url: str, wait_for: Any
) -> None:
    """The candidate, its request and the lock are all gone; the publisher is the only one that remembers, and asks once more."""
    one = member()
    flying = publishing(one)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    one.registry.ask(Read("digits"))  # adopts the new epoch
    one.join()
    wait_for(lambda: one.candidate() == 1, description="the proposal, again")
    flip_all(1, one)
    assert flying.result(10).outcome == "committed"


def test_what_the_fleet_brought_back_is_not_proposed_again(
    fleet: Fleet, member: Any, publishing: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Committed; then Redis lost it before the publisher had read that; then a worker healed it (R7): it is committed, once."""
    from genlock.coordinator.calls import Heal, ManifestOf, Open

    one = member()
    flying = publishing(one)
    manifest = one.registry.ask(ManifestOf("digits", 1)).manifest
    version = decode(manifest).version
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    one.registry.ask(Read("digits"))
    epoch = one.registry.epoch.number
    heal = Heal("digits", 1, version, epoch - 1, epoch - 1, manifest, f"{version}:")
    assert one.registry.ask(heal).verdict == "ok"
    one.registry.ask(Open("h:1"))
    flip = flying.result(10)
    assert (flip.generation, flip.version, flip.outcome) == (1, version, "committed")
    assert [row.generation for row in fleet.history("digits")] == [1]


def test_a_decision_is_known_even_if_redis_goes_just_after_it(
    fleet: Fleet, checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Committed is committed: that the details cannot be read any more must not make an error of it."""

    def gone(self: Registry, model: str, numbers: list[int]) -> Any:
        raise RedisUnreachable("there", "gone")

    monkeypatch.setattr(Registry, "generations", gone)
    flip = fleet.publish("digits", checkpoint())
    assert (flip.generation, flip.outcome, flip.workers, flip.size) == (1, "committed", {}, 0)


def test_a_file_that_vanishes_while_it_waits_for_the_lock_is_missing(fleet: Fleet, checkpoint: Any) -> None:
    with pytest.raises(ArtifactMissing), fleet.publishing("digits") as draft:
        path = checkpoint()
        draft.copy("model", path)
        path.unlink()
