"""coordinator/claims.py and remote.py: what a publisher relies on is never taken away, in whatever order both do what they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bucket import Bucket, Stage, every_order
from genlock.coordinator import remote as remote_module
from genlock.coordinator.claims import CLAIM_S, LOOK_S, MARK_S, RENEW_S, TAKING_S, Claims, claimed, marked
from genlock.coordinator.errors import ArtifactRefused, StoreUnreachable
from genlock.coordinator.remote import RemoteStore
from genlock.coordinator.staging import Draft
from genlock.coordinator.store import StoredObject

#: Seconds that an object is old when nothing has used it for long.
OLD_S = 10 * CLAIM_S


class Time:
    """A clock that only tests move."""

    def __init__(self) -> None:
        self.now = 500.0

    def __call__(self) -> float:
        return self.now


def gone(*_: object) -> None:
    """What a call does when the service is away."""
    raise StoreUnreachable("bucket://b", "connection reset")


def remote(bucket: Bucket, tmp_path: Path, stage: Stage, clock: Time) -> RemoteStore:
    store = RemoteStore("bucket://b", tmp_path, files=bucket)  # type: ignore[arg-type]
    store._claims = Claims(bucket, wait=stage.wait, now=clock)
    return store


def meet(tmp_path: Path) -> int:
    """A publisher and a collector meet over an old object, in every order; how many there were. Fails if it is gone at the end of one."""
    source = tmp_path / "model"
    source.write_bytes(b"weights")

    def play(stage: Stage) -> None:
        clock, bucket = Time(), Bucket()
        store = remote(bucket, tmp_path, stage, clock)
        store.stage(source, name="model")
        bucket.files = {key: (data, bucket.now - OLD_S) for key, (data, _) in bucket.files.items() if key[0] == "o"}
        bucket.step = stage.step
        proposed: set[str] = set()

        def publish() -> None:
            publishers = remote(bucket, tmp_path, stage, clock)
            artifact = publishers.stage(source, name="model")
            stage.step()
            proposed.add(artifact.digest)
            publishers.release()

        def collect() -> None:
            keep = frozenset(proposed)
            stage.step()
            store.collect(keep, older_than_s=CLAIM_S, ours=clock)

        stage.run(publish, collect)
        assert proposed == {found.digest for found in store.objects()}, "an object is lost"

    return every_order(play)


def test_no_order_of_a_publish_and_a_collect_loses_an_object(tmp_path: Path) -> None:
    """gc found an old object that nobody needed; a trainer published the same bytes, saw them in the store, and sent nothing::

    gc                                  publisher
    lists: the object is old
                                        it is there: nothing to send
    removes it
                                        proposes: workers find nothing
    """
    assert meet(tmp_path) > 1000


def test_without_the_wait_for_a_mark_an_object_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the test above can see a loss."""
    monkeypatch.setattr(Claims, "_await", lambda *_: None)
    with pytest.raises(AssertionError, match="is lost"):
        meet(tmp_path)


def test_without_claims_an_object_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of the other half."""
    monkeypatch.setattr("genlock.coordinator.claims.claimed", lambda *_: frozenset())
    with pytest.raises(AssertionError, match="is lost"):
        meet(tmp_path)


def test_with_claims_that_end_with_their_publish_an_object_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why a claim is left to its time: a collector asked what is needed before the proposal, and looked at the claims after it."""
    monkeypatch.setattr(Claims, "release", lambda claims: claims._files.remove(claims._key))
    with pytest.raises(AssertionError, match="is lost"):
        meet(tmp_path)


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def store(bucket: Bucket, tmp_path: Path, clock: Time) -> Iterator[RemoteStore]:
    made = RemoteStore("bucket://b", tmp_path / "state", files=bucket)  # type: ignore[arg-type]

    def wait(seconds: float) -> None:
        clock.now += seconds

    made._claims = Claims(bucket, wait=wait, now=clock)
    yield made
    made.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.write_bytes(b"weights")
    return path


def test_a_collector_that_died_stops_nobody_for_long(
    store: RemoteStore, bucket: Bucket, clock: Time, model: Path
) -> None:
    """Its mark stays. It takes nothing away later than TAKING_S after it began, so a publisher waits for longer than that, and no more."""
    bucket.write("marks/dead", b"{}")
    began = clock.now
    digest = store.stage(model, name="model").digest
    assert MARK_S <= clock.now - began <= MARK_S + 2 * LOOK_S and TAKING_S < MARK_S / 2
    assert store.path(digest).removeprefix("bucket://b/") in bucket.files


