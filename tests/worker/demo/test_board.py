"""The board: what was heard, as those who show it want it."""

from genlock.worker.demo.board import RECENT_S, Board, Plan
from genlock.worker.demo.history import Accuracy
from genlock.worker.demo.news import Connected, Published, Publishing, Request, Trained

PLAN = Plan(seconds=30, workers=4, clients=8, epochs=12)


def request(end: float, generation: int, worker: str = "h:1", **more: object) -> Request:
    return Request(end - 0.01, end, 0.01, generation, "v", worker, **more)  # type: ignore[arg-type]


def test_it_counts_what_clients_see() -> None:
    board = Board(PLAN, 100.0)
    for news in (request(101, 1, correct=True), request(102, 1, stale=True), Request(102, 103, 1.0, error="HTTP 500")):
        board.hear(news, 103.0)
    assert (len(board.requests), board.errors, board.stale) == (3, 1, 1)
    assert board.accuracies == {1: Accuracy(2, 1)}


def test_a_batch_that_is_told_late_does_not_turn_a_worker_back() -> None:
    """Two client processes tell in batches: the older answer may be told after the newer one, and the view would show a step back."""
    board = Board(PLAN, 100.0)
    for news in (request(105, 2), request(104, 1), request(103, 1, "h:2")):
        board.hear(news, 106.0)
    assert board.generations == {"h:1": 2, "h:2": 1}


def test_recent_figures_forget() -> None:
    board = Board(PLAN, 0.0)
    for tenth in range(100):
        board.hear(request(tenth / 10, 1), tenth / 10)
    rate, latency = board.recent(10.0)
    assert latency.count == RECENT_S * 10
    assert 9 < rate < 11
    assert board.recent(100.0)[0] == 0
    assert len(board.requests) == 100


def test_connections_of_all_processes_add_up() -> None:
    board = Board(PLAN, 0.0)
    board.hear(Connected(4), 1.0)
    board.hear(Connected(4), 1.1)
    assert board.connected == 8


def test_what_becomes_of_publishes_is_noted_with_its_time() -> None:
    board = Board(PLAN, 100.0)
    phases = {"stage": 0.004, "prepare": 0.02, "fence": 0.003, "total": 0.03, "propose": 0.001}
    told = [
        Published(outcome="committed", what="epoch 1", generation=1),
        Published(outcome="committed", what="epoch 2", generation=2, workers=4, seconds=phases),
        Published(
            outcome="rejected", what="full of NaN", broken=True, generation=3, worker="h:7", step="check", why="nan"
        ),
        Published(
            outcome="refused", what="truncated file", broken=True, worker="the publisher", step="staging", why="short"
        ),
    ]
    for second, news in enumerate(told):
        board.hear(Publishing(news.what), 101.0 + second)
        assert board.now == f"publishing: {news.what}"
        board.hear(news, 101.0 + second)
        assert board.now == board.notes[-1][1]
    assert board.notes == [
        (1.0, "epoch 1 is generation 1; nobody holds the model yet"),
        (2.0, "epoch 2 is generation 2: 4 workers changed together (stage 4, prepare 20, fence 3, total 30 ms)"),
        (3.0, "full of NaN: rejected by h:7 (check): nan"),
        (4.0, "truncated file: refused by the publisher (staging): short"),
    ]
    assert (board.committed, board.kept_out, board.numbered) == (told[:2], told[2:], told[:3])
    assert [p.as_promised for p in told] == [True] * 4


def test_training_is_what_goes_on() -> None:
    board = Board(PLAN, 0.0)
    board.hear(Trained(3, 0.5, 0.9361), 1.0)
    assert board.now == "epoch 3 is trained: the trainer reads 93.6% of the held-out digits"
    assert board.notes == []


def test_the_clock_of_the_plan_begins_when_the_clients_do() -> None:
    board = Board(PLAN, 0.0)
    assert board.passed(20.0) == 0
    board.start = 10.0
    assert [board.passed(now) for now in (9.0, 20.0, 99.0)] == [0, 10, 30]
