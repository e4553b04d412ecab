"""worker/shelf.py: which view stands for a model, and which payloads stay in memory for it."""

from __future__ import annotations

import gc
import weakref

import pytest
from genlock.worker.limits import Use
from genlock.worker.loading import Loaded
from genlock.worker.orders import Shown
from genlock.worker.shelf import Shelf
from genlock.worker.slot import Key
from genlock.worker.trial import Trial, Tried
from genlock.worker.view import FOREVER, NEVER, Lease

#: Two generations of a model; the version tells the content.
ONE, TWO = (1, "a" * 64), (2, "b" * 64)


class Payload:
    """Something that a weak reference can be made to."""


@pytest.fixture
def lease() -> Lease:
    lease = Lease()
    lease.extend(100.0)
    return lease


@pytest.fixture
def shelf() -> Shelf:
    """Three payloads are loaded, by the handles 1 to 3; nothing is shown yet."""
    shelf = Shelf()
    for handle in (1, 2, 3):
        shelf.put(handle, Loaded(Payload(), handle * 1000, {}))
    return shelf


def leased(key: Key, handle: int, lease: Lease) -> Shown:
    return Shown(key, handle, "lease", lease)


# --- the map ---------------------------------------------------------------------------------------------------------


def test_each_mode_has_its_right_to_answer(shelf: Shelf, lease: Lease) -> None:
    """A fenced model that kept the lease would answer from memory after the fleet has left its generation (R1)."""
    shown = {"free": leased(ONE, 1, lease), "fenced": Shown(ONE, 2, "ask", None), "gone": Shown(TWO, 3, "stale", None)}
    shelf.show(shown, 5.0)
    views = shelf.views
    assert {model: view.lease for model, view in views.items()} == {"free": lease, "fenced": NEVER, "gone": FOREVER}
    assert {model for model, view in views.items() if view.stale} == {"gone"}
    assert (views["gone"].model, views["gone"].generation, views["gone"].version) == ("gone", *TWO)
    assert [view.bytes for view in views.values()] == [1000, 2000, 3000]


def test_what_shows_the_same_stays_the_same_object(shelf: Shelf, lease: Lease) -> None:
    """Requests count their uses on the view. Were all views made anew when one model changes, the uses that are being counted
    would go to objects that nobody adds up any more."""
    shelf.show({"a": leased(ONE, 1, lease), "b": leased(ONE, 2, lease)}, 5.0)
    before = shelf.views
    assert shelf.show({"a": leased(ONE, 1, lease), "b": leased(TWO, 3, lease)}, 6.0) is not None
    assert shelf.views["a"] is before["a"]
    assert shelf.views["b"] is not before["b"]


def test_a_map_that_was_read_is_never_changed(shelf: Shelf, lease: Lease) -> None:
    """`use_many` reads the map once: two models of one block have to be of one instant, whatever is shown meanwhile."""
    shelf.show({"a": leased(ONE, 1, lease)}, 5.0)
    read = shelf.views
    shelf.show({"b": leased(ONE, 2, lease)}, 6.0)
    assert (read.keys(), shelf.views.keys()) == ({"a"}, {"b"})


def test_nothing_new_is_nothing_to_publish(shelf: Shelf, lease: Lease) -> None:
    """It is asked before every call: the map would be published, and people told, some hundred times a second."""
    assert shelf.show({}, 5.0) is None
    shelf.show({"a": leased(ONE, 1, lease)}, 5.0)
    before = shelf.views
    assert shelf.show({"a": leased(ONE, 1, lease)}, 6.0) is None
    assert shelf.views is before


def test_another_membership_is_another_view(shelf: Shelf, lease: Lease) -> None:
    """R10: the lease of the membership before has ended for ever; a view that went on referring to it would always ask."""
    shelf.show({"a": leased(ONE, 1, lease)}, 5.0)
    again = Lease()
    assert shelf.show({"a": leased(ONE, 1, again)}, 6.0) == (), "of the content there is nothing new to keep"
    assert shelf.views["a"].lease is again


def test_what_cannot_be_shown_changes_nothing(shelf: Shelf, lease: Lease) -> None:
    """A fault of ours: a handle that was let go. The runtime goes on after it, and must not find that all is shown already: it would
    say "fenced" while requests still answer from the map before (R1)."""
    shelf.show({"a": leased(ONE, 1, lease), "b": leased(ONE, 2, lease)}, 5.0)
    before = shelf.views
    wrong = {"a": Shown(ONE, 1, "ask", None), "b": leased(TWO, 9, lease)}
    for _ in range(2):
        with pytest.raises(KeyError):
            shelf.show(wrong, 6.0)
    assert shelf.views is before
    shelf.put(9, Loaded(Payload(), 9000, {}))
    assert shelf.show(wrong, 7.0) == ("b",)
    assert shelf.views["a"].lease is NEVER


