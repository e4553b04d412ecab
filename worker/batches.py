"""A ModelCache whose models are the trained files of signatures, and which of them are the batch of a signature.

That is looked up when a process uses a signature for the first time, and then kept: later requests look at no folder. A thread adds what
has come since; a file that is gone leaves its model in the batch until `forget`, for training may be about to write it again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from ..coordinator.clock import clock
from ..coordinator.errors import BadInput, DoesNotFit, GenlockError, LoadFailed, Misuse, NotReady, Unavailable
from ..coordinator.fleet import Fleet
from .cache import Held, ModelCache
from .checkpoint import Checkpoint
from .intake import publish_file
from .journal import Journal
from .loaders import Loader, exported_program, loader_for, state_dict_into
from .lookout import Lookout
from .orders import Arrived, Clear, Command, Flipped, News
from .rqasig import model_of, parts_of
from .trained import TrainedFiles

_log = logging.getLogger("genlock.worker.compat")

#: Seconds between two looks for files that are new; those that change are looked at as often (GENLOCK_CHECK_MTIME).
LOOK_S = 1.0
#: Seconds that closing waits for the thread that looks.
CLOSE_S = 2.0
#: What is said of weights when nobody has said what they belong to.
_NO_BUILD = (
    'it holds weights and no program: say what they belong to, as in EVALUATION_CONFIG["build"] = build, a function that makes the'
    " module of a name"
)

#: What is said of a new file that nobody waits for.
_LATER = "it is not known to be written to its end yet: it joins when it is whole"

#: What makes the module of a file: a function of its name, or name → loader (see loaders). None: the files are exported programs.
Build = Callable[[str], Any] | Mapping[str, Any] | None
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


class BatchCache(ModelCache):
    """See the module."""

    def __init__(self, fleet: Fleet, files: TrainedFiles, build: Build) -> None:
        self.files, self._build = files, build
        super().__init__(fleet)

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self.journal = Journal(self.manifest_of)
        #: Signature → its batch, of those that were used here. Replaced as a whole.
        self.batches: Mapping[str, Batch] = {}
        self._batches_lock = threading.Lock()
        self._looker: threading.Thread | None = None
        self._look = threading.Event()
        #: Model → the generation of it that cannot be loaded here, which the thread that looks does not try again.
        self._unfit: dict[str, int] = {}
        #: Models of batches that no worker had loaded when the batch was looked up, or not well. Replaced as a whole.
        self._doubtful: frozenset[str] = frozenset()
        #: Signature or model → what was said of it last. Written without a lock, as the one above: at worst it is said twice.
        self._said: dict[str, str] = {}

    def _new_lookout(self) -> Lookout:
        return Lookout(self.settings, self._named, {f"all signatures in {self.files.folder}": self.files})

    # --- for requests ------------------------------------------------------------------------------------------------

    def batch(self, rqa_sig: str) -> Batch:
        """The models of a signature. At its first use in this process, files are published that the fleet has no generation of; those that
        are no good are left out, and said.

        Raises UnknownSignature (no file here, no model in the fleet), BadInput, DoesNotFit; and where nothing is left, what a publish
        raises, or NotReady.
        """
        found = self.batches.get(rqa_sig)
        return self._begin_batch(rqa_sig) if found is None else found

    def hold(self, models: tuple[str, ...], use_many: Callable[..., Held]) -> Held:
        """The views of these by `use_many`, this cache's or a request's; told to the journal."""
        before = {} if self._debug is not None else self.views
        held = use_many(*models)
        if self._doubtful:
            with self._batches_lock:
                self._doubtful -= set(models)
        for view in held:
            if view.model in before:
                self.journal.hit(view.model, view.generation)
        return held

    def gives_up(self, rqa_sig: str, error: NotReady) -> bool:
        """A use of the signature ended in that. Whether another one may do better, because the model is left out of its batch: no worker
        was known to load it, and this one cannot. Of the last one the error says what is wrong."""
        generation = self._failed_generation(error.model)
        with self._batches_lock:
            batch = self.batches.get(rqa_sig, {})
            if error.model not in batch.values():
                return error.model in self._unfit  # another request was faster
            if generation is None or error.model not in self._doubtful or len(batch) == 1:
                return False
            self._unfit[error.model] = generation  # before the thread that looks sees that it is missing
            left = {name: model for name, model in batch.items() if model != error.model}
            self.batches = {**self.batches, rqa_sig: left}
        self._leave_out(error.model, error.why)
        self.invalidate(error.model)
        return True

    def _failed_generation(self, model: str) -> int | None:
        """The generation of it that is active and could not be loaded here."""
        slot = self._running().agent.slots.get(model)
        return slot.told.key[0] if slot is not None and slot.told is not None and slot.has_failed else None

    def members(self, rqa_sig: str) -> Batch:
        """What the signature consists of now: the files of this host, loaded or not; where it has none, the fleet's models.

        Raises UnknownSignature, BadInput, DoesNotFit, Unavailable.
        """
        models = self._files_of(rqa_sig)
        if not models:
            with self.another_fleet() as fleet:
                models = _models_of(rqa_sig, _known(fleet, rqa_sig))
        if not models:
            raise self._unknown(rqa_sig)
        return models

    def _files_of(self, rqa_sig: str) -> dict[str, str]:
        found: dict[str, str] = {}
        refused: BadInput | None = None
        for name in self.files.names(rqa_sig):
            try:
                found[name] = model_of(rqa_sig, name)
            except BadInput as error:
                self._leave_out(f"{rqa_sig}/{name}", str(error))
                refused = error
        if refused is not None and not found:
            raise refused
        self._check_number(rqa_sig, len(found))
        return found

    def _begin_batch(self, rqa_sig: str) -> Batch:
        """A file that cannot be published is left out: it would take its whole batch along. So is what cannot be loaded: see gives_up."""
        models = self._files_of(rqa_sig)
        try:
            with self.another_fleet() as fleet:
                known = _known(fleet, rqa_sig)
                left_out = self._publish_new(fleet, rqa_sig, {n: m for n, m in models.items() if n not in known}, known)
        except Unavailable:
            if not models:
                raise
            return models  # what this host has kept of them may answer, marked as stale; next time the fleet is asked again
        models = {n: m for n, m in (models or _models_of(rqa_sig, known)).items() if m not in left_out}
        if left_out and not models:
            raise next(iter(left_out.values()))
        return self._add_doubtful(rqa_sig, models, known)

    def renew(self, rqa_sig: str, models: Batch) -> None:
        """The batch is those of `models` that the fleet has a generation of by now: after a refresh."""
        with self.another_fleet() as fleet:
            known = _known(fleet, rqa_sig)
        self.forget(rqa_sig)
        if there := {name: model for name, model in models.items() if name in known}:
            self._add_doubtful(rqa_sig, there, known)

    def _add_doubtful(self, rqa_sig: str, models: Batch, known: Mapping[str, Known]) -> Batch:
        with self._batches_lock:
            self._doubtful |= {m for n, m in models.items() if n not in known or known[n].is_doubtful}
        return self._add(rqa_sig, models)

    def _publish_new(
        self, fleet: Fleet, rqa_sig: str, models: Batch, known: Mapping[str, Known]
    ) -> dict[str, GenlockError]:
        """Publishes files that the fleet has no generation of. Model → error, of those that cannot be.

        A file that somebody writes is waited for, all of them together for `max_wait_s`; not at all where the other models of the signature
        can answer, and it is noticed when it is whole.
        """
        is_noticed = bool(known) and self.settings.check_mtime
        until = clock() + (0.0 if is_noticed else self.settings.max_wait_s)
        found: dict[str, GenlockError] = {}
        for name, model in models.items():
            path = self.files.path(rqa_sig, name)
            try:
                publish_file(fleet, model, path, note="first use", timeout_s=max(0.0, until - clock()))
            except GenlockError as error:
                if isinstance(error, Unavailable) and not isinstance(error, NotReady):
                    raise
                self._leave_out(model, _LATER if is_noticed and isinstance(error, NotReady) else str(error))
                found[model] = error
        return found

    def _leave_out(self, model: str, why: str) -> None:
        if self._is_news(model, why):
            _log.warning("%s is left out of its batch, because %s", model, why)

    def _is_news(self, subject: str, why: str) -> bool:
        """Once for each cause: it is looked every second."""
        before, self._said[subject] = self._said.get(subject), why
        return why != before

    def _check_number(self, rqa_sig: str, count: int) -> None:
        most = self.settings.max_models
        if count > most:
            why = f"the signature has {count} models, a worker holds at most {most} (GENLOCK_MAX_MODELS, up to 50)"
            raise DoesNotFit(rqa_sig, f"{why}: divide it into several signatures")

    def _add(self, rqa_sig: str, names: Iterable[str]) -> Batch:
        with self._batches_lock:
            batch = _models_of(rqa_sig, sorted({*names, *self.batches.get(rqa_sig, ())}))
            if not batch:
                raise self._unknown(rqa_sig)
            self._check_number(rqa_sig, len(batch))
            self.batches = {**self.batches, rqa_sig: batch}
            self._begin_looking()
        return batch

    def _unknown(self, rqa_sig: str) -> UnknownSignature:
        why = f"no file of it in {self.files.folder / rqa_sig}, and the fleet has no model of it"
        return UnknownSignature(rqa_sig, why)

    # --- for people ----------------------------------------------------------------------------------------------------

    def manifest_of(self, model: str, generation: int) -> str | None:
        """The manifest of what is active, if it is that generation and known here."""
        return self.runtime.manifest_of(model, generation) if self.runtime is not None else None

    def forget(self, rqa_sig: str | None = None) -> None:
        """The next use of the signature (None: of each) looks up again what it consists of."""
        with self._batches_lock:
            self.batches = {sig: batch for sig, batch in self.batches.items() if rqa_sig not in (sig, None)}

    @contextmanager
    def another_fleet(self, **settings: Any) -> Iterator[Fleet]:
        """A Fleet for the calling thread; `settings`: what is other there."""
        fleet = Fleet(settings=self.fleet.settings.with_arguments(**settings))
        try:
            yield fleet
        finally:
            fleet.close()

    def close(self) -> None:
        super().close()
        self._look.set()
        if self._looker is not None and self._looker is not threading.current_thread():
            self._looker.join(CLOSE_S)
            self._looker = None

    # --- looking for what is new -----------------------------------------------------------------------------------------

    def _begin_looking(self) -> None:
        if self._looker is None and not self._closed:
            self._looker = threading.Thread(target=self._keep_looking, name="genlock-batches", daemon=True)
            self._looker.start()

    def _keep_looking(self) -> None:
        pause_s = LOOK_S if self.settings.check_mtime else None
        while not self._closed:
            self._look.wait(pause_s)
            self._look.clear()
            for rqa_sig in self.batches:
                try:
                    self._add_new(rqa_sig)
                except GenlockError as error:
                    if self._is_news(rqa_sig, str(error)):
                        _log.warning("signature %s: what is new of it cannot be used: %s", rqa_sig, error)

    def _add_new(self, rqa_sig: str) -> None:
        """Adds the files to a batch that have become models of the fleet, once this worker has loaded them."""
        new = set(self.files.names(rqa_sig)) - set(self.batches.get(rqa_sig, ()))
        if not new or self._closed:
            return
        with self.another_fleet() as fleet:
            known = _known(fleet, rqa_sig)
        self._check_number(rqa_sig, len(self.batches.get(rqa_sig, ())) + len(new & known.keys()))
        loaded = {
            name for name in new & known.keys() if self._can_load(model_of(rqa_sig, name), known[name].generation)
        }
        if loaded:
            self._add(rqa_sig, loaded)

    def _can_load(self, model: str, generation: int) -> bool:
        """Whether a model that nobody has asked for yet can be answered from."""
        if self._unfit.get(model) == generation:
            return False
        question = self._running().ask((model,), self.settings.max_wait_s)
        if question.views is None and question.error is not None:
            self._unfit[model] = generation
            self._leave_out(model, question.error.why)
            self.invalidate(model)
        return question.views is not None

    # --- what becomes of models --------------------------------------------------------------------------------------------

    def loader_of(self, model: str) -> Loader:
        """What makes the module of a file; of any other model of the fleet as ModelCache does."""
        parts = parts_of(model)
        if parts is None:
            return super().loader_of(model)
        if model not in self._loaders:
            self._loaders[model] = self._loader_for(parts[1])
        return self._loaders[model]

    def _loader_for(self, name: str) -> Loader:
        if callable(self._build):
            return state_dict_into(partial(self._build, name))
        spec = self._build.get(name) if self._build is not None else None
        return loader_for(spec) if spec is not None else _program

    def _notify(self, command: Command | News) -> None:
        super()._notify(command)
        self.journal.notify(command)
        match command:
            case Clear(model=""):
                self.forget()
            case Arrived() | Flipped():
                self._look.set()


class Known(NamedTuple):
    """What the fleet has of a model: its active generation; whether nobody has loaded it yet, or somebody has found it bad (and there is
    none to go back to)."""

    generation: int
    is_doubtful: bool


def _known(fleet: Fleet, rqa_sig: str) -> dict[str, Known]:
    """The names of a signature that the fleet has an active generation of."""
    found: dict[str, Known] = {}
    for model, record in fleet.snapshot().models.items():
        parts, active = parts_of(model), record.active
        if active is not None and parts is not None and parts[0] == rqa_sig:
            found[parts[1]] = Known(active.gen, active.unproven or active.poison in record.poison)
    return found


def _models_of(rqa_sig: str, names: Iterable[str]) -> dict[str, str]:
    return {name: model_of(rqa_sig, name) for name in names}


def _program(checkpoint: Checkpoint) -> Any:
    try:
        return exported_program()(checkpoint)
    except LoadFailed as error:
        raise LoadFailed(checkpoint.model, error.step, _NO_BUILD if error.step == "loader" else error.why) from error
