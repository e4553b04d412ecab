"""coordinator/secretfile.py: what a file with a secret must not be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from genlock.coordinator.secretfile import read_file, too_open


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        (0o600, ""),
        (0o640, ""),
        (0o440, ""),
        (0o644, "may read it"),
        (0o604, "may read it"),
        (0o620, "may change it"),
        (0o602, "may change it"),
    ],
)
def test_who_else_may_touch_it(tmp_path: Path, mode: int, why: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"secret-1")
    path.chmod(mode)
    assert why in too_open(mode) and bool(why) is bool(too_open(mode))
    if not why:
        assert read_file(path, what="keys", most=8) == b"secret-1"
        return
    with pytest.raises(ValueError, match=f"{why}; `chmod o-rwx,g-w {path}`") as caught:
        read_file(path, what="keys", most=8)
    assert "secret-1" not in str(caught.value)
    assert read_file(path, what="keys", most=8, is_secret=False) == b"secret-1"
    path.chmod(mode & ~0o027)  # what the error says
    assert read_file(path, what="keys", most=8) == b"secret-1"


@pytest.mark.parametrize("kind", ["fifo", "folder", "large"])
def test_what_is_no_such_file_does_not_block(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    if kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"123456789")
        path.chmod(0o600)
    with pytest.raises(ValueError, match="no file of tokens"):
        read_file(path, what="tokens", most=8)
    # Read at each request of the admin: one left open each time is soon the last.
    assert path not in [one.resolve() for one in Path("/proc/self/fd").iterdir()]


def test_a_link_is_followed(tmp_path: Path) -> None:
    """A mounted secret is a link to a link."""
    (tmp_path / "file").write_bytes(b"secret-1")
    (tmp_path / "file").chmod(0o600)
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link", what="keys", most=8) == b"secret-1"
