"""worker/signatures.py: which models answer for a signature, whoever changes that at the same time."""

from __future__ import annotations

import threading

import pytest
from genlock.coordinator.errors import DoesNotFit
from genlock.coordinator.records import Record
from genlock.coordinator.reply import Active
from genlock.worker.signatures import Known, Signatures, UnknownSignature, in_fleet, models_of

A, B, C = ({name: f"s--{name}"} for name in "abc")


@pytest.fixture
def signatures() -> Signatures:
    return Signatures(max_models=3)


class NoLock:
    """Who takes it fails."""

    def __enter__(self) -> None:
        raise AssertionError("requests read without a lock")

    def __exit__(self, *_: object) -> None: ...


def test_two_first_uses_at_once_come_to_one_batch(signatures: Signatures) -> None:
    """One of them has listed the folder before the second file came."""
    assert signatures.begin("s", B) == B
    assert list(signatures.begin("s", {**C, **A})) == ["a", "b", "c"]
    assert signatures.batches["s"] == {**A, **B, **C}


def test_what_is_new_joins_the_batch_that_was_seen(signatures: Signatures) -> None:
    seen = signatures.begin("s", B)
    assert signatures.join("s", seen, A)
    assert list(signatures.batches["s"]) == ["a", "b"]


def test_what_is_new_does_not_join_a_batch_that_was_forgotten(signatures: Signatures) -> None:
    """The thread that looks waits until this worker has loaded a new model; meanwhile somebody clears the fleet. Then the batch was
    the new model alone, and answers came from that for as long as the process ran."""
    seen = signatures.begin("s", {**A, **B})
    signatures.forget("s")
    assert not signatures.join("s", seen, C)
    assert signatures.batches == {}, "the next use looks up all of it"
    again = signatures.begin("s", {**A, **B})
    assert not signatures.join("s", seen, C), "this is another one, whatever it holds"
    assert signatures.join("s", again, C)


def test_one_or_all_are_forgotten(signatures: Signatures) -> None:
    for rqa_sig in ("s", "t", "u"):
        signatures.begin(rqa_sig, A)
    signatures.forget("s")
    assert set(signatures.batches) == {"t", "u"}
    signatures.forget()
    assert signatures.batches == {}


def test_a_batch_is_replaced_as_a_whole(signatures: Signatures) -> None:
    signatures.begin("s", {**A, **B})
    signatures.replace("s", C, {"s--c"})
    assert (signatures.batches["s"], signatures.doubtful) == (C, {"s--c"})
    signatures.replace("s", {})
    assert signatures.batches == {}


def test_more_models_than_a_worker_holds_are_refused_wherever_they_come_from(signatures: Signatures) -> None:
    more = models_of("s", "wxyz")
    for change in (lambda: signatures.begin("s", more), lambda: signatures.replace("s", more)):
        with pytest.raises(DoesNotFit, match="has 4 models, a worker holds at most 3"):
            change()
    seen = signatures.begin("s", {**A, **B})
    with pytest.raises(DoesNotFit):
        signatures.join("s", seen, {"x": "s--x", "y": "s--y"})
    assert signatures.batches["s"] is seen


def test_a_doubtful_model_is_left_out_once(signatures: Signatures) -> None:
    signatures.begin("s", {**A, **B}, doubtful={"s--a", "s--b"})
    assert not signatures.is_left_out("s", "s--b")
    assert signatures.leave_out("s", "s--b", 4)
    assert not signatures.leave_out("s", "s--b", 4), "another request was faster"
    assert signatures.is_left_out("s", "s--b")
    assert signatures.is_unfit("s--b", 4) and not signatures.is_unfit("s--b", 5)
    assert not signatures.leave_out("s", "s--a", 4), "the last one says what is wrong"
    assert signatures.batches["s"] == A


def test_a_model_that_has_answered_is_not_left_out(signatures: Signatures) -> None:
    signatures.begin("s", {**A, **B}, doubtful={"s--a"})
    signatures.proven(("s--a", "s--b"))
    assert not signatures.leave_out("s", "s--a", 4)
    assert not signatures.leave_out("s", "s--b", 4), "it never was in doubt"


def test_hits_take_no_lock_after_a_model_was_left_out(signatures: Signatures, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bad file beside the good ones, and every later request of the process waited for the lock of all."""
    signatures.begin("s", {**A, **B}, doubtful={"s--b"})
    signatures.leave_out("s", "s--b", 1)
    signatures.begin("t", C, doubtful={"s--c"})
    monkeypatch.setattr(signatures, "_lock", NoLock())
    signatures.proven(("s--a",))
    with pytest.raises(AssertionError, match="without a lock"):
        signatures.proven(("s--c",))


def test_what_was_found_unfit_is_known(signatures: Signatures) -> None:
    signatures.found_unfit("s--a", 2)
    assert signatures.is_unfit("s--a", 2)
    assert not signatures.is_unfit("s--a", 3)


def test_threads_that_change_it_lose_nothing(signatures: Signatures) -> None:
    def begin(number: int) -> None:
        for turn in range(50):
            signatures.begin(f"{number}-{turn}", A)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(signatures.batches) == 200


def test_what_the_fleet_has_of_signatures() -> None:
    """Only active generations of models that are named as signatures' are."""
    active = Active(gen=3, version="v", epoch=1, poison="p")
    unproven = Active(gen=1, version="v", epoch=1, unproven=True)
    records = {
        "s--a": Record(next=9, active=active),
        "s--b": Record(next=9, active=unproven),
        "s--c": Record(next=1),
        "t--a": Record(next=9, active=active, poison={"p": 3}),
        "digits": Record(next=9, active=active),
    }
    assert in_fleet(records) == {
        "s": {"a": Known(3, False), "b": Known(1, True)},
        "t": {"a": Known(3, True)},
    }


def test_the_error_says_which_signature() -> None:
    assert str(UnknownSignature("s", "nobody has it")) == "the signature 's': nobody has it"
