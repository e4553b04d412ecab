"""One worker's side of the protocol, played by hand: every reply is made here, time moves when the test says so."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from genlock.coordinator.calls import (
    Abort,
    Ask,
    Call,
    Evict,
    Heal,
    Heartbeat,
    Hold,
    Join,
    Leave,
    ManifestOf,
    Open,
    Promote,
    Reopen,
    Report,
    Rollback,
    Say,
    Settle,
    TaskDone,
)
from genlock.coordinator.canary import Both, Figures, Policy
from genlock.coordinator.clock import patience_s, usable_s
from genlock.coordinator.manifest import Artifact, Manifest
from genlock.coordinator.reply import (
    BAD,
    FAILED,
    FENCED,
    READY,
    REFUSED,
    Active,
    Candidate,
    Epoch,
    Reply,
    State,
    Task,
    Watched,
)
from genlock.coordinator.reply import Tried as Plan
from genlock.worker.agent import Agent
from genlock.worker.membership import BACKOFF_FROM_S, BACKOFF_TO_S, DESCRIBE_EVERY
from genlock.worker.orders import (
    Answered,
    Cancel,
    Clear,
    Examine,
    Expelled,
    Flipped,
    Joined,
    Load,
    Rejected,
    Resubscribe,
)
from genlock.worker.slot import RETRY_FROM_S, Job
from genlock.worker.view import Lease

LEASE_S = 3.0
MANIFESTS = {n: Manifest.of("m", [Artifact("model", 1, f"{n:064x}")], created_at=1.0) for n in range(1, 10)}


def version(content: int) -> str:
    return MANIFESTS[content].version


def key(gen: int, content: int | None = None) -> tuple[int, str]:
    return gen, version(content or gen)


def active(gen: int, content: int | None = None, **more: Any) -> Active:
    return Active(*key(gen, content), more.pop("epoch", 1), poison=MANIFESTS[content or gen].poison, **more)


def candidate(gen: int, content: int | None = None, **more: Any) -> Candidate:
    return Candidate(*key(gen, content), f"q{gen}", **more)


def idle(rev: int, gen: int, content: int | None = None, **more: Any) -> State:
    return State(rev, "idle", active(gen, content), **more)


def preparing(rev: int, gen: int, to: int, mine: str | None = "awaited") -> State:
    return State(rev, "preparing", active(gen), candidate(to), mine)


def fencing(rev: int, gen: int, to: int, mine: str | None = READY) -> State:
    return State(rev, "fencing", active(gen), candidate(to), mine)


class Play:
    """An agent, and the server's part, by hand."""

    def __init__(self, **facts: Any) -> None:
        self.now = 100.0
        self.agent = Agent("h:1", lease_s=LEASE_S, chance=lambda: 0.5, **facts)
        self.epoch, self.open, self.revision = Epoch(1, "n"), True, 1
        self.loads: list[Job] = []
        self.commands: list[Any] = []

    def reply(self, verdict: str = "ok", **more: Any) -> Reply:
        states: Mapping[str, State] = more.get("states", {})
        self.revision = max([self.revision, *(state.rev for state in states.values())])
        facts: dict[str, Any] = {"epoch": self.epoch.number, "nonce": self.epoch.nonce, "open": self.open}
        facts |= {"lease": round(LEASE_S * 1000), "revision": self.revision}
        return Reply(verdict, **(facts | more))

    def call(self) -> Call | None:
        """What it sends next."""
        call = self.agent.next_call(self.now)
        for command in self.agent.commands():
            self.commands.append(command)
            if isinstance(command, Load):
                self.loads.append(command.job)
        return call

    def hears(self, call: Call, verdict: str = "ok", *, sent: float | None = None, **more: Any) -> None:
        self.agent.heard(call, self.reply(verdict, **more), self.now if sent is None else sent, self.now)

    def expect(self, kind: type[Call], verdict: str = "ok", **more: Any) -> Any:
        """It sends a call of that kind, and hears that reply."""
        call = self.call()
        assert type(call) is kind, call
        self.hears(call, verdict, **more)
        return call

    def until(self, kind: type[Call], **more: Any) -> Any:
        """Time passes, every call is answered with ok and `more`, until it sends one of that kind."""
        end = self.now + 10 * LEASE_S
        while not isinstance(call := self.call(), kind):
            assert self.now < end, "it never comes"
            if call is not None:
                self.hears(call, **more)
            else:
                self.now = self.agent.wake_at(self.now)
        return call

    def taken(self, kind: type) -> list[Any]:
        """The commands of that kind since the last look."""
        self.commands += self.agent.commands()
        found = [command for command in self.commands if isinstance(command, kind)]
        self.commands = [command for command in self.commands if not isinstance(command, kind)]
        return found

    def ends(self, gen: int, content: int | None = None, said: str = "", model: str = "m") -> None:
        """The load of that generation ends: well, or as said."""
        self.call() if not self.loads else None
        job = next(job for job in self.loads if job.model == model and job.key == key(gen, content))
        self.loads.remove(job)
        if said:
            self.agent.load_failed(job, said, {"step": "check", "why": "NaN"}, self.now)
        else:
            self.agent.loaded(job, job.key, {"seconds": 1.0})

    def joins(self, member: str = "1") -> None:
        """A membership, all of its lease before it."""
        if self.agent.epoch != self.epoch:
            self.expect(Join, "epoch")
        self.expect(Join, id=member, beat="1")

    def reads(self, **states: State) -> None:
        """It asks, and hears these."""
        self.expect(Ask, states=states)

    def mode(self, model: str = "m") -> str:
        shown = self.agent.shown(self.now).get(model)
        return shown.mode if shown else ""

    @property
    def lease(self) -> Lease:
        return self.agent.membership.lease

    def quiet(self) -> None:
        """Nothing more to send now."""
        call = self.call()
        assert call is None, call


@pytest.fixture
def play() -> Play:
    """Nothing is known yet; `m` shall be held."""
    play = Play()
    play.agent.hold(["m"])
    return play


@pytest.fixture
def serving(play: Play) -> Play:
    """A member that answers from generation 1 of `m` under its lease; everything has been read."""
    play.joins()
    play.expect(Hold, states={"m": idle(1, 1)})
    play.expect(ManifestOf, manifest=MANIFESTS[1].encode().decode())
    play.call()
    play.ends(1)
    play.quiet()
    assert play.mode() == "lease" and play.now < play.lease.deadline
    play.taken(object)
    return play


def ready_for_2(play: Play) -> None:
    """Generation 2 is the candidate, and loaded here."""
    play.agent.hinted(1, 2, "m", play.now)
    play.reads(m=preparing(2, 1, 2))
    play.expect(ManifestOf, manifest=MANIFESTS[2].encode().decode())
    play.call()
    play.ends(2)


# --- joining, and what is held -----------------------------------------------------------------------------------------


def test_from_the_first_call_to_the_first_answer(play: Play) -> None:
    """The epoch is learned, the id comes from Redis, the list goes before the load."""
    assert play.expect(Join, "epoch") == Join("", 0)
    assert play.agent.epoch == play.epoch and play.agent.member is None
    assert play.expect(Join, id="7") == Join("", 0)
    assert play.taken(Joined) == [Joined("7", play.epoch)]
    assert play.expect(Hold, states={"m": idle(1, 1)}) == Hold("7", 1, ("m",))
    assert play.expect(ManifestOf, manifest=MANIFESTS[1].encode().decode()) == ManifestOf("m", 1)
    play.quiet()
    (job,) = play.loads
    assert job[1:4] == ("m", key(1), "active") and play.agent.kept == set()
    assert play.mode() == ""
    play.ends(1)
    assert play.mode() == "lease" and play.agent.kept == {job.id}
    assert play.taken(Flipped) == [Flipped("m", None, key(1))]


