"""A training job that does not end: an epoch on handwritten digits, a publish, a pause, …; for trying out a fleet that is deployed.

`python -m genlock.worker.demo.job --every 30s`. What goes wrong with one checkpoint, or while Redis is away, is said, and the next one is
published as if nothing had been; TERM and Ctrl-C end it.
"""

from __future__ import annotations

import argparse
import logging
import signal
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import torch

from ...coordinator.errors import GenlockError
from ...coordinator.fleet import Fleet
from ...coordinator.logs import set_up
from ...coordinator.notation import seconds
from .news import MODEL, News, Published, Trained
from .trainer import Trainer

_log = logging.getLogger("genlock.demo")

#: Seconds between two checkpoints unless said otherwise.
EVERY_S = 30.0


def tell(news: News) -> None:
    """What the trainer did, as a line of the log."""
    if isinstance(news, Trained):
        facts = {"event": "trained", "model": MODEL, "epoch": news.epoch, "accuracy": round(news.accuracy, 4)}
        _log.info("epoch %d reads %.1f %% of the digits rightly", news.epoch, 100 * news.accuracy, extra=facts)
    elif isinstance(news, Published):
        facts = {"event": "published", "model": MODEL, "generation": news.generation, "outcome": news.outcome}
        why = f", {news.step}: {news.why}" if news.why else ""
        _log.info("%s is %s as generation %d%s", news.what, news.outcome, news.generation, why, extra=facts)


def run(trainer: Trainer, stop: threading.Event, every_s: float) -> None:
    """Trains and publishes until `stop`; a new attempt begins every `every_s` seconds at the most."""
    while not stop.is_set():
        trainer.train()
        try:
            trainer.publish()
        except (
            GenlockError
        ) as error:  # pinned, no Redis, a lock that another holds: it may be over when the next one is ready
            facts = {"event": "not published", "model": MODEL, "outcome": error.outcome}
            _log.warning("this epoch is not published: %s", error, extra=facts)
        stop.wait(every_s)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m genlock.worker.demo.job [--every 30s]`"""
    parser = argparse.ArgumentParser(prog="genlock.worker.demo.job", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--every", type=seconds, default=EVERY_S, metavar="TIME", help="pause between two: 30s, 2m")
    every_s: float = parser.parse_args(arguments).every
    torch.set_num_threads(1)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with Fleet.from_env() as fleet, tempfile.TemporaryDirectory(prefix="genlock-job-") as folder:
        set_up(fleet.settings.log)
        run(Trainer(fleet, Path(folder), tell), stop, every_s)


if __name__ == "__main__":
    main()
