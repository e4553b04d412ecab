"""The clock of leases, and how far it is trusted (R2, R5)."""

import time

import pytest
from genlock.coordinator.clock import DRIFT, MARGIN_S, clock, patience_s, usable_s


def test_the_clock_goes_forward_in_seconds() -> None:
    before, reference = clock(), time.monotonic()
    while time.monotonic() - reference < 0.005:
        pass
    assert 0.004 < clock() - before < 60


def test_it_goes_on_while_the_machine_sleeps() -> None:
    """A lease that ran out during a suspend has run out; monotonic clocks of Linux stand still then."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        assert time.clock_gettime(time.CLOCK_BOOTTIME) <= clock() <= time.clock_gettime(time.CLOCK_BOOTTIME)
    else:
        assert time.monotonic() <= clock() <= time.monotonic()


def test_the_numbers_of_the_protocol() -> None:
    """Of a lease of 3 s a worker uses 2.65 s, a watcher waits 3.35 s."""
    assert usable_s(3.0) == pytest.approx(2.65)
    assert patience_s(3.0) == pytest.approx(3.35)


@pytest.mark.parametrize("lease_s", (0.2, 1.0, 3.0, 60.0))
@pytest.mark.parametrize("worker", (1 - DRIFT / 2, 1.0, 1 + DRIFT / 2))
@pytest.mark.parametrize("watcher", (1 - DRIFT / 2, 1.0, 1 + DRIFT / 2))
def test_r5_a_watcher_waits_longer_than_any_worker_answers(lease_s: float, worker: float, watcher: float) -> None:
    """Whatever their clocks do within the drift, and a worker may take the margin between looking and answering.

    worker      sends a heartbeat, looks at its clock last at `usable`, answers a margin later
    watcher     sees that beat after it was sent, evicts after `patience`
    """
    stops_answering = usable_s(lease_s) / worker + MARGIN_S
    evicts = patience_s(lease_s) / watcher
    assert stops_answering < evicts
