"""`evaluation_bp`, the blueprint of the old evaluator: its routes speak for the ModelEvaluator of the app. See compat.

An app that has it answers errors of genlock as problems (RFC 9457), and tells with every answer which generations it came from.
`POST` reaches every worker of the fleet, and takes an operator: see docs/http.md.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, cast

from flask import Blueprint, Flask, Response, current_app
from flask.blueprints import BlueprintSetupState

from ..coordinator.errors import GenlockError
from .blueprint import asked, failed, respond, tell
from .routes import TASK_S, as_json, done, for_operators

if TYPE_CHECKING:
    from .compat import ModelEvaluator

#: Where an app of a process with several evaluators says which one is its own.
EXTENSION = "model_evaluator"
#: Where an app keeps the evaluator that was made for it, because there was none.
MADE_FOR_APP = "model_evaluator_made_for_app"

evaluation_bp = Blueprint("evaluation", __name__)
evaluation_bp.app_errorhandler(GenlockError)(failed)

#: The evaluators of this process that somebody has, or the cache of, in the order in which they were made. Replaced as a whole, under the
#: lock.
_evaluators: tuple[weakref.ref[ModelEvaluator], ...] = ()
_lock = threading.RLock()  # who makes one for an app has it already


def evaluators() -> list[ModelEvaluator]:
    """Those of this process that are not closed, and that somebody still has, or the cache of, in the order in which they were made."""
    return [found for reference in _evaluators if (found := reference()) is not None]


def made(evaluator: ModelEvaluator) -> None:
    """Routes may speak for it, for as long as somebody has it or its cache."""
    global _evaluators
    with _lock:
        _evaluators = (*(reference for reference in _evaluators if reference() is not None), weakref.ref(evaluator))


def closed(evaluator: ModelEvaluator) -> None:
    """No routes speak for it any more."""
    global _evaluators
    with _lock:
        _evaluators = tuple(reference for reference in _evaluators if reference() not in (None, evaluator))


@evaluation_bp.record
def _set_up(state: BlueprintSetupState) -> None:
    tell(cast(Flask, state.app))


def evaluator_of_app() -> ModelEvaluator:
    """The evaluator of the app that answers: the one of its extension `model_evaluator`, else the last that was made."""
    from .compat import ModelEvaluator

    if (mine := current_app.extensions.get(EXTENSION)) is not None:
        return cast(ModelEvaluator, mine)
    with _lock:
        if not (there := evaluators()):
            there = [ModelEvaluator()]
            current_app.extensions[MADE_FOR_APP] = there[0]  # or nobody would have it
        return there[-1]


@evaluation_bp.get("/cache/status")
def cache_status() -> Response:
    """What this process holds of each signature. Asks nobody."""
    return respond(as_json(evaluator_of_app().cache_status()))


@evaluation_bp.post("/cache/clear")
def clear_cache() -> Response:
    """Every worker of the fleet drops all models; 200, or 504 with who did not answer in time."""
    evaluator, request = evaluator_of_app(), asked()
    for_operators(evaluator.cache, request)
    with evaluator.cache.another_fleet() as fleet:
        result = fleet.clear(timeout=TASK_S)
    evaluator.cache.forget()
    return respond(done(result, request, status="cleared"))


@evaluation_bp.post("/cache/refresh/<rqa_sig>")
def refresh_cache(rqa_sig: str) -> Response:
    """Files of the signature that have changed are published, its other models loaded afresh, by every worker; 200, 502 with what
    failed, or 504 with who did not answer."""
    evaluator, request = evaluator_of_app(), asked()
    for_operators(evaluator.cache, request)
    found = evaluator.refresh(rqa_sig, timeout=TASK_S)
    return respond(done(found.result, request, status="refreshed", rqa_sig=rqa_sig, models=found.models))
