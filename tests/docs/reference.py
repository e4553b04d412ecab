"""The pages that are made from the code: `make docs`, or `PYTHONPATH=tests python -m docs.reference`.

| page | from |
| --- | --- |
| docs/configuration.md, its table | the settings |
| docs/cli.md | the program `genlock`: every command, argument, option and default; the errors' exit statuses |
| docs/http-reference.md | the routes of the admin and of a worker, with the types that are read and written; the errors |

A test fails while a page is not what this makes of the code.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from genlock.coordinator import errors
from genlock.coordinator.admin import application
from genlock.coordinator.admin.document import document_of
from genlock.coordinator.admin.route import ROUTES
from genlock.coordinator.commands.program import program
from genlock.coordinator.commands.session import SHARED
from genlock.coordinator.errors import GenlockError
from genlock.coordinator.problems import URN, kind_of
from genlock.coordinator.settings import TABLE, reference
from genlock.worker.app import evaluate
from genlock.worker.routes import ROUTES as OF_A_WORKER

from .pages import ROOT, text_of

assert application  # its import defines the routes of the admin

#: Exit status → what it means.
EXITS = {
    0: "done",
    1: "failed",
    2: "usage: the command line, a name or a setting makes no sense",
    3: "decided against: rejected, aborted, superseded, pinned, poisoned. A publish whose workers are too slow is rejected, too",
    4: "not known, or not now: the outcome could not be learned, a worker did not answer, another trainer kept the publish lock,"
    " or the fleet stayed closed",
    5: "Redis cannot be reached or used",
    130: "Ctrl-C",
}


def errors_of_users() -> list[type[GenlockError]]:
    """The classes that somebody may meet, in the order of errors.py; not those that only group them."""
    found = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, GenlockError)]
    return [kind for kind in found if not kind.__subclasses__() or hasattr(kind, "__dataclass_fields__")]


# --- Markdown --------------------------------------------------------------------------------------------------------


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _paragraphs(text: str) -> str:
    """A docstring, a paragraph on each line."""
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n"))


def _code(text: object) -> str:
    return f"`{text}`"


# --- the command line ------------------------------------------------------------------------------------------------


@cache
def cli() -> str:
    """docs/cli.md."""
    parts = [
        "# The command line\n",
        "Made from the program by `make docs`; `genlock COMMAND --help` says the same. How the commands are used day to day:"
        " [operating.md](operating.md).\n",
        "## Options of all commands\n",
        f"Of every command but {', '.join(_without_fleet())}. An option wins over the variable that is named behind it"
        " ([configuration.md](configuration.md)).\n",
        _table(("option", "what it is"), _shared()),
        "## Exit status\n",
        _table(("status", "what it means", "errors"), _exits()),
        "With `--json` exactly one JSON document goes to stdout, whatever happens; that of an error has `outcome` (a word), `error` (a"
        " sentence) and the facts of the error. What each error means: [troubleshooting.md](troubleshooting.md).\n",
        "## Commands\n",
        *(_command(names, command) for names, command in commands()),
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each command that does something, with its names: ("keys", "show")."""
    root = program()
    yield from _below(root, root.make_context("genlock", ["status"]), ())


