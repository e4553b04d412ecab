"""What the demo looks like: it fits 80 × 24, and shows what matters."""

import io

import pytest
from genlock.worker.demo.board import Board, Plan
from genlock.worker.demo.live import RATE, LiveView
from genlock.worker.demo.news import Published, Request
from genlock.worker.demo.picture import closing, picture
from genlock.worker.demo.plain import EVERY_S, Lines
from genlock.worker.demo.report import Memory, Report
from rich.console import Console, RenderableType

PHASES = {"stage": 0.004, "prepare": 0.02, "fence": 0.003, "total": 0.031}


def console(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=80, height=24, force_terminal=terminal, highlight=False, markup=False)


def drawn(what: RenderableType) -> list[str]:
    screen = console()
    screen.print(what)
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue().splitlines()


def board(workers: int = 4, generations: int = 3) -> Board:
    """A run of so many generations; the workers stand at the last one, each has answered from each."""
    made = Board(Plan(seconds=30, workers=workers, clients=8, epochs=12), 0.0, start=5.0)
    for generation in range(1, generations + 1):
        made.hear(
            Published(
                outcome="committed",
                what=f"epoch {generation}",
                ended=generation + 5.99,
                generation=generation,
                version=f"v{generation}",
                workers=workers if generation > 1 else 0,
                seconds=PHASES,
            ),
            float(generation),
        )
        for worker in range(workers):
            end = 6.0 + generation + worker / 100
            seen = Request(
                end - 0.002, end, 0.002, generation, f"v{generation}", f"h:{1000 + worker}", False, worker > 0
            )
            made.hear(seen, end)
    return made


BROKEN = (
    Published(
        outcome="rejected", what="full of NaN", broken=True, generation=4, worker="h:1002", step="check", why="x" * 90
    ),
    Published(
        outcome="refused", what="truncated file", broken=True, worker="the publisher", step="staging", why="short"
    ),
)


@pytest.mark.parametrize(("workers", "generations"), [(1, 0), (4, 3), (4, 13), (6, 13), (40, 13)])
def test_the_picture_fits_a_small_terminal(workers: int, generations: int) -> None:
    """A row too many, and every picture scrolls the one before off the screen."""
    shown = board(workers, generations)
    for news in BROKEN:
        shown.hear(news, 20.0)
    lines = drawn(picture(shown, 20.0))
    assert len(lines) <= 24
    assert all(len(line) <= 80 for line in lines)


def test_the_picture_does_not_jump_as_it_fills() -> None:
    empty, full = board(4, 0), board(4, 13)
    for news in BROKEN:
        full.hear(news, 20.0)
    assert len(drawn(picture(empty, 5.0))) == len(drawn(picture(full, 20.0)))


def test_the_picture_shows_workers_clients_generations_and_rejections() -> None:
    shown = board()
    for news in BROKEN:
        shown.hear(news, 20.0)
    shown.hear(Request(9, 10, 1.0, error="HTTP 500"), 10.0)
    text = "\n".join(drawn(picture(shown, 10.0)))
    assert "5 of 30 s" in text
    assert "pid 1000  generation  3" in text
    assert "requests       13" in text
    assert "errors         1" in text
    assert "75.0%        4      4       20      3     31  ms" in text
    assert "✗ full of NaN: rejected by worker 1002: xxx" in text
    assert "✗ truncated file: refused by the publisher: short" in text
    assert "▸ truncated file: refused" in text


def test_before_the_clients_begin_it_says_that_it_starts() -> None:
    shown = Board(Plan(seconds=30, workers=2, clients=8, epochs=12), 0.0)
    text = "\n".join(drawn(picture(shown, 7.0)))
    assert "starting, 7 s" in text
    assert text.count("starts") == 2


def test_workers_that_have_no_row_are_counted_with_what_they_hold() -> None:
    shown = board(8, 2)
    assert "and 3 more  generation  2" in "\n".join(drawn(picture(shown, 10.0)))
    shown.generations["h:1007"] = 1
    assert "and 3 more  generations 1 to 2" in "\n".join(drawn(picture(shown, 10.0)))


def test_a_generation_that_nobody_was_answered_from_has_no_accuracy() -> None:
    shown = board(2, 0)
    shown.hear(Published(outcome="committed", what="epoch 1", generation=1, seconds=PHASES), 1.0)
    (row,) = [line for line in drawn(picture(shown, 6.0)) if line.startswith("  1 ")]
    assert row.split() == ["1", "─" * 20, "-", "0", "-", "-", "-", "-", "ms"]


def test_the_end_says_of_each_promise_what_was_measured() -> None:
    shown = board(4, 3)
    for news in BROKEN:
        shown.hear(news, 20.0)
    lines = drawn(closing(shown, Report(shown, Memory(700_000_000, 720_000_000))))
    text = "\n".join(lines)
    assert "✔ Nobody sees an older answer after a newer one" in text
    assert "✔ A broken checkpoint changes nothing" in text
    assert "  4  ✗ full of NaN: rejected" in text
    assert "720.0 MB in all workers at the end (PSS), 700.0 MB when they were ready" in text
    assert "✗ All workers change together" in text
    assert "  ✗ 3 of 13 checkpoints were published" in text
    assert lines[-1] == "Broken: All workers change together."
    assert all(len(line) <= 80 for line in lines)


def test_the_end_of_a_good_run_is_one_sentence() -> None:
    shown = board(4, 13)
    for news in BROKEN:
        shown.hear(news, 20.0)
    assert drawn(closing(shown, Report(shown, Memory())))[-1] == "Every promise was kept."


def test_the_live_view_draws_a_few_times_a_second_and_leaves_nothing_behind() -> None:
    screen = console(terminal=True)
    assert isinstance(screen.file, io.StringIO)
    with LiveView(screen) as view:
        view.update(board(), 10.0)
        first = screen.file.getvalue()
        assert "genlock demo" in first
        view.update(board(), 10.0 + 0.5 / RATE)
        assert screen.file.getvalue() == first
        view.update(board(), 10.0 + 1.5 / RATE)
        assert len(screen.file.getvalue()) > len(first)
    assert screen.file.getvalue().endswith("\x1b[2K")


def test_lines_say_everything_once() -> None:
    screen = console()
    assert isinstance(screen.file, io.StringIO)
    shown = board(4, 2)
    shown.hear(BROKEN[0], 3.0)
    with Lines(screen) as lines:
        lines.update(shown, 6.0)
        lines.update(shown, 7.0)
        assert screen.file.getvalue().splitlines() == [
            "   1.0 s  epoch 1 is generation 1; nobody holds the model yet",
            "   2.0 s  epoch 2 is generation 2: 4 workers changed together (stage 4, prepare 20, fence 3, total 31 ms)",
            f"   3.0 s  full of NaN: rejected by h:1002 (check): {'x' * 90}",
        ]
        lines.update(shown, 5.0 + EVERY_S)
        lines.update(shown, 5.1 + EVERY_S)
    last = screen.file.getvalue().splitlines()[3:]
    assert last == ["  10.0 s  clients: 3 requests a second, p50 2.0 ms, p99 2.0 ms, 0 errors, 0 stale answers"]
