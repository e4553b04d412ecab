"""coordinator/remote.py and remotefiles.py against a server that speaks S3: whole or not there, made once, and errors in words."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from genlock.coordinator import remote as remote_module
from genlock.coordinator import remotefiles
from genlock.coordinator.disk import CALL_BYTES
from genlock.coordinator.doctor import examine
from genlock.coordinator.doctor.facts import RemoteFacts
from genlock.coordinator.doctor.remote import look_at_remote
from genlock.coordinator.doctor.remote_verdicts import judge_remote
from genlock.coordinator.endpoint import Endpoint
from genlock.coordinator.errors import (
    ArtifactDamaged,
    ArtifactMissing,
    ArtifactRefused,
    IdentityInvalid,
    SettingsInvalid,
    StoreUnreachable,
    StoreUnusable,
)
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.identity import identity, known, mark_had_member
from genlock.coordinator.remote import RemoteStore
from genlock.coordinator.remotefiles import RemoteFiles
from genlock.coordinator.settings import Settings
from genlock.coordinator.store import Store, open_store

#: Two parts of an upload and a bit.
SIZE = 11 * 2**20


@pytest.fixture
def store(s3: str, connected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteStore]:
    monkeypatch.setattr(remotefiles, "PART_BYTES", 5 * 2**20)
    monkeypatch.setattr(remote_module, "PAUSES_S", (0.0,))
    made = connected(RemoteStore(s3, tmp_path / "state"))
    yield made
    made.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(os.urandom(2**20) * 11)
    return path


def test_settings_choose_the_store(tmp_path: Path) -> None:
    assert isinstance(open_store(Settings(store=tmp_path)), Store)
    assert isinstance(open_store(Settings.from_env({"GENLOCK_STORE": f"file://{tmp_path}"})), Store)
    found = open_store(Settings.from_env({"GENLOCK_STORE": "s3://bucket/models/"}))
    assert isinstance(found, RemoteStore) and found.root == "s3://bucket/models"


def test_a_staged_file_is_uploaded_once_whole_and_found_again(store: RemoteStore, model: Path) -> None:
    told: list[tuple[int, int]] = []
    artifact = store.stage(model, name="net", progress=lambda *at: told.append(at))
    assert told[-1] == (SIZE, SIZE) and len(told) > 8
    assert told == sorted(told) and told.count((SIZE // 2, SIZE)) == 1, (
        "its digest is the first half, sending it the second"
    )
    [found] = store.objects()
    assert (found.digest, found.size, found.path) == (artifact.digest, SIZE, store.path(artifact.digest))
    store.verify(artifact.digest, SIZE)
    assert store.read_at(artifact.digest, SIZE, SIZE - 3, 100) == model.read_bytes()[-3:]
    before = store.files.look(f"objects/{artifact.digest[:2]}/{artifact.digest[2:]}")
    assert store.stage(model, name="net", progress=lambda *at: told.append(at)) == artifact
    assert told[-1] == (SIZE, SIZE)
    assert store.files.look(f"objects/{artifact.digest[:2]}/{artifact.digest[2:]}") == before
    assert store.files.list("temp") == []


def test_a_file_that_changes_while_it_is_sent_never_has_a_name(
    store: RemoteStore, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trainer saved the next epoch over it. What had been sent of it is taken back, parts too: they would be paid for."""
    upload = RemoteFiles.upload

    def late(self: RemoteFiles, *what: Any, **how: Any) -> None:
        with model.open("r+b") as file:
            file.write(b"the next epoch")
        upload(self, *what, **how)

    monkeypatch.setattr(RemoteFiles, "upload", late)
    with pytest.raises(ArtifactRefused, match="changed while it was read"):
        store.stage(model, name="net")
    assert list(store.objects()) == []
    bucket = store.root.split("/")[2]
    assert "Uploads" not in store.files._fs.call_s3("list_multipart_uploads", Bucket=bucket)


class Cancelled(Exception):
    """Of somebody's progress bar."""


Cancelled.__module__ = "bars"


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), Cancelled("by its user")])
def test_what_a_callback_raises_while_a_file_is_sent_is_its_own(
    store: RemoteStore, model: Path, error: Exception
) -> None:
    """It was taken for the service's: said to be a store that does not answer, after the file had been sent four times."""
    told: list[int] = []

    def gone(done: int, size: int) -> None:
        told.append(done)
        if done > 0.8 * size:  # parts are there already
            raise error

    with pytest.raises(type(error)) as caught:
        store.stage(model, name="net", progress=gone)
    assert caught.value is error and len([done for done in told if done > 0.8 * SIZE]) == 1
    assert_nothing_is_left(store)


