"""A ModelCache whose models are the trained files of signatures, and which of them are the batch of a signature.

That is looked up when a process uses a signature for the first time, and then kept: later requests look at no folder. A thread adds what
has come since (see newcomers); a file that is gone leaves its model in the batch until `forget`, for training may be about to write it
again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from ..coordinator.clock import clock
from ..coordinator.errors import BadInput, GenlockError, LoadFailed, NotReady, Unavailable
from ..coordinator.fleet import Fleet
from .cache import Held, ModelCache
from .checkpoint import Checkpoint
from .intake import publish_file
from .journal import Journal
from .loaders import Loader, exported_program, loader_for, state_dict_into
from .lookout import Lookout
from .newcomers import Newcomers
from .orders import Arrived, Clear, Command, Flipped, News
from .rqasig import model_of, parts_of
from .signatures import Batch, InFleet, Known, Signatures, UnknownSignature, in_fleet, models_of
from .trained import TrainedFiles

if TYPE_CHECKING:
    from .compat import ModelEvaluator

_log = logging.getLogger("genlock.worker.compat")

#: Seconds for which a signature that has no file here and no model in the fleet is not asked for again: any name may come with a request.
UNKNOWN_S = 1.0
#: What is said of weights when nobody has said what they belong to.
_NO_BUILD = (
    'it holds weights and no program: say what they belong to, as in EVALUATION_CONFIG["build"] = build, a function that makes the'
    " module of a name"
)

#: What is said of a new file that nobody waits for.
_LATER = "it is not known to be written to its end yet: it joins when it is whole"

#: What makes the module of a file: a function of its name, or name → loader (see loaders). None: the files are exported programs.
Build = Callable[[str], Any] | Mapping[str, Any] | None


class BatchCache(ModelCache):
    """See the module."""

    #: Whose cache this is, where it is one's: it lives as long as its cache, for an app may have that alone.
    evaluator: ModelEvaluator | None = None

    def __init__(self, fleet: Fleet, files: TrainedFiles, build: Build) -> None:
        self.files, self._build = files, build
        super().__init__(fleet)

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self.journal = Journal(self.manifest_of)
        self.signatures = Signatures(self.settings.max_models)
        self._newcomers = Newcomers(
            self.signatures,
            self.files,
            looks=self.settings.check_mtime,
            new_fleet=self._new_fleet,
            can_load=self._can_load,
            is_news=self._is_news,
        )
        #: Signature or model → what was said of it last. Written without a lock: at worst it is said twice.
        self._said: dict[str, str] = {}
        #: The signatures that the fleet had when it was read last, and when that was. Replaced as a whole.
        self._read: tuple[float, frozenset[str]] = (float("-inf"), frozenset())

    def _new_lookout(self) -> Lookout:
        return Lookout(self.settings, self._named, {f"all signatures in {self.files.folder}": self.files})

    @property
    def batches(self) -> Mapping[str, Batch]:
        """Signature → its batch, of those that were used here."""
        return self.signatures.batches

    # --- for requests ------------------------------------------------------------------------------------------------

    def batch(self, rqa_sig: str) -> Batch:
        """The models of a signature. At its first use in this process, files are published that the fleet has no generation of; those that
        are no good are left out, and said.

        Raises UnknownSignature (no file here, no model in the fleet), BadInput, DoesNotFit; and where nothing is left, what a publish
        raises, or NotReady.
        """
        found = self.signatures.batches.get(rqa_sig)
        if found is None:
            return self._begin_batch(rqa_sig)
        self._newcomers.start()  # it could not, maybe, when the batch began
        return found

    def hold(self, models: tuple[str, ...], use_many: Callable[..., Held]) -> Held:
        """The views of these by `use_many`, this cache's or a request's; told to the journal."""
        before = {} if self._debug is not None else self.views
        held = use_many(*models)
        self.signatures.proven(models)
        for view in held:
            if view.model in before:
                self.journal.hit(view.model, view.generation)
        return held

    def gives_up(self, rqa_sig: str, error: NotReady) -> bool:
        """A use of the signature ended in that. Whether another one may do better, because the model is left out of its batch: no worker
        was known to load it, and this one cannot. Of the last one the error says what is wrong."""
        generation = self._failed_generation(error.model)
        if generation is None or not self.signatures.leave_out(rqa_sig, error.model, generation):
            return self.signatures.is_left_out(rqa_sig, error.model)  # another request was faster
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
                models = models_of(rqa_sig, sorted(self._in_fleet(fleet).get(rqa_sig, {})))
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
        self.signatures.check_number(rqa_sig, len(found))
        return found

    def _begin_batch(self, rqa_sig: str) -> Batch:
        """A file that cannot be published is left out: it would take its whole batch along. So is what cannot be loaded: see gives_up."""
        models = self._files_of(rqa_sig)
        if not models and self._is_missing(rqa_sig):
            raise self._unknown(rqa_sig)
        try:
            with self.another_fleet() as fleet:
                known = self._in_fleet(fleet).get(rqa_sig, {})
                left_out = self._publish_new(fleet, rqa_sig, {n: m for n, m in models.items() if n not in known}, known)
        except Unavailable:
            if not models:
                raise
            return models  # what this host has kept of them may answer, marked as stale; next time the fleet is asked again
        models = {n: m for n, m in (models or models_of(rqa_sig, known)).items() if m not in left_out}
        if left_out and not models:
            raise next(iter(left_out.values()))
        if not models:
            raise self._unknown(rqa_sig)
        batch = self.signatures.begin(rqa_sig, models, _doubtful(models, known))
        self._newcomers.start()
        return batch

    def renew(self, rqa_sig: str, models: Batch) -> None:
        """The batch is those of `models` that the fleet has a generation of by now: after a refresh."""
        with self.another_fleet() as fleet:
            known = self._in_fleet(fleet).get(rqa_sig, {})
        there = {name: model for name, model in models.items() if name in known}
        self.signatures.replace(rqa_sig, there, _doubtful(there, known))
        self._newcomers.start()

    def _in_fleet(self, fleet: Fleet) -> InFleet:
        began = clock()
        found = in_fleet(fleet.snapshot().models)
        self._read = (began, frozenset(found))
        return found

    def _is_missing(self, rqa_sig: str) -> bool:
        """Whether the fleet had no model of it a moment ago."""
        read_at, there = self._read
        return rqa_sig not in there and clock() < read_at + UNKNOWN_S

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

    def _unknown(self, rqa_sig: str) -> UnknownSignature:
        why = f"no file of it in {self.files.folder / rqa_sig}, and the fleet has no model of it"
        return UnknownSignature(rqa_sig, why)

    # --- for people ----------------------------------------------------------------------------------------------------

    def manifest_of(self, model: str, generation: int) -> str | None:
        """The manifest of what is active, if it is that generation and known here."""
        return self.runtime.manifest_of(model, generation) if self.runtime is not None else None

    def forget(self, rqa_sig: str | None = None) -> None:
        """The next use of the signature (None: of each) looks up again what it consists of."""
        self._read = (float("-inf"), frozenset())
        self.signatures.forget(rqa_sig)

    @contextmanager
    def another_fleet(self, **settings: Any) -> Iterator[Fleet]:
        """A Fleet for the calling thread; `settings`: what is other there."""
        fleet = self._new_fleet(**settings)
        try:
            yield fleet
        finally:
            fleet.close()

    def _new_fleet(self, **settings: Any) -> Fleet:
        return Fleet(settings=self.fleet.settings.with_arguments(**settings))

    def close(self) -> None:
        self._newcomers.stop()
        super().close()
        self._newcomers.join()

    def _can_load(self, model: str, generation: int) -> bool:
        """Whether a model that nobody has asked for yet can be answered from; called by the thread that looks for new ones."""
        question = self._running().ask((model,), self.settings.max_wait_s)
        if question.views is None and question.error is not None:
            self.signatures.found_unfit(model, generation)
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
                self._newcomers.wake()


def _doubtful(models: Batch, known: Mapping[str, Known]) -> set[str]:
    return {model for name, model in models.items() if name not in known or known[name].is_doubtful}


def _program(checkpoint: Checkpoint) -> Any:
    try:
        return exported_program()(checkpoint)
    except LoadFailed as error:
        raise LoadFailed(checkpoint.model, error.step, _NO_BUILD if error.step == "loader" else error.why) from error
