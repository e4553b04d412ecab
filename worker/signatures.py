"""The signatures that a process has used, and which models answer for each: their batches. No I/O, no thread.

What changes them does so under one lock, and replaces what is there as a whole; requests read without it. A batch that is made out of
an older one is put in only while that is still the very one in use: whoever has forgotten a batch wants it looked up from the beginning.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..coordinator.errors import DoesNotFit, Misuse
from ..coordinator.records import Record
from .rqasig import model_of, parts_of

#: Name → model.
Batch = Mapping[str, str]


@dataclass(eq=False)
class UnknownSignature(Misuse):
    """A signature, or a name of it, that stands for no model."""

    rqa_sig: str
    why: str

    status = 404
    exit_status = 1
    outcome = "unknown"

    def __str__(self) -> str:
        return f"the signature {self.rqa_sig!r}: {self.why}"


class Known(NamedTuple):
    """What the fleet has of a model: its active generation; whether nobody has loaded it yet, or somebody has found it bad (and there is
    none to go back to)."""

    generation: int
    is_doubtful: bool


#: Signature → name → what the fleet has of it; of those that have an active generation.
InFleet = Mapping[str, Mapping[str, Known]]


def in_fleet(models: Mapping[str, Record]) -> InFleet:
    """What a fleet with these models has of signatures."""
    found: dict[str, dict[str, Known]] = {}
    for model, record in models.items():
        parts, active = parts_of(model), record.active
        if active is not None and parts is not None:
            known = Known(active.gen, active.unproven or active.poison in record.poison)
            found.setdefault(parts[0], {})[parts[1]] = known
    return found


def models_of(rqa_sig: str, names: Iterable[str]) -> dict[str, str]:
    """The batch of these names, in their order. Raises BadInput."""
    return {name: model_of(rqa_sig, name) for name in names}


class Signatures:
    """Of one process."""

    def __init__(self, max_models: int) -> None:
        """`max_models`: how many a worker holds."""
        self._max_models = max_models
        self._lock = threading.Lock()
        #: Signature → its batch, of those that were used here. Replaced as a whole.
        self.batches: Mapping[str, Batch] = {}
        #: Models of batches that no worker had loaded when the batch was looked up, or not well. Replaced as a whole.
        self.doubtful: frozenset[str] = frozenset()
        self._unfit: dict[str, int] = {}  # model → the generation of it that cannot be loaded here

    def check_number(self, rqa_sig: str, count: int) -> None:
        """Raises DoesNotFit for more models than a worker holds."""
        if count > self._max_models:
            why = f"the signature has {count} models, a worker holds at most {self._max_models} (GENLOCK_MAX_MODELS, up to 50)"
            raise DoesNotFit(rqa_sig, f"{why}: divide it into several signatures")

    # --- whole batches -------------------------------------------------------------------------------------------------

    def begin(self, rqa_sig: str, models: Batch, doubtful: Iterable[str] = ()) -> Batch:
        """The batch at a first use: these, and those that another thread has found at the same time. Raises DoesNotFit."""
        with self._lock:
            return self._put(rqa_sig, {**models, **self.batches.get(rqa_sig, {})}, doubtful)

    def replace(self, rqa_sig: str, models: Batch, doubtful: Iterable[str] = ()) -> None:
        """The batch is these and no others; none: it is forgotten. Raises DoesNotFit."""
        with self._lock:
            if models:
                self._put(rqa_sig, models, doubtful)
            else:
                self._forget(rqa_sig)

    def join(self, rqa_sig: str, seen: Batch, more: Batch) -> bool:
        """Adds models to the batch that was `seen`; whether that was still the one in use. Raises DoesNotFit."""
        with self._lock:
            if self.batches.get(rqa_sig) is not seen:
                return False
            self._put(rqa_sig, {**seen, **more}, ())
            return True

    def forget(self, rqa_sig: str | None = None) -> None:
        """The next use of the signature (None: of each) begins it anew."""
        with self._lock:
            self._forget(rqa_sig)

    def _put(self, rqa_sig: str, models: Batch, doubtful: Iterable[str]) -> Batch:
        assert self._lock.locked()
        self.check_number(rqa_sig, len(models))
        self.doubtful |= set(doubtful)
        batch = dict(sorted(models.items()))
        self.batches = {**self.batches, rqa_sig: batch}
        return batch

    def _forget(self, rqa_sig: str | None) -> None:
        assert self._lock.locked()
        self.batches = {sig: batch for sig, batch in self.batches.items() if rqa_sig not in (sig, None)}

    # --- models that may be no good --------------------------------------------------------------------------------------

    def proven(self, models: Iterable[str]) -> None:
        """A request was answered from these."""
        if not self.doubtful.isdisjoint(models):
            with self._lock:
                self.doubtful -= set(models)

    def leave_out(self, rqa_sig: str, model: str, generation: int) -> bool:
        """Takes a doubtful model out of its batch, because this generation of it cannot be loaded here; whether that was done: the last
        one of a batch stays, for its error says what is wrong."""
        with self._lock:
            batch = self.batches.get(rqa_sig, {})
            if model not in batch.values() or model not in self.doubtful or len(batch) == 1:
                return False
            self._unfit[model] = generation  # before who looks for new ones sees that it is missing
            self.doubtful -= {model}
            left = {name: one for name, one in batch.items() if one != model}
            self.batches = {**self.batches, rqa_sig: left}
            return True

    def is_left_out(self, rqa_sig: str, model: str) -> bool:
        """Whether the batch does without this model of the signature, since it could not be loaded here."""
        return model not in self.batches.get(rqa_sig, {}).values() and model in self._unfit

    def is_unfit(self, model: str, generation: int) -> bool:
        """Whether it is known that this generation cannot be loaded here."""
        return self._unfit.get(model) == generation

    def found_unfit(self, model: str, generation: int) -> None:
        """This generation cannot be loaded here."""
        self._unfit[model] = generation
