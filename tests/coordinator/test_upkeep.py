"""verify and gc: what is damaged is found, and what anybody needs stays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import redis
from genlock.coordinator import upkeep
from genlock.coordinator.errors import (
    ArtifactMissing,
    ArtifactRefused,
    BadInput,
    FleetClosed,
    ManifestInvalid,
    StoreUnreachable,
    StoreUnusable,
)
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.flip import Progress
from genlock.coordinator.identity import identity, mark_had_member
from genlock.coordinator.link import Link
from genlock.coordinator.manifest import Artifact, Manifest
from genlock.coordinator.records import Record
from genlock.coordinator.reply import Epoch
from genlock.coordinator.store import Store
from genlock.coordinator.upkeep import needed_by
from genlock.coordinator.wait import Watch


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., str]:
    """put(fleet, content, **how): publishes a file; the digest of its object."""

    def make(fleet: Fleet, content: str, model: str = "digits", **how: Any) -> str:
        path = tmp_path / "file"
        path.write_text(content)
        fleet.publish(model, path, **how)
        return fleet.store.stage(path, name="x").digest

    return make


def orphan(fleet: Fleet, tmp_path: Path, content: str = "nobody needs this") -> str:
    path = tmp_path / "orphan"
    path.write_text(content)
    return fleet.store.stage(path, name="x").digest


def damage(fleet: Fleet, digest: str) -> None:
    """Flips a bit, as a bad disk does."""
    path = fleet.store.path(digest)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def digests(store: Store) -> set[str]:
    return {found.digest for found in store.objects()}


# --- verify ----------------------------------------------------------------------------------------------------------


def test_a_whole_store_has_no_damage(fleet: Fleet, put: Callable[..., str]) -> None:
    told: list[Progress] = []
    put(fleet, "a")
    put(fleet, "bb")
    assert fleet.verify(progress=told.append) == []
    assert [(p.stage, p.done, p.total) for p in told][-1] == ("verifying", 3, 3)


def test_a_flipped_bit_is_found_and_only_reported(fleet: Fleet, put: Callable[..., str]) -> None:
    digest = put(fleet, "content")
    damage(fleet, digest)
    [found] = fleet.verify()
    assert (found.digest, found.models, found.aside) == (digest, ("digits",), None)
    assert found.path == str(fleet.store.path(digest)) and digest in found.why
    assert digests(fleet.store) == {digest}


def test_what_is_damaged_is_moved_aside_if_that_is_wanted(fleet: Fleet, put: Callable[..., str]) -> None:
    """The next publish of the same checkpoint then writes it again, instead of trusting what is there (R13)."""
    digest = put(fleet, "content")
    damage(fleet, digest)
    [found] = fleet.verify(set_aside=True)
    assert found.aside is not None and Path(found.aside).exists()
    [missing] = fleet.verify()
    assert (missing.digest, missing.aside) == (digest, None) and "missing" in missing.why
    put(fleet, "content")
    assert fleet.verify() == []


def test_a_needed_object_that_is_missing_is_damage(fleet: Fleet, put: Callable[..., str]) -> None:
    digest = put(fleet, "content")
    fleet.store.path(digest).unlink()
    [found] = fleet.verify()
    assert (found.digest, found.models) == (digest, ("digits",)) and "missing" in found.why


def test_a_link_in_the_place_of_an_object_is_damage(fleet: Fleet, put: Callable[..., str], tmp_path: Path) -> None:
    digest = put(fleet, "content")
    path = fleet.store.path(digest)
    path.unlink()
    path.symlink_to(tmp_path / "file")
    [found] = fleet.verify(set_aside=True)
    assert found.aside is None and "link" in found.why


def test_an_object_that_gc_takes_meanwhile_is_no_damage(
    fleet: Fleet, put: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(fleet, "content")
    lost = orphan(fleet, tmp_path)
    verify = Store.verify

    def late(self: Store, digest: str, size: int, **more: Any) -> None:
        if digest == lost:
            raise ArtifactMissing(digest)
        verify(self, digest, size, **more)

    monkeypatch.setattr(Store, "verify", late)
    assert fleet.verify() == []


@pytest.mark.parametrize("error", [StoreUnreachable("s3://b", "connection reset"), StoreUnusable("s3://b", "expired")])
def test_a_store_that_does_not_answer_is_no_damage(
    fleet: Fleet, put: Callable[..., str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A service was restarted in the middle of a verify: every artifact after that was said to be damaged, to be moved away."""
    put(fleet, "content")
    asked: list[str] = []

    def silent(*_: object) -> None:
        raise error

    monkeypatch.setattr(Store, "verify", silent)
    monkeypatch.setattr(Store, "set_aside", lambda _, digest: asked.append(digest))
    with pytest.raises(type(error)):
        fleet.verify(set_aside=True)
    assert asked == []


