"""The program `genlock`: which commands there are, and what becomes of their errors.

Exit status: 0 done, 1 failed, 2 usage, 3 not committed by decision, 4 timed out or unknown, 5 Redis unreachable; 130 interrupted. With
``--json`` exactly one JSON document goes to stdout whatever happens; that of an error has `outcome` (a word), `error` (a sentence) and
the facts of the error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import CommandBroken, GenlockError
from . import checking, deciding, keys, looking, output, publishing, serving, top, upkeep, watching
from .progress import INTERRUPTED, Interrupted
from .session import SHARED, with_session

#: The group of entry points that add commands; see the package's docstring.
ENTRY_POINTS = "genlock.commands"
#: Exit status of a program that a closed pipe has ended (128 + SIGPIPE).
PIPE_CLOSED = 141

#: Name → function of a session; the order is that of the help.
COMMANDS: dict[str, Callable[..., None]] = {
    "publish": publishing.publish,
    "status": looking.status,
    "workers": looking.workers,
    "history": looking.history,
    "events": looking.events,
    "top": top.top,
    "promote": publishing.promote,
    "rollback": publishing.rollback,
    "abort": deciding.abort,
    "pin": deciding.pin,
    "unpin": deciding.unpin,
    "clear": deciding.clear,
    "refresh": deciding.refresh,
    "watch": watching.watch,
    "verify": upkeep.verify,
    "gc": upkeep.gc,
    "doctor": checking.doctor,
    "keys": keys.keys,
    "redis": upkeep.redis,
    "admin": serving.admin,
}

#: Commands that have to do with no fleet → those of the shared options that they have.
FEWER = {"keys": ("as_json",)}
#: Options of other programs → ours for the same.
ELSEWHERE = {"--port": "--bind", "--host": "--bind"}

#: What typer raises for a wrong command line; the class has a public name in some of its versions only.
_UsageError: Any = typer.BadParameter.__base__


class Group(TyperGroup):
    """Our own commands, then those of entry points, which are not looked for before they are needed."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        own = list(self.commands)
        return own + sorted({found.name for found in _entry_points()} - set(own))

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        found = next((one for one in _entry_points() if one.name == cmd_name), None)
        return _command_of(cmd_name, _loaded(found)) if found else None


def _entry_points() -> Any:
    from importlib.metadata import entry_points  # milliseconds that our own commands do not need

    return entry_points(group=ENTRY_POINTS)


def _loaded(entry_point: Any) -> Callable[..., Any]:
    """What the entry point names; if that cannot be had, a command that says why: one broken one must not take the others along."""
    try:
        function: Callable[..., Any] = entry_point.load()
    except Exception as error:
        broken = CommandBroken(entry_point.name, entry_point.value, f"{type(error).__name__}: {error}")

        def complain() -> None:
            raise broken

        complain.__doc__ = "(cannot be loaded)"
        return complain
    return function


def _command_of(name: str, function: Callable[..., Any]) -> Any:
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name)(function)
    return typer.main.get_command(alone)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"genlock {version('genlock')}")
        raise typer.Exit()


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Keep the models of a fleet of Python processes in step: publish one, and all of them change to it together."""


def program() -> Any:
    """The command of all commands."""
    app = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None, name="genlock")
    app.callback()(_root)
    for name, function in COMMANDS.items():
        app.command(name)(with_session(function, FEWER.get(name, SHARED)))
    return typer.main.get_command(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's); its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a file's name may be any bytes
    try:
        status = _status_of(given)
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads any more; Python would complain once again when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    return status


def _status_of(given: list[str]) -> int:
    as_json = "--json" in given
    try:
        with program().make_context("genlock", given or ["--help"]) as context:
            context.command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except GenlockError as error:
        return _failed(as_json, error.exit_status, error.outcome, str(error), error.facts)
    except _UsageError as error:
        hint = "" if as_json or error.ctx is None else f"\nTry `{error.ctx.command_path} --help`."
        return _failed(as_json, error.exit_code, "usage", _said(error) + hint, {})
    except KeyboardInterrupt as error:
        why = str(error) if isinstance(error, Interrupted) else "interrupted"
        return _failed(as_json, INTERRUPTED, "interrupted", why, {})
    return 0


def _said(error: Any) -> str:
    """The sentence of a wrong command line; of an option that another program has, what it is called here."""
    wrong = getattr(error, "option_name", "")
    ours = ELSEWHERE.get(wrong)
    if error.ctx is not None and any(ours in option.opts for option in error.ctx.command.params):
        return f"No such option: {wrong}; here it is {ours}"
    return str(error.format_message())


def _failed(as_json: bool, status: int, outcome: str, sentence: str, facts: dict[str, Any]) -> int:
    if as_json:
        print(output.document({"outcome": outcome, "error": sentence, **facts}))
    else:
        output.notice(f"genlock: {sentence}")
    return status
