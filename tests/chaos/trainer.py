"""A trainer of a run, as a process: it carries out orders (see orders) from stdin, and can be made to die at any step of a publish."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
from genlock.coordinator import Fleet, FlipRejected, GenlockError, OutcomeUnknown
from genlock.coordinator.calls import Call
from genlock.coordinator.registry import Registry

from .checkpoints import golden_of, version_of, write
from .orders import Done, Order, Said, Staging


def main() -> None:
    """`python -m chaos.trainer FOLDER`; the fleet is that of the environment. Ends when stdin does."""
    folder = Path(sys.argv[1])
    fleet = Fleet.from_env()
    try:
        for line in sys.stdin.buffer:
            _tell(_carry_out(fleet, folder, msgspec.json.decode(line, type=Order)))
    finally:
        fleet.close()


def _tell(said: Said) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
    sys.stdout.buffer.flush()


def _carry_out(fleet: Fleet, folder: Path, order: Order) -> Done:
    strike = Strike(signal.SIGKILL if order.die else signal.SIGSTOP)
    if ":" in (order.die or order.stop):
        strike.at(*(order.die or order.stop).split(":"))
    try:
        flip = (
            _publish(fleet, folder, order, strike)
            if order.content or order.file
            else fleet.rollback("m", pin=False, timeout=order.timeout)
        )
    except FlipRejected as error:
        return Done(
            outcome="rejected", version=error.version, generation=error.generation, why=f"{error.step}: {error.why}"
        )
    except OutcomeUnknown as error:
        return Done(outcome="unknown", why=str(error))
    except (GenlockError, OSError) as error:
        return Done(outcome=type(error).__name__, why=str(error))
    return Done(outcome=flip.outcome, version=flip.version, generation=flip.generation or 0, seconds=flip.seconds)


def _publish(fleet: Fleet, folder: Path, order: Order, strike: Strike) -> Any:
    path = Path(order.file) if order.file else write(folder / "model.safetensors", order.content, broken=order.broken)
    if not order.file:
        _tell(Staging(version_of(path)))
    return fleet.publish(
        "m",
        path,
        timeout=order.timeout,
        wait=order.wait,
        now=order.now,
        golden=golden_of(order.content + order.unlike) if order.content else None,
        progress=strike if "staging" in (order.die, order.stop) else None,
    )


class Strike:
    """Meets this process once."""

    def __init__(self, number: signal.Signals) -> None:
        self._number, self._has_struck = number, False

    def __call__(self, *_: object) -> None:
        if not self._has_struck:
            self._has_struck = True
            os.kill(os.getpid(), self._number)

    def at(self, when: str, script: str) -> None:
        """Before this process sends the next call of that script, or when it has heard the answer."""
        send = Registry.send

        def sent(registry: Registry, call: Call, *rest: Any) -> Any:
            if call.script == script and when == "before":
                self()
            reply = send(registry, call, *rest)
            if call.script == script:
                self()
            return reply

        Registry.send = sent  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
