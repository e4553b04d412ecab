"""The figures of one worker: what is counted, that it only grows, and that it stays small."""

from __future__ import annotations

import json
import threading

import pytest
from genlock.worker.counts import MAX_KINDS, OTHERS
from genlock.worker.hitrate import HitRate
from genlock.worker.stats import MAX_NAMES, MAX_WHY, Stats
from genlock.worker.view import Lease, View

UNIX = 1_700_000_000.0


class Clock:
    """Seconds that go on when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stats(clock: Clock) -> Stats:
    return Stats(clock=clock, wall=lambda: UNIX + clock.now, worker="host:7")


def view_of(model: str = "digits", generation: int = 4, uses: int = 0, used_at: float = 0.0) -> View:
    return View(
        model=model,
        payload=None,
        generation=generation,
        version="ab" * 32,
        bytes=100,
        uses=uses,
        used_at=used_at,
    )


def figures(stats: Stats, model: str = "digits") -> dict:
    return stats.detail()["models"][model]


# --- hits
# ----------------------------------------------------------------------------------------------------


def test_uses_are_read_from_the_installed_views(stats: Stats):
    """The hit path calls nothing here: what requests count on a view must be seen without being told."""
    view = view_of()
    stats.installed({"digits": view})
    view.uses += 3
    assert figures(stats)["hits"] == 3
    view.uses += 1
    assert stats.hit_rate() == HitRate(4, 0)


def test_hits_never_fall_when_a_view_is_replaced(stats: Stats):
    """Prometheus takes a counter that falls for a restart, and draws a peak of all hits that there ever
    were.
    """
    seven, eight = view_of(uses=70), view_of(generation=8)
    seen = []
    stats.installed({"digits": seven})
    seen.append(stats.summary()["hits"])
    for after in ({"digits": seven.must_ask()}, {"digits": eight}, {}, {"digits": view_of(uses=2)}):
        stats.installed(after)
        seen.append(stats.summary()["hits"])
    assert seen == [70, 70, 70, 70, 72]
    assert figures(stats)["hits"] == 72


def test_a_view_that_stays_is_not_counted_twice(stats: Stats):
    """A flip of one model replaces the whole map; the views of the others are in both."""
    encoder, ranker = view_of("encoder", uses=5), view_of("ranker", uses=6)
    stats.installed({"encoder": encoder, "ranker": ranker})
    stats.installed({"encoder": encoder, "ranker": ranker.must_ask()})
    assert stats.hit_rate() == HitRate(11, 0)
    assert (figures(stats, "encoder")["hits"], figures(stats, "ranker")["hits"]) == (5, 6)


def test_the_rate_counts_misses(stats: Stats):
    stats.installed({"digits": view_of(uses=3)})
    assert figures(stats)["hit_rate"] == 1.0
    stats.missed("digits")
    assert figures(stats)["hit_rate"] == 0.75
    assert stats.summary()["hit_rate"] == 0.75
    assert (stats.summary()["hits"], stats.summary()["misses"]) == (3, 1)


def test_the_window_forgets_and_the_total_does_not(stats: Stats, clock: Clock):
    stats.installed({"digits": view_of(uses=100)})
    clock.now += 30
    stats.tick()
    clock.now += 61
    stats.missed("digits")
    assert stats.window_hit_rate() == HitRate(0, 1)
    assert stats.hit_rate() == HitRate(100, 1)
    assert stats.summary()["window_hit_rate"] == 0.0


# --- the alarm
# -------------------------------------------------------------------------------------------------


def test_the_alarm_tells_the_rate_once(stats: Stats, clock: Clock):
    """A worker that holds one model too few drops and loads in turns; somebody has to be told, and once."""
    heard: list[HitRate] = []
    stats.alarm(0.9, heard.append)
    stats.installed({"digits": view_of(uses=50)})
    for _ in range(50):
        stats.missed("digits")
    stats.tick()
    stats.tick()
    assert heard == [HitRate(50, 50)]
    clock.now += 1
    stats.tick()
    clock.now += 60
    stats.installed({"digits": view_of(uses=1000)})
    stats.tick()
    for _ in range(500):
        stats.missed("digits")
    stats.tick()
    assert heard == [HitRate(50, 50), HitRate(1000, 500)]


def test_the_alarm_waits_for_enough_uses(stats: Stats):
    heard: list[HitRate] = []
    stats.alarm(0.9, heard.append, least=3)
    stats.missed("digits")
    stats.missed("digits")
    stats.tick()
    assert heard == []
    stats.missed("digits")
    stats.tick()
    assert heard == [HitRate(0, 3)]


def test_an_alarm_that_raises_does_not_stop_the_heartbeat(stats: Stats, caplog: pytest.LogCaptureFixture):
    """The runtime ticks with its heartbeat: a broken webhook in an alarm cost the worker its lease."""
    heard = []

    def broken(rate: HitRate) -> None:
        raise RuntimeError("the webhook is gone")

    stats.alarm(0.9, broken, least=1)
    stats.alarm(0.9, heard.append, least=1)
    stats.missed("digits")
    stats.tick()
    assert heard == [HitRate(0, 1)]
    assert stats.detail()["process"]["hook_errors"] == {"on_low_hit_rate": 1}
    assert "the webhook is gone" in caplog.text


def test_an_alarm_may_read_the_figures(stats: Stats):
    """A callback that asked for the figures waited for the lock that its own caller held."""
    heard = []
    stats.alarm(0.9, lambda rate: heard.append(stats.summary()["misses"]), least=1)
    stats.missed("digits")
    thread = threading.Thread(target=stats.tick, daemon=True)
    thread.start()
    thread.join(timeout=20)
    assert heard == [1]


# --- models
# ----------------------------------------------------------------------------------------------------


def test_loads_by_outcome_and_step(stats: Stats, clock: Clock):
    stats.loaded("digits", steps={"verify": 0.002, "build": 0.02})
    clock.now += 5
    stats.loaded("digits", steps={"build": 0.4}, reload=True)
    stats.load_failed("digits", outcome="failed", step="verify", why="short file")
    stats.load_failed("digits", outcome="bad", step="golden", why="x" * 10_000)
    found = figures(stats)
    assert found["loads"] == {"ok": 2, "failed": 1, "bad": 1}
    assert found["reloads"] == 1
    assert found["loaded_at"] == UNIX + 1005
    assert set(found["load_steps"]) == {"verify", "build"}
    build = found["load_steps"]["build"]
    assert (build["count"], build["last_s"]) == (2, 0.4)
    assert build["sum_s"] == pytest.approx(0.42)
    failure = found["last_load_failure"]
    assert failure == {"at": UNIX + 1005, "outcome": "bad", "step": "golden", "why": "x" * MAX_WHY}
    assert (stats.summary()["loads"], stats.summary()["load_failures"]) == (2, 2)


def test_flips_and_rejections(stats: Stats):
    stats.flipped("digits", phases={"preparing": 0.25, "fencing": 0.004})
    stats.rejected("digits", generation=9, why="NaN in conv1.weight")
    found = figures(stats)
    assert (found["flips"], found["flipped_at"], found["rejected"]) == (1, UNIX + 1000, 1)
    assert found["flip_phases"]["fencing"]["last_s"] == 0.004
    assert found["last_rejection"] == {"at": UNIX + 1000, "generation": 9, "why": "NaN in conv1.weight"}
    assert (stats.summary()["flips"], stats.summary()["rejected"]) == (1, 1)


def test_what_requests_met(stats: Stats):
    stats.asked("digits")
    stats.waited("digits", 0.5)
    stats.answered_stale("digits")
    stats.failed("digits", "not ready")
    found = figures(stats)
    assert (found["asks"], found["stale_answers"], found["errors"]) == (1, 1, 1)
    assert (found["waits"]["count"], found["waits"]["sum_s"]) == (1, 0.5)
    assert found["last_error"] == {"at": UNIX + 1000, "why": "not ready"}
    summary = stats.summary()
    assert (summary["asks"], summary["stale_answers"], summary["errors"]) == (1, 1, 1)


def test_drops_and_invalidations_by_reason(stats: Stats):
    """A dashboard compares reasons: the five of a drop stand there from the beginning, with 0."""
    stats.dropped("digits", "lru_bytes")
    stats.dropped("digits", "lru_bytes")
    stats.invalidated("digits", "operator")
    found = figures(stats)
    assert found["drops"] == {"lru_bytes": 2, "lru_count": 0, "ttl": 0, "clear": 0, "invalidate": 0}
    assert found["invalidations"] == {"operator": 1}
    assert (stats.summary()["drops"], stats.summary()["invalidations"]) == (2, 1)


def test_what_is_active_comes_from_the_view(stats: Stats):
    stats.installed({"digits": view_of(generation=9)})
    found = figures(stats)
    assert (found["generation"], found["version"], found["bytes"]) == (9, "ab" * 32, 100)
    assert (stats.summary()["held"], stats.summary()["bytes"]) == (1, 100)
    stats.installed({})
    found = figures(stats)
    assert (found["generation"], found["version"], found["bytes"]) == (None, None, 0)
    assert stats.summary()["held"] == 0


def test_the_last_use_outlives_the_view(stats: Stats, clock: Clock):
    """Worker's seconds begin at the boot: shown to people, they are unix seconds, also after the model was
    dropped.
    """
    view = view_of(used_at=990.0)
    stats.installed({"digits": view})
    assert figures(stats)["used_at"] == UNIX + 990
    view.used_at = 995.0
    clock.now += 50
    stats.installed({})
    assert figures(stats)["used_at"] == UNIX + 995


def test_a_model_that_was_never_used(stats: Stats):
    unused = View(model="digits", payload=None, generation=1, version="cd" * 32)
    stats.installed({"digits": unused})
    assert figures(stats)["used_at"] is None
    assert figures(stats)["hit_rate"] is None
    stats.installed({})
    assert figures(stats)["used_at"] is None


# --- the process
# -------------------------------------------------------------------------------------------------


def test_redis_calls(stats: Stats):
    stats.redis_called("heartbeat", 0.0002, ok=True)
    stats.redis_called("heartbeat", 1.5, ok=False)
    process = stats.detail()["process"]
    assert process["redis_calls"] == {"heartbeat": {"ok": 1, "failed": 1}}
    assert process["redis_times"]["heartbeat"]["count"] == 2


def test_what_happens_to_the_process(stats: Stats):
    stats.heartbeat()
    stats.heartbeat()
    stats.evicted()
    stats.resubscribed()
    stats.hook_raised("on_flip")
    process = stats.detail()["process"]
    assert (process["heartbeats"], process["evictions"], process["resubscriptions"]) == (2, 1, 1)
    assert process["hook_errors"] == {"on_flip": 1}
    assert stats.summary()["evictions"] == 1


def test_an_epoch_counts_when_it_changes(stats: Stats):
    """Every heartbeat hears the epoch; what an operator wants to see is how often Redis lost data."""
    assert stats.detail()["process"]["epoch"] is None
    for number in (5, 5, 6, 6):
        stats.epoch_seen(number)
    process = stats.detail()["process"]
    assert (process["epoch"], process["epochs"]) == (6, 2)


def test_time_that_is_left(stats: Stats, clock: Clock):
    lease = Lease()
    assert stats.summary()["lease_s"] == 0.0
    stats.lease = lease
    assert stats.summary()["lease_s"] == 0.0
    lease.extend(1002.5)
    assert stats.summary()["lease_s"] == 2.5
    clock.now += 10
    assert (stats.summary()["lease_s"], stats.summary()["uptime_s"]) == (0.0, 10.0)


# --- limits and values
# -------------------------------------------------------------------------------------------


def test_names_out_of_requests_are_bounded(stats: Stats):
    """Somebody asked for a million models that do not exist; the figures of each were kept and exported
    for ever.
    """
    for number in range(MAX_NAMES + 300):
        stats.missed(f"m{number}")
    models = stats.detail()["models"]
    assert len(models) == MAX_NAMES + 1
    assert models[OTHERS]["misses"] == 300
    assert stats.summary()["misses"] == MAX_NAMES + 300
    stats.installed({"late": view_of("late", uses=1)})
    stats.missed("late")
    assert (figures(stats, "late")["hits"], figures(stats, "late")["misses"]) == (1, 1)


def test_kinds_are_bounded(stats: Stats):
    """A reason with a number in it (`invalidate("digits", "job 4711")`) made a new time series every
    minute.
    """
    for number in range(MAX_KINDS + 9):
        stats.redis_called(f"call{number}", 0.1, ok=True)
        stats.loaded("digits", steps={f"step{number}": 0.1})
    assert stats.detail()["process"]["redis_calls"][OTHERS] == {"ok": 9, "failed": 0}
    assert figures(stats)["load_steps"][OTHERS]["count"] == 9


def test_figures_are_json_and_apart_from_what_goes_on(stats: Stats):
    """A dictionary that still changed while it was written ended in "dictionary changed size during
    iteration".
    """
    stats.installed({"digits": view_of(uses=1)})
    stats.loaded("digits", steps={"build": 0.1})
    stats.redis_called("join", 0.1, ok=True)
    before = stats.detail()
    text = json.dumps(before, allow_nan=False)
    stats.loaded("digits", steps={"warm_up": 0.1})
    stats.dropped("digits", "ttl")
    stats.redis_called("join", 0.1, ok=False)
    stats.hook_raised("on_flip")
    assert json.dumps(before, allow_nan=False) == text
    assert (
        stats.summary().items() <= {k: v for k, v in stats.detail().items() if k not in ("process", "models")}.items()
    )


def test_counts_from_many_threads_add_up(stats: Stats):
    """Misses, waits and loads come from requests and from the runtime at once."""
    start = threading.Barrier(4)

    def request() -> None:
        start.wait(timeout=20)
        for _ in range(200):
            stats.missed("digits")
            stats.waited("digits", 0.001)
            stats.heartbeat()

    threads = [threading.Thread(target=request) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert figures(stats)["misses"] == figures(stats)["waits"]["count"] == 800
    assert stats.detail()["process"]["heartbeats"] == 800


def test_uses_of_an_installed_stale_view_are_stale_answers(stats: Stats):
    """With Redis gone the fast path answers from stale views: an alert on stale answers has to see them, and no count may fall."""
    stale = View(model="digits", payload=None, generation=4, version="ab" * 32, stale=True)
    stats.installed({"digits": stale})
    stale.uses += 5
    stats.answered_stale("digits")
    assert (figures(stats)["stale_answers"], stats.summary()["stale_answers"]) == (6, 6)
    stats.installed({"digits": view_of(uses=1)})
    assert (figures(stats)["stale_answers"], stats.summary()["stale_answers"]) == (6, 6)


# --- what is more than a count ---------------------------------------------------------------------------------------


def test_a_spell_of_stale_answers_is_told_when_it_turns_out_to_be_mixed(stats: Stats, clock: Clock):
    """Redis was gone, the fleet flipped, this worker was the last to hear: for how long at most did it answer from the one before?"""
    lease = Lease()
    stats.installed({"digits": view_of().as_stale()})
    clock.now += 4
    stats.installed({"digits": view_of(generation=5).under(lease)})
    assert figures(stats)["mixed"]["sum_s"] == 4
    assert figures(stats)["mixed"]["count"] == 1
    assert figures(stats)["stale"] is False


def test_what_was_dropped_while_stale_tells_nothing_later(stats: Stats, clock: Clock):
    """Nobody was answered from it meanwhile."""
    stats.installed({"digits": view_of().as_stale()})
    assert figures(stats)["stale"] is True
    stats.installed({})
    assert figures(stats)["stale"] is None
    clock.now += 3600
    stats.installed({"digits": view_of(generation=5).under(Lease())})
    assert figures(stats)["mixed"]["count"] == 0


def test_an_alarm_stands_in_the_figures(stats: Stats):
    """The callback may be nobody's: Prometheus rings from the gauge, and counts how often it came."""
    assert (stats.summary()["hit_rate_threshold"], stats.summary()["hit_rate_low"]) == (None, None)
    stats.alarm(0.5, lambda rate: None, least=1)
    stats.tick()
    assert (stats.summary()["hit_rate_threshold"], stats.summary()["hit_rate_low"]) == (0.5, False)
    stats.missed("digits")
    for _ in range(2):
        stats.tick()
    assert (stats.summary()["hit_rate_low"], stats.summary()["hit_rate_alarms"]) == (True, 1)


def test_redis_is_up_as_of_the_last_call(stats: Stats):
    assert stats.detail()["process"]["redis_up"] is None
    for ok in (True, False, True):
        stats.redis_called("ask", 0.001, ok=ok)
        assert stats.detail()["process"]["redis_up"] is ok