def test_a_lease_counts_from_when_its_request_was_sent(serving: Play) -> None:
    """R2: the reply may have been under way for long; Redis's watchers count from the beat, which was not before the sending."""
    serving.now += LEASE_S / 3
    call = serving.call()
    assert isinstance(call, Heartbeat)
    sent, serving.now = serving.now, serving.now + 1.0
    serving.hears(call, sent=sent)
    assert serving.lease.deadline == sent + usable_s(LEASE_S)
    serving.now = serving.lease.deadline
    assert not serving.now < serving.agent.shown(serving.now)["m"].lease.deadline  # type: ignore[union-attr]


def test_a_late_reply_lengthens_the_lease_and_nothing_else(serving: Play) -> None:
    """R3: it never shortens it, either."""
    before = serving.lease.deadline
    serving.hears(Heartbeat("1", 1), sent=serving.now - 50)
    assert serving.lease.deadline == before
    serving.hears(Heartbeat("1", 1), sent=serving.now, states={"m": idle(0, 1)}, revision=0)
    assert serving.lease.deadline == serving.now + usable_s(LEASE_S) and serving.mode() == "lease"


def test_no_lease_while_the_fleet_is_closed(play: Play) -> None:
    """R6: a new epoch may have lost a commit; who is silent may hold it."""
    play.open = False
    play.joins()
    assert play.lease.deadline == float("-inf")
    play.expect(Hold, states={"m": idle(1, 1)})
    play.expect(ManifestOf, manifest=MANIFESTS[1].encode().decode())
    play.call()
    play.ends(1)
    assert play.mode() == "stale"


def test_an_epoch_that_was_heard_open_is_not_heard_closed_again(serving: Play) -> None:
    """R3: the reply that says closed is the older one."""
    serving.hears(Heartbeat("1", 1), open=False)
    assert serving.agent.membership.is_open and serving.mode() == "lease"


def test_a_new_membership_begins_a_new_lease(serving: Play) -> None:
    """R10: views that a request has read before refer to the lease before, which has ended for ever."""
    before = serving.lease
    serving.hears(Heartbeat("1", 1), "unknown")
    assert before.ended and serving.mode() == "ask" and serving.taken(Expelled) == [Expelled("evicted")]
    serving.joins("2")
    assert serving.lease is not before and serving.lease.deadline > serving.now and before.deadline == float("-inf")
    assert serving.mode() == "ask", "not before the list of this membership was acknowledged"
    assert serving.expect(Hold, states={"m": idle(1, 1)}) == Hold("2", 1, ("m",))
    assert serving.mode() == "lease"


@pytest.mark.parametrize("call", [Heartbeat("0", 1), Hold("0", 1, ("m",)), Ask("0", ("m",)), Say("0", "m", 1, READY)])
def test_a_reply_to_another_membership_says_nothing(serving: Play, call: Call) -> None:
    before = serving.lease.deadline
    serving.now += 1
    serving.hears(call, states={"m": idle(9, 2)})
    serving.hears(call, "unknown")
    assert (
        serving.lease.deadline == before
        and serving.agent.member == "1"
        and serving.agent.healing.told["m"].key == key(1)
    )


def test_a_list_is_sent_until_it_is_acknowledged(play: Play) -> None:
    """R10: the same list again has the same counter."""
    play.joins()
    first = play.call()
    assert first == Hold("1", 1, ("m",))
    play.agent.unreachable(first, play.now)
    assert play.until(Hold) == first


def test_only_the_reply_to_the_last_list_counts(serving: Play) -> None:
    """R10: the reply to the list before names a model that was dropped and held again since; its entry may be gone."""
    serving.agent.drop(["m"])
    serving.agent.hold(["m", "other"])
    call = serving.call()
    assert call == Hold("1", 2, ("m", "other")) and serving.mode() == ""
    serving.hears(Hold("1", 1, ("m",)), states={"m": idle(1, 1)})
    assert not serving.agent.slots["m"].confirmed
    serving.hears(call, states={"m": idle(1, 1), "other": State(0, "idle")})
    assert serving.agent.slots["m"].confirmed and serving.agent.slots["other"].confirmed


@pytest.mark.parametrize("call", [Heartbeat("1", 1), Hold("1", 1, ("m",))])
def test_a_list_that_redis_lost_is_made_anew(serving: Play, call: Call) -> None:
    """R10: the server's list is older, or another one: until a new one is acknowledged nothing is answered from memory."""
    serving.hears(call, "list" if isinstance(call, Heartbeat) else "old")
    assert serving.mode() == "ask"
    assert serving.expect(Hold, states={"m": idle(1, 1)}) == Hold("1", 2, ("m",))
    assert serving.mode() == "lease"


def test_a_drop_takes_the_view_away_before_the_list_is_sent(serving: Play) -> None:
    """R1: the commit that no longer waits for this worker may be executed right behind the list."""
    serving.agent.drop(["m", "nobody's"])
    assert serving.agent.shown(serving.now) == {}
    assert serving.expect(Hold) == Hold("1", 2, ())
    serving.agent.hold(["m"])
    assert serving.agent.slots["m"].told is not None, "never back, also after a drop (R7)"


def test_a_drop_gives_its_load_up(play: Play) -> None:
    play.joins()
    play.expect(Hold, states={"m": idle(1, 1)})
    play.expect(ManifestOf, manifest=MANIFESTS[1].encode().decode())
    play.call()
    job = play.loads[0]
    play.agent.drop(["m"])
    assert play.taken(Cancel) == [Cancel(job)]
    play.agent.loaded(job, job.key, {})
    play.agent.load_failed(job, "failed", {}, play.now)
    assert play.agent.kept == set()


def test_what_a_request_waits_for_is_held_anew_when_it_is_dropped(serving: Play) -> None:
    """Seen: a fleet-wide clear came while requests asked in a flip, and they were answered 503; as if nobody could load it again."""
    serving.agent.asked(1, ("m",))
    ask = serving.call()
    serving.agent.drop(["m"])
    serving.hears(ask, states={"m": idle(1, 1)})
    assert serving.taken(Answered) == []
    serving.expect(Hold, states={"m": idle(1, 1)})
    manifest = MANIFESTS[1].encode().decode()
    serving.hears(serving.until(ManifestOf, states={"m": idle(1, 1)}), manifest=manifest)
    serving.ends(1)
    serving.hears(serving.until(Ask), states={"m": idle(1, 1)})
    (answer,) = serving.taken(Answered)
    assert answer.found["m"][0] == key(1)


def test_what_gives_way_to_others_is_not_held_anew(serving: Play) -> None:
    """It was dropped because there is no room for it: two models would push each other out for ever."""
    serving.agent.asked(1, ("m",))
    ask = serving.call()
    assert serving.agent.give_way(["m", "nobody's"]) == ["m"]
    serving.hears(ask, states={"m": idle(1, 1)})
    (answer,) = serving.taken(Answered)
    assert "dropped while a request waited" in answer.why
    assert serving.agent.slots == {}


