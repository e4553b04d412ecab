"""What `genlock top` shows, as lines of text for a given room: agreement, models, workers by host, last events. Pure.

Of a thousand workers there is a line for each host; where there is no room for all of them, those come first that something is wrong with.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..agreement import CONTRADICTS, Agreement, Difference, agreement_of
from ..status import CandidateStatus, FleetStatus, ModelStatus, WorkerStatus
from . import words
from .layout import Cells, Column, Line, Room, Style, cut, table
from .output import joined

#: Workers that get a line each where there is room without end: more are told by host.
MOST_WORKERS = 40
#: Events that are shown, where there is room; a small terminal has fewer.
EVENTS = 6
#: Last errors of workers that are told above the tables.
ERRORS = 2
#: Models that a cell names.
NAMED_MODELS = 4

_AGREED: Mapping[str, Style] = {
    "agree": "good",
    "changing": "news",
    "disagree": "bad",
    "cannot": "bad",
    "closed": "bad",
    "nobody": "news",
}
#: What makes a row one that something is wrong with.
_BAD = CONTRADICTS | {"cannot"}

MODELS = (
    Column("MODEL"),
    Column("GEN>"),
    Column("VERSION", 4),
    Column("AGE", 3),
    Column("HOLDERS>", 2),
    Column("STATE", 1),
)
WORKERS = (
    Column("HOST"),
    Column("WORKERS>", 5),
    Column("MEMORY>", 4),
    Column("USES/S>", 2),
    Column("ERRORS>", 3),
    Column("HOLDS"),
    Column("LAST ERROR", 1),
)


@dataclass(frozen=True)
class Look:
    """What one look at the fleet has found. `at`: unix s; `events`: a line each, the newest last."""

    fleet: FleetStatus
    workers: Sequence[WorkerStatus]
    events: Sequence[str]
    at: float

    @property
    def agreement(self) -> Agreement:
        return agreement_of(self.fleet, self.workers, now=self.at)


class Rates:
    """Uses per second of each worker, from what it said of itself one time and the next, on its own clock."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[float, float]] = {}  # member → seconds that it was up, uses until then
        self._rates: dict[str, float] = {}

    def saw(self, workers: Sequence[WorkerStatus]) -> None:
        """Who is no member any more is forgotten."""
        said = {worker.member: (figure(worker, "uptime_s"), uses_of(worker)) for worker in workers}
        self._rates = {member: rate for member, rate in self._rates.items() if member in said}
        for member, (up_s, uses) in said.items():
            before_s, before = self._said.get(member, (up_s, uses))
            if up_s > before_s:
                self._rates[member] = max(0.0, uses - before) / (up_s - before_s)
        self._said = said

    def of(self, workers: Sequence[WorkerStatus]) -> float | None:
        """The sum over these workers; None where none has said anything twice."""
        found = [self._rates[worker.member] for worker in workers if worker.member in self._rates]
        return sum(found) if found else None


def figure(worker: WorkerStatus, name: str) -> float:
    """A number that a worker says of itself; 0 where it says none."""
    stats = worker.about.get("stats")
    value = stats.get(name) if isinstance(stats, dict) else None
    return float(value) if isinstance(value, int | float) and abs(value) < 2**63 else 0.0


def uses_of(worker: WorkerStatus) -> float:
    """How often its models were used."""
    return figure(worker, "hits") + figure(worker, "misses")


# --- the picture -------------------------------------------------------------------------------------------------


