"""Workers of one host, and a store that speaks S3 behind a line that breaks: one fetch, and answers."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from genlock.coordinator.errors import FlipRejected, StoreUnreachable
from genlock.coordinator.filesystem import Filesystem
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.manifest import Manifest
from genlock.coordinator.remote import RemoteStore
from genlock.worker import hostcache
from genlock.worker.cache import ModelCache
from genlock.worker.hostcache import HostCache
from safetensors.torch import save_file


class Line:
    """What lies between a host and its store. Counts what is asked; cuts connections."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._upstream = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: list[tuple[str, str]] = []  #: method and path
        self.carried = 0  #: bytes towards the host
        self.cuts = 0  #: connections that will still be cut
        self.after = 0  #: bytes towards the host after which one is cut
        self.until: int | None = None  #: bytes towards the host after which every connection is
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="line")]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._upstream)
                self._sockets += [client, server]
                for action in (self._ask, self._answer):
                    self._threads.append(threading.Thread(target=action, args=(client, server), name="line"))
                    self._threads[-1].start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                found = re.findall(rb"(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/1", data)
                self.asked += [(method.decode(), path.decode()) for method, path in found]
                server.sendall(data)
        self._end(client, server)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        came = 0
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                came += len(data)
                if self.until is not None and self.carried > self.until:
                    break
                if self.cuts and came > self.after:
                    self.cuts -= 1
                    break
                self.carried += len(data)
                client.sendall(data)
        self._end(client, server)

    @staticmethod
    def _end(*sockets: socket.socket) -> None:
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def fetched(self) -> list[str]:
        """The objects that were read, each as often as that."""
        return [path for method, path in self.asked if method == "GET" and "/objects/" in path]

    def close(self) -> None:
        self._end(self._listener, *self._sockets)
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._sockets):
            one.close()


