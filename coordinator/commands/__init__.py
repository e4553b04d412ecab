"""The command line: the verbs of Fleet for a terminal.

The only package that imports typer and rich. Other parts, and other distributions, add commands by the entry-point group
``genlock.commands``: the name of the entry point is the name of the command, and its value, ``module:function``, a function that typer
can make a command of (annotated parameters become arguments and options, the docstring is the help). For example::

    [project.entry-points."genlock.commands"]
    demo = "genlock.worker.demo:command"

It is loaded only when its command is asked for or help is shown, so its module should import what is large inside the function. What it
raises becomes an exit status as it does for the commands here (see program.py); `typer.Exit(1)` ends it with another one.
"""

from .program import main

__all__ = ["main"]
