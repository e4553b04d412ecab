"""The training job of the demo, as a process: an epoch, a publish, an epoch, …; halfway, two broken checkpoints.

It knows nothing of workers: it has a fleet, from the environment, and publishes to it. It tells the director on stdout what it did (see
news), and waits on stdin for the Trial; when stdin ends, so does it.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from msgspec import structs

from ...coordinator.errors import ArtifactError, FlipRejected
from ...coordinator.fleet import Fleet
from ...coordinator.flip import Flip
from .digits import Digits, Training, accuracy, cut_short, load_digits, ruined, save
from .news import HELD_OUT_FILE, MODEL, News, Published, Publishing, Trained, Trial, encode

#: The artifact's name.
WEIGHTS = "model.safetensors"
#: Digits whose scores every worker has to reproduce before it says that it is ready.
GOLDEN = 4
#: What this process is niced to while clients send requests: training belongs on a machine of its own, and must not take their time here.
NICENESS = 10
#: Seconds that a flip may take to be prepared; it takes tens of milliseconds.
TIMEOUT_S = 20.0

Tell = Callable[[News], None]


class Trainer:
    """Trains and publishes, and tells of it."""

    def __init__(self, fleet: Fleet, folder: Path, tell: Tell) -> None:
        self._fleet, self._folder, self._tell = fleet, folder, tell
        learned, self.held_out = load_digits()
        self._training = Training(learned)

    def write_held_out(self) -> None:
        """The digits that clients send."""
        pictures, labels = self.held_out.pictures.tolist(), self.held_out.labels.tolist()
        data = msgspec.json.encode({"pictures": pictures, "labels": labels})
        (self._folder / HELD_OUT_FILE).write_bytes(data)

    def train(self) -> None:
        """One epoch."""
        loss = self._training.epoch()
        self._tell(Trained(self._training.epochs, loss, accuracy(self._training.net, self.held_out)))

    def publish(self) -> None:
        """What was learned so far."""
        net = self._training.net
        with torch.no_grad():
            some = Digits(self.held_out.pictures[:GOLDEN], self.held_out.labels[:GOLDEN])
            scores = net(some.pictures)

        def publish() -> Flip:
            message = f"epoch {self._training.epochs}"
            with self._fleet.publishing(MODEL, message=message, timeout=TIMEOUT_S) as draft:
                save(net, draft.path(WEIGHTS))
                draft.golden(some.pictures, scores)
            assert draft.flip is not None
            return draft.flip

        self._attempt(f"epoch {self._training.epochs}", publish, broken=False)

    def publish_broken(self) -> None:
        """A checkpoint full of NaN, and one that is cut short."""
        whole, half = self._folder / WEIGHTS, self._folder / "half.safetensors"
        save(ruined(self._training.net), whole)
        self._attempt("full of NaN", lambda: self._publish_file(whole), broken=True)
        save(self._training.net, whole)
        cut_short(whole, half)
        self._attempt("truncated file", lambda: self._publish_file(half), broken=True)

    def _publish_file(self, path: Path) -> Flip:
        return self._fleet.publish(MODEL, {WEIGHTS: path}, message="broken", timeout=TIMEOUT_S)

    def _attempt(self, what: str, publish: Callable[[], Flip], *, broken: bool) -> None:
        self._tell(Publishing(what))
        began = time.monotonic()
        found = _outcome_of(publish)
        self._tell(structs.replace(found, what=what, broken=broken, began=began, ended=time.monotonic()))


def _outcome_of(publish: Callable[[], Flip]) -> Published:
    try:
        flip = publish()
    except FlipRejected as error:
        return Published(
            outcome="rejected",
            generation=error.generation,
            version=error.version,
            seconds=error.flip.seconds,
            worker=error.worker,
            step=error.step,
            why=error.why,
        )
    except ArtifactError as error:
        why = getattr(error, "why", str(error))
        return Published(outcome="refused", worker="the publisher", step="staging", why=why)
    return Published(
        outcome=flip.outcome,
        generation=flip.generation or 0,
        version=flip.version,
        seconds=flip.seconds,
        workers=len(flip.workers),
    )


def moments(trial: Trial) -> list[tuple[float, bool]]:
    """When to publish, in order, and whether it is the broken checkpoints' turn: in the middle of each of equal parts, and halfway."""
    step = trial.seconds / trial.epochs
    good = [(trial.start + step * (number + 0.5), False) for number in range(trial.epochs)]
    return sorted([*good, (trial.start + trial.seconds / 2, True)])


def _read_trial(source: int) -> Trial | None:
    """The line on stdin; None: the director has gone."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(source, 4096)
        if not piece:
            return None
        line += piece
    return msgspec.json.decode(line, type=Trial)


def _wait_until(moment: float, source: int) -> bool:
    """False: the director has gone meanwhile."""
    left = moment - time.monotonic()
    return left <= 0 or not select.select([source], [], [], left)[0]


def run(trainer: Trainer, source: int, give_way: Callable[[], object]) -> None:
    """The first generation at once, then the trial; `give_way` is called between them."""
    trainer.write_held_out()
    trainer.train()
    trainer.publish()
    trial = _read_trial(source)
    if trial is None:
        return
    give_way()
    for moment, is_broken in moments(trial):
        if not is_broken:
            trainer.train()
        if not _wait_until(moment, source):
            return
        (trainer.publish_broken if is_broken else trainer.publish)()


def main() -> None:
    """`python -m genlock.worker.demo.trainer FOLDER`"""
    torch.set_num_threads(1)
    output = sys.stdout.buffer

    def tell(news: News) -> None:
        output.write(encode(news))
        output.flush()

    with Fleet.from_env() as fleet:
        run(Trainer(fleet, Path(sys.argv[1]), tell), sys.stdin.fileno(), lambda: os.nice(NICENESS))


if __name__ == "__main__":
    main()
