"""What the demo looks like, made for 80 columns and 24 rows: `picture` while it goes on, `closing` at the end.

Both are functions of the board alone, so that they can be looked at without a terminal. A colour stands for a generation; neighbours have
different ones, so that a flip is seen at a glance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ...coordinator.commands.output import one_line
from .board import PHASES, Board
from .history import Accuracy
from .news import Published
from .report import Report

#: Rows of workers, and of generations, that fit; of more workers the rest is counted, of more generations the newest are shown.
WORKERS, GENERATIONS = 6, 8
#: Columns of a bar that shows a share.
BAR = 20
#: Colours of generations, in turn.
COLOURS = ("cyan", "magenta", "yellow", "green", "blue")


# --- while it goes on ---------------------------------------------------------------------------------------------------


def picture(board: Board, now: float) -> RenderableType:
    """Workers, clients, generations, what was kept out, and what goes on."""
    halves = Table.grid(expand=True)
    halves.add_column(ratio=1)
    halves.add_column(ratio=1)
    halves.add_row(_workers(board), _clients(board, now))
    generations = _generations(board, board.numbered[: -GENERATIONS - 1 : -1], rows=GENERATIONS)
    return Group(_head(board, now), "", halves, "", generations, "", *_kept_out(board), _line("▸", "cyan", board.now))


def _head(board: Board, now: float) -> RenderableType:
    head = Table.grid(expand=True, padding=(0, 2, 0, 0), pad_edge=False)
    head.add_column(no_wrap=True)
    head.add_column(ratio=1)
    head.add_column(no_wrap=True, justify="right")
    passed, seconds = board.passed(now), board.plan.seconds
    bar = ProgressBar(total=seconds, completed=passed, complete_style="cyan", finished_style="cyan")
    head.add_row(Text("genlock demo", style="bold"), bar, _clock(board, now))
    return head


def _clock(board: Board, now: float) -> Text:
    if board.start is None:
        return Text(f"starting, {now - board.began:.0f} s", style="dim")
    return Text(f"{board.passed(now):.0f} of {board.plan.seconds:g} s")


def _titled(title: str, rows: Iterable[tuple[str | Text, Text]]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*row)
    return Group(Text(title, style="bold dim"), table)


def _workers(board: Board) -> RenderableType:
    seen = sorted(board.generations.items())
    rows: list[tuple[str | Text, Text]] = [
        (f"pid {worker.rpartition(':')[2]}", Text(f"generation {number:>2}", style=_colour(number)))
        for worker, number in seen[:WORKERS]
    ]
    if len(seen) > WORKERS:
        rows[-1] = (f"and {len(seen) - WORKERS + 1} more", _span([number for _, number in seen[WORKERS - 1 :]]))
    for _ in range(min(WORKERS, board.plan.workers) - len(rows)):
        rows.append(("-", Text("starts", style="dim")))
    return _titled("WORKERS", rows)


def _span(numbers: Sequence[int]) -> Text:
    low, high = min(numbers), max(numbers)
    text = f"generation {low:>2}" if low == high else f"generations {low} to {high}"
    return Text(text, style=_colour(high))


def _clients(board: Board, now: float) -> RenderableType:
    rate, latency = board.recent(now)
    rows = [
        ("requests", Text(f"{len(board.requests):,} ({rate:.0f} a second)")),
        ("p50, p99", Text(f"{latency.p50 * 1000:.1f} ms, {latency.p99 * 1000:.1f} ms" if latency.count else "-")),
        ("errors", _bad(board.errors)),
        ("stale answers", _bad(board.stale)),
    ]
    return _titled(f"CLIENTS, {board.plan.clients} keep-alive connections", rows)


def _bad(count: int) -> Text:
    return Text(f"{count:,}", style="bold red" if count else "green")


def _generations(board: Board, published: Sequence[Published], *, rows: int = 0) -> RenderableType:
    """A row for each; empty ones up to `rows`."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold dim")
    table.add_column("GEN", justify="right")
    table.add_column("ACCURACY THAT CLIENTS SEE", no_wrap=True, min_width=BAR + 7)
    table.add_column("ANSWERS", justify="right")
    for phase in PHASES:
        table.add_column(phase.upper(), justify="right")
    table.add_column("", min_width=2)
    for one in published:
        table.add_row(*_generation(board, one))
    for _ in range(rows - len(published)):
        table.add_row()
    return table


def _generation(board: Board, published: Published) -> list[RenderableType]:
    number, seen = published.generation, board.accuracies.get(published.generation, Accuracy())
    seconds = published.seconds if published.workers else {}  # nobody changed to the first one
    phases = [f"{seconds[phase] * 1000:.0f}" if phase in seconds else "-" for phase in PHASES]
    if published.outcome == "committed":
        style, what = _colour(number), _bar(seen, _colour(number))
    else:
        style, what = "red", Text(f"✗ {published.what}: {published.outcome}", style="red")
    return [Text(str(number), style=style), what, f"{seen.answers:,}", *phases, "ms"]


def _bar(seen: Accuracy, colour: str) -> Text:
    filled = round(seen.share * BAR)
    bar = Text("━" * filled, style=colour).append("─" * (BAR - filled), style="bright_black")
    return bar.append(f" {seen.share:6.1%}" if seen.answers else "       -", style="default")


def _kept_out(board: Board) -> list[RenderableType]:
    """Two rows, whatever there is."""
    lines = [_line("✗", "red", f"{p.what}: {p.outcome} by {who(p)}: {p.why}") for p in board.kept_out[-2:]]
    return [*lines, *[Text("")] * (2 - len(lines))]


def who(published: Published) -> str:
    """Who decided against it."""
    pid = published.worker.rpartition(":")[2]
    return f"worker {pid}" if pid.isdigit() else published.worker


def _line(sign: str, style: str, text: str) -> Text:
    """On one row, cut where the terminal ends."""
    line = Text(no_wrap=True, overflow="ellipsis")
    return line.append(f"{sign} ", style=style).append(one_line(text))


def _colour(generation: int) -> str:
    return COLOURS[generation % len(COLOURS)]


# --- at the end -----------------------------------------------------------------------------------------------------------


def closing(board: Board, report: Report) -> RenderableType:
    """Every generation; then each promise, and what was measured of it."""
    parts: list[RenderableType] = [_generations(board, board.numbered), ""]
    parts += [Text("WHAT WAS PROMISED, AND WHAT WAS MEASURED", style="bold dim"), Text(board.plan.title), ""]
    for promise in report.promises:
        sign = Text("✗", style="bold red") if promise.broken else Text("✔", style="bold green")
        parts.append(sign.append(f" {promise.name}", style="bold"))
        parts.append(_below(promise.measured))
        parts += [_below(f"✗ {sentence}", style="red") for sentence in promise.broken]
    for published in board.kept_out:
        parts += [Text(f"· {published.what}"), _below(f"{published.outcome} by {who(published)}: {published.why}")]
    parts += [Text("· memory"), _below(report.memory_sentence), ""]
    parts.append(_verdict(report))
    return Group(*parts)


def _below(text: str, *, style: str = "default") -> RenderableType:
    return Padding(Text(one_line(text), style=style), (0, 0, 0, 2), expand=False)


def _verdict(report: Report) -> Text:
    if report.ok:
        return Text("Every promise was kept.", style="bold green")
    return Text(f"Broken: {'; '.join(p.name for p in report.promises if p.broken)}.", style="bold red")
