"""Redis stops and starts again under real workers: they go on answering, marked, and heal (promises 4 and 5)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from genlock.coordinator import Fleet


def test_workers_go_on_without_redis_and_heal_the_one_that_comes_back_empty(
    environment: dict[str, str],
    serving: Any,
    serve: Any,
    checkpoint: Callable[[float], Path],
    tmp_path: Path,
    wait_for: Any,
) -> None:
    """The server ends; after a lease every answer is marked stale, and none fails. A server without any data starts at the same
    address: the workers restore generation 2 from memory, and the next publish becomes 3."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with serving(folder) as url:
        environment["GENLOCK_REDIS_URL"] = url
        trainer = Fleet.from_env(environ=environment)
        trainer.publish("m", checkpoint(1.0))
        service = serve(3)
        trainer.publish("m", checkpoint(2.0))
        # Who has fenced but not yet read that all did would go on, marked, with the generation before: first all have to have read it.
        wait_for(lambda: {(a.generation, a.stale) for a in service.each_worker()} == {(2, False)}, 20, "all know of 2")
    wait_for(lambda: all(a.stale for a in service.each_worker()), 20, "answers are marked stale")
    gone = [service.evaluate() for _ in range(30)]
    assert {(a.status, a.generation, a.value, a.stale) for a in gone} == {(200, 2, 2.0, True)}
    assert service.ask("/livez")[0] == 200
    (folder / "s").unlink(missing_ok=True)
    with serving(folder):
        wait_for(lambda: not any(a.stale for a in service.each_worker()), 30, "answers are not marked any more")
        assert {(a.generation, a.value) for a in (service.evaluate() for _ in range(20))} == {(2, 2.0)}
        flip = trainer.publish("m", checkpoint(3.0))
        assert flip.generation == 3
        assert {(a.generation, a.value) for a in (service.evaluate() for _ in range(20))} == {(3, 3.0)}
        service.stop()
        trainer.close()


def test_a_service_that_starts_without_redis_answers_from_the_last_good_generation(
    environment: dict[str, str],
    serving: Any,
    serve: Any,
    checkpoint: Callable[[float], Path],
    tmp_path: Path,
    wait_for: Any,
) -> None:
    """A host reboots while Redis is down: its workers start from what its own disk remembers, marked."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with serving(folder) as url:
        environment["GENLOCK_REDIS_URL"] = url
        trainer = Fleet.from_env(environ=environment)
        trainer.publish("m", checkpoint(7.0))
        service = serve(1)
        wait_for(lambda: list((tmp_path / "state" / "last_good").rglob("m.json")), 20, "the last good one is noted")
        service.stop()
        trainer.close()
    service = serve(1, members=0)
    answer = service.evaluate()
    assert (answer.status, answer.generation, answer.value, answer.stale) == (200, 1, 7.0, True)
    service.stop()
