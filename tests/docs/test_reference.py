"""The pages that are made from the code are what the code makes them."""

from __future__ import annotations

import pytest
from genlock.coordinator.commands.program import COMMANDS

from docs.pages import text_of
from docs.reference import MADE, cli, http


@pytest.mark.parametrize("page", MADE)
def test_the_page_is_what_the_code_makes_it(page: str) -> None:
    """A command, a setting or a route was added, and nobody told the people who read."""
    assert text_of(page) == MADE[page](), f"{page} is not what the code is now: run `make docs`"


def test_every_command_has_its_section() -> None:
    """Those of other parts, too, and those below a group."""
    sections = {line.split()[2] for line in cli().splitlines() if line.startswith("### genlock ")}
    assert sections == {*COMMANDS, "demo"} | {name for name in sections if name not in COMMANDS}
    assert {"demo", "publish", "doctor"} <= sections


def test_an_option_says_its_default_and_its_variable() -> None:
    page = cli()
    assert "| `--wait / --no-wait` | `--wait` |" in page
    assert "| `--threads N` | `48` |" in page
    assert "(`GENLOCK_AGREEMENT`) |" in page


def test_a_route_says_what_it_reads_and_answers() -> None:
    page = http()
    section = page.partition("### POST /api/v1/models/{model}/rollback\n")[2].partition("\n### ")[0]
    assert "Role: operator. Body: [Rollback](#rollback)." in section
    assert "Answers: 200 [Flip](#flip), 202 [Pending](#pending)" in section
    assert "| `pin` | true or false | `true` |" in page
    assert "`GET /readyz`" in page.partition("## The admin")[0]