@pytest.fixture
def line(s3: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """The way of this process to its store."""
    made = Line(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    yield made
    made.close()


def save(path: Path, value: float) -> Path:
    save_file({"weight": torch.eye(2) * value, "bias": torch.zeros(2)}, path)
    return path


def answer(cache: ModelCache) -> float:
    with cache.use("m") as held:
        return float(held.payload(torch.tensor([1.0, 1.0]))[0])


def test_two_workers_of_a_host_fetch_once_and_answer(
    line: Line,
    s3: str,
    new_fleet: Callable[..., Fleet],
    new_cache: Callable[..., ModelCache],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole loop over an object store: publish, fetch, flip, go back, look, tidy up."""
    caplog.set_level("INFO", logger="genlock.worker")
    trainer, path = new_fleet(store=s3), tmp_path / "m.safetensors"
    first = trainer.publish("m", save(path, 2.0))
    workers = [new_cache("m", fleet=new_fleet(store=s3)) for _ in range(2)]
    assert [answer(worker) for worker in workers] == [2.0, 2.0]
    assert len(line.fetched()) == 1
    second = trainer.publish("m", save(path, 3.0), golden=([[1.0, 1.0]], [[3.0, 3.0]]))
    assert [answer(worker) for worker in workers] == [3.0, 3.0]
    assert sorted(line.fetched()) == sorted(set(line.fetched())) and len(line.fetched()) == 3  # and the golden outputs
    assert all("fetch" in said["seconds"] for said in second.workers.values())
    told = [record for record in caplog.records if getattr(record, "event", "") == "fetched"]
    assert len(told) == 3 and all("MB/s" in record.getMessage() for record in told)

    back = trainer.rollback("m")
    assert (back.version, [answer(worker) for worker in workers]) == (first.version, [2.0, 2.0])
    assert len(line.fetched()) == 3, "the way back lies on this host"
    assert trainer.verify() == [] and str(trainer.status().store) == s3
    assert trainer.gc(older_than_s=-60, keep=2) == [], "claimed, or needed"

    line.until = 0  # the store is gone
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    assert answer(new_cache("m", fleet=new_fleet(store=s3))) == 2.0, "a worker that starts serves what its host has"
    assert [answer(worker) for worker in workers] == [2.0, 2.0]


def test_a_folder_on_a_network_is_not_mapped(
    new_fleet: Callable[..., Fleet],
    new_cache: Callable[..., ModelCache],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store is gone while workers answer: what they map is on this host. A damaged object is told, and mended by a publish."""
    monkeypatch.setattr(hostcache, "kind_of", lambda _: Filesystem("nfs", is_local=False, tells=False))
    trainer, path = new_fleet(), tmp_path / "m.safetensors"
    trainer.publish("m", save(path, 2.0))
    worker = new_cache("m")
    assert answer(worker) == 2.0
    maps = Path("/proc/self/maps").read_text()
    assert str(tmp_path / "state" / "cache") in maps and str(tmp_path / "store") not in maps

    artifact = trainer.store.stage(save(path, 3.0), name="model")
    damaged = trainer.store.path(artifact.digest)  # type: ignore[union-attr]
    whole = damaged.read_bytes()
    damaged.chmod(0o644)
    damaged.write_bytes(whole[:-1] + b"?")
    os.utime(damaged)
    with pytest.raises(FlipRejected, match=r"is damaged|no such file"):
        trainer.publish("m", path, timeout=1.5)
    assert answer(worker) == 2.0 and not damaged.exists(), "set aside"
    trainer.publish("m", path)
    assert answer(worker) == 3.0
    (tmp_path / "store").rename(tmp_path / "gone")
    assert answer(worker) == 3.0


def test_a_rejected_candidate_is_in_nobodys_way(
    new_fleet: Callable[..., Fleet],
    new_cache: Callable[..., ModelCache],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two workers, room for two generations, as by default of a model that takes a tenth of the disk: after one candidate with a NaN no
    other could be fetched."""
    monkeypatch.setattr(hostcache, "kind_of", lambda _: Filesystem("nfs", is_local=False, tells=False))
    trainer, path = new_fleet(), tmp_path / "m.safetensors"
    trainer.publish("m", save(path, 2.0))
    room = {"host_cache": path.stat().st_size * 5 // 2}
    workers = [new_cache("m", settings=room) for _ in range(2)]
    assert [answer(worker) for worker in workers] == [2.0, 2.0]
    with pytest.raises(FlipRejected, match="not finite"):
        trainer.publish("m", save(path, float("nan")))
    for value in (3.0, 4.0, 5.0):
        trainer.publish("m", save(path, value), timeout=30)
        assert [answer(worker) for worker in workers] == [value, value]


def test_a_fetch_goes_on_where_the_line_broke(
    line: Line, s3: str, connected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_for: Callable[..., Any]
) -> None:
    """10 GB over a line that breaks every minute: each break cost all that had come."""
    monkeypatch.setattr(hostcache, "PIECE_BYTES", 128 * 1024)
    monkeypatch.setattr(hostcache, "PAUSES_S", ())
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 2)
    source, size = tmp_path / "model", 2**20
    source.write_bytes(os.urandom(size))
    artifact = connected(RemoteStore(s3, tmp_path / "trainer")).stage(source, name="model")
    manifest = Manifest.of("m", [artifact], created_at=1.0)

    store = RemoteStore(s3, tmp_path / "worker")
    cache = HostCache(store, tmp_path / "state", max_bytes=None)
    line.after, line.cuts = 300_000, 3
    cache.fetch(manifest, lambda: False)
    assert cache.verify(artifact.digest, size) is None
    assert line.carried < 2 * size, "what had come was not asked for again"

    cache.path(artifact.digest).unlink()
    line.carried, line.until = 0, size // 2
    with pytest.raises(StoreUnreachable):
        cache.fetch(manifest, lambda: False)
    wait_for(lambda: not [one for one in threading.enumerate() if one.name.startswith("genlock-fetch")])
    part = cache.root / "temp" / artifact.digest
    came = part.stat().st_size
    assert 0 < came < size
    line.carried, line.until = 0, None
    cache.fetch(manifest, lambda: False)
    assert cache.verify(artifact.digest, size) is None
    assert line.carried < size - came + 100_000
    cache.close()
    store.close()
