"""coordinator/tokens.py: tokens of the settings and of a file, and what such a file must not be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from genlock.coordinator.errors import SettingsInvalid
from genlock.coordinator.settings import Settings
from genlock.coordinator.tokens import MAX_FILE_BYTES, tokens_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text("# the night shift\noperator/bob:bobs,token\n\n  viewer:looks-only  \n")
    path.chmod(0o600)
    return path


def test_both_count(file: Path) -> None:
    settings = Settings(admin_tokens=(("operator", "may-do-all"),), admin_tokens_file=file)
    assert tokens_of(settings) == (
        ("operator", "may-do-all"),
        ("operator/bob", "bobs,token"),
        ("viewer", "looks-only"),
    )
    assert tokens_of(Settings()) == ()


def test_what_everybody_on_the_machine_may_read_or_others_may_change_is_no_secret(file: Path) -> None:
    """A group may read it: that is how a container gets its secrets. Who may write it makes himself an operator."""
    file.chmod(0o640)
    assert len(tokens_of(Settings(admin_tokens_file=file))) == 2
    for mode, why in {0o604: "may read it", 0o660: "others may change it", 0o602: "others may change it"}.items():
        file.chmod(mode)
        with pytest.raises(SettingsInvalid, match=f"{why}; `chmod o-rwx,g-w {file}"):
            tokens_of(Settings(admin_tokens_file=file))


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "large", "binary", "nonsense"])
def test_what_is_no_such_file_is_told_without_its_secrets(file: Path, kind: str) -> None:
    if kind in ("missing", "folder", "fifo"):
        file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "fifo":
        os.mkfifo(file)
    elif kind == "large":
        os.truncate(file, MAX_FILE_BYTES + 1)
    elif kind == "binary":
        file.write_bytes(b"operator:\xff\xfe\xfd secret-1")
    elif kind == "nonsense":
        file.write_text("operator;secret-1")
    with pytest.raises(SettingsInvalid) as caught:
        tokens_of(Settings(admin_tokens_file=file))
    assert "GENLOCK_ADMIN_TOKENS_FILE" in str(caught.value)
    assert "secret-1" not in str(caught.value)
