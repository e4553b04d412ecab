"""What this worker loads and shows: jobs that begin and end, the map of views that is made of them, and what its host keeps of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ..coordinator.clock import clock
from .agent import Agent
from .chronicle import Chronicle
from .examining import Examining
from .holdings import Holdings
from .hostcache import near
from .hostwork import HostWork
from .lastgood import LastGood
from .loaders import Loader
from .loadthread import Done, LoadThread, trim
from .shelf import Shelf
from .slot import Found, Job
from .trust import Trust
from .view import Views

if TYPE_CHECKING:
    from ..coordinator.fleet import Fleet


class Payloads:
    """The runtime's thread calls it, and who closes the runtime its `close`; what touches a disk is done by threads of its own, which
    post what came of that to the runtime's."""

    def __init__(
        self,
        fleet: Fleet,
        agent: Agent,
        *,
        shelf: Shelf,
        holdings: Holdings,
        trust: Trust,
        chronicle: Chronicle,
        loader_of: Callable[[str], Loader],
        publish: Callable[[Views], None],
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        """`publish`: is called with every new map of views. `post`: runs what it is given on the runtime's thread, soon."""
        settings = fleet.settings
        self._agent, self._shelf, self._holdings = agent, shelf, holdings
        self._trust, self._chronicle = trust, chronicle
        self._publish = publish
        self._last_good = LastGood(settings.state_dir, fleet.name)
        self._loads = LoadThread(
            store=near(fleet.store, settings),
            host=HostWork(settings.state_dir, loads_per_host=settings.loads_per_host),
            last_good=self._last_good,
            examine=trust.examine,
            loader_of=loader_of,
            report=lambda done: post(lambda: self._take(done)),
        )
        self._examining = Examining(trust.answer, lambda *said: post(partial(self._examined, *said)))

    @property
    def loading(self) -> Mapping[str, Mapping[str, Any]]:
        """What is being loaded now, for people: see LoadThread."""
        return self._loads.loading

    def close(self, timeout_s: float) -> None:
        """Ends the threads, which are waited for that long."""
        end = clock() + timeout_s
        if self._trust.unwritten:
            self._loads.chore(self._trust.unwritten.write, is_owed=True)
        self._loads.close(timeout_s)
        self._examining.close(max(0.0, end - clock()))

    # --- jobs ----------------------------------------------------------------------------------------------------

    def examine(self, found: Found) -> None:
        """Finds out whether anybody vouches for a manifest."""
        self._examining.examine(found)

    def _examined(self, found: Found, said: str, why: str) -> None:
        self._agent.examined(found, said, why, clock())

    def begin(self, job: Job) -> None:
        """Loads it, if it fits beside what is held."""
        if job.purpose == "candidate":
            self._chronicle.enters(job.model, job.key[0], "preparing", clock())
        if self._holdings.make_room(job, clock()):
            self._loads.begin(job)

    def cancel(self, job: Job) -> None:
        """Nobody wants it any more."""
        self._loads.cancel(job)

    def _take(self, done: Done) -> None:
        job = done.job
        if done.loaded is not None and done.manifest is not None:
            self._shelf.put(job.id, done.loaded)
            self._loads.holds(self._shelf.digests)
            self._chronicle.loaded(done)
            seconds = {step: round(s, 6) for step, s in done.loaded.seconds.items()}
            self._agent.loaded(job, done.key, {"seconds": seconds})
        elif done.said:
            self._chronicle.load_failed(done, is_held=job.model in self._agent.slots)
            self._agent.load_failed(job, done.said, {"step": done.step, "why": done.why}, clock())

    # --- views ---------------------------------------------------------------------------------------------------

    def show(self, *, closing: bool) -> bool:
        """Replaces the map of views if anything that it shows has changed, which is returned; lets go of what nothing needs any more."""
        now = clock()
        changed = self._shelf.show(self._agent.shown(now), now)
        if changed is not None:
            self._publish(self._shelf.views)  # from here on requests read it; only then is anything sent (R1)
            for model in changed:
                self._keep_last_good(model)
        if self._shelf.let_go(self._agent.kept) and not closing:
            self._loads.chore(trim)
            self._loads.holds(self._shelf.digests)
        return changed is not None

    def _keep_last_good(self, model: str) -> None:
        told = self._agent.slots[model].told
        if told is None or told.manifest is None:
            return
        self._loads.chore(partial(self._last_good.write, model, told.key[0], told.manifest), is_owed=bool(self._trust))
        if self._trust:  # after the last good one, which must not be older than what it is compared with
            self._trust.became_active(model, told.manifest, told.rollback)
            self._loads.chore(self._trust.unwritten.write, is_owed=True)

    def look_at_unwritten(self) -> None:
        """Tries again what could not be written of what became active, where that is due."""
        if self._trust.unwritten.take_due(clock()):
            self._loads.chore(self._trust.unwritten.write, is_owed=True)
