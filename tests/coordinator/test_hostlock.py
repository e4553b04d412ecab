"""coordinator/hostlock.py: one process of a host at a time, whatever becomes of the others and of their children."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from genlock.coordinator import hostlock
from genlock.coordinator.hostlock import give_back, is_locked, lock, locked, take, try_lock


def never() -> bool:
    return False


def test_one_has_it_and_the_next_when_it_was_given_back(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked([path], never) as mine:
        assert mine and is_locked(path)
        with locked([path], never) as other:
            assert not other
        assert is_locked(path), "who had none has given none back"
    assert not is_locked(path)


def test_the_first_that_is_free_is_taken(tmp_path: Path) -> None:
    paths = [tmp_path / "0", tmp_path / "1"]
    held = [take(paths), take(paths)]
    assert None not in held and take(paths) is None
    for descriptor in held:
        give_back(descriptor or 0)
    assert not any(map(is_locked, paths))


def test_it_is_waited_for_as_long_as_somebody_wants_to(tmp_path: Path) -> None:
    path, looks = tmp_path / "lock", iter(range(10))
    held = take([path])
    assert held is not None

    def frees_it_in_the_end() -> bool:
        if next(looks) == 3:
            give_back(held)
        return True

    with locked([path], frees_it_in_the_end) as mine:
        assert mine and next(looks) == 4


def test_what_ends_the_wait_comes_out(tmp_path: Path) -> None:
    held = take([tmp_path / "lock"])

    def cancelled() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), locked([tmp_path / "lock"], cancelled):
        pytest.fail("it was entered")
    give_back(held or 0)


FORK = """
import os, sys
from pathlib import Path
from genlock.coordinator.hostlock import is_locked, locked
path = Path(sys.argv[1])
read, write = os.pipe()
with locked([path], lambda: False):
    if os.fork() == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
print(is_locked(path), flush=True)
"""


def test_a_child_that_was_forked_meanwhile_does_not_keep_it(tmp_path: Path) -> None:
    """A worker of a DataLoader, forked while its parent wrote a serial, has the same open file: seen, no publish until it ended."""
    ran = subprocess.run([sys.executable, "-c", FORK, str(tmp_path / "lock")], capture_output=True, timeout=60)
    assert ran.stdout == b"False\n", ran.stderr


def test_the_kernel_frees_what_a_killed_process_had(tmp_path: Path, wait_for: Callable[..., object]) -> None:
    code = "import sys\nfrom pathlib import Path\nfrom genlock.coordinator.hostlock import take\ntake([Path(sys.argv[1])])\ninput()"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdin=subprocess.PIPE) as process:
        try:
            wait_for(lambda: is_locked(tmp_path / "lock"))
        finally:
            process.kill()
    assert not is_locked(tmp_path / "lock")


def test_what_is_not_there_is_not_locked(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "lock")
    assert not list(tmp_path.iterdir()), "to look makes nothing"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError), locked([tmp_path / "lock"], never):
        pytest.fail("the link was followed")
    with pytest.raises(OSError):
        is_locked(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()


def test_it_is_this_users_alone_and_no_program_inherits_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        held = take([tmp_path / "lock"])
    finally:
        os.umask(before)
    assert held is not None and not os.get_inheritable(held)
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    give_back(held)


def test_a_folder_has_a_lock_too(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY) for _ in range(2))
    lock(first)
    assert not try_lock(second)
    give_back(first)
    assert try_lock(second)
    give_back(second)


def test_a_file_system_without_locks_says_so_and_nothing_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []

    def no_locks(descriptor: int, how: int) -> None:
        opened.append(descriptor)
        raise OSError(37, "No locks available")

    monkeypatch.setattr(hostlock.fcntl, "flock", no_locks)
    with pytest.raises(OSError, match="No locks"):
        take([tmp_path / "lock"])
    with pytest.raises(OSError, match="No locks"):
        is_locked(tmp_path / "lock")
    for descriptor in opened:
        # Another thread may have the number now, of another file.
        assert Path(f"/proc/self/fd/{descriptor}").resolve() != (tmp_path / "lock").resolve(strict=True)


def test_the_wait_takes_little_of_a_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    held = take([tmp_path / "lock"])
    with locked([tmp_path / "lock"], lambda: len(pauses) < 5) as mine:
        assert not mine
    assert pauses == [0.001, 0.002, 0.004, 0.004, 0.004]
    give_back(held or 0)
