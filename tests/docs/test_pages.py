"""How pages and typed lines are taken apart. What is found wrong here would be missed on every page."""

from __future__ import annotations

import pytest

from docs.console import Command, lines_of
from docs.pages import Block, blocks_of
from docs.programs import Wrong, check, parsed
from docs.shelf import can_run


def console(text: str, language: str = "console") -> Block:
    return Block("p.md", 10, language, text)


def typed(text: str) -> None:
    for line in lines_of(console(f"$ {text}\n")):
        check(line, "README.md")


def test_every_block_is_found() -> None:
    """Also one in a list, one with tildes, and one that has backticks in it: a block that is not found is never tried."""
    page = "above\n\n```python\nx = 1\n```\n\n1. a list\n\n   ```console\n   $ ls\n   ```\n\n~~~text\n```\n~~~\n````\nnone\n````\n"
    found = list(blocks_of("p.md", page))
    assert [(one.language, one.text, one.line) for one in found] == [
        ("python", "x = 1\n", 4),
        ("console", "$ ls\n", 10),
        ("text", "```\n", 14),
        ("", "none\n", 17),
    ]
    assert [one.before for one in found][:2] == ["above", "1. a list"]


def test_a_block_that_nothing_closes_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"p.md:2: nothing closes this block"):
        list(blocks_of("p.md", "text\n```python\nx\n"))


def test_lines_have_what_is_shown_below_them() -> None:
    (first, second, third) = lines_of(console("$ genlock status \\\n    digits\nmodel  digits\n\n$ ls\n# reboot\n"))
    assert (first.where, first.text, first.output) == ("p.md:10", "genlock status  digits", ("model  digits", ""))
    assert (second.where, second.text, third.text) == ("p.md:14", "ls", "reboot")
    assert [line.text for line in lines_of(console("make bench  # all\n\nls\n", "sh"))] == ["make bench  # all", "ls"]


@pytest.mark.parametrize("text", ["genlock status\n", "", "\n"])
def test_a_block_without_a_prompt_is_an_error(text: str) -> None:
    """Its lines would be taken for output, and nobody would try them."""
    with pytest.raises(ValueError, match=r"begins with|nothing is typed"):
        lines_of(console(text))


def test_a_line_is_split_where_a_shell_does() -> None:
    (line,) = lines_of(console("$ A=1 B=2 genlock status --json 2>&1 >out.json | jq . && rm 'a b' # comment\n"))
    assert [(one.words, one.variables) for one in line.commands] == [
        (("genlock", "status", "--json", "2"), ("A=1", "B=2")),
        (("jq", "."), ()),
        (("rm", "a b"), ()),
    ]
    assert Command(("/opt/genlock/bin/pip", "install")).program == "pip"


@pytest.mark.parametrize(
    "line",
    [
        "genlock statsu",
        "genlock status --jsno",
        "genlock publish digits",
        "FOO=1 genlock history",
        "make dmeo",
        "pip install '.[wroker]'",
        "gunicorn -c python:genlock.worker.hoks genlock.worker.app:app",
        "gunicorn genlock.worker.appp:app",
        "gunicorn --wrokers 3 genlock.worker.app:app",
        "curl localhost:8000/cache/stat",
        "curl localhost:8000/cache/clear",
        "curl localhost:8000/evaluate/digits -d '{\"inputs\": [}'",
        "docker compose up evaluatr",
        "docker compose run --rm operator statsu",
        "deploy/rolback.sh digits",
        "python no_such_file.py",
        "python -m no.such.module",
        "frobnicate",
        "echo 'open",
    ],
)
def test_what_cannot_be_typed_is_found(line: str) -> None:
    """Each of these stood in a page, as far as this test is concerned."""
    with pytest.raises(Wrong):
        typed(line)


def test_what_can_be_typed_passes() -> None:
    typed("GENLOCK_FLEET=prod genlock publish digits a=x.pt b=y.pt --canary 5%,25% -m 'run 41' | tee log && make demo")
    typed("curl -s -X POST localhost:8000/cache/refresh/digits -H 'authorization: Bearer TOKEN'")
    typed("curl -sN 'http://localhost:8900/api/v1/events?follow=1'")
    assert parsed(("status", "digits", "--json"))[0] == "status"
    assert parsed(("--help",)) == ("", {})


@pytest.mark.parametrize(
    ("line", "runs"),
    [
        ("genlock status", True),
        ("genlock top --once", True),
        ("genlock top", False),
        ("genlock events --follow", False),
        ("genlock admin", False),
        ("genlock status | jq .", False),
        ("genlock status > file", False),
        ("GENLOCK_FLEET=prod genlock status", False),
        ("genlock status --store /mnt/models", False),
        ("ls", False),
    ],
)
def test_which_lines_run(line: str, runs: bool) -> None:
    (found,) = lines_of(console(f"$ {line}\n"))
    assert can_run(found) is runs
