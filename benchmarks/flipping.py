"""What clients notice of a flip: latency around a publish of 200 MB under load, and how long small publishes take."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from genlock.worker.demo.history import order_violations

from . import nets
from .figure import Figure, at_most, near, shown
from .load import Answer, Load, Plan
from .stand import Serving, Stand, evaluator, serving, stand
from .throughput import errors_of, p99_ms

#: Seconds of the window that begins with a publish, and of the steady one before it.
WINDOW_S = 5.0
#: Publishes under load, each with a steady window before it; fewer of what is only compared with.
FLIPS, COMPARED = 5, 3
#: Seconds in which it is measured what the workers can do; half of that is the load.
CAPACITY_S = 5.0
#: Publishes of 1 MB.
SMALL_FLIPS = 25
#: The nets of 200 MB that are served, in words.
NETS = {"deep": "all weights in each request", "wide": "one row of a table"}


class Moment(NamedTuple):
    """A publish, on the monotonic clock: when it was called, when the new file was whole and workers heard of it, when it returned."""

    began: float
    told: float
    committed: float


@dataclass
class Trial:
    """A load, and the publishes that happened meanwhile."""

    rate: float
    answers: list[Answer]
    moments: list[Moment]

    def steady(self, moment: Moment) -> list[Answer]:
        return self._due(moment.began - WINDOW_S, moment.began)

    def after(self, since: float) -> list[Answer]:
        return self._due(since, since + WINDOW_S)

    def last_old_s(self, moment: Moment) -> float:
        """Seconds from the commit to the end of the last answer from a generation before; negative: it ended earlier."""
        old = max((a.generation for a in self.answers if a.end < moment.began), default=0)
        return max(a.end for a in self.answers if a.generation <= old) - moment.committed

    def _due(self, since: float, until: float) -> list[Answer]:
        return [answer for answer in self.answers if since <= answer.due < until]


def measure(*, quick: bool) -> list[Figure]:
    """See README.md, "Flipping"."""
    flips, compared = (1, 1) if quick else (FLIPS, COMPARED)
    figures = []
    for name, words in NETS.items():
        figures += _figures(f"{name} net", words, genlock(f"{name}_200", flips), inline(f"{name}_200", compared))
    return [*figures, _small(5 if quick else SMALL_FLIPS)]


# --- 200 MB under load --------------------------------------------------------------------------------------------------


def genlock(net: str, flips: int) -> Trial:
    """The evaluator, and a trainer that publishes."""
    with stand() as place, ExitStack() as stack:
        made = getattr(nets, net)()
        files = [nets.save(made, place.folder / f"{n}.safetensors", seed=n) for n in range(flips + 1)]
        place.fleet.publish("m", files[0])
        app = stack.enter_context(evaluator(place, m=f"benchmarks.nets:{net}"))
        return _trial(app, [partial(_publish, place, file) for file in files[1:]])


def _publish(place: Stand, file: Path) -> float:
    """Seconds of staging."""
    return place.fleet.publish("m", file).seconds["stage"]


def inline(net: str, flips: int) -> Trial:
    """Workers that look at the file's mtime, and a trainer that replaces the file."""
    with stand() as place, ExitStack() as stack:
        made, file = getattr(nets, net)(), place.folder / "model.pt"
        files = [place.folder / f"{n}.pt" for n in range(flips + 1)]
        for n, path in enumerate(files):
            torch.save(nets.weights(made, n), path)
            nets.flush(path)
        _replace(files[0], file)
        environment = {"BENCH_NET": f"benchmarks.nets:{net}", "BENCH_FILE": str(file)}
        app = stack.enter_context(serving(place.folder, "benchmarks.inline:with_mtime()", environment))
        return _trial(app, [partial(_replace, path, file) for path in files[1:]])


def _replace(source: Path, target: Path) -> float:
    """As careful as a trainer can be: readers find the old file or the new one. Seconds until that."""
    began = time.monotonic()
    beside = target.with_suffix(".new")
    shutil.copyfile(source, beside)
    nets.flush(beside)
    beside.replace(target)
    return time.monotonic() - began


