"""Whether somebody has a file open for writing."""

import ctypes
import mmap
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from genlock.coordinator.clock import clock
from genlock.coordinator.watching import writers
from genlock.coordinator.watching.writers import is_open_for_writing


@pytest.mark.parametrize("is_local", [True, False])
def test_a_writer_is_seen_and_a_reader_is_none(is_local: bool, tmp_path: Path) -> None:
    """By the lease, and by the processes where there is none: in this process, in another one, through a link."""
    path, link = tmp_path / "m.pt", tmp_path / "best.pt"
    path.write_bytes(b"x")
    link.symlink_to(path)
    nobody = False if is_local else None  # of a writer on another host nothing can be known
    with path.open("rb"):
        assert is_open_for_writing(link, is_local=is_local) is nobody
    with path.open("ab"):
        assert is_open_for_writing(link, is_local=is_local) is True
    assert is_open_for_writing(link, is_local=is_local) is nobody

    other = "import sys; file = open(sys.argv[1], 'r+b'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", other, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout and process.stdout.readline()
        assert is_open_for_writing(path, is_local=is_local) is True
        process.stdin.close()
        process.wait()
    assert is_open_for_writing(path, is_local=is_local) is nobody


def test_a_mapping_outlives_its_file_descriptor(tmp_path: Path) -> None:
    """Who writes through a shared mapping has closed the file long ago, and its times need not change with each write."""
    path = tmp_path / "m.pt"
    path.write_bytes(b"x" * 4096)
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 4096)
    assert is_open_for_writing(path, is_local=True) is True
    mapped.close()
    assert is_open_for_writing(path, is_local=True) is False


def test_a_writer_that_comes_in_that_moment_ends_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel sends the holder of a lease a signal when a writer comes: SIGIO, which ends a process that expects none."""
    path = tmp_path / "m.pt"
    path.write_bytes(b"x")
    real, met = writers._fcntl(), []

    def slow(descriptor: int, command: int, argument: int) -> int:
        if argument == writers.fcntl.F_UNLCK:  # before it is given back: a writer that does not wait
            with pytest.raises(BlockingIOError):
                os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            met.append(command)
        return int(real(descriptor, command, argument))

    monkeypatch.setattr(writers, "_fcntl", lambda: slow)
    assert is_open_for_writing(path, is_local=True) is False
    assert met and signal.getsignal(signal.SIGIO) == signal.SIG_DFL  # and yet this test goes on


def test_no_thread_of_this_process_runs_while_the_lease_is_held(tmp_path: Path) -> None:
    """A worker with 40 busy threads took the lease, and had to wait 200 ms for its turn to give it back: for as long the trainer's open()
    was blocked. Here a thread that opens the file for writing, without waiting and with the GIL held, must never meet the lease."""
    path = tmp_path / "m.pt"
    path.write_bytes(b"x")
    libc, met, over = ctypes.PyDLL(None, use_errno=True), [], threading.Event()

    def write() -> None:
        while not over.is_set():
            descriptor = libc.open(os.fsencode(path), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            if descriptor < 0:
                met.append(ctypes.get_errno())
            else:
                libc.close(descriptor)
            sum(range(3000))  # it is open for a small part of the time

    threads = [threading.Thread(target=write) for _ in range(3)]
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        until, leased = clock() + 20, 0
        while leased < 300 and clock() < until:
            leased += is_open_for_writing(path, is_local=True, processes=tmp_path) is False
    finally:
        over.set()
        sys.setswitchinterval(interval_s)
        for thread in threads:
            thread.join()
    assert met == [] and leased == 300


def test_what_cannot_be_asked_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_open_for_writing(tmp_path / "gone", is_local=True) is None
    monkeypatch.setattr(sys, "platform", "darwin")
    (tmp_path / "m.pt").write_bytes(b"x")
    assert is_open_for_writing(tmp_path / "m.pt", is_local=True, processes=tmp_path / "no proc") is None