# --- gc --------------------------------------------------------------------------------------------------------------


def test_gc_keeps_all_that_a_stored_generation_needs(
    fleet: Fleet, member: Any, put: Callable[..., str], tmp_path: Path
) -> None:
    """Active, a way back, rejected, a candidate, what waits as next, and golden outputs: taking one away would break a flip."""
    kept = {put(fleet, "way back"), put(fleet, "active", golden=([[1.0]], [[2.0]]))}
    one = member()
    kept |= {put(fleet, "candidate", wait=False), put(fleet, "next", wait=False)}
    assert one.candidate() == 3
    lost = orphan(fleet, tmp_path)
    before = digests(fleet.store)
    assert len(before) == 6 and kept < before
    assert {found.digest for found in fleet.gc(older_than_s=-60, dry_run=True)} == {lost}
    assert digests(fleet.store) == before
    assert {found.digest for found in fleet.gc(older_than_s=-60)} == {lost}
    assert digests(fleet.store) == before - {lost}


def test_gc_can_keep_fewer_generations(fleet: Fleet, put: Callable[..., str], tmp_path: Path) -> None:
    """Training publishes every epoch: 64 generations of 10 GB do not fit anywhere. What is used, and the way back, stay."""
    one, two, three = (put(fleet, content) for content in ("1", "2", "3"))
    fleet.rollback("digits", to=1)
    fleet.unpin("digits")
    four = put(fleet, "4")
    with pytest.raises(BadInput, match="2 at least"):
        fleet.gc(keep=1)
    assert fleet.gc(older_than_s=-60) == fleet.gc(older_than_s=-60, keep=5) == []
    assert {found.digest for found in fleet.gc(older_than_s=-60, keep=3, dry_run=True)} == {two}
    assert {found.digest for found in fleet.gc(older_than_s=-60, keep=2)} == {two, three}
    assert digests(fleet.store) == {one, four}, "the content of generation 1 is that of the rollback, 4"
    assert fleet.verify() == [], "that older ones are gone is no damage"


def test_gc_that_keeps_few_keeps_what_is_in_work(fleet: Fleet, member: Any, put: Callable[..., str]) -> None:
    first, second, third = (put(fleet, content) for content in ("1", "2", "3"))
    one = member()
    kept = {second, third, put(fleet, "candidate", wait=False), put(fleet, "next", wait=False)}
    assert one.candidate() == 4
    assert {found.digest for found in fleet.gc(older_than_s=-60, keep=2)} == {first}
    assert digests(fleet.store) == kept


def test_what_begins_after_gc_has_looked_is_kept() -> None:
    """A rollback brings back an old generation under a new number, between two reads of gc."""
    registry = Mock()
    manifests = {
        number: Manifest.of("m", [Artifact("model", 1, f"{number}" * 64)], created_at=1.0) for number in range(1, 7)
    }
    registry.manifests.return_value = [("m", number, found.encode()) for number, found in manifests.items()]
    committed = {str(number): {} for number in range(1, 5)}
    registry.snapshot.return_value.models = {"m": Record(next=6, committed=committed)}
    assert sorted(needed_by(registry, 2)) == ["3" * 64, "4" * 64, "6" * 64]
    registry.snapshot.return_value.models = {}
    assert len(needed_by(registry, 2)) == 6, "a model that nobody knew"


