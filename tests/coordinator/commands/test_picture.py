"""What `genlock top` shows, for terminals of all sizes and fleets of all sizes."""

from typing import Any

import msgspec
import pytest
from genlock.coordinator.commands.layout import Room
from genlock.coordinator.commands.picture import Look, Rates, compared, figure, holds_of, picture_of, state_of
from genlock.coordinator.records import Member
from genlock.coordinator.status import (
    CandidateStatus,
    FleetStatus,
    ModelStatus,
    Note,
    WatchStatus,
    WorkerStatus,
    status_of_worker,
)

NOW = 1_700_000_000.0
MODEL = ModelStatus(
    model="digits",
    generation=4,
    version="0123456789abcdef",
    committed_at=NOW - 180,
    unproven=False,
    phase="idle",
    candidate=None,
    waits=None,
    pin=None,
    holders=4,
    poisoned=0,
    message="",
    author="ada@h",
)
CANDIDATE = CandidateStatus(
    generation=5, version="f" * 16, by="ada@h", ready=2, awaited=1, failed=1, fenced=0, deadline=NOW + 65
)
EVENTS = [f"12:00:0{n}  committed  digits generation={n}" for n in range(9)]


def changed(value: Any, **other: Any) -> Any:
    return msgspec.structs.replace(value, **other)


def worker(
    name: str, generation: int | None = 4, *, up_s: float = 10.0, hits: float = 100, **more: Any
) -> WorkerStatus:
    stats = {"uptime_s": up_s, "hits": hits, "misses": 0, "bytes": 2_000_000, "errors": 1}
    generations = {} if generation is None else {"digits": generation}
    about = {"worker": name, "host": name.partition(":")[0], "generations": generations, "stats": stats}
    return status_of_worker(Member(name, 1, ("digits",), about | more))


def look(*workers: WorkerStatus, models: list[ModelStatus] | None = None, events: list[str] | None = None) -> Look:
    facts: dict[str, Any] = {"id": "i", "epoch": 1, "revision": 9, "redis": "unix:///s", "store": "/mnt", "workers": 0}
    fleet = FleetStatus(name="prod", open=True, lease_s=3.0, models=[MODEL] if models is None else models, **facts)
    return Look(fleet, workers, EVENTS if events is None else events, NOW)


def told(found: Look, room: Room = Room(), rates: Rates | None = None, **more: Any) -> list[str]:  # noqa: B008 – a value
    return [line.text for line in picture_of(found, rates or Rates(), room, now=more.pop("now", NOW), **more)]


# --- all of it -------------------------------------------------------------------------------------------------------


def test_the_first_line_says_whether_all_agree() -> None:
    first, second, third, *_ = told(look(worker("a:1"), worker("a:2"), worker("b:1")))
    assert first == "all 3 workers agree: what they hold is what is active"
    assert second.startswith("fleet prod · 3 workers on 2 hosts · 1 model · lease 3 s · ")
    assert third == "redis unix:///s · store /mnt"


def test_who_differs_stands_first_and_is_marked() -> None:
    lines = picture_of(look(worker("a:1"), worker("b:1", 3), worker("b:2")), Rates(), Room(), now=NOW)
    assert lines[0].style == "bad" and "b:1: digits at 3, active is 4" in lines[0].text
    below = [line for line in lines if line.text[:2] in ("a ", "b ", "  ")]
    assert [(line.text.split()[0], line.style) for line in below] == [
        ("b", "bad"),
        ("1", "bad"),
        ("2", ""),
        ("a", ""),
        ("1", ""),
    ]
    assert "digits=3/4!4" in below[0].text and "digits=3!4" in below[1].text


def test_a_thousand_workers_are_a_line_for_each_host_and_fit() -> None:
    """The list of workers pushed the models off the screen."""
    many = [worker(f"host-{n // 10:02}:{n % 10}", 3 if n == 555 else 4) for n in range(1000)]
    lines = told(look(*many), Room(100, 24))
    assert len(lines) <= 24 and max(map(len, lines)) <= 100
    hosts = [line for line in lines if line.startswith("host-")]
    assert hosts[0].startswith("host-55") and len(hosts) >= 8
    assert f"… and {100 - len(hosts)} more hosts" in lines
    assert lines[-1] == EVENTS[-1]


def test_without_end_forty_workers_have_a_line_each_and_more_have_not() -> None:
    assert sum(line.startswith("  ") for line in told(look(*(worker(f"a:{n}") for n in range(39))))) == 39
    assert sum(line.startswith("  ") for line in told(look(*(worker(f"a:{n}") for n in range(40))))) == 0


def test_of_many_models_those_come_first_in_which_something_goes_on() -> None:
    models = [changed(MODEL, model=f"m{n:03}") for n in range(200)]
    models[150] = changed(models[150], phase="preparing", candidate=CANDIDATE)
    lines = told(look(worker("a:1"), models=models), Room(100, 30))
    assert len(lines) <= 30
    first = lines[lines.index(next(line for line in lines if line.startswith("MODEL"))) + 1]
    assert first.startswith("m150") and "preparing 5: 2 of 4 ready, 1 failed" in first
    assert any(line.endswith("more models") for line in lines) and any(line.startswith("a ") for line in lines)


@pytest.mark.parametrize("width", [200, 80, 40, 20, 1])
@pytest.mark.parametrize("height", [60, 24, 10, 3, 1])
def test_it_fits_every_terminal(width: int, height: int) -> None:
    """A window was made small for a moment, and it ended with an error."""
    found = look(*(worker(f"a:{n}", last_error="no memory" * 20) for n in range(30)), models=[MODEL] * 30)
    lines = told(found, Room(width, height), lost="Redis is gone")
    assert 0 < len(lines) <= height and max(map(len, lines)) <= width


