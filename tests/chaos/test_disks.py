"""A disk that is full. Where none can be mounted, the reason is what is tested."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from chaos import disks
from chaos.disks import DiskMissing, SmallDisk, missing
from chaos.server import Server

SIZE_BYTES = 3 * 2**20 + 4096


def _refuses(folder: Path) -> bool:
    """Whether there can be no SmallDisk here; then it says so, with the reason."""
    if missing():
        with pytest.raises(DiskMissing) as raised, SmallDisk(folder, SIZE_BYTES):
            pass
        assert str(raised.value) == missing()
    return bool(missing())


def test_a_full_disk_takes_no_byte_until_it_is_freed(tmp_path: Path) -> None:
    """Also what was there before cannot grow by one."""
    if _refuses(tmp_path):
        return
    with SmallDisk(tmp_path, SIZE_BYTES) as disk:
        (tmp_path / "old").write_bytes(bytes(4096))
        for _ in range(2):
            disk.fill()
            with (tmp_path / "old").open("ab", buffering=0) as file, pytest.raises(OSError) as raised:
                file.write(b"x")
            assert raised.value.errno == errno.ENOSPC
            disk.free()
            (tmp_path / "new").write_bytes(bytes(2 * 2**20))
            (tmp_path / "new").unlink()


def test_the_folder_is_afterwards_as_it_was_before(tmp_path: Path) -> None:
    """Also when a file there is still open."""
    if _refuses(tmp_path):
        return
    (tmp_path / "before").write_text("there")
    with SmallDisk(tmp_path, SIZE_BYTES):
        assert list(tmp_path.iterdir()) == []
        file = (tmp_path / "during").open("w")
    file.close()
    assert [path.name for path in tmp_path.iterdir()] == ["before"]
    assert not tmp_path.is_mount()


def test_a_server_on_a_full_disk_refuses_to_write(tmp_path: Path, wait_for: Callable[..., Any]) -> None:
    """And writes again when there is room: what the disk is for."""
    if _refuses(tmp_path):
        return
    with (
        SmallDisk(tmp_path, 2**23) as disk,
        Server(tmp_path, persistence="everysec") as server,
        server.client() as client,
    ):
        assert client.set("a", "b")
        disk.fill()
        with pytest.raises(redis.exceptions.ResponseError, match="MISCONF"):
            for _ in range(10_000):
                client.set("a", "b" * 100)
        disk.free()
        wait_for(lambda: _writes(client), description="it writes again")


def _writes(client: redis.Redis) -> bool:
    try:
        return bool(client.set("a", "c"))
    except redis.exceptions.ResponseError:
        return False


def test_what_the_system_refuses_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    disks.missing.cache_clear()
    try:
        assert missing() == "no mount on the PATH"
        with pytest.raises(DiskMissing, match="no mount"), SmallDisk(tmp_path, SIZE_BYTES):
            pass
    finally:
        disks.missing.cache_clear()
