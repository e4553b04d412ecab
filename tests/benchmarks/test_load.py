"""The load generator's arithmetic: it decides what a stall looks like in the figures."""

import pytest

from benchmarks.load import Answer, Plan, Response, Schedule, Work, turns

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Genlock-Generation: 7\r\n\r\n"


def test_requests_are_due_at_a_constant_rate() -> None:
    """Nothing is due early, and nothing twice."""
    schedule = Schedule(100.0, 10.0)
    assert schedule.due(99.9) is None
    assert schedule.due(100.0) == 100.0
    assert schedule.due(100.05) is None
    assert schedule.next_at(100.05) == pytest.approx(100.1)
    assert schedule.due(100.1) == pytest.approx(100.1)


def test_a_stall_does_not_take_requests_off_the_schedule() -> None:
    """A server stands still for a second. Ten requests were due meanwhile; each counts from when it was, or nobody sees that second."""
    schedule = Schedule(0.0, 10.0)
    assert schedule.due(0.0) == 0.0
    late = [schedule.due(1.05) for _ in range(10)]
    assert late == pytest.approx([0.1 * n for n in range(1, 11)])
    assert schedule.due(1.05) is None


def test_a_closed_loop_is_always_due() -> None:
    """Without a rate there is no schedule to be late for."""
    schedule = Schedule(0.0, None)
    assert [schedule.due(now) for now in (1.0, 1.0, 2.0)] == [1.0, 1.0, 2.0]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_response_comes_in_pieces(size: int) -> None:
    """A socket gives what has arrived; a head or a body that was cut is not the end of a response."""
    response, data = Response(), HEAD + b"01234"
    pieces = [data[n : n + size] for n in range(0, len(data), size)]
    assert [response.take(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert (response.status, response.generation, response.stale, response.body) == (200, 7, False, b"01234")


def test_a_response_may_be_an_error_without_a_generation() -> None:
    """A refusal has neither; it must not look like an answer from generation 0 that was right."""
    response = Response()
    assert response.take(b"HTTP/1.1 503 Service Unavailable\r\nX-Genlock-Stale: 1\r\nContent-Length: 0\r\n\r\n")
    assert (response.status, response.generation, response.stale) == (503, 0, True)


def test_turns_go_there_and_back_until_each_plan_has_had_its_time() -> None:
    """What changes evenly while it is measured, such as a machine that warms up, meets both apps alike."""
    plans = [Plan("socket", "/", "", None, seconds) for seconds in (1.0, 1.0)]
    assert list(turns(Work(plans, 0.5))) == [(0, 0.5), (1, 0.5), (1, 0.5), (0, 0.5)]
    assert list(turns(Work(plans[:1]))) == [(0, 1.0)], "one plan without turns is asked in one go"


def test_latency_counts_from_when_a_request_was_due() -> None:
    """It was due at 1 s, could be sent at 2 s, and was answered at 2.5 s: a user has waited for 1.5 s."""
    late = Answer(due=1.0, start=2.0, end=2.5, status=200, generation=1, stale=False)
    assert late.ms == 1500
    assert not late.is_error
    assert late._replace(status=0).is_error
