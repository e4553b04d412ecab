"""The thread that runs the agent: it brings events in and carries commands out. One per process, begun after any fork (R12).

Three threads: `genlock-runtime` (the agent, all calls to Redis, the map of views), `genlock-hints` (the subscription, R14) and
`genlock-loads`. Everybody else hands the runtime small actions through its inbox; nothing else touches fence or lease (R3).
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
from typing import TYPE_CHECKING, Any, Literal

from ..coordinator.calls import FENCED, NO_EPOCH, Call, Heartbeat, Join, Say
from ..coordinator.clock import clock
from ..coordinator.errors import DoesNotFit, GenlockError, NotTrusted, Unavailable
from ..coordinator.identity import mark_had_member
from ..coordinator.keyring import Keyring
from ..coordinator.manifest import decode
from ..coordinator.records import Hint
from .about import about, held_of
from .agent import Agent
from .hostcache import near
from .hostwork import HostWork
from .lastgood import LastGood
from .limits import Limits, Use
from .listener import Listener
from .loaders import Loader
from .loadthread import Done, LoadThread, import_ahead, trim
from .orders import (
    Answered,
    Arrived,
    Cancel,
    Clear,
    Command,
    Dropped,
    Expelled,
    Flipped,
    Joined,
    Load,
    News,
    Rejected,
    Resubscribe,
)
from .phases import Phases
from .questions import unpublished
from .shelf import Shelf
from .slot import Key, Slot
from .stats import Stats
from .trust import Trust
from .view import View, Views

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
#: What an error is of that is not of a model: no model has this name.
_REDIS = ""


class Question:
    """A request that may not answer from memory, waiting for the runtime."""

    __slots__ = ("error", "event", "models", "views")

    def __init__(self, models: tuple[str, ...]) -> None:
        self.models = models
        self.event = threading.Event()
        self.views: tuple[View, ...] | None = None
        self.error: Answered | None = None


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
        self._fleet, self.stats, self._limits = fleet, stats, limits
        self._publish_map, self._notify = publish, notify
        self.worker = worker
        self.failure = ""  #: what the runtime's thread died of or met last; shown by health
        self.misfits: dict[str, DoesNotFit] = {}  #: models that were refused for their size
        # What is wrong now, by model or _REDIS, the last one at the end; replaced as a whole, because other threads read it.
        self._errors: dict[str, str] = {}
        identity = fleet.identity
        self._trust = Trust(Keyring.of(settings), identity.fleet_id, settings.state_dir, refused=self._take_refusal)
        # Before the mark: the first process of a new fleet may say that it never had a member, and need not wait a lease for it (R6).
        self._registry = self._new_registry(identity.lease_s)
        if not identity.had_member:
            mark_had_member(fleet.store, fleet.name)
        self.agent = Agent(
            worker,
            lease_s=identity.lease_s,
            chance=random.random,
            stale_allowed=settings.on_disconnect == "stale",
            examine=self._trust.examine if self._trust else None,
        )
        self._last_good = LastGood(settings.state_dir, fleet.name)
        self._import_ahead = partial(import_ahead, tuple(configured), loader_of)
        self._loads = LoadThread(
            store=near(fleet.store, settings),
            host=HostWork(settings.state_dir, loads_per_host=settings.loads_per_host),
            last_good=self._last_good,
            examine=self._trust.examine,
            loader_of=loader_of,
            report=lambda done: self.post(lambda: self._take_done(done)),
        )
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._shelf = Shelf()
        self._questions: dict[int, Question] = {}
        self._tokens = 0
        self._phases = Phases()
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
        return next(reversed(self._errors.values()), "")

    def error_of(self, *models: str) -> str:
        """What is wrong with one of these, or else with Redis; or nothing."""
        errors = self._errors
        return next((errors[subject] for subject in (*models, _REDIS) if subject in errors), "")

    def post(self, action: Callable[[], None]) -> None:
        """Runs `action` on the runtime's thread, soon."""
        self._inbox.put(action)

    def ask(self, models: tuple[str, ...], timeout_s: float) -> Question:
        """What is active of these, at one instant after now. Waits for it, and for a load if one is needed, up to `timeout_s`;
        then both `views` and `error` of the question are None."""
        question = Question(models)
        self.post(lambda: self._take_question(question))
        if self._has_ended:  # after the post: whoever does not see it is read by the last look
            question.error = Answered(0, model=models[0], why=_LEAVING)
            return question
        if not question.event.wait(timeout_s):
            self.post(lambda: self._give_up(question))
        return question

    def hold(self, models: tuple[str, ...]) -> None:
        """These shall be held: loaded, and changed with the fleet."""
        self.post(lambda: self._hold(models))

    def drop(self, models: tuple[str, ...], reason: str) -> None:
        """These are not held any more; returns when no request can get one of their views from the map."""
        done = threading.Event()

        def drop() -> None:
            self._drop(models, reason)
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
        view, slot = self.views.get(model), self.agent.slots.get(model)
        if slot is not None and slot.has_failed and slot.told is not None:
            detail = slot.detail_of(slot.told.key)
            return f"generation {slot.told.key[0]} could not be loaded at {detail.get('step')}: {detail.get('why')}"
        if view is None or slot is None:
            return self._why_nothing(model, slot)
        if view.stale or (self.agent.gone and clock() < view.lease.deadline):
            return None
        if self.agent.gone:
            is_wanted = self._fleet.settings.on_disconnect == "stale"
            return None if is_wanted else f"Redis is gone, and stale answers are not wanted: {self.error_of()}"
        if slot.told is not None and slot.shown != slot.told.key:
            return f"generation {slot.told.key[0]} is active and not loaded yet"
        return None

    def _why_nothing(self, model: str, slot: Slot | None) -> str:
        if misfit := self.misfits.get(model):
            return str(misfit)
        state = slot.state if slot is not None and not slot.behind else None
        if state is not None and state.active is None and state.cand is None and not self.agent.gone:
            return unpublished(model)
        return f"nothing is loaded yet; last error: {self.error_of(model) or 'none'}"

    def close(self) -> None:
        """Leaves the fleet and ends the threads; bounded, and harmless twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        self.post(self.agent.leave)
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)
        self._loads.close(CLOSE_S)
        self._listener.close(CLOSE_S)
        self._registry.close()

    # --- the loop ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._ensure_server()
        self._import_ahead()
        while not self.agent.left:
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
            self._phases.begins(call.model, call.gen, "fencing", sent)
        self.agent.heard(call, reply, sent, now)
        if not self.agent.refused:
            if _REDIS in self._errors:
                _log.info("Redis is back", extra=self._facts("redis-back"))
            self._mended(_REDIS)
        elif self.agent.refused not in self.error_of():
            self._refused(reply)
        self.stats.epoch_seen(self.agent.epoch.number)

    def _refused(self, reply: Any) -> None:
        try:
            self._registry.check(reply)
        except GenlockError as error:
            self._met(_REDIS, f"{self.agent.refused}: {error}")
            _log.error("%s", error, extra=self._facts("refused"))

    def _met(self, subject: str, error: str) -> None:
        """This is wrong from now on, with a model or with Redis."""
        self._mended(subject)  # so that it stands at the end
        self._errors = {**self._errors, subject: error}

    def _mended(self, subject: str) -> None:
        """Nothing is wrong with it any more."""
        if subject in self._errors:
            self._errors = {other: error for other, error in self._errors.items() if other != subject}

    def _before_beat(self) -> None:
        """What is due about as often as a heartbeat."""
        self._look_at_loads()
        self.stats.heartbeat()
        self.stats.tick()
        expired = self._limits.expired(self._uses(), clock())
        if expired:
            self._drop(tuple(expired), "ttl")
            self._publish()

    def _gone(self, call: Call, error: Unavailable) -> None:
        if not self.agent.gone:
            _log.warning("Redis is gone: %s", error, extra=self._facts("redis-gone"))
        self._met(_REDIS, str(error))
        self.agent.unreachable(call, clock())
        if self.agent.epoch == NO_EPOCH:  # meanwhile the fleet may have had a member: that is read anew
            self._registry.close()
            self._registry = self._new_registry(self.agent.lease_s)
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
                    self._begin(command)
                case Cancel():
                    self._loads.cancel(command.job)
                case Answered():
                    self._publish()
                    self._take_answer(command)
                case Clear():
                    self._cleared(command)
                case Resubscribe():
                    self.stats.resubscribed()
                    self._listener.resubscribe()
                case Flipped():
                    self._flipped(command)
                case Rejected():
                    why = str(command.detail.get("why", "the fleet did not commit it"))
                    self.stats.rejected(command.model, generation=command.key[0], why=why)
                    facts = self._facts(
                        "rejected", command.model, command.key, step=command.detail.get("step"), why=why
                    )
                    _log.warning(
                        "model %s: generation %s was not committed: %s", command.model, command.key[0], why, extra=facts
                    )
                    self._phases.forget(command.model, command.key[0])
                case Joined():
                    self.stats.lease = self.agent.lease
                case Expelled():
                    facts = self._facts("expelled", why=command.why)
                    _log.warning("this worker is no member any more: %s", command.why, extra=facts)
                    if command.why == "evicted":
                        self.stats.evicted()
            self._notify(command)
        self._publish()

    def _begin(self, command: Load) -> None:
        job = command.job
        if job.purpose == "candidate":
            self._phases.begins(job.model, job.key[0], "preparing", clock())
        if job.purpose in ("active", "candidate"):
            try:
                size = decode(job.manifest).size
                first = not any(use.model == job.model and use.bytes for use in self._uses())
                victims = self._limits.room_for(job.model, size, self._uses(), first=first)
            except DoesNotFit as error:
                self._does_not_fit(command, error)
                return
            if victims:
                self._drop(tuple(victims), "lru_bytes")
        self._loads.begin(job)

    def _does_not_fit(self, command: Load, error: DoesNotFit) -> None:
        self.misfits[error.model] = error
        detail = {"step": "limits", "why": str(error)}
        self.agent.load_failed(command.job, "failed", detail, clock())
        if command.job.purpose == "active":
            for token, question in list(self._questions.items()):  # first: what is waited for is not dropped for long
                if error.model in question.models:
                    self.agent.given_up(token)
                    self._take_answer(Answered(token, model=error.model, why=str(error)))
            self._drop((error.model,), "lru_bytes")
        self._met(error.model, str(error))  # after the drop: it is why there is nothing
        _log.warning("%s", error, extra=self._facts("does-not-fit", error.model, command.job.key))

    def _take_refusal(self, model: str, generation: int, error: NotTrusted) -> None:
        """On the runtime's thread or the loading one: what it touches may be touched by any."""
        self.stats.refused(model, generation=generation, reason=error.outcome, why=str(error))
        facts = self._facts("refused-manifest", model, generation=generation, reason=error.outcome, why=str(error))
        _log.error("model %s: generation %s is refused: %s", model, generation, error, extra=facts)
        self.post(lambda: self._met(model, f"{model} generation {generation}: signature: {error}"))

    def _cleared(self, command: Clear) -> None:
        for model in self.views:
            if command.model in ("", model):
                self.stats.dropped(model, "clear")
                _log.info("model %s: dropped, the whole fleet was told to", model, extra=self._facts("cleared", model))
                self._notify_dropped(model, "clear")

    def _flipped(self, command: Flipped) -> None:
        phases = self._phases.flipped(command.model, command.after[0], clock())
        self.stats.flipped(command.model, phases=phases)
        seconds = {phase: round(s, 6) for phase, s in phases.items()}
        before = command.before[0] if command.before else None
        facts = self._facts("flipped", command.model, command.after, before=before, seconds=seconds)
        slot = self.agent.slots.get(command.model)
        where = "here" if slot is not None and command.after in slot.handles else "in the fleet, and not loaded yet"
        _log.info("model %s: generation %s is active %s", command.model, command.after[0], where, extra=facts)

    def _take_done(self, done: Done) -> None:
        job = done.job
        if done.loaded is not None and done.manifest is not None:
            self._shelf.put(job.id, done.loaded)
            self._loads.holds(self._shelf.digests)
            if job.purpose != "fallback":
                self._mended(job.model)
            self.stats.loaded(job.model, steps=done.loaded.seconds, reload=job.purpose == "refresh")
            seconds = {step: round(s, 6) for step, s in done.loaded.seconds.items()}
            facts = self._facts(
                "loaded", job.model, done.key, purpose=job.purpose, seconds=seconds, bytes=done.loaded.bytes
            )
            _log.info("model %s: generation %s is loaded", job.model, done.key[0], extra=facts)
            self._notify(Arrived(job.model, done.key, job.purpose))
            self.agent.loaded(job, done.key, {"seconds": seconds})
        elif done.said:
            # Without Redis that is what is wrong, and a fallback mends nothing; nor does it matter when the model was dropped meanwhile.
            if job.purpose != "fallback" and job.model in self.agent.slots:
                self._met(job.model, f"{job.model} generation {done.key[0]}: {done.step}: {done.why}")
            outcome: Literal["bad", "failed"] = "bad" if done.said == "bad" else "failed"
            self.stats.load_failed(job.model, outcome=outcome, step=done.step, why=done.why)
            log = _log.debug if job.purpose == "fallback" else _log.warning
            facts = self._facts(
                "load-failed", job.model, done.key, purpose=job.purpose, said=done.said, step=done.step, why=done.why
            )
            log(
                "loading %s generation %s: %s at %s: %s",
                job.model,
                done.key[0],
                done.said,
                done.step,
                done.why,
                extra=facts,
            )
            self.agent.load_failed(job, done.said, {"step": done.step, "why": done.why}, clock())

    # --- questions -----------------------------------------------------------------------------------------------

    def _take_question(self, question: Question) -> None:
        self._tokens += 1
        self._questions[self._tokens] = question
        if self.agent.leaving:
            self._take_answer(Answered(self._tokens, model=question.models[0], why=_LEAVING))
        else:
            self._hold(question.models)
            self.agent.asked(self._tokens, question.models)

    def _give_up(self, question: Question) -> None:
        for token in [token for token, known in self._questions.items() if known is question]:
            self.agent.given_up(token)
            del self._questions[token]

    def _take_answer(self, answer: Answered) -> None:
        question = self._questions.pop(answer.token, None)
        if question is None:
            return
        if answer.found:
            question.views = tuple(self._shelf.answer(model, *answer.found[model]) for model in question.models)
        else:
            question.error = answer
        question.event.set()

    # --- what is held --------------------------------------------------------------------------------------------

    def _uses(self) -> list[Use]:
        return self._shelf.uses(self.agent.slots, clock())

    def _hold(self, models: tuple[str, ...]) -> None:
        for model in models:
            if model not in self.agent.slots:
                self.misfits.pop(model, None)
                spared = [use for use in self._uses() if use.model not in models]
                others = len(self.agent.slots) - len(spared)
                room = self._limits._replace(max_models=max(1, self._limits.max_models - others))
                self._drop(tuple(room.too_many(model, spared)), "lru_count")
                self.agent.hold([model])

    def _drop(self, models: tuple[str, ...], reason: str) -> None:
        held = [model for model in models if model in self.agent.slots]
        for model in held:
            if reason == "invalidate":
                self.stats.invalidated(model, reason)
            self.stats.dropped(model, reason)  # type: ignore[arg-type]
            self._mended(model)  # what is not held is not wrong here
            _log.info("model %s: dropped: %s", model, reason, extra=self._facts("dropped", model, why=reason))
            self._notify_dropped(model, reason)
        (self.agent.give_way if reason.startswith("lru") else self.agent.drop)(held)

    def _notify_dropped(self, model: str, reason: str) -> None:
        view = self.views.get(model)
        self._notify(Dropped(model, (view.generation, view.version) if view else None, reason))

    def _publish(self) -> None:
        """Replaces the map of views if anything that it shows has changed, and lets go of what nothing needs any more."""
        now = clock()
        changed = self._shelf.show(self.agent.shown(now), now)
        if changed is not None:
            self._publish_map(self.views)  # from here on requests read it; only then is anything sent (R1)
            self.stats.installed(self.views)
            self._look_at_loads()
            self.agent.tell_people()
            for model in changed:
                self._keep_last_good(model)
        if self._shelf.let_go(self.agent.kept) and not self._closing.is_set():
            self._loads.chore(trim)
            self._loads.holds(self._shelf.digests)

    def _keep_last_good(self, model: str) -> None:
        slot = self.agent.slots[model]
        if slot.told is not None and slot.told.manifest is not None:
            generation, manifest = slot.told.key[0], slot.told.manifest
            self._loads.chore(lambda: self._last_good.write(model, generation, manifest), is_owed=bool(self._trust))
            if self._trust:  # after the last good one, which must not be older than what it is compared with
                self._loads.chore(self._trust.became_active(model, manifest, slot.told.rollback), is_owed=True)

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
        if self._loads.loading != self._told_loading:
            self._told_loading = self._loads.loading
            self.agent.tell_people()
        self.agent.about = self._about()

    def _facts(self, event: str, model: str | None = None, key: Key | None = None, **more: Any) -> dict[str, Any]:
        """For `extra` of a log line: see coordinator.logs."""
        found: dict[str, Any] = {"event": event, "fleet": self._fleet.name, "worker": self.worker, "model": model}
        found |= {"generation": key[0], "version": key[1]} if key is not None else {}
        return {name: value for name, value in (found | more).items() if value is not None}

    # --- hints ---------------------------------------------------------------------------------------------------

    def _hinted(self, hint: Hint) -> None:
        self.agent.hinted(hint.epoch, hint.revision, hint.model, clock())


def worker_name() -> str:
    """How this process shows itself to people: host:pid."""
    return f"{socket.gethostname()}:{os.getpid()}"
