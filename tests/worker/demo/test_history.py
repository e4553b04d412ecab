"""What follows from a history: hand-made good and bad ones, and the definition itself on small random ones."""

from genlock.worker.demo.history import (
    AFTERMATH_S,
    Accuracy,
    Latency,
    accuracy_by_generation,
    apart,
    impostors,
    order_violations,
    percentile,
)
from genlock.worker.demo.news import Published, Request
from hypothesis import given
from hypothesis import strategies as st


def request(start: float, end: float, generation: int, **more: object) -> Request:
    return Request(start, end, end - start, generation, f"v{generation}", **more)  # type: ignore[arg-type]


def published(generation: int, began: float, ended: float, outcome: str = "committed") -> Published:
    return Published(outcome=outcome, generation=generation, version=f"v{generation}", began=began, ended=ended)


# --- order ---------------------------------------------------------------------------------------------------------------


def test_a_history_in_order_has_no_violation() -> None:
    assert order_violations([request(0, 1, 1), request(2, 3, 1), request(4, 5, 2), request(6, 7, 2)]) == []


def test_an_older_answer_after_a_newer_one_had_ended_is_a_violation() -> None:
    """One worker was left behind: its client gets generation 1 again after somebody else was answered from 2."""
    late = request(3, 4, 1)
    (found,) = order_violations([request(0, 1, 1), request(1, 2, 2), late])
    assert (found.request, found.newer, found.seen) == (late, 2, 2)
    assert "generation 1 1000.0 ms after 2 was seen" in str(found)


def test_requests_that_overlap_may_be_answered_either_way() -> None:
    """The older answer was on its way while the flip happened: it started before the newer one had ended."""
    assert order_violations([request(0, 5, 1), request(1, 2, 2), request(1.5, 3, 1)]) == []


def test_a_request_that_starts_in_the_same_instant_in_which_another_ends_overlaps_it() -> None:
    assert order_violations([request(0, 2, 2), request(2, 3, 1)]) == []


def test_every_late_request_is_counted_against_the_newest_that_was_seen() -> None:
    history = [request(0, 1, 3), request(1, 2, 1), request(2, 3, 2), request(4, 5, 2)]
    assert [(v.request.start, v.newer) for v in order_violations(history)] == [(2, 3), (4, 3)]


def test_the_order_in_which_processes_tell_of_their_requests_does_not_matter() -> None:
    late = request(3, 4, 1)
    assert [v.request for v in order_violations([late, request(1, 2, 2)])] == [late]


def test_a_marked_answer_is_no_violation_and_still_what_others_may_not_fall_behind() -> None:
    """It promises nothing itself, but the generation that it came from had been active."""
    history = [request(0, 1, 2), request(2, 3, 1, stale=True)]
    assert order_violations(history) == []
    assert len(order_violations([request(0, 1, 2, stale=True), request(2, 3, 1)])) == 1


def test_a_failed_request_is_no_answer() -> None:
    assert order_violations([request(0, 1, 2), Request(2, 3, 1.0, error="HTTP 503")]) == []


def test_after_a_publish_has_returned_nobody_is_answered_from_the_one_before() -> None:
    """Nobody else was answered from it yet, and it is a violation all the same: that is what the publisher was promised."""
    history = [request(0, 1, 1), request(3, 4, 1)]
    assert [v.seen for v in order_violations(history, [published(2, 1, 2)])] == [2]
    assert order_violations(history, [published(2, 1, 3.5)]) == []
    assert order_violations(history, [published(2, 1, 2, "rejected")]) == []


def slow(history: list[Request]) -> list[Request]:
    """The definition, word by word: O(n²)."""
    return [
        late
        for late in history
        if late.generation
        and not late.stale
        and any(early.end < late.start and early.generation > late.generation for early in history)
    ]


requests = st.builds(
    lambda start, length, generation, stale: request(start, start + length, generation, stale=stale),
    st.integers(0, 12),
    st.integers(0, 5),
    st.integers(0, 4),
    st.booleans(),
)


@given(st.lists(requests, max_size=25))
def test_one_pass_finds_what_the_definition_finds(history: list[Request]) -> None:
    def key(one: Request) -> tuple[float, float, int, bool]:
        return one.start, one.end, one.generation, one.stale

    assert sorted((v.request for v in order_violations(history)), key=key) == sorted(slow(history), key=key)


# --- who answered ----------------------------------------------------------------------------------------------------------


def test_answers_of_what_was_not_committed_or_of_other_bytes_are_impostors() -> None:
    fine, rejected, other = request(0, 1, 1), request(1, 2, 2), Request(2, 3, 1.0, 1, "v9")
    failed = Request(3, 4, 1.0, error="HTTP 500")
    told = [published(1, 0, 0), published(2, 1, 2, "rejected")]
    assert impostors([fine, rejected, other, failed], told) == [rejected, other]


def test_accuracy_counts_answers_by_generation() -> None:
    history = [request(0, 1, 2, correct=True), request(0, 1, 1), request(1, 2, 2), Request(0, 1, 1.0, error="x")]
    assert list(accuracy_by_generation(history).items()) == [(1, Accuracy(1, 0)), (2, Accuracy(2, 1))]
    assert (Accuracy(2, 1).share, Accuracy().share) == (0.5, 0.0)


# --- how fast --------------------------------------------------------------------------------------------------------------


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1.0)) == (50, 99, 100)
    assert (percentile([7.0], 0.99), percentile([7.0], 0.0), percentile([], 0.99)) == (7, 7, 0)


def test_latency_is_of_answers_only() -> None:
    """A refused connection is quick; it must not make the service look fast."""
    found = Latency.of([request(0, 2, 1), request(0, 4, 1), Request(0, 0.1, 0.1, error="refused")])
    assert found == Latency(2, 2, 4, 4)
    assert Latency.of([]) == Latency(0, 0, 0, 0)


def test_requests_that_overlap_a_publish_are_apart_from_the_others() -> None:
    before, into = request(0, 1, 1), request(1, 3, 1)
    after, long = request(5 + AFTERMATH_S / 2, 6, 2), request(0.5, 9, 1)
    between, waited = request(7, 8, 2), Request(7, 8, 5.0, 2)
    publishes = [published(2, 2, 5), published(3, 20, 21, "rejected")]
    during, others = apart([between, long, after, into, before, waited], publishes)
    assert during == [long, into, waited, after]
    assert others == [before, between]
