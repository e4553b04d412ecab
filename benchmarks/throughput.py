"""Requests per second of the ready-made evaluator against the same Flask app with a plain global model; gunicorn with the same settings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from . import nets
from .figure import Figure, at_least, quantile, shown
from .load import Answer, Done, Load, Plan
from .stand import Serving, evaluator, serving, stand

#: Seconds of each service in a pair, and of a turn of one, which is short: see load; and pairs.
SECONDS, TURN_S, PAIRS = 3.0, 0.5, 9
#: Services of each app. Two of the same app differ by some percent as long as they live, as the memory of their processes lies.
SERVICES = 3
#: Which model both serve.
NET = "benchmarks.nets:Small"


def measure(*, quick: bool) -> list[Figure]:
    """See README.md, "Throughput"."""
    with stand() as place, ExitStack() as stack:
        file = nets.save(nets.Small(), place.folder / "model.safetensors")
        place.fleet.publish("m", file)
        plain = {"BENCH_NET": NET, "BENCH_FILE": str(file)}
        ours, theirs = [], []
        for n in range(1 if quick else SERVICES):
            folder = place.folder / f"service-{n}"
            folder.mkdir()
            ours.append(stack.enter_context(evaluator(place, folder, m=NET)))
            theirs.append(stack.enter_context(serving(folder, "benchmarks.plain:with_global()", plain)))
        return _figures(_pairs(ours, theirs, seconds=1.0 if quick else SECONDS, pairs=2 if quick else PAIRS))


class Run:
    """One app's part of a pair: closed loop, in the turns of its services."""

    def __init__(self, dones: Sequence[Done], cpu_s: float) -> None:
        answers = [answer for done in dones for answer in done.answers]
        good = [answer for answer in answers if not answer.is_error]
        self.errors = len(answers) - len(good)
        self.per_s = len(good) / sum(done.seconds for done in dones)
        self.cpu_us = cpu_s / len(answers) * 1e6
        self.p99_ms = p99_ms(good)


def p99_ms(answers: list[Answer]) -> float:
    """The time that 99 of 100 requests had an answer in."""
    return quantile([answer.ms for answer in answers], 0.99)


def _pairs(ours: list[Serving], theirs: list[Serving], *, seconds: float, pairs: int) -> list[tuple[Run, Run]]:
    _pair(ours, theirs, 1.0)  # the first requests of a process are slow
    return [_pair(ours, theirs, seconds) for _ in range(pairs)]


def _pair(ours: list[Serving], theirs: list[Serving], seconds: float) -> tuple[Run, Run]:
    before = _cpu_s(ours), _cpu_s(theirs)
    apps = [app for both in zip(ours, theirs, strict=True) for app in both]
    plans = [Plan(app.socket, "/evaluate/m", nets.body(), None, seconds) for app in apps]
    with Load(*plans, turn_s=TURN_S) as load:
        dones = load.finish()
    return Run(dones[::2], _cpu_s(ours) - before[0]), Run(dones[1::2], _cpu_s(theirs) - before[1])


def _cpu_s(apps: list[Serving]) -> float:
    return sum(app.cpu_s() for app in apps)


def _figures(runs: list[tuple[Run, Run]]) -> list[Figure]:
    middle = sorted(runs, key=lambda pair: pair[0].per_s)[len(runs) // 2]
    note = f"{middle[0].per_s:.0f} and {middle[1].per_s:.0f} requests/s"
    cpu = f"{middle[0].cpu_us:.0f} and {middle[1].cpu_us:.0f} µs"
    p99 = f"{middle[0].p99_ms:.1f} and {middle[1].p99_ms:.1f} ms"
    return [
        at_least(
            "evaluator throughput / same app with a plain global", [a.per_s / b.per_s for a, b in runs], 0.95, note=note
        ),
        shown(
            "the workers' processor time per request, their heartbeats too",
            [a.cpu_us / b.cpu_us for a, b in runs],
            note=cpu,
        ),
        shown("p99, likewise, all workers busy", [a.p99_ms / b.p99_ms for a, b in runs], note=p99),
        errors_of("request errors", [a.errors + b.errors for a, b in runs]),
    ]


def errors_of(what: str, counts: list[int]) -> Figure:
    """Something that must not happen, in all measurements together."""
    return Figure(what, sum(counts), min(counts), max(counts), reach="0", ok=not sum(counts))