def test_a_flip_does_not_make_a_model_look_used(shelf: Shelf, lease: Lease) -> None:
    """Else a model that nobody asks for would outlive its TTL, and others its turn in the LRU, for as long as a trainer publishes it."""
    shelf.show({"a": leased(ONE, 1, lease)}, 5.0)
    assert shelf.views["a"].used_at == 5.0, "it was loaded just now, for somebody"
    shelf.show({"a": leased(TWO, 2, lease)}, 900.0)
    assert shelf.views["a"].used_at == 5.0


# --- what is worth keeping -------------------------------------------------------------------------------------------


def test_only_another_content_under_a_lease_is_worth_keeping(shelf: Shelf, lease: Lease) -> None:
    """The note on disk is what a worker starts from without Redis: nothing may get there that the fleet did not say is active, and
    a model that did not change shall not cost a flush of the disk whenever another one does."""
    assert shelf.show({"a": Shown(ONE, 1, "stale", None), "b": Shown(ONE, 2, "ask", None)}, 5.0) == ()
    assert shelf.show({"a": leased(ONE, 1, lease), "b": Shown(ONE, 2, "ask", None)}, 6.0) == ("a",)
    assert shelf.show({"a": leased(ONE, 1, lease), "b": leased(ONE, 2, lease)}, 7.0) == ("b",)
    assert shelf.show({"a": Shown(ONE, 1, "ask", None), "b": leased(ONE, 2, lease)}, 8.0) == ()
    assert shelf.show({"a": leased(TWO, 3, lease), "b": leased(ONE, 2, lease)}, 9.0) == ("a",)
    assert shelf.show({}, 10.0) == ()


# --- answers ---------------------------------------------------------------------------------------------------------


def test_who_asked_gets_the_view_that_is_shown(shelf: Shelf) -> None:
    """A fenced model is used as ever, and its uses have to be counted on the view that the figures are added up from."""
    shelf.show({"a": Shown(ONE, 1, "ask", None)}, 5.0)
    assert shelf.answer("a", ONE, 1, False) is shelf.views["a"]


@pytest.mark.parametrize(("key", "handle"), [(TWO, 2), (ONE, 2), (TWO, 1)], ids=["flipped", "refreshed", "republished"])
def test_an_answer_may_be_ahead_of_the_map(shelf: Shelf, lease: Lease, key: Key, handle: int) -> None:
    """The reply named what is active at the server: the payload that is still shown is the one before. Another payload of the same
    generation (a refresh), and another generation of the same payload (a rollback), are not what is shown either."""
    shelf.show({"a": leased(ONE, 1, lease)}, 5.0)
    view = shelf.answer("a", key, handle, False)
    assert view is not shelf.views["a"]
    assert (view.model, view.generation, view.version, view.bytes) == ("a", *key, handle * 1000)
    assert view.lease is NEVER, "it answers this one request"
    assert not view.stale


def test_an_answer_to_a_model_that_was_dropped_meanwhile(shelf: Shelf) -> None:
    """Dropped between the reply and its delivery: the request was promised an answer, and the payload is still there."""
    view = shelf.answer("a", TWO, 2, False)
    assert (view.generation, view.bytes) == (2, 2000)


def test_a_stale_answer_is_marked_and_what_is_shown_is_not(shelf: Shelf) -> None:
    """One worker whose Redis is gone for one call must not mark the answers of all that come after."""
    shelf.show({"a": Shown(ONE, 1, "ask", None)}, 5.0)
    view = shelf.answer("a", ONE, 1, True)
    assert (view.stale, shelf.views["a"].stale) == (True, False)
    assert view.payload is shelf.views["a"].payload
    shelf.show({"a": Shown(ONE, 1, "stale", None)}, 6.0)
    assert shelf.answer("a", ONE, 1, True) is shelf.views["a"], "it is marked, and counts the uses"


# --- what it costs ---------------------------------------------------------------------------------------------------


