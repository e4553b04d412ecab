"""Whom this worker believes: every manifest is looked at before anything of it is loaded, if the settings name verify keys.

The signature vouches for the content, the serial for its place: none below the highest that was active on this host, unless it is a
rollback (serials.judge). To ask is to read a disk. For what Redis shows it is a thread of its own that does, for the last good one on
this host's disk the loading one; never the runtime's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..coordinator.errors import GenlockError, NotTrusted, WrongOrder
from ..coordinator.keyring import Keyring
from ..coordinator.manifest import Manifest, decode
from ..coordinator.reply import FAILED, REFUSED
from ..coordinator.serials import Claim, Seen, Serials, advanced, judge
from ..coordinator.signing import check_order, check_signature
from .slot import Found
from .unwritten import Unwritten

_log = logging.getLogger("genlock.worker")


class Trust:
    """The keys of this worker, and what it has seen active. Any thread may examine; the runtime's alone calls `became_active`."""

    def __init__(
        self, keyring: Keyring, fleet_id: str, state_dir: Path, *, refused: Callable[[str, int, NotTrusted], None]
    ) -> None:
        """`refused`: is told once of each refusal: model, generation, why."""
        self._keyring, self._fleet_id, self._told = keyring, fleet_id, refused
        self._serials = Serials(state_dir, fleet_id)
        #: What became active is for the next process of this host, too: somebody has to write it.
        self.unwritten = Unwritten(partial(self._serials.became_active, needs_order=bool(keyring.operators)))
        #: What became active in this process: on disk only when the loading thread has come to it. Only the runtime's thread writes it.
        self._seen: dict[str, Seen] = {}
        # The refusal that was told of last, of each model: the same one is tried again all the while.
        self._last: dict[str, tuple[int, str]] = {}

    def __bool__(self) -> bool:
        """Whether anything is asked for."""
        return bool(self._keyring.verify)

    def examine(self, model: str, generation: int, manifest: Manifest, rollback: int) -> None:
        """Raises NotTrusted for a manifest that must not be loaded here; SerialsUnreadable where that cannot be said. `rollback`: the
        generation that it goes back to, by Redis's word, or 0."""
        if not self:
            return
        try:
            check_signature(manifest, model, fleet_id=self._fleet_id, keys=self._keyring.verify)
            self._judge(model, manifest, rollback)
        except NotTrusted as error:
            if self._last.get(model) != (generation, error.outcome):
                self._last[model] = generation, error.outcome
                self._told(model, generation, error)
            raise
        self._last.pop(model, None)

    def answer(self, found: Found) -> tuple[str, str]:
        """What `Agent.examined` is told of a manifest: nothing where it may be loaded; else refused or failed, and why."""
        try:
            self.examine(found.model, found.gen, decode(found.manifest), found.rollback)
        except NotTrusted as error:
            return REFUSED, str(error)
        except GenlockError as error:
            return FAILED, str(error)
        except Exception as error:
            _log.exception("examining %s ended in an error that nobody expected", found.model)
            return FAILED, f"{type(error).__name__}: {error}"
        return "", ""

    def _judge(self, model: str, manifest: Manifest, rollback: int) -> None:
        claim, wrong = self._claim(model, manifest, rollback)
        try:
            for seen in (self._serials.seen(model), self._seen.get(model, Seen())):
                judge(model, claim, seen, needs_order=bool(self._keyring.operators))
        except NotTrusted as error:
            raise wrong or error from None

    def _claim(self, model: str, manifest: Manifest, rollback: int) -> tuple[Claim, WrongOrder | None]:
        """And why its order does not count, if it does not. It is as if there were none: what needs no order is not refused for one
        that was put in before operators had keys, or with a key that was replaced."""
        operators, wrong = self._keyring.operators, None
        if operators and manifest.order is not None:
            try:
                check_order(manifest, model, fleet_id=self._fleet_id, operators=operators)
            except WrongOrder as error:
                wrong = error
        return Claim.of(manifest, is_rollback=rollback > 0, orders_count=bool(operators) and wrong is None), wrong

    def became_active(self, model: str, text: str, rollback: int) -> None:
        """A manifest that was examined is active now: nothing older is let in from here on; here at once, in other processes of this host
        when it is written (see unwritten)."""
        claim, _ = self._claim(model, decode(text), rollback)
        self._seen[model] = advanced(claim, self._seen.get(model, Seen()))
        self.unwritten.add(model, claim)