def _trial(app: Serving, publishes: list[Callable[[], float]]) -> Trial:
    rate = _capacity(app) / 2
    seconds = (len(publishes) + 1) * 3 * WINDOW_S
    moments = []
    with Load(Plan(app.socket, "/evaluate/m", nets.body(), rate, seconds)) as load:
        for publish in publishes:
            time.sleep(WINDOW_S)
            began = time.monotonic()
            told = began + publish()
            moments.append(Moment(began, told, time.monotonic()))
            time.sleep(max(0.0, told + WINDOW_S - time.monotonic()))
        (done,) = load.stop()
        return Trial(rate, done.answers, moments)


def _capacity(app: Serving) -> float:
    """Requests per second that the workers can do."""
    for seconds in (2.0, CAPACITY_S):  # the first requests of a process are slow
        with Load(Plan(app.socket, "/evaluate/m", nets.body(), None, seconds)) as load:
            (done,) = load.finish()
    return len(done.answers) / done.seconds


def _figures(name: str, words: str, ours: Trial, theirs: Trial) -> list[Figure]:
    p99 = f"{name}: p99 in {WINDOW_S:g} s / steady"
    steady, from_call, from_told = _p99(ours)
    return [
        near(f"{p99}, from publish() on ({words})", steady, from_call, ratio=1.3, more_ms=5.0),
        _compared(f"{p99}, from when the file is staged", steady, from_told, ours),
        _compared(f"{p99}, mtime and inline reload", *_p99(theirs)[:2], theirs),
        _worst(f"{name}: worst request, from publish() on", ours),
        _worst(f"{name}: worst request, inline reload", theirs),
        shown(f"{name}: publish() until committed", [m.committed - m.began for m in ours.moments], unit="s"),
        shown(
            f"{name}: last old answer ended after the commit",
            [1000 * ours.last_old_s(m) for m in ours.moments],
            unit="ms",
        ),
        errors_of(f"{name}: request errors", [sum(a.is_error for a in ours.answers)]),
        errors_of(f"{name}: older answers after newer ones", [len(order_violations(ours.answers))]),
    ]


def _p99(trial: Trial) -> tuple[list[float], list[float], list[float]]:
    """In ms, of each publish: the steady window; the one from the call on; the one from when workers heard of it."""
    steady = [p99_ms(trial.steady(m)) for m in trial.moments]
    from_call = [p99_ms(trial.after(m.began)) for m in trial.moments]
    return steady, from_call, [p99_ms(trial.after(m.told)) for m in trial.moments]


def _compared(what: str, steady_ms: list[float], then_ms: list[float], trial: Trial) -> Figure:
    note = f"{median(steady_ms):.1f} → {median(then_ms):.1f} ms at {trial.rate:.0f} requests/s"
    return shown(what, [then / steady for steady, then in zip(steady_ms, then_ms, strict=True)], note=note)


def _worst(what: str, trial: Trial) -> Figure:
    steady = median(max(a.ms for a in trial.steady(m)) for m in trial.moments)
    worst = [max(a.ms for a in trial.after(m.began)) for m in trial.moments]
    return shown(what, worst, unit="ms", note=f"steady {steady:.1f} ms, at {trial.rate:.0f} requests/s")


# --- 1 MB, idle ---------------------------------------------------------------------------------------------------------


def _small(flips: int) -> Figure:
    """Every publish is of another content: it is copied, verified once and loaded by each worker."""
    seconds, phases = [], []
    with stand() as place:
        net, file = nets.wide_1(), place.folder / "model.safetensors"
        place.fleet.publish("m", nets.save(net, file))
        with evaluator(place, m="benchmarks.nets:wide_1") as app:
            with Load(Plan(app.socket, "/evaluate/m", nets.body(), None, 1.0)) as load:
                load.finish()
            for n in range(1, flips + 1):
                nets.save(net, file, seed=n)
                time.sleep(0.2)  # idle again
                began = time.perf_counter()
                flip = place.fleet.publish("m", file)
                seconds.append(time.perf_counter() - began)
                phases.append(flip.seconds)
    note = ", ".join(f"{name} {1000 * median(p.get(name, 0.0) for p in phases):.0f} ms" for name in sorted(phases[0]))
    return at_most(
        "publish of 1 MB to 4 idle workers, until committed", [1000 * s for s in seconds], 60, unit="ms", note=note
    )