def test_an_empty_fleet_has_a_picture() -> None:
    lines = told(look(models=[], events=[]))
    assert lines[0] == "no worker is a member of this fleet now" and lines[4].startswith("MODEL")


def test_last_errors_are_told_above_the_tables() -> None:
    """Nothing of the error was to be seen in 80 columns: its cell is the first to be left out."""
    error = "digits generation 4: signature: not signed"
    found = look(
        *(worker(f"a:{n}", last_error=error) for n in range(9)),
        worker("b:1", last_error="x"),
        worker("b:2", last_error="y"),
    )
    lines = told(found, Room(80, 24))
    assert lines[1:4] == [f"last error of a:0: {error}", "last error of b:1: x", "… and 1 more last error"]


def test_a_picture_of_before_says_how_old_it_is() -> None:
    """Redis was gone for an hour; the screen looked as good as ever."""
    lines = told(look(worker("a:1")), now=NOW + 75, lost="no Redis answers at unix:///s")
    assert lines[0] == "it is not known whether all workers agree: Redis has not answered for 1 min 15 s"
    assert lines[1:3] == ["no Redis answers at unix:///s", "what follows is 1 min 15 s old"]
    assert any("digits=4" in line for line in lines)


# --- cells -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, "-"),
        ({"phase": "preparing", "candidate": CANDIDATE}, "preparing 5: 2 of 4 ready, 1 failed"),
        ({"phase": "fencing", "candidate": changed(CANDIDATE, failed=0, fenced=3)}, "fencing 5: 3 of 6 fenced"),
        ({"phase": "canary", "candidate": changed(CANDIDATE, failed=0, share=0.05)}, "canary 5 answers 5%"),
        ({"waits": Note("ada"), "unproven": True}, "next waits · unproven"),
        ({"pin": Note("ada@h")}, "pinned by ada@h"),
        (
            {"watch": WatchStatus(generation=4, until=NOW + 30, policy=None, figures=None)},
            "watched for 30.0 s more",
        ),
    ],
)
def test_the_state_of_a_model(change: dict[str, Any], state: str) -> None:
    assert state_of(changed(MODEL, **change), NOW) == state


def test_figures_of_a_canary_stand_beside_those_of_the_active_one() -> None:
    figures = {
        "candidate": {"requests": 200, "errors": 3, "mean_s": 0.01, "p95_s": 0.021, "score": 0.9},
        "active": {"requests": 4000, "errors": 4, "mean_s": 0.01, "p95_s": 0.02, "score": None},
    }
    assert compared(figures) == "200 requests, errors 1.5% (active 0.1%), p95 21 ms (active 20 ms), score 0.9"
    empty = {"requests": 0, "errors": 0, "mean_s": None, "p95_s": None, "score": None}
    assert compared({"candidate": empty, "active": empty}) == "no request yet"
    assert compared(None) == ""


def test_what_a_host_holds_names_what_is_odd_first() -> None:
    names = [f"m{n}" for n in range(8)]
    about = {"worker": "a:1", "host": "a", "generations": {**dict.fromkeys(names[:7], 1), "m3": 2}}
    loading = {"loading": {"m7": {"generation": 1, "step": "verify", "since": NOW}, "m8": "text"}}
    one = status_of_worker(Member("1", 1, tuple(names), about | loading))
    assert holds_of([one], dict.fromkeys(names, 1)) == "m3=2!1 m7=? m0=1 m1=1 +4 models (loading m7 1: verify)"
    assert holds_of([], {}) == "-"
    for told, words in (
        ({"done": 7, "total": 20}, " 35 %"),
        ({"done": "x", "total": 20}, ""),
        ({"done": 0, "total": 0}, ""),
    ):
        loading = {"loading": {"m": {"generation": 1, "step": "fetch", "since": NOW, **told}}}
        one = status_of_worker(Member("1", 1, (), {"worker": "a:1"} | loading))
        assert holds_of([one], {}) == f"(loading m 1: fetch{words})"


# --- rates -----------------------------------------------------------------------------------------------------------


def test_rates_come_from_what_a_worker_says_one_time_and_the_next() -> None:
    """By the clock of who looks, a worker that speaks every ten seconds has a rate of nothing nine times, and then ten times its own."""
    rates, one = Rates(), worker("a:1", up_s=10, hits=100)
    rates.saw([one, worker("b:1")])
    assert rates.of([one]) is None
    rates.saw([one, worker("b:1")])
    assert rates.of([one]) is None, "it has said nothing new"
    rates.saw([worker("a:1", up_s=15, hits=600), worker("b:1")])
    rates.saw([worker("a:1", up_s=15, hits=600), worker("b:1")])
    assert rates.of([one, worker("b:1")]) == 100.0
    rates.saw([worker("b:1")])
    assert rates.of([one]) is None


def test_a_process_that_began_anew_under_the_same_id_has_no_negative_rate() -> None:
    rates, one = Rates(), worker("a:1", up_s=10, hits=100)
    for up_s, hits in ((10, 100), (12, 0)):
        rates.saw([worker("a:1", up_s=up_s, hits=hits)])
    assert rates.of([one]) == 0.0


@pytest.mark.parametrize("stats", ["text", {"bytes": "many"}, {"bytes": 10**400}, None])
def test_figures_that_are_none_count_nothing(stats: Any) -> None:
    assert figure(status_of_worker(Member("1", 1, (), {"stats": stats})), "bytes") == 0.0
