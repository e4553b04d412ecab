"""Checkpoints that are a burden, two hundred flips in a row, and workers that gunicorn replaces all the while."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from .fault import Fault
from .orders import Order
from .stand import Measure, Plan, Stand

#: Tensors of a file that is valid, and of another model; each has one number.
MANY_TENSORS = 600_000
#: What a header says that it has, in bytes: more than any machine has.
BOMB_BYTES = 2**62
#: Depth of a header that is a tower of lists.
TOWER = 200_000
#: Flips in a row; after the first ones everything that is made once has been made.
FLIPS, WARM_FLIPS = 200, 10
#: Seconds in which gunicorn's limit of requests replaces workers.
TURNOVER_S = 20.0


def many_tensors(path: Path) -> Path:
    """A safetensors file of MANY_TENSORS tensors (format: github.com/huggingface/safetensors, README)."""
    entry = '"t%d":{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}'
    header = ("{" + ",".join(entry % (n, 4 * n, 4 * n + 4) for n in range(MANY_TENSORS)) + "}").encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4 * MANY_TENSORS))
    return path


def header_bomb(path: Path) -> Path:
    """Its first eight bytes promise more than there is."""
    path.write_bytes(struct.pack("<Q", BOMB_BYTES) + b"{}" * 500)
    return path


def header_tower(path: Path) -> Path:
    """Its header is nested so deep that a parser which recurses runs out of stack."""
    header = b"[" * TOWER + b"]" * TOWER
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


def _file(what: str, make: object) -> Fault:
    def act(stand: Stand, chance: random.Random) -> str:
        path = make(stand.folder / "burden.safetensors")  # type: ignore[operator]
        with stand.nobody_publishes():
            found = stand.trainer.do(Order(file=str(path), timeout=20.0))
        assert found.outcome != "committed", f"{what} was committed"
        return f"{found.outcome}: {found.why[:120]}"

    return Fault(what, act)


FILES = (
    _file("a file of 600,000 tensors", many_tensors),
    _file("a header that promises 4 EiB", header_bomb),
    _file("a header nested 200,000 deep", header_tower),
)


# --- many flips -----------------------------------------------------------------------------------------------------------


class _Held(NamedTuple):
    """Of all workers: bytes of memory that are theirs alone, threads, descriptors."""

    bytes: int
    threads: int
    descriptors: int

    @classmethod
    def of(cls, stand: Stand) -> _Held:
        workers = [psutil.Process(pid) for service in stand.services.values() for pid in service.pids]
        memory = sum(worker.memory_full_info().uss for worker in workers)
        return cls(memory, sum(w.num_threads() for w in workers), sum(w.num_fds() for w in workers))


def _many_flips(stand: Stand, chance: random.Random) -> str:
    """What a flip leaves behind, two hundred leave two hundred times."""
    with stand.nobody_publishes():
        for _ in range(WARM_FLIPS):
            stand.publish_good()
        before = _Held.of(stand)
        lost = [found for _ in range(FLIPS) if (found := stand.publish_good()).outcome != "committed"]
        after = _Held.of(stand)
    if lost:
        raise RuntimeError(f"{len(lost)} of {FLIPS} were not committed, the first: {lost[0]}")
    for what, limit in (("bytes", 1.05), ("threads", 1.0), ("descriptors", 1.05)):
        ratio = round(getattr(after, what) / getattr(before, what), 3)
        stand.measures.append(Measure(what=f"{what} after {FLIPS} flips", value=ratio, limit=limit, unit="×"))
    return f"{before} before, {after} after"


MANY_FLIPS = (Fault(f"{FLIPS} flips under traffic", _many_flips),)


def _turnover(stand: Stand, chance: random.Random) -> str:
    """gunicorn's max_requests ends workers while flips go on."""
    pids = {pid for service in stand.services.values() for pid in service.pids}
    end, seen = time.monotonic() + TURNOVER_S, set(pids)
    while time.monotonic() < end:
        seen |= {pid for service in stand.services.values() for pid in service.pids}
        time.sleep(0.05)
    return f"{len(seen - pids)} workers replaced"


def with_turnover(stack: object, folder: Path) -> Stand:
    """Services whose workers end after some hundred requests; connections break with them."""
    options = {"--max-requests": "2000", "--max-requests-jitter": "1500"}
    plans = (Plan("a", 2, options=options), Plan("b", 2, "sync", flags=("--preload",), options=options))
    return Stand(folder, plans=plans)


TURNOVER = (Fault("gunicorn max_requests", _turnover, kills=True),)
