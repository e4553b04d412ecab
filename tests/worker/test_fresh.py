"""worker/fresh.py: the two settings for debugging change when a payload is loaded, and nothing of what may be answered."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from genlock.coordinator.errors import NotReady
from genlock.coordinator.filesystem import Filesystem
from genlock.coordinator.fleet import Fleet
from genlock.worker import hostcache
from genlock.worker.cache import ModelCache
from safetensors.torch import save_file
from torch import nn

Publish = Callable[..., Any]
NewCache = Callable[..., ModelCache]
WaitFor = Callable[..., Any]

X = torch.ones(1, 2)


def test_without_the_cache_every_use_loads(publish: Publish, new_cache: NewCache) -> None:
    publish(1)
    cache = new_cache(settings={"use_cache": "false"})
    assert cache.notice == "GENLOCK_USE_CACHE=false, every use loads"
    first, second = cache.get("m"), cache.get("m")
    assert first.payload is not second.payload
    assert (first.generation, second.generation) == (1, 1)
    publish(2)
    again = cache.get("m")
    assert (again.generation, float(again.payload(X)[0][0])) == (2, 2.0)
    with cache.use_many("m") as (held,):
        assert held.generation == 2


def test_with_forced_reload_only_another_file_is_loaded(publish: Publish, new_cache: NewCache, fleet: Fleet) -> None:
    """Different, not newer: a restored backup has an older mtime."""
    publish(1)
    cache = new_cache(settings={"force_reload": "true"})
    assert cache.notice == "GENLOCK_FORCE_RELOAD=true, every use checks the file"
    first, second = cache.get("m"), cache.get("m")
    assert first.payload is second.payload
    (stored,) = fleet.store.objects()
    path = fleet.store.path(stored.digest)
    os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
    third = cache.get("m")
    assert third.payload is not first.payload
    assert cache.get("m").payload is third.payload


def test_a_rollback_to_the_same_content_has_its_own_number(publish: Publish, new_cache: NewCache, fleet: Fleet) -> None:
    """Identity is (generation, version): seen once, the payload of a version was answered under the generation of its first load."""
    publish(1)
    cache = new_cache(settings={"force_reload": "true"})
    first = cache.get("m")
    publish(2)
    assert cache.get("m").generation == 2
    fleet.rollback("m", pin=False)
    again = cache.get("m")
    assert (again.generation, again.version, float(again.payload(X)[0][0])) == (3, first.version, 1.0)


def words(tmp_path: Path) -> int:
    """How many name what they hold of the host cache."""
    return len(list((tmp_path / "state" / "cache" / "held").iterdir()))


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is on a network: what is loaded is fetched first."""
    monkeypatch.setattr(hostcache, "kind_of", lambda _: Filesystem("nfs", is_local=False, tells=False))


def test_a_cache_that_is_closed_holds_nothing_of_the_host_cache(
    publish: Publish, new_cache: NewCache, tmp_path: Path, network: None, wait_for: WaitFor
) -> None:
    """Each `open` and `close` left a descriptor, and a word for what nobody had any more."""
    publish(1)
    cache = new_cache(settings={"use_cache": "false"})
    for _ in range(3):
        cache.open()
        cache.get("m")
        assert words(tmp_path) == 2, "of the runtime, and of the request's own loads"
        cache.close()
        wait_for(lambda: words(tmp_path) == 0)


def test_closing_ends_a_load_of_a_request_and_waits_for_nobody(
    publish: Publish,
    new_cache: NewCache,
    tmp_path: Path,
    network: None,
    background: Callable[[Callable[[], Any]], Any],
    wait_for: WaitFor,
) -> None:
    """Its thread uses the host cache: that is closed when it has ended."""
    publish(1)
    begun, go_on, held = threading.Event(), threading.Event(), threading.Event()

    def slow() -> nn.Module:
        if held.is_set():
            begun.set()
            assert go_on.wait(20)
        return nn.Linear(2, 2)

    cache = new_cache(settings={"use_cache": "false"}, loaders={"m": slow})
    cache.prewarm()
    held.set()
    request = background(lambda: cache.get("m"))
    assert begun.wait(20)
    cache.close()
    wait_for(lambda: words(tmp_path) == 1, description="the runtime's to go")
    go_on.set()
    with pytest.raises(NotReady, match="was closed"):
        request.result(20)
    assert words(tmp_path) == 0


def test_a_missing_file_is_a_failure_with_its_step(publish: Publish, new_cache: NewCache, fleet: Fleet) -> None:
    publish(1)
    cache = new_cache(settings={"force_reload": "true"})
    cache.get("m")
    (stored,) = fleet.store.objects()
    fleet.store.path(stored.digest).unlink()
    with pytest.raises(Exception, match="could not be loaded at verify"):
        cache.get("m")


def test_before_the_manifest_has_come_it_is_not_ready(publish: Publish, new_cache: NewCache, monkeypatch: Any) -> None:
    publish(1)
    cache = new_cache(settings={"use_cache": "false"})
    view = cache.get("m")
    assert cache.runtime is not None
    monkeypatch.setattr(cache.runtime, "manifest_of", lambda model, generation: None)
    with pytest.raises(NotReady, match="its manifest is not known here yet"):
        cache.get("m")
    assert cache._debug is not None
    stale = view.as_stale()
    assert cache._debug.view(stale, None) is stale, "without Redis the last good one has to do"


def test_what_is_stale_is_marked_in_these_modes_too(
    serving: Any, new_fleet: Any, new_cache: NewCache, tmp_path: Path, wait_for: WaitFor
) -> None:
    """Seen once: the view that was kept from before the outage said that it was current."""
    (tmp_path / "own").mkdir()
    with serving(tmp_path / "own") as url:
        save_file({"weight": torch.eye(2), "bias": torch.zeros(2)}, tmp_path / "f")
        made = {"url": url, "store": tmp_path / "own-store"}
        new_fleet(**made).publish("m", tmp_path / "f")
        cache = new_cache(fleet=new_fleet(**made), settings={"force_reload": "true"})
        assert not cache.get("m").stale
    wait_for(lambda: cache.get("m").stale)
    assert cache.get("m").generation == 1
