"""Requests per second of the ready-made evaluator against the same Flask app with a plain global model; gunicorn with the same settings."""

from __future__ import annotations

from . import nets
from .figure import Figure, at_least, quantile, shown
from .load import Answer, Load, Plan
from .stand import Serving, evaluator, serving, stand

#: Seconds of a measurement, and pairs of them; which of the two goes first takes turns.
SECONDS, PAIRS = 4.0, 9
#: Which model both serve.
NET = "benchmarks.nets:Small"


def measure(*, quick: bool) -> list[Figure]:
    """See README.md, "Throughput"."""
    with stand() as place:
        file = nets.save(nets.Small(), place.folder / "model.safetensors")
        place.fleet.publish("m", file)
        plain = {"BENCH_NET": NET, "BENCH_FILE": str(file)}
        with (
            evaluator(place, m=NET) as ours,
            serving(place.folder, "benchmarks.plain:with_global()", plain) as theirs,
        ):
            runs = _pairs(ours, theirs, seconds=1.0 if quick else SECONDS, pairs=2 if quick else PAIRS)
    return _figures(runs)


class Run:
    """One measurement of one app: closed loop."""

    def __init__(self, app: Serving, seconds: float) -> None:
        cpu_s = app.cpu_s()
        with Load(Plan(app.socket, "/evaluate/m", nets.body(), None, seconds)) as load:
            answers = load.finish()
        good = [answer for answer in answers if not answer.is_error]
        self.errors = len(answers) - len(good)
        self.per_s = len(good) / (max(answer.done for answer in good) - load.start)
        self.cpu_us = (app.cpu_s() - cpu_s) / len(answers) * 1e6
        self.p99_ms = p99_ms(good)


def p99_ms(answers: list[Answer]) -> float:
    """The time that 99 of 100 requests had an answer in."""
    return quantile([answer.ms for answer in answers], 0.99)


def _pairs(ours: Serving, theirs: Serving, *, seconds: float, pairs: int) -> list[tuple[Run, Run]]:
    for app in (ours, theirs):
        Run(app, 1.0)  # the first requests of a process are slow
    found = []
    for turn in range(pairs):
        if turn % 2:
            second, first = Run(theirs, seconds), Run(ours, seconds)
        else:
            first, second = Run(ours, seconds), Run(theirs, seconds)
        found.append((first, second))
    return found


def _figures(runs: list[tuple[Run, Run]]) -> list[Figure]:
    middle = sorted(runs, key=lambda pair: pair[0].per_s)[len(runs) // 2]
    note = f"{middle[0].per_s:.0f} and {middle[1].per_s:.0f} requests/s"
    cpu = f"{middle[0].cpu_us:.0f} and {middle[1].cpu_us:.0f} µs"
    p99 = f"{middle[0].p99_ms:.1f} and {middle[1].p99_ms:.1f} ms"
    return [
        at_least(
            "evaluator throughput / same app with a plain global", [a.per_s / b.per_s for a, b in runs], 0.95, note=note
        ),
        shown("the workers' processor time per request, likewise", [a.cpu_us / b.cpu_us for a, b in runs], note=cpu),
        shown("p99, likewise, all workers busy", [a.p99_ms / b.p99_ms for a, b in runs], note=p99),
        errors_of("request errors", [a.errors + b.errors for a, b in runs]),
    ]


def errors_of(what: str, counts: list[int]) -> Figure:
    """Something that must not happen, in all measurements together."""
    return Figure(what, sum(counts), min(counts), max(counts), reach="0", ok=not sum(counts))