def test_leaving_ends_the_lease_before_redis_is_told(serving: Play) -> None:
    """R1."""
    serving.agent.asked(1, ("m",))
    before = serving.lease
    serving.agent.leave()
    assert before.ended and serving.agent.shown(serving.now) == {} and not serving.agent.membership.left
    (answer,) = serving.taken(Answered)
    assert "leaving" in answer.why
    serving.agent.hold(["m"])
    assert serving.expect(Leave) == Leave("1")
    assert serving.agent.membership.left
    serving.quiet()


def test_leaving_without_redis_or_without_a_membership_is_done_at_once(serving: Play) -> None:
    serving.agent.leave()
    call = serving.call()
    assert isinstance(call, Leave)
    serving.agent.unreachable(call, serving.now)
    assert serving.agent.membership.left
    fresh = Play()
    fresh.agent.leave()
    assert fresh.agent.membership.left
    fresh.quiet()


def test_leaving_while_a_join_is_under_way(play: Play) -> None:
    """Its membership is not used; nobody waits for one that holds nothing."""
    call = play.call()
    assert isinstance(call, Join)
    play.agent.leave()
    play.quiet()


# --- a flip --------------------------------------------------------------------------------------------------------------


def test_a_flip_from_the_hint_to_the_swap(serving: Play) -> None:
    """The candidate is loaded beside the active one; it fences, then it says so; the reply to that may show the commit."""
    ready_for_2(serving)
    assert serving.mode() == "lease"
    say = serving.expect(Say, states={"m": fencing(3, 1, 2)})
    assert say == Say("1", "m", 2, READY, say.detail) and say.detail["worker"] == "h:1"
    call = serving.call()
    assert isinstance(call, Say) and call.said == FENCED
    assert serving.mode() == "ask", "R1: the fence goes first"
    serving.hears(call, states={"m": idle(4, 2)})
    assert serving.mode() == "lease" and serving.agent.shown(serving.now)["m"].key == key(2)
    assert serving.taken(Flipped) == [Flipped("m", key(1), key(2))]
    assert len(serving.agent.kept) == 2, "the generation before stays warm as the way back"


def test_what_was_said_is_said_again_until_it_shows(serving: Play) -> None:
    """R10: sent again until its reply has come; not in a hurry, when the reply did not show it."""
    ready_for_2(serving)
    call = serving.call()
    assert isinstance(call, Say)
    serving.agent.unreachable(call, serving.now)
    serving.now += LEASE_S / 10
    assert serving.call() == call
    serving.hears(call, states={"m": preparing(2, 1, 2)})
    serving.quiet()
    began = serving.now
    assert serving.until(Say) == call and serving.now == pytest.approx(began + LEASE_S / 10)


def test_fencing_goes_before_everything_else(serving: Play) -> None:
    """The whole fleet waits for it; requests meanwhile have to ask."""
    ready_for_2(serving)
    serving.expect(Say, states={"m": fencing(3, 1, 2)})
    serving.agent.asked(1, ("m",))
    serving.agent.hold(["other"])
    serving.now += LEASE_S
    assert isinstance(serving.call(), Say)


def test_after_fenced_only_a_newer_revision_unfences(serving: Play) -> None:
    """R3: a reply that was made before the fence shows the candidate in PREPARING; it must not lift the fence."""
    ready_for_2(serving)
    serving.expect(Say, states={"m": fencing(3, 1, 2)})
    serving.expect(Say, states={"m": fencing(3, 1, 2, mine=FENCED)})
    serving.hears(Ask("1", ("m",)), states={"m": preparing(2, 1, 2, mine=READY)})
    assert serving.mode() == "ask"
    serving.hears(Ask("1", ("m",)), states={"m": idle(4, 1)})
    assert serving.mode() == "lease" and serving.taken(Rejected) != []


def test_who_starts_to_hold_while_the_fleet_is_fencing_is_fenced(play: Play) -> None:
    """R4: nobody waits for it, so it must not answer from what the commit is about to replace."""
    play.joins()
    play.expect(Hold, states={"m": fencing(5, 1, 2, mine=None)})
    play.expect(ManifestOf, manifest=MANIFESTS[1].encode().decode())
    play.call()
    play.ends(1)
    assert play.mode() == "ask"
    play.hears(Ask("1", ("m",)), states={"m": idle(6, 1)})
    assert play.mode() == "lease"


def test_a_bad_candidate_changes_nothing(serving: Play) -> None:
    """R13: said at once, with the reason; what is active stays, and the load is not tried again."""
    ready_detail = {"step": "check", "why": "NaN"}
    serving.agent.hinted(1, 2, "m", serving.now)
    serving.reads(m=preparing(2, 1, 2))
    serving.expect(ManifestOf, manifest=MANIFESTS[2].encode().decode())
    serving.call()
    serving.ends(2, said=BAD)
    say = serving.expect(Say, states={"m": idle(3, 1)})
    assert say.said == BAD and say.detail == {"worker": "h:1"} | ready_detail
    assert serving.mode() == "lease"
    (rejected,) = serving.taken(Rejected)
    assert (rejected.model, rejected.key, rejected.detail["why"]) == ("m", key(2), "NaN")
    serving.quiet()


def test_a_failed_candidate_is_tried_again(serving: Play) -> None:
    """R13: a hiccup is no verdict."""
    serving.agent.hinted(1, 2, "m", serving.now)
    serving.reads(m=preparing(2, 1, 2))
    serving.expect(ManifestOf, manifest=MANIFESTS[2].encode().decode())
    serving.call()
    serving.ends(2, said="failed")
    assert serving.expect(Say, states={"m": preparing(2, 1, 2, mine="failed")}).said == "failed"
    serving.quiet()
    assert serving.agent.wake_at(serving.now) == pytest.approx(serving.now + RETRY_FROM_S)
    serving.now += RETRY_FROM_S
    serving.quiet()
    serving.ends(2)
    assert serving.expect(Say, states={"m": preparing(2, 1, 2, mine=READY)}).said == READY


def test_a_candidate_that_is_gone_is_not_loaded_any_more(serving: Play) -> None:
    serving.agent.hinted(1, 2, "m", serving.now)
    serving.reads(m=preparing(2, 1, 2))
    serving.expect(ManifestOf, manifest=MANIFESTS[2].encode().decode())
    serving.call()
    job = serving.loads[0]
    serving.agent.hinted(1, 3, "m", serving.now)
    serving.reads(m=idle(3, 1))
    serving.quiet()
    assert serving.taken(Cancel) == [Cancel(job)]


def test_a_manifest_that_cannot_be_had_is_said_and_asked_for_again(serving: Play) -> None:
    """The fleet learns why this worker is not ready; a manifest that comes after all makes it ready."""
    serving.agent.hinted(1, 2, "m", serving.now)
    serving.reads(m=preparing(2, 1, 2))
    began = serving.now
    for manifest, why in ((None, "Redis has none"), ("no manifest", "manifest")):
        call = serving.until(ManifestOf)
        assert call == ManifestOf("m", 2)
        serving.hears(call, manifest=manifest)
        say = serving.expect(Say, states={"m": preparing(2, 1, 2)})
        assert (say.said, say.detail["step"]) == (FAILED, "manifest") and why in say.detail["why"]
        assert serving.loads == []
    call = serving.until(ManifestOf, states={"m": preparing(2, 1, 2)})
    assert serving.now - began == pytest.approx(3 * RETRY_FROM_S), "each time twice as late"
    serving.hears(call, manifest=MANIFESTS[3].encode().decode())
    assert serving.loads == [], "of another content"
    serving.hears(ManifestOf("dropped", 2), manifest=MANIFESTS[2].encode().decode())