def _below(group: Any, context: Any, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if hasattr(command, "list_commands"):
            yield from _below(command, context, (*names, name))
        else:
            yield (*names, name), command


def _without_fleet() -> list[str]:
    return [_code(" ".join(names)) for names, command in commands() if not _has_fleet(command)]


def _has_fleet(command: Any) -> bool:
    return any(option.name == "redis_url" for option in command.params)


def _shared() -> Iterator[tuple[str, str]]:
    root = program()
    status = root.get_command(root.make_context("genlock", ["status"]), "status")
    for option in status.params:
        if option.name in SHARED:
            yield _code(_spelled(option)), _said(option)
    yield "`--help`", "Shows what the command takes."


def _exits() -> Iterator[tuple[str, str, str]]:
    for status, meaning in EXITS.items():
        names = [kind.__name__ for kind in errors_of_users() if kind.exit_status == status] if status > 1 else []
        yield str(status), meaning, ", ".join(map(_code, names)) or ("all others" if status == 1 else "")


def _command(names: tuple[str, ...], command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    shared = SHARED if _has_fleet(command) else {}
    options = [one for one in command.params if one.param_type_name == "option" and one.name not in shared]
    usage = " ".join(["genlock", *names, *map(_placed, arguments), *(["[OPTIONS]"] if options else [])])
    parts = [f"### genlock {' '.join(names)}", f"`{usage}`", _paragraphs(command.help or "")]
    rows = [(_code(_placed(one)), "", _said(one)) for one in arguments]
    rows += [(_code(_spelled(one)), _default(one), _said(one)) for one in options]
    if rows:
        parts.append(_table(("argument or option", "default", "what it is"), rows).rstrip("\n"))
    return "\n\n".join(part for part in parts if part) + "\n"


def _placed(argument: Any) -> str:
    word = argument.metavar or argument.name.upper()
    word += "…" if argument.nargs != 1 else ""
    return word if argument.required else f"[{word}]"


def _spelled(option: Any) -> str:
    names = ", ".join(sorted(option.opts, key=len)) + "".join(f" / {name}" for name in option.secondary_opts)
    return names if option.is_flag else f"{names} {option.metavar or 'N'}"


def _default(option: Any) -> str:
    if option.default in (None, "", ()) or (option.is_flag and not option.secondary_opts):
        return ""
    if option.is_flag:
        return _code((option.opts if option.default else option.secondary_opts)[0])
    return _code(option.default)


def _said(parameter: Any) -> str:
    return re.sub(r"\s*\[(GENLOCK_\w+)\]$", r" (`\1`)", parameter.help or "")


# --- HTTP ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WorkerRoute:
    method: str
    path: str
    text: str


def worker_routes() -> list[WorkerRoute]:
    """Of every app that a worker serves, and of the ready-made evaluator."""
    views = [*((one.method, one.path, one.tell) for one in OF_A_WORKER), ("POST", "/evaluate/{model}", evaluate)]
    return [WorkerRoute(method, path, " ".join((inspect.getdoc(view) or "").split())) for method, path, view in views]


@cache
def http() -> str:
    """docs/http-reference.md."""
    described = document_of(ROUTES)
    parts = [
        "# HTTP reference\n",
        "Made from the code by `make docs`. How it is used: [http.md](http.md) for a worker, [admin.md](admin.md) for the admin, which"
        " describes itself as OpenAPI 3.1 at `/openapi.json`, too.\n",
        "## A worker\n",
        "`genlock.worker.blueprint.init_app` adds these to an app, all but `/evaluate`, which the ready-made evaluator has.\n",
        _table(("route", "what it does"), ((_code(f"{r.method} {r.path}"), r.text) for r in worker_routes())),
        "## The admin\n",
        "A role is what a token has to have. Statuses are those of success, then those of [errors](#errors).\n",
        *(
            _operation(route, described["paths"][route.path][route.method.lower()])
            for route in sorted(ROUTES, key=lambda one: (one.method, one.path))
        ),
        "## Types\n",
        "What is read and written, as JSON. A member with a default may be left out of a request; an answer has all of them.\n",
        *(_schema(name, schema) for name, schema in sorted(described["components"]["schemas"].items())),
        "## Errors\n",
        f"`application/problem+json` (RFC 9457). `type` is `{URN}` and the word below; the facts of the error are further members, and"
        " `Retry-After` says when it helps to come again. What to do about each: [troubleshooting.md](troubleshooting.md).\n",
        _table(("type", "HTTP status", "facts"), _problems()),
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _operation(route: Any, described: dict[str, Any]) -> str:
    parts = [f"### {route.method} {route.path}", route.description, f"Role: {route.role or 'none is needed'}."]
    if route.body is not None:
        parts[-1] += (
            f" Body: {_link(route.body.__name__)}. Header `Idempotency-Key`: the id of the change, of your choice."
        )
    answers = [f"{status}{f' {_link(kind.__name__)}' if kind else ''}" for status, kind in route.answers.items()]
    parts.append(f"Answers: {', '.join(answers)}; errors: {', '.join(map(str, sorted(route.problems)))}.")
    rows = [(_code(one["name"]), _kind(one["schema"])) for one in described["parameters"] if one["in"] == "query"]
    if rows:
        parts.append(_table(("parameter", "what it may be"), rows).rstrip("\n"))
    return "\n\n".join(parts) + "\n"


def _schema(name: str, schema: dict[str, Any]) -> str:
    needed = set(schema.get("required", ()))
    rows = (
        (_code(member), _kind(kind), "" if member in needed or "default" not in kind else _code(_json(kind["default"])))
        for member, kind in schema.get("properties", {}).items()
    )
    return f"### {name}\n\n{schema.get('description', '')}\n\n{_table(('member', 'what it may be', 'default'), rows)}"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _kind(schema: dict[str, Any]) -> str:
    """A schema in words."""
    if "$ref" in schema:
        return _link(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(_code(_json(one)) for one in schema["enum"])
    word = {"integer": "whole number", "array": "list", "boolean": "true or false"}.get(
        schema.get("type", ""), schema.get("type", "any JSON")
    )
    if schema.get("type") == "array" and isinstance(schema.get("items"), dict) and schema["items"]:
        return f"list, each {_kind(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict) and schema["additionalProperties"]:
        return f"object, each member {_kind(schema['additionalProperties'])}"
    return word + _limits(schema)


def _limits(schema: dict[str, Any]) -> str:
    said = [
        f"{word} {schema[name]}"
        for name, word in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("minLength", "characters from"),
            ("maxLength", "characters up to"),
        )
        if name in schema
    ]
    if "pattern" in schema:
        said.append(f"as `{schema['pattern']}`")
    return f" ({', '.join(said)})" if said else ""


def _problems() -> Iterator[tuple[str, str, str]]:
    for kind in errors_of_users():
        names = getattr(kind, "__dataclass_fields__", {})
        status = 503 if kind is errors.SettingsInvalid else kind.status
        yield _code(kind_of(kind)), str(status), ", ".join(map(_code, names))


# --- the pages -------------------------------------------------------------------------------------------------------


def configuration() -> str:
    """docs/configuration.md: what is written by hand, with the names of all fields, then the table of the settings."""
    written, row, _ = text_of("docs/configuration.md").partition("| variable |")
    before, said, rest = written.partition("ends with `_s`:")
    _, after, rest = rest.partition(". A cache takes them")
    assert row and said and after, "docs/configuration.md has lost its list of fields, or its table of variables"
    fields = "\n".join(textwrap.wrap(", ".join(_code(row.field) for row in TABLE), 150))
    return f"{before}{said}\n{fields}{after}{rest}{reference()}"


#: Page → what makes it.
MADE: dict[str, Callable[[], str]] = {
    "docs/configuration.md": configuration,
    "docs/cli.md": cli,
    "docs/http-reference.md": http,
}


def main() -> None:
    """Writes the pages that are not what the code makes them."""
    for page, make in MADE.items():
        text = make()
        if not (ROOT / page).exists() or text_of(page) != text:
            (ROOT / page).write_text(text)
            print(f"wrote {page}")


if __name__ == "__main__":
    main()
