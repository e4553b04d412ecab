"""How long `from genlock.coordinator import Fleet` takes, in processes of their own, and what it brings along."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

from .figure import Figure, at_most

#: Pairs of processes, by turns.
PAIRS = 25
#: What a trainer must not have to wait for.
UNWANTED = ("torch", "flask", "typer", "rich")

_PROGRAM = """
import time
began = time.perf_counter()
{statement}
seconds = time.perf_counter() - began
import json, sys
print(json.dumps([seconds, [name for name in {unwanted} if name in sys.modules]]))
"""


def measure(*, quick: bool) -> list[Figure]:
    """See README.md, "Importing"."""
    ours, theirs, loaded = [], [], set[str]()
    with tempfile.TemporaryDirectory(prefix="genlock-bench-") as folder:
        for turn in range(-1, 3 if quick else PAIRS):
            theirs_s, _ = _import("import redis", folder)
            ours_s, found = _import("from genlock.coordinator import Fleet", folder)
            loaded |= set(found)
            if turn >= 0:  # the pair before wrote the bytecode
                theirs.append(theirs_s)
                ours.append(ours_s)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    note = f"{sorted(ours)[len(ours) // 2] * 1000:.0f} ms; redis {sorted(theirs)[len(theirs) // 2] * 1000:.0f} ms"
    return [
        at_most("from genlock.coordinator import Fleet / import redis", ratios, 1.5, note=note),
        at_most(f"of {', '.join(UNWANTED)} it loads", [len(loaded)], 0, note=", ".join(sorted(loaded))),
    ]


def _import(statement: str, folder: str) -> tuple[float, list[str]]:
    """Seconds of an import statement in a fresh interpreter, and what unwanted it has loaded."""
    program = _PROGRAM.format(statement=statement, unwanted=UNWANTED)
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, check=True)
    seconds, loaded = json.loads(done.stdout)
    return seconds, loaded