# --- heartbeats, hints ---------------------------------------------------------------------------------------------------


def test_a_heartbeat_per_third_of_a_lease(serving: Play) -> None:
    serving.agent.about = '{"worker": "h:1"}'
    beats = []
    for _ in range(DESCRIBE_EVERY):
        serving.now = serving.agent.wake_at(serving.now)
        beats.append(serving.expect(Heartbeat))
    assert all(beat.counter == 1 for beat in beats)
    assert [bool(beat.about) for beat in beats].count(True) == 1
    serving.agent.tell_people()
    serving.now = serving.agent.wake_at(serving.now)
    assert serving.expect(Heartbeat).about == serving.agent.about
    assert serving.now - 100.0 == pytest.approx(LEASE_S / 6 + DESCRIBE_EVERY * LEASE_S / 3), (
        "the first one at a random moment"
    )


def test_a_hint_is_not_believed(serving: Play) -> None:
    """R14: it only makes the worker read; so does a subscription that begins."""
    serving.agent.hinted(1, 2, "m", serving.now)
    assert serving.mode() == "lease"
    serving.reads(m=idle(2, 1))
    serving.agent.hinted(1, 3, "somebody's", serving.now)
    serving.quiet()
    serving.agent.subscribed()
    serving.reads(m=idle(2, 1))
    serving.revision = 4
    serving.hears(Heartbeat("1", 1))
    serving.reads(m=idle(4, 1))
    serving.quiet()


def test_a_hint_of_a_later_epoch_makes_the_heart_beat(serving: Play) -> None:
    serving.agent.hinted(0, 9, "m", serving.now)
    serving.quiet()
    serving.agent.hinted(2, 1, "", serving.now)
    assert isinstance(serving.call(), Heartbeat)


def test_a_silent_subscription_is_replaced(serving: Play) -> None:
    """R14: the counter went on, and its hint did not come within max(1 s, lease / 3)."""
    serving.revision = 2
    serving.hears(Heartbeat("1", 1), sent=serving.now)
    serving.reads(m=idle(2, 1))
    serving.now += 1.0
    serving.call()
    assert serving.taken(Resubscribe) == [Resubscribe()]
    serving.call()
    assert serving.taken(Resubscribe) == []


def test_a_worker_that_holds_nothing_reads_nothing(play: Play) -> None:
    play.agent.drop(["m"])
    play.joins()
    play.agent.hinted(1, 5, "m", play.now)
    play.quiet()


# --- watching the others ---------------------------------------------------------------------------------------------------


def test_a_silent_member_is_evicted_after_a_whole_lease(serving: Play) -> None:
    """R5: by this worker's own clock, with the beat that it has seen all the while."""
    serving.now += LEASE_S / 3
    serving.expect(Heartbeat, watch={"1": "9", "8": "4"})
    began = serving.now
    call = serving.until(Evict, watch={"1": "9", "8": "4"})
    assert call == Evict("8", "4", "h:1") and serving.now == pytest.approx(began + patience_s(LEASE_S))
    serving.hears(call)
    serving.quiet()


def test_a_deadline_that_has_passed_is_settled(serving: Play) -> None:
    """R8: nobody drives a candidate; whoever hears that it is due says so."""
    serving.now += LEASE_S / 3
    serving.expect(Heartbeat, due=True)
    serving.expect(Settle)
    serving.quiet()


# --- epochs, healing -------------------------------------------------------------------------------------------------------


def closed(play: Play, number: int = 2) -> None:
    """Redis has lost something: another epoch, closed; the worker hears of it."""
    play.epoch, play.open, play.revision = Epoch(number, f"n{number}"), False, 1
    play.hears(Heartbeat("1", 1), "epoch")


def test_a_new_epoch_ends_what_was_granted(serving: Play) -> None:
    """R6."""
    before = serving.lease
    closed(serving)
    assert before.ended and serving.mode() == "stale"
    assert serving.taken(Expelled) == [Expelled("a new epoch began")]
    serving.expect(Join, id="1")
    assert serving.lease.deadline == float("-inf")


def test_a_reply_of_a_lower_epoch_counts_for_nothing(serving: Play) -> None:
    """R3."""
    closed(serving)
    old, serving.epoch = serving.epoch, Epoch(1, "n")
    serving.hears(Join("", 1), id="5", open=True)
    assert serving.agent.epoch == old and serving.agent.member is None


def test_a_closed_epoch_is_opened_after_it_was_watched(serving: Play) -> None:
    """R6: for a whole lease of patience, and a random tenth more."""
    began = serving.now
    closed(serving)
    serving.joins("2")
    serving.expect(Hold, states={"m": State(0, "idle")})
    serving.expect(Heal, states={"m": idle(2, 1)})
    serving.reads(m=idle(2, 1))
    while serving.now < began + patience_s(LEASE_S):
        call = serving.call()
        assert not isinstance(call, Open)
        if call is not None:
            serving.hears(call)
        serving.now += LEASE_S / 7
    serving.now = began + patience_s(LEASE_S) + LEASE_S / 10
    while not isinstance(call := serving.call(), Open):
        assert call is not None
        serving.hears(call)
    serving.open, serving.revision = True, 3
    serving.hears(call)
    assert serving.agent.membership.is_open and serving.mode() == "ask", (
        "a heal may have changed what was read while it was closed"
    )
    serving.reads(m=idle(2, 1))
    assert serving.mode() == "lease"
    assert serving.lease.deadline == float("-inf"), "only a beat of the open epoch brings a lease"


def test_a_worker_gives_back_what_it_was_told(serving: Play) -> None:
    """R7: once in an epoch; the whole record, with the epochs that say whose is newer."""
    closed(serving)
    serving.joins("2")
    serving.expect(Hold, states={"m": State(0, "idle")})
    heal = serving.expect(Heal, states={"m": idle(2, 1)})
    manifest = MANIFESTS[1]
    assert heal == Heal("m", 1, manifest.version, 1, 1, manifest.encode().decode(), manifest.poison)
    serving.reads(m=idle(2, 1))
    serving.quiet()


def test_what_was_dropped_is_given_back_too(serving: Play) -> None:
    """R7: nobody else may know it any more."""
    serving.agent.drop(["m"])
    serving.expect(Hold)
    closed(serving)
    serving.joins("2")
    assert serving.expect(Heal).model == "m"


def test_a_fleet_that_is_behind_is_reopened(serving: Play) -> None:
    """R7: an open fleet that shows less than this worker was told has lost something, and must not go on."""
    ready_for_2(serving)
    serving.expect(Say, states={"m": idle(3, 2)})
    closed(serving)
    serving.open = True
    serving.joins("2")
    serving.expect(Hold, states={"m": idle(1, 1)})
    assert serving.mode() == "ask" and serving.agent.healing.told["m"].key == key(2)
    reopen = serving.call()
    assert isinstance(reopen, Reopen) and reopen.gen == 2 and reopen.heard == 1
    serving.epoch, serving.open, serving.revision = Epoch(3, "n3"), False, 1
    serving.hears(reopen, "epoch")
    assert serving.agent.epoch == serving.epoch and serving.agent.member is None