def picture_of(look: Look, rates: Rates, room: Room, *, now: float, lost: str = "") -> list[Line]:
    """All of it. `now`: unix s; `lost`: why Redis does not answer, so that this is what was found before."""
    agreement = look.agreement
    head = _head(look, agreement, rates, now, lost)
    models = _models(look, now)
    hosts = _hosts(look, agreement, rates)
    left = math.inf if room.height is None else room.height - len(head) - 3  # two headings, an empty line
    n_events = min(EVENTS, len(look.events), max(0, int(min(left, 99) // 5)))
    left -= n_events + 1
    n_models = _given(len(models), left, share=0.4, others=len(hosts))
    told = models[:n_models], _fitted(hosts, look, agreement, rates, left - n_models)
    lines = [*head, *table(MODELS, told[0], room.width), *_more(models, n_models, "model")]
    lines += [Line(""), *table(WORKERS, told[1], room.width)]
    shown = sum(row.cells[0][:1] != " " for row in told[1])
    lines += _more(hosts, shown, "host") if hosts else []
    if n_events:
        lines += [Line(""), *(Line(text, "quiet") for text in look.events[-n_events:])]
    return [Line(cut(line.text, room.width), line.style) for line in lines][: room.height]


def _head(look: Look, agreement: Agreement, rates: Rates, now: float, lost: str) -> list[Line]:
    fleet = look.fleet
    hosts = len({worker.host for worker in look.workers})
    rate = rates.of(look.workers)
    facts = joined(
        f"fleet {fleet.name}",
        "" if fleet.open else "closed",
        f"{words.counted(len(look.workers), 'worker')} on {words.counted(hosts, 'host')}",
        words.counted(len(fleet.models), "model"),
        f"{rate:.0f} uses/s" if rate is not None else "",
        f"lease {fleet.lease_s:g} s",
        words.moment(look.at),
    )
    places = Line(f"redis {fleet.redis} · store {fleet.store}", "quiet")
    if not lost:
        errors = _last_errors(look)
        return [Line(agreement.sentence, _AGREED[agreement.state]), *errors, Line(facts), places, Line("")]
    since = words.took(now - look.at)
    unknown = Line(f"it is not known whether all workers agree: Redis has not answered for {since}", "bad")
    return [unknown, Line(lost, "bad"), Line(f"what follows is {since} old", "bad"), Line(facts), places, Line("")]


def _last_errors(look: Look) -> list[Line]:
    """A line for each that differs: in the tables below there is seldom room for a sentence."""
    found: dict[str, str] = {}
    for worker in look.workers:
        if worker.last_error:
            found.setdefault(str(worker.last_error), worker.worker)
    told = [Line(f"last error of {who}: {error}", "bad") for error, who in list(found.items())[:ERRORS]]
    return told + _more([""] * len(found), len(told), "last error")


def _models(look: Look, now: float) -> list[Cells]:
    """A row for each; those first in which something goes on."""
    rows = [(not _is_busy(model), model.model, _model_row(model, now)) for model in look.fleet.models]
    return [row for _, _, row in sorted(rows, key=lambda one: one[:2])]


def _is_busy(model: ModelStatus) -> bool:
    return model.candidate is not None or model.waits is not None or model.watch is not None


def _model_row(model: ModelStatus, now: float) -> Cells:
    generation = "-" if model.generation is None else str(model.generation)
    age = words.age(model.committed_at, now).removesuffix(" ago")
    cells = (model.model, generation, words.short(model.version), age, str(model.holders), state_of(model, now))
    return Cells(cells, "news" if _is_busy(model) else "")


def state_of(model: ModelStatus, now: float) -> str:
    """What goes on with a model, the most urgent first."""
    c = model.candidate
    watch = model.watch
    return (
        joined(
            _in_work(model.phase, c) if c is not None else "",
            compared(c.figures) if c is not None else "",
            f"watched for {words.took(max(0.0, watch.until - now))} more" if watch is not None else "",
            compared(watch.figures) if watch is not None and c is None else "",
            "next waits" if model.waits else "",
            f"pinned by {model.pin.by}" if model.pin else "",
            "unproven" if model.unproven else "",
        )
        or "-"
    )


def _in_work(phase: str, c: CandidateStatus) -> str:
    told = c.ready + c.awaited + c.failed + c.fenced
    failed = f", {c.failed} failed" if c.failed else ""
    if phase == "canary" and c.share is not None:
        return f"canary {c.generation} answers {c.share:.0%}{failed}"
    done = f"{c.fenced} of {told} fenced" if phase == "fencing" else f"{c.ready} of {told} ready"
    return f"{phase} {c.generation}: {done}{failed}"


def compared(figures: Mapping[str, Any] | None) -> str:
    """What was counted of a candidate, and of the active generation beside it: `120 requests, errors 0.8 % (active 0.1 %), p95 …`."""
    groups = [(figures or {}).get(name) for name in ("candidate", "active")]
    mine, other = (group if isinstance(group, dict) else {} for group in groups)
    if not mine.get("requests"):
        return "no request yet" if figures else ""
    told = [f"{mine['requests']} requests"]
    for name, say in (("errors", _share_of_errors), ("p95", _p95), ("score", _score)):
        if value := say(mine):
            told.append(f"{name} {value}" + (f" (active {before})" if (before := say(other)) else ""))
    return ", ".join(told)


def _share_of_errors(group: Mapping[str, Any]) -> str:
    return f"{group.get('errors', 0) / group['requests']:.1%}" if group.get("requests") else ""


def _p95(group: Mapping[str, Any]) -> str:
    return words.took(group["p95_s"]) if group.get("p95_s") is not None else ""


def _score(group: Mapping[str, Any]) -> str:
    return f"{group['score']:.3g}" if group.get("score") is not None else ""


# --- workers -----------------------------------------------------------------------------------------------------


def _by_host(look: Look) -> dict[str, list[WorkerStatus]]:
    found: defaultdict[str, list[WorkerStatus]] = defaultdict(list)
    for worker in sorted(look.workers, key=lambda one: (one.host, one.worker)):
        found[worker.host or "?"].append(worker)
    return found


def _wrong(agreement: Agreement) -> dict[str, list[Difference]]:
    """Member → what is to be said of it."""
    found: defaultdict[str, list[Difference]] = defaultdict(list)
    for one in agreement.differences:
        found[one.member].append(one)
    return found


def _hosts(look: Look, agreement: Agreement, rates: Rates) -> list[Cells]:
    """A row for each host; those first that something is wrong with."""
    wrong, active = _wrong(agreement), {model.model: model.generation for model in look.fleet.models}
    rows = [_row(host, of_it, rates, wrong, active) for host, of_it in _by_host(look).items()]
    return sorted(rows, key=lambda row: row.style != "bad")


def _fitted(hosts: list[Cells], look: Look, agreement: Agreement, rates: Rates, left: float) -> list[Cells]:
    """A row for each worker below its host where there is room for all of them, or else as many hosts as there is room for."""
    by_host = _by_host(look)
    most = min(left, MOST_WORKERS if math.isinf(left) else left) - len(hosts)
    if len(look.workers) > most or len(look.workers) == len(by_host):
        fits = len(hosts) <= left
        return hosts if fits else hosts[: max(0, int(left) - 1)]
    wrong, active = _wrong(agreement), {model.model: model.generation for model in look.fleet.models}
    rows: list[Cells] = []
    for host in hosts:
        of_it = by_host[host.cells[0]]
        rows.append(host)
        rows += [_row(f"  {_short(one)}", [one], rates, wrong, active) for one in of_it]
    return rows


def _short(worker: WorkerStatus) -> str:
    """Its name without its host, which stands above."""
    return worker.worker.removeprefix(f"{worker.host}:") or worker.member


def _row(
    name: str,
    workers: Sequence[WorkerStatus],
    rates: Rates,
    wrong: Mapping[str, Sequence[Difference]],
    active: Mapping[str, int | None],
) -> Cells:
    rate = rates.of(workers)
    kinds = {one.kind for worker in workers for one in wrong.get(worker.member, ())}
    errors = [str(worker.last_error) for worker in workers if worker.last_error]
    failed = sum(figure(worker, "errors") for worker in workers)
    is_one = name.startswith(" ")
    cells = (
        name,
        "" if is_one else str(len(workers)),
        words.size(sum(figure(worker, "bytes") for worker in workers)),
        "-" if rate is None else f"{rate:.0f}",
        f"{failed:.0f}",
        holds_of(workers, active),
        (errors[0] + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else "")) if errors else "-",
    )
    return Cells(cells, "bad" if kinds & _BAD else "news" if kinds or errors else "")


def holds_of(workers: Sequence[WorkerStatus], active: Mapping[str, int | None]) -> str:
    """`digits=4 ranker=3!9`: what these workers hold. Behind `!` the active generation, where one of them shows another; `?`: not loaded.

    Models in which something is not as it should be come first.
    """
    shown: defaultdict[str, set[int]] = defaultdict(set)
    unloaded: set[str] = set()
    for worker in workers:
        for model in worker.models:
            number = worker.generations.get(model)
            shown[model] |= set() if number is None else {number}
            unloaded |= {model} if number is None else set()
    odd = {m for m in shown if m in unloaded or (active.get(m) is not None and shown[m] - {active[m]})}
    names = sorted(shown, key=lambda m: (m not in odd, m))
    told = [_held(m, shown[m], m in unloaded, active.get(m)) for m in names[:NAMED_MODELS]]
    told += [f"+{len(names) - NAMED_MODELS} models"] if len(names) > NAMED_MODELS else []
    told += sorted(_loading(workers))[:1]
    return " ".join(told) or "-"


def _held(model: str, shown: set[int], is_unloaded: bool, active: int | None) -> str:
    numbers = "/".join(map(str, sorted(shown))) or "?"
    unloaded = "/?" if is_unloaded and shown else ""
    differs = active is not None and bool(shown - {active})
    return f"{model}={numbers}{unloaded}" + (f"!{active}" if differs else "")


def _loading(workers: Sequence[WorkerStatus]) -> set[str]:
    """`(loading digits 5: verify)` or `(loading digits 5: fetch 35 %)`, of what workers say they are loading now."""
    found = set()
    for worker in workers:
        loading = worker.about.get("loading")
        for model, about in loading.items() if isinstance(loading, dict) else ():
            if isinstance(about, dict):
                found.add(
                    f"(loading {model} {about.get('generation', '?')}: {about.get('step', '?')}{_percent(about)})"
                )
    return found


def _percent(about: Mapping[str, Any]) -> str:
    """How far a fetch is; nothing of other steps."""
    done, total = about.get("done"), about.get("total")
    if about.get("step") != "fetch" or not isinstance(done, int) or not isinstance(total, int) or total <= 0:
        return ""
    return f" {100 * done // total} %"


# --- room ---------------------------------------------------------------------------------------------------------


def _given(wanted: int, left: float, *, share: float, others: int) -> int:
    """Lines for one table: what it wants, or its share, or what the other one leaves."""
    if wanted + others <= left:
        return wanted
    return max(1, min(wanted, int(max(left * share, left - others)) - 1))


def _more(rows: Sequence[object], shown: int, noun: str) -> list[Line]:
    return [Line(f"… and {words.counted(len(rows) - shown, 'more ' + noun)}", "quiet")] if shown < len(rows) else []
