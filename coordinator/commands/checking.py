"""`genlock doctor`: what is well, what is not, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from . import words
from .output import Table
from .session import Session

if TYPE_CHECKING:
    from ..doctor import Checkup, Finding

#: Exit status where something is wrong, and where no usable Redis answers.
WRONG, UNREACHABLE = 1, 5


def doctor(session: Session) -> None:
    """Check Redis, the fleet's record, the store and this host.

    Says of each what was found, whether that is well, and what to do. Changes nothing at the server; in the store it writes some small
    files and removes them. Ends with 1 if something is wrong, with 5 if no Redis answers; a warning is not wrong.
    """
    from ..doctor import examine

    found = examine(session.settings, session.fleet.endpoint)
    session.show(found, lambda: said_of_checkup(found))
    if found.outcome in ("wrong", "unreachable"):
        raise typer.Exit(UNREACHABLE if found.outcome == "unreachable" else WRONG)


def said_of_checkup(found: Checkup) -> list[str | Table]:
    """A row for each finding, and below it what to do."""
    rows = [row for finding in found.findings for row in _rows(finding)]
    return [_summary(found), f"redis  {found.redis}", f"store  {found.store}", "", Table(("", "CHECK", "FOUND"), rows)]


def _rows(finding: Finding) -> list[tuple[str, str, str]]:
    mark = "ok" if finding.level == "ok" else finding.level.upper()
    rows = [(mark, f"{finding.subject} {finding.check}", finding.found)]
    return rows + ([("", "", f"→ {finding.advice}")] if finding.advice else [])


def _summary(found: Checkup) -> str:
    wrong = sum(finding.level == "wrong" for finding in found.findings)
    warnings = sum(finding.level == "warning" for finding in found.findings)
    checked = f"fleet {found.fleet}: {words.counted(len(found.findings), 'check')}"
    if not wrong and not warnings:
        return f"{checked}, all is well"
    return f"{checked}, {wrong} wrong, {words.counted(warnings, 'warning')}"
