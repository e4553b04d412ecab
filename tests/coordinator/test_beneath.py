"""coordinator/beneath.py: what leads out of the folder is not followed, by openat2 or step by step."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path, PurePath

import pytest
from genlock.coordinator import beneath
from genlock.coordinator.beneath import open_at_once, open_beneath, open_by_steps


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with `ab/cd`, and beside it what nobody may be led to."""
    (tmp_path / "root/ab").mkdir(parents=True)
    (tmp_path / "root/ab/cd").write_text("inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/cd").write_text("outside")
    return tmp_path / "root"


@pytest.fixture(params=("at once", "by steps"))
def opened(request: pytest.FixtureRequest, root: Path) -> Callable[[str], bytes]:
    """opened("ab/cd"): what is read there, by one of both ways."""

    def read(inside: str) -> bytes:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            way = open_at_once if request.param == "at once" else open_by_steps
            found = way(folder, PurePath(inside))
        finally:
            os.close(folder)
        assert found is not None, "this kernel has no openat2, or a sandbox keeps it away"
        with os.fdopen(found, "rb") as file:
            assert os.get_inheritable(file.fileno()) is False
            return b"" if stat.S_ISFIFO(os.fstat(found).st_mode) else file.read()

    return read


def test_what_is_inside_is_opened(opened: Callable[[str], bytes]) -> None:
    assert opened("ab/cd") == b"inside"
    with pytest.raises(FileNotFoundError):
        opened("ab/none")
    with pytest.raises(FileNotFoundError):
        opened("none/cd")


def test_no_planted_link_is_followed(opened: Callable[[str], bytes], root: Path) -> None:
    """As a file, as a folder on the way, to outside or inside, absolute or not: who made it would choose what is loaded."""
    links = {
        "ab/file": root.parent / "outside/cd",
        "ab/near": Path("cd"),
        "ab/up": Path("../../outside/cd"),
        "out": root.parent / "outside",
        "in": Path("ab"),
        "ab/proc": Path(f"/proc/{os.getpid()}/root{root.parent}/outside/cd"),
        "loop": Path("loop"),
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    for inside in ("ab/file", "ab/near", "ab/up", "out/cd", "in/cd", "ab/proc", "loop/cd"):
        with pytest.raises(OSError) as caught:
            opened(inside)
        assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR), inside


def test_a_fifo_does_not_keep_anybody_waiting(opened: Callable[[str], bytes], root: Path) -> None:
    os.mkfifo(root / "ab/fifo")
    assert opened("ab/fifo") == b""
    with pytest.raises(NotADirectoryError):
        opened("ab/fifo/cd")


@pytest.mark.parametrize("inside", ("..", "../outside/cd", "ab/../../outside/cd", "ab/../ab/cd", "/etc/passwd", "."))
def test_nothing_leads_out(root: Path, inside: str) -> None:
    with pytest.raises(OSError, match="leads out"):
        open_beneath(root, PurePath(inside))


def test_the_kernel_refuses_what_leads_out_too(opened: Callable[[str], bytes], request: pytest.FixtureRequest) -> None:
    if "at once" in request.node.name:
        with pytest.raises(OSError) as caught:
            opened("ab/../../outside/cd")
        assert caught.value.errno == errno.ELOOP


def test_the_root_may_be_a_link(root: Path) -> None:
    (root.parent / "models").symlink_to(root)
    os.close(open_beneath(root.parent / "models", PurePath("ab/cd")))


@pytest.mark.parametrize("error", sorted(beneath._NOT_HERE))
def test_where_the_call_is_not_let_through_it_is_done_by_steps(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """An old kernel says ENOSYS, the sandbox of an old container engine EPERM: the store was not to be read there."""

    def refuses(*_: object) -> int:
        ctypes.set_errno(error)
        return -1

    monkeypatch.setattr(beneath, "_openat2", lambda: refuses)
    before = len(list(Path("/proc/self/fd").iterdir()))
    os.close(open_beneath(root, PurePath("ab/cd")))
    (root / "ab/link").symlink_to("cd")
    with pytest.raises(OSError) as caught:
        open_beneath(root, PurePath("ab/link"))
    assert caught.value.errno == errno.ELOOP
    assert len(list(Path("/proc/self/fd").iterdir())) == before, "no descriptor is left open"


def test_where_there_is_no_such_call_it_is_done_by_steps(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beneath, "_openat2", lambda: None)
    os.close(open_beneath(root, PurePath("ab/cd")))


def test_a_signal_in_between_is_no_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, called = beneath._openat2(), []
    assert real is not None

    def interrupted(*arguments: object) -> int:
        called.append(1)
        if len(called) == 1:
            ctypes.set_errno(errno.EINTR)
            return -1
        return real(*arguments)

    monkeypatch.setattr(beneath, "_openat2", lambda: interrupted)
    os.close(open_beneath(root, PurePath("ab/cd")))
    assert len(called) == 2