def test_a_fleet_that_turns_out_not_to_be_behind_is_read_again(serving: Play) -> None:
    closed(serving)
    serving.open = True
    serving.joins("2")
    serving.expect(Hold, states={"m": State(0, "idle")})
    serving.expect(Reopen)
    serving.reads(m=idle(2, 1))
    assert serving.mode() == "lease"


def test_another_content_under_the_same_number_reopens(serving: Play) -> None:
    """R7: identity is generation and version."""
    closed(serving)
    serving.open = True
    serving.joins("2")
    serving.expect(Hold, states={"m": idle(1, 1, 5)})
    assert serving.expect(Reopen, "ok").version == version(1)


@pytest.mark.parametrize(("manifest", "why"), [(None, "Redis has none"), ("{", "manifest")])
def test_who_waits_for_an_active_generation_without_a_manifest_is_told_why(
    play: Play, manifest: str | None, why: str
) -> None:
    """Redis shows 1 as active and has lost, or garbled, its manifest: requests would wait for ever longer tries, and learn nothing."""
    play.joins()
    play.agent.asked(1, ("m",))
    play.expect(Hold, states={"m": idle(1, 1)})
    play.expect(Ask, states={"m": idle(1, 1)})
    play.expect(ManifestOf, manifest=manifest)
    play.expect(Ask, states={"m": idle(1, 1)})
    (answer,) = play.taken(Answered)
    assert "generation 1 could not be loaded here at manifest" in answer.why and why in answer.why
    play.hears(play.until(ManifestOf), manifest=MANIFESTS[1].encode().decode())
    play.ends(1)
    play.until(Heartbeat)
    assert play.mode() == "lease", "it is tried again, and heals"


def test_who_never_heard_the_manifest_asks_for_a_higher_number(play: Play) -> None:
    """R7: it cannot give the content back, and will not take a lower generation: the fleet's must be raised above it."""
    play.joins()
    play.expect(Hold, states={"m": idle(1, 2)})
    closed(play)
    play.open = True
    play.joins("2")
    play.expect(Hold, states={"m": idle(1, 1)})
    reopen = play.expect(Reopen)
    assert reopen.gen == 2 and reopen.manifest == ""


# --- requests --------------------------------------------------------------------------------------------------------------


def test_a_request_that_must_ask(serving: Play) -> None:
    """One ask for all that wait; the names of a block stay together."""
    ready_for_2(serving)
    serving.expect(Say, states={"m": fencing(3, 1, 2)})
    serving.expect(Say, states={"m": fencing(3, 1, 2, mine=FENCED)})
    serving.agent.asked(1, ("m",))
    serving.agent.asked(2, ("m",))
    call = serving.expect(Ask, states={"m": fencing(3, 1, 2, mine=FENCED)})
    assert call == Ask("1", ("m",), (1, 2))
    answers = serving.taken(Answered)
    assert [(answer.token, answer.found["m"][0], answer.found["m"][2]) for answer in answers] == [
        (1, key(1), False),
        (2, key(1), False),
    ]


def test_a_request_waits_for_a_load_and_then_asks_again(serving: Play) -> None:
    """Meanwhile another generation may have become active."""
    serving.agent.hinted(1, 2, "m", serving.now)
    serving.agent.asked(1, ("m",))
    serving.reads(m=idle(2, 2))
    assert serving.taken(Answered) == []
    serving.expect(ManifestOf, manifest=MANIFESTS[2].encode().decode())
    serving.call()
    serving.ends(2)
    serving.reads(m=idle(2, 2))
    (answer,) = serving.taken(Answered)
    assert answer.found["m"][0] == key(2) and not answer.found["m"][2]


def test_a_request_that_was_given_up_is_not_asked_for(serving: Play) -> None:
    serving.agent.asked(1, ("m",))
    serving.agent.given_up(1)
    serving.quiet()


def test_an_ask_of_a_membership_that_is_over_is_asked_again(serving: Play) -> None:
    serving.agent.asked(1, ("m",))
    serving.expect(Ask, "unknown")
    serving.joins("2")
    serving.expect(Hold, states={"m": idle(1, 1)})
    assert serving.call() == Ask("2", ("m",), (1,))


def test_a_payload_is_kept_until_its_answer_was_carried_out(serving: Play) -> None:
    """Seed 17 of the simulation: a model was dropped between an answer and its delivery, and its payload was gone."""
    serving.agent.asked(1, ("m",))
    serving.reads(m=idle(1, 1))
    serving.agent.drop(["m"])
    handle = {command.found["m"][1] for command in serving.agent.commands() if isinstance(command, Answered)}
    assert handle and handle <= serving.agent.kept
    serving.agent.commands()
    assert serving.agent.kept == set()


def test_an_ask_that_was_answered_before_the_opening_is_asked_again(play: Play) -> None:
    """R3, R7: a heal may have changed what it shows; another reply has told of the opening meanwhile."""
    play.open = False
    play.agent.asked(1, ("m",))
    play.joins()
    play.expect(Hold, states={"m": State(0, "idle")})
    ask = play.call()
    assert ask == Ask("1", ("m",), (1,))
    play.hears(Heartbeat("1", 1), open=True)
    play.hears(ask, states={"m": State(0, "idle")})
    assert play.taken(Answered) == [] and play.call() == ask


def test_a_closed_fleet_answers_stale(serving: Play) -> None:
    closed(serving)
    serving.agent.asked(1, ("m",))
    (answer,) = serving.taken(Answered)
    assert answer.found["m"][0] == key(1) and answer.found["m"][2]
    serving.agent.asked(2, ("new",))
    assert serving.taken(Answered) == []


def test_an_ask_that_meets_a_closed_epoch_is_answered_stale(play: Play) -> None:
    """The question came before the epoch was known."""
    play.open = False
    play.agent.asked(1, ("m",))
    play.joins()
    play.expect(Hold, states={"m": idle(1, 1)})
    play.expect(Ask, states={"m": idle(1, 1)})
    assert play.taken(Answered) == []
    play.expect(ManifestOf, manifest=MANIFESTS[1].encode().decode())
    play.expect(Heal)
    play.ends(1)
    play.expect(Ask, states={"m": idle(1, 1)})
    (answer,) = play.taken(Answered)
    assert answer.found["m"][2], "marked: it cannot be promised while the fleet is closed"


def test_who_asked_a_closed_fleet_is_answered_when_it_opens(play: Play) -> None:
    """It held nothing to answer from, stale or not: nothing but the opening would have asked again, and it waited for its whole limit."""
    play.open = False
    play.agent.asked(1, ("m",))
    play.joins()
    play.expect(Hold, states={"m": State(0, "idle")})
    play.expect(Ask, states={"m": State(0, "idle")})
    assert play.taken(Answered) == []
    play.open = True
    play.hears(Heartbeat("1", 1))
    ask = play.call()
    assert isinstance(ask, Ask) and ask.tokens == (1,)
    play.hears(ask, states={"m": State(0, "idle")})
    (answer,) = play.taken(Answered)
    assert answer.unknown and "nothing is published yet" in answer.why


