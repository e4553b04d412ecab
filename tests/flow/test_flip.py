"""The whole loop with real gunicorn workers: what a team would see happen, and what must hold."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from genlock.coordinator import Fleet
from genlock.coordinator.errors import FlipRejected, Pinned
from genlock.worker.demo.history import order_violations
from safetensors.torch import save_file


def assert_clean(clients: Any) -> None:
    clients.stop()
    assert clients.errors == []
    assert [a for a in clients.answers if a.status != 200] == []
    assert [a for a in clients.answers if a.stale] == []
    assert order_violations(clients.answers) == []
    assert len(clients.answers) > 20


def test_a_publish_reaches_all_workers_at_one_instant(
    trainer: Fleet, serve: Any, checkpoint: Callable[[float], Path], ask_all_the_while: Any
) -> None:
    """Four workers hold generation 1. Once publish() of generation 2 has returned, no request that starts is answered from 1; nobody
    saw an error, a stale answer, or 1 after 2."""
    trainer.publish("m", checkpoint(1.0))
    service = serve(4)
    clients = ask_all_the_while(service)
    flip = trainer.publish("m", checkpoint(2.0))
    after = [service.evaluate() for _ in range(40)]
    assert {a.generation for a in after} == {flip.generation} == {2}
    assert {a.value for a in after} == {2.0}
    assert len(flip.workers) == 4
    assert_clean(clients)
    assert {(a.generation, a.value) for a in clients.answers} <= {(1, 1.0), (2, 2.0)}


def test_a_rollback_goes_to_the_content_before_and_pins(
    trainer: Fleet, serve: Any, checkpoint: Callable[[float], Path], ask_all_the_while: Any
) -> None:
    """Generation 2 is a mistake: a rollback makes generation 3 of the content of 1, and the trainer's next save does not undo it."""
    trainer.publish("m", checkpoint(1.0))
    service = serve(2)
    trainer.publish("m", checkpoint(2.0))
    clients = ask_all_the_while(service)
    flip = trainer.rollback("m")
    after = [service.evaluate() for _ in range(20)]
    assert {(a.generation, a.value) for a in after} == {(3, 1.0)}
    assert flip.generation == 3
    with pytest.raises(Pinned):
        trainer.publish("m", checkpoint(4.0))
    assert_clean(clients)


def test_a_rejected_candidate_changes_nothing(
    trainer: Fleet, serve: Any, checkpoint: Callable[[float], Path], ask_all_the_while: Any, tmp_path: Path
) -> None:
    """A checkpoint full of NaN is refused by the fleet before anybody serves it; the error names worker, step and reason."""
    trainer.publish("m", checkpoint(1.0))
    service = serve(4)
    clients = ask_all_the_while(service)
    with pytest.raises(FlipRejected) as rejected:
        trainer.publish("m", checkpoint(float("nan")))
    assert rejected.value.step == "check"
    assert "bias" in rejected.value.why
    assert {(a.generation, a.value) for a in (service.evaluate() for _ in range(20))} == {(1, 1.0)}
    save_file({"weight": torch.ones(5), "bias": torch.zeros(5)}, tmp_path / "other.safetensors")
    with pytest.raises(FlipRejected) as shapes:
        trainer.publish("m", tmp_path / "other.safetensors")
    assert shapes.value.step == "shapes"
    assert trainer.publish("m", checkpoint(5.0)).outcome == "committed"
    assert_clean(clients)


def test_a_worker_killed_while_it_prepares_delays_nobody_for_long(
    trainer: Fleet,
    serve: Any,
    checkpoint: Callable[[float], Path],
    background: Any,
    wait_for: Any,
    ask_all_the_while: Any,
) -> None:
    """SIGKILL hits one of four workers that load the candidate. The arbiter reports it, or a watcher evicts it; the others commit; the
    worker that takes its place comes up with what is active."""
    trainer.publish("m", checkpoint(1.0))
    service = serve(4)
    service.hold.touch()
    flip = background(lambda: trainer.publish("m", checkpoint(2.0), timeout=30))
    loading = wait_for(lambda: list(service.folder.glob("loading-*")), 20, "a worker loads")
    os.kill(int(loading[0].name.partition("-")[2]), signal.SIGKILL)
    service.hold.unlink()
    assert flip.result(30).outcome == "committed"
    wait_for(lambda: trainer.model("m").holders == 4, 30, "another worker takes its place")
    assert {(a.generation, a.value) for a in service.each_worker()} == {(2, 2.0)}


def test_who_joins_while_a_candidate_is_prepared_serves_what_the_fleet_serves(
    trainer: Fleet, serve: Any, checkpoint: Callable[[float], Path], background: Any, wait_for: Any, tmp_path: Path
) -> None:
    """A second service of the same fleet, on another host, starts in the middle of PREPARING. It is not waited for, and never answers
    from anything but what is active."""
    trainer.publish("m", checkpoint(1.0))
    first = serve(2)
    first.hold.touch()
    flip = background(lambda: trainer.publish("m", checkpoint(2.0), timeout=60))
    wait_for(lambda: list(first.folder.glob("loading-*")), 20, "a worker loads")
    late = serve(2, GENLOCK_STATE_DIR=str(tmp_path / "another host"))
    assert {a.generation for a in (late.evaluate() for _ in range(10))} == {1}
    first.hold.unlink()
    assert flip.result(60).outcome == "committed"
    for service in (first, late):
        assert {(a.generation, a.value) for a in (service.evaluate() for _ in range(20))} == {(2, 2.0)}


def test_the_trainer_may_overwrite_its_file_right_after_the_publish(
    trainer: Fleet, serve: Any, checkpoint: Callable[[float], Path], ask_all_the_while: Any, tmp_path: Path
) -> None:
    """The trainer truncates and rewrites its own file in place, again and again, while workers hold mapped tensors of it: they map the
    store's copy, which nobody changes."""
    path = checkpoint(1.0)
    trainer.publish("m", path)
    service = serve(2)
    clients = ask_all_the_while(service)
    trainer.publish("m", checkpoint(2.0))
    for n in range(50):
        path.write_bytes(b"\0" * (n * 100))
    assert {(a.generation, a.value) for a in (service.evaluate() for _ in range(20))} == {(2, 2.0)}
    assert_clean(clients)


def test_leaving_workers_are_waited_for_by_nobody(
    trainer: Fleet, serve: Any, checkpoint: Callable[[float], Path], wait_for: Any
) -> None:
    """TERM ends the service; its workers leave. A publish afterwards commits at once, without a lease of waiting."""
    trainer.publish("m", checkpoint(1.0))
    service = serve(2)
    wait_for(lambda: len(trainer.workers()) == 2, 20, "both are members")
    service.stop()
    assert trainer.workers() == []
    flip = trainer.publish("m", checkpoint(2.0))
    assert flip.unproven
