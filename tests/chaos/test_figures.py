"""The figures of a run, from histories made by hand."""

from __future__ import annotations

from chaos.figures import silence_s, summary_of, to_converge_s
from chaos.history import Answer, History, Injection, Proposal

LEASE_S = 0.3


def answers(moments: list[float], **more: object) -> list[Answer]:
    usual = {"service": "a", "worker": "w", "generation": 1, "version": "v1", "content": 1}
    return [Answer(start=at - 0.25, end=at, **(usual | more)) for at in moments]  # type: ignore[arg-type]


def test_the_silence_is_the_longest_time_in_which_nobody_is_answered() -> None:
    """Errors are no answers."""
    found = [*answers([1.0, 2.0, 2.5]), *answers([1.5], generation=0, error="HTTP 500: ")]
    assert silence_s(found, since=0.75) == 1.0
    assert silence_s(found, since=-1.0) == 2.0, "nobody was answered at first"
    assert silence_s([], since=1.0) == 0.0


def test_it_takes_until_the_last_answer_that_was_not_as_it_should_be() -> None:
    """From the end of the fault; a fault that nobody noticed takes no time."""
    fault = Injection(kind="x", began=1.0, ended=2.0)
    assert to_converge_s(fault, [*answers([1.5, 2.75], stale=True), *answers([3.0])]) == 0.75
    assert to_converge_s(fault, answers([1.5], stale=True)) == 0.0


def test_each_answer_counts_for_the_fault_before_it_and_one_under_way_for_the_fault_that_it_meets() -> None:
    """Two faults of one kind and one of another; a violation is counted where it happened."""
    proposals = [
        Proposal(began=0, ended=9, content=n, version=f"v{n}", generation=n, outcome="committed") for n in (1, 2)
    ]
    newer = answers([6.5], generation=2, version="v2", content=2, worker="w2")
    history = History(
        answers=[*answers([0.5, 1.125, 2.0, 5.0]), *answers([3.0], stale=True), *newer, *answers([7.0])],
        proposals=proposals,
        injections=[
            Injection(kind="stop", began=1.0, ended=1.5),
            Injection(kind="kill", began=6.0, ended=6.1),
            Injection(kind="stop", began=4.0, ended=4.5),
        ],
        lease_s=LEASE_S,
    )
    summary = summary_of(history)
    stop, kill = (next(k for k in summary.kinds if k.kind == kind) for kind in ("stop", "kill"))
    assert (stop.injections, stop.checked, stop.stale, stop.most_stale) == (2, 4, 1, 1)
    assert (kill.injections, kill.checked, kill.violations) == (1, 2, {1: 1})
    assert stop.longest_to_converge_s == 1.5 and stop.violations == {}
    assert (summary.checked, summary.answered, summary.injections, len(summary.violations)) == (7, 7, 3, 1)
    assert summary.generations == 2 and summary.proposals == {"committed": 2}


def test_what_the_next_fault_does_to_a_request_is_not_put_down_to_the_one_before() -> None:
    """Seen: once in a hundred losses of data a fleet seemed to need a second to come to rest: a request that began in peace was answered
    during the next loss, and marked."""
    under_way = Answer(start=2.5, end=3.25, service="a", worker="w", generation=1, version="v1", content=1, stale=True)
    history = History(
        answers=[*answers([1.5]), under_way, *answers([4.0])],
        proposals=[Proposal(began=0, ended=9, content=1, version="v1", generation=1, outcome="committed")],
        injections=[Injection(kind="first", began=1.0, ended=1.0), Injection(kind="second", began=3.0, ended=3.0)],
        lease_s=LEASE_S,
    )
    first, second = summary_of(history).kinds
    assert (first.longest_to_converge_s, first.stale, first.checked) == (0.0, 0, 1)
    assert (second.longest_to_converge_s, second.stale, second.checked) == (0.25, 1, 2)
