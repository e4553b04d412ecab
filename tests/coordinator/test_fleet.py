"""The front door: settings, the embedded server, an operator's decisions, and what people read."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from genlock.coordinator.calls import Abort, Call, Pin
from genlock.coordinator.errors import (
    Conflict,
    FleetMismatch,
    FlipRejected,
    InvalidName,
    NoGeneration,
    OutcomeUnknown,
    RedisUnreachable,
    RequestReused,
    SettingsInvalid,
    UnknownModel,
)
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.identity import identity, mark_had_member
from genlock.coordinator.records import Event
from genlock.coordinator.registry import Registry
from genlock.coordinator.reply import Reply
from genlock.coordinator.settings import Settings
from genlock.coordinator.store import Store

Background = Callable[[Callable[[], Any]], "Future[Any]"]


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Any]:
    """put(fleet, content, **how): publishes a file."""

    def make(fleet: Fleet, content: str = "a", model: str = "digits", **how: Any) -> Any:
        path = tmp_path / f"file of {content}"
        path.write_text(content)
        return fleet.publish(model, path, **how)

    return make


# --- what it stands on -----------------------------------------------------------------------------------------------


def test_making_one_touches_nothing(tmp_path: Path) -> None:
    """A web process makes its Fleet before it forks: no folder, no connection, no server of it may come from the parent (R12)."""
    Fleet("redis://nowhere.invalid:1", store=tmp_path / "store", state_dir=tmp_path / "state").close()
    assert list(tmp_path.iterdir()) == []


def test_a_block_gives_the_connections_back(fleet: Fleet) -> None:
    """As a script writes it, also when the block fails; the next use makes new ones, as after `close`."""
    with pytest.raises(ZeroDivisionError), fleet as one:
        assert one is fleet
        fleet.status()
        before = fleet.registry
        raise ZeroDivisionError
    assert fleet.registry is not before
    assert fleet.status().name == fleet.name


def test_arguments_count_and_the_environment_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GENLOCK_FLEET", "prod")
    assert Fleet(state_dir=tmp_path).name == "default"
    found = Fleet.from_env(state_dir=tmp_path)
    assert (found.name, found.store.root) == ("prod", tmp_path / "store")
    assert Fleet.from_env(fleet="staging").name == "staging"
    assert Fleet(settings=Settings(fleet="a"), name="b").name == "b"


def test_a_name_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(InvalidName, match="fleet"):
        Fleet(settings=Settings(fleet=".."))


def test_another_lease_than_the_fleets_is_an_error_that_says_so(fleet: Fleet, new_fleet: Any) -> None:
    """Members rely on it: with a shorter one, a watcher would evict who still answers from memory."""
    fleet.status()
    with pytest.raises(SettingsInvalid, match="1 s when the fleet was made"):
        new_fleet(lease=2.0).status()
    with pytest.raises(SettingsInvalid, match="set to 1 s when the fleet was made"):
        new_fleet(lease=None, settings=Settings.from_env({"GENLOCK_LEASE": "3"})).status()
    assert new_fleet(lease=None).identity.lease_s == 1.0


def test_two_fleets_that_share_a_name_are_told_apart(fleet: Fleet, new_fleet: Any, tmp_path: Path) -> None:
    fleet.status()
    with pytest.raises(FleetMismatch):
        new_fleet(store=tmp_path / "another").status()


def test_without_redis_the_error_says_what_to_do(tmp_path: Path) -> None:
    fleet = Fleet(f"unix://{tmp_path}/nothing", store=tmp_path / "store")
    (tmp_path / "m").write_text("m")
    for attempt in (fleet.status, lambda: fleet.publish("digits", tmp_path / "m"), lambda: fleet.pin("digits")):
        with pytest.raises(RedisUnreachable, match="Start it") as caught:
            attempt()
        assert caught.value.exit_status == 5


def test_who_could_not_connect_looks_again_whether_there_was_a_member(
    serving: Any, tmp_path: Path, put: Callable[..., Any]
) -> None:
    """Asked when the fleet was new, connected hours later to a Redis that has lost it: opened at once, two generations would answer."""
    folder = tmp_path / "own"
    fleet = Fleet(f"unix://{folder}/s", name="t", store=tmp_path / "store", lease=0.3)
    with pytest.raises(RedisUnreachable):
        fleet.status()
    mark_had_member(fleet.store, "t")
    folder.mkdir()
    with serving(folder):
        assert not fleet.status().open
        fleet.close()


def test_a_port_that_speaks_another_protocol_is_said(tmp_path: Path, background: Background) -> None:
    """GENLOCK_REDIS_URL has the port of the web server: no fault of genlock's, and nobody writes its keys."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        answering = background(answer)
        fleet = Fleet(f"redis://127.0.0.1:{server.getsockname()[1]}", store=tmp_path / "store")
        with pytest.raises(RedisUnreachable, match=r"no Redis \(.*HTTP/1.1 400.*\)\. Point GENLOCK_REDIS_URL to one"):
            fleet.status()
        answering.result(10)