def test_a_source_that_breaks_while_it_is_sent_is_said(
    store: RemoteStore, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS took the trainer's file away: the store was said not to answer."""
    readv, reads = os.readv, [0]
    passes = 2 * (SIZE // CALL_BYTES)

    def breaks(descriptor: int, buffers: Any) -> int:
        reads[0] += 1
        if reads[0] > 0.8 * passes:
            raise OSError(errno.ESTALE, "Stale file handle")
        return readv(descriptor, buffers)

    monkeypatch.setattr(os, "readv", breaks)
    with pytest.raises(ArtifactRefused, match="Stale file handle") as caught:
        store.stage(model, name="net")
    assert caught.value.path == str(model)
    monkeypatch.undo()
    assert_nothing_is_left(store)


def assert_nothing_is_left(store: RemoteStore) -> None:
    """Parts of an upload would be paid for."""
    assert list(store.objects()) == [] and store.files.list("temp") == []
    bucket = store.root.split("/")[2]
    assert "Uploads" not in store.files._fs.call_s3("list_multipart_uploads", Bucket=bucket)


def test_a_draft_is_sent_and_gone(store: RemoteStore, tmp_path: Path) -> None:
    folder = store.draft()
    path = folder / "net"
    path.write_bytes(b"weights")
    artifact = store.adopt(path, name="net")
    assert not path.exists() and [one.digest for one in store.objects()] == [artifact.digest]
    with pytest.raises(ArtifactRefused, match="draft"):
        store.adopt(tmp_path / "other", name="net")
    with pytest.raises(ArtifactRefused, match="draft"):
        store.discard(tmp_path)
    store.discard(folder)
    assert not folder.exists() and folder.parent == tmp_path / "state" / "drafts"


def test_what_cannot_be_a_checkpoint_is_refused_before_it_is_sent(
    new_fleet: Callable[..., Fleet], s3: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"not at all")
    fleet = new_fleet(store=s3)
    with pytest.raises(ArtifactRefused, match="does not begin like one"):
        fleet.publish("m", path)
    assert list(fleet.store.objects()) == []


def test_a_damaged_object_is_found_set_aside_and_sent_again(store: RemoteStore, tmp_path: Path) -> None:
    """R13, with a store that flips bits: its name says what it has to be."""
    path = tmp_path / "m"
    path.write_bytes(b"weights")
    digest = store.stage(path, name="m").digest
    key = f"objects/{digest[:2]}/{digest[2:]}"
    store.files.write(key, b"Weights")
    with pytest.raises(ArtifactDamaged):
        store.verify(digest, 7)
    aside = store.set_aside(digest)
    assert aside and "/damaged/" in aside and store.set_aside(digest) is None
    with pytest.raises(ArtifactMissing):
        store.verify(digest, 7)
    with pytest.raises(ArtifactMissing):
        store.read_at(digest, 7, 0, 7)
    store.stage(path, name="m")
    assert store.set_aside(digest) is None, "a whole object stays"
    store.files.write(key, b"too short"[:3])
    with pytest.raises(ArtifactDamaged, match="3 bytes"):
        store.verify(digest, 7)
    store.stage(path, name="m")
    assert store.verify(digest, 7) is None
    assert sorted(one.digest for one in store.collect((), older_than_s=-60)) == ["", ""], "claimed: the object stays"


def test_of_many_who_make_a_fleet_one_does(s3: str, connected: Any, tmp_path: Path) -> None:
    """Eight workers of three hosts start at once on an empty bucket: one id, or half of them would be refused for ever."""

    def make(number: int) -> tuple[str, float]:
        store = connected(RemoteStore(s3, tmp_path))
        found = identity(store, "prod", lease_s=1.0 + number)
        store.close()
        return found.fleet_id, found.lease_s

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(make, range(8)))) == 1


