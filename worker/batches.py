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
from typing import Any

from ..coordinator.errors import DoesNotFit, GenlockError, LoadFailed, Misuse, NotReady, Unavailable
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
        # Of the thread that looks: model → the generation of it that cannot be loaded; signature → what was said of it last.
        self._unfit: dict[str, int] = {}
        self._said: dict[str, str] = {}

    def _new_lookout(self) -> Lookout:
        return Lookout(self.settings, self._named, {f"all signatures in {self.files.folder}": self.files})

    # --- for requests ------------------------------------------------------------------------------------------------

    def batch(self, rqa_sig: str) -> Batch:
        """The models of a signature. At its first use in this process, files are published that the fleet has no generation of.

        Raises UnknownSignature (no file here, no model in the fleet), BadInput, DoesNotFit, and what a publish raises.
        """
        found = self.batches.get(rqa_sig)
        return self._begin_batch(rqa_sig) if found is None else found

    def hold(self, models: tuple[str, ...], use_many: Callable[..., Held]) -> Held:
        """The views of these by `use_many`, this cache's or a request's; told to the journal."""
        before = {} if self._debug is not None else self.views
        held = use_many(*models)
        for view in held:
            if view.model in before:
                self.journal.hit(view.model, view.generation)
        return held

    def _begin_batch(self, rqa_sig: str) -> Batch:
        names = self.files.names(rqa_sig)
        models = {name: model_of(rqa_sig, name) for name in names}
        self._check_number(rqa_sig, len(models))
        try:
            with self.another_fleet() as fleet:
                known = _known(fleet, rqa_sig)
                for name in names:
                    if name not in known:
                        publish_file(fleet, models[name], self.files.path(rqa_sig, name), note="first use")
        except NotReady:
            raise
        except Unavailable:
            if not models:
                raise
            return models  # what this host has kept of them may answer, marked as stale; next time the fleet is asked again
        return self._add(rqa_sig, names or known)

    def _check_number(self, rqa_sig: str, count: int) -> None:
        most = self.settings.max_models
        if count > most:
            why = f"the signature has {count} models, a worker holds at most {most} (GENLOCK_MAX_MODELS, up to 50)"
            raise DoesNotFit(rqa_sig, f"{why}: divide it into several signatures")

    def _add(self, rqa_sig: str, names: Iterable[str]) -> Batch:
        with self._batches_lock:
            batch = {name: model_of(rqa_sig, name) for name in sorted({*names, *self.batches.get(rqa_sig, ())})}
            if not batch:
                why = f"no file of it in {self.files.folder / rqa_sig}, and the fleet has no model of it"
                raise UnknownSignature(rqa_sig, why)
            self._check_number(rqa_sig, len(batch))
            self.batches = {**self.batches, rqa_sig: batch}
            self._begin_looking()
        return batch

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
                    self._say(rqa_sig, str(error))

    def _say(self, rqa_sig: str, why: str) -> None:
        """Once for each cause: it is looked every second."""
        if self._said.get(rqa_sig) != why:
            self._said[rqa_sig] = why
            _log.warning("signature %s: what is new of it cannot be used: %s", rqa_sig, why)

    def _add_new(self, rqa_sig: str) -> None:
        """Adds the files to a batch that have become models of the fleet, once this worker has loaded them."""
        new = set(self.files.names(rqa_sig)) - set(self.batches.get(rqa_sig, ()))
        if not new or self._closed:
            return
        with self.another_fleet() as fleet:
            known = _known(fleet, rqa_sig)
        self._check_number(rqa_sig, len(self.batches.get(rqa_sig, ())) + len(new & known.keys()))
        loaded = {name for name in new & known.keys() if self._can_load(model_of(rqa_sig, name), known[name])}
        if loaded:
            self._add(rqa_sig, loaded)

    def _can_load(self, model: str, generation: int) -> bool:
        """Whether a model that nobody has asked for yet can be answered from: a bad one would take its whole batch along."""
        if self._unfit.get(model) == generation:
            return False
        if self._running().ask((model,), self.settings.max_wait_s).views is not None:
            return True
        self._unfit[model] = generation
        why = self._running().error_of(model)
        _log.warning("%s is left out of its batch, because generation %d cannot be loaded: %s", model, generation, why)
        self.invalidate(model)
        return False

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


def _known(fleet: Fleet, rqa_sig: str) -> dict[str, int]:
    """The names of a signature that the fleet has an active generation of, and its number."""
    found = {parts_of(model): record.active for model, record in fleet.snapshot().models.items()}
    return {parts[1]: active.gen for parts, active in found.items() if parts and parts[0] == rqa_sig and active}


def _program(checkpoint: Checkpoint) -> Any:
    try:
        return exported_program()(checkpoint)
    except LoadFailed as error:
        raise LoadFailed(checkpoint.model, error.step, _NO_BUILD if error.step == "loader" else error.why) from error