def test_sentinels_that_do_not_answer_are_told_in_one_line(tmp_path: Path) -> None:
    """The driver writes out its whole client for each of them."""
    fleet = Fleet("redis+sentinel://127.0.0.1:1,127.0.0.1:2/main", store=tmp_path / "store")
    with pytest.raises(RedisUnreachable, match="No master found for 'main'\\. Start it"):
        fleet.status()


def test_the_state_folder_is_private_also_where_the_store_is_made_in_it_first(tmp_path: Path) -> None:
    """The page said 0700. The store was the first to be made, and its folders have what the umask leaves."""
    fleet = Fleet(state_dir=tmp_path / "deep" / "state", name="mode")
    assert fleet.identity.fleet_id
    assert (tmp_path / "deep" / "state" / "store").is_dir()
    assert (tmp_path / "deep" / "state").stat().st_mode & 0o777 == 0o700


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Fleet]:
    """A fleet on the embedded server of a state folder of its own."""
    fleet = Fleet(state_dir=tmp_path / "state", lease=0.3)
    yield fleet
    fleet.close()
    assert fleet.endpoint.embedded is not None
    fleet.endpoint.embedded.stop()


def test_the_embedded_server_is_started_and_started_again(embedded: Fleet, put: Callable[..., Any]) -> None:
    assert not embedded.started_server
    assert put(embedded, "a").generation == 1
    assert embedded.started_server and embedded.endpoint.embedded is not None
    assert embedded.endpoint.embedded.stop()
    assert put(embedded, "b").generation == 2


