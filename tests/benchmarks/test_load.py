"""The load generator's arithmetic: it decides what a stall looks like in the figures."""

import pytest

from benchmarks.load import Answer, Response, Schedule, violations

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


def answer(sent: float, done: float, generation: int, *, status: int = 200, stale: bool = False) -> Answer:
    return Answer(sent, sent, done, status, generation, stale)


def test_an_older_answer_after_a_newer_one_is_found() -> None:
    """A request that was sent after another had ended with generation 2 gets 1."""
    assert violations([answer(0.0, 1.0, 2), answer(1.5, 2.0, 1)]) == 1


@pytest.mark.parametrize(
    "second", [answer(0.5, 2.0, 1), answer(1.5, 2.0, 1, stale=True), answer(1.5, 2.0, 0, status=503)]
)
def test_what_is_allowed_is_no_violation(second: Answer) -> None:
    """Sent before the other ended; marked as stale; an error."""
    assert violations([answer(0.0, 1.0, 2), second]) == 0


def test_latency_counts_from_when_a_request_was_due() -> None:
    """It was due at 1 s, could be sent at 2 s, and was answered at 2.5 s: a user has waited for 1.5 s."""
    late = Answer(due=1.0, sent=2.0, done=2.5, status=200, generation=1, stale=False)
    assert late.ms == 1500
    assert not late.is_error
    assert answer(0.0, 1.0, 0, status=0).is_error
