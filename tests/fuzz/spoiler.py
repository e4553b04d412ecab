"""Spoils one checkpoint file over and over and loads each, in a process of its own with a limit of memory.

`spoiler.py KIND GOOD SEED COUNT BYTES`: safetensors, torch or program; the file that is whole; a seed; how many; the address space. Ends
with 0, and a count of what came of them as JSON; the example in work stands in the file GOOD.now, for who finds the process dead.
"""

from __future__ import annotations

import json
import random
import resource
import sys
from collections import Counter
from pathlib import Path

from genlock.coordinator.container import check_container
from genlock.coordinator.errors import ArtifactRefused, BadCheckpoint, LoadFailed
from genlock.coordinator.manifest import Manifest
from genlock.coordinator.store import Store
from genlock.worker.hostwork import HostWork
from genlock.worker.loaders import Loader, exported_program, state_dict_into
from genlock.worker.loading import load
from torch import nn

#: What numbers of formats are replaced by.
NUMBERS = (
    b"\xff" * 8,
    b"\0" * 8,
    b"\xff" * 4,
    b"\xff\xff\xff\x7f",
    b"\x01\0\0\0",
    b"9" * 8,
    b"-1",
    b"1e99",
    b"PK\x03\x04",
)


def spoil(data: bytes, chance: random.Random) -> bytes:
    """One to four places changed; half of them in the first and last kilobyte, where the directories are."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        edge = min(len(out), 1024)
        at = chance.choice((chance.randrange(edge), len(out) - 1 - chance.randrange(edge), chance.randrange(len(out))))
        match chance.randrange(4):
            case 0:
                out[at] ^= 1 << chance.randrange(8)
            case 1:
                new = chance.choice(NUMBERS)
                out[at : at + len(new)] = new
            case 2:
                del out[at : at + chance.randint(1, 64)]
            case _:
                out[at:at] = out[at : at + chance.randint(1, 64)]
    return bytes(out)


def loaded(path: Path, folder: Path, loader: Loader) -> str:
    """What publisher and worker make of the file."""
    try:
        with path.open("rb") as file:
            check_container(file, str(path))
        store = Store(folder / "store")
        manifest = Manifest.of("m", [store.stage(path, name="model")], created_at=0.0)
        load(
            manifest,
            1,
            store=store,
            loader=loader,
            host=HostWork(folder / "state", loads_per_host=1),
            cancelled=lambda: False,
        )
    except ArtifactRefused:
        return "refused"
    except (BadCheckpoint, LoadFailed) as error:
        return type(error).__name__
    return "loaded"


def main(kind: str, good: Path, seed: int, count: int, limit_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    chance, found = random.Random(seed), Counter[str]()
    loader = exported_program() if kind == "program" else state_dict_into(lambda: nn.Linear(2, 2))
    data, now = good.read_bytes(), good.with_suffix(".now")
    for _ in range(count):
        now.write_bytes(spoil(data, chance))
        found[loaded(now, good.parent, loader)] += 1
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:6]))
