"""The thread that runs the agent: it brings events in and carries commands out. One per process, begun after any fork (R12).

Three threads: `genlock-runtime` (the agent, all calls to Redis, the map of views), `genlock-hints` (the subscription, R14) and
`genlock-loads`; where manifests are signed, `genlock-examines` as long as one is looked at. Everybody else hands the runtime small
actions through its inbox; nothing else touches fence or lease (R3).
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ..coordinator.calls import Call, Heartbeat, Join, Say
from ..coordinator.clock import clock
from ..coordinator.errors import DoesNotFit, GenlockError, Unavailable
from ..coordinator.identity import mark_had_member
from ..coordinator.keyring import Keyring
from ..coordinator.records import Hint
from ..coordinator.reply import FENCED, NO_EPOCH
from .about import about, held_of
from .agent import Agent
from .asking import Asking, Question
from .chronicle import Chronicle
from .holdings import Holdings
from .limits import Limits
from .listener import Listener
from .loaders import Loader
from .loadthread import import_ahead
from .orders import (
    Answered,
    Cancel,
    Clear,
    Command,
    Examine,
    Expelled,
    Flipped,
    Joined,
    Load,
    News,
    Rejected,
    Resubscribe,
)
from .payloads import Payloads
from .readiness import why_not
from .shelf import Shelf
from .stats import Stats
from .trust import Trust
from .view import Views

if TYPE_CHECKING:
    from ..coordinator.fleet import Fleet
    from ..coordinator.registry import Registry

_log = logging.getLogger("genlock.worker")

#: Calls in one go before the inbox is looked at again.
CALLS_IN_A_ROW = 32
#: Seconds that closing waits for Redis to hear that this worker leaves, and for the threads to end.
CLOSE_S = 2.0
#: What is said to who asks too late.
_LEAVING = "this worker is leaving the fleet"


class Runtime:
    """See the module. `publish` is called with every new map of views, on the runtime's thread."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        loader_of: Callable[[str], Loader],
        stats: Stats,
        limits: Limits,
        publish: Callable[[Views], None],
        notify: Callable[[Command | News], None],
        worker: str,
        configured: Iterable[str] = (),
    ) -> None:
        """`configured`: models whose loaders are imported before this process becomes a member."""
        settings = fleet.settings
        self._fleet, self.stats, self._notify = fleet, stats, notify
        self.worker = worker
        self.failure = ""  #: what the runtime's thread died of or met last; shown by health
        self._chronicle = Chronicle(fleet.name, worker, stats, notify)
        self._faults = self._chronicle.faults
        identity = fleet.identity
        trust = Trust(
            Keyring.of(settings),
            identity.fleet_id,
            settings.state_dir,
            refused=lambda model, *why: self.post(
                lambda: self._chronicle.refused(model, *why, is_held=model in self.agent.slots)
            ),
        )
        # Before the mark: the first process of a new fleet may say that it never had a member, and need not wait a lease for it (R6).
        self._registry = self._new_registry(identity.lease_s)
        if not identity.had_member:
            mark_had_member(fleet.store, fleet.name)
        self.agent = Agent(
            worker,
            lease_s=identity.lease_s,
            chance=random.random,
            stale_allowed=settings.on_disconnect == "stale",
            examines=bool(trust),
        )
        self._import_ahead = partial(import_ahead, tuple(configured), loader_of)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._shelf = Shelf()
        self._asking = Asking(self._shelf)
        self._holdings = Holdings(self.agent, limits, self._shelf, self._asking, self._chronicle)
        self._payloads = Payloads(
            fleet,
            self.agent,
            shelf=self._shelf,
            holdings=self._holdings,
            trust=trust,
            chronicle=self._chronicle,
            loader_of=loader_of,
            publish=publish,
            post=self.post,
        )
        self._started_at = time.time()
        self._closing = threading.Event()
        #: Nobody reads the inbox any more, but for what was in it when this became true. Only this thread writes it.
        self._has_ended = False
        self._revived_at = float("-inf")
        self._told_loading: Mapping[str, Mapping[str, Any]] = {}
        self.agent.about = self._about()
        self._thread = threading.Thread(target=self._run, name="genlock-runtime", daemon=True)
        self._listener = Listener(
            partial(fleet.new_registry, timeout_s=CLOSE_S),
            subscribed=lambda: self.post(self.agent.subscribed),
            hinted=lambda hint: self.post(partial(self._hinted, hint)),
        )

    def _new_registry(self, lease_s: float) -> Registry:
        return self._fleet.new_registry(timeout_s=min(0.5, max(0.1, lease_s / 3)))

    # --- for other threads ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins; the last act of making a runtime."""
        self._thread.start()
        self._listener.start()

    @property
    def views(self) -> Views:
        """What is loaded, model by model: the map that was published last."""
        return self._shelf.views

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._closing.is_set()

    @property
    def is_gone(self) -> bool:
        """Redis did not answer, and was not reached since."""
        return self.agent.gone

    @property
    def last_error(self) -> str:
        """The last of what is wrong and was not mended since: a model that could not be loaded, Redis that is gone; or nothing."""
        return self._faults.last

    def error_of(self, *models: str) -> str:
        """What is wrong with one of these, or else with Redis; or nothing."""
        return self._faults.of(*models)

    @property
    def misfits(self) -> Mapping[str, DoesNotFit]:
        """The models that were refused for their size."""
        return self._faults.misfits

    def post(self, action: Callable[[], None]) -> None:
        """Runs `action` on the runtime's thread, soon."""
        self._inbox.put(action)

    def ask(self, models: tuple[str, ...], timeout_s: float) -> Question:
        """What is active of these, at one instant after now. Waits for it, and for a load if one is needed, up to `timeout_s`;
        then both `views` and `error` of the question are None."""
        question = Question(models)
        self.post(lambda: self._take_question(question))
        if self._has_ended:  # after the post: whoever does not see it is read by the last look
            question.refuse(_LEAVING)
        elif not question.event.wait(timeout_s):
            self.post(lambda: self._give_up(question))
        return question

    def hold(self, models: tuple[str, ...]) -> None:
        """These shall be held: loaded, and changed with the fleet."""
        self.post(lambda: self._holdings.hold(models, clock()))

    def drop(self, models: tuple[str, ...], reason: str) -> None:
        """These are not held any more; returns when no request can get one of their views from the map."""
        done = threading.Event()

        def drop() -> None:
            self._holdings.drop(models, reason)
            self._publish()
            done.set()

        self.post(drop)
        done.wait(CLOSE_S)

    def manifest_of(self, model: str, generation: int) -> str | None:
        """The manifest of what this worker was told is active, if it is that generation."""
        slot = self.agent.slots.get(model)
        told = slot.told if slot is not None else None
        return told.manifest if told is not None and told.key[0] == generation else None

    def why_not_ready(self, model: str) -> str | None:
        """Why the model cannot be answered from now; None if it can, if only from a last good generation that is marked stale."""
        return why_not(
            model,
            self.views.get(model),
            self.agent.slots.get(model),
            self._faults,
            gone=self.agent.gone,
            stale_wanted=self._fleet.settings.on_disconnect == "stale",
            now=clock(),
        )

    def close(self) -> None:
        """Leaves the fleet and ends the threads; bounded, and harmless twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        self.post(self.agent.leave)
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)
        self._payloads.close(CLOSE_S)
        self._listener.close(CLOSE_S)
        self._registry.close()

    # --- the loop ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._ensure_server()
        self._import_ahead()
        while not self.agent.membership.left:
            try:
                self._take_inbox(max(0.0, self.agent.wake_at(clock()) - clock()))
                self._step()
            except Exception as error:  # a fault of ours must be seen, and must not end the heartbeat
                _log.exception("the runtime met an error that nobody expected; it goes on")
                self.failure = f"{type(error).__name__}: {error}"
                self._closing.wait(0.1)
        self._publish()
        self._has_ended = True
        self._take_inbox(0.0)  # who asked meanwhile is told

    def _take_inbox(self, timeout_s: float) -> None:
        """Waits for an action, and takes all that are there."""
        with contextlib.suppress(queue.Empty):
            self._inbox.get(timeout=timeout_s)()
            while True:
                self._inbox.get_nowait()()

    def _step(self) -> None:
        for _ in range(CALLS_IN_A_ROW):
            call = self.agent.next_call(clock())
            self._carry_out()  # before the call: what is fenced or dropped is out of the map first (R1)
            if call is None:
                return
            self._send(call)
            self._carry_out()
            self._take_inbox(0.0)

    def _send(self, call: Call) -> None:
        self._registry.epoch = self.agent.epoch
        if isinstance(call, Heartbeat | Join):
            self._before_beat()
        sent = clock()
        try:
            reply = self._registry.send(call)
        except Unavailable as error:
            self.stats.redis_called(call.script, clock() - sent, ok=False)
            self._gone(call, error)
            return
        now = clock()
        self.stats.redis_called(call.script, now - sent, ok=True)
        if isinstance(call, Say) and call.said == FENCED:
            self._chronicle.enters(call.model, call.gen, "fencing", sent)
        self.agent.heard(call, reply, sent, now)
        if not self.agent.membership.refused:
            self._chronicle.redis_answered()
        elif self.agent.membership.refused not in self.error_of():
            self._refused(reply)
        self.stats.epoch_seen(self.agent.epoch.number)

    def _refused(self, reply: Any) -> None:
        try:
            self._registry.check(reply)
        except GenlockError as error:
            self._chronicle.not_ours(self.agent.membership.refused, error)

    def _before_beat(self) -> None:
        """What is due about as often as a heartbeat."""
        self._look_at_loads()
        self._payloads.look_at_unwritten()
        self.stats.heartbeat()
        self.stats.tick()
        if self._holdings.drop_expired(clock()):
            self._publish()

    def _gone(self, call: Call, error: Unavailable) -> None:
        self._chronicle.redis_gone(error, is_news=not self.agent.gone)
        self.agent.unreachable(call, clock())
        if self.agent.epoch == NO_EPOCH:  # meanwhile the fleet may have had a member: that is read anew
            self._registry.close()
            self._registry = self._new_registry(self.agent.membership.lease_s)
        if not self._closing.is_set() and clock() - self._revived_at > 1.0:
            self._revived_at = clock()
            self._carry_out()
            self._ensure_server()

    def _ensure_server(self) -> None:
        """Starts the embedded server, where there is to be one. That it cannot be started is told by the first call."""
        with contextlib.suppress(GenlockError):
            self._fleet.endpoint.ensure()

    # --- commands ------------------------------------------------------------------------------------------------

    def _carry_out(self) -> None:
        for command in self.agent.commands():
            match command:
                case Load():
                    self._payloads.begin(command.job)
                case Cancel():
                    self._payloads.cancel(command.job)
                case Examine():
                    self._payloads.examine(command.found)
                case Answered():
                    self._publish()
                    self._asking.answer(command)
                case Clear():
                    self._cleared(command)
                case Resubscribe():
                    self.stats.resubscribed()
                    self._listener.resubscribe()
                case Flipped():
                    slot = self.agent.slots.get(command.model)
                    self._chronicle.flipped(
                        command, clock(), is_here=slot is not None and command.after in slot.handles
                    )
                case Rejected():
                    self._chronicle.rejected(command)
                case Joined():
                    self.stats.lease = self.agent.membership.lease
                case Expelled():
                    self._chronicle.expelled(command)
            self._notify(command)
        self._publish()

    def _cleared(self, command: Clear) -> None:
        for model, view in self.views.items():
            if command.model in ("", model):
                self._chronicle.cleared(model, view)

    # --- questions -----------------------------------------------------------------------------------------------

    def _take_question(self, question: Question) -> None:
        if self.agent.membership.leaving:
            question.refuse(_LEAVING)
            return
        self._asking.add(question)
        self._holdings.hold(question.models, clock())
        self.agent.asked(question.token, question.models)

    def _give_up(self, question: Question) -> None:
        self._asking.forget(question)
        self.agent.given_up(question.token)

    # --- what requests and people see ---------------------------------------------------------------------------

    def _publish(self) -> None:
        if self._payloads.show(closing=self._closing.is_set()):
            self.stats.installed(self.views)
            self._look_at_loads()
            self.agent.tell_people()

    def _about(self) -> str:
        return about(
            self.worker,
            self.views,
            pid=os.getpid(),
            started_at=self._started_at,
            last_error=self.last_error,
            loading=self._told_loading,
            stats=self.stats.summary(),
        )

    def _look_at_loads(self) -> None:
        """What people see of this worker, as it is now; the next heartbeat carries it if a load has come to another step."""
        self.stats.held = held_of(self.agent.slots, self._shelf.bytes_of)
        if self._payloads.loading != self._told_loading:
            self._told_loading = self._payloads.loading
            self.agent.tell_people()
        self.agent.about = self._about()

    def _hinted(self, hint: Hint) -> None:
        self.agent.hinted(hint.epoch, hint.revision, hint.model, clock())


def worker_name() -> str:
    """How this process shows itself to people: host:pid."""
    return f"{socket.gethostname()}:{os.getpid()}"