def test_what_is_not_loaded_yet_is_not_old(shelf: Shelf, lease: Lease) -> None:
    """A model that is held and still loading has no view: were it the oldest, the next one would push it out, and both would load
    for ever."""
    shelf.show({"a": leased(ONE, 1, lease)}, 5.0)
    shelf.views["a"].used_at = 7.0
    assert shelf.uses(["loading", "a"], 9.0) == [Use("loading", 0, 9.0), Use("a", 1000, 7.0)]


def test_what_nothing_needs_is_let_go(shelf: Shelf, lease: Lease) -> None:
    """A worker grew by a generation with every publish. It says so once: giving memory back to the system is a chore of its own."""
    shelf.show({"a": leased(ONE, 1, lease)}, 5.0)
    gone = weakref.ref(shelf.answer("b", TWO, 2, False).payload)
    assert shelf.let_go({1, 3})
    gc.collect()
    assert gone() is None
    assert not shelf.let_go({1, 3})
    assert shelf.answer("a", TWO, 3, False).bytes == 3000, "the way back stays warm"


def test_what_a_request_still_uses_outlives_its_place(shelf: Shelf, lease: Lease) -> None:
    """The reference is the hold: a slow request goes on with the generation it began with, and then its memory is free."""
    shelf.show({"a": leased(ONE, 1, lease)}, 5.0)
    used = shelf.views["a"]
    payload = weakref.ref(used.payload)
    shelf.show({"a": leased(TWO, 2, lease)}, 6.0)
    shelf.let_go({2})
    gc.collect()
    assert payload() is used.payload
    del used
    gc.collect()
    assert payload() is None


# --- canaries --------------------------------------------------------------------------------------------------------


def trying(lease: Lease, step: int = 1) -> Shown:
    """Generation 1 answers; 2, handle 3, is its canary."""
    trial = Trial("a", Tried((2, step, 10_000), None), "1")
    return leased(ONE, 1, lease)._replace(trial=trial, other=(TWO, 3))


def test_a_canary_is_a_view_of_its_own_beside_the_active_one(shelf: Shelf, lease: Lease) -> None:
    """Marked: the number of what is active, payload and version of the candidate, under the same lease."""
    what = trying(lease)
    shelf.show({"a": what}, 5.0)
    view = shelf.views["a"]
    assert (view.generation, view.version, view.candidate, view.bytes) == (*ONE, None, 1000)
    assert view.arms is not None and view.arms.trial is what.trial
    other = view.arms.other
    assert other is not None and other.payload is not view.payload
    assert (other.model, other.generation, other.version, other.candidate) == ("a", 1, TWO[1], 2)
    assert (other.lease, other.stale, other.bytes, other.arms) == (lease, False, 3000, None)


def test_another_step_is_another_view(shelf: Shelf, lease: Lease) -> None:
    """Requests count in the trial that their view has: in the one before, nobody would ever report it."""
    first = trying(lease)
    shelf.show({"a": first}, 5.0)
    before = shelf.views["a"]
    assert shelf.show({"a": first}, 6.0) is None
    assert shelf.show({"a": trying(lease, 2)}, 6.0) == ()
    assert shelf.views["a"] is not before
    assert shelf.show({"a": leased(ONE, 1, lease)}, 7.0) == ()
    assert shelf.views["a"].arms is None


def test_a_watch_has_no_other(shelf: Shelf, lease: Lease) -> None:
    trial = Trial("a", Tried((1, 0, 0), None), "1")
    shelf.show({"a": leased(ONE, 1, lease)._replace(trial=trial)}, 5.0)
    arms = shelf.views["a"].arms
    assert arms is not None and (arms.trial, arms.other) == (trial, None)


def test_who_had_to_ask_takes_no_part_in_a_canary(shelf: Shelf, lease: Lease) -> None:
    """Its answer is from what Redis just said is active; it counts on the view of the map."""
    shelf.show({"a": trying(lease)}, 5.0)
    view = shelf.answer("a", ONE, 1, stale=False)
    assert view is shelf.views["a"] and view.candidate is None
    assert shelf.answer("a", ONE, 1, stale=True).arms is None


def test_a_canary_that_is_over_leaves_no_payload(shelf: Shelf, lease: Lease) -> None:
    shelf.show({"a": trying(lease)}, 5.0)
    arms = shelf.views["a"].arms
    assert arms is not None and arms.other is not None
    gone = weakref.ref(arms.other.payload)
    del arms
    shelf.show({"a": leased(ONE, 1, lease)}, 6.0)
    assert shelf.let_go({1})
    gc.collect()
    assert gone() is None
