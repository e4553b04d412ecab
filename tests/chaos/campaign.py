"""What happens when: acts, one after the other, each with a stand of its own and faults that strike it in turn, in an order of chance.

Every fault of an act strikes once before any strikes again, so that a short run has seen them all if its time allows.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median_high
from typing import Any, NamedTuple

import msgspec

from . import measures
from .fault import Fault, strike
from .faults_files import FILES, MANY_FLIPS, TURNOVER, with_turnover
from .faults_machines import (
    DISKS,
    FAILOVER,
    HOSTS,
    missing_clock,
    missing_disks,
    missing_hosts,
    on_hosts,
    on_small_disks,
    with_clock,
    with_spare,
)
from .faults_network import NETWORK
from .faults_server import CLOCKS, LOSSES, SERVER, restarts
from .faults_trainers import OPERATORS, TRAINERS
from .faults_workers import GUNICORN, WORKERS
from .figures import Summary, summary_of
from .history import Injection
from .stand import Measure, Plan, Stand

Stage = Callable[[ExitStack, Path], Stand]


def two_kinds(stack: ExitStack, folder: Path) -> Stand:
    """Threads, and processes of one request each whose app is imported before they fork."""
    return Stand(folder, plans=(Plan("a", 2), Plan("b", 2, "sync", flags=("--preload",))))


def loading_at_once(stack: ExitStack, folder: Path) -> Stand:
    """Loads take no longer than they have to."""
    return Stand(folder, load_s=0.0)


def on_redis(persistence: str) -> Stage:
    """The server that most have; it keeps its data."""
    return lambda stack, folder: Stand(folder, program="redis", persistence=persistence)


class Act(NamedTuple):
    """`share`: of the time, beyond what `once` takes; `stage` makes the stand; `faults` strike it, each `once` if there is no end to it.

    `missing`: why it cannot be played here, "" if it can.
    """

    name: str
    what: str
    share: float
    faults: Sequence[Fault]
    stage: Stage = two_kinds
    missing: Callable[[], str] = lambda: ""


def unique(kinds: Iterable[str]) -> Iterator[Fault]:
    """The faults of these kinds, each once."""
    found = {fault.kind: fault for act in ACTS for fault in act.faults}
    return (found[kind] for kind in kinds)


ACTS = (
    Act("network", "what lies between workers and the server", 2.0, NETWORK),
    Act("workers", "workers die and stop, gunicorn replaces them", 1.0, (*WORKERS, *WORKERS, *GUNICORN)),
    Act("turnover", "gunicorn's limit of requests replaces workers", 0.5, TURNOVER, with_turnover),
    Act("server", "the server fails; it keeps nothing on its disk", 1.0, (*SERVER, *restarts("none"))),
    Act(
        "everysec",
        "the server is killed; it writes to its disk once a second",
        0.7,
        restarts("everysec"),
        on_redis("everysec"),
    ),
    Act("always", "the server is killed; it writes before it answers", 0.7, restarts("always"), on_redis("always")),
    Act("losses", "the server loses data", 2.8, LOSSES),
    Act("clocks", "the server's clock on the wall is set", 0.5, CLOCKS, with_clock, missing_clock),
    Act("failover", "another server takes its place", 0.5, FAILOVER, with_spare),
    Act("trainers", "trainers and operators", 2.0, (*TRAINERS, *OPERATORS)),
    Act("files", "checkpoints that are a burden, and 200 flips", 1.0, (*FILES, *MANY_FLIPS), loading_at_once),
    Act("hosts", "services on machines of their own", 0.7, HOSTS, on_hosts, missing_hosts),
    Act("disks", "disks get full", 0.3, DISKS, on_small_disks, missing_disks),
    Act("deaths", "how long a death holds up a flip, lease 3 s", 1.0, measures.DEATHS, measures.usual),
    Act("gone", "the server is gone for a minute, lease 3 s", 0.0, measures.GONE, measures.busy),
)


#: What every change of the code has to bear: one of each sort.
SHORT_KINDS = (
    *("worker killed", "worker stopped for two leases", "every worker stopped"),
    *(
        "reply dropped after execution: answer",
        "reply dropped after execution: heartbeat",
        "call executed twice: propose",
    ),
    *("partition both ways, bytes come late", "half-open subscription", "all connections reset"),
    *("server killed and restarted, persistence none", "server demoted: READONLY", "SCRIPT FLUSH", "FLUSHALL"),
    *("key of a wrong type: models", "trainer killed after propose", "two trainers and a rollback at once"),
    *("object of the store damaged before it is loaded", "gunicorn HUP"),
)
SHORT = Act("short", "one fault of each sort", 0.0, tuple(unique(SHORT_KINDS)))


def in_turn(faults: Sequence[Fault], chance: random.Random) -> Iterator[Fault]:
    """Each once, then each once again, for ever, every time in another order."""
    while True:
        yield from chance.sample(faults, len(faults))


def play(act: Act, seconds: float, seed: int, folder: Path) -> tuple[Summary, Stand]:
    """One act: every fault at least once, then in turn until its time is over."""
    chance = random.Random(f"{seed} {act.name}")
    until = time.monotonic() + seconds
    with ExitStack() as stack:
        stand = stack.enter_context(act.stage(stack, folder)).start()
        stand.keep_publishing()
        for number, fault in enumerate(in_turn(act.faults, chance)):
            if number >= len(act.faults) and time.monotonic() > until:
                break
            say(strike(stand, fault, chance))
        stand.stop()
    return summary_of(stand.history), stand


def say(injection: Injection) -> None:
    took, rested = injection.ended - injection.began, injection.until - injection.ended
    detail = f" ({injection.detail})" if injection.detail else ""
    print(f"  {injection.kind}{detail}: {took:.1f} s, at rest after {rested:.1f} s", flush=True)


def run(acts: Sequence[Act], *, seconds: float, seed: int, folder: Path) -> dict[str, Any]:
    """All acts; what a report is made of. `seconds`: at least, for all together; an act takes longer if its faults do."""
    began, found, not_run = time.monotonic(), [], {}
    total = sum(act.share for act in acts) or 1.0
    for act in acts:
        print(f"{act.name}: {act.what}", flush=True)
        if why := act.missing():
            print(f"  not run: {why}")
            not_run[act.name] = {"why": why, "faults": sorted({fault.kind for fault in act.faults})}
            continue
        summary, stand = play(act, seconds * act.share / total, seed, folder / act.name)
        found.append(_row(act, summary, stand))
        tell(found[-1])
    passed = not any(
        row["violations"] or row["troubles"] or (row["missed"] and row["act"] != SHORT.name) for row in found
    )
    took_s = round(time.monotonic() - began, 1)
    return {"seed": seed, "seconds": took_s, "passed": passed, "acts": found, "not_run": not_run}


def _row(act: Act, summary: Summary, stand: Stand) -> dict[str, Any]:
    measured = [*stand.measures, _converged(summary, stand)]
    more = {"measures": msgspec.to_builtins(measured), "missed": _missed(measured), "troubles": stand.troubles}
    return {"act": act.name, "what": act.what, **msgspec.to_builtins(summary), **more}


def _converged(summary: Summary, stand: Stand) -> Measure:
    """The worst of all faults of an act after which no process has to start. A load waits for the other worker of its host at most."""
    worst = max((borne.longest_to_converge_s for borne in summary.kinds if not borne.kills), default=0.0)
    limit = 2 * stand.lease_s + 2 * stand.load_s
    return Measure(what=f"all is well again, lease {stand.lease_s:g} s", value=round(worst, 3), limit=limit, unit="s")


def _missed(measured: Sequence[Measure]) -> list[str]:
    """Figures that are over their limit, as the median of what was measured."""
    values: dict[Measure, list[float]] = {}
    for measure in measured:
        values.setdefault(msgspec.structs.replace(measure, value=0.0), []).append(measure.value)
    middle = {measure: median_high(found) for measure, found in values.items()}
    return [f"{m.what}: {value:g} {m.unit}, not {m.limit:.4g}" for m, value in middle.items() if value > m.limit]


def tell(row: Mapping[str, Any]) -> None:
    for line in (*row["violations"][:20], *row["troubles"], *row["missed"]):
        print(f"  !! {line}", flush=True)
    counts = f"{row['checked']} requests, {row['injections']} faults, {len(row['violations'])} violations"
    print(f"  {counts}; p99 {row['p99_ms']} ms", flush=True)
