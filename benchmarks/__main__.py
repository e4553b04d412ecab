"""`python -m benchmarks [NAME…] [--quick]`: measures, prints a table, writes JSON to results/; status 1 if a figure is missed."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .figure import Figure

#: In the order in which they are run: the short ones first.
NAMES = ("importing", "reading", "staging", "clearing", "looking", "throughput", "memory", "migrating", "flipping")
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Everything, or what is named."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure genlock. See benchmarks/README.md."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a smoke run: too short for figures that mean something")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    if wrong := sorted(set(given.names) - set(NAMES)):
        parser.error(f"there is no {', '.join(wrong)}; there are {', '.join(NAMES)}")
    console = Console(stderr=True)
    figures: dict[str, list[Figure]] = {}
    for name in given.names or NAMES:
        began = time.monotonic()
        with console.status(f"measuring {name} …"):
            figures[name] = importlib.import_module(f".{name}", __package__).measure(quick=given.quick)
        _print(name, figures[name], time.monotonic() - began)
    _write(figures, quick=given.quick)
    missed = [figure.what for found in figures.values() for figure in found if not figure.ok]
    print(f"missed: {'; '.join(missed)}" if missed else "every figure is reached")
    return 1 if missed else 0


def _print(name: str, figures: list[Figure], seconds: float) -> None:
    table = Table(title=f"{name} ({seconds:.0f} s)", title_justify="left", title_style="bold")
    for column in ("what", "measured", "lowest … highest", "reach", "", "in numbers"):
        table.add_column(column, overflow="fold")
    for figure in figures:
        unit = f" {figure.unit}" if figure.unit else ""
        verdict = "" if not figure.reach else "[green]ok[/]" if figure.ok else "[red]missed[/]"
        spread = f"{figure.low:.3g} … {figure.high:.3g}{unit}"
        table.add_row(figure.what, f"{figure.value:.3g}{unit}", spread, figure.reach, verdict, figure.note)
    Console(width=None if sys.stdout.isatty() else 180).print(table)


def _write(figures: dict[str, list[Figure]], *, quick: bool) -> None:
    RESULTS.mkdir(exist_ok=True)
    found = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "quick": quick,
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "redis", "flask", "gunicorn")},
        "figures": {name: [asdict(figure) for figure in rows] for name, rows in figures.items()},
    }
    file = RESULTS / time.strftime("%Y%m%d-%H%M%S.json", time.gmtime())
    file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"written to {file}")


if __name__ == "__main__":
    sys.exit(main())
