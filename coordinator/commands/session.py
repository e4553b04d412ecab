"""What every command shares: the options that say which fleet, the settings, the Fleet, and how an answer is given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ..settings import Settings
from . import output

if TYPE_CHECKING:
    from ..fleet import Fleet

#: The options of every command, in the order of its help.
SHARED: dict[str, tuple[Any, Any]] = {
    "redis_url": (
        Annotated[str | None, typer.Option(metavar="URL", help="Unset: genlock's own server.  [GENLOCK_REDIS_URL]")],
        None,
    ),
    "fleet": (Annotated[str | None, typer.Option(metavar="NAME", help="Name of the fleet.  [GENLOCK_FLEET]")], None),
    "store": (
        Annotated[str | None, typer.Option(metavar="DIR", help="Folder or URL of the artifacts.  [GENLOCK_STORE]")],
        None,
    ),
    "state_dir": (
        Annotated[Path | None, typer.Option(metavar="DIR", help="What this host keeps.  [GENLOCK_STATE_DIR]")],
        None,
    ),
    "as_json": (Annotated[bool, typer.Option("--json", help="Answer with one JSON document.")], False),
}


class Session:
    """One run of one command."""

    def __init__(self, settings: Settings, *, as_json: bool) -> None:
        self.settings, self.as_json = settings, as_json
        self._fleet: Fleet | None = None
        self._told = False  # whether people know that the embedded server was started

    @property
    def fleet(self) -> Fleet:
        """The fleet of the options; connects to nothing before it has to."""
        if self._fleet is None:
            from ..fleet import Fleet

            self._fleet = Fleet(settings=self.settings)
        return self._fleet

    def show(self, value: Any, people: Callable[[], Iterable[str | output.Table]]) -> None:
        """The command's answer: `value` as JSON, or what `people` makes of it."""
        self.tell_of_server()
        if self.as_json:
            print(output.document(value))
        else:
            output.say(*people())

    def tell_of_server(self) -> None:
        """Say once that the embedded server had to be started; it stays when the command has ended."""
        if self._fleet is not None and self._fleet.started_server and not self._told:
            self._told = True
            where = self._fleet.endpoint.where
            output.notice(f"started genlock's own server at {where}; stop it with `genlock redis --stop`")

    def close(self) -> None:
        """Gives connections back."""
        if self._fleet is not None:
            self.tell_of_server()
            self._fleet.close()


def with_session(function: Callable[..., None], shared: Collection[str] = SHARED) -> Callable[..., None]:
    """`function(session, …)` as a command of its other parameters and the shared options, or only those named in `shared`."""
    options = {name: option for name, option in SHARED.items() if name in shared}

    def run(**given: Any) -> None:
        as_json = given.pop("as_json")
        settings = Settings.from_env(**{name: given.pop(name) for name in options if name != "as_json"})
        session = Session(settings, as_json=as_json)
        try:
            function(session, **given)
        finally:
            session.close()

    hints = get_type_hints(function, include_extras=True)
    own = list(inspect.signature(function).parameters.values())[1:]
    parameters = [
        inspect.Parameter(p.name, inspect.Parameter.KEYWORD_ONLY, default=p.default, annotation=hints[p.name])
        for p in own
    ]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in options.items()
    ]
    described: Any = run
    described.__signature__ = inspect.Signature(parameters)
    described.__annotations__ = {p.name: p.annotation for p in parameters}
    described.__doc__ = function.__doc__
    return run
