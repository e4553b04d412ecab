"""coordinator/keyring.py: keys from texts and files; what is wrong with one is said, and a secret never."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from genlock.coordinator.errors import ArtifactRefused, SettingsInvalid
from genlock.coordinator.keyring import Keyring, read_secret, write_secret
from genlock.coordinator.settings import Settings
from genlock.coordinator.signing import KeyPair

ONE, TWO, THREE = (KeyPair(bytes([n]) * 32) for n in (1, 2, 3))


def secret_file(path: Path, text: str = ONE.text, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_nothing_is_set() -> None:
    found = Keyring.of(Settings())
    assert found.signing is None and not found.verify and not found.operators


def test_keys_come_from_texts_and_files(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"# the old one\n\n{ONE.public.text}\n  {TWO.public.text} # until March\n")
    settings = Settings(
        signing_key=str(secret_file(tmp_path / "key", f"# mine\n{ONE.text}\n")),
        verify_keys=(str(tmp_path / "keys"), THREE.public.text),
        operator_keys=(TWO.public.text,),
    )
    found = Keyring.of(settings)
    assert found.signing == ONE
    assert all(key.public in found.verify for key in (ONE, TWO, THREE))
    assert found.operators.ids == (TWO.public.id,)
    assert Keyring.of(Settings(signing_key=ONE.text)).signing == ONE
    assert "genlock-secret" not in repr(found) and ONE.text[20:] not in repr(found)


@pytest.mark.parametrize(
    "settings",
    [Settings(signing_key=ONE.text[:-2]), Settings(verify_keys=(ONE.public.text[:-2],))],
)
def test_a_broken_key_in_settings_made_by_hand_is_said_of_its_variable(settings: Settings) -> None:
    with pytest.raises(SettingsInvalid, match="43 characters") as caught:
        Keyring.of(settings)
    assert ONE.text[20:-2] not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        (ONE.text, 0o604, "everybody on this machine may read it; `chmod o-rwx,g-w"),
        (ONE.text, 0o644, "everybody on this machine may read it"),
        (ONE.text, 0o620, "others may change it"),
        (f"{ONE.text}\n{TWO.text}", 0o600, "this one has 2"),
        ("", 0o600, "this one has 0"),
        (ONE.public.text, 0o600, "a secret key .* belongs here"),
        (ONE.text[:-2], 0o600, "43 characters"),
        ("x" * 70_000, 0o600, "no file of keys"),
    ],
)
def test_a_file_of_a_secret_that_cannot_be_used(tmp_path: Path, text: str, mode: int, why: str) -> None:
    path = secret_file(tmp_path / "key", text, mode)
    with pytest.raises(SettingsInvalid, match=why) as caught:
        Keyring.of(Settings(signing_key=str(path)))
    assert caught.value.setting == "GENLOCK_SIGNING_KEY" and ONE.text[20:40] not in str(caught.value)


def test_what_is_there_instead_of_a_file_of_keys(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name, why in {"fifo": "no file of keys", "none": "No such file", ".": "(no file of keys|directory)"}.items():
        with pytest.raises(SettingsInvalid, match=why):
            Keyring.of(Settings(signing_key=str(tmp_path / name)))
        with pytest.raises(SettingsInvalid, match=f"GENLOCK_VERIFY_KEYS.*{why}"):
            Keyring.of(Settings(verify_keys=(str(tmp_path / name),)))


def test_a_secret_among_public_keys_is_refused_by_its_line_alone(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{ONE.public.text}\n{TWO.text}\n")
    with pytest.raises(SettingsInvalid, match="line 2: it is a secret key") as caught:
        Keyring.of(Settings(operator_keys=(str(tmp_path / "keys"),)))
    assert TWO.text[20:] not in str(caught.value)
    (tmp_path / "keys").write_text("# nothing\n")
    with pytest.raises(SettingsInvalid, match="there is no key in it"):
        Keyring.of(Settings(verify_keys=(str(tmp_path / "keys"),)))


def test_a_new_secret_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_secret(tmp_path / "new/key", ONE)
    finally:
        os.umask(before)
    path = tmp_path / "new/key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_secret(path) == ONE and ONE.public.text in path.read_text()
    with pytest.raises(ArtifactRefused, match="never overwritten"):
        write_secret(path, TWO)
    assert read_secret(path) == ONE
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactRefused):
        write_secret(tmp_path / "link", TWO)
    assert not (tmp_path / "elsewhere").exists()


def test_a_disk_that_is_full_leaves_no_half_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Exception, match="No space left"):
        write_secret(tmp_path / "key", ONE)
    assert not (tmp_path / "key").exists()
