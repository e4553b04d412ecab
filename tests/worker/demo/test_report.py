"""The report: every broken promise is said, and nothing else is."""

import json

from genlock.worker.demo.board import Board, Plan
from genlock.worker.demo.news import Published, Request
from genlock.worker.demo.report import Memory, Report

PLAN = Plan(seconds=6, workers=2, clients=2, epochs=2)
PHASES = {"stage": 0.004, "prepare": 0.02, "fence": 0.003, "total": 0.03}


def request(start: float, generation: int, latency: float = 0.01, **more: object) -> Request:
    return Request(start, start + latency, latency, generation, f"v{generation}", "h:1", **more)  # type: ignore[arg-type]


def committed(generation: int, at: float, workers: int = 2) -> Published:
    return Published(
        outcome="committed",
        what=f"epoch {generation}",
        began=at,
        ended=at + 0.03,
        generation=generation,
        version=f"v{generation}",
        seconds=PHASES,
        workers=workers,
    )


NAN = Published(
    outcome="rejected", what="full of NaN", broken=True, began=13, ended=13.1, generation=3, version="v3", why="nan"
)
HALF = Published(outcome="refused", what="truncated file", broken=True, began=13.2, ended=13.3, why="short")
GOOD = [committed(1, 5.0, workers=0), committed(2, 11.0), NAN, HALF, committed(4, 15.0)]
ANSWERS = [request(9.9, 1), request(10.5, 1), request(11.02, 2, 0.02), request(12, 2), request(16, 4, correct=True)]


def report(requests: list[Request] = ANSWERS, published: list[Published] = GOOD) -> Report:
    board = Board(PLAN, 0.0, start=10.0)
    for news in (*requests, *published):
        board.hear(news, 20.0)
    return Report(board, Memory(first=100, last=200))


def test_a_good_run_keeps_every_promise() -> None:
    found = report()
    assert (found.ok, found.broken) == (True, [])
    assert all(not promise.broken and promise.measured for promise in found.promises)
    assert [p.generation for p in found.flips] == [2, 4]


def test_the_json_has_the_names_that_are_promised() -> None:
    found = json.loads(json.dumps(report().as_json()))
    counts = {
        name: found[name] for name in ("requests", "errors", "stale", "order_violations", "generations", "rejected")
    }
    assert counts == {"requests": 5, "errors": 0, "stale": 0, "order_violations": 0, "generations": 3, "rejected": 2}
    assert found["p99_ratio"] == 2
    assert found["answers"]["4"] == {"answers": 1, "correct": 1, "accuracy": 1.0}
    assert found["flips"][0] == {"generation": 2, "version": "v2", "what": "epoch 2", "workers": 2, "seconds": PHASES}
    assert [row["what"] for row in found["rejections"]] == ["full of NaN", "truncated file"]
    assert found["latency"]["during_flips"] == {"requests": 1, "p50_s": 0.02, "p99_s": 0.02, "worst_s": 0.02}
    assert found["memory"] == {"pss_bytes": 200, "pss_bytes_first": 100}
    assert (found["seconds"], found["workers"], found["clients"], found["ok"], found["broken"]) == (6, 2, 2, True, [])


def test_requests_before_the_plan_began_count_for_everything_but_speed() -> None:
    """Connections are opened while workers still warm up: slow, and no fault; an older answer would be one all the same."""
    found = report([request(9.0, 1, 0.9), *ANSWERS])
    assert sum(latency.count for latency in found.latencies) == 4
    assert found.accuracies[1].answers == 3


def broken_of(**changes: list[object]) -> str:
    found = report(**changes)  # type: ignore[arg-type]
    assert not found.ok
    assert found.as_json()["ok"] is False
    return "\n".join(found.broken)


def test_an_older_answer_after_a_newer_one_breaks_a_promise() -> None:
    said = broken_of(requests=[*ANSWERS, request(17, 2)])
    assert said.startswith("1 answers from an older generation after a newer one was seen; the first: a request")


def test_a_marked_answer_breaks_a_promise_while_redis_is_there() -> None:
    assert "1 answers marked stale" in broken_of(requests=[*ANSWERS, request(17, 4, stale=True)])


def test_a_failed_request_breaks_a_promise_and_says_how_it_failed() -> None:
    said = broken_of(requests=[*ANSWERS, Request(17, 18, 1.0, error="HTTP 503: not ready")])
    assert said == "1 requests failed; the first: HTTP 503: not ready"


def test_the_promise_about_requests_is_named_after_what_is_checked() -> None:
    """It was "Nobody waits", and ticked with a p99 of a minute."""
    slow = report([*ANSWERS, request(17, 4, 60.0)])
    (promise,) = [one for one in slow.promises if "p99" in one.measured]
    assert (promise.name, promise.broken) == ("No request fails", ())
    assert promise.measured.startswith("0 of 6; p99 ")


def test_a_rejected_candidate_that_answers_breaks_a_promise() -> None:
    said = broken_of(requests=[*ANSWERS[:-1], request(14, 3), ANSWERS[-1]])
    assert "1 answers from what was never committed; the first: Request(" in said


def test_a_broken_checkpoint_that_is_committed_breaks_a_promise() -> None:
    taken = Published(
        outcome="committed", what="full of NaN", broken=True, generation=3, version="v3", ended=14, workers=2
    )
    said = broken_of(published=[GOOD[0], GOOD[1], taken, HALF, GOOD[4]])
    assert said == "a broken checkpoint (full of NaN) became generation 3"


def test_a_good_checkpoint_that_is_rejected_breaks_a_promise() -> None:
    lost = Published(outcome="rejected", what="epoch 4", generation=4, worker="h:1", step="golden", why="differs")
    said = broken_of(requests=ANSWERS[:-1], published=[*GOOD[:-1], lost])
    assert said == "epoch 4 was rejected by h:1 (golden): differs"


def test_a_checkpoint_that_was_never_published_breaks_a_promise() -> None:
    said = broken_of(requests=ANSWERS[:-1], published=GOOD[:-1])
    assert said == "2 of 3 checkpoints were published"


def test_a_worker_that_did_not_change_breaks_a_promise() -> None:
    said = broken_of(published=[*GOOD[:-1], committed(4, 15.0, workers=1)])
    assert said == "generation 4 had 1 of 2 workers change to it"


def test_a_run_in_which_nothing_happened_proves_nothing() -> None:
    found = report([], [])
    assert found.broken == [
        "there was no answer to judge by",
        "0 of 3 checkpoints were published",
        "no broken checkpoint was tried",
    ]
    assert found.p99_ratio is None
    assert found.as_json()["p99_ratio"] is None


def test_a_board_whose_clock_never_began_has_no_speed() -> None:
    assert sum(latency.count for latency in Report(Board(PLAN, 0.0), Memory()).latencies) == 0