def test_a_child_of_a_fork_makes_its_own_connection(redis_url: str, tmp_path: Path) -> None:
    """Two processes on one connection read each other's answers (R12)."""
    script = f"""
import os, sys
from genlock.coordinator import Fleet
fleet = Fleet({redis_url!r}, name="t", store={str(tmp_path / "store")!r})
def peers():
    return {{client["id"] for client in fleet.registry._client.client_list()}}
before = peers()
if (child := os.fork()) == 0:
    fleet.status()
    os._exit(0 if len(peers()) == len(before) + 1 else 1)
status = os.waitpid(child, 0)[1]
fleet.status()
sys.exit(os.waitstatus_to_exitcode(status))
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=False, timeout=60).returncode == 0


# --- an operator's decisions -----------------------------------------------------------------------------------------


def test_an_abort_stops_the_candidate_and_it_only(fleet: Fleet, member: Any, put: Callable[..., Any]) -> None:
    one = member()
    put(fleet, "a", wait=False)
    put(fleet, "b", wait=False)
    assert fleet.abort("digits", why="wrong data") == 1
    assert one.candidate() == 2
    aborted = fleet.history("digits")[1]
    assert (aborted.generation, aborted.outcome, aborted.why) == (1, "aborted", "wrong data")
    with pytest.raises(Conflict, match="expected generation 1, found generation 2"):
        fleet.abort("digits", generation=1)


def test_the_same_request_is_the_same_decision_however_late(fleet: Fleet, member: Any, put: Callable[..., Any]) -> None:
    """An abort had no answer and was sent again when the next candidate was in work: it stopped that one, or said that there was none."""
    member()
    put(fleet, "a", wait=False)
    put(fleet, "b", wait=False)
    assert fleet.abort("digits", request="r1", author="alice@host") == 1
    assert fleet.abort("digits", request="r1") == 1
    assert fleet.model("digits").candidate is not None
    assert fleet.abort("digits", request="r2") == 2
    assert fleet.abort("digits", request="r2") == 2
    assert fleet.history("digits")[1].worker == "alice@host"


def test_a_request_is_of_one_change(fleet: Fleet, put: Callable[..., Any], tmp_path: Path) -> None:
    """All under the number of one incident: what was not done was told as done, and a publish as that of another file."""
    for content in ("a", "b"):
        put(fleet, content)
    fleet.rollback("digits", request="inc-7")
    verbs = (fleet.abort, fleet.pin, fleet.unpin, fleet.promote)
    (tmp_path / "other").write_bytes(b"c")
    for verb in (*verbs, lambda model, request: fleet.publish(model, tmp_path / "other", request=request)):
        with pytest.raises(RequestReused, match="'inc-7' was used for an earlier rollback"):
            verb("digits", request="inc-7")
    assert fleet.model("digits").pin is not None
    fleet.unpin("digits", request="inc-8")
    with pytest.raises(RequestReused, match="earlier unpin"):
        fleet.rollback("digits", request="inc-8")
    assert fleet.publish("digits", tmp_path / "other", request="inc-9").generation == 4
    with pytest.raises(RequestReused, match="earlier publish of version"):
        fleet.pin("digits", request="inc-9")
    assert fleet.unpin("digits", request="inc-8") == 3, "the same change again is answered as before"


def test_a_request_is_of_one_content(fleet: Fleet, put: Callable[..., Any]) -> None:
    """A block has written another checkpoint under the same id: that one was told as committed."""
    first = put(fleet, "a", request="q")
    with pytest.raises(RequestReused, match=first.version[:12]), fleet.publishing("digits", request="q") as draft:
        draft.path("model").write_bytes(b"b")
    assert len(fleet.history("digits")) == 1


def test_a_request_is_of_one_target(fleet: Fleet, put: Callable[..., Any]) -> None:
    """To 1 and then to 2 under the number of one incident: the second was told as committed, and 1 stayed active."""
    for content in ("a", "b", "c"):
        put(fleet, content)
    first = fleet.rollback("digits", 1, request="inc-7")
    with pytest.raises(
        RequestReused, match="'inc-7' was used for an earlier rollback to generation 1: nothing was done"
    ):
        fleet.rollback("digits", 2, request="inc-7")
    assert fleet.model("digits").version == first.version
    for to in (1, None):
        assert fleet.rollback("digits", to, request="inc-7").generation == first.generation == 4


def test_a_request_is_of_one_candidate(fleet: Fleet, put: Callable[..., Any], member: Any) -> None:
    """Who says which candidate is meant hears that it was another one; who does not has asked before."""
    member("h:1")
    put(fleet, "a", wait=False)
    assert fleet.abort("digits", generation=1, request="r") == 1
    put(fleet, "b", wait=False)
    with pytest.raises(RequestReused, match="earlier abort of generation 1"):
        fleet.abort("digits", generation=2, request="r")
    assert fleet.model("digits").candidate is not None
    for generation in (1, None):
        assert fleet.abort("digits", generation=generation, request="r") == 1


def test_decisions_and_tasks_have_the_author_that_was_named(fleet: Fleet, put: Callable[..., Any]) -> None:
    """Somebody decides for others, over HTTP: the log has to name them, not the server's user."""
    put(fleet, "a")
    fleet.pin("digits", author="alice")
    fleet.unpin("digits", author="bob")
    fleet.clear(author="carol")
    fleet.refresh("digits", author="dave")
    said = [
        (event.what, event.facts["by"])
        for event in fleet.events()
        if event.what in ("pinned", "unpinned", "task-started")
    ]
    assert said == [("pinned", "alice"), ("unpinned", "bob"), ("task-started", "carol"), ("task-started", "dave")]


def test_there_has_to_be_something_to_decide_on(fleet: Fleet, member: Any, put: Callable[..., Any]) -> None:
    for decide in (fleet.abort, fleet.pin, fleet.unpin):
        with pytest.raises(UnknownModel) as caught:
            decide("digits")
        assert caught.value.known == ()
    put(fleet, "a", model="other")
    with pytest.raises(NoGeneration, match=r"'other': no candidate is in work, there is nothing to abort$"):
        fleet.abort("other")
    with pytest.raises(UnknownModel, match="known: other"):
        fleet.pin("digits")


