"""The hit rate, its window and the alarm: by values, with time as a number."""

from __future__ import annotations

import pytest
from genlock.worker.hitrate import SAMPLE_S, WINDOW_S, Alarm, HitRate, Window


def test_a_rate_without_uses_is_unknown():
    """A fresh worker reported a hit rate of 0 and rang every alarm before its first request."""
    assert HitRate(0, 0).value is None
    assert HitRate(3, 1).value == 0.75
    assert HitRate(3, 1).uses == 4
    assert HitRate(9, 4).since(HitRate(3, 1)) == HitRate(6, 3)


def test_a_young_window_is_the_whole_time():
    window = Window(100.0)
    assert window.sample(100.0, HitRate(8, 2)) == HitRate(8, 2)
    assert window.sample(130.0, HitRate(18, 2)) == HitRate(18, 2)


def test_a_window_forgets_what_is_older():
    """A day of hits hid an hour of misses: the rate of all time stayed high while every request was slow."""
    window = Window(0.0)
    window.sample(10.0, HitRate(1_000_000, 0))
    window.sample(50.0, HitRate(1_000_050, 0))
    now = 10.0 + WINDOW_S
    assert window.sample(now, HitRate(1_000_050, 50)) == HitRate(50, 50)
    assert window.sample(50.0 + WINDOW_S, HitRate(1_000_050, 90)) == HitRate(0, 90)


def test_a_window_covers_at_least_its_length():
    """With samples at 0 and 59 s, one at 61 s must not shrink the window to the two seconds since 59."""
    window = Window(0.0)
    window.sample(59.0, HitRate(10, 0))
    assert window.sample(61.0, HitRate(12, 0)) == HitRate(12, 0)
    assert window.sample(59.0 + WINDOW_S, HitRate(15, 0)) == HitRate(5, 0)


def test_a_window_keeps_a_bounded_number_of_samples():
    """Every scrape and every heartbeat samples; a dashboard that asked a hundred times a second filled the
    memory.
    """
    window = Window(0.0)
    for step in range(20_000):
        window.sample(step * 0.01, HitRate(step, 0))
    assert len(window._samples) <= WINDOW_S / SAMPLE_S + 2
    assert window.sample(200.0, HitRate(20_000, 0)).hits == pytest.approx(6_000, abs=110)


def rates(*values: tuple[int, int]) -> list[HitRate]:
    return [HitRate(hits, misses) for hits, misses in values]


def test_an_alarm_rings_once_until_it_recovers():
    """A page every second for one incident gets the alarm switched off; silence at the second incident is
    worse.
    """
    alarm = Alarm(0.9, lambda rate: None, least=100)
    heard = [alarm.rings(r) for r in rates((100, 0), (80, 20), (50, 50), (95, 5), (89, 11), (10, 90))]
    assert heard == [False, True, False, False, True, False]


def test_the_threshold_itself_is_not_below():
    assert not Alarm(0.9, print, least=1).rings(HitRate(90, 10))
    assert Alarm(0.9, print, least=1).rings(HitRate(89, 11))


def test_too_few_uses_decide_nothing():
    """At night three requests miss: no alarm. Three that hit do not end one either, or it rings again at
    the fourth.
    """
    alarm = Alarm(0.9, print, least=100)
    assert not alarm.rings(HitRate(0, 99))
    assert not alarm.rings(HitRate(0, 0))
    assert alarm.rings(HitRate(0, 100))
    assert not alarm.rings(HitRate(99, 0))
    assert not alarm.armed
    assert not alarm.rings(HitRate(0, 100))
