"""The evaluator of an analysis backend under its old names: old code changes one import, and its models change with the whole fleet.

::

    from genlock.worker.compat import EVALUATION_CONFIG, ModelEvaluator, evaluation_bp

A signature (`rqa_sig`) names the models that are asked as one batch: `MODELS_DIR/RQA_SIG/NAME.pt`, files that training overwrites. Here
each of them is a model of the fleet. docs/migrating.md says what has become of every part of the old evaluator.

`EVALUATION_CONFIG` is read from the environment when it is imported, and may be changed before a ModelEvaluator is made of it:

=====================  ====================================================================================================
`models_dir`           the folder of the signatures; default: `models`
`build`                name → the module that gets the weights of NAME.pt; or a dict, name → loader. Without it the files have to be
                       exported programs
`use_cache`            false: every use loads (M10D_USE_CACHE)
`force_reload`         true: every use checks what it has loaded (M10D_FORCE_RELOAD)
`cache_check_mtime`    files that change are noticed and published, once for all workers; default: true (M10D_CHECK_MTIME). Without it
                       they are published at the first use of their signature, and at a refresh
`cache_ttl`            seconds; what nobody has used for so long is dropped (M10D_CACHE_TTL)
=====================  ====================================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flask import has_request_context, request

from ..coordinator.clock import clock
from ..coordinator.errors import ArtifactError, NotCommitted, NotReady, OutcomeUnknown, UnknownModel
from ..coordinator.fleet import Fleet
from ..coordinator.manifest import decode
from ..coordinator.settings import Settings
from ..coordinator.staging import ONLY
from ..coordinator.task import TaskResult
from .batches import BatchCache
from .blueprint import used_in
from .evaluation import closed, evaluation_bp, made
from .evaluator import answer
from .intake import publish_file
from .signatures import Batch, UnknownSignature
from .trained import TrainedFiles
from .view import View

if TYPE_CHECKING:
    from torch import nn

    EVALUATION_CONFIG: dict[str, Any]

#: Seconds that have to be left for a model's turn in a refresh to begin.
TURN_S = 0.1

__all__ = ["EVALUATION_CONFIG", "ModelEvaluator", "Refreshed", "UnknownSignature", "evaluation_bp"]

#: Key of the configuration → the setting that it is.
_SETTINGS = {
    "use_cache": "use_cache",
    "force_reload": "force_reload",
    "cache_check_mtime": "check_mtime",
    "cache_ttl": "cache_ttl_s",
}


class ModelEvaluator:
    """All models of a signature as one batch, of one instant of the fleet. Make one per process; it begins with its first use."""

    def __init__(self, config: Mapping[str, Any] | None = None, *, fleet: Fleet | None = None) -> None:
        """`config`: what is missing in it is as in EVALUATION_CONFIG; keys that mean nothing here are left alone. `fleet`: default, that of
        the environment. Raises SettingsInvalid."""
        self.config: dict[str, Any] = {**_config(), **(config or {})}
        settings = fleet.settings if fleet is not None else Settings.from_env()
        files = TrainedFiles(self.config["models_dir"])
        self.cache = BatchCache(Fleet(settings=_applied(self.config, settings)), files, self.config["build"])
        self.cache.evaluator = self
        made(self)

    # --- what requests call --------------------------------------------------------------------------------------------

    def load_models(self, rqa_sig: str) -> dict[str, nn.Module]:
        """Name → module, of all models of the signature.

        Raises UnknownSignature (it has no file, and the fleet no model of it), NotReady, BadInput for what cannot be one, DoesNotFit (more
        models than a worker holds), and at the first use of a signature what a publish raises.
        """
        return {name: view.payload for name, view in self._use(rqa_sig).items()}

    def get_model(self, rqa_sig: str, name: str) -> nn.Module:
        """One of them. Raises UnknownSignature too for a name that it has not got."""
        module: nn.Module = self._use(rqa_sig, name)[name].payload
        return module

    def evaluate(self, rqa_sig: str, inputs: Any) -> dict[str, Any]:
        """Name → what the model says to `inputs`: one value, or a dict of keyword arguments. BadInput has the sentence of a model that does
        not take them."""
        return {name: answer(view, inputs) for name, view in self._use(rqa_sig).items()}

    def _use(self, rqa_sig: str, name: str | None = None) -> dict[str, View]:
        try:
            return self._hold_good(rqa_sig, name)
        except UnknownModel:
            pass
        self.cache.forget(rqa_sig)  # the fleet has lost them, or is another one: they are published again
        return self._hold_good(rqa_sig, name)

    def _hold_good(self, rqa_sig: str, name: str | None) -> dict[str, View]:
        """Without new models that are no good: each try leaves one out."""
        while True:
            try:
                return self._hold(rqa_sig, name)
            except NotReady as error:
                if name is not None or not self.cache.gives_up(rqa_sig, error):
                    raise

    def _hold(self, rqa_sig: str, name: str | None) -> dict[str, View]:
        batch = self.cache.batch(rqa_sig)
        names = tuple(batch) if name is None else (name,)
        if name is not None and name not in batch:
            raise UnknownSignature(rqa_sig, f"it has no model {name!r}, only: {', '.join(batch)}")
        used = used_in(request.environ) if has_request_context() else None
        models = tuple(batch[one] for one in names)
        use_many = self.cache.use_many if used is None else partial(used.get_many, self.cache)
        return dict(zip(names, self.cache.hold(models, use_many), strict=True))

    # --- what the process calls ------------------------------------------------------------------------------------------

    def clear_cache(self) -> None:
        """Drops everything in this process; the next use loads it again. `POST /cache/clear` reaches the whole fleet."""
        self.cache.clear()
        self.cache.forget()

    def invalidate(self, rqa_sig: str, name: str | None = None) -> None:
        """The same of one signature, or of one of its models."""
        for one, model in self.cache.batches.get(rqa_sig, {}).items():
            if name in (one, None):
                self.cache.invalidate(model)
        if name is None:
            self.cache.forget(rqa_sig)

    def refresh(self, rqa_sig: str, *, timeout: float | None = None) -> Refreshed:
        """Files of the signature that have changed are published, its other models are loaded afresh by every worker that holds them.

        Waits for the fleet, at most about `timeout` seconds (default: `prepare_timeout_s`); models whose turn does not come by then are
        failed, and nothing was done about them. Raises UnknownSignature, BadInput, Unavailable.
        """
        until = clock() + (timeout or self.cache.settings.prepare_timeout_s)
        members = self.cache.members(rqa_sig)
        models: dict[str, str] = {}
        results = []
        with self.cache.another_fleet() as fleet:
            for name, model in members.items():
                models[name], result = _refresh(fleet, model, self.cache.files.path(rqa_sig, name), until)
                results.append(result)
        self.cache.renew(rqa_sig, members)
        return Refreshed(models, _merged(rqa_sig, results))

    # --- what people see -------------------------------------------------------------------------------------------------

    @property
    def timestamps(self) -> dict[str, dict[str, float]]:
        """Signature → name → when the file was written that answers come from, in unix seconds."""
        return {sig: self._timestamps(batch) for sig, batch in self.cache.batches.items()}

    def cache_status(self) -> dict[str, Any]:
        """What this process holds of each signature that it has used, ready for JSON."""
        stats = self.cache.get_detailed_stats()
        figures = stats["models"]
        return {
            "config": {key: getattr(self.cache.settings, name) for key, name in _SETTINGS.items()},
            "signatures": {sig: self._status(batch, figures) for sig, batch in self.cache.batches.items()},
            "hits": stats["hits"],
            "misses": stats["misses"],
            "hit_rate": stats["hit_rate"],
            "worker": self.cache.worker,
            "fleet": self.cache.fleet.name,
            "notice": self.cache.notice,
        }

    def _status(self, batch: Batch, figures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        views = self.cache.views
        held = {name: views[model] for name, model in batch.items() if model in views}
        return {
            "models": sorted(batch),
            "loaded": len(held) == len(batch),
            "timestamps": self._timestamps(batch),
            "hits": sum(figures.get(model, {}).get("hits", 0) for model in batch.values()),
            "misses": sum(figures.get(model, {}).get("misses", 0) for model in batch.values()),
            "generations": {name: view.generation for name, view in held.items()},
            "versions": {name: view.version for name, view in held.items()},
            "stale": sorted(name for name, view in held.items() if view.stale),
        }

    def _timestamps(self, batch: Batch) -> dict[str, float]:
        found = {}
        for name, model in batch.items():
            view = self.cache.views.get(model)
            text = self.cache.manifest_of(model, view.generation) if view is not None else None
            if text is not None:
                manifest = decode(text)
                source = manifest.sources.get(ONLY)
                found[name] = _seconds(source.mtime_ns) if source is not None else manifest.created_at
        return found

    def close(self) -> None:
        """Leaves the fleet, and gives its connections back."""
        self.cache.close()
        self.cache.fleet.close()
        closed(self)


def _seconds(mtime_ns: int) -> float:
    """To the last bit what os.path.getmtime says, for old code compares the two."""
    seconds, rest = divmod(mtime_ns, 10**9)
    return seconds + 1e-9 * rest


class Refreshed(NamedTuple):
    """`models`: name → published (the file was another), refreshed, kept (its file was refused or rolled back from, and has not changed
    since: what is active was loaded afresh) or failed; `result`: of all workers and models."""

    models: Mapping[str, str]
    result: TaskResult


def _refresh(fleet: Fleet, model: str, path: Path, until: float) -> tuple[str, TaskResult]:
    try:
        left_s, offered = _left_s(model, until), None
        if path.exists():
            offered = publish_file(fleet, model, path, note="refresh", timeout_s=left_s, is_all=True)
        if offered is not None and offered.outcome != "unchanged":
            return "published", TaskResult(kind="refresh", model=model, asked=0, done={}, failed={}, silent=())
        result = fleet.refresh(model, timeout=_left_s(model, until))
        is_kept = offered is not None and offered.version != fleet.model(model).version
    except (NotCommitted, ArtifactError, NotReady, OutcomeUnknown, UnknownModel) as error:
        why = {model: str(error)}
        return "failed", TaskResult(kind="refresh", model=model, asked=0, done={}, failed=why, silent=())
    return ("kept" if is_kept else "refreshed") if result.ok else "failed", result


def _left_s(model: str, until: float) -> float:
    if (left_s := until - clock()) < TURN_S:
        raise NotReady(model, "the time was over before its turn came: ask again")
    return left_s


def _merged(rqa_sig: str, results: list[TaskResult]) -> TaskResult:
    """What became of all models of a signature, as one."""
    done: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for result in results:
        for worker, facts in result.done.items():
            done[worker] = {**done.get(worker, {}), **facts}
        failed |= result.failed
    silent = {worker for result in results for worker in result.silent}
    asked = max((result.asked for result in results), default=0)
    return TaskResult(
        kind="refresh", model=rqa_sig, asked=asked, done=done, failed=failed, silent=tuple(sorted(silent))
    )


# --- the configuration ---------------------------------------------------------------------------------------------------


def _config() -> dict[str, Any]:
    """EVALUATION_CONFIG, made when it is asked for: importing this reads no environment."""
    found: dict[str, Any] | None = globals().get("EVALUATION_CONFIG")
    if found is None:
        # An evaluator has always looked at its files, unless somebody says no.
        settings = Settings.from_env({"M10D_CHECK_MTIME": "true", **os.environ})
        found = {"models_dir": "models", "build": None}
        found |= {key: getattr(settings, name) for key, name in _SETTINGS.items()}
        globals()["EVALUATION_CONFIG"] = found
    return found


def _applied(config: Mapping[str, Any], settings: Settings) -> Settings:
    """`settings` with what the configuration says. A time to live of 0 or None is none."""
    given = {name: config[key] for key, name in _SETTINGS.items()}
    return replace(settings, cache_ttl_s=None).with_arguments(**given)


def __getattr__(name: str) -> Any:
    if name != "EVALUATION_CONFIG":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _config()