def test_a_pin_names_the_active_generation(fleet: Fleet, put: Callable[..., Any]) -> None:
    put(fleet)
    assert fleet.pin("digits", why="audit") == 1
    assert fleet.pin("digits") == 1, "who pins it again without a reason does not take the reason away"
    pin = fleet.model("digits").pin
    assert pin is not None and (pin.why, "@" in pin.by, (pin.at or 0) > 1e9) == ("audit", True, True)
    assert fleet.unpin("digits") == 1
    assert fleet.model("digits").pin is None
    assert fleet.unpin("digits") == 1


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


def test_a_decision_whose_reply_was_lost_is_made_once(
    fleet: Fleet, member: Any, put: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent again without a request id, the abort would hit the candidate that came after (R10)."""
    one = member()
    put(fleet, "a", wait=False)
    put(fleet, "b", wait=False)
    sent = losing(monkeypatch, Abort, 2)
    assert fleet.abort("digits") == 1
    assert len(sent) == 3 and one.candidate() == 2


def test_a_decision_that_gets_no_answer_is_unknown(
    fleet: Fleet, put: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(fleet)
    losing(monkeypatch, Pin, 10**6)
    monkeypatch.setattr("genlock.coordinator.wait.FENCING_LEASES", 0)
    monkeypatch.setattr("genlock.coordinator.wait.SLACK_S", -1.0)
    with pytest.raises(OutcomeUnknown, match="the reply was lost"):
        fleet.pin("digits", request="p1")


def test_a_closed_fleet_is_opened_by_who_decides(fleet: Fleet, put: Callable[..., Any], redis_url: str) -> None:
    """Every worker is dead, Redis has restarted: an operator who wants to pin must not wait for somebody who never comes (R6)."""
    put(fleet)
    mark_had_member(fleet.store, fleet.name)
    with redis.Redis.from_url(redis_url) as client:
        client.delete("genlock:{t}:waiting")
    assert fleet.pin("digits") == 1
    assert fleet.status().open


# --- looking ---------------------------------------------------------------------------------------------------------


def test_status_tells_of_the_fleet_and_of_every_model(
    fleet: Fleet, member: Any, put: Callable[..., Any], redis_url: str
) -> None:
    put(fleet, "z", model="zebra")
    put(fleet, "a", message="first", author="me")
    member("h:1")
    member("h:2")
    put(fleet, "b", author="you", wait=False)
    put(fleet, "c", author="they", wait=False)
    status = fleet.status()
    assert (status.name, status.open, status.lease_s, status.workers) == ("t", True, 1.0, 2)
    assert (status.redis, status.store, status.id) == (redis_url, str(fleet.store.root), fleet.identity.fleet_id)
    digits, zebra = status.models
    assert (zebra.model, zebra.phase, zebra.candidate, zebra.waits, zebra.holders) == ("zebra", "idle", None, None, 0)
    assert (digits.generation, digits.phase, digits.holders, digits.unproven) == (1, "preparing", 2, True)
    assert (digits.message, digits.author) == ("first", "me")
    assert digits.candidate is not None and digits.waits is not None
    assert (digits.candidate.generation, digits.candidate.by) == (2, "you")
    assert (digits.candidate.awaited, digits.candidate.ready) == (2, 0)
    assert digits.candidate.deadline > (digits.committed_at or 0) > 1e9
    assert (digits.waits.by, len(digits.waits.version)) == ("they", 64)
    assert msgspec.json.decode(msgspec.json.encode(status))["models"][0]["candidate"]["generation"] == 2
    assert fleet.model("digits") == digits


def test_an_unknown_model_is_said_with_those_that_are_known(fleet: Fleet, put: Callable[..., Any]) -> None:
    put(fleet, model="zebra")
    for look in (fleet.model, fleet.history):
        with pytest.raises(UnknownModel, match="known: zebra"):
            look("digits")


def test_history_tells_what_became_of_each_the_newest_first(
    fleet: Fleet, member: Any, put: Callable[..., Any], background: Background, wait_for: Any
) -> None:
    put(fleet, "a", message="first", author="me")
    one = member()
    flying = background(lambda: put(fleet, "b", author="you"))
    one.bad(wait_for(one.candidate, description="the candidate"), why="NaN", step="check")
    with pytest.raises(FlipRejected):
        flying.result(10)
    put(fleet, "c", wait=False)
    third, second, first = fleet.history("digits")
    assert (third.generation, third.outcome, third.seconds) == (3, "candidate", {})
    assert (second.outcome, second.why, second.step, second.worker) == ("rejected", "NaN", "check", "h:1")
    assert second.workers["h:1"]["state"] == "bad" and second.seconds["total"] >= 0
    assert (first.outcome, first.active, first.message, first.author) == ("committed", True, "first", "me")
    assert first.created_at is not None and first.created_at > 1e9
    assert [row.generation for row in fleet.history("digits", limit=2)] == [3, 2]


def test_workers_tell_what_they_say_of_themselves(fleet: Fleet, member: Any) -> None:
    one = member("h:1", "digits", "another")
    [found] = fleet.workers()
    assert (found.worker, found.member, found.host, found.pid, found.started_at) == ("h:1", one.id, "h", 7, 5.5)
    assert (found.models, found.generations, found.last_error) == (["another", "digits"], {"digits": 1}, None)
    assert found.about["host"] == "h"


# --- events ----------------------------------------------------------------------------------------------------------


def test_events_are_the_newest_or_those_behind_one(fleet: Fleet, put: Callable[..., Any]) -> None:
    put(fleet, "a")
    put(fleet, "b")
    found = list(fleet.events())
    assert [event.what for event in found] == ["epoch", "candidate", "committed", "candidate", "committed"]
    assert list(fleet.events(newest=2)) == found[-2:]
    assert list(fleet.events(after=found[2].id)) == found[3:]


def test_who_follows_hears_what_comes_even_if_redis_is_gone_for_a_while(
    fleet: Fleet, new_fleet: Any, put: Callable[..., Any], background: Background, wait_for: Any, monkeypatch: Any
) -> None:
    put(fleet, "a")
    follower, heard, stop = new_fleet(), [], threading.Event()

    def follow() -> None:
        for event in follower.events(follow=True, newest=1, stop=stop.is_set):
            heard.append(event)

    log, lost = Registry.log, []

    def losing_log(self: Registry, **how: Any) -> list[Event]:
        if "after" in how and len(lost) < 2:
            lost.append(how)
            raise RedisUnreachable("there", "gone for a while")
        return log(self, **how)

    monkeypatch.setattr(Registry, "log", losing_log)
    following = background(follow)
    wait_for(lambda: len(lost) == 2, description="the losses")
    put(fleet, "b")
    wait_for(lambda: len(heard) == 3, description="both events of the second publish")
    assert [event.what for event in heard] == ["committed", "candidate", "committed"]
    stop.set()
    following.result(10)


def test_the_author_is_user_and_host_even_if_the_user_has_no_name(
    fleet: Fleet, put: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that runs as uid 12345: the password file knows no such user."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    put(fleet)
    assert fleet.model("digits").author.startswith(f"{os.getuid()}@")


def test_identity_is_what_the_store_says(fleet: Fleet) -> None:
    assert fleet.identity == identity(Store(fleet.store.root), "t", lease_s=9.0)


def test_how_full_the_server_is_can_be_asked(serving: Any, new_fleet: Callable[..., Fleet], tmp_path: Path) -> None:
    """A server at its maxmemory refuses writes, and leases end: somebody wants to be woken before."""
    (tmp_path / "own").mkdir()
    with serving(tmp_path / "own") as url:
        registry = new_fleet(url=url).registry
        used, most = registry.memory()
        assert used > 100_000
        assert most == 0
        with redis.Redis.from_url(url) as client:
            client.config_set("maxmemory", "1gb")
        assert registry.memory()[1] == 2**30


def test_a_rollback_is_as_old_as_its_decision(fleet: Fleet, put: Callable[..., Any]) -> None:
    """Somebody looked for last night's rollback: the history told when the old checkpoint had been staged, a week before."""
    put(fleet, "a")
    put(fleet, "b")
    fleet.rollback("digits", pin=False)
    newest, second, first = fleet.history("digits")
    assert newest.rollback_of == 1 and newest.created_at == first.created_at
    assert newest.decided_at is not None and second.decided_at is not None
    assert newest.decided_at >= second.decided_at
