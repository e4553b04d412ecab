"""`python -m chaos.guarantees`: the tables of docs/guarantees.md, from what runs have measured. No number of that page is written by hand.

`--chaos FILE…`, `--simulation FILE`, `--rules FILE`: reports of runs, which are merged into docs/guarantees.json; without them the
page is written from what stands there. In the page the tables stand between comments `<!-- begin NAME -->` and `<!-- end NAME -->`; the
text round them is people's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
#: The promises that a history is checked for (history.violations).
CHECKED = (1, 3, 4, 5, 6)
Row = Mapping[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def counted(number: int) -> str:
    return f"{number:,}"


# --- what a run has shown -------------------------------------------------------------------------------------------------


def merged(reports: Sequence[Row]) -> dict[str, Any]:
    """Several chaos reports as one: of an act that stands in several, the last one; counts are added, of figures the worst is kept."""
    kinds: dict[str, dict[str, Any]] = {}
    measures: dict[str, dict[str, Any]] = {}
    acts = list({act["act"]: act for report in reports for act in report["acts"]}.values())
    for act in acts:
        for kind in act["kinds"]:
            _add(kinds.setdefault(kind["kind"], {}), kind)
        for measure in act["measures"]:
            _add_measure(measures.setdefault(measure["what"], {}), measure)
    return {
        "runs": len(reports),
        "seconds": round(sum(act["seconds"] for act in acts)),
        "seeds": [report["seed"] for report in reports],
        "checked": sum(act["checked"] for act in acts),
        "answered": sum(act["answered"] for act in acts),
        "injections": sum(act["injections"] for act in acts),
        "violations": sum(len(act["violations"]) for act in acts),
        "troubles": [trouble for act in acts for trouble in act["troubles"]],
        "missed": [missed for act in acts for missed in act["missed"]],
        "workers": sum(act["workers"] for act in acts),
        "generations": sum(act["generations"] for act in acts),
        "proposals": _sums(act["proposals"] for act in acts),
        "kinds": sorted(kinds.values(), key=lambda kind: kind["kind"]),
        "measures": sorted(measures.values(), key=lambda measure: measure["what"]),
        "not_run": {name: why for report in reports for name, why in report["not_run"].items()},
    }


def _add(total: dict[str, Any], kind: Row) -> None:
    for name, value in kind.items():
        if name in ("kind", "kills", "forgets"):
            total[name] = value
        elif name == "violations":
            total[name] = _sums([total.get(name, {}), value])
        elif name.startswith(("most", "longest")):
            total[name] = max(total.get(name, 0), value)
        else:
            total[name] = total.get(name, 0) + value


def _add_measure(total: dict[str, Any], measure: Row) -> None:
    values = [*total.get("values", []), measure["value"]]
    total.update({"what": measure["what"], "unit": measure["unit"], "limit": measure["limit"], "values": values})


def _sums(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            found[name] = found.get(name, 0) + count
    return dict(sorted(found.items()))


def machine() -> dict[str, str]:
    """What it was measured on."""
    return {
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "kernel": platform.release().split("-")[0],
        "torch": version("torch").split("+")[0],
        "gunicorn": version("gunicorn"),
    }


# --- the page -------------------------------------------------------------------------------------------------------------


def summary(data: Row) -> str:
    chaos, simulation = data["chaos"], data["simulation"]
    words = ", ".join(f"{name} {value}" for name, value in data["machine"].items())
    return "\n".join(
        (
            f"- **{counted(simulation['schedules'])} schedules** simulated in {simulation['seconds']:.0f} s: "
            f"{counted(simulation['calls'])} calls, {counted(simulation['commits'])} commits, {simulation['violations']} violations",
            f"- **{counted(chaos['checked'])} requests** to real services checked, while **{counted(chaos['injections'])} faults** of "
            f"{len(chaos['kinds'])} kinds struck {counted(chaos['workers'])} worker processes in {chaos['seconds'] / 60:.0f} minutes: "
            f"{chaos['violations']} violations",
            f"- {counted(sum(chaos['proposals'].values()))} publishes and rollbacks meanwhile: "
            + ", ".join(f"{counted(count)} {name}" for name, count in chaos["proposals"].items()),
            f"- Measured with {words}",
        )
    )


def faults(data: Row) -> str:
    head = (
        "fault",
        "struck",
        "requests",
        *(f"promise {n}" for n in CHECKED),
        "stale",
        "lost",
        "silence",
        "to converge",
    )
    return table(head, [_fault(kind) for kind in data["chaos"]["kinds"]])


def _fault(kind: Row) -> tuple[object, ...]:
    times = (f"{kind[name] * 1000:.0f} ms" for name in ("longest_silence_s", "longest_to_converge_s"))
    promises = (_kept(kind, number) for number in CHECKED)
    return (
        kind["kind"],
        kind["injections"],
        counted(kind["checked"]),
        *promises,
        counted(kind["most_stale"]),
        kind["lost"],
        *times,
    )


def _kept(kind: Row, promise: int) -> str:
    broken = kind["violations"].get(str(promise), 0)
    if broken:
        return f"**{broken} broken**"
    return "per worker" if promise == 1 and kind["forgets"] else "kept"


def measures(data: Row) -> str:
    rows = [
        (
            m["what"],
            len(m["values"]),
            _figure(sorted(m["values"])[len(m["values"]) // 2]),
            _figure(max(m["values"])),
            f"{_figure(m['limit'])} {m['unit']}",
        )
        for m in data["chaos"]["measures"]
    ]
    return table(("figure", "measured", "median", "worst", "has to be at most"), rows)


def _figure(value: float) -> str:
    return f"{value:.4g}"


def rules(data: Row) -> str:
    rows = [
        (row["rule"], row["switched_off"], row["caught_by"], row.get("seeds") or "–", f"{row['seconds']:.1f} s")
        for row in data["rules"]
    ]
    return table(("rule", "switched off", "what notices", "after seeds", "took"), rows)


def simulation(data: Row) -> str:
    rows = [(name.replace("_", " "), _said(value)) for name, value in data["simulation"].items()]
    return table(("simulated", "how much"), rows)


def _said(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{counted(count)} {name}" for name, count in value.items())
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def missed(data: Row) -> str:
    """What did not go as it should."""
    found = [*data["chaos"]["missed"], *data["chaos"]["troubles"]]
    return "\n".join(f"- {line}" for line in found) or "All medians are within their limits."


def not_run(data: Row) -> str:
    found = data["chaos"]["not_run"]
    if not found:
        return "Everything was run."
    return table(
        ("act", "why it was not run", "faults"),
        [(name, row["why"], ", ".join(row["faults"])) for name, row in found.items()],
    )


PARTS: dict[str, Callable[[Row], str]] = {
    "summary": summary,
    "faults": faults,
    "measures": measures,
    "missed": missed,
    "rules": rules,
    "simulation": simulation,
    "not run": not_run,
}


def filled(page: str, data: Row) -> str:
    """The page with every table made anew; raises ValueError for one whose place is not there."""
    for name, make in PARTS.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        if begin not in page or end not in page:
            raise ValueError(f"the page has no place for {name!r}: put {begin} and {end} where it belongs")
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        text = f"{begin}\n{make(data)}\n{end}"
        page = re.sub(pattern, lambda _, text=text: text, page, flags=re.DOTALL)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chaos.guarantees", description=__doc__.split("\n")[0])
    parser.add_argument("--chaos", type=Path, nargs="*", default=[])
    parser.add_argument("--simulation", type=Path)
    parser.add_argument("--rules", type=Path)
    chosen = parser.parse_args()
    stored = DOCS / "guarantees.json"
    data = json.loads(stored.read_text()) if stored.exists() else {}
    data["machine"] = machine() if chosen.chaos else data["machine"]
    if chosen.chaos:
        data["chaos"] = merged([json.loads(path.read_text()) for path in chosen.chaos])
    if chosen.simulation:
        data["simulation"] = json.loads(chosen.simulation.read_text())
    if chosen.rules:
        data["rules"] = json.loads(chosen.rules.read_text())["rules"]
    stored.write_text(json.dumps(data, indent=1) + "\n")
    page = DOCS / "guarantees.md"
    page.write_text(filled(page.read_text(), data))


if __name__ == "__main__":
    main()
