"""The evaluator as it was before genlock: each process looks at the time of every file in every request, and reloads in that request.

Kept to be compared with `genlock.worker.compat`, which has the same names. What is wrong with it: docs/migrating.md.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flask import Blueprint, Response, current_app, jsonify
from torch import nn

log = logging.getLogger(__name__)


def _flag(name: str, default: bool) -> bool:
    return os.environ.get(name, str(default)).strip().lower() in ("1", "true", "yes", "on")


EVALUATION_CONFIG: dict[str, Any] = {
    "models_dir": "models",
    "build": None,  # name → the module that gets the weights of NAME.pt
    "use_cache": _flag("M10D_USE_CACHE", True),
    "cache_check_mtime": _flag("M10D_CHECK_MTIME", True),
    "cache_ttl": float(os.environ.get("M10D_CACHE_TTL") or 0) or None,
    "force_reload": _flag("M10D_FORCE_RELOAD", False),
}


@dataclass
class Entry:
    """One loaded file."""

    model: nn.Module
    mtime: float
    loaded_at: float


class ModelEvaluator:
    """All models of a signature as one batch."""

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        self.config = {**EVALUATION_CONFIG, **(config or {})}
        self.models_dir = Path(self.config["models_dir"])
        self._build: Callable[[str], nn.Module] = self.config["build"]
        self._entries: dict[str, dict[str, Entry]] = {}
        self._hits: dict[str, int] = {}
        self._misses: dict[str, int] = {}
        current_evaluators.append(self)

    def load_models(self, rqa_sig: str) -> dict[str, nn.Module]:
        """Name → module, of all files of the signature."""
        paths = sorted((self.models_dir / rqa_sig).glob("*.pt"))
        if not paths:
            raise FileNotFoundError(f"no models of {rqa_sig} in {self.models_dir}")
        return {path.stem: self._model(rqa_sig, path) for path in paths}

    def get_model(self, rqa_sig: str, name: str) -> nn.Module:
        return self.load_models(rqa_sig)[name]

    def evaluate(self, rqa_sig: str, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Name → scores."""
        with torch.inference_mode():
            return {name: model(inputs) for name, model in self.load_models(rqa_sig).items()}

    def invalidate(self, rqa_sig: str, name: str | None = None) -> None:
        entries = self._entries.get(rqa_sig, {})
        for one in [name] if name is not None else list(entries):
            if entries.pop(one, None) is not None:
                log.info("invalidated %s/%s: asked to", rqa_sig, one)

    def refresh(self, rqa_sig: str) -> None:
        self.invalidate(rqa_sig)
        self.load_models(rqa_sig)

    def clear_cache(self) -> None:
        for rqa_sig in list(self._entries):
            self.invalidate(rqa_sig)

    def cache_status(self) -> dict[str, Any]:
        names = ("use_cache", "cache_check_mtime", "cache_ttl", "force_reload")
        signatures = {
            sig: {
                "models": sorted(entries),
                "loaded": bool(entries),
                "timestamps": {name: entry.mtime for name, entry in entries.items()},
                "hits": self._hits.get(sig, 0),
                "misses": self._misses.get(sig, 0),
            }
            for sig, entries in self._entries.items()
        }
        return {"config": {name: self.config[name] for name in names}, "signatures": signatures}

    def _model(self, rqa_sig: str, path: Path) -> nn.Module:
        entries = self._entries.setdefault(rqa_sig, {})
        entry = entries.get(path.stem)
        why = self._why_not(entry, path)
        if entry is not None and not why:
            self._hits[rqa_sig] = self._hits.get(rqa_sig, 0) + 1
            log.debug("hit %s/%s", rqa_sig, path.stem)
            return entry.model
        self._misses[rqa_sig] = self._misses.get(rqa_sig, 0) + 1
        log.info("loading %s/%s: %s", rqa_sig, path.stem, why)
        model = self._build(path.stem)
        model.load_state_dict(torch.load(path, weights_only=True))
        entries[path.stem] = Entry(model.eval(), path.stat().st_mtime, time.time())
        return model

    def _why_not(self, entry: Entry | None, path: Path) -> str:
        """Why the entry cannot be used; empty: it can."""
        ttl = self.config["cache_ttl"]
        if entry is None:
            return "first use"
        if not self.config["use_cache"] or self.config["force_reload"]:
            return "forced"
        if self.config["cache_check_mtime"] and path.stat().st_mtime > entry.mtime:
            return "file changed"
        return "ttl" if ttl and time.time() - entry.loaded_at > ttl else ""


#: The evaluators of this process; the routes speak for the last one.
current_evaluators: list[ModelEvaluator] = []
evaluation_bp = Blueprint("evaluation", __name__)


def _evaluator() -> ModelEvaluator:
    return current_app.extensions.get("model_evaluator") or current_evaluators[-1]


@evaluation_bp.post("/cache/clear")
def clear_cache() -> Response:
    _evaluator().clear_cache()
    return jsonify({"status": "cleared"})


@evaluation_bp.get("/cache/status")
def cache_status() -> Response:
    return jsonify(_evaluator().cache_status())


@evaluation_bp.post("/cache/refresh/<rqa_sig>")
def refresh(rqa_sig: str) -> Response:
    _evaluator().refresh(rqa_sig)
    return jsonify({"status": "refreshed", "rqa_sig": rqa_sig})
