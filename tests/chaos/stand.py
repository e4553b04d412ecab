"""A fleet under test: a server, proxies before it, services, clients and trainers, all real; and what was recorded of them.

What is started here is ended here. Everything that happens to it goes through `inject`, which writes it down, and waits until the
fleet has come to rest before it returns.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from genlock.coordinator import Fleet, GenlockError
from genlock.worker.demo.child import Child
from redis.exceptions import RedisError

from .clients import Target, Work
from .clock import Clock
from .disks import SmallDisk
from .history import Answer, Blackout, History, Injection, Proposal
from .hosts import Host
from .orders import Done, Order
from .proxy import Proxy
from .publisher import Publisher
from .server import Server
from .service import TESTS, Service

#: Seconds within which a fleet has to come to rest after a fault, at most; starting another gunicorn takes the longest.
REST_S = 60.0
#: Seconds between two looks at what was answered, and at what is committed.
LOOK_S = 0.02
#: One of so many checkpoints holds a NaN, and one has golden outputs of another.
BROKEN_EVERY, UNLIKE_EVERY = 11, 13
#: Connections to each service.
CONNECTIONS = 6

_answers = msgspec.msgpack.Decoder(Answer)


class Plan(NamedTuple):
    """What a service of a stand is like; see Service."""

    name: str
    workers: int = 2
    kind: str = "gthread"
    flags: tuple[str, ...] = ()
    options: Mapping[str, str] = {}
    prefix: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    redis_host: str = "127.0.0.1"


class NotStruck(Exception):
    """A fault found nothing to strike: it does not count. The text says what there was instead."""


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """A figure that has to stay within a limit."""

    what: str
    value: float
    limit: float
    unit: str


class Stand:
    """See the module. A context manager; `start` brings everything up."""

    def __init__(
        self,
        folder: Path,
        *,
        lease_s: float = 0.3,
        plans: Sequence[Plan] = (Plan("a", 2), Plan("b", 2, "sync")),
        persistence: str = "none",
        program: str = "valkey",
        clock: Clock | None = None,
        pause_s: float = 0.012,
        load_s: float = 0.1,
    ) -> None:
        """`pause_s`: between two requests of a connection; `load_s`: the longest load."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.lease_s, self.pause_s, self.load_s = folder, lease_s, pause_s, load_s
        self.persistence = persistence
        self.hold = folder / "hold"
        self._more = {"CHAOS_LOAD_S": str(load_s), "CHAOS_HOLD": str(self.hold)}
        self.server = Server(
            folder / "server",
            program=program,
            persistence=persistence,
            preload=clock.library if clock else None,
        )
        self._plans = plans
        self.spare: Server | None = None  #: follows the server, and takes its place
        self.clock = clock  #: the server's, on the wall
        self.hosts: dict[str, Host] = {}  #: machines of services
        self.disks: dict[str, SmallDisk] = {}  #: of the "store", and of the "server"
        self.proxies: dict[str, Proxy] = {}  #: before the server, one for each service; of the trainers: "trainers"
        self.services: dict[str, Service] = {}
        self.answers: list[Answer] = []
        self.proposals: list[Proposal] = []
        self.injections: list[Injection] = []
        self.blackouts: list[Blackout] = []
        self.measures: list[Measure] = []
        self.troubles: list[str] = []  #: what kept a run from going on as planned, in words
        self._over = 0.0
        self.struck = ""  #: the service that a fault strikes, if it is one
        self._committed: set[tuple[int, str]] = set()
        self._contents = itertools.count(1)
        self._file, self._read_to = folder / "answers", 0
        self._file.touch()
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._stopped = threading.Event()
        self._may_publish = threading.Lock()
        self._threads: list[threading.Thread] = []

    # --- starting and ending -------------------------------------------------------------------------------------------

    def __enter__(self) -> Stand:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Stand:
        """Server, first generation, services, clients; all is well when it returns."""
        self._stack.enter_context(self.server)
        if self.spare is not None:
            self._stack.enter_context(self.spare)
        upstream = self.server.host, self.server.port
        self.director = self._stack.enter_context(Proxy(upstream))  #: a line to the server that no fault touches
        for name, host in [("trainers", "127.0.0.1"), *((plan.name, plan.redis_host) for plan in self._plans)]:
            self.proxies[name] = self._stack.enter_context(Proxy(upstream, host=host))
        self.trainer = self.new_trainer("t")
        self.trainer.do(Order(content=next(self._contents)))
        for plan in self._plans:
            self.services[plan.name] = self._service(plan)
        for service in self.services.values():
            service.wait()
        self._clients = self._start_clients()
        self._begin(self._read_answers, "answers")
        self._begin(self._read_committed, "committed")
        self.rest(time.monotonic())
        return self

    def stop(self) -> None:
        """Ends everything; what was recorded stays."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._stack.close()
        self._take_answers()

    def new_trainer(self, name: str) -> Publisher:
        trainer = Publisher(self, name)
        self._stack.callback(trainer.end)
        return trainer

    def _service(self, plan: Plan) -> Service:
        environment = {**self._environment(self.proxies[plan.name].url), **self._more}
        service = Service(
            plan.name,
            self.folder / f"service-{plan.name}",
            environment,
            workers=plan.workers,
            kind=plan.kind,
            flags=plan.flags,
            options=plan.options,
            prefix=plan.prefix,
            host=plan.host,
        )
        self._stack.callback(service.end)
        service.start()
        return service

    def _start_clients(self) -> Child:
        targets = [Target(s.name, s.host, s.port, CONNECTIONS, s.kind == "gthread") for s in self.services.values()]
        work = msgspec.json.encode(Work(targets, self.pause_s, str(self._file))).decode()
        child = Child(
            "clients",
            [sys.executable, "-m", "chaos.clients", work],
            env=self.trainer_environment,
            log=self.folder / "clients.log",
        )
        self._stack.callback(child.end)
        self._stack.callback(child.finish)
        return child

    def _environment(self, url: str) -> dict[str, str]:
        return {
            "GENLOCK_REDIS_URL": url,
            "GENLOCK_FLEET": "chaos",
            "GENLOCK_STORE": str(self.folder / "store"),
            "GENLOCK_LEASE": str(self.lease_s),
        }

    @property
    def trainer_environment(self) -> dict[str, str]:
        """Of a process that publishes."""
        own = {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "GENLOCK_STATE_DIR": str(self.folder / "state")}
        return {**os.environ, **self._environment(self.proxies["trainers"].url), **own}

    def new_fleet(self) -> Fleet:
        """The fleet as the director sees it, on a line to the server that no fault touches."""
        environment = self._environment(self.director.url) | {"GENLOCK_STATE_DIR": str(self.folder / "state")}
        return Fleet.from_env(environ=environment)

    # --- publishing ------------------------------------------------------------------------------------------------------

    def keep_publishing(self, pause_s: float = 0.3) -> None:
        """Until the end, one checkpoint after the other; some of them broken."""

        def publish() -> None:
            while not self._stopped.wait(pause_s):
                with self._may_publish:
                    try:
                        self.publish()
                    except Exception as error:  # without flips a run shows little
                        self.troubles.append(f"the publisher: {type(error).__name__}: {error}")

        self._begin(publish, "publisher")

    @contextmanager
    def nobody_publishes(self) -> Iterator[None]:
        """The usual publisher waits."""
        with self._may_publish:
            yield

    def publish(self, trainer: Publisher | None = None, **terms: Any) -> Proposal:
        """The next checkpoint."""
        content = next(self._contents)
        order = Order(content=content, broken=content % BROKEN_EVERY == 0, unlike=content % UNLIKE_EVERY == 0)
        return (trainer or self.trainer).do(msgspec.structs.replace(order, **terms))

    def publish_good(self, trainer: Publisher | None = None, **terms: Any) -> Proposal:
        """The next checkpoint, a good one."""
        return self.publish(trainer, broken=False, unlike=False, **terms)

    def staged(self, order: Order, version: str, began: float, by: str) -> None:
        """A trainer has written a checkpoint, and is about to publish it."""
        is_broken = order.broken or order.unlike
        found = Proposal(began=began, ended=began, content=order.content, version=version, broken=is_broken, by=by)
        with self._lock:
            self.proposals.append(found)

    def proposed(self, order: Order, done: Done, version: str, began: float, by: str) -> Proposal:
        """A trainer has heard, or has died."""
        found = Proposal(
            began=began,
            ended=time.monotonic(),
            content=order.content,
            version=done.version or version,
            generation=done.generation,
            outcome=done.outcome,
            broken=order.broken or order.unlike,
            by=by,
            why=done.why,
        )
        with self._lock:
            self.proposals = [p for p in self.proposals if not (p.version == version and p.began == began and version)]
            self.proposals.append(found)
        return found

    # --- what happens to it ----------------------------------------------------------------------------------------------

    def inject(self, kind: str, action: Callable[[Stand], str | None], **nature: Any) -> Injection:
        """Does it, waits until all is well again, and writes it down. `nature`: fields of Injection."""
        began, self._over, self.struck = time.monotonic(), 0.0, ""
        try:
            detail = action(self) or ""
        except NotStruck as error:
            detail, nature["counts"] = f"met nothing: {error}", False
        except Exception as error:  # whatever it is: the run goes on, and ends as one that did not go as planned
            detail = f"{type(error).__name__}: {error}"
            self.troubles.append(f"{kind}: {detail}")
            self._mend()
        ended = self._over or time.monotonic()
        self.rest(time.monotonic())
        facts = {"began": began, "ended": ended, "until": time.monotonic(), "detail": detail, "service": self.struck}
        found = Injection(kind=kind, **facts, **nature)
        self.injections.append(found)
        return found

    def _mend(self) -> None:
        """Undoes what an act that broke off may have left behind."""
        for proxy in self.proxies.values():
            proxy.disarm()
            proxy.refuse(False)
            proxy.slow(0.0)
            proxy.unblock(late=False)
        for host in self.hosts.values():
            host.heal()
        for disk in self.disks.values():
            disk.free()
        if self.server.is_up:
            self.server.go_on()
            with self.server.client() as client, suppress(RedisError):
                client.replicaof("NO", "ONE")
                client.config_set("maxmemory", "0")
        else:
            self.server.start()

    def over(self) -> None:
        """The fault is over; what its act does from here on is looking how the fleet comes out of it."""
        self._over = time.monotonic()

    def fail_over(self) -> None:
        """The server dies, and the spare one takes its place with what it has; the other comes back as its spare."""
        assert self.spare is not None
        old, new = self.server, self.spare
        old.kill()
        new.promote()
        for proxy in (self.director, *self.proxies.values()):
            proxy.point_to(new.host, new.port)
            proxy.cut()
        self.server, self.spare = new, old

    @contextmanager
    def dark(self, *services: str) -> Iterator[None]:
        """Nothing of the server reaches these services (all, if none is named) in this block."""
        began = time.monotonic()
        yield
        ended = time.monotonic()
        self.blackouts += [Blackout(name, began, ended) for name in services or self.services]

    def rest(self, since: float) -> None:
        """Until every service has its workers, the fleet its members, and nothing but good answers came for two leases."""
        expected = sum(service.workers for service in self.services.values())
        with closing(self.new_fleet()) as fleet:
            until = time.monotonic() + REST_S
            while missing := self._missing(since) or self._missing_members(fleet, expected):
                if time.monotonic() > until:
                    self.troubles.append(f"{REST_S:g} s after a fault: {missing}")
                    return
                time.sleep(LOOK_S)

    def opened_after(self, answered: float) -> Measure:
        """Waits until the fleet is open; how long after the server's first answer, at `answered`, it was opened, as its log says."""
        self.await_open()
        now_s, now_unix_s = time.monotonic(), time.time()
        with closing(self.new_fleet()) as fleet:
            opened = max(event.at for event in fleet.events() if event.what == "open") - now_unix_s + now_s
        what = f"open again after a restart of the server, lease {self.lease_s:g} s"
        return Measure(what=what, value=round((opened - answered) / self.lease_s, 2), limit=1.5, unit="leases")

    def await_open(self) -> None:
        """Until the fleet is open. Raises RuntimeError."""
        until = time.monotonic() + REST_S
        with closing(self.new_fleet()) as fleet:
            while time.monotonic() < until:
                with suppress(GenlockError):
                    if fleet.status().open:
                        return
                time.sleep(LOOK_S)
        raise RuntimeError(f"the fleet is not open after {REST_S:g} s")

    def _missing_members(self, fleet: Fleet, expected: int) -> str:
        try:
            status = fleet.model("m")
        except GenlockError as error:
            return str(error)
        if status.holders != expected:
            for service in self.services.values():
                service.is_ready  # noqa: B018  # as a load balancer asks: who was cleared loads again
            return f"{status.holders} of {expected} workers hold the model"
        return ""

    def _missing(self, since: float) -> str:
        since = max(since, time.monotonic() - 2 * self.lease_s)
        recent: list[Answer] = []
        for answer in reversed(self.answers):
            if answer.end < since - 1.0:
                break
            if answer.start >= since:
                recent.append(answer)
        for answer in recent:
            if answer.stale or answer.error:
                return f"{answer.worker or answer.service} answered {answer.error or 'stale'}"
        silent = set(self.services) - {answer.service for answer in recent}
        if silent:
            return f"no answer of {sorted(silent)}"
        return "" if time.monotonic() - since >= self.lease_s else "a lease is not over"

    # --- what is read while it runs --------------------------------------------------------------------------------------

    def _begin(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=f"chaos-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _read_answers(self) -> None:
        while not self._stopped.wait(LOOK_S):
            self._take_answers()

    def _take_answers(self) -> None:
        with self._file.open("rb") as file:
            file.seek(self._read_to)
            data = file.read()
        at = 0
        while at + 4 <= len(data) and (end := at + 4 + int.from_bytes(data[at : at + 4], "big")) <= len(data):
            answer = _answers.decode(data[at + 4 : end])
            self.answers.append(answer)
            at = end
        self._read_to += at

    def _read_committed(self) -> None:
        """What the fleet's own record calls active, several times in a lease, and its history."""
        fleet = self.new_fleet()
        for turn in itertools.count():
            if self._stopped.wait(self.lease_s / 10):
                break
            with suppress(GenlockError):
                status = fleet.model("m")
                if status.generation is not None and status.version is not None:
                    self._committed.add((status.generation, status.version))
                if turn % 10 == 0:
                    found = [g for g in fleet.history("m", limit=40) if g.outcome == "committed" or g.active]
                    self._committed |= {(g.generation, g.version) for g in found}
        fleet.close()

    @property
    def history(self) -> History:
        """Everything that was recorded; after `stop`."""
        return History(
            answers=self.answers,
            proposals=self.proposals,
            injections=self.injections,
            blackouts=self.blackouts,
            committed=frozenset(self._committed),
            lease_s=self.lease_s,
        )
