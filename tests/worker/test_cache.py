"""worker/cache.py: what a request gets, from a real fleet on a real server; and what the process does with its models."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from genlock.coordinator.canary import Figures, hundredths, place_of
from genlock.coordinator.errors import (
    BadInput,
    DoesNotFit,
    FlipAborted,
    FlipRejected,
    InvalidName,
    NotReady,
    UnknownModel,
)
from genlock.coordinator.fleet import Fleet
from genlock.worker.cache import ModelCache
from genlock.worker.hitrate import HitRate
from safetensors.torch import save_file
from torch import nn

Publish = Callable[..., Any]
NewCache = Callable[..., ModelCache]
WaitFor = Callable[..., Any]
Background = Callable[[Callable[[], Any]], "Future[Any]"]

X = torch.ones(1, 2)


def y(view: Any) -> float:
    """What the model of a view multiplies by."""
    return float(view.payload(X)[0][0])


# --- a request -------------------------------------------------------------------------------------------------------


def test_a_cold_model_is_loaded_by_its_first_use(publish: Publish, new_cache: NewCache) -> None:
    flip = publish(3)
    cache = new_cache()
    view = cache.get("m")
    assert (view.model, view.generation, view.version, view.stale) == ("m", 1, flip.version, False)
    assert y(view) == 3
    assert cache.get("m") is view, "nothing has changed"
    assert cache.get_stats()["misses"] == 1
    assert cache.get_stats()["hits"] == 1


def test_once_a_publish_has_returned_no_answer_comes_from_before(publish: Publish, new_cache: NewCache) -> None:
    """Promise 1, as a trainer sees it: the very next request."""
    publish(1)
    cache = new_cache()
    before = cache.get("m")
    for generation in range(2, 6):
        publish(generation)
        with cache.use("m") as held:
            assert (held.generation, y(held)) == (generation, generation)
    assert y(before) == 1, "what a request holds is never taken from under it"


def test_several_models_are_answered_from_one_instant(publish: Publish, new_cache: NewCache, wait_for: WaitFor) -> None:
    publish(1, "a")
    publish(2, "b")
    cache = new_cache("a", "b")
    for _ in range(2):  # cold, then warm
        with cache.use_many("b", "a") as (b, a):
            assert (b.model, y(b), a.model, y(a)) == ("b", 2, "a", 1)
    publish(3, "a")
    # Who is committed for may not have read it yet, and asks; uses are counted on what is answered from memory.
    wait_for(lambda: cache._views["a"].generation == 2, 20, "it has read the commit")
    b, a = cache.use_many("b", "a")
    assert (a.generation, y(a), y(b)) == (2, 3, 2)
    assert (a.uses, b.uses) == (1, 2), "each is counted on its view"


def test_one_of_several_that_must_ask_makes_all_ask(publish: Publish, new_cache: NewCache) -> None:
    """R1: one instant. A model that is warm cannot be answered from now, and the other from a second later."""
    publish(1, "a")
    cache = new_cache("a", "b")
    cache.get("a")
    publish(2, "b")
    a, b = cache.use_many("a", "b")
    assert (y(a), y(b)) == (1, 2)
    assert cache.get_detailed_stats()["models"]["a"]["asks"] == 1


def test_who_must_not_wait_gets_what_is_at_hand_or_nothing(publish: Publish, new_cache: NewCache) -> None:
    """An event loop would stand still: for a load, for a question to Redis, or for the slow way that a dropped model takes."""
    publish(1, "a")
    publish(2, "b")
    publish(3, "b")
    cache = new_cache("a", "b")
    assert cache.at_once("a") is None
    assert cache.runtime is None, "nothing was begun for it"
    cache.prewarm()
    held = cache.at_once("a", "b", key="user-7")
    assert held is not None
    assert [view.generation for view in held] == [1, 2]
    assert cache.get_stats()["hits"] == 2
    with cache.use("a") as view:
        cache._views = {"a": view.must_ask()}
        assert cache.at_once("a") is None


def test_many_requests_of_a_cold_model_make_one_load(
    publish: Publish, new_cache: NewCache, background: Background
) -> None:
    publish(1)
    cache = new_cache()
    together = threading.Barrier(4)

    def first() -> float:
        together.wait(20)
        return y(cache.get("m"))

    assert [one.result() for one in [background(first) for _ in range(4)]] == [1.0] * 4
    assert cache.get_stats()["loads"] == 1


def test_a_model_that_nobody_published_is_unknown_and_not_held(
    publish: Publish, new_cache: NewCache, wait_for: WaitFor
) -> None:
    """Names come with requests: whoever asks for ten thousand of them must not make this worker hold them."""
    publish(1)
    cache = new_cache()
    cache.get("m")
    with pytest.raises(UnknownModel, match="the fleet has no model 'typo': publish") as caught:
        cache.get("typo")
    assert caught.value.known == (), "this worker does not know what else the fleet has"
    assert cache.runtime is not None
    wait_for(lambda: "typo" not in cache.runtime.agent.slots, description="it is let go")
    with pytest.raises(InvalidName):
        cache.get("../m")


def test_a_configured_model_is_held_before_it_is_published(
    publish: Publish, new_cache: NewCache, wait_for: WaitFor
) -> None:
    """The evaluator starts before the first training run has ended; the first publish waits for it, and finds it ready."""
    cache = new_cache()
    with pytest.raises(NotReady, match="nothing is published yet: `genlock publish m PATH`"):
        cache.get("m")
    assert cache.runtime is not None
    wait_for(lambda: cache.runtime.agent.slots["m"].confirmed)
    assert cache.why_not_ready() == {"m": "nothing is published yet: `genlock publish m PATH`"}
    assert list(publish(4).workers) == [cache.worker]
    assert y(cache.get("m")) == 4


def test_a_request_waits_no_longer_than_it_may(publish: Publish, new_cache: NewCache, wait_for: WaitFor) -> None:
    """R8: the load takes longer than GENLOCK_MAX_WAIT; the next request finds it done."""
    publish(1)
    go_on = threading.Event()

    def slow() -> nn.Module:
        assert go_on.wait(20)
        return nn.Linear(2, 2)

    cache = new_cache(loaders={"m": slow}, settings={"max_wait_s": 0.05})
    with pytest.raises(NotReady, match=r"waited 0\.05 s \(GENLOCK_MAX_WAIT\)") as caught:
        cache.get("m")
    assert caught.value.retry_after_s > 0
    go_on.set()
    wait_for(lambda: cache.is_warmed_up())
    assert y(cache.get("m")) == 1


def test_a_generation_that_cannot_be_loaded_here_is_said_with_its_step(
    fleet: Fleet, publish: Publish, new_cache: NewCache, tmp_path: Path
) -> None:
    """Nobody held the model, so the publish had no worker to ask: the first one that does says what is wrong."""
    save_file({"other": torch.eye(2)}, tmp_path / "f")
    fleet.publish("m", tmp_path / "f")
    cache = new_cache()
    with pytest.raises(NotReady, match=r"generation 1 could not be loaded here at shapes: missing: 'weight', 'bias'"):
        cache.get("m")
    assert "at shapes" in cache.why_not_ready()["m"]


# --- what the process does -------------------------------------------------------------------------------------------


def test_prewarm_loads_what_is_configured_and_tells_how_far_it_is(publish: Publish, new_cache: NewCache) -> None:
    publish(1, "a")
    publish(2, "b")
    cache = new_cache("a", "b")
    assert not cache.is_warmed_up()
    assert cache.why_not_ready() == dict.fromkeys(("a", "b"), "this process has not begun to load it")
    told: list[Any] = []
    assert cache.prewarm(on_progress=lambda *facts: told.append(facts)) == {}
    assert told == [("a", 1, 2), ("b", 2, 2)]
    assert cache.get_warmed_models() == ["a", "b"]
    assert cache.is_warmed_up()
    assert cache.why_not_ready() == {}
    assert cache.get_stats()["misses"] == 0, "nobody has asked yet"


def test_prewarm_says_what_is_not_loaded_and_keeps_nothing_else_back(publish: Publish, new_cache: NewCache) -> None:
    publish(1, "z")
    cache = new_cache("z")
    failed = cache.prewarm(["nothing", "z"])
    assert failed == {"nothing": "nothing is published yet: `genlock publish nothing PATH`"}
    assert cache.get_warmed_models() == ["z"]
    assert cache.configured == {"z", "nothing"}
    assert cache.why_not_ready() == failed


def test_prewarm_names_a_loader_that_cannot_be_imported(publish: Publish, new_cache: NewCache) -> None:
    """Seen: "it was not loaded in time", and "at manifest" in the log."""
    publish(1)
    cache = new_cache(loaders={"m": "no.such.module:Net"})
    why = cache.prewarm()["m"]
    assert "could not be loaded here at loader" in why
    assert "No module named 'no'" in why


def test_prewarm_that_ends_between_two_tries_says_what_failed(
    publish: Publish, new_cache: NewCache, wait_for: WaitFor
) -> None:
    publish(1)
    cache = new_cache(loaders={"m": "no.such.module:Net"})
    cache.start()
    assert cache.runtime is not None
    wait_for(lambda: cache.runtime.error_of("m"))
    assert "No module named 'no'" in cache.prewarm(timeout=0.0)["m"]


def test_prewarm_ends_at_its_timeout(publish: Publish, new_cache: NewCache) -> None:
    publish(1)
    go_on = threading.Event()

    def slow() -> nn.Module:
        assert go_on.wait(20)
        return nn.Linear(2, 2)

    cache = new_cache(loaders={"m": slow})
    assert cache.prewarm(timeout=0.05) == {"m": "it was not loaded in time"}
    go_on.set()
    assert cache.prewarm() == {}


def test_start_begins_the_loads_and_waits_for_nothing(publish: Publish, new_cache: NewCache, wait_for: WaitFor) -> None:
    publish(1)
    cache = new_cache()
    cache.start()
    wait_for(cache.is_warmed_up)


@pytest.mark.parametrize("drop", ["invalidate", "clear"])
def test_what_was_dropped_is_loaded_again_by_its_next_use(publish: Publish, new_cache: NewCache, drop: str) -> None:
    publish(1)
    cache = new_cache()
    before = cache.get("m")
    cache.invalidate("m") if drop == "invalidate" else cache.clear()
    assert cache.get_warmed_models() == []
    again = cache.get("m")
    assert again.payload is not before.payload
    assert (again.generation, y(again)) == (1, 1)
    figures = cache.get_detailed_stats()["models"]["m"]
    assert (figures["drops"][drop], figures["loads"]["ok"], figures["misses"]) == (1, 2, 2)


def test_dropping_what_is_not_held_is_nothing(new_cache: NewCache) -> None:
    cache = new_cache()
    cache.invalidate("m")
    cache.clear()
    assert cache.runtime is None, "nothing has begun for that"


def test_the_least_recently_used_goes_when_there_are_too_many(publish: Publish, new_cache: NewCache) -> None:
    for model in ("a", "b", "c"):
        publish(1, model)
    cache = new_cache("a", "b", "c", max_models=2)
    for model in ("a", "b", "a", "c"):
        cache.get(model)
    assert cache.get_warmed_models() == ["a", "c"]
    assert cache.get_detailed_stats()["models"]["b"]["drops"]["lru_count"] == 1
    cache.get("b")
    assert cache.get_warmed_models() == ["b", "c"]


def test_the_least_recently_used_goes_when_there_are_too_many_bytes(publish: Publish, new_cache: NewCache) -> None:
    """24 bytes of weights in a file of about 150: room for two models, and for the flip of one."""
    size = publish(1, "a").size
    publish(1, "b")
    publish(1, "c")
    cache = new_cache("a", "b", "c", max_bytes=2 * size)
    for model in ("a", "b", "c"):
        cache.get(model)
    assert cache.get_warmed_models() == ["a", "b", "c"], "what is loaded counts, not the files"
    cache.close()
    cache = new_cache("a", "b", "c", max_bytes=2 * size - 1)
    with pytest.raises(DoesNotFit, match="twice, as a flip needs it"):
        cache.get("a")
    assert cache.why_not_ready()["a"].startswith("model 'a' cannot be held by this worker")
    assert cache.prewarm(["a"])["a"].startswith("model 'a' cannot be held")


def test_a_model_of_which_nobody_asks_is_dropped_after_its_time(
    publish: Publish, new_cache: NewCache, wait_for: WaitFor
) -> None:
    publish(1)
    cache = new_cache(ttl=0.2)
    cache.get("m")
    wait_for(lambda: cache.get_warmed_models() == [])
    assert cache.get_detailed_stats()["models"]["m"]["drops"]["ttl"] == 1
    assert y(cache.get("m")) == 1


def test_fleet_wide_clear_and_refresh_reach_this_worker(publish: Publish, fleet: Fleet, new_cache: NewCache) -> None:
    publish(1)
    cache = new_cache()
    before = cache.get("m")
    assert fleet.refresh("m").done.keys() == {cache.worker}
    after = cache.get("m")
    assert (after.generation, y(after)) == (1, 1)
    assert after.payload is not before.payload
    assert fleet.clear().done.keys() == {cache.worker}
    assert cache.get_warmed_models() == []
    figures = cache.get_detailed_stats()["models"]["m"]
    assert (figures["reloads"], figures["drops"]["clear"]) == (1, 1)


def test_callbacks_hear_of_flips_and_rejections(
    publish: Publish, fleet: Fleet, new_cache: NewCache, wait_for: WaitFor, tmp_path: Path
) -> None:
    publish(1)
    cache = new_cache()
    heard: list[Any] = []
    cache.on_flip(lambda *facts: heard.append(facts))
    cache.on_reject(lambda *facts: heard.append(facts))
    cache.get("m")
    publish(2)
    save_file({"weight": torch.full((2, 2), torch.nan), "bias": torch.zeros(2)}, tmp_path / "bad")
    with pytest.raises(FlipRejected, match="not finite"):
        fleet.publish("m", tmp_path / "bad")
    wait_for(lambda: len(heard) == 3, description=f"three events, of which came {heard}")
    assert heard[:2] == [("m", None, 1), ("m", 1, 2)]
    assert heard[2][:2] == ("m", 3)
    assert "not finite" in heard[2][2]
    figures = cache.get_detailed_stats()["models"]["m"]
    assert (figures["rejected"], figures["last_rejection"]["generation"]) == (1, 3)


def test_a_low_hit_rate_rings(
    publish: Publish, new_cache: NewCache, wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    """By callback, log and metric: whoever listens to one of them hears it."""
    publish(1)
    cache = new_cache(settings={"hit_rate_threshold": 0.5})
    rung: list[HitRate] = []
    cache.on_low_hit_rate(rung.append)
    for _ in range(200):
        cache.stats.missed("m")
    cache.get("m")
    wait_for(lambda: rung)
    assert rung[0].value is not None
    assert rung[0].value < 0.5
    assert f'genlock_worker_hit_ratio_low{{worker="{cache.worker}"}} 1\n' in cache.metrics()
    (record,) = [one for one in caplog.records if getattr(one, "event", "") == "low-hit-rate"]
    assert (record.rate, record.worker) == (rung[0].value, cache.worker)  # type: ignore[attr-defined]


def test_figures_are_exported_to_paths_and_streams(publish: Publish, new_cache: NewCache, tmp_path: Path) -> None:
    publish(1)
    cache = new_cache()
    cache.get("m")
    cache.export_stats(tmp_path / "stats.json")
    assert json.loads((tmp_path / "stats.json").read_text())["models"]["m"]["generation"] == 1
    for form, text in (("csv", "m,generation,1"), ("prometheus", "genlock_worker_active_generation{")):
        stream = io.StringIO()
        cache.export_stats(stream, form)
        assert text in stream.getvalue()
    with pytest.raises(BadInput, match="xml"):
        cache.export_stats(io.StringIO(), "xml")


def test_a_closed_cache_has_left_and_says_so(publish: Publish, fleet: Fleet, new_cache: NewCache) -> None:
    publish(1)
    cache = new_cache()
    cache.get("m")
    assert [worker.worker for worker in fleet.workers()] == [cache.worker]
    cache.close()
    assert fleet.workers() == []
    for use in (lambda: cache.get("m"), lambda: cache.use_many("m", "n"), cache.start):
        with pytest.raises(NotReady, match="this cache was closed"):
            use()
    cache.close()


def test_the_figures_that_people_see_of_a_worker_are_those_of_now(
    publish: Publish, fleet: Fleet, new_cache: NewCache, wait_for: WaitFor
) -> None:
    """Seen: `genlock workers` showed a worker without generations for ten heartbeats, and joined under no name."""
    publish(1)
    cache = new_cache()
    cache.start()
    wait_for(fleet.workers)
    assert fleet.workers()[0].worker == cache.worker
    publish(2)
    cache.get("m")
    wait_for(lambda: fleet.workers()[0].generations == {"m": 2}, timeout=3, description="one heartbeat later")


# --- canaries --------------------------------------------------------------------------------------------------------

KEYS = [f"u{n}" for n in range(200)]


def counted(cache: ModelCache) -> tuple[Figures, Figures]:
    """What this worker has counted of m: the active generation, and the candidate."""
    arms = cache.views["m"].arms
    assert arms is not None
    return tuple(  # type: ignore[return-value]
        Figures(**{**one.row(), "seconds": 0.0, "slow": {"all": sum(one.row()["slow"].values())}})
        for one in (arms.trial.active, arms.trial.candidate)
    )


def test_a_canary_answers_its_share_of_the_keys_on_every_worker(
    publish: Publish, new_cache: NewCache, fleet: Fleet, wait_for: WaitFor
) -> None:
    """Two workers, one answer for each key; whom the candidate has answered it goes on to answer; a request without a key is none of
    its business."""
    publish(1)
    caches = [new_cache(), new_cache()]
    for cache in caches:
        cache.get("m")
    flip = publish(2, canary="30%,60%")
    assert (flip.outcome, flip.generation) == ("canary", 2)
    expected: set[str] = set()
    for step, share in ((1, 0.3), (2, 0.6)):
        for cache in caches:
            wait_for(lambda one=cache, step=step: (arms := one.views["m"].arms) and arms.trial.step == step)
        for cache in caches:
            views = {key: cache.get("m", key=key) for key in KEYS}
            tried = {key for key, view in views.items() if view.candidate == 2}
            assert tried == {key for key in KEYS if place_of("m", 2, key) < hundredths(share)} and expected < tried
            assert {(views[key].generation, y(views[key])) for key in tried} == {(1, 2.0)}
            assert {(view.generation, view.candidate, y(view)) for key, view in views.items() if key not in tried} == {
                (1, None, 1.0)
            }
            plain = cache.get("m")
            assert (plain.generation, plain.candidate, y(plain)) == (1, None, 1.0)
        expected = tried
        if step == 1:
            assert fleet.promote("m", "60%").outcome == "canary"
    assert fleet.promote("m").outcome == "committed"
    assert {(y(cache.get("m", key=key)), cache.get("m", key=key).candidate) for cache in caches for key in KEYS} == {
        (2.0, None)
    }


def test_without_a_canary_a_key_costs_nothing(publish: Publish, new_cache: NewCache) -> None:
    """The same object as for everybody: no copy of the view, nothing counted."""
    publish(1)
    cache = new_cache()
    view = cache.get("m")
    assert cache.get("m", key="u1") is view and cache.use("m", key="u2") is view
    assert view.arms is None


def test_a_block_counts_for_its_group(publish: Publish, new_cache: NewCache, wait_for: WaitFor) -> None:
    """Errors that leave it, time, scores; uses count on the view that the model has."""
    publish(1)
    cache = new_cache()
    cache.get("m")
    publish(2, canary="50%")
    wait_for(lambda: cache.views["m"].arms)
    old, new = (next(key for key in KEYS if (place_of("m", 2, key) < 5000) == is_tried) for is_tried in (False, True))
    before = cache.views["m"].uses
    with cache.use("m", key=new) as held:
        held.score(0.5)
        assert held.candidate == 2
    with pytest.raises(ValueError, match="made up"), cache.use("m", key=new):
        raise ValueError("made up")
    with cache.use("m", key=old) as held:
        assert held.candidate is None
    with cache.use("m"):
        pass
    active, candidate = counted(cache)
    assert active == Figures(1, slow={"all": 1})
    assert candidate == Figures(2, 1, scored=1, score=0.5, squares=0.25, slow={"all": 2})
    assert cache.views["m"].uses == before + 4


def test_a_canary_with_a_policy_goes_its_way(
    publish: Publish, new_cache: NewCache, fleet: Fleet, background: Background
) -> None:
    """Nobody decides anything but the workers that answer: it is promoted, committed, and watched; the next one, which fails every
    second request, is aborted; then what is active turns bad, and goes."""
    publish(1)
    caches = [new_cache(), new_cache()]
    for cache in caches:
        cache.get("m")  # without a holder it would be committed at once
    stop, bad = threading.Event(), [0.0]

    def ask(cache: ModelCache) -> None:
        turn = 0
        while not stop.wait(0.001):
            turn += 1
            with contextlib.suppress(ValueError), cache.use("m", key=f"u{turn % 500}") as held:
                if y(held) == bad[0] and turn % 2:
                    raise ValueError

    clients = [background(lambda cache=cache: ask(cache)) for cache in caches]
    how = {"canary": "50%", "policy": "errors=5%,requests=20,seconds=0"}
    try:
        assert publish(2, **how).outcome == "committed"
        watch = fleet.model("m").watch
        assert watch is not None and watch.generation == 2
        bad[0] = 3.0
        with pytest.raises(FlipAborted, match=r"errors .* % against 0 %"):
            publish(3, **how)
        bad[0] = 2.0
        end = time.monotonic() + 20
        while fleet.model("m").generation == 2:
            assert time.monotonic() < end
            stop.wait(0.01)
        status = fleet.model("m")
        assert (status.generation, status.pin, status.watch) == (4, None, None)
        assert fleet.history("m")[0].rollback_of == 1
    finally:
        stop.set()
    for client in clients:
        client.result(20)


# --- without Redis ---------------------------------------------------------------------------------------------------


@contextmanager
def alone(serving: Any, new_fleet: Any, tmp_path: Path) -> Any:
    """A server of its own that a test may end; gives a maker of fleets on it and what ends it."""
    with serving(tmp_path / "own") as url:
        yield lambda **more: new_fleet(url=url, store=tmp_path / "own-store", **more)


@pytest.fixture
def ending(serving: Any, new_fleet: Any, tmp_path: Path) -> Any:
    """ending(use): publishes generation 1 of m (3), calls use(new) while the server lives; it has ended when this returns."""

    def ending(use: Callable[[Callable[..., Fleet]], Any]) -> Any:
        (tmp_path / "own").mkdir(exist_ok=True)
        with alone(serving, new_fleet, tmp_path) as new:
            save_file({"weight": torch.eye(2) * 3, "bias": torch.zeros(2)}, tmp_path / "own.safetensors")
            new().publish("m", tmp_path / "own.safetensors")
            return use(new)

    return ending


def test_without_redis_answers_go_on_and_are_marked(ending: Any, new_cache: NewCache, wait_for: WaitFor) -> None:
    """Promise 5. The lease that is left is used up unmarked: until then nothing newer can have been committed."""

    def use(new: Any) -> ModelCache:
        cache = new_cache(fleet=new())
        assert not cache.get("m").stale
        return cache

    cache = ending(use)
    wait_for(lambda: cache.get("m").stale, description="the lease has run out")
    assert (y(cache.get("m")), cache.get("m").generation) == (3, 1)
    (held,) = cache.use_many("m")
    assert held.stale
    assert cache.why_not_ready() == {}, "a last good answer is an answer here"
    with pytest.raises(NotReady, match="Redis cannot be reached, and this worker holds no generation of it"):
        cache.get("other")


def test_a_fleet_may_rather_fail(ending: Any, new_cache: NewCache, wait_for: WaitFor) -> None:
    def use(new: Any) -> ModelCache:
        cache = new_cache(fleet=new(), settings={"on_disconnect": "fail"})
        cache.get("m")
        return cache

    cache = ending(use)

    def refused() -> bool:
        try:
            return cache.get("m").stale
        except NotReady as error:
            return "Redis cannot be reached" in str(error)

    wait_for(refused)
    assert "stale answers are not wanted" in cache.why_not_ready()["m"]


def test_a_worker_that_starts_without_redis_answers_from_the_last_good_on_its_disk(
    ending: Any, new_cache: NewCache, wait_for: WaitFor, tmp_path: Path
) -> None:
    """Promise 5, the second half: the whole machine was restarted, Redis was not."""
    note = tmp_path / "state" / "last_good" / "t" / "m.json"
    wanted: list[Fleet] = []

    def use(new: Any) -> None:
        cache = new_cache(fleet=new())
        cache.get("m")
        wait_for(note.exists, description="the note is written")
        cache.close()
        wanted.append(new())

    ending(use)
    cache = new_cache(fleet=wanted[0])
    view = cache.get("m")
    assert (view.stale, view.generation, y(view)) == (True, 1, 3)
    assert cache.why_not_ready() == {}
