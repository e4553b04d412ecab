"""What is known of each program that a page types: whether its words are such. Each check raises Wrong with what is wrong."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from genlock.coordinator.admin import application
from genlock.coordinator.admin.route import ROUTES
from genlock.coordinator.commands.program import program

from .console import Command, Line
from .pages import ROOT, blocks, page_names, text_of
from .reference import worker_routes


class Wrong(AssertionError):
    """A line that cannot be typed as it stands there."""


#: Programs of the machine that are not ours to know: a shell has to be able to read the line, and that is all.
# fmt: off
OF_THE_MACHINE = {
    ".", "apt-get", "aws", "cat", "cd", "chmod", "chown", "cp", "df", "du", "echo", "env", "export", "findmnt", "git",
    "grep", "head", "install", "journalctl", "jq", "kill", "ls", "mkdir", "mount", "mv", "openssl", "pytest",
    "redis-cli", "rm", "rsync", "scp", "set", "sleep", "source", "ss", "ssh", "stat", "sudo", "sysctl", "systemctl",
    "tail", "tee", "touch", "ulimit", "umask", "useradd", "watch",
}
# fmt: on
_LOCAL = re.compile(r"(?:https?://)?(?:localhost|127\.0\.0\.1|\[::1\]):\d+(/[^?#]*)?")


def check(line: Line, page: str) -> None:
    """Every program of the line: known, and called as it wants to be. Raises Wrong."""
    try:
        commands = line.commands
    except ValueError as error:
        raise Wrong(f"{line.where}: {error}") from None
    for command in commands:
        if command.program in OF_THE_MACHINE:
            continue
        look = CHECKS.get("deploy/" if command.program.startswith("deploy/") else command.program)
        if look is None:
            raise Wrong(
                f"{line.where}: tests/docs/programs.py does not know {command.program!r}: say there how to check it"
            )
        try:
            look(command, page)
        except Wrong as error:
            raise Wrong(f"{line.where}: `{line.text}`: {error}") from None


# --- genlock ---------------------------------------------------------------------------------------------------------


def parsed(words: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """The name of the command (`keys show`) and its parameters, as the real parser has them. Raises Wrong."""
    command, rest, names, context = program(), list(words), [], None
    try:
        while True:
            context = command.make_context(names[-1] if names else "genlock", rest, parent=context)
            if not hasattr(command, "resolve_command"):
                return " ".join(names), context.params
            rest = [*context._protected_args, *context.args]
            name, command, rest = command.resolve_command(context, rest)
            names.append(name)
    except Exception as error:
        if hasattr(error, "format_message"):
            raise Wrong(f"genlock {' '.join(words)}: {error.format_message()}") from None
        if type(error).__name__ == "Exit" and getattr(error, "exit_code", 1) == 0:  # --help, --version
            return " ".join(names), {}
        raise


def _genlock(command: Command, page: str) -> None:
    parsed(command.words[1:])


# --- others ----------------------------------------------------------------------------------------------------------


def _make(command: Command, page: str) -> None:
    there = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    if missing := [word for word in command.words[1:] if "=" not in word and word not in there]:
        raise Wrong(f"the Makefile has no {missing}")


def _pip(command: Command, page: str) -> None:
    there = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in command.words:
        found = re.fullmatch(r"(?:\.|genlock)\[([\w,-]+)\]", word)
        if found and (unknown := set(found[1].split(",")) - set(there)):
            raise Wrong(f"there are no extras {sorted(unknown)}")


def _python(command: Command, page: str) -> None:
    words = list(command.words[1:])
    if words[:1] == ["-m"]:
        return _module(words[1:], page)
    if words[:1] == ["-c"]:
        compile(words[1], "-c", "exec")
        return None
    script = next((word for word in words if not word.startswith("-")), "")
    return _script(script, page)


def _module(words: list[str], page: str) -> None:
    if words[0] in CHECKS and words[0] not in ("python", "python3"):
        return CHECKS[words[0]](Command(tuple(words)), page)
    if words[0].partition(".")[0] not in ("docs", "chaos") and not _can_import(words[0]):
        raise Wrong(f"there is no module {words[0]}")
    return None


def _script(name: str, page: str) -> None:
    """A program that is typed is one of the checkout, or some page says which block is saved under that name."""
    if _file(name, page) is None and not _is_saved(name, page):
        raise Wrong(f"there is no {name}, and no page says what is saved as `{name}`")


def _file(name: str, page: str) -> Path | None:
    """Of the checkout, the examples, or beside what is read."""
    places = (ROOT, ROOT / "examples", (ROOT / page).parent)
    return next((place / name for place in places if name and (place / name).is_file()), None)


def _is_saved(name: str, page: str) -> bool:
    return bool(name) and (f"`{name}`" in text_of(page) or bool(_saved(name)))


def _code(page: str) -> str:
    """The Python of a page, or of an example."""
    return text_of(page) if page.endswith(".py") else "".join(one.text for one in blocks(page, "python"))


def _saved(name: str) -> str:
    """The blocks that some page saves under that name."""
    return "".join(one.text for other in page_names() for one in blocks(other, "python") if one.saved_as == name)


def _can_import(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:
        return False


def _app(name: str, page: str) -> None:
    """`module:variable` of a server: of genlock, of an example, or what the page saves as a file."""
    module, _, variable = name.partition(":")
    if module.startswith("genlock."):
        if not _can_import(module):
            raise Wrong(f"there is no module {module}")
    else:
        _script(f"{module}.py", page)
        example = _file(f"{module}.py", page)
        code = _code(page) + _saved(f"{module}.py")
        code += example.read_text() if example else ""
        if not re.search(rf"^{re.escape(variable or 'application')} = |def {re.escape(variable)}\(", code, re.M):
            raise Wrong(f"nothing there is named {variable!r}")


def _gunicorn(command: Command, page: str) -> None:
    from gunicorn.config import Config

    try:
        given = Config().parser().parse_args(list(command.words[1:]))
    except SystemExit:
        raise Wrong("gunicorn does not take these options") from None
    for name in given.args:
        _app(name, page)
    if given.config and given.config.startswith("python:") and not _can_import(given.config.removeprefix("python:")):
        raise Wrong(f"there is no module {given.config}")


def _uvicorn(command: Command, page: str) -> None:
    from uvicorn.main import main

    try:
        given = main.make_context("uvicorn", list(command.words[1:])).params
    except Exception as error:
        raise Wrong(str(error)) from None
    _app(given["app"], page)


def _curl(command: Command, page: str) -> None:
    words = list(command.words[1:])
    method = "GET"
    for name, value in zip(words, [*words[1:], ""], strict=True):
        if name in ("-d", "--data", "--json"):
            method = "POST"
            _json(value)
        if name in ("-X", "--request"):
            method = value
    for found in filter(None, map(_LOCAL.fullmatch, (word.partition("?")[0] for word in words))):
        path = found[1] or "/"
        if not any(method == known and pattern.fullmatch(path) for known, pattern in _routes(page)):
            raise Wrong(f"nobody has a route {method} {path}")


def _json(text: str) -> None:
    try:
        json.loads(text.replace("…", "0"))
    except ValueError as error:
        raise Wrong(f"{text} is no JSON: {error}") from None


def _routes(page: str) -> list[tuple[str, re.Pattern[str]]]:
    """Method and path of all routes: of the admin, of a worker, and of the apps that the page itself makes."""
    assert application  # its import defines the routes
    found = [(one.method, one.path) for one in ROUTES] + [(one.method, one.path) for one in worker_routes()]
    own = re.findall(r"@\w+\.(get|post|put|delete)\(\s*\"([^\"]+)\"", _code(page))
    found += [(method.upper(), path) for method, path in own]
    return [(method, re.compile(re.sub(r"<[^>]+>|\{[^}]+\}", r"[^/]+", path))) for method, path in found]


def _docker(command: Command, page: str) -> None:
    """Services of the compose file; files that an image is built from; what a container of genlock is told."""
    words = list(command.words[1:])
    if words[:1] == ["compose"]:
        return _compose(words[1:], page)
    if words[:1] == ["build"] and "-f" in words and not (ROOT / words[words.index("-f") + 1]).is_file():
        raise Wrong("there is no such Dockerfile")
    if words[:1] not in (["build"], ["stop"], ["rm"], ["run"], ["ps"], ["logs"]):
        raise Wrong(f"tests/docs/programs.py does not know `docker {words[0]}`")
    return None


def _compose(words: list[str], page: str) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    takes = {"--profile", "--scale", "-v", "-e", "--since", "--tail"}
    plain: list[str] = []
    at = 0
    while at < len(words):
        if words[at] == "--scale" and words[at + 1].partition("=")[0] not in services:
            raise Wrong(f"the compose file has no service {words[at + 1]}")
        if words[at].startswith("-"):
            at += 2 if words[at] in takes else 1
            continue
        plain.append(words[at])
        at += 1
        if plain[0] in ("run", "exec") and len(plain) > 1:
            plain += words[at:]
            break
    verb, rest = plain[0], plain[1:]
    if verb == "cp":
        rest = [word.partition(":")[0] for word in rest if ":" in word]
    if verb not in ("up", "run", "exec", "stop", "start", "restart", "build", "ps", "logs", "pull", "down", "cp"):
        raise Wrong(f"tests/docs/programs.py does not know `docker compose {verb}`")
    if rest and rest[0] not in services:
        raise Wrong(f"the compose file has no service {rest[0]}")
    if verb == "run" and rest[0] == "operator":
        parsed(tuple(rest[1:]))


def _of_deploy(command: Command, page: str) -> None:
    if not os.access(ROOT / command.words[0], os.X_OK):
        raise Wrong(f"there is no program {command.words[0]}")


def _torchrun(command: Command, page: str) -> None:
    _script(next((word for word in command.words[1:] if word.endswith(".py")), ""), page)


#: Program → whether its words are such.
CHECKS: dict[str, Callable[[Command, str], None]] = {
    "genlock": _genlock,
    "make": _make,
    "pip": _pip,
    "python": _python,
    "python3": _python,
    "torchrun": _torchrun,
    "gunicorn": _gunicorn,
    "uvicorn": _uvicorn,
    "curl": _curl,
    "docker": _docker,
    "deploy/": _of_deploy,
}
