"""Who shows no sign of life: a member that died between two flips stays on the list, and people look at the page."""

from genlock.coordinator.admin.silence import Silence
from genlock.coordinator.clock import patience_s
from genlock.coordinator.records import Member

LEASE_S = 3.0
PATIENCE_S = patience_s(LEASE_S)


def member(name: str, beat: int) -> Member:
    return Member(name, beat, (), {})


def saw(silence: Silence, now: float, *members: Member) -> dict[str, float]:
    return dict(silence.saw(members, LEASE_S, now=now, as_of=1000.0 + now))


def test_a_member_whose_beat_stands_still_is_silent_after_as_long_as_a_watcher_waits() -> None:
    """Worker 1 was killed, worker 2 goes on: only 1 is named, with the moment from which its beat was the same."""
    silence = Silence()
    assert saw(silence, 0.0, member("1", 7), member("2", 8)) == {}
    assert saw(silence, PATIENCE_S - 0.1, member("1", 7), member("2", 9)) == {}
    assert saw(silence, PATIENCE_S + 0.1, member("1", 7), member("2", 10)) == {"1": 1000.0}


def test_a_beat_that_comes_after_all_ends_the_silence() -> None:
    """A machine that was stopped for a while goes on: nobody is told any more that its worker is silent."""
    silence = Silence()
    saw(silence, 0.0, member("1", 7))
    assert saw(silence, 10.0, member("1", 7)) == {"1": 1000.0}
    assert saw(silence, 10.5, member("1", 8)) == {}


def test_an_outage_of_redis_makes_nobody_silent() -> None:
    """Redis was away for a minute, and nobody could leave a beat: silence counts from when it is back."""
    silence = Silence()
    saw(silence, 0.0, member("1", 7))
    silence.lost()
    assert saw(silence, 60.0, member("1", 7)) == {}
    assert saw(silence, 60.0 + PATIENCE_S + 0.1, member("1", 7)) == {"1": 1060.0}
