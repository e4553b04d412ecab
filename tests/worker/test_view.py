"""The request path's values: what a lease permits, what a copy of a view shares, what a request may count."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import pytest
from genlock.coordinator.clock import clock as coordinator_clock
from genlock.worker.view import NEVER, Lease, View, clock


class Payload:
    """Something that a weak reference can be made to."""


def view_of(payload: object = None, **changes: object) -> View:
    facts: dict[str, object] = {
        "model": "digits",
        "payload": payload,
        "generation": 4,
        "version": "ab" * 32,
        "candidate": 5,
        "bytes": 1024,
    }
    return View(**(facts | changes))  # type: ignore[arg-type]


def test_a_lease_begins_without_any_right():
    """A view installed before the first heartbeat's reply must not answer from memory, whatever the clock
    shows.
    """
    assert Lease().deadline == float("-inf")


def test_a_late_reply_never_shortens_a_lease():
    """R3: replies come in another order than their requests; the older one would cut off a right that was
    granted.
    """
    lease = Lease()
    lease.extend(12.0)
    lease.extend(11.0)
    assert lease.deadline == 12.0
    lease.extend(13.5)
    assert lease.deadline == 13.5


def test_an_ended_lease_never_runs_again():
    """R10: evicted, left, or a new epoch. A heartbeat's reply of the old membership that comes after that
    renewed the right of every old view, and they answered from a generation that the fleet had left."""
    lease = Lease()
    lease.extend(12.0)
    lease.end()
    lease.extend(99.0)
    assert lease.deadline == float("-inf")
    lease.end()
    assert lease.ended


def test_never_stays_never():
    """All views that must ask share one lease: one stray extend would lift every fence of the process."""
    before = NEVER.deadline
    NEVER.extend(1e12)
    assert NEVER.deadline == before == float("-inf")


def test_a_lease_has_no_room_for_more():
    """A misspelt attribute (`lease.dealine = …`) must fail, not leave a lease that silently never runs."""
    with pytest.raises(AttributeError):
        Lease().dealine = 3.0  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        view_of().used = 1  # type: ignore[attr-defined]


def test_a_lease_tells_its_state():
    lease = Lease()
    lease.extend(12.5)
    assert repr(lease) == "Lease(deadline=12.5)"
    lease.end()
    assert "ended" in repr(lease)


@pytest.mark.parametrize("make", [View.must_ask, View.as_stale, lambda view: view.under(Lease())])
def test_a_copy_is_the_same_answer(make):
    """A fence replaces the view for milliseconds; it must lose nothing of what answers are marked with."""
    original = view_of(Payload(), lease=Lease(), used_at=7.0)
    made = make(original)
    for name in ("model", "payload", "generation", "version", "candidate", "bytes", "used_at"):
        assert getattr(made, name) is getattr(original, name), name
    assert made is not original


def test_a_copy_counts_from_zero():
    """The uses of a replaced view are added to the model's when it goes; a copy that began with them
    counted them twice.
    """
    original = view_of()
    original.uses = 41
    assert original.must_ask().uses == 0
    assert original.uses == 41


def test_what_each_copy_changes():
    lease, other = Lease(), Lease()
    original = view_of(lease=lease)
    assert original.must_ask().lease is NEVER
    assert original.must_ask().stale is False
    assert original.under(other).lease is other
    assert original.as_stale().stale is True
    assert original.as_stale().lease is lease
    assert original.as_stale().must_ask().stale is True
    assert (original.lease, original.stale) == (lease, False)


def test_views_of_one_membership_end_together():
    """Eviction is heard once; every model's view must lose its right by that one write, before the next
    request.
    """
    lease = Lease()
    views = [view_of(lease=lease, model=name) for name in ("encoder", "ranker")]
    lease.extend(50.0)
    assert all(view.lease.deadline > 10.0 for view in views)
    lease.end()
    assert not any(view.lease.deadline > 10.0 for view in views)


def test_a_view_without_a_lease_must_ask():
    """Whoever forgets the lease gets a slow view, never one that answers without a right."""
    assert view_of().lease is NEVER


def test_a_block_gets_the_view_and_keeps_errors():
    """`with cache.use(…)` must not swallow what the user's code raises."""
    view = view_of()
    with view as held:
        assert held is view
    with pytest.raises(ZeroDivisionError), view:
        raise ZeroDivisionError


def test_a_payload_lives_as_long_as_a_request_holds_it():
    """A flip replaced the map while a request was computing: its tensors must not go, and must go right
    after.
    """
    payload = Payload()
    gone = weakref.ref(payload)
    views = {"digits": view_of(payload)}
    del payload
    with views["digits"] as held:
        views = {"digits": view_of(Payload(), generation=5)}
        gc.collect()
        assert held.payload is gone()
    del held
    gc.collect()
    assert gone() is None
    assert views["digits"].generation == 5


def test_a_view_names_itself_without_its_payload():
    """A log line with a view in it printed a model of 200 MB."""
    text = repr(view_of(payload="x" * 10_000).as_stale())
    assert text == "View('digits', generation=4, version='abababababab', stale, candidate=5)"
    assert "stale" not in repr(view_of())
    assert "candidate" not in repr(view_of(candidate=None))


def test_no_use_is_lost_between_threads():
    """Eight threads count on one view with a thread change wherever the interpreter allows one. Should a
    later one change threads inside `uses += 1`, hit rates become wrong, and this says so."""
    view, rounds = view_of(), 4_000
    start = threading.Barrier(8)

    def requests() -> None:
        start.wait(timeout=30)
        for _ in range(rounds):
            view.uses += 1
            view.used_at = clock()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=requests) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    finally:
        sys.setswitchinterval(interval)
    assert view.uses == 8 * rounds
    assert view.used_at <= clock()


def test_leases_and_watchers_are_measured_on_one_clock():
    """R5: a worker's lease on CLOCK_MONOTONIC went on for the minute that a laptop slept; its watcher's clock
    had not stopped, so it was evicted, and answered from the old generation."""
    assert clock is coordinator_clock


def test_without_a_canary_scores_and_ends_are_nothing():
    """Users call them in every request; a view is shared by all of them, and must not keep anything of one."""
    view = view_of(candidate=None)
    before = {name: getattr(view, name) for name in View.__slots__ if hasattr(view, name)}
    assert view.arms is None
    view.score(0.5)
    view.ended(failed=True)
    assert {name: getattr(view, name) for name in before} == before


def test_a_stale_copy_takes_no_part_in_a_canary():
    """Only what answers under a lease does."""
    arms = object()
    assert view_of(arms=arms).arms is arms
    assert view_of(arms=arms).as_stale().arms is None
