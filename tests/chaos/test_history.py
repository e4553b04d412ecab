"""Hand-made histories, good and bad: the checker finds every broken promise, and none where there is none."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from chaos.history import TORN, Answer, Blackout, History, Injection, Proposal, violations

LEASE_S = 0.3


def answer(start: float, generation: int, *, took: float = 0.01, worker: str = "w1", **more: Any) -> Answer:
    """Of a checkpoint with the number of its generation, unless said otherwise."""
    usual = {"version": f"v{generation}", "content": generation} if generation else {}
    return Answer(start=start, end=start + took, service="a", worker=worker, generation=generation, **(usual | more))


def commit(number: int, began: float, ended: float, **more: Any) -> Proposal:
    usual = {"content": number, "version": f"v{number}", "generation": number, "outcome": "committed"}
    return Proposal(began=began, ended=ended, **(usual | more))


def fault(began: float, ended: float, **more: Any) -> Injection:
    return Injection(kind="fault", began=began, ended=ended, until=ended + 1, **more)


def history(*answers: Answer, **more: Any) -> History:
    """Generations 1 to 3 were published before everything, unless said otherwise."""
    usual = {"proposals": [commit(n, -1.0, -0.9) for n in (1, 2, 3)], "lease_s": LEASE_S}
    if answers and "proposals" not in more:  # published, but known to nobody when the answers began
        usual["proposals"] = [commit(n, -1.0, 99.0) for n in (1, 2, 3)]
    return History(answers=answers, **(usual | more))


def promises(found: History) -> list[int]:
    return [violation.promise for violation in violations(found)]


GOOD = {
    "nothing": history(),
    "one after the other": history(answer(1, 1), answer(2, 2), answer(3, 2), answer(4, 3)),
    "at the same time either will do": history(
        answer(1, 1, took=1), answer(1.5, 2, took=1), answer(1.9, 1), proposals=[commit(1, 0, 0.1), commit(2, 1.0, 5.0)]
    ),
    "older, but marked": history(answer(1, 2), answer(2, 1, worker="w2", stale=True)),
    "older, and the publish has not returned": history(answer(1, 1), proposals=[commit(1, 0, 0.1), commit(2, 0.5, 3)]),
    "a connection that broke with its process": history(
        answer(1, 0, error="ConnectionResetError: gone"), injections=[fault(0.9, 1.1, kills=True)]
    ),
    "unmarked in the dark, within the lease": history(answer(1.2, 1), blackouts=[Blackout("a", 1.0, 3.0)]),
    "marked in the dark": history(answer(2, 1, stale=True), blackouts=[Blackout("a", 1.0, 3.0)]),
    "another service's dark": history(answer(2, 1), blackouts=[Blackout("b", 1.0, 3.0)]),
    "a trainer that died, and whose proposal was committed": history(
        answer(1, 4), proposals=[commit(4, 0, 0.5, generation=0, outcome="died")], committed=frozenset({(4, "v4")})
    ),
    "a failover forgets what was answered": history(
        answer(1, 2), answer(4, 1, worker="w2"), injections=[fault(2, 3, forgets=True)]
    ),
    "a commit that was lost with the server before a worker heard of it": history(
        answer(3, 1),
        proposals=[commit(1, 0, 0.1), commit(2, 1.0, 1.1)],
        injections=[fault(1.2, 1.3, loses=True)],
    ),
}

BAD = {
    "a connection that broke when another service was struck": (
        5,
        history(
            answer(1, 0, error="ConnectionResetError: gone"), injections=[fault(0.9, 1.1, kills=True, service="b")]
        ),
    ),
    "older after newer, in another worker": (1, history(answer(1, 2), answer(2, 1, worker="w2"))),
    "older after a publish had returned": (1, history(answer(2, 1), proposals=[commit(1, 0, 0.1), commit(2, 0.5, 1)])),
    "older after a marked newer one": (1, history(answer(1, 2, stale=True), answer(2, 1, worker="w2"))),
    "unmarked long after it was cut off": (1, history(answer(1.4, 1), blackouts=[Blackout("a", 1.0, 3.0)])),
    "torn": (1, history(answer(1, 1, content=TORN))),
    "broken, and served": (3, history(answer(1, 4), proposals=[commit(4, 0, 9, broken=True)])),
    "never published": (3, history(answer(1, 7))),
    "answered before it was published": (3, history(answer(1, 2), proposals=[commit(2, 1.5, 2)])),
    "published, rejected, and served": (3, history(answer(1, 4), proposals=[commit(4, 0, 0.5, outcome="rejected")])),
    "another number than it was committed under": (3, history(answer(1, 5, version="v2", content=2))),
    "a worker that goes back, though marked": (4, history(answer(1, 2), answer(2, 1, stale=True))),
    "a worker that goes back after a failover": (
        4,
        history(answer(1, 2), answer(4, 1), injections=[fault(2, 3, forgets=True)]),
    ),
    "refused": (5, history(answer(1, 0, error="HTTP 503: no generation"))),
    "refused while a process was killed": (
        5,
        history(answer(1, 0, error="HTTP 500: "), injections=[fault(0.9, 1.1, kills=True)]),
    ),
    "not answered in time": (5, history(answer(1, 0, took=10, error="TimeoutError: "))),
    "a connection that broke for nothing": (5, history(answer(1, 0, error="ConnectionResetError: gone"))),
    "the wrong bytes under a version": (6, history(answer(1, 2, content=3))),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_allowed_is_no_violation(name: str) -> None:
    """A checker that cries wolf is switched off."""
    assert violations(GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_what_is_promised_is_checked(name: str) -> None:
    """Each history breaks one promise, which is named."""
    promise, found = BAD[name]
    assert set(promises(found)) == {promise}


def test_a_commit_that_workers_could_hear_of_counts_even_if_the_server_dies_later() -> None:
    """A lease after the publish has returned somebody has heard: losing the server's memory then excuses nothing."""
    found = history(
        answer(3, 1),
        proposals=[commit(1, 0, 0.1), commit(2, 1.0, 1.1)],
        injections=[fault(2.0, 2.1, loses=True)],
    )
    assert promises(found) == [1]