def test_gc_spares_what_was_staged_a_moment_ago(fleet: Fleet, put: Callable[..., str], tmp_path: Path) -> None:
    """Another trainer has staged it and not proposed it yet."""
    put(fleet, "active")
    orphan(fleet, tmp_path)
    assert fleet.gc() == []


def test_a_dry_run_tells_what_gc_does(fleet: Fleet, put: Callable[..., str], tmp_path: Path) -> None:
    """It said that 1 file would go; gc removed a trainer's draft, too."""
    put(fleet, "active")
    orphan(fleet, tmp_path)
    fleet.store.draft().joinpath("f").write_text("left behind")
    (fleet.store.root / "damaged").mkdir()
    (fleet.store.root / "damaged" / "x").write_text("looked at")
    told = fleet.gc(older_than_s=-60, dry_run=True)
    assert len(told) == 3 and all(Path(found.path).exists() for found in told)
    assert fleet.gc(older_than_s=-60) == told
    assert not any(Path(found.path).exists() for found in told)


def test_what_is_needed_is_asked_after_the_last_wait(
    fleet: Fleet, new_fleet: Any, put: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two fleets said what it needed, the second one took a minute to open, and the first one published meanwhile."""
    other = new_fleet(name="staging", lease=2.0)
    kept = {put(fleet, "mine"), put(other, "others")}
    wait = upkeep.wait_until_open

    def late(link: Link, *, lease_s: float) -> Epoch:
        epoch = wait(link, lease_s=lease_s)
        if link.fleet == "staging":
            kept.add(put(fleet, "published meanwhile"))
        return epoch

    monkeypatch.setattr(upkeep, "wait_until_open", late)
    assert fleet.gc(older_than_s=-60) == []
    assert digests(fleet.store) == kept and len(kept) == 3


@pytest.mark.parametrize("lost", ["the newest", "all"])
def test_a_fleet_that_loses_data_while_another_one_is_waited_for_is_waited_for_again(
    new_fleet: Any, put: Callable[..., str], redis_url: str, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """The first of two fleets was open · the second one took a minute · meanwhile Redis came back from its last snapshot, and the first one
    was closed · it said what it needed before its workers had healed it: what all of them answered from was removed."""
    fleet, other = new_fleet(lease=0.3), new_fleet(name="staging", lease=0.3)
    kept, waits, wait = {put(fleet, "1"), put(other, "others")}, list[str](), upkeep.wait_until_open
    with redis.Redis.from_url(redis_url) as client:

        def saved() -> dict[bytes, bytes]:
            return {key: client.dump(key) for key in client.keys("genlock:{t}:*")}

        def restore(found: dict[bytes, bytes]) -> None:
            client.delete(*client.keys("genlock:{t}:*"))
            for key, data in found.items():
                client.restore(key, 0, data)

        old = saved() if lost == "the newest" else {}
        kept.add(put(fleet, "2"))
        new = saved()

        def late(link: Link, *, lease_s: float) -> Epoch:
            waits.append(link.fleet)
            if waits == ["t", "staging", "t"]:
                restore(new)  # its workers have healed it
            epoch = wait(link, lease_s=lease_s)
            if waits == ["t", "staging"]:
                restore(old)
                client.hset("genlock:{t}:fleet", "open", "0")
            return epoch

        monkeypatch.setattr(upkeep, "wait_until_open", late)
        assert fleet.gc(older_than_s=-60) == []
    assert digests(fleet.store) == kept and waits == ["t", "staging"] * 2


def test_gc_of_a_fleet_that_loses_data_at_each_look_ends(
    fleet: Fleet, put: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is open each time, in another epoch: what was read may be of one that had not been healed."""
    kept, waits, wait = {put(fleet, "active"), orphan(fleet, tmp_path)}, list[str](), upkeep.wait_until_open

    def before(link: Link, *, lease_s: float) -> Epoch:
        waits.append(link.fleet)
        return Epoch(wait(link, lease_s=lease_s).number, "lost since")

    monkeypatch.setattr(upkeep, "wait_until_open", before)
    with pytest.raises(FleetClosed, match="'t' is closed"):
        fleet.gc(older_than_s=-60)
    assert digests(fleet.store) == kept and len(waits) == upkeep.MOST_ROUNDS


def test_gc_touches_no_object_when_redis_knows_of_no_model(fleet: Fleet, tmp_path: Path) -> None:
    """Redis was replaced by an empty one: the store is all that is left of the models."""
    lost = orphan(fleet, tmp_path)
    fleet.store.draft().joinpath("f").write_text("left behind")
    assert [found.digest for found in fleet.gc(older_than_s=-60)] == [""]
    assert digests(fleet.store) == {lost}


def test_gc_waits_until_every_fleet_is_open(
    fleet: Fleet, new_fleet: Any, put: Callable[..., str], tmp_path: Path, redis_url: str
) -> None:
    """Redis has restarted, and a fleet of the store has no worker any more: nobody else would open it, and nothing was removed for ever."""
    other = new_fleet(name="staging", lease=0.3)
    mine, others = put(fleet, "mine"), put(other, "others")
    lost = orphan(fleet, tmp_path)
    mark_had_member(other.store, other.name)
    with redis.Redis.from_url(redis_url) as client:
        client.delete("genlock:{staging}:waiting")
    assert {found.digest for found in fleet.gc(older_than_s=-60)} == {lost}
    assert digests(fleet.store) == {mine, others} and other.status().open


def test_gc_of_a_fleet_that_stays_closed_ends(
    fleet: Fleet, put: Callable[..., str], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis loses its data again and again: what is needed is not known (R7)."""
    put(fleet, "active")
    mark_had_member(fleet.store, fleet.name)
    with redis.Redis.from_url(redis_url) as client:
        client.delete("genlock:{t}:waiting")
    monkeypatch.setattr(Watch, "duties", lambda *_: [])
    monkeypatch.setattr("genlock.coordinator.link.SLACK_S", -2.0)
    with pytest.raises(FleetClosed):
        fleet.gc(older_than_s=-60)


def test_gc_keeps_what_another_fleet_of_the_store_needs(
    fleet: Fleet, new_fleet: Any, put: Callable[..., str], tmp_path: Path
) -> None:
    mine, others = put(fleet, "mine"), put(new_fleet(name="staging", lease=2.0), "others")
    lost = orphan(fleet, tmp_path)
    assert {found.digest for found in fleet.gc(older_than_s=-60)} == {lost}
    assert digests(fleet.store) == {mine, others}


def test_gc_refuses_while_nobody_knows_what_another_fleet_needs(fleet: Fleet, put: Callable[..., str]) -> None:
    """The other fleet's Redis is another one: nothing here says which objects it serves from."""
    put(fleet, "mine")
    identity(fleet.store, "elsewhere", lease_s=0.3)
    with pytest.raises(ArtifactRefused, match="'elsewhere' keeps its artifacts there too"):
        fleet.gc()


def test_gc_refuses_when_it_cannot_read_a_manifest(fleet: Fleet, put: Callable[..., str], redis_url: str) -> None:
    """A newer genlock has written it: what it needs is not known here."""
    put(fleet, "mine")
    with redis.Redis.from_url(redis_url) as client:
        client.hset("genlock:{t}:generations", "digits\0009\0m", '{"form":"of tomorrow"}')
    with pytest.raises(ManifestInvalid):
        fleet.gc()
