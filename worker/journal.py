"""What becomes of the models of signatures, in lines of a log: hits (debug), reloads and invalidations (info), each with its reason.

The logger is `genlock.worker.compat`. Fields of a line beside its text: `event` (hit, reloaded, invalidated), `model`, `generation`, `why`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..coordinator.manifest import decode
from .orders import Arrived, Command, Dropped, Flipped, News
from .rqasig import parts_of
from .slot import Key

_log = logging.getLogger("genlock.worker.compat")

#: What a worker calls the reason of a drop → what the line says.
DROPPED = {
    "ttl": "ttl",
    "clear": "cleared",
    "invalidate": "invalidated",
    "lru_count": "least recently used, GENLOCK_MAX_MODELS is reached",
    "lru_bytes": "least recently used, GENLOCK_MAX_BYTES is reached",
}
#: The purpose of a load → why; of a first one or one after a drop see Journal.
LOADED = {"refresh": "refreshed", "forced": "forced", "fallback": "Redis is gone, the last good one of this host"}
FIRST = "first use"
#: The fleet went to what was made later than what was active, or to something made before it.
FORWARD, BACK = "file changed", "rolled back"


class Journal:
    """Of one process. `manifest_of`: the manifest of a model's generation, if it is known here."""

    def __init__(self, manifest_of: Callable[[str, int], str | None]) -> None:
        self._manifest_of = manifest_of
        self._dropped: dict[str, str] = {}  # model → why it was dropped last
        self._made_at: dict[str, float] = {}  # model → when its active generation was staged

    def hit(self, model: str, generation: int) -> None:
        """A use was answered from memory."""
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("hit: %s, generation %d", _named(model), generation, extra=_facts("hit", model, generation))

    def notify(self, news: Command | News) -> None:
        """Something became of a model; called on the runtime's thread."""
        match news:
            case Arrived() if news.purpose != "candidate":
                self._reloaded(news.model, news.key, LOADED.get(news.purpose) or self._dropped.pop(news.model, FIRST))
                self._made_at[news.model] = self._age_of(news.model, news.key)
            case Dropped():
                why = self._dropped[news.model] = DROPPED.get(news.reason, news.reason)
                generation = news.key[0] if news.key else None
                text = "invalidated: %s, generation %s: %s"
                _log.info(
                    text, _named(news.model), generation, why, extra=_facts("invalidated", news.model, generation, why)
                )
            case Flipped() if news.before is not None and news.model in self._made_at:
                made_at = self._age_of(news.model, news.after)
                self._reloaded(news.model, news.after, BACK if made_at < self._made_at[news.model] else FORWARD)
                self._made_at[news.model] = made_at

    def _reloaded(self, model: str, key: Key, why: str) -> None:
        _log.info(
            "reloaded: %s, generation %d: %s", _named(model), key[0], why, extra=_facts("reloaded", model, key[0], why)
        )

    def _age_of(self, model: str, key: Key) -> float:
        manifest = self._manifest_of(model, key[0])
        return decode(manifest).created_at if manifest is not None else self._made_at.get(model, float("-inf"))


def _named(model: str) -> str:
    return "/".join(parts_of(model) or (model,))


def _facts(event: str, model: str, generation: int | None, why: str | None = None) -> dict[str, Any]:
    found = {"event": event, "model": model, "generation": generation, "why": why}
    return {name: value for name, value in found.items() if value is not None}