def test_order_is_checked_on_either_side_of_what_was_forgotten() -> None:
    """A failover excuses what reaches over it, not what happens after it."""
    answers = answer(1, 3), answer(5, 2, worker="w2"), answer(6, 1, worker="w3")
    assert promises(history(*answers, injections=[fault(2, 3, forgets=True)])) == [1]


def test_order_is_checked_between_two_losses_of_memory() -> None:
    """Seen in the checker itself: what lay between two failovers was measured by the last one's end, and never looked at."""
    answers = answer(5, 3), answer(6, 2, worker="w2")
    faults = [fault(2, 2.5, forgets=True), fault(9, 9.5, forgets=True)]
    assert promises(history(*answers, injections=faults)) == [1]


def test_a_history_that_a_register_made_is_good_and_one_moved_answer_is_found() -> None:
    """A register that is read at some moment between start and end of each request: no such history is refused. Moving one answer by more
    than its own length past a commit always is."""
    chance = random.Random(5)
    commits = [float(n) for n in range(1, 200)]
    answers = []
    for n in range(4000):
        start = chance.uniform(1, 190)
        end = start + chance.expovariate(20)
        answers.append(answer(start, int(chance.uniform(start, end)), took=end - start, worker=f"w{n}"))
    published = [commit(int(moment), moment - 0.5, moment) for moment in commits]
    assert violations(history(*answers, proposals=published)) == []
    for victim in chance.sample(range(len(answers)), 50):
        moved = list(answers)
        found = moved[victim]
        moved[victim] = answer(found.end + 1.1, found.generation, worker="moved")
        assert promises(history(*moved, proposals=published)) == [1]


def test_a_hundred_thousand_answers_are_checked_in_seconds() -> None:
    """O(n log n): twice as many take little more than twice as long, not four times."""

    def seconds(count: int) -> float:
        answers = [answer(n / 1000, 1 + n // 50, worker=f"w{n % 8}") for n in range(count)]
        proposals = [commit(n, n * 0.05 - 0.06, n * 0.05 + 9) for n in range(1, count // 50 + 2)]
        dark = [Blackout("a", n / 10, n / 10 + 0.05) for n in range(count // 100)]
        began = time.process_time()
        assert violations(history(*answers, proposals=proposals, blackouts=dark)) == []
        return time.process_time() - began

    small, large = seconds(25_000), seconds(100_000)
    assert large < 8 * small and large < 20