def test_who_asked_before_a_new_epoch_is_asked_for_again(serving: Play) -> None:
    """The reply to its ask was that another epoch has begun: the question must not be lost with it."""
    serving.agent.asked(1, ("m",))
    ask = serving.call()
    assert isinstance(ask, Ask) and ask.tokens == (1,)
    serving.epoch, serving.revision = Epoch(2, "n2"), 1
    serving.hears(ask, "epoch")
    serving.expect(Join, id="2")
    serving.expect(Hold, states={"m": idle(1, 1)})
    again = serving.call()
    assert isinstance(again, Ask) and again.tokens == (1,)


# --- Redis is gone ---------------------------------------------------------------------------------------------------------


def test_without_redis_the_lease_runs_on_and_then_views_are_stale(serving: Play) -> None:
    """Static stability: no request waits for Redis; what the lease still covers needs no mark."""
    serving.now += LEASE_S / 3
    call = serving.call()
    assert isinstance(call, Heartbeat)
    serving.agent.unreachable(call, serving.now)
    assert serving.agent.gone and serving.mode() == "lease"
    assert serving.agent.wake_at(serving.now) == serving.now + BACKOFF_FROM_S
    serving.now = serving.lease.deadline
    assert serving.mode() == "stale"
    serving.agent.asked(1, ("m",))
    (answer,) = serving.taken(Answered)
    assert answer.found["m"][2]
    serving.expect(Heartbeat)
    assert not serving.agent.gone and serving.mode() == "lease"


def test_a_fleet_may_refuse_instead() -> None:
    play = Play(stale_allowed=False)
    play.agent.hold(["m"])
    play.joins()
    play.expect(Hold, states={"m": idle(1, 1)})
    play.expect(ManifestOf, manifest=MANIFESTS[1].encode().decode())
    play.call()
    play.ends(1)
    play.agent.asked(1, ("m",))
    call = play.call()
    assert isinstance(call, Ask)
    play.agent.unreachable(call, play.now)
    play.now = play.lease.deadline
    assert play.mode() == "ask"
    (answer,) = play.taken(Answered)
    assert not answer.found and "Redis" in answer.why


def test_a_worker_that_starts_without_redis_takes_its_last_good_one(play: Play) -> None:
    """Promise 5: from its own disk, marked."""
    call = play.call()
    assert call is not None
    play.agent.asked(1, ("m",))
    play.agent.unreachable(call, play.now)
    play.call()
    (job,) = play.loads
    assert job.purpose == "fallback" and play.taken(Answered) == []
    play.agent.loaded(job, key(4), {})
    assert play.mode() == "stale"
    (answer,) = play.taken(Answered)
    assert answer.found["m"] == (key(4), job.id, True)
    play.taken(Load)
    play.quiet()
    assert play.taken(Load) == [], "it is tried once"


def test_a_last_good_one_that_cannot_be_loaded_ends_the_wait(play: Play) -> None:
    call = play.call()
    assert call is not None
    play.agent.asked(1, ("m",))
    play.agent.unreachable(call, play.now)
    play.call()
    play.agent.load_failed(play.loads[0], "failed", {"step": "fallback", "why": "none"}, play.now)
    (answer,) = play.taken(Answered)
    assert "holds no generation" in answer.why


@pytest.mark.parametrize("verdict", ["foreign", "schema"])
def test_another_fleets_redis_is_not_believed(serving: Play, verdict: str) -> None:
    """R6: another fleet's id, or keys that a newer program wrote."""
    serving.hears(Heartbeat("1", 1), verdict, epoch=0, nonce="", lease=0)
    assert serving.agent.gone and serving.agent.membership.refused == verdict
    serving.quiet()
    serving.now += BACKOFF_TO_S
    serving.expect(Heartbeat)
    assert serving.agent.membership.refused == ""


# --- tasks -----------------------------------------------------------------------------------------------------------------


def test_a_clear_drops_everything_and_says_so(serving: Play) -> None:
    tasks = {"5": Task("clear")}
    serving.hears(Heartbeat("1", 1), tasks=tasks)
    assert serving.taken(Clear) == [Clear("")] and serving.agent.shown(serving.now) == {}
    assert serving.expect(TaskDone, tasks=tasks) == TaskDone("1", "5", True, {"worker": "h:1"})
    assert serving.expect(Hold, tasks=tasks) == Hold("1", 2, ())
    serving.quiet()
    serving.hears(Heartbeat("1", 2))
    serving.quiet()


def test_a_refresh_loads_the_active_one_afresh(serving: Play) -> None:
    """Beside the old copy, which answers until the new one is there."""
    before = serving.agent.kept
    serving.hears(Heartbeat("1", 1), tasks={"5": Task("refresh", "m"), "6": Task("refresh", "nobody's")})
    serving.call()
    (job,) = serving.loads
    assert job.purpose == "refresh" and serving.mode() == "lease"
    serving.agent.loaded(job, job.key, {})
    assert serving.agent.kept.isdisjoint(before)
    done = [serving.expect(TaskDone), serving.expect(TaskDone)]
    assert {(call.task, call.ok) for call in done} == {("5", True), ("6", True)}
    serving.quiet()


def test_a_refresh_that_failed_is_said(serving: Play) -> None:
    serving.hears(Heartbeat("1", 1), tasks={"5": Task("refresh", "m")})
    serving.call()
    serving.agent.load_failed(serving.loads[0], "failed", {"step": "verify", "why": "gone"}, serving.now)
    call = serving.expect(TaskDone)
    assert not call.ok and serving.mode() == "lease"
    serving.now += RETRY_FROM_S
    serving.quiet()
    assert serving.agent.wake_at(serving.now) > serving.now, (
        "seed 13 of the simulation: a retry in the past, and the thread span"
    )


def test_a_task_that_began_before_is_not_ours(play: Play) -> None:
    play.expect(Join, "epoch")
    play.expect(Join, id="1", tasks={"5": Task("clear")})
    play.expect(Hold, states={"m": State(0, "idle")}, tasks={"5": Task("clear")})
    assert play.taken(Clear) == []


def test_wake_at_of_a_newcomer_is_now(play: Play) -> None:
    assert play.agent.wake_at(play.now) == play.now


# --- canaries --------------------------------------------------------------------------------------------------------------

POLICY = Policy(errors=0.01, requests=20, seconds=0).encode()
MANY = Both(Figures(100, 0, slow={"9": 100}), Figures(100, 50, slow={"9": 100}))
FINE = Both(Figures(100, 0, slow={"9": 100}), Figures(100, 0, slow={"9": 100}))


def tried(rev: int, mine: str | None = READY, *, step: int = 1, share: int = 2000, policy: str | None = None) -> State:
    """Generation 2 is the canary over 1."""
    plan = Plan([2000, 5000], 60_000, policy)
    return State(
        rev, "canary", active(1), candidate(2, phase="canary", canary=plan, share=share, step=step, step_at=5), mine
    )


def counts(play: Play) -> tuple[int, int]:
    """What the next report would say: requests of the active generation, and of the candidate."""
    one = play.agent.trials.on["m"]
    return one.active.requests, one.candidate.requests


def answers(play: Play, requests: int) -> None:
    """As many requests come, whose keys go to what is active."""
    shown = play.agent.shown(play.now)["m"]
    assert shown.trial is not None
    shown.trial.active.requests += requests


