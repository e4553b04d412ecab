"""What became of the models of one worker, as people hear of it: lines of the log, figures, callbacks, and what is wrong now.

Each method is told what has happened, after it has; none decides anything. Fields of a line: see coordinator.logs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

from ..coordinator.errors import DoesNotFit, GenlockError, NotTrusted, Unavailable
from .loadthread import Done
from .orders import Arrived, Command, Dropped, Expelled, Flipped, News, Rejected
from .phases import Phases
from .readiness import REDIS, Faults
from .slot import Key
from .stats import Stats
from .view import View

_log = logging.getLogger("genlock.worker")


class Chronicle:
    """Only the runtime's thread writes it. Moments are seconds on the worker's clock."""

    def __init__(self, fleet: str, worker: str, stats: Stats, notify: Callable[[Command | News], None]) -> None:
        """`fleet`, `worker`: their names. `notify`: is called with the news that the agent has no command for."""
        self._fleet, self._worker = fleet, worker
        self._stats, self._notify = stats, notify
        self.faults = Faults()  #: what is wrong now
        self._phases = Phases()

    # --- of a flip -----------------------------------------------------------------------------------------------

    def enters(self, model: str, generation: int, phase: str, now: float) -> None:
        """This worker gets ready for a candidate (preparing), or says that it is fenced (fencing)."""
        self._phases.begins(model, generation, phase, now)

    def flipped(self, command: Flipped, now: float, *, is_here: bool) -> None:
        """Another generation is active; `is_here`: it is loaded."""
        phases = self._phases.flipped(command.model, command.after[0], now)
        self._stats.flipped(command.model, phases=phases)
        before = command.before[0] if command.before else None
        facts = self._facts("flipped", command.model, command.after, before=before, seconds=_rounded(phases))
        where = "here" if is_here else "in the fleet, and not loaded yet"
        _log.info("model %s: generation %s is active %s", command.model, command.after[0], where, extra=facts)

    def rejected(self, command: Rejected) -> None:
        """What this worker got ready for was not committed."""
        why = str(command.detail.get("why", "the fleet did not commit it"))
        self._stats.rejected(command.model, generation=command.key[0], why=why)
        facts = self._facts("rejected", command.model, command.key, step=command.detail.get("step"), why=why)
        _log.warning("model %s: generation %s was not committed: %s", command.model, command.key[0], why, extra=facts)
        self._phases.forget(command.model, command.key[0])

    # --- of what is held -----------------------------------------------------------------------------------------

    def loaded(self, done: Done) -> None:
        """A load has ended well."""
        assert done.loaded is not None
        job, seconds = done.job, done.loaded.seconds
        if job.purpose != "fallback":  # without Redis that is what is wrong, and a fallback mends nothing
            self.faults.mended(job.model)
        self._stats.loaded(job.model, steps=seconds, reload=job.purpose == "refresh")
        more = {"purpose": job.purpose, "seconds": _rounded(seconds), "bytes": done.loaded.bytes}
        facts = self._facts("loaded", job.model, done.key, **more)
        _log.info("model %s: generation %s is loaded", job.model, done.key[0], extra=facts)
        self._notify(Arrived(job.model, done.key, job.purpose))

    def load_failed(self, done: Done, *, is_held: bool) -> None:
        """A load came to nothing. `is_held`: the model still is; else nothing is wrong with it."""
        job, generation = done.job, done.key[0]
        if job.purpose != "fallback" and is_held:
            self.faults.met(job.model, f"{job.model} generation {generation}: {done.step}: {done.why}")
        outcome: Literal["bad", "failed"] = "bad" if done.said == "bad" else "failed"
        self._stats.load_failed(job.model, outcome=outcome, step=done.step, why=done.why)
        more = {"purpose": job.purpose, "said": done.said, "step": done.step, "why": done.why}
        log = _log.debug if job.purpose == "fallback" else _log.warning
        told = (job.model, generation, done.said, done.step, done.why)
        facts = self._facts("load-failed", job.model, done.key, **more)
        log("loading %s generation %s: %s at %s: %s", *told, extra=facts)

    def does_not_fit(self, error: DoesNotFit, key: Key) -> None:
        """A generation was refused for its size. After a drop for it, which mends what was wrong."""
        self.faults.met(error.model, str(error))
        _log.warning("%s", error, extra=self._facts("does-not-fit", error.model, key))

    def refused(self, model: str, generation: int, error: NotTrusted, *, is_held: bool) -> None:
        """Nobody vouches for a manifest. `is_held`: as of load_failed."""
        if is_held:
            self.faults.met(model, f"{model} generation {generation}: signature: {error}")
        self._stats.refused(model, generation=generation, reason=error.outcome, why=str(error))
        facts = self._facts("refused-manifest", model, generation=generation, reason=error.outcome, why=str(error))
        _log.error("model %s: generation %s is refused: %s", model, generation, error, extra=facts)

    def cleared(self, model: str, view: View) -> None:
        """The whole fleet was told to drop it, and `view` showed it."""
        self._stats.dropped(model, "clear")
        _log.info("model %s: dropped, the whole fleet was told to", model, extra=self._facts("cleared", model))
        self._let_go(model, view, "clear")

    def dropped(self, model: str, view: View | None, reason: str) -> None:
        """This worker holds it no more; `view` shows it until the next map, None: nothing was loaded. `reason`: see stats.DROP_REASONS."""
        if reason == "invalidate":
            self._stats.invalidated(model, reason)
        self._stats.dropped(model, reason)  # type: ignore[arg-type]
        self.faults.mended(model)  # what is not held is not wrong here
        _log.info("model %s: dropped: %s", model, reason, extra=self._facts("dropped", model, why=reason))
        self._let_go(model, view, reason)

    def _let_go(self, model: str, view: View | None, reason: str) -> None:
        self._notify(Dropped(model, (view.generation, view.version) if view else None, reason))

    # --- of the fleet and its Redis ------------------------------------------------------------------------------

    def expelled(self, command: Expelled) -> None:
        """A membership has ended."""
        facts = self._facts("expelled", why=command.why)
        _log.warning("this worker is no member any more: %s", command.why, extra=facts)
        if command.why == "evicted":
            self._stats.evicted()

    def redis_gone(self, error: Unavailable, *, is_news: bool) -> None:
        """A call got no answer."""
        if is_news:
            _log.warning("Redis is gone: %s", error, extra=self._facts("redis-gone"))
        self.faults.met(REDIS, str(error))

    def redis_answered(self) -> None:
        """A call got one, of this fleet."""
        if self.faults.mended(REDIS):
            _log.info("Redis is back", extra=self._facts("redis-back"))

    def not_ours(self, verdict: str, error: GenlockError) -> None:
        """What answers is not this worker's fleet."""
        self.faults.met(REDIS, f"{verdict}: {error}")
        _log.error("%s", error, extra=self._facts("refused"))

    def _facts(self, event: str, model: str | None = None, key: Key | None = None, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = {"event": event, "fleet": self._fleet, "worker": self._worker, "model": model}
        found |= {"generation": key[0], "version": key[1]} if key is not None else {}
        return {name: value for name, value in (found | more).items() if value is not None}


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(s, 6) for name, s in seconds.items()}
