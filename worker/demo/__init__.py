"""`genlock demo`: four gunicorn workers change model together while clients hammer them, and the history proves it.

Everything in it is real. A training job, in a process of its own, publishes a checkpoint of a small convolutional net after each epoch
on the 1,797 handwritten digits of scikit-learn. Workers of the ready-made evaluator hold the model. Clients, in other processes, send
held-out digits and write down when each request started and ended, and which generation answered. Halfway two broken checkpoints
are published.

::

    program  the command line                       run      the director: starts everybody, listens, ends everybody
    home     folder, fleet and Redis of its own     child    a process that is watched, and ended
    digits   the net, and its data                  trainer  the training job
    service  gunicorn                               clients  keep-alive connections
    news     what the processes tell the director   board    all that was heard
    history  what follows from all requests         report   what was promised, and what was measured
    picture  how it looks on a terminal             live     … drawn again and again;  plain  as lines
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .program import command

__all__ = ["command"]


def __getattr__(name: str) -> Any:
    # Workers import this package for the net alone; they need no command line.
    if name != "command":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .program import command

    return command