def test_a_mark_that_was_waited_for_once_is_not_waited_for_again(
    store: RemoteStore, bucket: Bucket, clock: Time, tmp_path: Path
) -> None:
    """A model of four files waited for two minutes four times. The clock of this store does not move, so the mark never gets old there."""
    bucket.write("marks/dead", b"{}")
    began = clock.now
    for number in range(4):
        path = tmp_path / str(number)
        path.write_bytes(b"shard %d" % number)
        store.stage(path, name="shard")
    assert clock.now - began <= MARK_S + 2 * LOOK_S


def test_a_mark_that_was_left_long_ago_stops_nobody(
    store: RemoteStore, bucket: Bucket, clock: Time, model: Path
) -> None:
    """A gc was killed a week ago and nobody ran another: every file of every publish waited for two minutes."""
    bucket.files["marks/dead"] = (b"{}", bucket.now - MARK_S - 1)
    began = clock.now
    store.stage(model, name="model")
    assert clock.now == began


def test_claims_that_count_no_more_are_not_read(
    store: RemoteStore, bucket: Bucket, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every trainer leaves a claim. After two thousand of them reading took longer than a turn, and each gc ended in an error; the claims
    were removed only by one that did not."""
    for number in range(2000):
        bucket.files[f"claims/{number}"] = (b'{"digests":{}}', bucket.now - CLAIM_S)
    bucket.files["objects/aa/" + "0" * 62] = (b"x", bucket.now - OLD_S)
    read = bucket.read

    def slowly(*what: Any) -> bytes:
        clock.now += 0.02
        return read(*what)

    monkeypatch.setattr(bucket, "read", slowly)
    assert len(store.collect((), older_than_s=CLAIM_S, ours=clock)) == 1
    bucket.now += 1
    assert store.collect((), older_than_s=CLAIM_S, ours=clock) == [] and not bucket.list("claims")


def test_a_collector_that_was_stopped_goes_on_under_a_new_mark(
    store: RemoteStore, bucket: Bucket, clock: Time, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector sleeps after it has read the claims; a publisher comes, waits for its mark until that counts no more, and relies on the
    object. The collector wakes up, and must look at the claims again."""
    digest = store.stage(model, name="model").digest
    bucket.files = {key: (data, bucket.now - OLD_S) for key, (data, _) in bucket.files.items()}
    before = clock.now
    slept: list[str] = []

    def sleeping(files: Bucket, now: float) -> frozenset[str]:
        found = claimed(files, now)
        if not slept:
            slept.append(store.stage(model, name="model").digest)  # which waits for MARK_S
        return found

    monkeypatch.setattr("genlock.coordinator.claims.claimed", sleeping)
    with pytest.raises(StoreUnreachable, match="nothing was taken away"):
        store.collect((), older_than_s=CLAIM_S, ours=clock)
    assert slept == [digest] and clock.now - before >= MARK_S
    assert store.collect((), older_than_s=CLAIM_S, ours=clock) == []
    assert [found.digest for found in store.objects()] == [digest]


def test_many_objects_take_many_turns(
    store: RemoteStore, bucket: Bucket, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that answers slowly: no turn is longer than a mark is good for."""
    for number in range(9):
        bucket.files[f"objects/{number:02x}/{'0' * 62}"] = (b"x", bucket.now - OLD_S)
    turns: list[float] = []
    remove = bucket.remove

    def slowly(key: str) -> None:
        clock.now += TAKING_S / 3
        if key.startswith("marks/"):
            turns.append(clock.now)
        remove(key)

    monkeypatch.setattr(bucket, "remove", slowly)
    removed = store.collect((), older_than_s=CLAIM_S, ours=clock)
    assert len(removed) == 9 and len(turns) == 3
    assert all(isinstance(one, StoredObject) for one in removed) and not bucket.list("marks")


def test_a_collect_ends_before_a_claim_does(
    store: RemoteStore, bucket: Bucket, clock: Time, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is needed was asked at its beginning. With 250 objects and 20 seconds for each removal it took more than an hour::

    gc                                  publisher
    asks what is needed
    lists: the object is old
                                        claims it; it is there: nothing to send
                                        proposes, and is done
    an hour later: no claim counts
    removes it
    """
    digests = [f"{number:02x}" + "a" * 62 for number in range(250)]
    for digest in digests:
        bucket.files[f"objects/{digest[:2]}/{digest[2:]}"] = (b"x", bucket.now - OLD_S)

    def passes(seconds: float) -> None:
        clock.now += seconds
        bucket.now += seconds

    claims, remove, claimed_at = Claims(bucket, wait=passes, now=clock), bucket.remove, list[float]()

    def slowly(key: str) -> None:
        remove(key)
        if key.startswith("objects/"):
            passes(20)
            if not claimed_at:
                claimed_at.append(clock.now)
                claims.take(
                    digests[0]
                )  # the last one that is come to; waits for this turn's mark until that counts no more
                claims.release()

    bucket.remove = slowly  # type: ignore[method-assign]
    began = clock.now
    removed = store.collect((), older_than_s=CLAIM_S, ours=clock)
    assert 80 < len(removed) < 100 and clock.now - began < CLAIM_S / 2 + 2 * TAKING_S
    assert f"has not come to {250 - len(removed)} files, the next gc goes on" in caplog.text
    caplog.clear()
    removed += store.collect({digests[0]}, older_than_s=CLAIM_S, ours=clock)
    removed += store.collect({digests[0]}, older_than_s=CLAIM_S, ours=clock)
    assert [one.digest for one in store.objects()] == [digests[0]] and len(removed) == 249


def test_a_dry_run_tells_what_a_collect_does(store: RemoteStore, bucket: Bucket, model: Path) -> None:
    """It went by the clock of its host and asked for no claim: what a trainer was about to use was said to go."""
    claimed_one = store.stage(model, name="m").digest
    old, kept = "aa" + "0" * 62, "bb" + "0" * 62
    for digest in (old, kept):
        bucket.files[f"objects/{digest[:2]}/{digest[2:]}"] = (b"x", bucket.now - OLD_S)
    bucket.files[f"objects/{claimed_one[:2]}/{claimed_one[2:]}"] = (b"weights", bucket.now - OLD_S)
    bucket.files["damaged/x.1"] = (b"xx", bucket.now - OLD_S)
    bucket.files["marks/dead"] = (b"{}", bucket.now - OLD_S)
    before = dict(bucket.files)
    told = store.collect({kept}, older_than_s=CLAIM_S, dry_run=True)
    assert bucket.files == before
    assert store.collect({kept}, older_than_s=CLAIM_S) == told
    assert sorted(one.digest for one in told) == ["", old]
    assert sorted(one.digest for one in store.objects()) == sorted([kept, claimed_one])


def test_what_is_kept_or_young_or_claimed_stays_and_the_rest_goes(
    store: RemoteStore, bucket: Bucket, model: Path, tmp_path: Path
) -> None:
    old, kept, young = ("aa" + "0" * 62), ("bb" + "0" * 62), ("cc" + "0" * 62)
    for digest, age in ((old, OLD_S), (kept, OLD_S), (young, 1.0)):
        bucket.files[f"objects/{digest[:2]}/{digest[2:]}"] = (b"x", bucket.now - age)
    bucket.files["damaged/x.1"] = (b"xx", bucket.now - OLD_S)
    bucket.files["temp/y"] = (b"yyy", bucket.now - 1.0)
    bucket.files["objects/a strange/name"] = (b"", bucket.now - OLD_S)
    bucket.files["marks/dead"] = (b"{}", bucket.now - OLD_S)
    bucket.files["claims/dead"] = (b'{"digests":{"' + old.encode() + b'":0.0}}', bucket.now - OLD_S)
    removed = store.collect({kept}, older_than_s=CLAIM_S)
    assert sorted((one.digest, one.size) for one in removed) == [("", 2), (old, 1)]
    assert {found.digest for found in store.objects()} == {kept, young}
    assert {key.partition("/")[0] for key in bucket.files} == {"objects", "temp"}


def test_a_claim_counts_for_its_time_on_the_clock_of_the_store(bucket: Bucket, clock: Time) -> None:
    claims = Claims(bucket, wait=lambda _: None, now=clock)
    claims.take("a")
    claims.release()
    clock.now += CLAIM_S - 10
    bucket.now += CLAIM_S - 10
    claims.take("b")
    assert claimed(bucket, bucket.now) == {"a", "b"}
    assert claimed(bucket, bucket.now + 11) == {"b"}
    clock.now += 11
    claims.take("c")
    assert len(bucket.list("claims")) == 1 and b'"a"' not in bucket.read(bucket.list("claims")[0].key)


def test_a_long_upload_says_again_what_it_relies_on(bucket: Bucket, clock: Time) -> None:
    """100 GB over a slow line: an hour after its first file was sent, gc took that away."""
    claims = Claims(bucket, wait=lambda _: None, now=clock)
    claims.take("a")
    for _ in range(12):
        clock.now += RENEW_S / 2
        bucket.now += RENEW_S / 2
        claims.renew()
    assert claimed(bucket, bucket.now) == {"a"}


def test_a_publish_of_many_hours_keeps_its_first_file(
    store: RemoteStore, bucket: Bucket, clock: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four shards of 25 minutes each over a slow line, and a fifth whose digest took two hours: before the proposal gc took away the first,
    and then every worker failed. What is said again ends with the publish, or nothing that a long-lived trainer sent would ever go."""

    def passes(seconds: float) -> None:
        clock.now += seconds
        bucket.now += seconds

    upload, hash_file, collected = bucket.upload, remote_module.hash_file, list[StoredObject]()

    def slowly(*what: Any, **how: Any) -> None:
        passes(1500.0)
        upload(*what, **how)

    def hash_slowly(source: int, size: int, progress: Callable[[int, int], None], **_: object) -> str:
        for done in range(24 if size == len(b"the fifth") else 0):
            passes(300.0)
            progress(done, size)
            collected.extend(store.collect((), older_than_s=CLAIM_S, ours=clock))
        return hash_file(source, size)

    monkeypatch.setattr(bucket, "upload", slowly)
    monkeypatch.setattr(remote_module, "hash_file", hash_slowly)
    draft = Draft(store)
    for number, content in enumerate((b"one", b"two", b"three", b"four", b"the fifth")):
        (tmp_path / str(number)).write_bytes(content)
        draft.copy(f"shard{number}", tmp_path / str(number))
    manifest = draft.stage("m", author="", progress=None)
    collected += store.collect((), older_than_s=CLAIM_S, ours=clock)
    assert len(manifest.digests) == 5 and collected == []

    draft.discard()  # the publish has ended
    passes(CLAIM_S + 1)
    store.stage(tmp_path / "0", name="model")
    removed = {one.digest for one in store.collect((), older_than_s=CLAIM_S, ours=clock)}
    assert removed == manifest.digests - {manifest.artifact("shard0").digest}


def test_a_claim_that_cannot_be_said_again_for_some_minutes_harms_nothing(
    bucket: Bucket, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts for long enough to be said later. Before it counts no more, the publish ends with an error."""
    claims = Claims(bucket, wait=lambda _: None, now=clock)
    claims.take("a")
    monkeypatch.setattr(bucket, "write", gone)
    clock.now += RENEW_S
    claims.renew()
    clock.now += RENEW_S
    with pytest.raises(StoreUnreachable):
        claims.renew()


def test_a_claim_that_cannot_be_read_stops_the_collector(store: RemoteStore, bucket: Bucket) -> None:
    """A newer genlock has written it: what it relies on is not known here."""
    bucket.write("claims/new", b'{"form":2}')
    with pytest.raises(ArtifactRefused, match="nothing is taken away"):
        store.collect((), older_than_s=0)
    assert not bucket.list("marks")


def test_a_mark_ends_with_its_turn(bucket: Bucket) -> None:
    with pytest.raises(KeyError), marked(bucket):
        assert bucket.list("marks")
        raise KeyError
    assert not bucket.list("marks")


@pytest.mark.parametrize("call", ["write", "list", "look"])
def test_a_small_call_that_does_not_come_through_is_tried_again(
    store: RemoteStore, bucket: Bucket, model: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """An upload was tried four times, and the claim before it once: a service that was away for a second ended a publish of an hour."""
    monkeypatch.setattr(remote_module, "PAUSES_S", (0.0, 0.0))
    tries: list[object] = []
    works = getattr(bucket, call)

    def twice(*what: object) -> object:
        tries.append(what)
        return gone() if len(tries) < 3 else works(*what)

    monkeypatch.setattr(bucket, call, twice)
    assert store.verify(store.stage(model, name="m").digest, 7) is None and len(tries) >= 3
    monkeypatch.setattr(bucket, call, gone)
    with pytest.raises(StoreUnreachable):
        store.stage(model, name="m")


def test_an_upload_that_does_not_come_through_is_tried_again(
    store: RemoteStore, bucket: Bucket, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []
    monkeypatch.setattr(remote_module, "PAUSES_S", (0.0, 0.0))
    upload = bucket.upload

    def twice(*what: object, **how: object) -> None:
        tries.append(0)
        if len(tries) < 3:
            raise StoreUnreachable("bucket://b", "connection reset")
        upload(*what, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(bucket, "upload", twice)
    assert store.verify(store.stage(model, name="m").digest, 7) is None
    assert len(tries) == 3
    model.write_bytes(b"others")
    monkeypatch.setattr(bucket, "upload", lambda *_, **__: (_ for _ in ()).throw(StoreUnreachable("b", "reset")))
    with pytest.raises(StoreUnreachable):
        store.stage(model, name="m")
