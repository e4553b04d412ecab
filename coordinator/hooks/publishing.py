"""Publishing: what a training job says after each save, and what becomes of it. The plain form; the callbacks are made of it.

::

    after_save   in training's thread: is it one to publish? Then a copy of its files (or the weights, written), and the golden outputs
    the courier  in a thread beside it: lock, stage, propose, wait for the fleet; the newest of what waits replaces an older one
    wait         at the end of training: until the last one is decided

So nobody who trains waits for Redis or for the fleet, and the trainer may overwrite or delete its file as soon as after_save returns.
What goes wrong is logged and counted, and training goes on; with `strict` all of it happens in training's thread, and raises.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..canary import canary_of
from ..container import check_container
from ..disk import copy_file, explained, open_source, refuse_changed
from ..errors import BadInput, GenlockError, UnknownModel
from ..fleet import Fleet
from ..flip import Flip
from ..manifest import check_name
from ..settings import Settings
from ..staging import ONLY
from .courier import Courier
from .rehearsal import rehearsed
from .selection import Save, Selection
from .weights import agreed, is_module, is_sharded, rank, read_weights, state_of, write_weights

if TYPE_CHECKING:
    from torch import nn

    What = str | Path | Mapping[str, Any] | nn.Module

#: What of Fleet.publish may be said once for all saves.
TERMS = frozenset({"agreement", "timeout", "author", "now", "force", "canary", "policy", "canary_timeout"})

_log = logging.getLogger("genlock.hooks")


@dataclass(frozen=True)
class Ready:
    """A save that can be published, whatever training does: files in a private folder of the store. `names`: of the artifacts;
    `written`: of the checkpoint that has these weights, where another thread writes it."""

    save: Save
    folder: Path
    names: tuple[str, ...]
    golden: tuple[Any, Any] | None  # inputs and outputs
    written: Future[None] | None = None


class Publishing:
    """Publishes the saves of one training job as generations of `model`. Use it from one thread.

    `fleet`: a Fleet (default: Fleet.from_env()), of which only the settings are used. `every`: each N-th save, the first included.
    `monitor`: those in which this metric is better (`mode`: "min" or "max") than in what is published. `golden`: inputs of the module, or a
    function that gives them: one tensor, a list (positional) or a dict (named). Their outputs are computed from the saved weights, on the
    CPU, and every worker must reproduce them within `rtol` and `atol`. `factory`: makes the module for that, where the one in training
    cannot be copied. `message`: stands before epoch, step and metric. `strict`: wait for the fleet at each save, and raise what goes wrong.
    `terms`: agreement, timeout, author, now, force, canary, policy and canary_timeout, as in Fleet.publish.

    Raises InvalidName, SettingsInvalid, BadInput, TypeError: what is wrong with these is heard before training begins.
    """

    def __init__(
        self,
        model: str,
        fleet: Fleet | None = None,
        *,
        every: int = 1,
        monitor: str | None = None,
        mode: str = "min",
        golden: Any = None,
        factory: Callable[[], nn.Module] | None = None,
        rtol: float = 1e-4,
        atol: float = 1e-5,
        message: str = "",
        strict: bool = False,
        **terms: Any,
    ) -> None:
        self.model = check_name(model)
        self.strict = strict
        self.published = 0  #: saves that became generations (of a canary that people decide on: that began)
        self.failed = 0  #: saves that should have, and did not; the log says why
        self.skipped = 0  #: saves that were not to be: not the N-th, not better, or a newer one came while they waited
        self.last: Flip | None = None  #: of the newest that was published
        self.last_error: BaseException | None = None  #: of the newest that failed
        self._settings: Settings = (fleet or Fleet.from_env()).settings
        self._timeout_s = _timeout_s(self._settings, terms)
        self._terms = terms
        if not (0 <= rtol <= 1 and atol >= 0):
            raise BadInput("golden", f"rtol is between 0 and 1, atol at least 0; not {rtol!r} and {atol!r}")
        self._selection = Selection(every=every, monitor=monitor, mode=mode)
        self._golden, self._factory, self._tolerances = golden, factory, {"rtol": rtol, "atol": atol}
        self._message = message
        self._has_warned = False
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()  # guards the counters, the two `last` and the selection
        self._courier = Courier(self._carry, self._drop)
        self._store = Fleet(settings=self._settings).store

    @property
    def monitor(self) -> str | None:
        """The metric that decides, if one does."""
        return self._selection.monitor

    def __getstate__(self) -> dict[str, Any]:
        """Lightning's ddp_spawn sends callbacks to other processes."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_courier", "_store")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    # --- in training's thread ----------------------------------------------------------------------------------------

    def after_save(
        self,
        what: What,
        metrics: Mapping[str, Any] | None = None,
        *,
        module: nn.Module | None = None,
        epoch: Any = None,
        step: Any = None,
        written: Future[None] | None = None,
    ) -> None:
        """Call it after each save, in every process that trains; the first of them publishes.

        `what`: the file that was written and closed, several by artifact name, a module or a state dict. A sharded module (FSDP) is
        gathered, so all processes have to call this. `metrics`, `epoch`, `step`: numbers, also tensors with one. `module`: computes the
        golden outputs where `what` is no module. `written`: of a checkpoint with these weights that another thread still writes: a module
        or a state dict is copied now, and published when that is done.

        Returns when training may go on to change or delete what was saved. Raises nothing but, with `strict`, what publishing raises.
        """
        save, wrong = self._chosen(metrics, epoch, step) if rank() == 0 else (None, None)
        is_gathered = is_module(what) and is_sharded(what)
        if not (agreed(save is not None) if is_gathered else save is not None):  # all processes gather, or none
            if wrong is not None and self.strict:
                raise wrong
            return
        try:
            state = state_of(what) if is_module(what) else what
            ready = self._prepared(save, state, module or what, written) if save is not None else None
        except Exception as error:
            self._fails(save, error)
            if self.strict:
                raise
            return
        if ready is not None:
            self._hand_over(ready)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until what was saved last is decided, at most `timeout_s` seconds (default: the fleet's time to prepare); whether it is."""
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        is_done = self._courier.wait(limit_s)
        if not is_done:
            _log.warning(
                "model %r: the last save is not decided after %g s; this program ends when it is", self.model, limit_s
            )
        return is_done

    def __enter__(self) -> Publishing:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def _chosen(self, metrics: Any, epoch: Any, step: Any) -> tuple[Save | None, Exception | None]:
        """The save, if it is to be published, and what is wrong with what was told about it."""
        try:
            save = Save.of(metrics, epoch=epoch, step=step, first=self._selection.monitor)
            return (save if self._takes(save) else None), None
        except Exception as error:  # nobody else's process may wait for this one
            self._fails(None, error)
            return None, error

    def _takes(self, save: Save) -> bool:
        with self._lock:
            takes = self._selection.takes(save)
            self.skipped += not takes
        monitor = self._selection.monitor
        if monitor is not None and monitor not in save.logged and not self._has_warned:
            self._has_warned = True
            names = ", ".join(sorted(save.logged)) or "nothing"
            _log.warning(
                "model %r: a save without the metric %r is not published; logged was: %s", self.model, monitor, names
            )
        return takes

    def _prepared(self, save: Save, what: Any, module: Any, written: Future[None] | None) -> Ready:
        """Everything that has to be done before training goes on."""
        folder: Path = self._store.draft()
        try:
            files = _files(what)
            for name, path in files.items():
                _copy(path, folder / name)
            if not files:
                write_weights(folder / ONLY, what)
            names = tuple(files) or (ONLY,)
            golden = None
            if self._golden is not None:
                state = read_weights(folder / name for name in names) if files else what
                golden = self._rehearsed(module, state)
        except BaseException:
            self._store.discard(folder)
            raise
        return Ready(save, folder, names, golden, written)

    def _rehearsed(self, module: Any, state: Mapping[str, Any]) -> tuple[Any, Any]:
        return rehearsed(self._factory or module, state, self._golden)

    def _hand_over(self, ready: Ready) -> None:
        if self.strict:
            self._carry(ready)
        elif ready.written is None:
            self._give(ready)
        else:
            ready.written.add_done_callback(lambda _: self._give(ready))

    def _give(self, ready: Ready) -> None:
        try:
            self._courier.give(ready)
        except RuntimeError as error:  # this process may have no further thread
            self._store.discard(ready.folder)
            self._fails(ready.save, error)

    # --- beside it ---------------------------------------------------------------------------------------------------

    def _drop(self, ready: Ready) -> None:
        """A newer one came while it waited, or what is published is as good."""
        self._store.discard(ready.folder)
        with self._lock:
            self.skipped += 1
            self._selection.ended(ready.save, is_published=False)

    def _carry(self, ready: Ready) -> None:
        try:
            if ready.written is not None:
                ready.written.result()  # raises what writing it has raised
            flip = self._publish(ready)
        except Exception as error:
            self._fails(ready.save, error)
            if self.strict:
                raise
            return
        finally:
            self._store.discard(ready.folder)
        if flip is None:
            self._drop(ready)
            return
        with self._lock:
            self.published += 1
            self.last = flip
            self._selection.ended(ready.save, is_published=True)
        facts = {"event": "published", "model": self.model, "generation": flip.generation, "version": flip.version}
        said = self._said(ready.save)
        _log.info("model %r: %s is generation %s (%s)", self.model, said, flip.generation, flip.outcome, extra=facts)

    def _publish(self, ready: Ready) -> Flip | None:
        """None: what is published already is as good."""
        message = ready.save.message(self._message, self._selection.monitor)
        with Fleet(settings=self._settings) as fleet:  # one is for one thread
            if not self._holds(fleet, ready.save):
                return None
            with fleet.publishing(self.model, message=message, metrics=ready.save.metrics, **self._terms) as draft:
                for name in ready.names:
                    (ready.folder / name).replace(draft.path(name))
                if ready.golden is not None:
                    draft.golden(*ready.golden, **self._tolerances)
        assert draft.flip is not None
        return draft.flip

    def _holds(self, fleet: Fleet, save: Save) -> bool:
        """Whether it is better than what the fleet serves; that is asked once, since a job that is resumed knows of no earlier save."""
        with self._lock:
            is_new = self._selection.is_new
        metrics = _active_metrics(fleet, self.model) if is_new else {}
        with self._lock:
            self._selection.learn(metrics)
            holds, best = self._selection.holds(save), self._selection.best
        if not holds:
            _log.warning(
                "model %r: %s is not published: what is published already has %s %.4g",
                self.model,
                self._said(save),
                self._selection.monitor,
                best,
            )
        return holds

    def _fails(self, save: Save | None, error: BaseException) -> None:
        """`save`: one that was taken; None where it was not known yet what it is, or in another process than the first."""
        with self._lock:
            self.failed += 1
            self.last_error = error
            if save is not None:
                self._selection.ended(save, is_published=False)
        is_ours = isinstance(error, GenlockError | OSError)
        said = f"{error}" if is_ours else f"{type(error).__name__}: {error}"
        facts = {"event": "not-published", "model": self.model}
        _log.warning(
            "model %r: %s was not published: %s",
            self.model,
            self._said(save),
            said,
            extra=facts,
            exc_info=None if is_ours else error,
        )

    def _said(self, save: Save | None) -> str:
        told = save.message("", self._selection.monitor) if save is not None else ""
        return f"the save of {told}" if told else "a save"


def _timeout_s(settings: Settings, terms: Mapping[str, Any]) -> float:
    """Seconds that a publish with these terms may take to get ready; raises what is wrong with the terms, before training begins."""
    if unknown := sorted(terms.keys() - TERMS):
        raise TypeError(
            f"Publishing takes no {unknown[0]!r}; what Fleet.publish takes of it: {', '.join(sorted(TERMS))}"
        )
    canary_of(terms.get("canary"), terms.get("policy"), terms.get("canary_timeout"))
    chosen = settings.with_arguments(agreement=terms.get("agreement"), prepare_timeout_s=terms.get("timeout"))
    return chosen.prepare_timeout_s


def _active_metrics(fleet: Fleet, model: str) -> Mapping[str, float]:
    """Of the generation that is served; empty where there is none."""
    try:
        active = fleet.model(model).generation
    except UnknownModel:
        return {}
    return next((one.metrics for one in fleet.history(model) if one.generation == active), {})


def _files(what: Any) -> dict[str, Path]:
    """Artifact → file; empty for a state dict. Raises InvalidName, BadInput."""
    if isinstance(what, str | os.PathLike):
        if Path(what).is_dir():
            raise BadInput(
                str(what),
                "it is a folder, and no file in it has the weights: save the full state dict, in one file or in shards",
            )
        return {ONLY: Path(what)}
    if not isinstance(what, Mapping):
        raise BadInput(
            "after_save", f"a file, files by name, a module or a state dict belongs here, not {type(what).__name__}"
        )
    if what and all(isinstance(value, str | os.PathLike) for value in what.values()):
        return {check_name(name, "artifact"): Path(path) for name, path in what.items()}
    return {}


def _copy(path: Path, target: Path) -> None:
    """A copy that is whole, or ArtifactError: the trainer may overwrite or delete its file when this returns."""
    source = open_source(path)
    try:
        before = os.fstat(source)
        with explained(target), target.open("x+b") as file:
            copy_file(source, file.fileno(), before.st_size)
            refuse_changed(path, source, before)
            file.seek(0)
            check_container(file, str(path))
    finally:
        os.close(source)
