"""From a manifest to a payload that may answer: verify, build, check, warm, golden.

::

    fetch    every object lies on this host; only where the store is on a network (hostcache.py)    else LoadFailed
    verify   every object that the manifest names has the bytes of its digest (once per host)       else LoadFailed
    build    the loader makes the payload from mapped tensors        else what it says: BadCheckpoint; LoadFailed for all other errors
    check    no NaN, no Inf; this also brings the mapped pages into the process                     else BadCheckpoint
    warm     what the check did not touch; one answer to the golden inputs, if there are some       else BadCheckpoint
    golden   that answer is the golden one                                                          else BadCheckpoint

R13 decides between the two errors. BadCheckpoint is said only of bytes that were verified, and the whole fleet remembers it. LoadFailed
is about this worker and this moment (a damaged or missing file, no memory, a disk's error, a fault in its loader's program) and is
tried again.

Loading happens beside requests, on the same cores. Run it in one thread that has called low_priority() first: digests, sums and
forward passes release the GIL, and torch works in that thread alone (one_torch_thread).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..coordinator.disk import Progress
from ..coordinator.errors import ArtifactMissing, ArtifactRefused, BadCheckpoint, LoadFailed
from ..coordinator.golden import read_golden
from ..coordinator.manifest import Golden, Manifest
from ..coordinator.store import Store
from .archive import FormatError, check_safetensors
from .checkpoint import Checkpoint, distinct, is_of_the_machine
from .hostcache import HostCache
from .hostwork import Cancelled, HostWork, one_torch_thread, stop_if
from .loaders import Loader, exported_program, loader_for, state_dict_into
from .proof import answer, difference, not_finite, tensors_of, touch

__all__ = [
    "Cancelled",
    "Checkpoint",
    "HostWork",
    "Loaded",
    "Loader",
    "exported_program",
    "load",
    "loader_for",
    "state_dict_into",
]

#: Steps in which an error says nothing about the bytes, unless it is BadCheckpoint.
_OF_THIS_WORKER = ("fetch", "wait", "verify", "build")
#: How torch's Module.load_state_dict begins to say that keys or shapes are others, in whatever loader it is called.
_OTHER_SHAPES = "Error(s) in loading state_dict"
#: Characters of a reason that travel to everybody who asks why a candidate was rejected.
_WHY_CHARS = 1000


@dataclass(frozen=True, slots=True)
class Loaded:
    """A payload, what it takes, and how long each step took.

    `bytes`: of its tensors, tied ones once; of its files, if it has none that can be found (proof.py). `seconds`: "wait" (for
    a slot of this host), then every step by name. `digests`: of the objects that it may have mapped.
    """

    payload: Any
    bytes: int
    seconds: dict[str, float]
    digests: frozenset[str] = frozenset()


def load(
    manifest: Manifest,
    generation: int,
    *,
    store: Store,
    loader: Loader,
    host: HostWork,
    cancelled: Callable[[], bool],
    enters: Callable[[str], object] = lambda step: None,
    fetched: Progress = lambda done, size: None,
) -> Loaded:
    """Verify, build and prove one generation, as one of the few of this host that load at the same time.

    Blocks for as long as that takes; `enters` hears of each step when it begins, `fetched` how far a fetch is. Raises BadCheckpoint,
    LoadFailed, or Cancelled soon after `cancelled()` is true (between two steps, while waiting, while reading).
    """
    steps = _Steps(manifest.model, cancelled, enters)
    if isinstance(store, HostCache):  # before the slot: others load meanwhile
        with steps.step("fetch"):
            store.fetch(manifest, cancelled, fetched)
    began = time.perf_counter()
    enters("wait")
    with steps.explained("wait"), host.slot(cancelled):
        steps.seconds["wait"] = time.perf_counter() - began
        with steps.step("verify"):
            _verify(manifest, store, host, cancelled)
        with steps.explained("build"), one_torch_thread():
            with steps.step("build"):
                payload = loader(Checkpoint(manifest.model, generation, manifest, store))
            with steps.step("check"):
                held = _check(manifest.model, payload)
            with steps.step("warm"):
                for tensor in held:
                    touch(tensor)
                answers = _answers(manifest, store, payload)
            with steps.step("golden"):
                _judge(manifest.model, manifest.golden, answers)
    return Loaded(payload, sum(distinct(held).values()) or manifest.size, steps.seconds, manifest.digests)


@dataclass(frozen=True, slots=True)
class _Steps:
    """Runs the steps of one load: times them, stops between them, says of each exception whose fault it is."""

    model: str
    cancelled: Callable[[], bool]
    enters: Callable[[str], object]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        stop_if(self.cancelled)
        self.enters(name)
        began = time.perf_counter()
        with self.explained(name):
            yield
        self.seconds[name] = time.perf_counter() - began

    @contextmanager
    def explained(self, step: str) -> Iterator[None]:
        try:
            yield
        except (BadCheckpoint, LoadFailed, Cancelled):
            raise
        except Exception as error:
            # Before the bytes are verified nothing can be said of them; a loader that finds them bad says so itself.
            why = f"{type(error).__name__}: {error}"[:_WHY_CHARS]
            if str(error).startswith(_OTHER_SHAPES):
                raise BadCheckpoint(self.model, "shapes", why) from error
            unsaid = step in _OF_THIS_WORKER or isinstance(error, ArtifactMissing) or is_of_the_machine(error)
            raise (LoadFailed if unsaid else BadCheckpoint)(self.model, step, why) from error


def _verify(manifest: Manifest, store: Store, host: HostWork, cancelled: Callable[[], bool]) -> None:
    for artifact in manifest.artifacts:
        host.verified(store, artifact.digest, artifact.size, cancelled)
    if manifest.golden:
        host.verified(store, manifest.golden.digest, manifest.golden.size, cancelled)


def _check(model: str, payload: Any) -> list[Any]:
    """The tensors of the payload; BadCheckpoint if a value is not finite. Values that several tensors share are read once."""
    found = list(tensors_of(payload))
    seen: set[tuple[Any, ...]] = set()
    for held in found:
        where = (held.tensor.data_ptr(), held.tensor.shape) if _is_plain(held.tensor) else (id(held.tensor),)
        if where not in seen and (why := not_finite(held)):
            raise BadCheckpoint(model, "check", why)
        seen.add(where)
    return [held.tensor for held in found]


def _is_plain(tensor: Any) -> bool:
    import torch

    return tensor.layout is torch.strided and not tensor.is_meta


def _answers(manifest: Manifest, store: Store, payload: Any) -> tuple[Any, Any] | None:
    """What the payload answers to the golden inputs, and what it should; None without golden outputs."""
    if not manifest.golden:
        return None
    path = store.path(manifest.golden.digest)
    try:
        check_safetensors(path)
        inputs, expected = read_golden(path, "pt")
    except (FormatError, ArtifactRefused) as error:
        raise BadCheckpoint(manifest.model, "golden", str(error)) from error
    return answer(payload, inputs), expected


def _judge(model: str, golden: Golden | None, answers: tuple[Any, Any] | None) -> None:
    if golden and answers and (why := difference(*answers, rtol=golden.rtol, atol=golden.atol)):
        raise BadCheckpoint(model, "golden", why)
