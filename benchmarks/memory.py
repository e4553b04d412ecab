"""Memory of 4 workers, as the sum of their PSS: what several share counts once in all. Linux only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from torch import nn

from . import nets
from .figure import Figure, at_most, shown
from .load import Load, Plan
from .stand import WORKERS, Serving, Stand, evaluator, stand

#: Bytes of the model of the first two figures.
MODEL_BYTES = 200e6
#: Flips that memory is looked at after, of a model of 20 MB.
EARLY, LATE = 10, 200
#: Contents that take turns, so that the store stays small: one more than a worker keeps (active, the way back, the candidate).
CONTENTS = 4
#: Seconds between two looks during a flip, which takes half a second or more.
LOOK_S = 0.01
#: Seconds in which memory has to come to rest: the loading thread trims after a retired generation, some 10 ms later.
REST_S = 15.0
#: Bytes that it may still move by then: heartbeats and figures take pages now and then.
REST_BYTES = 300_000


def measure(*, quick: bool) -> list[Figure]:
    """See README.md, "Memory"."""
    return [*_one_model(flips=2 if quick else 5), many_flips(quick=quick)]


# --- 200 MB -------------------------------------------------------------------------------------------------------------


def _one_model(flips: int) -> list[Figure]:
    empty = _empty()
    with stand() as place:
        files = _files(place, nets.deep_200(), min(flips + 1, CONTENTS))
        place.fleet.publish("m", files[0])
        with evaluator(place, m="benchmarks.nets:deep_200") as app:
            _ask_everybody(app)
            holding = _rested(app) - empty
            peaks = [_peak(app, partial(_publish, place, files[n % len(files)])) - empty for n in range(1, flips + 1)]
            both = _rested(app) - empty
    note = f"{holding / 1e6:.0f} MB more than {empty / 1e6:.0f} MB of {WORKERS} workers with a model of 11 KB"
    return [
        at_most("PSS growth of 4 workers with 200 MB / 200 MB", [holding / MODEL_BYTES], 1.2, note=note),
        at_most("the same, highest in a flip", [peak / MODEL_BYTES for peak in peaks], 2.2),
        shown("the same, with the way back kept", [both / MODEL_BYTES]),
    ]


def _empty() -> float:
    """Bytes of workers that have torch and everything else, and next to no model."""
    with stand() as place:
        place.fleet.publish("m", nets.save(nets.Small(), place.folder / "model.safetensors"))
        with evaluator(place, m="benchmarks.nets:Small") as app:
            _ask_everybody(app)
            return _rested(app)


def _peak(app: Serving, action: Callable[[], None]) -> float:
    """The highest memory while `action` runs."""
    acting = threading.Thread(target=action)
    acting.start()
    highest = 0
    while acting.is_alive():
        highest = max(highest, app.pss_bytes())
        time.sleep(LOOK_S)
    acting.join()
    return highest


# --- 200 flips ----------------------------------------------------------------------------------------------------------


@cache
def many_flips(*, quick: bool) -> Figure:
    """Measured once in a run: `migrating` shows it too."""
    early, late = EARLY, 20 if quick else LATE
    with stand() as place:
        files = _files(place, nets.deep_20(), CONTENTS)
        place.fleet.publish("m", files[0])
        with evaluator(place, m="benchmarks.nets:deep_20") as app:
            _ask_everybody(app)  # all are members
            found = {}
            for number in range(1, late + 1):
                _publish(place, files[number % len(files)])
                if number in (early, late):
                    _ask_everybody(app)
                    found[number] = _rested(app)
    note = f"{found[early] / 1e6:.1f} → {found[late] / 1e6:.1f} MB"
    return at_most(f"PSS after {late} flips of 20 MB / after {early}", [found[late] / found[early]], 1.01, note=note)


# --- both ---------------------------------------------------------------------------------------------------------------


def _files(place: Stand, net: nn.Module, count: int) -> list[Path]:
    return [nets.save(net, place.folder / f"{n}.safetensors", seed=n) for n in range(count)]


def _publish(place: Stand, file: Path) -> None:
    flip = place.fleet.publish("m", file)
    if len(flip.workers) != WORKERS:
        raise RuntimeError(f"{len(flip.workers)} workers took part, not {WORKERS}: {flip}")


def _ask_everybody(app: Serving) -> None:
    """Every thread of every worker has answered."""
    with Load(Plan(app.socket, "/evaluate/m", nets.body(), None, 2.0)) as load:
        answers = load.finish()[0].answers
    if errors := [answer for answer in answers if answer.is_error]:
        raise RuntimeError(f"{len(errors)} of {len(answers)} requests failed, the first with status {errors[0].status}")


def _rested(app: Serving) -> float:
    """Bytes, once they have come to rest."""
    deadline, before = time.monotonic() + REST_S, app.pss_bytes()
    while time.monotonic() < deadline:
        time.sleep(1.0)
        now = app.pss_bytes()
        if abs(now - before) < REST_BYTES:
            return now
        before = now
    return before
