"""worker/slowly.py: what a request gets that may not be answered from memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from genlock.coordinator.canary import place_of
from genlock.worker.cache import ModelCache
from genlock.worker.trial import Arms, Counted

Publish = Callable[..., Any]
NewCache = Callable[..., ModelCache]
WaitFor = Callable[..., Any]

KEYS = [f"u{n}" for n in range(20)]
X = torch.ones(1, 2)


def is_tried(key: str) -> bool:
    """Whether the candidate answers it, with a share of a half."""
    return place_of("m", 2, key) < 5000


@pytest.fixture
def trying(publish: Publish, new_cache: NewCache, wait_for: WaitFor) -> Callable[..., ModelCache]:
    """trying(**settings): a worker that answers half of the keys from generation 2 (2.0), the others from generation 1."""

    def trying(**settings: Any) -> ModelCache:
        publish(1)
        cache = new_cache(settings=settings)
        cache.get("m")
        publish(2, canary="50%")
        wait_for(lambda: cache.views["m"].arms, description="the canary is on here")
        return cache

    return trying


def arms_of(cache: ModelCache) -> Arms:
    arms = cache.views["m"].arms
    assert arms is not None
    return arms


def must_ask(cache: ModelCache) -> None:
    """As if the lease had run out: the next use may not be answered from what requests read."""
    cache._views = {"m": cache.views["m"].must_ask()}


def asks(cache: ModelCache) -> int:
    found: int = cache.get_detailed_stats()["models"]["m"]["asks"]
    return found


def counted(cache: ModelCache) -> tuple[int, int]:
    """Requests of either group: those that have begun, of the active generation and of the candidate."""
    trial = arms_of(cache).trial
    return trial.active.requests, trial.candidate.requests


def test_a_key_keeps_its_generation_when_the_worker_has_to_ask(trying: Callable[..., ModelCache]) -> None:
    """docs/canary.md: the same key, the same generation on every worker. Seen: exactly when Redis was slow, the candidate's keys were
    answered from the active generation, and neither group counted them."""
    cache = trying()
    asked = asks(cache)
    for key in KEYS:
        must_ask(cache)
        with cache.use("m", key=key) as held:
            candidate = 2 if is_tried(key) else None
            assert (held.generation, held.candidate) == (1, candidate), key
            assert float(held.payload(X)[0][0]) == (2.0 if candidate else 1.0)
    assert asks(cache) == asked + len(KEYS), "each has gone the slow way"
    tried = sum(is_tried(key) for key in KEYS)
    assert 0 < tried < len(KEYS)
    assert counted(cache) == (len(KEYS) - tried, tried)
    assert sum(arms_of(cache).trial.candidate.slow) == tried, "their blocks have ended"


def test_without_a_key_nobody_takes_part(trying: Callable[..., ModelCache]) -> None:
    cache = trying()
    must_ask(cache)
    view = cache.get("m")
    must_ask(cache)
    (other,) = cache.use_many("m")
    for one in (view, other):
        assert (one.generation, one.candidate, isinstance(one, Counted)) == (1, None, False)
    assert counted(cache) == (0, 0)


def test_a_stale_answer_is_of_the_active_generation(
    trying: Callable[..., ModelCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is compared while nobody knows whether the canary is still on."""
    cache = trying()
    monkeypatch.setattr(type(cache.runtime), "is_gone", property(lambda _: True))
    for key in KEYS:
        must_ask(cache)
        view = cache.get("m", key=key)
        assert (view.stale, view.generation, view.candidate, isinstance(view, Counted)) == (True, 1, None, False)
    assert counted(cache) == (0, 0)


def test_with_every_use_a_load_a_key_keeps_its_generation_too(trying: Callable[..., ModelCache]) -> None:
    """GENLOCK_USE_CACHE=false: what answers a key was loaded for it, from the manifest of the generation that it belongs to."""
    cache = trying(use_cache="false")
    for key in KEYS[:6]:
        first, second = cache.get("m", key=key), cache.get("m", key=key)
        assert first.payload is not second.payload
        assert (first.generation, first.candidate) == (1, 2 if is_tried(key) else None), key
        assert float(first.payload(X)[0][0]) == (2.0 if is_tried(key) else 1.0)
        assert first.version == (arms_of(cache).other if is_tried(key) else cache.views["m"]).version  # type: ignore[union-attr]
    tried = sum(is_tried(key) for key in KEYS[:6])
    assert 0 < tried < 6
    assert counted(cache) == (2 * (6 - tried), 2 * tried)


def test_a_canary_that_has_just_ended_is_answered_from_what_is_loaded(trying: Callable[..., ModelCache]) -> None:
    """Its manifest was let go between the choice and the load: no request fails for that."""
    cache = trying(use_cache="false")
    other = arms_of(cache).other
    assert cache._debug is not None and other is not None
    assert cache._debug.view(other, None) is other


def test_a_load_that_fails_is_no_request_of_a_group(
    trying: Callable[..., ModelCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that never ends counts as a failed one of its group: what cannot be answered at all is no fault of the canary."""
    cache = trying(use_cache="false")

    def fails(*_: Any) -> Any:
        raise OSError("made up")

    monkeypatch.setattr(cache._debug, "_current", fails)
    with pytest.raises(OSError, match="made up"):
        cache.get("m", key=KEYS[0])
    assert counted(cache) == (0, 0)
