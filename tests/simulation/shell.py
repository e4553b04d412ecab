"""A simulated worker: a real agent, and round it what the runtime does, without deciding anything.

It carries out the agent's commands (a load takes a while, and may come to nothing), publishes what the agent shows before it sends
anything, and sends one call at a time; what happens meanwhile waits in its inbox. Requests read its map of views, then its clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from genlock.coordinator.calls import Call, Say
from genlock.coordinator.canary import LEAST_REQUESTS, place_of
from genlock.coordinator.manifest import decode
from genlock.coordinator.reply import READY, Reply
from genlock.worker.agent import Agent
from genlock.worker.orders import Answered, Cancel, Load, Resubscribe, Shown
from genlock.worker.slot import Job
from network import Connection
from violation import Violation

if TYPE_CHECKING:
    from truth import Key
    from world import World

#: Streams of chance that are for workers; see world.
OF_WORKERS = 2
#: Calls in one go before the inbox is looked at again, as in the runtime.
CALLS_IN_A_ROW = 32
#: Turns without a call at one moment, before it counts as a worker that spins.
MOST_IDLE_TURNS = 50


class Request(NamedTuple):
    """Somebody waits for an answer from these models."""

    models: tuple[str, ...]
    key: str
    then: tuple[int, dict[str, int]]  #: see Truth.now
    began: float


class Shell:
    """See the module. `clock()` is the worker's own: another base and another rate than the world's."""

    def __init__(self, world: World, number: int, *, stale_allowed: bool) -> None:
        self.world, self.number, self.name = world, number, f"w{number}"
        self.chance = chance = world.stream(OF_WORKERS, number)
        self.rate = world.a_rate(chance)
        self._base = chance.uniform(0, 1e6)
        self.agent = Agent(self.name, lease_s=world.lease_s, chance=chance.random, stale_allowed=stale_allowed)
        self.stale_allowed = stale_allowed
        self.is_alive, self.is_paused = True, False
        self.cut = ""  #: see network.Process
        self.views: Mapping[str, Shown] = {}  #: what requests read
        self.told: dict[str, Key] = {}  #: what the agent was told, as the truth has seen it
        self.questions: dict[int, Request] = {}
        self.subscribed_to: str | None = None  #: the run of the server that hints come from
        self.is_deaf = False  #: the subscription is dead, and nobody has noticed
        self._payloads: dict[int, Key] = {}
        self._cancelled: set[int] = set()
        self._loads_until = 0.0
        self._tokens = 0
        self._inbox: list[Callable[[], None]] = []
        self._asleep: list[Callable[[], None]] = []  # what has come while it was paused
        self._connection = Connection()
        self._is_busy = False  # a call is on its way, or a reply has not been carried out
        self._turn_is_due = False
        self._alarm = 0  # serial of the last alarm that was set
        self._idle_turns = (0, 0.0)
        self.calls = 0
        self.resubscribe()

    def clock(self) -> float:
        return self._base + self.world.now * self.rate

    # --- being scheduled, or not -------------------------------------------------------------------------------------

    def deliver(self, action: Callable[[], None]) -> None:
        """Something happens to this process: now, when it is scheduled again, or never."""
        if self.is_paused:
            self._asleep.append(action)
        elif self.is_alive:
            action()

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """After that many seconds of the world."""
        self.world.at(delay_s, lambda: self.deliver(action))

    def post(self, action: Callable[[], None]) -> None:
        """For the runtime's thread."""
        self._inbox.append(action)
        if not (self._is_busy or self._turn_is_due):
            self._turn_is_due = True
            self.later(0.0, self._take_turn)

    def _take_turn(self) -> None:
        self._turn_is_due = False
        self.turn()

    def pause(self, seconds: float) -> None:
        self.is_paused = True
        self.world.at(seconds, self.wake)

    def wake(self) -> None:
        self.is_paused = False
        asleep, self._asleep = self._asleep, []
        for action in asleep:
            self.deliver(action)

    def mend(self) -> None:
        """The network reaches it again."""
        self.cut = ""

    def die(self) -> None:
        self.is_alive = False
        self.views = {}

    # --- the loop of the runtime ---------------------------------------------------------------------------------------

    def turn(self) -> None:
        if self._is_busy or not self.is_alive:
            return
        inbox, self._inbox = self._inbox, []
        for action in inbox:
            action()
        call = self.agent.next_call(self.clock())
        self._carry_out()
        if call is not None:
            self._is_busy = True
            self._send(call)
        elif self.agent.membership.left:
            self.die()
        else:
            self._set_alarm()

    def _set_alarm(self) -> None:
        count, at = self._idle_turns
        self._idle_turns = (count + 1, at) if at == self.world.now else (1, self.world.now)
        if count > MOST_IDLE_TURNS:
            raise Violation(f"{self.name} spins: nothing to send, and nothing to wait for")
        self._alarm += 1
        serial, wait_s = self._alarm, self.agent.wake_at(self.clock()) - self.clock()
        # A clock has a resolution, and floating point has one: a timer never fires before its time.
        self.later(max(0.0, wait_s / self.rate + 1e-6), lambda: self._ring(serial))

    def _ring(self, serial: int) -> None:
        if serial == self._alarm:
            self.turn()

    def _send(self, call: Call) -> None:
        if isinstance(call, Say) and call.said == READY:
            self._check_ready(call)
        self.calls += 1
        sent, epoch = self.clock(), self.agent.epoch
        self.world.say(lambda: f"{self.name} sends {call} in {epoch}")
        self.world.network.send(
            self,
            call,
            epoch,
            self._connection,
            timeout_s=min(0.5, max(0.1, self.world.lease_s / 3)) / self.rate,
            replied=lambda reply: self.deliver(lambda: self._heard(call, reply, sent)),
            failed=lambda: self.deliver(lambda: self._lost(call)),
            late=lambda reply: self.deliver(lambda: self._heard_late(call, reply, sent)),
        )

    def _check_ready(self, call: Say) -> None:
        if not any(key[0] == call.gen for key in self.agent.slots[call.model].handles):
            raise Violation(f"{self.name} says ready for {call.model} {call.gen}, and has not loaded it")

    def _heard(self, call: Call, reply: Reply, sent: float) -> None:
        self.agent.heard(call, reply, sent, self.clock())
        self.world.say(lambda: f"{self.name} hears {_short(reply)} to {call.script}")
        self._after_call()

    def _lost(self, call: Call) -> None:
        self._connection = Connection()
        self.world.say(lambda: f"{self.name} gets no reply to {call.script}")
        self.agent.unreachable(call, self.clock())
        self._after_call()

    def _heard_late(self, call: Call, reply: Reply, sent: float) -> None:
        """A driver drops the connection after a timeout; the agent must bear a late reply all the same (R3)."""
        self.world.say(lambda: f"{self.name} hears late {_short(reply)} to {call.script}")
        self.post(lambda: self.agent.heard(call, reply, sent, self.clock()))

    def _after_call(self) -> None:
        """The reply is applied; a moment passes before it is carried out, in which requests go on."""
        self.world.truth.check(self)
        self.later(self.world.hiccup(self.chance), self._go_on)

    def _go_on(self) -> None:
        self._carry_out()
        self._is_busy = False
        self.turn()

    # --- commands ------------------------------------------------------------------------------------------------------

    def _carry_out(self) -> None:
        for command in self.agent.commands():
            match command:
                case Load():
                    self._begin(command.job)
                case Cancel():
                    self._cancelled.add(command.job.id)
                case Answered():
                    self._publish()
                    self._answer(command)
                case Resubscribe():
                    self.resubscribe()
        self._publish()

    def _publish(self) -> None:
        shown = self.agent.shown(self.clock())
        if shown != self.views:
            for model, what in shown.items():
                if self._payloads.get(what.handle, (0, None))[1] != what.key[1]:
                    raise Violation(
                        f"{self.name} shows {model} {what.key}, loaded is {self._payloads.get(what.handle)}"
                    )
            self.views = shown
            self.world.last_good.update({model: what.key for model, what in shown.items() if what.mode == "lease"})
            self.world.say(lambda: f"{self.name} shows " + ", ".join(f"{m} {s.key} {s.mode}" for m, s in shown.items()))
        if len(self._payloads) > len(shown):
            kept = self.agent.kept
            self._payloads = {handle: key for handle, key in self._payloads.items() if handle in kept}
        self.world.truth.check(self)

    def _begin(self, job: Job) -> None:
        took = self.world.load_time(self.chance)
        self._loads_until = max(self.world.now, self._loads_until) + took
        self.world.say(lambda: f"{self.name} loads {job.model} {job.key} as {job.purpose}")
        self.later(self._loads_until - self.world.now, lambda: self.post(lambda: self._end(job)))

    def _end(self, job: Job) -> None:
        if job.id in self._cancelled and self.chance.random() < 0.7:
            return
        key, said = job.key, ""
        if job.purpose == "fallback":
            key = self.world.last_good.get(job.model, (0, ""))
            said = "" if key[0] else "failed"
        elif _version_of(job.manifest) != key[1]:
            said = "failed"
        said = said or self.world.judge_load(self, key)
        self.world.say(lambda: f"{self.name} has loaded {job.model} {key}: {said or 'ok'}")
        if said:
            self.agent.load_failed(job, said, {"step": "load", "why": said}, self.clock())
        else:
            self._payloads[job.id] = key
            self.agent.loaded(job, key, {"seconds": {}})

    # --- hints ---------------------------------------------------------------------------------------------------------

    def resubscribe(self) -> None:
        self.subscribed_to, self.is_deaf = None, False
        self.later(self.world.latency(self.chance), self._subscribe)

    def _subscribe(self) -> None:
        machine = self.world.machine
        if not machine.is_up:
            self.later(0.2, self._subscribe)
            return
        self.subscribed_to = machine.run_id
        self.later(self.world.latency(self.chance), lambda: self.post(self.agent.subscribed))

    def may_hear(self, epoch: int, revision: int, model: str) -> None:
        """A hint was sent to everybody."""
        world = self.world
        if not self.is_alive or self.is_deaf or self.subscribed_to != world.machine.run_id or "from" in self.cut:
            return
        if not world.happens("loss", self.chance):
            heard = lambda: self.post(lambda: self.agent.hinted(epoch, revision, model, self.clock()))  # noqa: E731
            self.later(world.latency(self.chance), heard)

    # --- requests --------------------------------------------------------------------------------------------------------

    def request(self, models: tuple[str, ...], key: str = "") -> None:
        """The map, then after a while the clock. With one model, `key` takes part in a canary."""
        request = Request(models, key, self.world.truth.now(), self.world.now)
        views = self.views
        is_slow = self.chance.random() < 0.15
        gap_s = self.world.long_latency(self.chance) if is_slow else self.world.hiccup(self.chance)
        self.later(gap_s, lambda: self._judge(request, views))

    def _judge(self, request: Request, views: Mapping[str, Shown]) -> None:
        found, now = [views.get(model) for model in request.models], self.clock()
        if all(view and view.lease and now < view.lease.deadline for view in found):
            if len(request.models) == 1 and self._is_tried(request.models[0], request.key, views[request.models[0]]):
                return
            self.world.truth.answered(self.name, {m: views[m].key for m in request.models}, request.then)
            self.world.count("unasked")
        elif self.stale_allowed and (self.agent.gone or all(v and v.mode == "stale" for v in found)) and all(found):
            self.world.count("stale")
        else:
            self.post(lambda: self._ask(request))

    def _is_tried(self, model: str, key: str, shown: Shown) -> bool:
        """Whether a canary answers it; and what is counted of that. Each request here stands for as many as a policy needs."""
        trial = shown.trial
        if trial is None or not key:
            return False
        is_candidate = shown.other is not None and place_of(model, trial.generation, key) < trial.key[2]
        group = trial.candidate if is_candidate or trial.is_watch else trial.active
        version = shown.other[0][1] if is_candidate and shown.other is not None else shown.key[1]
        is_poor = self.world.is_poor(version, is_active=trial.is_watch)
        for _ in range(LEAST_REQUESTS):
            group.requests += 1
            group.ended(0.01, failed=is_poor and self.chance.random() < 0.5)
        if is_candidate and shown.other is not None:
            self.world.count("tried")
            self.world.truth.tried(self.name, model, shown.other[0])
        return is_candidate

    def _ask(self, request: Request) -> None:
        if self.agent.membership.leaving:
            return
        self._tokens += 1
        token = self._tokens
        self.questions[token] = request
        self.agent.hold(request.models)
        self.agent.asked(token, request.models)
        self.later(self.world.max_wait_s, lambda: self.post(lambda: self._give_up(token)))

    def _give_up(self, token: int) -> None:
        request = self.questions.pop(token, None)
        if request is None:
            return
        if self.world.is_at_rest and all(self.world.can_show(self, model) for model in request.models):
            raise Violation(f"{self.name} has not answered {request.models} in {self.world.max_wait_s:g} s")
        self.world.count("given up")
        self.agent.given_up(token)

    def _answer(self, answer: Answered) -> None:
        request = self.questions.pop(answer.token, None)
        if request is None:
            return
        for model, (key, handle, _) in answer.found.items():
            if self._payloads.get(handle, (0, None))[1] != key[1]:
                raise Violation(f"{self.name} answers {model} {key}, loaded is {self._payloads.get(handle)}")
        if not answer.found:
            self.world.count("unknown" if answer.unknown else "refused")
            self.world.say(lambda: f"{self.name} refuses {request.models}: {answer.why}")
            return
        if set(answer.found) != set(request.models):
            raise Violation(f"{self.name} answers {sorted(answer.found)} to a request for {request.models}")
        sure = {model: key for model, (key, _, stale) in answer.found.items() if not stale}
        self.world.truth.answered(self.name, sure, request.then)
        self.world.count("asked" if len(sure) == len(answer.found) else "stale")


@lru_cache(1024)
def _version_of(manifest: str) -> str:
    return decode(manifest).version


def _short(reply: Reply) -> str:
    shown: dict[str, Any] = dict(reply.states)
    return f"{reply.verdict} {reply.epoch}:{reply.nonce[:4]} open={reply.open} rev={reply.revision} {shown or ''}"
