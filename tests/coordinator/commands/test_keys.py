"""`genlock keys`: makes pairs, shows public keys and ids; a secret is printed nowhere."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from genlock.coordinator.keyring import read_secret
from genlock.coordinator.signing import KeyPair

Genlock = Callable[..., Any]

ONE, TWO, THREE = (KeyPair(bytes([n]) * 32) for n in (1, 2, 3))


def test_a_new_pair(genlock: Genlock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = genlock("keys", "generate")
    key = read_secret(tmp_path / "genlock.key")
    assert ran.status == 0 and key.public.text in ran.out and key.public.id in ran.out
    assert "GENLOCK_SIGNING_KEY" in ran.out and "GENLOCK_VERIFY_KEYS" in ran.out
    assert "genlock-secret" not in ran.out + ran.err
    assert stat.S_IMODE((tmp_path / "genlock.key").stat().st_mode) == 0o600
    again = genlock("keys", "generate")
    assert again.status == 1 and "never overwritten" in again.err
    assert read_secret(tmp_path / "genlock.key") == key


def test_as_json(genlock: Genlock, tmp_path: Path) -> None:
    path = tmp_path / "deep/k"
    (made,) = genlock("keys", "generate", "--out", path, "--json").document
    key = read_secret(path)
    assert made == {"use": "sign", "id": key.public.id, "public": key.public.text, "file": str(path)}
    assert genlock("keys", "show", path, "--json").document == [made]


def test_what_the_settings_name(genlock: Genlock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no keys are set" in genlock("keys", "show").out
    (tmp_path / "verify").write_text(f"{ONE.public.text}\n{TWO.public.text}\n")
    monkeypatch.setenv("GENLOCK_SIGNING_KEY", ONE.text)
    monkeypatch.setenv("GENLOCK_VERIFY_KEYS", str(tmp_path / "verify"))
    monkeypatch.setenv("GENLOCK_OPERATOR_KEYS", THREE.public.text)
    ran = genlock("keys", "show", "--json")
    assert [(row["use"], row["id"], row["file"]) for row in ran.document] == [
        ("sign", ONE.public.id, ""),
        ("verify", ONE.public.id, ""),
        ("verify", TWO.public.id, ""),
        ("operator", THREE.public.id, ""),
    ]
    assert "genlock-secret" not in ran.out + genlock("keys", "show").out
    shown = genlock("keys", "show", tmp_path / "verify")
    assert ONE.public.id in shown.out and TWO.public.text in shown.out


def test_what_cannot_be_shown_says_why_and_no_secret(genlock: Genlock, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(ONE.text)
    path.chmod(0o644)
    ran = genlock("keys", "show", path)
    assert ran.status == 2 and "everybody on this machine may read it" in ran.err
    path.chmod(0o600)
    path.write_text(f"{ONE.public.text}\n{TWO.text}\n")
    ran = genlock("keys", "show", path)
    assert ran.status == 2 and TWO.text[20:] not in ran.err
    assert "No such file" in genlock("keys", "show", tmp_path / "none").err
    path.write_text("nonsense\n")
    assert "line 1: a public key begins with genlock-public-" in genlock("keys", "show", path).err


def test_what_is_asked_for_wrongly(genlock: Genlock, tmp_path: Path) -> None:
    assert genlock("keys").status == 2
    assert genlock("keys", "make").status == 2
    assert "--out" in genlock("keys", "generate", tmp_path / "k").err
    assert not (tmp_path / "k").exists()
    assert genlock("keys", "show", "--out", tmp_path / "k").status == 2
