"""The director: starts everybody, listens to them, ends them, and says what was seen.

::

    home        folder, fleet, Redis
    trainer     the first epoch becomes generation 1: the service has something to load
    service     gunicorn; ready when every worker holds the model
    clients     when their connections have workers, the clock of the demo begins
    trial       an epoch, a publish, …; the broken ones halfway
    the end     clients, then service, then trainer, then Redis; in this order also after Ctrl-C, or when something fails
"""

from __future__ import annotations

import queue
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import Protocol

import msgspec

from ...coordinator.commands.progress import Interrupted
from .board import Board, Plan
from .child import Child, DemoFailed
from .clients import Load
from .home import Home
from .news import HELD_OUT_FILE, MODEL, Trial, decode, encode
from .report import Memory
from .service import listen, memory_of, serve

#: Seconds until the trainer has imported torch and scikit-learn and has published its first epoch; 6 on an idle machine with two cores.
TRAINER_S = 120.0
#: Seconds until all workers have imported torch and hold the model; 5 there.
SERVICE_S = 120.0
#: Seconds until the clients have connections to all workers.
CLIENTS_S = 20.0
#: Seconds after the last moment of the plan that the last publish may take.
LAST_S = 60.0
#: Seconds between two looks at what happened.
TICK_S = 0.1
#: Seconds between two requests that are due on one connection: 8 connections make 200 requests a second, a third of one core.
INTERVAL_S = 0.04
#: Seconds between two looks at which workers hold the model.
LOOK_S = 0.25


class Display(Protocol):
    """Shows the board while the demo goes on."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, board: Board, now: float) -> None:
        """Called every TICK_S."""


class Halt:
    """Ctrl-C, TERM and HUP while its block lasts: noted, and raised only where somebody waits, so that no process is lost that has just
    been started; and not while everybody is being ended, which has its own deadlines."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.by: signal.Signals | None = None

    def check(self) -> None:
        """Raises Interrupted."""
        if self.by is not None:
            raise Interrupted(f"ended by {self.by.name}; nothing that the demo started is left running")

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.by = signal.Signals(number)

    def __enter__(self) -> Halt:
        self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Run:
    """One showing; `show` is called once."""

    def __init__(self, plan: Plan, *, port: int, display: Display, halt: Halt) -> None:
        self.board = Board(plan, time.monotonic())
        self.memory = Memory()
        self._plan, self._port, self._display, self._halt = plan, port, display, halt
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._children: list[Child] = []

    def show(self) -> None:
        """Everything, from the first process to the last. Raises DemoFailed, Interrupted, and what a Fleet raises."""
        with ExitStack() as stack:
            listener = stack.enter_context(listen(self._port))
            home = stack.enter_context(Home())
            self._note(f"Redis answers at {home.fleet.endpoint.where}")
            trainer = self._start_trainer(stack, home)
            service = self._add(stack, serve(home, listener, self._plan.workers))
            port = listener.getsockname()[1]
            listener.close()  # gunicorn has its own copy
            self._note(f"gunicorn starts {self._plan.workers} workers at http://127.0.0.1:{port}")
            self._wait(lambda: self._all_hold(home), SERVICE_S, "all workers hold the model", LOOK_S)
            self._note(f"all workers hold generation 1; {self._plan.clients} clients connect")
            first = memory_of(service)
            clients = self._start_clients(stack, home, port)
            self._wait(lambda: self.board.connected == self._plan.clients, CLIENTS_S, "the clients are connected")
            self._trial(trainer)
            self.memory = Memory(first, memory_of(service))
            for client in clients:
                client.finish()
            self.board.now = "clients, workers, training job and Redis end"
            self._listen()

    # --- its parts -----------------------------------------------------------------------------------------------------

    def _start_trainer(self, stack: ExitStack, home: Home) -> Child:
        command = [sys.executable, "-m", f"{__package__}.trainer", str(home.folder)]
        self.board.now = "the training job imports torch, and trains its first epoch"
        log = home.log("trainer")
        child = Child("the training job", command, env=home.env, log=log, heard=self._lines.put, may_end=True)
        trainer = self._add(stack, child)
        self._wait(lambda: bool(self.board.published), TRAINER_S, "the first epoch is published")
        return trainer

    def _start_clients(self, stack: ExitStack, home: Home, port: int) -> list[Child]:
        """One process, or two where each can spread its connections over all workers."""
        processes = 2 if self._plan.clients >= 2 * self._plan.workers else 1
        started = []
        for number in range(processes):
            connections = len(range(number, self._plan.clients, processes))
            load = Load(
                port=port,
                path=f"/evaluate/{MODEL}",
                held_out=str(home.folder / HELD_OUT_FILE),
                connections=connections,
                interval_s=INTERVAL_S,
                workers=self._plan.workers,
                seed=number,
            )
            command = [sys.executable, "-m", f"{__package__}.clients", msgspec.json.encode(load).decode()]
            name = f"clients-{number + 1}"
            child = Child(name, command, env=home.env, log=home.log(name), heard=self._lines.put)
            started.append(self._add(stack, child))
        return started

    def _trial(self, trainer: Child) -> None:
        plan, self.board.start = self._plan, time.monotonic()
        self._note(f"{plan.clients} clients are connected; the training job goes on")
        trainer.tell(encode(Trial(self.board.start, plan.seconds, plan.epochs)))
        end = self.board.start + plan.seconds
        self._wait(
            lambda: time.monotonic() > end and trainer.has_ended, plan.seconds + LAST_S, "the training job is done"
        )
        trainer.finish()

    def _all_hold(self, home: Home) -> bool:
        """As the workers say themselves in their heartbeats; their answers tell it later."""
        found = {one.worker: one.generations[MODEL] for one in home.fleet.workers() if MODEL in one.generations}
        self.board.generations.update(found)
        return len(found) == self._plan.workers

    # --- waiting -------------------------------------------------------------------------------------------------------

    def _add(self, stack: ExitStack, child: Child) -> Child:
        self._children.append(child)
        return stack.enter_context(child)

    def _note(self, text: str) -> None:
        self.board.note(text, time.monotonic())

    def _wait(self, condition: Callable[[], bool], seconds: float, what: str, tick_s: float = TICK_S) -> None:
        """Listens, shows and watches until `condition` is true. DemoFailed: after `seconds`, or when a child has ended with an error."""
        until = time.monotonic() + seconds
        while not condition():
            self._halt.check()
            for child in self._children:
                child.check()
            if time.monotonic() > until:
                raise DemoFailed(f"waited {seconds:g} s until {what}, in vain. Last words:\n{self._last_words()}")
            self._listen(tick_s)

    def _last_words(self) -> str:
        return "\n".join(child.last_words for child in self._children if child.last_words)

    def _listen(self, seconds: float = 0.0) -> None:
        """Takes what the children tell for so long, and shows it."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 or not self._lines.empty():
            try:
                line = self._lines.get(timeout=max(left, 0.0))
            except queue.Empty:
                break
            self.board.hear(decode(line), time.monotonic())
        self._display.update(self.board, time.monotonic())