@pytest.fixture
def trying(serving: Play) -> Play:
    """Generation 2 is a canary, loaded here; its first report was sent."""
    ready_for_2(serving)
    serving.expect(Say, states={"m": tried(3)})
    shown = serving.agent.shown(serving.now)["m"]
    assert (shown.key, shown.mode, shown.other and shown.other[0]) == (key(1), "lease", key(2))
    serving.expect(Report, states={"m": tried(3)})
    return serving


def test_a_canary_is_reported_once_in_a_lease(trying: Play) -> None:
    """Cumulative sums: a report that is lost is in the next one."""
    for requests in (3, 5):
        answers(trying, requests)
        before = trying.now
        call = trying.until(Report)
        assert before + LEASE_S * 0.9 <= trying.now <= before + LEASE_S * 1.4
        assert (call.member, call.model, call.gen, call.step) == ("1", "m", 2, 1)
        assert json.loads(call.counted)["active"]["requests"] == counts(trying)[0]
        trying.agent.unreachable(call, trying.now)
    assert counts(trying) == (8, 0)


def test_who_only_prepares_reports_nothing(serving: Play) -> None:
    ready_for_2(serving)
    serving.expect(Say, states={"m": preparing(2, 1, 2, READY)})
    assert serving.agent.trials.on == {} and serving.agent.shown(serving.now)["m"].trial is None


def test_each_step_counts_anew(trying: Play) -> None:
    answers(trying, 3)
    trying.agent.hinted(1, 4, "m", trying.now)
    trying.reads(m=tried(4, step=2, share=5000))
    shown = trying.agent.shown(trying.now)["m"]
    assert shown.trial is not None and shown.trial.key == (2, 2, 5000) and counts(trying) == (0, 0)
    assert trying.until(Report).step == 2


def test_the_end_of_a_canary_ends_its_reports(trying: Play) -> None:
    trying.agent.hinted(1, 4, "m", trying.now)
    trying.reads(m=idle(4, 1))
    shown = trying.agent.shown(trying.now)["m"]
    assert (shown.trial, shown.other, trying.agent.trials.on) == (None, None, {})
    for _ in range(9):
        call = trying.until(Heartbeat)
        trying.hears(call)


def test_only_what_answers_under_a_lease_takes_part(trying: Play) -> None:
    """Fenced, without a lease, or stale: an answer of the candidate would be one that nobody is waited for."""
    answers(trying, 3)
    trying.agent.hinted(1, 4, "m", trying.now)
    trying.reads(m=fencing(4, 1, 2))
    shown = trying.agent.shown(trying.now)["m"]
    assert (shown.mode, shown.trial, shown.other) == ("ask", None, None)


def test_a_canary_without_redis(trying: Play) -> None:
    """The lease runs on, and the canary with it; what is answered after it is stale, and from what is active. What was counted is
    kept: Redis comes back, and nothing has changed there."""
    answers(trying, 3)
    trying.agent.unreachable(Heartbeat("1", 1), trying.now)
    assert trying.agent.shown(trying.now)["m"].trial is not None
    trying.now = trying.lease.deadline
    shown = trying.agent.shown(trying.now)["m"]
    assert (shown.key, shown.mode, shown.trial, shown.other) == (key(1), "stale", None, None)
    trying.until(Heartbeat)
    trying.hears(Heartbeat("1", 1))
    assert trying.agent.shown(trying.now)["m"].trial is not None and counts(trying) == (3, 0)


def test_another_membership_counts_from_the_beginning(trying: Play) -> None:
    """R10: to the fleet it is another member; counts that it was told under the old id would count twice."""
    answers(trying, 3)
    trying.hears(Heartbeat("1", 1), "unknown")
    assert trying.agent.shown(trying.now)["m"].trial is None
    trying.joins("2")
    trying.expect(Hold, states={"m": tried(3, "late")})
    trying.expect(Say, states={"m": tried(3)})
    answers(trying, 1)
    call = trying.until(Report, states={"m": tried(3)})
    assert call.member == "2" and json.loads(call.counted)["active"]["requests"] == 1


def test_what_was_counted_outlives_a_drop(trying: Play) -> None:
    """A fleet-wide clear in the middle of a canary. Under the same id a count that begins at 0 is an old report to the fleet, and for
    a long time nobody would hear what happens here."""
    answers(trying, 300)
    trying.agent.drop(["m"])
    trying.agent.hold(["m"])
    trying.expect(Hold, states={"m": tried(3, "late")})
    trying.hears(trying.until(ManifestOf), manifest=MANIFESTS[1].encode().decode())
    trying.call()
    trying.ends(1)
    shown = trying.agent.shown(trying.now)["m"]
    assert (shown.mode, shown.trial, shown.other) == ("lease", None, None), "the candidate is not loaded again yet"
    trying.hears(trying.until(ManifestOf, states={"m": tried(3, "late")}), manifest=MANIFESTS[2].encode().decode())
    trying.call()
    trying.ends(2)
    assert trying.agent.shown(trying.now)["m"].other is not None
    answers(trying, 1)
    assert counts(trying) == (301, 0)


def test_what_was_counted_outlives_a_list_that_redis_lost(trying: Play) -> None:
    """R10: until the list is acknowledged there is no candidate here; the membership, and what it has reported, are the same."""
    answers(trying, 300)
    trying.hears(Heartbeat("1", 1), "list")
    assert trying.agent.shown(trying.now)["m"].trial is None
    trying.expect(Hold, states={"m": tried(3)})
    answers(trying, 1)
    assert counts(trying) == (301, 0)


def test_what_is_not_held_is_not_reported(trying: Play) -> None:
    trying.agent.drop(["m"])
    trying.expect(Hold)
    for _ in range(9):
        trying.hears(trying.until(Heartbeat))


def test_a_new_epoch_counts_anew(trying: Play) -> None:
    """What was counted is lost with the rest, and the canary with it."""
    answers(trying, 3)
    trying.epoch = Epoch(2, "n2")
    trying.hears(Heartbeat("1", 1), "epoch")
    assert trying.agent.trials.on == {}


def test_whoever_hears_enough_says_what_follows(serving: Play) -> None:
    """Once for each report: a decision that is lost follows from the next one, too."""
    ready_for_2(serving)
    serving.expect(Say, states={"m": tried(3, policy=POLICY)})
    serving.agent.shown(serving.now)
    serving.hears(serving.until(Report), states={"m": tried(3, policy=POLICY)}, figures=MANY, age=500)
    call = serving.call()
    assert isinstance(call, Abort)
    assert (call.model, call.request, call.seen) == ("m", "policy-2-1-0", 2)
    assert call.why == "errors 50 % against 0 % after 100 requests" and call.by == "the policy (heard by h:1)"
    serving.agent.unreachable(call, serving.now)
    serving.hears(serving.until(Report, states={"m": tried(3, policy=POLICY)}), figures=FINE, age=500)
    call = serving.call()
    assert isinstance(call, Promote) and (call.gen, call.share, call.seen) == (2, 5000, 1)
    serving.hears(call)
    serving.quiet()


@pytest.mark.parametrize(
    ("said", "facts"),
    [
        ("unknown", {"figures": MANY}),
        ("ok", {}),
        ("ok", {"figures": MANY, "states": {"m": tried(3)}}),
        ("ok", {"figures": Both(), "states": {"m": tried(3, policy=POLICY)}}),
    ],
    ids=("no member", "no figures", "no policy", "too few"),
)
def test_what_says_nothing_decides_nothing(serving: Play, said: str, facts: dict[str, Any]) -> None:
    policy = None if facts.get("states", {}).get("m") == tried(3) else POLICY
    ready_for_2(serving)
    serving.expect(Say, states={"m": tried(3, policy=policy)})
    serving.agent.shown(serving.now)
    serving.hears(serving.until(Report), said, **facts)
    call = serving.call()
    assert not isinstance(call, Abort | Promote)


