"""docs/guarantees.md says what runs have measured, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chaos.guarantees import DOCS, PARTS, filled, merged


def act(name: str = "workers", **more: Any) -> dict[str, Any]:
    """A row of a chaos report."""
    kind = {
        "kind": "kill",
        "kills": True,
        "forgets": False,
        "injections": 2,
        "checked": 10,
        "stale": 4,
        "most_stale": 3,
        "lost": 1,
    }
    kind |= {"refused": 0, "longest_silence_s": 0.25, "longest_to_converge_s": 0.5, "violations": {}}
    usual = {
        "act": name,
        "seconds": 5.0,
        "missed": [],
        "troubles": [],
        "checked": 10,
        "answered": 9,
        "injections": 2,
        "violations": [],
        "workers": 4,
        "generations": 3,
    }
    measure = {"what": "open again", "unit": "leases", "limit": 1.5, "value": 1.25}
    return usual | {"proposals": {"committed": 3}, "kinds": [kind], "measures": [measure]} | more


def test_the_page_says_what_was_measured() -> None:
    """Somebody edits a number of a table, or forgets to write the page anew: the tables are those that the figures give."""
    page, data = (DOCS / "guarantees.md").read_text(), json.loads((DOCS / "guarantees.json").read_text())
    assert page == filled(page, data)


def test_what_the_page_stands_on_is_no_failure() -> None:
    """A run with violations, or without a rule, would make a page that promises what was not found."""
    data = json.loads((DOCS / "guarantees.json").read_text())
    assert data["chaos"]["violations"] == data["simulation"]["violations"] == 0
    assert data["chaos"]["troubles"] == []
    assert {row["rule"] for row in data["rules"]} >= {f"R{n}" for n in range(1, 17)}
    assert data["chaos"]["checked"] >= 300_000 and data["chaos"]["injections"] >= 300
    assert data["simulation"]["schedules"] >= 2_000


def test_runs_are_added_and_the_worst_of_them_is_kept() -> None:
    """Two runs: twice the faults, the longest of both silences, a broken promise of either."""
    worse = act("server")
    worse["kinds"] = [worse["kinds"][0] | {"longest_silence_s": 2.0, "most_stale": 1, "violations": {"1": 7}}]
    worse["measures"] = [worse["measures"][0] | {"value": 1.75}]
    reports = [{"seed": n, "seconds": 5.0, "acts": [one], "not_run": {}} for n, one in enumerate((act(), worse))]
    found = merged(reports)
    (kind,) = found["kinds"]
    assert (kind["injections"], kind["checked"], kind["longest_silence_s"], kind["most_stale"]) == (4, 20, 2.0, 3)
    assert kind["violations"] == {"1": 7}
    assert found["measures"][0]["values"] == [1.25, 1.75]
    assert (found["checked"], found["seconds"], found["seeds"]) == (20, 10, [0, 1])


def test_of_an_act_that_was_played_again_the_last_one_counts() -> None:
    """Nobody adds up the good runs and leaves the bad one out, or the other way round."""
    reports = [{"seed": n, "acts": [act(checked=n)], "not_run": {}} for n in (7, 5)]
    assert merged(reports)["checked"] == 5


def test_a_broken_promise_stands_in_the_table() -> None:
    """It is not hidden in a sum."""
    broken = act()
    broken["kinds"][0]["violations"] = {"1": 7}
    data = {"chaos": merged([{"seed": 1, "seconds": 5.0, "acts": [broken], "not_run": {}}])}
    assert "**7 broken**" in PARTS["faults"](data)


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    """Somebody deletes a comment: the table would be missing for ever after."""
    with pytest.raises(ValueError, match="no place"):
        filled("<!-- begin summary -->", {})
