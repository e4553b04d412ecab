"""A canary with real gunicorn workers: who is answered by it, and what its policy does when the candidate, or what it became, is bad."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from genlock.coordinator import Fleet
from genlock.coordinator.canary import hundredths, place_of
from genlock.coordinator.errors import FlipAborted

WORKERS = 3
KEYS = [f"user-{n}" for n in range(120)]
#: Every second request has inputs that a broken model fails at.
INPUTS = ([[0.0] * 4], [[1.0] * 4])


def ask(service: Any, key: str | None = None, turn: int = 0) -> tuple[int, int, int | None, str]:
    """Status, generation, candidate (None: not marked) and worker of one answer."""
    headers = {} if key is None else {"X-Genlock-Key": key}
    status, told, found = service.ask("/evaluate/m", {"inputs": INPUTS[turn % 2]}, headers)
    candidate = told.get("x-genlock-candidate")
    return status, int(told["x-genlock-generation"]), int(candidate) if candidate else None, found.get("worker", "")


@pytest.fixture
def traffic() -> Iterator[Callable[[Any], list[Any]]]:
    """traffic(service): clients with keys ask all the while; the list of (seconds, status, generation, candidate), which grows."""
    stop, threads = threading.Event(), []

    def run(service: Any, number: int, seen: list[Any]) -> None:
        turn = number
        while not stop.wait(0.002):
            turn += 1
            try:
                status, generation, candidate, _ = ask(service, f"user-{turn * 7 % 997}", turn)
            except (OSError, http.client.HTTPException, ValueError) as error:
                status, generation, candidate = 0, 0, repr(error)
            seen.append((time.monotonic(), status, generation, candidate))

    def start(service: Any) -> list[Any]:
        seen: list[Any] = []
        threads.extend(threading.Thread(target=run, args=(service, n, seen), name=f"client {n}") for n in range(4))
        for thread in threads:
            thread.start()
        return seen

    yield start
    stop.set()
    for thread in threads:
        thread.join()


def test_a_canary_answers_a_share_of_the_users_until_it_is_promoted(
    trainer: Fleet, serve: Any, checkpoint: Callable[[float], Path], wait_for: Any
) -> None:
    """30 % of the keys, the same ones on every worker, in every request; their answers are marked, those of all others are not, and
    a request without a key is never tried on. After the promotion all are answered from the new generation."""
    trainer.publish("m", checkpoint(1.0))
    service = serve(WORKERS)
    flip = trainer.publish("m", checkpoint(2.0), canary="30%")
    assert (flip.outcome, flip.generation) == ("canary", 2)
    tried = {key for key in KEYS if place_of("m", 2, key) < hundredths(0.3)}
    sample = next(iter(tried))
    marked: set[str] = set()

    def is_everywhere() -> bool:
        _, _, candidate, worker = ask(service, sample)
        marked.update({worker} if candidate else ())
        return len(marked) == WORKERS

    wait_for(is_everywhere, 10, "every worker has heard of the canary")
    found: dict[str, set[int | None]] = {key: set() for key in KEYS}
    workers = set()
    for key in KEYS * 2:
        status, generation, candidate, worker = ask(service, key)
        assert (status, generation) == (200, 1), (
            "the number of a generation never goes back, whatever becomes of the canary"
        )
        found[key].add(candidate)
        workers.add(worker)
    assert len(workers) == WORKERS
    assert {key: seen for key, seen in found.items() if seen != ({2} if key in tried else {None})} == {}
    assert 0.15 < len(tried) / len(KEYS) < 0.45
    assert {ask(service)[:3] for _ in range(30)} == {(200, 1, None)}
    assert trainer.promote("m").outcome == "committed"
    assert {ask(service, key)[:3] for key in KEYS} == {(200, 2, None)}
    assert {answer.value for answer in service.each_worker()} == {2.0}


def test_a_policy_stops_what_is_bad_before_and_after_the_commit(
    trainer: Fleet,
    serve: Any,
    checkpoint: Callable[[float], Path],
    traffic: Any,
    wait_for: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nobody looks. Generation 2 fails at every second request of those who try it, and is aborted; 3 is good, and is committed; then a
    fault of it shows, and the fleet goes back to the content of 1 by itself, without a pin."""
    trainer.publish("m", checkpoint(1.0))
    service = serve(WORKERS, GENLOCK_MODELS="m=models:breakable")
    broken = service.hold.with_name("broken")
    broken.write_text("2.0")
    seen = traffic(service)
    how = {"canary": "50%", "policy": "errors=5%,requests=20,seconds=0"}
    with pytest.raises(FlipAborted, match=r"errors [0-9.]+ % against 0 %"):
        trainer.publish("m", checkpoint(2.0), **how)
    wait_for(lambda: seen[-1][3] is None and trainer.model("m").phase == "idle", 10, "nobody is tried on any more")
    hit = [row for row in seen if row[1] != 200]
    assert hit and {row[2:] for row in hit} == {(1, 2)} and {row[1] for row in hit} == {500}
    assert trainer.publish("m", checkpoint(3.0), **how).generation == 3
    watch = trainer.model("m").watch
    assert watch is not None and watch.generation == 3
    broken.write_text("3.0")
    wait_for(lambda: trainer.model("m").generation == 4, 20, "it is rolled back")
    status, [newest, *_] = trainer.model("m"), trainer.history("m")
    assert (newest.rollback_of, status.pin, status.watch) == (1, None, None)
    assert [event.facts["by"] for event in trainer.events(newest=50) if event.what == "candidate"][-1].startswith(
        "the policy"
    )
    assert {ask(service, key, turn)[:3] for turn, key in enumerate(KEYS[:40])} == {(200, 4, None)}