def test_figures_of_a_step_that_is_over_decide_nothing(trying: Play) -> None:
    """The promotion was heard while the report was under way."""
    call = trying.until(Report)
    trying.hears(Ask("1", ("m",)), states={"m": tried(4, step=2, share=5000, policy=POLICY)})
    trying.agent.shown(trying.now)
    trying.hears(call, states={"m": tried(4, step=2, share=5000, policy=POLICY)}, figures=MANY)
    assert not isinstance(trying.call(), Abort | Promote)


def test_a_watched_generation_is_reported_and_rolled_back(serving: Play) -> None:
    """After its canary: all requests with a key are those of the candidate that was."""
    watch = Watched(1, POLICY, 5)
    serving.agent.hinted(1, 2, "m", serving.now)
    serving.reads(m=idle(2, 1, watch=watch))
    shown = serving.agent.shown(serving.now)["m"]
    assert shown.trial is not None and shown.trial.is_watch and shown.other is None
    call = serving.until(Report)
    assert (call.gen, call.step) == (1, 0)
    serving.hears(call, states={"m": idle(2, 1, watch=watch)}, figures=MANY, age=0)
    call = serving.call()
    assert isinstance(call, Rollback) and (call.seen, call.pin) == (1, False)


def test_a_watch_of_another_generation_is_not_ours(serving: Play) -> None:
    """This worker has not heard of the commit, or the record was written over."""
    serving.agent.hinted(1, 2, "m", serving.now)
    serving.reads(m=idle(2, 1, watch=Watched(7, POLICY, 5)))
    assert serving.agent.shown(serving.now)["m"].trial is None


# --- signatures ------------------------------------------------------------------------------------------------------


@pytest.fixture
def examining() -> Play:
    """Generation 1 is active, was vouched for, and is answered from; 2 is the candidate, and is being examined."""
    play = Play(examines=True)
    play.agent.hold(["m"])
    play.joins()
    play.expect(Hold, states={"m": idle(1, 1)})
    play.expect(ManifestOf, manifest=MANIFESTS[1].encode().decode())
    examined(play, 1)
    play.call()
    play.ends(1)
    play.hears(Ask("1", ("m",)), states={"m": preparing(2, 1, 2)})
    play.expect(ManifestOf, manifest=MANIFESTS[2].encode().decode(), target=1)
    play.quiet()
    assert not play.loads
    return play


def examined(play: Play, gen: int, said: str = "", why: str = "") -> None:
    """What it wanted examined is that generation's manifest; it hears what was found."""
    (order,) = play.taken(Examine)
    assert (order.found.gen, order.found.version) == key(gen)
    play.agent.examined(order.found, said, why, play.now)


def test_a_manifest_is_examined_before_it_is_loaded_and_refused_in_its_own_words(examining: Play) -> None:
    """A candidate is rejected with the error's own words; what is active is asked for again, and is loaded as soon as it is another."""
    play = examining
    examined(play, 2, REFUSED, "it is not signed")
    said = play.call()
    assert isinstance(said, Say) and said.said == REFUSED
    assert (said.detail["step"], said.detail["why"]) == ("signature", "it is not signed") and not play.loads
    play.hears(said, states={"m": idle(3, 1)})
    assert play.mode() == "lease"

    play.hears(Ask("1", ("m",)), states={"m": idle(4, 5)})
    play.expect(ManifestOf, manifest=MANIFESTS[5].encode().decode())
    examined(play, 5, REFUSED, "it is not signed")
    play.call()
    assert not play.loads and play.mode() == "ask"
    again = play.until(ManifestOf)
    play.hears(again, manifest=MANIFESTS[5].encode().decode())
    examined(play, 5)
    play.call()
    play.ends(5)
    assert play.mode() == "lease" and play.agent.slots["m"].shown == key(5)


def test_a_manifest_that_cannot_be_examined_here_is_tried_again(examining: Play) -> None:
    """Not refused: that would reject it for the whole fleet, and the fault is this host's."""
    examined(examining, 2, FAILED, "the disk says nothing")
    said = examining.call()
    assert isinstance(said, Say) and (said.said, said.detail["step"]) == (FAILED, "signature")
    examining.hears(said, states={"m": preparing(3, 1, 2, FAILED)})
    examining.hears(examining.until(ManifestOf), manifest=MANIFESTS[2].encode().decode())
    examined(examining, 2)
    examining.call()
    examining.ends(2)


def test_while_a_manifest_is_examined_the_heart_beats_and_nothing_is_asked_twice(examining: Play) -> None:
    for _ in range(5):
        call = examining.until(Heartbeat)
        examining.hears(call)
        examining.quiet()
    examined(examining, 2)
    examining.call()
    examining.ends(2)


def test_what_is_found_of_another_than_is_wanted_counts_for_nothing(examining: Play) -> None:
    """A later candidate, a new epoch in which the number is another's, a drop: what was examined before is not asked about any more."""
    play = examining
    (second,) = play.taken(Examine)
    play.hears(Ask("1", ("m",)), states={"m": preparing(4, 1, 3)})
    play.expect(ManifestOf, manifest=MANIFESTS[3].encode().decode())
    play.agent.examined(second.found, REFUSED, "it is not signed", play.now)
    (third,) = play.taken(Examine)
    play.quiet()

    play.epoch, play.revision = Epoch(2, "n2"), 4
    play.hears(Heartbeat("1", 1), "epoch")
    play.expect(Join, id="7", beat="1")
    play.expect(Hold, states={"m": State(4, "preparing", active(1), candidate(3, 5), "awaited")})
    play.expect(ManifestOf, manifest=MANIFESTS[5].encode().decode())  # at once, whoever still looks at the old one
    play.agent.examined(third.found, "", "", play.now)
    play.quiet()
    assert not play.agent.slots["m"].manifests.keys() & {key(2), key(3), key(3, 5)}
    assert {load.job.key for load in play.taken(Load)} == {key(1)}
    (fifth,) = play.taken(Examine)
    play.agent.examined(fifth.found, "", "", play.now)
    play.quiet()
    assert {load.job.key for load in play.taken(Load)} == {key(3, 5)}
    play.agent.drop(["m"])
    play.agent.examined(third.found, "", "", play.now)
    assert play.agent.slots == {}


def test_what_was_gone_back_to_is_healed_as_that(play: Play) -> None:
    """R7: healed as any other generation, hosts that have seen a higher serial would refuse it."""
    play.joins()
    play.expect(Hold, states={"m": idle(1, 3, 1)})
    play.expect(ManifestOf, manifest=MANIFESTS[1].encode().decode(), target=1)
    play.call()
    play.ends(3, 1)
    play.epoch, play.open, play.revision = Epoch(2, "o"), False, 1
    play.hears(Heartbeat("1", 1), "epoch")
    play.expect(Join, id="7", beat="1")
    heal = play.until(Heal, states={"m": State(1, "idle")})
    assert (heal.gen, heal.rollback) == (3, 1)