def test_the_identity_is_made_once_and_kept_when_the_store_is_gone(
    store: RemoteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker lost Redis and the store; when Redis came back it could not join, because the bucket did not answer."""
    assert known(store, "prod") is None and store.fleets() == []
    made = identity(store, "prod", lease_s=1.5)
    assert (made.lease_s, made.had_member) == (1.5, False)
    assert known(store, "prod") == made and store.fleets() == ["prod"]
    mark_had_member(store, "prod")
    mark_had_member(store, "prod")
    assert identity(store, "prod", lease_s=None).had_member, (
        "another process may have had it: it is read again until then"
    )
    store.files.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert identity(store, "prod", lease_s=None).fleet_id == made.fleet_id
    with pytest.raises(StoreUnreachable):
        identity(store, "other", lease_s=None)


def test_a_worker_that_starts_while_the_store_is_gone_knows_its_fleet(
    store: RemoteStore, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gunicorn replaces a worker after so many requests; while the bucket did not answer, each one that was replaced was lost."""
    made = identity(store, "prod", lease_s=1.5)
    mark_had_member(store, "prod")
    assert identity(store, "prod", lease_s=None).had_member
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    restarted = RemoteStore(s3, tmp_path / "state")
    found = identity(restarted, "prod", lease_s=None)
    assert (found.fleet_id, found.lease_s, found.had_member) == (made.fleet_id, 1.5, True)
    [kept] = (tmp_path / "state" / "identities").rglob("*.json")
    kept.write_text("{}")
    with pytest.raises(StoreUnreachable):
        identity(RemoteStore(s3, tmp_path / "state"), "prod", lease_s=None)


def test_a_file_that_says_nothing_is_no_identity(store: RemoteStore) -> None:
    store.files.write("fleets/prod.json", b"{}")
    with pytest.raises(IdentityInvalid, match="s3://"):
        identity(store, "prod", lease_s=None)


# --- errors in words -------------------------------------------------------------------------------------------------


def test_a_bucket_that_is_not_there_is_said(s3: str, tmp_path: Path) -> None:
    store = RemoteStore(f"s3://nobody-{uuid.uuid4().hex}/models", tmp_path)
    with pytest.raises(StoreUnusable, match="make the bucket first"):
        identity(store, "prod", lease_s=None)
    facts = look_at_remote(store.files)
    (found,) = judge_remote(facts)
    assert (found.check, found.level) == ("url", "wrong") and found.advice.startswith("Make the bucket first")
    store.close()


def test_a_service_that_is_down_is_asked_about_and_not_its_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor said that the environment says who may come in; the service was stopped."""
    monkeypatch.setattr(RemoteFiles, "look", lambda *_: (_ for _ in ()).throw(StoreUnreachable("s3://m/p", "no route")))
    (found,) = judge_remote(look_at_remote(RemoteFiles("s3://m/p")))
    assert (found.level, found.found) == ("wrong", "s3://m/p: it does not answer: no route")
    assert found.advice.startswith("Is it running") and "AWS_ENDPOINT_URL" in found.advice
    (found,) = judge_remote(look_at_remote(RemoteFiles("gs://m/p")))
    assert "AWS" not in found.advice
    monkeypatch.setattr(RemoteFiles, "look", lambda *_: (_ for _ in ()).throw(ArtifactRefused("k", "denied")))
    (found,) = judge_remote(look_at_remote(RemoteFiles("s3://m/p")))
    assert "denied" in found.found and found.advice.startswith("Allow it")


def test_who_brings_no_credentials_is_told_what_to_set(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    store = RemoteStore(s3, tmp_path)
    with pytest.raises(StoreUnusable, match="set what lets this process in, such as AWS_ACCESS_KEY_ID"):
        identity(store, "prod", lease_s=None)
    store.close()


def test_a_library_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(SettingsInvalid, match=r"pip install 'genlock\[s3\]'"):
        RemoteFiles("s3://b/x").look("k")
    monkeypatch.undo()
    with pytest.raises(SettingsInvalid, match="nosuch"):
        RemoteFiles("nosuch://b/x").look("k")


class Refusing:
    """A file system of a service that says no."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def info(self, path: str) -> Any:
        raise self._error


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (PermissionError("Access Denied"), ArtifactRefused),
        (FileNotFoundError("x"), type(None)),
        (TimeoutError(), StoreUnreachable),
        (OSError(5, "Input/output error"), StoreUnreachable),
        (type("GoogleAuthError", (Exception,), {"__module__": "google.auth"})("no"), StoreUnusable),
        (type("HttpError", (Exception,), {"__module__": "gcsfs.retry"})("503"), StoreUnreachable),
        (TypeError("a fault of ours"), TypeError),
    ],
)
def test_what_a_library_raises_is_said_in_our_words(
    error: Exception, becomes: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = RemoteFiles("gs://bucket/x")
    files._made, files._pid = Refusing(error), os.getpid()
    if becomes is type(None):
        assert files.look("k") is None
        return
    with pytest.raises(becomes):
        files.look("k")


def test_a_file_system_without_atomic_uploads_gets_a_rename(tmp_path: Path) -> None:
    """sftp, SMB: what is being written has another name until it is whole. fsspec's memory stands for them."""
    files = RemoteFiles(f"memory://{uuid.uuid4().hex}/x")
    seen: list[list[str]] = []

    def pieces() -> Iterator[bytes]:
        yield b"a"
        seen.append([file.key for file in files.list("objects")])
        yield b"b"

    files.upload("objects/ab/c", pieces(), beside="temp/1")
    assert seen == [[]] and files.read("objects/ab/c") == b"ab" and files.list("temp") == []
    with pytest.raises(KeyError):
        files.upload("objects/ab/d", (_ for _ in [{}["x"]]), beside="temp/2")  # type: ignore[misc]

    def broken() -> Iterator[bytes]:
        yield b"a"
        raise PermissionError("of whoever reads")

    with pytest.raises(PermissionError, match="of whoever reads"):
        files.upload("objects/ab/d", broken(), beside="temp/2")
    assert [file.key for file in files.list("objects")] == ["objects/ab/c"] and files.list("temp") == []
    assert files.create("fleets/t", b"1") and not files.create("fleets/t", b"2")
    files.move("fleets/t", "damaged/t")
    files.remove("damaged/t")
    files.remove("damaged/t")
    assert files.list("fleets") == files.list("damaged") == [] and files.list("objects")[0].mtime > 1e9


def test_a_child_begins_anew(store: RemoteStore) -> None:
    """gunicorn forked after the app had looked at the store: the child waited for a thread that was not there (R12)."""
    store.files.write("fleets/x", b"1")
    child = os.fork()
    if child == 0:
        os._exit(0 if store.files.read("fleets/x") == b"1" else 3)
    assert os.waitpid(child, 0)[1] == 0
    assert store.files.read("fleets/x") == b"1"


# --- the doctor ------------------------------------------------------------------------------------------------------


def test_the_doctor_looks_at_a_url(s3: str, redis_url: str, tmp_path: Path) -> None:
    settings = Settings(redis_url=redis_url, store=s3, state_dir=tmp_path / "state")
    found = examine(settings, Endpoint.of(settings))
    assert found.store == s3
    of_store = {one.check: one for one in found.findings if one.subject == "store"}
    assert set(of_store) == {"url", "files", "calls", "workers"} and "cache" in of_store["workers"].found


def test_the_doctor_warns_of_a_store_for_all_hosts_and_a_redis_for_one() -> None:
    """All was well on both hosts, and neither heard of what the other published: each had a Redis of its own."""
    facts = RemoteFacts(url="s3://models/prod")
    (found,) = [one for one in judge_remote(facts, is_redis_shared=False) if one.level != "ok"]
    assert (found.check, found.level) == ("redis", "warning") and "GENLOCK_REDIS_URL" in found.advice
    assert {one.level for one in judge_remote(facts)} == {"ok"}


def test_a_good_bucket_is_well_and_left_as_it_was(store: RemoteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = look_at_remote(store.files)
    assert facts.exclusive and not facts.failed and not facts.error
    assert {one.level for one in judge_remote(facts)} == {"ok"} and store.files.list("temp") == []
    monkeypatch.setattr(RemoteFiles, "remove", lambda *_: (_ for _ in ()).throw(ArtifactRefused("k", "denied")))
    assert [one.level for one in judge_remote(look_at_remote(store.files))] == ["ok", "warning", "ok", "ok"]
    monkeypatch.setattr(RemoteFiles, "create", lambda *_: True)
    facts = look_at_remote(store.files)
    assert "wrong" in [one.level for one in judge_remote(facts)]


def test_a_service_that_fails_in_the_middle_of_a_look_is_said_and_left_as_it_was(
    store: RemoteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two writes did not come through: the doctor ended with an error, and its file stayed."""
    create, keys = RemoteFiles.create, list[str]()

    def once(self: RemoteFiles, key: str, data: bytes) -> bool:
        keys.append(key)
        if len(keys) == 2:
            raise StoreUnreachable(self.url, "connection reset")
        return create(self, key, data)

    monkeypatch.setattr(RemoteFiles, "create", once)
    facts = look_at_remote(store.files)
    assert list(facts.failed) == ["second write"] and len(keys) == 2 and store.files.list("temp") == []
    assert [one.level for one in judge_remote(facts)] == ["ok", "wrong", "ok", "ok"]
