"""`python -m chaos`: what can happen happens to real fleets, and every answer is checked. See campaign.

In the root of the repository: `PYTHONPATH=tests .venv/bin/python -m chaos --list`, `make chaos ARGS="--acts network"`.

`--seconds 620`: how long it takes in all; `--acts NAME…`, `--short`: only these; `--report FILE`: what was found, as JSON; `--list`:
acts and faults. Ends with status 1 if a promise was broken, a fleet did not come to rest, or (but with `--short`, which other work on
the machine may disturb) a figure missed.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
import sys
import tempfile
from pathlib import Path

from .campaign import ACTS, SHORT, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=620.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--acts", nargs="*", default=[], choices=[act.name for act in ACTS], metavar="ACT")
    parser.add_argument("--short", action="store_true", help="one fault of each sort, each once")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--keep", type=Path, help="a folder for logs and answers that is not removed")
    parser.add_argument("--list", action="store_true")
    chosen = parser.parse_args()
    if chosen.list:
        for act in ACTS:
            print(
                f"{act.name}: {act.missing() or act.what}", *dict.fromkeys(f"  {f.kind}" for f in act.faults), sep="\n"
            )
        return 0
    logging.basicConfig(level=logging.WARNING)
    acts = [SHORT] if chosen.short else [act for act in ACTS if act.name in chosen.acts or not chosen.acts]
    folder = chosen.keep or Path(tempfile.mkdtemp(prefix="genlock-chaos-"))
    found = run(acts, seconds=chosen.seconds, seed=chosen.seed, folder=folder)
    if found["passed"] and not chosen.keep:
        shutil.rmtree(folder)
    else:
        print(f"logs and answers: {folder}")
    if chosen.report:
        chosen.report.parent.mkdir(parents=True, exist_ok=True)
        chosen.report.write_text(json.dumps(found, indent=1) + "\n")
    checked, injections = (sum(act[what] for act in found["acts"]) for what in ("checked", "injections"))
    word = "passed" if found["passed"] else "FAILED"
    print(f"{word}: {checked:,} requests, {injections} faults, {found['seconds']:.0f} s, seed {found['seed']}")
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
