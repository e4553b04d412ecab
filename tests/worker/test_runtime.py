"""worker/runtime.py: the thread between the agent and the world. What the agent decides is tested with the agent; here, that it happens."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
import redis
import torch
from genlock.coordinator.calls import Leave, Lock, Propose, StartTask, hint_of
from genlock.coordinator.clock import clock
from genlock.coordinator.errors import FlipRejected, NotReady, RedisUnreachable
from genlock.coordinator.fleet import Fleet
from genlock.worker import runtime as room
from genlock.worker.cache import ModelCache
from genlock.worker.orders import Clear, Rejected
from genlock.worker.runtime import Runtime, worker_name
from safetensors.torch import save_file
from torch import nn

Publish = Callable[..., Any]
NewCache = Callable[..., ModelCache]
WaitFor = Callable[..., Any]
Background = Callable[[Callable[[], Any]], "Future[Any]"]


def runtime_of(cache: ModelCache) -> Runtime:
    cache.start()
    assert cache.runtime is not None
    return cache.runtime


# --- joining ---------------------------------------------------------------------------------------------------------


def test_the_first_worker_of_a_new_fleet_need_not_watch_it(
    new_cache: NewCache, fleet: Fleet, wait_for: WaitFor
) -> None:
    """R6: its store says that it never had a member. Seen: the worker marked the store first, and then waited for its own mark."""
    runtime = runtime_of(new_cache())
    wait_for(lambda: runtime.agent.member, description="it joins")
    assert fleet.status().open
    assert next(fleet.events()).what == "epoch"


def test_a_worker_that_comes_while_redis_is_away_asks_the_store_again(
    serving: Any, new_fleet: Any, new_cache: NewCache, tmp_path: Any, wait_for: WaitFor
) -> None:
    """R6: it found a virgin store, and then no Redis for an hour; meanwhile the fleet had a member, and Redis lost everything."""
    (tmp_path / "own").mkdir()
    fleet = new_fleet(url=f"unix://{tmp_path / 'own' / 's'}", store=tmp_path / "own-store", lease=5.0)
    runtime = runtime_of(new_cache(fleet=fleet))
    wait_for(lambda: runtime.is_gone)
    with serving(tmp_path / "own"):
        wait_for(lambda: runtime.agent.epoch.number, description="it has met the new epoch")
        assert not fleet.status().open, "which is closed until somebody has watched it for a lease"
        wait_for(lambda: runtime.agent.member)


def test_a_worker_is_no_member_before_its_code_is_imported(
    publish: Publish,
    new_cache: NewCache,
    fleet: Fleet,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    wait_for: WaitFor,
) -> None:
    """A worker that gunicorn starts anew imports its model's module for seconds, in which hardly another thread runs. Seen: it held the
    model before that, and a whole fleet waited in FENCING for its answer."""
    (tmp_path / "slow_module.py").write_text(
        "import pathlib, threading, torch\n"
        "here = pathlib.Path(__file__).parent\n"
        "(here / 'importing').touch()\n"
        "while not (here / 'go on').exists(): threading.Event().wait(0.005)\n"
        "def build(): return torch.nn.Linear(2, 2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    publish(2.0)
    cache = new_cache(loaders={"m": "slow_module:build"})
    cache.start()
    wait_for((tmp_path / "importing").exists, description="the module is being imported")
    assert publish(3.0).unproven, "nobody holds the model yet"
    assert fleet.workers() == []
    (tmp_path / "go on").touch()
    assert cache.get("m").generation == 2


def test_another_fleets_keys_are_refused_and_said(
    new_cache: NewCache, new_fleet: Any, tmp_path: Any, wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    """Two fleets share a name in one Redis: the worker must neither answer from it nor end."""
    new_fleet().status()
    cache = new_cache(fleet=new_fleet(store=tmp_path / "another-store"), settings={"on_disconnect": "fail"})
    runtime = runtime_of(cache)
    wait_for(lambda: "two fleets share one name" in runtime.last_error)
    with pytest.raises(NotReady):
        cache.get("m")
    assert "two fleets share one name" in caplog.text
    assert runtime.is_alive


# --- a flip, seen from a worker --------------------------------------------------------------------------------------


def test_the_phases_of_a_flip_are_its_own(publish: Publish, new_cache: NewCache) -> None:
    """Seen: the first flip after a cold load counted as preparing since that load."""
    publish(1)
    cache = new_cache()
    cache.get("m")
    figures = cache.get_detailed_stats()["models"]["m"]
    assert figures["flip_phases"] == {}, "a cold load is no flip of the fleet"
    began = clock()
    flip = publish(2)
    cache.get("m")  # it is fenced until it has heard of the commit, which may be after the publish has returned
    total = clock() - began
    phases = cache.get_detailed_stats()["models"]["m"]["flip_phases"]
    assert phases["preparing"]["count"] == phases["fencing"]["count"] == 1
    assert 0 < phases["preparing"]["sum_s"] <= flip.seconds["total"]
    assert 0 < phases["fencing"]["sum_s"] <= total


def test_what_was_rejected_does_not_count_for_the_next(
    publish: Publish, new_cache: NewCache, wait_for: WaitFor
) -> None:
    publish(1)
    cache = new_cache()
    cache.get("m")
    with pytest.raises(FlipRejected):
        publish(float("nan"))
    assert cache.runtime is not None
    wait_for(lambda: cache.get_stats()["rejected"], description="the worker has heard of the rejection")
    flip = publish(3)
    cache.get("m")  # it is fenced until it has heard of the commit
    phases = cache.get_detailed_stats()["models"]["m"]["flip_phases"]
    assert phases["preparing"]["sum_s"] <= flip.seconds["total"]


def test_a_rollback_to_what_is_warm_needs_no_preparing(publish: Publish, fleet: Fleet, new_cache: NewCache) -> None:
    publish(1)
    cache = new_cache()
    first = cache.get("m")
    publish(2)
    fleet.rollback("m")
    again = cache.get("m")
    assert again.payload is first.payload
    figures = cache.get_detailed_stats()["models"]["m"]
    assert (figures["flips"], figures["loads"]["ok"]) == (3, 2)
    assert figures["flip_phases"]["fencing"]["count"] == 2


def test_memory_of_a_replaced_generation_is_let_go(publish: Publish, new_cache: NewCache) -> None:
    """Two are kept (what is shown, and the way back), however many come."""
    publish(1)
    cache = new_cache()
    cache.get("m")
    for value in range(2, 7):
        publish(value)
    assert cache.runtime is not None
    assert len(cache.runtime._shelf._loaded) == 2


def test_a_candidate_too_large_for_this_worker_is_refused_with_the_numbers(
    publish: Publish, fleet: Fleet, new_cache: NewCache, tmp_path: Any
) -> None:
    """It holds the generation before, and must go on answering from that."""
    small = publish(1)
    cache = new_cache(max_bytes=2 * small.size)
    cache.get("m")
    save_file({"weight": torch.ones(200, 2), "bias": torch.zeros(200)}, tmp_path / "large")
    with pytest.raises(FlipRejected, match="GENLOCK_MAX_BYTES"):
        fleet.publish("m", tmp_path / "large", timeout=1)
    assert cache.get("m").generation == 1


def test_a_worker_that_was_too_slow_loads_what_the_others_agreed_on(
    publish: Publish, new_cache: NewCache, member: Any, background: Background, wait_for: WaitFor
) -> None:
    """A share of the workers is enough: this one is fenced, knows what is active, and has to load it yet."""
    publish(1)
    go_on = threading.Event()
    go_on.set()

    def slow() -> nn.Module:
        assert go_on.wait(20)
        return nn.Linear(2, 2)

    cache = new_cache(loaders={"m": slow})
    cache.get("m")
    runtime, other = runtime_of(cache), member("h:9", "m")
    go_on.clear()
    # The other one has to say within the time that it is ready.
    flip = background(lambda: publish(2, agreement=0.5, timeout=1.5))
    other.ready(wait_for(lambda: other.candidate("m")), "m")
    wait_for(lambda: other.state("m").is_fencing)
    other.fenced(2, "m")
    assert flip.result().generation == 2
    wait_for(lambda: runtime.why_not_ready("m") == "generation 2 is active and not loaded yet")
    go_on.set()
    assert cache.get("m").generation == 2


def test_what_was_used_least_recently_makes_room(
    fleet: Fleet, new_cache: NewCache, tmp_path: Any, wait_for: WaitFor
) -> None:
    """Room for two models of 16 KiB; a third one drops the first before it is loaded, not after."""
    for model in ("a", "b", "c"):
        save_file({"weight": torch.ones(64, 64), "bias": torch.zeros(64)}, tmp_path / model)
        size = fleet.publish(model, tmp_path / model).size
    loaders = dict.fromkeys(("a", "b", "c"), lambda: nn.Linear(64, 64))
    cache = new_cache(loaders=loaders, max_bytes=2 * size)
    for model in ("a", "b", "c"):
        cache.get(model)
    assert cache.get_warmed_models() == ["b", "c"]
    assert cache.get_detailed_stats()["models"]["a"]["drops"]["lru_bytes"] == 1


def test_a_manifest_that_nobody_can_read_is_a_failure_here(fleet: Fleet, new_cache: NewCache) -> None:
    """Promise 7: what stands in Redis is not believed, and ends no thread."""
    fleet.registry.ask(Lock("m", "take", "token", "{}", 60_000))
    reply = fleet.registry.ask(Propose("m", "q", "token", "v", "v:", b"no manifest", 1.0, 60_000, "me"))
    assert reply.as_answer.state == "committed"
    cache = new_cache(settings={"max_wait_s": 0.3})
    with pytest.raises(NotReady):
        cache.get("m")
    assert cache.runtime is not None
    assert (cache.runtime.is_alive, cache.runtime.failure) == (True, "")
    assert cache.why_not_ready().keys() == {"m"}


# --- requests --------------------------------------------------------------------------------------------------------


def test_who_asks_while_the_worker_leaves_is_told_at_once(publish: Publish, new_cache: NewCache) -> None:
    """R8: else it would wait for as long as a request may."""
    publish(1)
    cache = new_cache()
    cache.get("m")
    runtime = cache.runtime
    assert runtime is not None
    runtime.post(runtime.agent.leave)
    question = runtime.ask(("m",), 20)
    assert question.views is None
    assert question.error is not None
    assert "leaving the fleet" in question.error.why


def test_who_asks_after_the_worker_has_left_is_told_at_once(publish: Publish, new_cache: NewCache) -> None:
    """A request, or a prewarm, that met the shutdown waited for its full time: nobody read what it asked any more."""
    publish(1)
    cache = new_cache()
    cache.get("m")
    runtime = cache.runtime
    assert runtime is not None
    runtime.close()
    began = time.monotonic()
    question = runtime.ask(("m",), 20)
    assert question.error is not None
    assert "leaving the fleet" in question.error.why
    assert time.monotonic() - began < 5


def test_closing_twice_is_closing_once(publish: Publish, new_cache: NewCache, fleet: Fleet) -> None:
    publish(1)
    cache = new_cache()
    cache.get("m")
    runtime = cache.runtime
    assert runtime is not None
    runtime.close()
    runtime.close()
    assert not runtime.is_alive
    assert [event.what for event in fleet.events()].count("left") == 1


def test_a_manifest_is_known_of_the_active_generation_only(publish: Publish, new_cache: NewCache) -> None:
    publish(1)
    cache = new_cache()
    cache.get("m")
    assert cache.runtime is not None
    assert "weight" not in str(cache.runtime.manifest_of("m", 1))
    assert cache.runtime.manifest_of("m", 1)
    assert cache.runtime.manifest_of("m", 2) is None
    assert cache.runtime.manifest_of("other", 1) is None


# --- faults ----------------------------------------------------------------------------------------------------------


def test_a_fault_is_seen_and_ends_neither_the_heartbeat_nor_the_answers(
    publish: Publish, new_cache: NewCache, wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    publish(1)
    cache = new_cache()
    cache.get("m")
    runtime = cache.runtime
    assert runtime is not None

    def fault() -> None:
        raise ZeroDivisionError("a fault of ours")

    runtime.post(fault)
    wait_for(lambda: runtime.failure)
    assert runtime.failure == "ZeroDivisionError: a fault of ours"
    assert "a fault of ours" in caplog.text
    publish(2)
    assert cache.get("m").generation == 2


def test_a_lost_epoch_is_healed_and_answers_go_on(
    publish: Publish, new_cache: NewCache, fleet: Fleet, redis_url: str, wait_for: WaitFor
) -> None:
    """Promise 4: Redis was emptied. The worker gives back what it was told is active; meanwhile its answers are marked."""
    publish(1)
    cache = new_cache()
    cache.get("m")
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    wait_for(lambda: cache.get("m").stale, description="it has noticed: the fleet is closed")
    wait_for(lambda: not cache.get("m").stale, description="the fleet is open again")
    assert cache.get("m").generation == fleet.model("m").generation == 1
    assert cache.get_detailed_stats()["process"]["epochs"] >= 2
    assert publish(2).generation > 1


def test_an_evicted_worker_joins_again(
    publish: Publish, new_cache: NewCache, fleet: Fleet, wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    """A machine that slept: the others took it off the list."""
    publish(1)
    cache = new_cache()
    cache.get("m")
    runtime = cache.runtime
    assert runtime is not None
    before = runtime.agent.member
    assert before is not None
    fleet.registry.ask(Leave(before, died=True))
    wait_for(lambda: runtime.agent.member not in (None, before))
    wait_for(lambda: not cache.get("m").stale and cache.get("m").generation == 1)
    assert cache.get_stats()["evictions"] == 1
    assert "no member any more: evicted" in caplog.text


def test_a_silent_subscription_is_replaced(
    publish: Publish, new_cache: NewCache, redis_url: str, wait_for: WaitFor
) -> None:
    """R14: a dead link says nothing. A change whose hint has not come is found by the heartbeat, and the link is made anew."""
    publish(1)
    cache = new_cache()
    cache.get("m")
    with redis.Redis.from_url(redis_url) as client:
        ours = hint_of("t")
        # What was subscribed hears another channel from now on: nothing on this connection fails.
        original = room.Runtime._hinted
        heard, deaf = threading.Event(), threading.Event()

        def hinted(self: Runtime, hint: Any) -> None:
            heard.set()
            if not deaf.is_set():
                original(self, hint)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(room.Runtime, "_hinted", hinted)
            # One that begins later makes the worker read, and nothing is missed.
            wait_for(lambda: client.pubsub_numsub(ours)[0][1] >= 1, description="it is subscribed")
            publish(2)
            wait_for(heard.is_set)
            assert cache.get("m").generation == 2
            deaf.set()
            publish(3, timeout=20)
            assert cache.get("m").generation == 3
            wait_for(lambda: cache.get_detailed_stats()["process"]["resubscriptions"], description="it is replaced")
            deaf.clear()
        wait_for(lambda: client.pubsub_numsub(ours)[0][1] >= 1, description="the new one has begun")
    publish(4)
    assert cache.get("m").generation == 4


def test_an_error_is_told_until_it_is_mended(publish: Publish, new_cache: NewCache, wait_for: WaitFor) -> None:
    """`genlock workers` showed the trouble of yesterday beside workers that were well."""
    publish(1)
    well = threading.Event()

    def build() -> nn.Module:
        if not well.is_set():
            raise ZeroDivisionError("a typo")
        return nn.Linear(2, 2)

    cache = new_cache(loaders={"m": build})
    runtime = runtime_of(cache)
    wait_for(lambda: "ZeroDivisionError: a typo" in runtime.last_error)
    assert "a typo" in runtime.error_of("m") and runtime.error_of("other") == ""
    well.set()
    wait_for(lambda: runtime.last_error == "", description="it is loaded")
    assert cache.get("m").generation == 1


def test_what_was_dropped_is_not_wrong_any_more(publish: Publish, new_cache: NewCache, wait_for: WaitFor) -> None:
    """A model that cannot be loaded is given up here; nothing of it stands beside the others for ever."""
    publish(1)

    def build() -> nn.Module:
        raise ZeroDivisionError("a typo")

    cache = new_cache(loaders={"m": build})
    runtime = runtime_of(cache)
    wait_for(lambda: runtime.error_of("m"))
    cache.invalidate("m")
    assert runtime.last_error == runtime.error_of("m") == ""


def test_hints_come_back_with_the_server(
    serving: Any, new_fleet: Any, new_cache: NewCache, tmp_path: Any, wait_for: WaitFor
) -> None:
    (tmp_path / "own").mkdir()
    made = {"url": f"unix://{tmp_path / 'own' / 's'}", "store": tmp_path / "own-store"}
    with serving(tmp_path / "own"):
        runtime = runtime_of(new_cache(fleet=new_fleet(**made)))
        wait_for(lambda: runtime.agent.member)
    wait_for(lambda: runtime.is_gone)
    assert runtime.last_error == runtime.error_of("m") != ""
    with serving(tmp_path / "own") as url, redis.Redis.from_url(url) as client:
        wait_for(lambda: client.pubsub_numsub(hint_of("t"))[0][1] == 1, description="it is subscribed again")
        wait_for(lambda: not runtime.is_gone)
        wait_for(lambda: runtime.last_error == "", description="nothing is wrong any more")
        runtime.close()


def test_the_embedded_server_is_started_again_by_who_misses_it(
    new_fleet: Any, new_cache: NewCache, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = new_fleet()
    ensured: list[bool] = []
    monkeypatch.setattr(type(fleet.endpoint), "ensure", lambda self: ensured.append(True))
    runtime = Runtime.__new__(Runtime)
    runtime = runtime_of(new_cache(fleet=fleet))
    wait_for(lambda: runtime.agent.member)
    object.__setattr__(fleet.endpoint, "embedded", object())

    def twice() -> None:
        for _ in range(2):
            runtime._gone(StartTask("q", "clear", "", 1, "me"), RedisUnreachable("there", "it is away"))

    runtime.post(twice)
    wait_for(lambda: ensured)
    wait_for(lambda: not runtime.is_gone, description="the next heartbeat reaches it")
    assert ensured == [True], "once a second is enough"
    object.__setattr__(fleet.endpoint, "embedded", None)


def test_people_are_told_of_this_process(publish: Publish, new_cache: NewCache) -> None:
    """Who reads the list of workers has to find the process, also where its name does not say which it is."""
    publish(1)
    cache = new_cache()
    cache.get("m")
    assert cache.runtime is not None
    cache.runtime.worker = "named by hand"
    assert f'"pid": {os.getpid()}' in cache.runtime._about()
    assert worker_name().endswith(f":{os.getpid()}")


def test_why_a_model_is_not_ready(publish: Publish, new_cache: NewCache, wait_for: WaitFor) -> None:
    publish(1)
    go_on = threading.Event()
    go_on.set()

    def slow() -> nn.Module:
        assert go_on.wait(20)
        return nn.Linear(2, 2)

    cache = new_cache(loaders={"m": slow})
    runtime = runtime_of(cache)
    assert "nothing is loaded yet" in str(runtime.why_not_ready("other"))
    wait_for(lambda: runtime.why_not_ready("m") is None)
    go_on.clear()
    publish(2, agreement=1.0, wait=False)
    assert runtime.why_not_ready("m") is None, "a candidate is no reason"
    go_on.set()
    wait_for(lambda: cache.get("m").generation == 2)


def test_orders_that_nobody_sees_are_counted(new_cache: NewCache, publish: Publish, wait_for: WaitFor) -> None:
    """A rejection without a reason (superseded), and a clear of one model of several."""
    publish(1, "a")
    publish(1, "b")
    cache = new_cache("a", "b")
    cache.prewarm()
    runtime = cache.runtime
    assert runtime is not None
    runtime.agent._commands += [Rejected("a", (9, "v"), {}), Clear("b"), Clear("unknown")]
    runtime.post(lambda: None)
    wait_for(lambda: cache.get_detailed_stats()["models"]["b"]["drops"]["clear"])  # the later of the two
    models = cache.get_detailed_stats()["models"]
    assert (models["a"]["rejected"], models["a"]["last_rejection"]["why"]) == (1, "the fleet did not commit it")
    assert (models["a"]["drops"]["clear"], models["b"]["drops"]["clear"]) == (0, 1)
    assert "unknown" not in models


# --- what people see of it -------------------------------------------------------------------------------------------


def test_each_event_has_its_ids_in_the_log(
    publish: Publish, fleet: Fleet, new_cache: NewCache, wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    """A collector looks for all that became of generation 2 of a model on one worker: by fields, not by the words of a sentence."""
    caplog.set_level("INFO", "genlock.worker")
    publish(1)
    cache = new_cache()
    cache.get("m")
    publish(2)
    with pytest.raises(FlipRejected):
        publish(float("nan"))
    cache.get("m")
    wait_for(lambda: cache.get_stats()["rejected"])
    fleet.clear("m")

    def found(event: str) -> list[Any]:
        return [record.__dict__ for record in caplog.records if record.__dict__.get("event") == event]

    wait_for(lambda: found("cleared"))
    flip = found("flipped")[-1]
    assert (flip["model"], flip["generation"], flip["before"], flip["fleet"]) == ("m", 2, 1, "t")
    assert flip["worker"] == cache.worker
    assert set(flip["seconds"]) == {"preparing", "fencing"}
    assert [(one["generation"], one["purpose"]) for one in found("loaded")] == [(1, "active"), (2, "candidate")]
    (failed,) = found("load-failed")
    assert (failed["generation"], failed["said"], failed["step"]) == (3, "bad", "check")
    (rejected,) = found("rejected")
    assert (rejected["generation"], rejected["step"]) == (3, "check")


def test_what_is_loaded_is_known_generation_by_generation(
    publish: Publish, new_cache: NewCache, wait_for: WaitFor
) -> None:
    """Memory of a model is twice or three times that of what answers; the figures say which generations have it."""
    publish(1)
    cache = new_cache()
    cache.get("m")
    flip = publish(2)
    cache.get("m")

    def held() -> Any:
        return cache.get_detailed_stats()["models"]["m"]["held"]

    wait_for(lambda: "warm" in held(), description="the candidate has become the active one")
    assert {state: about["generation"] for state, about in held().items()} == {"active": flip.generation, "warm": 1}
    assert all(about["bytes"] > 0 for about in held().values())


def test_people_see_at_which_step_a_worker_is(
    publish: Publish, fleet: Fleet, new_cache: NewCache, background: Background, wait_for: WaitFor
) -> None:
    """All wait for one worker: is it reading from a slow disk, or does its loader hang? The next heartbeat but one says so."""
    publish(1)
    go_on = threading.Event()

    def slow() -> nn.Module:
        assert go_on.wait(20)
        return nn.Linear(2, 2)

    cache = new_cache(loaders={"m": slow})
    cache.start()

    def loading() -> Any:
        found = fleet.workers()
        return found[0].about.get("loading") if found else None

    def building() -> Any:
        told = loading()
        return told and told["m"]["step"] == "build" and told

    told = wait_for(building, description="a heartbeat after the steps before, which take no time")
    assert told["m"]["generation"] == 1
    go_on.set()
    wait_for(lambda: loading() == {}, description="and that it is done")
